"""What stands behind every tab and endpoint: opening uploads safely, and turning what goes wrong into a message."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from answering import Looked, Question, QuestionError, look
from archives import BatchRefusedError, Entry, list_entries
from classifier import Classifier
from image_files import GIVE, LARGEST_FILE, ImageUnusableError, keep_only_pixels, read_image
from model_loading import ModelShelf, ModelUnavailableError
from PIL import Image
from temporary_files import TemporaryFiles

# What is said on the page in place of an answer; anything else is a fault of ours.
SAID = (ImageUnusableError, QuestionError, ModelUnavailableError, BatchRefusedError)


class Desk:
    """Models and uploads, as the tabs and endpoints use them.

    Args:
        shelf: the models on offer.
        files: where uploads lie.
    """

    def __init__(self, shelf: ModelShelf, files: TemporaryFiles) -> None:
        self.shelf = shelf
        self.files = files

    @property
    def titles(self) -> list[str]:
        """The models on offer."""
        return self.shelf.titles

    @property
    def choices(self) -> list[tuple[str, str]]:
        """The models on offer, as the menus show them, and their titles."""
        return self.shelf.choices

    @contextlib.contextmanager
    def opened(self, upload: Any) -> Iterator[Image.Image]:
        """The pixels of an upload for as long as it is asked about; whatever comes of that, nothing else of it stays.

        One that is refused is deleted at once.

        Args:
            upload: a path in the folder of uploads, or Gradio's dictionary of one.

        Raises:
            ImageUnusableError: it was not uploaded here, or is no image that is taken.
        """
        if upload is None:
            raise ImageUnusableError("No image was given. " + GIVE)
        path = path_of(upload)
        if path is None or not self.files.holds(path):
            raise ImageUnusableError("This file was not uploaded here, or is no longer kept. Upload it again.")
        rewritten = self.files.is_rewritten(path)
        try:
            # A phone's JPEG of 3 MB has 20 as the PNG that is left of it.
            image = read_image(path, math.inf if rewritten else LARGEST_FILE)
        except ImageUnusableError:
            self.files.delete(path)
            raise
        try:
            yield image
        finally:
            if not rewritten:
                self._tidy(path, image)

    def _tidy(self, path: str, image: Image.Image) -> None:
        if not self.files.holds(path):
            return
        try:
            self.files.remember_rewritten(keep_only_pixels(path, image))
        except OSError:  # a full disk, say: better no image than one with its place and date
            self.files.delete(path)

    @contextlib.contextmanager
    def batch(self, files: Any) -> Iterator[list[Entry]]:
        """The files of a batch for as long as they are asked about; a refused batch is deleted.

        Afterwards loose files that nobody came to look at are gone. Archives stay as they are until they are swept.

        Raises:
            ImageUnusableError, BatchRefusedError: a file was not uploaded here; the batch is empty, too large, a bomb.
        """
        several = files if isinstance(files, (list, tuple)) else [files]
        paths = [path_of(file) for file in several]
        if not all(path is not None and self.files.holds(path) for path in paths):
            raise ImageUnusableError("These files were not uploaded here, or are no longer kept. Upload them again.")
        try:
            entries = list_entries([str(path) for path in paths], [name_of(file) for file in several])
        except BatchRefusedError:
            self.forget(several)
            raise
        try:
            yield entries
        finally:
            self.forget([entry.source for entry in entries if entry.source is not None])

    def open_entry(self, entry: Entry) -> Image.Image:
        """The pixels of a file of a batch, of which nothing else is left unless it lies in an archive.

        Raises:
            ImageUnusableError: it is no image that is taken.
        """
        if entry.source is None:
            return read_image(entry.read())
        with self.opened(entry.source) as image:
            return image

    def forget(self, files: Sequence[Any]) -> None:
        """Delete uploads of which more than pixels is there."""
        for path in map(path_of, files):
            if path is not None and not self.files.is_rewritten(path):
                self.files.delete(path)

    def look(self, image: Image.Image, model: str | None, question: Question) -> tuple[Looked, Classifier]:
        """Ask a model about an image.

        Raises:
            ImageUnusableError, QuestionError, ModelUnavailableError: there is no answer; the message says why.
        """
        classifier = self.shelf.get(model)
        return look(image, classifier, question), classifier

    def classifier(self, model: str | None) -> Classifier | str:
        """A model, or why there is none."""
        try:
            return self.shelf.get(model)
        except ModelUnavailableError as error:
            return str(error)


def path_of(upload: Any) -> str | None:
    """The path in what Gradio hands over: a text, a dictionary with ``path``, or an object with one."""
    if isinstance(upload, (str, Path)):
        return str(upload)
    if isinstance(upload, Mapping):
        path = upload.get("path")
        return path if isinstance(path, str) else None
    path = getattr(upload, "path", None)
    return path if isinstance(path, str) else None


def name_of(upload: Any) -> str:
    """What an upload was called, as far as Gradio says."""
    name = upload.get("orig_name") if isinstance(upload, Mapping) else getattr(upload, "orig_name", None)
    return str(name or Path(path_of(upload) or "file").name)
