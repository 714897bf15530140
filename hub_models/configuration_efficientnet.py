"""Configuration of the HAM10000 image-only classifier: EfficientNetV2-S with dropout and one linear head."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from .configuration_lesion import LesionConfig


class EfficientNetLesionConfig(LesionConfig):
    """EfficientNetV2-S at 224 px with dropout 0.2 before the head, as published; any CNN of timm may take its place.

    With ``bn_eps`` 1e-3 timm's ``efficientnetv2_s`` is the arithmetic of torchvision's ``efficientnet_v2_s`` exactly;
    ``drop_path_rate`` 0.2 is the stochastic depth that torchvision trains it with (timm's default is none).
    Paper: Tan and Le 2021, EfficientNetV2: Smaller Models and Faster Training.
    """

    model_type = "lesion_efficientnet"

    backbone: str = "efficientnetv2_s"
    backbone_kwargs: dict[str, Any] = field(default_factory=lambda: {"bn_eps": 1e-3, "drop_path_rate": 0.2})
