"""Lesion classifiers and an autoencoder for transformers: importing this package registers them with the Auto classes.

Every other file of this folder is shipped beside the weights of each model; this one is not.
"""

from __future__ import annotations

import sys

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .backbone_lesion import BackboneDownloadError, BackboneWeightsError, UnknownBackboneError
from .checkpoint_image import describe_backbone
from .checks_lesion import LEAST_TRANSFORMERS, SUITE_VERSION, HeaderError, PixelShapeError, RecordError
from .configuration_autoencoder import AutoencoderConfigError, AutoencoderLesionConfig
from .configuration_efficientnet import EfficientNetLesionConfig
from .configuration_ensemble import EnsembleLesionConfig
from .configuration_fusion import FusionLesionConfig
from .configuration_image import ImageLesionConfig
from .configuration_lesion import LABEL_GROUPS, MALIGNANT_GROUPS, LesionConfig, LesionConfigError
from .configuration_metadata import MetadataLesionConfig
from .configuration_mobilenet import MobileNetLesionConfig
from .configuration_resnet import ResNetLesionConfig
from .configuration_vit import ViTLesionConfig
from .decision_lesion import DecisionError
from .explain_lesion import ExplanationError, LesionExplanation
from .groups_lesion import GroupError
from .image_processing_lesion import LesionImageProcessor
from .image_processing_pixels import ImageCountError, PixelImageProcessor, SwitchError
from .image_processing_record import RecordImageProcessor
from .image_processing_steps import StepsImageProcessor
from .infer_lesion import InferenceError
from .metadata_lesion import (
    STANDARD_FIELDS,
    MetadataFieldsError,
    encode_record,
    metadata_width,
    resolve_fields,
)
from .modeling_autoencoder import AutoencoderInputError, AutoencoderLesionModel, AutoencoderOutput
from .modeling_efficientnet import EfficientNetForLesionClassification
from .modeling_ensemble import EnsembleForLesionClassification, MemberMismatchError
from .modeling_fusion import FusionForLesionClassification
from .modeling_image import ImageForLesionClassification
from .modeling_lesion import LesionForImageClassification
from .modeling_metadata import MetadataForLesionClassification, MetadataShapeError
from .modeling_mobilenet import MobileNetForLesionClassification
from .modeling_resnet import ResNetForLesionClassification
from .modeling_vit import ViTForLesionClassification
from .output_lesion import LesionOutput
from .pipeline_lesion import PIPELINE_TASK, LesionClassificationPipeline
from .preprocess_lesion import MissingOpenCVError, PixelValueError, UnreadableImageError, to_rgb
from .self_check_lesion import SelfCheckError
from .storage_lesion import WeightsDtypeError
from .trust_lesion import NotFiniteError, PriorError, TrustNotFittedError

# One line a classifier.
CLASSIFIERS: dict[type[LesionConfig], type[LesionForImageClassification]] = {
    EfficientNetLesionConfig: EfficientNetForLesionClassification,
    EnsembleLesionConfig: EnsembleForLesionClassification,
    FusionLesionConfig: FusionForLesionClassification,
    ImageLesionConfig: ImageForLesionClassification,
    MetadataLesionConfig: MetadataForLesionClassification,
    MobileNetLesionConfig: MobileNetForLesionClassification,
    ResNetLesionConfig: ResNetForLesionClassification,
    ViTLesionConfig: ViTForLesionClassification,
}

for _processor in (LesionImageProcessor, PixelImageProcessor, RecordImageProcessor, StepsImageProcessor):
    _processor.register_for_auto_class("AutoImageProcessor")
# Under both names, although it uses PIL alone: transformers warns where the backend that it prefers is missing.
_processors: dict[str, type] = {"pil": LesionImageProcessor, "torchvision": LesionImageProcessor}
for _config_class, _model_class in CLASSIFIERS.items():
    AutoConfig.register(_config_class.model_type, _config_class)
    AutoModelForImageClassification.register(_config_class, _model_class)
    AutoImageProcessor.register(_config_class, image_processor_classes=_processors)
    _config_class.register_for_auto_class()
    _model_class.register_for_auto_class("AutoModelForImageClassification")
    _features = getattr(sys.modules[_model_class.__module__], _model_class.class_names()["AutoModel"])
    AutoModel.register(_config_class, _features)
    _features.register_for_auto_class("AutoModel")
# No classifier: it answers with codes and an image, so AutoModel loads it.
AutoConfig.register(AutoencoderLesionConfig.model_type, AutoencoderLesionConfig)
AutoModel.register(AutoencoderLesionConfig, AutoencoderLesionModel)
AutoImageProcessor.register(AutoencoderLesionConfig, image_processor_classes=_processors)
AutoencoderLesionConfig.register_for_auto_class()
AutoencoderLesionModel.register_for_auto_class("AutoModel")
PIPELINE_REGISTRY.register_pipeline(
    PIPELINE_TASK,
    pipeline_class=LesionClassificationPipeline,
    pt_model=AutoModelForImageClassification,
    type="multimodal",
)

__all__ = [
    "CLASSIFIERS",
    "LABEL_GROUPS",
    "LEAST_TRANSFORMERS",
    "MALIGNANT_GROUPS",
    "PIPELINE_TASK",
    "STANDARD_FIELDS",
    "SUITE_VERSION",
    "AutoencoderConfigError",
    "AutoencoderInputError",
    "AutoencoderLesionConfig",
    "AutoencoderLesionModel",
    "AutoencoderOutput",
    "BackboneDownloadError",
    "BackboneWeightsError",
    "DecisionError",
    "EfficientNetForLesionClassification",
    "EfficientNetLesionConfig",
    "EnsembleForLesionClassification",
    "EnsembleLesionConfig",
    "ExplanationError",
    "FusionForLesionClassification",
    "FusionLesionConfig",
    "GroupError",
    "HeaderError",
    "ImageCountError",
    "ImageForLesionClassification",
    "ImageLesionConfig",
    "InferenceError",
    "LesionClassificationPipeline",
    "LesionConfig",
    "LesionConfigError",
    "LesionExplanation",
    "LesionForImageClassification",
    "LesionImageProcessor",
    "LesionOutput",
    "MemberMismatchError",
    "MetadataFieldsError",
    "MetadataForLesionClassification",
    "MetadataLesionConfig",
    "MetadataShapeError",
    "MissingOpenCVError",
    "MobileNetForLesionClassification",
    "MobileNetLesionConfig",
    "NotFiniteError",
    "PixelShapeError",
    "PixelValueError",
    "PriorError",
    "RecordError",
    "ResNetForLesionClassification",
    "ResNetLesionConfig",
    "SelfCheckError",
    "SwitchError",
    "TrustNotFittedError",
    "UnknownBackboneError",
    "UnreadableImageError",
    "ViTForLesionClassification",
    "ViTLesionConfig",
    "WeightsDtypeError",
    "describe_backbone",
    "encode_record",
    "metadata_width",
    "resolve_fields",
    "to_rgb",
]
