"""What is known of a published system, and what a reader of its format hands over."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from datasets_scripts.command import UserError
from datasets_scripts.taxonomy import UnknownLabelError, long_names, malignancy_groups
from hub_models import LesionImageProcessor

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Imported:
    """A published checkpoint as a model of ours.

    Attributes:
        model: in eval mode, float32.
        processor: of the published size and normalisation.
        files: the files that were read: (name as published, path).
        labels_from: where the class names and their order come from, in words.
    """

    model: Any
    processor: LesionImageProcessor
    files: list[tuple[str, Path]]
    labels_from: str


@dataclass(frozen=True)
class System(ABC):
    """A published system: its facts for the card, and its format.

    Attributes:
        name: what the commands call it.
        title: the card's title.
        publisher: who published it and where, in words.
        license: a licence id of the Hub, ``unknown`` where none was stated.
        license_note: what the licence covers, and what it does not.
        labels: short class names in the order of the published logits.
        image_size: side of the square input in pixels.
        cited_as: key of its citations in ``trainers.model_folder.citations``.
        sources: the places its training images come from, as the cards' limits know them.
        trained_on: its training data, in words.
        claims: what its authors report on their own split, in words; not checked by anybody here.
        preprocessing: where our image processor differs from theirs, in words.
        tags: further tags of the card.
    """

    name: str
    title: str
    publisher: str
    license: str
    license_note: str
    labels: tuple[str, ...]
    image_size: int
    cited_as: str
    sources: tuple[str, ...]
    trained_on: str
    claims: tuple[str, ...]
    preprocessing: str
    tags: tuple[str, ...] = field(default=())

    # What --checkpoint takes and --out gives, for the commands' help.
    format: ClassVar[str]

    @abstractmethod
    def read(self, checkpoint: Sequence[Path], labels: Sequence[str] | None) -> Imported:
        """Read published files.

        Args:
            checkpoint: what was given as ``--checkpoint``.
            labels: class names that replace the published ones, in the order of the logits; None = as published.

        Raises:
            UserError: the files are not this system's, are incomplete or damaged, or hold code.
        """

    @abstractmethod
    def write(self, model: Any, processor: Any, out: Path, member: int | None) -> list[str]:
        """Write a model of ours in the published format; what appears is whole.

        Args:
            model: of ours, with this system's architecture.
            processor: its image processor.
            out: the file or folder, which does not exist.
            member: of an ensemble, the one to write alone.

        Returns:
            Remarks for the user, one sentence each.

        Raises:
            UserError: the model has another architecture, or no such member.
        """

    def label_fields(self, labels: Sequence[str]) -> dict[str, Any]:
        """The label fields of a configuration.

        Raises:
            UserError: a class name that the taxonomy does not know, or one that stands twice.
        """
        try:
            names, groups = long_names(labels), malignancy_groups(labels)
        except UnknownLabelError as error:
            raise UserError(f"{error}; give --labels with known short names, in the logits' order") from error
        if len(names) < len(labels):
            raise UserError(f"the labels {', '.join(labels)} name a class twice: give each its own")
        return {"id2label": dict(enumerate(labels)), "label_names": names, "label_groups": groups}

    def choose_labels(self, given: Sequence[str] | None, classes: int, where: str) -> tuple[list[str], str]:
        """The labels of a head with ``classes`` rows, and where they come from in words.

        Raises:
            UserError: their number is not ``classes``.
        """
        labels = list(self.labels if given is None else given)
        if len(labels) != classes:
            whose = f"{self.name} has" if given is None else "--labels names"
            raise UserError(
                f"{where} answers with {classes} classes and {whose} {len(labels)} ({', '.join(labels)}): give "
                "--labels with one short name per class, in the logits' order"
            )
        return labels, "the published text" if given is None else "the command line (--labels)"

    def processor(self, size: int, mean: Sequence[float] = IMAGENET[0], std: Sequence[float] = IMAGENET[1]) -> Any:
        """The image processor of the published size (pixels) and normalisation."""
        square = {"height": size, "width": size}
        return LesionImageProcessor(size=square, image_mean=list(mean), image_std=list(std))
