"""What every tab and endpoint uses: models, uploads opened safely, and errors as messages."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from answering import OptionError, Options, Prediction, predict
from archives import BatchRefusedError, Entry, list_entries
from classifier import Classifier
from image_files import GIVE, LARGEST_FILE, ImageUnusableError, keep_only_pixels, read_image
from model_loading import ModelStore, ModelUnavailableError
from PIL import Image
from temporary_files import TemporaryFiles

# Errors whose message the page shows in place of an answer; any other is a bug.
REFUSALS = (ImageUnusableError, OptionError, ModelUnavailableError, BatchRefusedError)


class Service:
    """Models and uploads, as the tabs and endpoints use them.

    Args:
        store: the models on offer.
        files: where uploads lie.
    """

    def __init__(self, store: ModelStore, files: TemporaryFiles) -> None:
        self.store = store
        self.files = files

    @property
    def titles(self) -> list[str]:
        """The models on offer."""
        return self.store.titles

    @property
    def choices(self) -> list[tuple[str, str]]:
        """The models on offer, as the menus show them, and their titles."""
        return self.store.choices

    @contextlib.contextmanager
    def opened(self, upload: Any) -> Iterator[Image.Image]:
        """The pixels of an upload while the context is open; afterwards nothing else of it is left.

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
        """The files of a batch while the context is open; a refused batch is deleted.

        Afterwards the loose files that were not opened are deleted. Archives stay until they are swept.

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

    def predict(self, image: Image.Image, model: str | None, options: Options) -> tuple[Prediction, Classifier]:
        """The prediction of a model for an image, and the model.

        Raises:
            ImageUnusableError, OptionError, ModelUnavailableError: there is no answer; the message says why.
        """
        classifier = self.store.get(model)
        return predict(image, classifier, options), classifier

    def classifier(self, model: str | None) -> Classifier | str:
        """A model, or why there is none."""
        try:
            return self.store.get(model)
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
