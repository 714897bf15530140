"""Configuration of the late fusion: image features and metadata features side by side under one head."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from .configuration_lesion import LesionConfig, LesionConfigError
from .configuration_metadata import check_hidden_sizes, check_metadata_dropout
from .metadata_lesion import STANDARD_FIELDS, resolve_fields


class FusionLesionConfig(LesionConfig):
    """EfficientNetV2-S and an MLP on age, sex and site, joined before the head; any CNN of timm may read the image.

    Args:
        metadata_fields: as in the metadata-only classifier: names of standard fields, or name -> vocabulary.
        metadata_hidden_sizes: widths of the metadata encoder's layers, at least one.
        metadata_dropout: probability in [0, 1) of taking a field for unknown while training.
        freeze_metadata: the metadata encoder stays as it is while the head is trained; with ``freeze_backbone`` too,
            the fusion is *frozen*, without both it is *joint*.
        head_hidden_sizes: widths of the head's hidden layers; empty = one linear layer.

    Raises:
        LesionConfigError: a value is out of its range.
        MetadataFieldsError: the fields cannot be encoded.
    """

    model_type = "lesion_fusion"

    backbone: str = "efficientnetv2_s"
    backbone_kwargs: dict[str, Any] = field(default_factory=lambda: {"bn_eps": 1e-3, "drop_path_rate": 0.2})
    metadata_fields: dict[str, Any] = field(default_factory=lambda: resolve_fields(list(STANDARD_FIELDS)))
    metadata_hidden_sizes: list[int] = field(default_factory=lambda: [64, 32])
    metadata_dropout: float = 0.0
    freeze_metadata: bool = False
    head_hidden_sizes: list[int] = field(default_factory=list)

    def check(self) -> None:
        """Check every value, and write the metadata fields out in full."""
        super().check()
        self.metadata_fields = resolve_fields(self.metadata_fields)
        check_hidden_sizes("metadata_hidden_sizes", self.metadata_hidden_sizes)
        check_hidden_sizes("head_hidden_sizes", self.head_hidden_sizes, least=0)
        check_metadata_dropout(self.metadata_dropout)
        if not isinstance(self.freeze_metadata, bool):
            raise LesionConfigError(f"freeze_metadata is {self.freeze_metadata!r}; give true or false.")
