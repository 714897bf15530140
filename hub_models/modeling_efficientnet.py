"""The HAM10000 image-only classifier: EfficientNetV2-S, dropout, one linear head."""

from __future__ import annotations

from .configuration_efficientnet import EfficientNetLesionConfig
from .modeling_lesion import LesionForImageClassification
from .output_lesion import LesionFeatures


class EfficientNetForLesionClassification(LesionForImageClassification):
    """EfficientNetV2-S (or any other CNN of timm named in the config): (N, 3, S, S) -> (N, C) logits.

    Its backbone and its hooks are the shared ones: a CNN of timm, globally pooled to (N, 1280) for EfficientNetV2-S.
    """

    config_class = EfficientNetLesionConfig
    config: EfficientNetLesionConfig


class EfficientNetLesionModel(LesionFeatures, EfficientNetForLesionClassification):
    """Its features alone; what ``AutoModel`` loads."""
