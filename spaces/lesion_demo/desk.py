"""What stands behind every tab and endpoint: opening uploads safely, and turning what goes wrong into a message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from answering import Looked, Question, QuestionError, look
from archives import BatchRefusedError, Entry
from classifier import Classifier
from image_files import ImageUnusableError, keep_only_pixels, read_image
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

    def open(self, upload: Any) -> Image.Image:
        """The pixels of an upload; one that is refused is deleted at once, of others nothing but pixels stays.

        Args:
            upload: a path in the folder of uploads, or Gradio's dictionary of one.

        Raises:
            ImageUnusableError: it was not uploaded here, or is no picture that is taken.
        """
        path = path_of(upload)
        if path is None or not self.files.holds(path):
            raise ImageUnusableError("This file was not uploaded here, or is no longer kept. Upload it again.")
        try:
            return read_image(path)
        except ImageUnusableError:
            self.files.delete(path)
            raise

    def tidy(self, upload: Any, image: Image.Image) -> None:
        """Leave only the pixels of an upload on the disk."""
        path = path_of(upload)
        if path is not None and self.files.holds(path):
            keep_only_pixels(path, image)

    def tidy_entry(self, entry: Entry, image: Image.Image | None) -> None:
        """The same for a file of a batch; a refused one is deleted. Archives stay as they are until they are swept."""
        if entry.source is not None and image is None:
            self.files.delete(entry.source)
        elif entry.source is not None and image is not None:
            self.tidy(entry.source, image)

    def look(self, upload: Any, model: str | None, question: Question) -> tuple[Image.Image, Looked, Classifier]:
        """Open an upload and ask a model about it.

        Raises:
            ImageUnusableError, QuestionError, ModelUnavailableError: there is no answer; the message says why.
        """
        image = self.open(upload)
        classifier = self.shelf.get(model)
        return image, look(image, classifier, question), classifier

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
