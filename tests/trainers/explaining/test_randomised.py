"""Random weights in a copy: of the requested part, and never in the model itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from hub_models import (
    EnsembleForLesionClassification,
    EnsembleLesionConfig,
    FusionForLesionClassification,
    FusionLesionConfig,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
    ViTForLesionClassification,
    ViTLesionConfig,
)
from hub_models.explain_lesion import explained_pass
from trainers.evaluation.explanation_table import STAGES
from trainers.explaining.measure import random_entries, randomised

SMALL = {"backbone": "mobilenetv2_035", "backbone_kwargs": {}, "dropout": 0.1}
VIT = {"patch_size": 16, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
KINDS = {
    "mobilenet": (MobileNetForLesionClassification, MobileNetLesionConfig, {"backbone": "mobilenetv2_035"}),
    "ensemble": (EnsembleForLesionClassification, EnsembleLesionConfig, {"members": [SMALL, SMALL]}),
    "fusion": (FusionForLesionClassification, FusionLesionConfig, {"backbone": "mobilenetv2_035"}),
    "vit": (ViTForLesionClassification, ViTLesionConfig, VIT),
}


def a_model(kind: str) -> Any:
    """As a trained one: every weight off its start, statistics of batch normalisation too."""
    model_class, config_class, kwargs = KINDS[kind]
    torch.manual_seed(3)
    model = model_class(config_class(id2label={0: "mel", 1: "nv", 2: "bkl"}, image_size=64, **kwargs)).eval()
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.05 * torch.rand_like(value))
    return model


def changed(model: Any, other: Any) -> set[str]:
    theirs = other.state_dict()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, theirs[name])}


@pytest.mark.parametrize("kind", KINDS)
def test_each_stage_is_random_from_the_output_on(kind: str) -> None:
    model = a_model(kind)
    before = copy.deepcopy(model.state_dict())
    weights = {name for name, value in before.items() if value.is_floating_point() and not name.startswith("trust.")}
    parts = {name for name, module in model.named_modules() if any(module is one for one in model.pretrained_parts())}
    backbone = {name for name in weights if name.startswith(tuple(f"{part}." for part in parts))}
    found = [changed(model, randomised(model, stage, seed=0)) for stage in STAGES]
    assert found[0] == weights - backbone
    assert found[0] < found[1] < found[2] < found[3]
    assert found[3] == weights
    layers = {name.rpartition(".")[0] for name in backbone}
    for stage, share in ((1, 1 / 3), (2, 2 / 3)):
        some = {name.rpartition(".")[0] for name in found[stage] & backbone}
        assert len(some) == pytest.approx(share * len(layers), abs=1.5 * len(parts))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    again, other = (randomised(model, "all", seed).state_dict() for seed in (0, 1))
    first = randomised(model, "all", 0).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_last_layers_come_first_in_every_member() -> None:
    third = random_entries(a_model("ensemble"), 1 / 3)
    for member in (0, 1):
        assert f"members.{member}.head.weight" in third
        assert f"members.{member}.backbone.conv_head.weight" in third
        assert f"members.{member}.backbone.conv_stem.weight" not in third


def test_what_was_fitted_for_trust_stays() -> None:
    model = a_model("mobilenet")
    trust = copy.deepcopy(model.config.trust)
    model.trust.register_buffer("mean", torch.ones(4))
    assert not [name for name in random_entries(model, 1.0) if name.startswith("trust.")]
    assert model.config.trust == trust


def test_no_random_number_of_the_caller_is_used_up() -> None:
    model = a_model("mobilenet")
    state = torch.get_rng_state()
    randomised(model, "all", seed=5)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("method", ["grad_cam", "hires_cam"])
def test_the_members_maps_are_those_that_explain_averages(method: str) -> None:
    model = a_model("ensemble")
    pixels = torch.randn(3, 3, 64, 64)
    seen = model.explain(pixel_values=pixels, method=method)
    alone = explained_pass(model, pixels, {}, method).member_maps(seen.target)
    assert alone.shape == (2, 3, 64, 64)
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(alone.mean(dim=0), seen.heat_maps)
    assert torch.equal(alone.std(dim=0, correction=0), seen.spread)
