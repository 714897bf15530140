"""Batch normalisation folded into the convolutions: the same answers, and never another network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lesion_trust_tester import fitted
from torch import nn
from torch.nn import functional

from hub_models import (
    EfficientNetForLesionClassification,
    EfficientNetLesionConfig,
    EnsembleForLesionClassification,
    EnsembleLesionConfig,
    ResNetForLesionClassification,
    ResNetLesionConfig,
    ViTForLesionClassification,
    ViTLesionConfig,
)
from hub_models.backend_lesion import BackendError, Folded

NAMES = {0: "mel", 1: "nv", 2: "bcc", 3: "bkl"}
SIDE = 32
MEMBER = {"backbone": "test_resnet", "backbone_kwargs": {}, "dropout": 0.0}


def alive(model: Any) -> Any:
    """The model with statistics of normalisation that are not those of a new layer."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return fitted(model.eval())


def efficientnet() -> Any:
    config = EfficientNetLesionConfig(id2label=NAMES, backbone="test_efficientnet", image_size=SIDE, backbone_kwargs={})
    return EfficientNetForLesionClassification(config)


def resnet() -> Any:
    return ResNetForLesionClassification(ResNetLesionConfig(id2label=NAMES, backbone="test_resnet", image_size=SIDE))


def ensemble() -> Any:
    return EnsembleForLesionClassification(
        EnsembleLesionConfig(id2label=NAMES, image_size=SIDE, members=[MEMBER, MEMBER])
    )


def pixels(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("build", [efficientnet, resnet, ensemble])
def test_the_answers_are_the_same_with_folded_normalisation(build: Any) -> None:
    model = alive(build())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    plain, features = model.predict(pixel_values=pixels()), model(pixels()).features
    assert model.use_backend() == "folded"
    assert isinstance(model.graph, Folded)
    left = sum(isinstance(part, nn.BatchNorm2d) for part in model.graph.copy.modules())
    before = sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    assert (model.graph.layers > 3, left) == (True, before - model.graph.layers)
    for then, now in zip(plain, model.predict(pixel_values=pixels()), strict=True):
        assert now["probabilities"] == pytest.approx(then["probabilities"], abs=1e-5)
        assert now["ood_score"] == pytest.approx(then["ood_score"], rel=1e-3)
        assert (now["predicted"], now["band"], now["reason"]) == (then["predicted"], then["band"], then["reason"])
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels()).features, features, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert model.use_backend("torch") == "torch"
    assert model.graph is None


def test_what_is_fitted_later_holds_and_what_is_trained_later_is_run() -> None:
    model = alive(resnet())
    model.use_backend()
    model.config.trust["ood"]["threshold"] = -1e9
    assert all(answer["is_ood"] for answer in model.predict(pixel_values=pixels()))
    assert copy.deepcopy(model).graph is None
    model.train()
    assert model.graph is None


class Misleading(nn.Module):
    """The normalisation is defined behind the convolution, and applied after another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.global_pool = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.global_pool(self.norm(functional.relu(self.conv(values)))).flatten(1)


def test_nothing_is_folded_where_it_would_be_another_network() -> None:
    model = resnet()
    model.backbone = Misleading()
    model.head = nn.Linear(8, 4)
    alive(model).use_backend()
    assert model.graph is None
    config = ViTLesionConfig(
        id2label=NAMES, image_size=SIDE, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    tower = ViTForLesionClassification(config).eval()
    assert (tower.use_backend(), tower.graph) == ("torch", None)
    with pytest.raises(BackendError, match="nothing can be folded"):
        tower.use_backend("folded")
