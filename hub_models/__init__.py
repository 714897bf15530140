"""Lesion classifiers for transformers: importing this package registers them with the Auto classes.

Every other file of this folder is shipped beside the weights of each model; this one is not.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from .backbone_lesion import BackboneDownloadError, BackboneWeightsError, UnknownBackboneError
from .configuration_efficientnet import EfficientNetLesionConfig
from .configuration_ensemble import EnsembleLesionConfig
from .configuration_lesion import LABEL_GROUPS, LesionConfig, LesionConfigError
from .configuration_mobilenet import MobileNetLesionConfig
from .configuration_resnet import ResNetLesionConfig
from .image_processing_lesion import LesionImageProcessor
from .modeling_efficientnet import EfficientNetForLesionClassification
from .modeling_ensemble import EnsembleForLesionClassification, MemberMismatchError
from .modeling_lesion import LesionForImageClassification, LesionOutput, PixelShapeError, WeightsDtypeError
from .modeling_mobilenet import MobileNetForLesionClassification
from .modeling_resnet import ResNetForLesionClassification
from .preprocess_lesion import MissingOpenCVError, PixelValueError, UnreadableImageError, to_rgb

# One line a classifier.
CLASSIFIERS: dict[type[LesionConfig], type[LesionForImageClassification]] = {
    EfficientNetLesionConfig: EfficientNetForLesionClassification,
    EnsembleLesionConfig: EnsembleForLesionClassification,
    MobileNetLesionConfig: MobileNetForLesionClassification,
    ResNetLesionConfig: ResNetForLesionClassification,
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
    "EnsembleForLesionClassification",
    "EnsembleLesionConfig",
    "LesionConfig",
    "LesionConfigError",
    "LesionForImageClassification",
    "LesionImageProcessor",
    "LesionOutput",
    "MemberMismatchError",
    "MissingOpenCVError",
    "MobileNetForLesionClassification",
    "MobileNetLesionConfig",
    "PixelShapeError",
    "PixelValueError",
    "ResNetForLesionClassification",
    "ResNetLesionConfig",
    "UnknownBackboneError",
    "UnreadableImageError",
    "WeightsDtypeError",
    "to_rgb",
]
