"""The image-only classifier of HAM10000 under the shared model tests."""

from __future__ import annotations

from lesion_model_tester import ClassifierTester

from hub_models import EfficientNetForLesionClassification, EfficientNetLesionConfig


class TestEfficientNet(ClassifierTester):
    config_class = EfficientNetLesionConfig
    model_class = EfficientNetForLesionClassification
    config_kwargs = {"backbone": "tf_efficientnet_lite0", "backbone_kwargs": {}}
    own_files = {"configuration_efficientnet.py", "modeling_efficientnet.py"}


def test_published_architecture() -> None:
    config = EfficientNetLesionConfig(num_labels=7)
    assert (config.backbone, config.image_size) == ("efficientnetv2_s", 224)
    assert config.backbone_kwargs == {"bn_eps": 1e-3, "drop_path_rate": 0.2}
    model = EfficientNetForLesionClassification(config)
    # 20,177,488 of the backbone (torchvision's efficientnet_v2_s without classifier) + 1280 x 7 + 7.
    assert model.num_parameters() == 20_186_455
    assert {module.eps for module in model.modules() if hasattr(module, "running_mean")} == {1e-3}
