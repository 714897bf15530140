"""Configuration of the image classifier on any backbone: a network of timm, or a vision tower of transformers."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from .checks_lesion import LARGEST_LAYER, MOST_LAYERS, brief, is_whole
from .configuration_lesion import LesionConfig, LesionConfigError
from .tower_image import MODEL_TYPE, check_tower


class ImageLesionConfig(LesionConfig):
    """A backbone of timm or of transformers with dropout and one linear head.

    Args:
        backbone: the architecture's name in timm; with a ``tower`` it is the tower's model type, and follows from it.
        tower: the vision tower as the fields of its own configuration in transformers and its ``model_type``; empty =
            a backbone of timm.
        projection_dim: width of the tower's projection into the space that it shares with texts; 0 = none.
        normalise_features: whether features are scaled to length 1 before the head.
        trainable_blocks: how many of the last layers or stages are trained; None = all, 0 = none (the head alone).
    """

    model_type = "lesion_image"

    tower: dict[str, Any] = field(default_factory=dict)
    projection_dim: int = 0
    normalise_features: bool = False
    trainable_blocks: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.tower, dict) and isinstance(self.tower.get(MODEL_TYPE), str):
            self.backbone = self.tower[MODEL_TYPE]
        super().__post_init__(**kwargs)

    def _check_backbone(self) -> None:
        super()._check_backbone()
        if self.tower != {}:
            check_tower(self.tower)
            if self.backbone != self.tower[MODEL_TYPE] or self.backbone_kwargs:
                raise LesionConfigError(
                    f"backbone is {brief(self.backbone)} with {brief(self.backbone_kwargs)}, but the tower is a "
                    f"{self.tower[MODEL_TYPE]}; leave both out, or leave out the tower."
                )
        if not is_whole(self.projection_dim, 0, LARGEST_LAYER):
            raise LesionConfigError(
                f"projection_dim is {brief(self.projection_dim)}; give a whole number from 0 to {LARGEST_LAYER}."
            )
        if not isinstance(self.normalise_features, bool):
            raise LesionConfigError(f"normalise_features is {brief(self.normalise_features)}; give true or false.")
        if self.trainable_blocks is not None and not is_whole(self.trainable_blocks, 0, MOST_LAYERS):
            raise LesionConfigError(
                f"trainable_blocks is {brief(self.trainable_blocks)}; give a whole number from 0 to {MOST_LAYERS}, or "
                "null for all."
            )
