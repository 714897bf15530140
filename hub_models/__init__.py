"""Lesion classifiers for transformers: importing this package registers them with the Auto classes.

Every other file of this folder is shipped beside the weights of each model; this one is not.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from .backbone_lesion import BackboneDownloadError, BackboneWeightsError, UnknownBackboneError
from .configuration_efficientnet import EfficientNetLesionConfig
from .configuration_lesion import LABEL_GROUPS, LesionConfig, LesionConfigError
from .configuration_mobilenet import MobileNetLesionConfig
from .image_processing_lesion import LesionImageProcessor
from .modeling_efficientnet import EfficientNetForLesionClassification
from .modeling_lesion import LesionForImageClassification, LesionOutput, PixelShapeError, WeightsDtypeError
from .modeling_mobilenet import MobileNetForLesionClassification
from .preprocess_lesion import MissingOpenCVError, PixelValueError, UnreadableImageError, to_rgb

# One line a classifier.
CLASSIFIERS: dict[type[LesionConfig], type[LesionForImageClassification]] = {
    EfficientNetLesionConfig: EfficientNetForLesionClassification,
    MobileNetLesionConfig: MobileNetForLesionClassification,
}

LesionImageProcessor.register_for_auto_class("AutoImageProcessor")
for _config_class, _model_class in CLASSIFIERS.items():
    AutoConfig.register(_config_class.model_type, _config_class)
    AutoModelForImageClassification.register(_config_class, _model_class)
    AutoImageProcessor.register(_config_class, image_processor_classes={"pil": LesionImageProcessor})
    _config_class.register_for_auto_class()
    _model_class.register_for_auto_class("AutoModelForImageClassification")

__all__ = [
    "CLASSIFIERS",
    "LABEL_GROUPS",
    "BackboneDownloadError",
    "BackboneWeightsError",
    "EfficientNetForLesionClassification",
    "EfficientNetLesionConfig",
    "LesionConfig",
    "LesionConfigError",
    "LesionForImageClassification",
    "LesionImageProcessor",
    "LesionOutput",
    "MissingOpenCVError",
    "MobileNetForLesionClassification",
    "MobileNetLesionConfig",
    "PixelShapeError",
    "PixelValueError",
    "UnknownBackboneError",
    "UnreadableImageError",
    "WeightsDtypeError",
    "to_rgb",
]
