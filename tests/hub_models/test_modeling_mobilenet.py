"""The Derm-X classifier under the shared model tests."""

from __future__ import annotations

from lesion_model_tester import ClassifierTester

from hub_models import MobileNetForLesionClassification, MobileNetLesionConfig


class TestMobileNet(ClassifierTester):
    config_class = MobileNetLesionConfig
    model_class = MobileNetForLesionClassification
    config_kwargs = {"backbone": "mobilenetv2_035"}
    own_files = {"configuration_mobilenet.py", "modeling_mobilenet.py"}


def test_published_architecture() -> None:
    config = MobileNetLesionConfig(num_labels=8)
    assert (config.backbone, config.image_size, config.dropout) == ("mobilenetv2_100", 224, 0.2)
    # 2,223,872 of the backbone (torchvision's mobilenet_v2 without classifier) + 1280 x 8 + 8.
    assert MobileNetForLesionClassification(config).num_parameters() == 2_234_120
