"""The deep ensemble under the shared model tests, and what only an ensemble must hold."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from lesion_model_tester import ClassifierTester
from torch.nn import functional

from hub_models import (
    EnsembleForLesionClassification,
    EnsembleLesionConfig,
    LesionConfigError,
    MemberMismatchError,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
    ResNetForLesionClassification,
    ResNetLesionConfig,
)

SMALL = {"backbone": "mobilenetv2_035", "backbone_kwargs": {}, "dropout": 0.1}
OTHER = {"backbone": "tf_efficientnet_lite0", "backbone_kwargs": {}, "dropout": 0.1}
TINY = {"backbone": "test_efficientnet", "backbone_kwargs": {}, "dropout": 0.1}


class TestEnsemble(ClassifierTester):
    config_class = EnsembleLesionConfig
    model_class = EnsembleForLesionClassification
    config_kwargs = {"members": [TINY, TINY]}
    members = 2
    head = "members.1.head"
    has_maps = False
    own_files = {"configuration_ensemble.py", "modeling_ensemble.py"}


class TestOneMember(ClassifierTester):
    config_class = EnsembleLesionConfig
    model_class = EnsembleForLesionClassification
    config_kwargs = {"backbone": "mobilenetv2_035"}
    members = 1
    head = "members.0.head"
    own_files = {"configuration_ensemble.py", "modeling_ensemble.py"}


def single(seed: int, labels: tuple[str, ...] = ("a", "b", "c"), **changes: Any) -> EnsembleForLesionClassification:
    torch.manual_seed(seed)
    values = {"id2label": dict(enumerate(labels)), "image_size": 64, "backbone": "mobilenetv2_035", **changes}
    return EnsembleForLesionClassification(EnsembleLesionConfig(**values)).eval()


def test_published_architecture() -> None:
    config = EnsembleLesionConfig(num_labels=2)
    assert (config.backbone, config.image_size) == ("resnet50", 320)
    assert config.members == [{"backbone": "resnet50", "backbone_kwargs": {}, "dropout": 0.3}]
    # 23,508,032 of the backbone (torchvision's resnet50 without fc) + 2048 x 2 + 2.
    assert EnsembleForLesionClassification(config).num_parameters() == 23_512_130


def test_the_answer_is_the_mean_of_the_members_probabilities() -> None:
    models = [single(seed) for seed in range(3)]
    ensemble = EnsembleForLesionClassification.from_members(models)
    pixels = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        output = ensemble(pixels)
        alone = [model(pixels) for model in models]
    for number, member in enumerate(alone):
        assert torch.equal(output.raw_logits[:, number], member.raw_logits[:, 0])
    mean = torch.stack([functional.softmax(member.logits, -1) for member in alone]).mean(0)
    torch.testing.assert_close(functional.softmax(output.logits, -1), mean)
    assert torch.equal(output.features, torch.cat([member.features for member in alone], dim=1))


def test_a_classifier_of_one_cnn_can_be_a_member() -> None:
    labels = dict(enumerate(("a", "b", "c")))
    config = MobileNetLesionConfig(id2label=labels, image_size=64, backbone="mobilenetv2_035", dropout=0.4)
    alone = MobileNetForLesionClassification(config).eval()
    ensemble = EnsembleForLesionClassification.from_members([single(0), alone])
    assert ensemble.config.members[1] == {"backbone": "mobilenetv2_035", "backbone_kwargs": {}, "dropout": 0.4}
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ensemble(pixels).raw_logits[:, 1], alone(pixels).logits)
    layers = ResNetForLesionClassification(ResNetLesionConfig(id2label=labels, image_size=64, backbone="resnet10t"))
    with pytest.raises(MemberMismatchError, match="member 1 is a ResNetForLesionClassification; give ensembles"):
        EnsembleForLesionClassification.from_members([single(0), layers])


def test_members_that_agree_disagree_in_nothing() -> None:
    ensemble = EnsembleForLesionClassification.from_members([single(0), single(0)])
    with torch.no_grad():
        output = ensemble(torch.randn(3, 3, 64, 64))
    assert torch.allclose(output.epistemic, torch.zeros(3), atol=1e-6)
    torch.testing.assert_close(output.aleatoric, output.predictive_entropy)


def test_members_of_different_architectures() -> None:
    models = [single(0), single(1, **OTHER)]
    ensemble = EnsembleForLesionClassification.from_members(models)
    assert ensemble.widths == [1280, 1280]
    assert [member["backbone"] for member in ensemble.config.members] == ["mobilenetv2_035", "tf_efficientnet_lite0"]
    assert [member["dropout"] for member in ensemble.config.members] == [0.3, 0.1]
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ensemble(pixels).raw_logits[:, 1], models[1](pixels).raw_logits[:, 0])


def test_members_whose_classes_stand_in_another_order_answer_for_the_same_classes() -> None:
    models = [single(0), single(1, labels=("c", "a", "b"))]
    ensemble = EnsembleForLesionClassification.from_members(models)
    assert ensemble.config.labels == ["a", "b", "c"]
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        together, alone = ensemble(pixels).raw_logits[:, 1], models[1](pixels).raw_logits[:, 0]
    torch.testing.assert_close(together, alone[:, [1, 2, 0]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": ("a", "b", "d")}, "member 1 has labels ['a', 'b', 'd'], member 0 has ['a', 'b', 'c']"),
        ({"image_size": 96}, "member 1 has image_size 96, member 0 has 64"),
    ],
)
def test_members_that_do_not_agree_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(MemberMismatchError, match=re.escape(says)):
        EnsembleForLesionClassification.from_members([single(0), single(1, **changes)])


def test_no_members_are_refused() -> None:
    with pytest.raises(MemberMismatchError, match="0 members"):
        EnsembleForLesionClassification.from_members([])


@pytest.mark.parametrize(
    ("member", "says"),
    [
        ({"backbone": "resnet50"}, "members[0] is {'backbone': 'resnet50'}"),
        ({**SMALL, "dropout": 1.0}, "members[0] has dropout 1.0"),
        ({**SMALL, "backbone": 7}, "members[0]: backbone is 7"),
    ],
)
def test_bad_members_in_the_config_are_named(member: dict[str, Any], says: str) -> None:
    with pytest.raises(LesionConfigError, match=re.escape(says)):
        EnsembleLesionConfig(num_labels=2, members=[member])
