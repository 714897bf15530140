"""Configuration of the metadata-only classifier: an MLP on age, sex and site, without an image."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from .checks_lesion import LARGEST_LAYER, MOST_LAYERS, brief, is_number, is_whole
from .configuration_lesion import LesionConfig, LesionConfigError
from .metadata_lesion import STANDARD_FIELDS, resolve_fields


class MetadataLesionConfig(LesionConfig):
    """A small MLP on what is known beside the image.

    Args:
        metadata_fields: the fields it reads: names of standard ones (``["age"]``), or name -> vocabulary; always
            written out in full.
        hidden_sizes: widths of the hidden layers, at least one; the last is the width D of the features.
        metadata_dropout: probability in [0, 1) of taking a field for unknown while training, so that the model also
            answers for whom little is known.

    Raises:
        LesionConfigError: a value is out of its range.
        MetadataFieldsError: the fields cannot be encoded.
    """

    model_type = "lesion_metadata"

    backbone: str = "none"
    metadata_fields: dict[str, Any] = field(default_factory=lambda: resolve_fields(list(STANDARD_FIELDS)))
    hidden_sizes: list[int] = field(default_factory=lambda: [64, 32])
    metadata_dropout: float = 0.0

    @property
    def backbones(self) -> list[str]:
        """None: no part reads pixels."""
        return []

    def check(self) -> None:
        """Check every value, and write the metadata fields out in full."""
        super().check()
        if self.backbone != "none" or self.freeze_backbone:
            raise LesionConfigError(
                f"backbone is {self.backbone!r}, freeze_backbone is {self.freeze_backbone}; a metadata-only model has "
                "no backbone: leave both out."
            )
        self.metadata_fields = resolve_fields(self.metadata_fields)
        check_hidden_sizes("hidden_sizes", self.hidden_sizes)
        check_metadata_dropout(self.metadata_dropout)


def check_hidden_sizes(name: str, sizes: Any, least: int = 1) -> None:
    """Check a list of layer widths.

    Raises:
        LesionConfigError: it is none, or shorter than ``least``.
    """
    fine = isinstance(sizes, (list, tuple)) and least <= len(sizes) <= MOST_LAYERS
    if not fine or not all(is_whole(size, 1, LARGEST_LAYER) for size in sizes):
        raise LesionConfigError(
            f"{name} is {brief(sizes)}; give a list of {least} to {MOST_LAYERS} whole numbers from 1 to "
            f"{LARGEST_LAYER}."
        )


def check_metadata_dropout(value: Any) -> None:
    """Check a probability of hiding a field.

    Raises:
        LesionConfigError: it is outside [0, 1).
    """
    if not is_number(value) or not 0.0 <= value < 1.0:
        raise LesionConfigError(f"metadata_dropout is {brief(value)}; give a probability in [0, 1).")
