"""Configuration of the Derm-X classifier: MobileNetV2 with dropout and one linear head."""

from __future__ import annotations

from .configuration_lesion import LesionConfig


class MobileNetLesionConfig(LesionConfig):
    """MobileNetV2 1.0 at 224 px with dropout 0.2 before the head, as published; any CNN of timm may take its place.

    Paper: Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks.
    """

    model_type = "lesion_mobilenet"

    backbone: str = "mobilenetv2_100"
