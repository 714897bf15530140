"""The Derm-X classifier: MobileNetV2, dropout, one linear head."""

from __future__ import annotations

from .configuration_mobilenet import MobileNetLesionConfig
from .modeling_lesion import LesionForImageClassification
from .output_lesion import LesionFeatures


class MobileNetForLesionClassification(LesionForImageClassification):
    """MobileNetV2 (or any other CNN of timm named in the config): (N, 3, S, S) -> (N, C) logits.

    Its backbone and its hooks are the shared ones: a CNN of timm, globally pooled to (N, 1280) for MobileNetV2 1.0.
    """

    config_class = MobileNetLesionConfig
    config: MobileNetLesionConfig


class MobileNetLesionModel(LesionFeatures, MobileNetForLesionClassification):
    """Its features alone; what ``AutoModel`` loads."""
