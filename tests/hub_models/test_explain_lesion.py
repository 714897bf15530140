"""Explanations against pytorch-grad-cam, against transformers' own attention, and by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from lesion_model_tester import LABELS
from pytorch_grad_cam import GradCAM, HiResCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.nn import functional

from hub_models import (
    EnsembleForLesionClassification,
    EnsembleLesionConfig,
    ExplanationError,
    FusionForLesionClassification,
    FusionLesionConfig,
    LesionExplanation,
    ResNetForLesionClassification,
    ResNetLesionConfig,
    ViTForLesionClassification,
    ViTLesionConfig,
)
from hub_models.explain_lesion import explained_pass, grad_cam, hires_cam, pooling_layers, roll_out, to_heat

THEIRS = {"grad_cam": GradCAM, "hires_cam": HiResCAM}
TARGETS = [0, 2, 1]
TINY_VIT = {"patch_size": 16, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}


def built(model_class: Any, config_class: Any, **values: Any) -> Any:
    """A random model in eval mode, whose statistics of normalisation are no longer the initial ones."""
    torch.manual_seed(0)
    config = config_class(id2label=dict(enumerate(LABELS)), **{"image_size": 64, **values})
    model = model_class(config).train()
    with torch.no_grad():
        for seed in range(3):
            model(sample_images(seed=seed))
    return model.eval()


def sample_images(batch: int = 3, size: tuple[int, int] = (64, 64), seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def a_resnet(**changes: Any) -> Any:
    values = {"backbone": "resnet10t", "backbone_kwargs": {"zero_init_last": False}, "hidden_sizes": [24], **changes}
    return built(ResNetForLesionClassification, ResNetLesionConfig, **values)


def a_vit(**changes: Any) -> Any:
    values = {**TINY_VIT, "num_hidden_layers": 3, "initializer_range": 0.3, **changes}
    return built(ViTForLesionClassification, ViTLesionConfig, **values)


class RawLogits(nn.Module):
    """What pytorch-grad-cam takes: images in, the logits (N, C) of one member out."""

    def __init__(self, model: Any, member: int = 0, **others: torch.Tensor) -> None:
        super().__init__()
        self.model, self.member, self.others = model, member, others

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        raw = self.model(pixel_values=pixels, **self.others).raw_logits
        return raw if raw.ndim == 2 else raw[:, self.member]


def peak_to_peak(heat: torch.Tensor) -> np.ndarray:
    """As pytorch-grad-cam scales: it also subtracts the smallest value."""
    low = heat.amin((1, 2), keepdim=True)
    return ((heat - low) / (heat - low).amax((1, 2), keepdim=True).clamp(min=1e-7)).numpy()


def theirs(method: str, model: Any, layer: nn.Module, pixels: torch.Tensor, reshape: Any = None, **kw: Any) -> Any:
    with THEIRS[method](RawLogits(model, **kw), [layer], reshape_transform=reshape) as cam:
        return cam(pixels, [ClassifierOutputTarget(target) for target in TARGETS])


def assert_equals_theirs(ours: torch.Tensor, expected: np.ndarray) -> None:
    assert expected.any(), "nothing to compare"
    np.testing.assert_allclose(peak_to_peak(ours), expected, rtol=0, atol=1e-4)


# -------------------------------------------------------- pytorch-grad-cam


@pytest.mark.parametrize("method", THEIRS)
@pytest.mark.parametrize("size", [(64, 64), (96, 128)])
def test_a_cnn_against_pytorch_grad_cam(method: str, size: tuple[int, int]) -> None:
    model, pixels = a_resnet(), sample_images(size=size)
    ours = model.explain(pixel_values=pixels, target=TARGETS, method=method).heat_maps
    assert_equals_theirs(ours, theirs(method, model, model.backbone.layer4, pixels))


@pytest.mark.parametrize("method", THEIRS)
def test_a_fusion_against_pytorch_grad_cam(method: str) -> None:
    model = built(FusionForLesionClassification, FusionLesionConfig, backbone="mobilenetv2_035", backbone_kwargs={})
    pixels, width = sample_images(), len(model.metadata_encoder.unknown)
    metadata = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    ours = model.explain(pixel_values=pixels, metadata=metadata, target=TARGETS, method=method).heat_maps
    assert_equals_theirs(ours, theirs(method, model, model.backbone.bn2, pixels, metadata=metadata))


@pytest.mark.parametrize("method", THEIRS)
def test_tokens_against_pytorch_grad_cam(method: str) -> None:
    model, pixels = a_vit(), sample_images(size=(64, 96))

    def reshape(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 1:].reshape(len(tokens), 4, 6, -1).permute(0, 3, 1, 2)

    ours = model.explain(pixel_values=pixels, target=TARGETS, method=method).heat_maps
    assert_equals_theirs(ours, theirs(method, model, model.backbone.layers[-1].layernorm_before, pixels, reshape))


@pytest.mark.parametrize("method", THEIRS)
def test_members_against_pytorch_grad_cam(method: str) -> None:
    members = [
        {"backbone": name, "backbone_kwargs": {}, "dropout": 0.1}
        for name in ("mobilenetv2_035", "tf_efficientnet_lite0")
    ]
    model, pixels = built(EnsembleForLesionClassification, EnsembleLesionConfig, members=members), sample_images()
    explanation = model.explain(pixel_values=pixels, target=TARGETS, method=method)
    alone = []
    for number, member in enumerate(model.members):
        single = EnsembleForLesionClassification(
            EnsembleLesionConfig(id2label=dict(enumerate(LABELS)), image_size=64, members=[members[number]])
        ).eval()
        single.members[0].load_state_dict(member.state_dict())
        one = single.explain(pixel_values=pixels, target=TARGETS, method=method)
        assert not one.spread.any()
        assert_equals_theirs(one.heat_maps, theirs(method, model, member.backbone.bn2, pixels, member=number))
        alone.append(one.heat_maps)
    first, second = alone
    assert not torch.allclose(first, second, atol=0.1)
    torch.testing.assert_close(explanation.heat_maps, (first + second) / 2, rtol=0, atol=1e-5)
    torch.testing.assert_close(explanation.spread, (first - second).abs() / 2, rtol=0, atol=1e-5)


# ------------------------------------------------------------------ by hand


class Weighing(nn.Module):
    """One logit a class, the pixels of two channels (2, 2, 2) weighed point by point: a gradient known by heart."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.config = SimpleNamespace(labels=["a", "b"])
        self.device = torch.device("cpu")
        self.pool = nn.Identity()
        self.weights = nn.Parameter(weights)

    def forward(self, pixel_values: torch.Tensor, return_dict: bool = True) -> Any:
        logits = torch.einsum("nchw,kchw->nk", self.pool(pixel_values), self.weights)
        return SimpleNamespace(logits=logits, raw_logits=logits)

    def check_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def pretrained_parts(self) -> list[nn.Module]:
        return []

    def explained_layers(self) -> list[nn.Module]:
        return [self.pool]

    def as_maps(self, activation: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return activation

    def attentions(self) -> list[Any]:
        return []


def test_a_linear_model_by_hand() -> None:
    of_a = torch.tensor([[[4.0, 0.0], [0.0, 0.0]], [[-1.0, -1.0], [-1.0, 3.0]]])
    model = Weighing(torch.stack([of_a, -of_a.abs()]))
    pixels = torch.tensor([[[[1.0, 2.0], [3.0, 0.0]], [[1.0, 5.0], [2.0, 6.0]]]])
    # Logits: a = 4 - 1 - 5 - 2 + 18 = 14, b = -4 - 1 - 5 - 2 - 18 = -30.
    explanation = explained_pass(model, pixels, {}, "grad_cam").explanation(None)
    assert isinstance(explanation, LesionExplanation)
    assert explanation.target.tolist() == [0]
    assert explanation.spread is None
    # The channels' mean gradients are 1 and 0: Grad-CAM is the first channel, over its maximum 3.
    torch.testing.assert_close(explanation.heat_maps, torch.tensor([[[1 / 3, 2 / 3], [1.0, 0.0]]]))
    # Point by point: 4 - 1 = 3, -5, -2, 18; ReLU; over 18.
    hires = explained_pass(model, pixels, {}, "hires_cam").explanation(None)
    torch.testing.assert_close(hires.heat_maps, torch.tensor([[[1 / 6, 0.0], [0.0, 1.0]]]))
    # Nothing speaks for b: its map stays zero.
    for method in ("grad_cam", "hires_cam"):
        against = explained_pass(model, pixels, {}, method).explanation("b")
        assert not against.heat_maps.any()
        assert against.target.tolist() == [1]


def test_weights_of_channels_by_hand() -> None:
    activation = torch.tensor([[[[1.0, 2.0]], [[3.0, -4.0]]]])  # (1, 2, 1, 2)
    gradient = torch.tensor([[[[0.0, 2.0]], [[-1.0, -2.0]]]])
    # Mean gradients 1 and -1.5: 1 - 4.5, 2 + 6.
    assert grad_cam(activation, gradient).tolist() == [[[-3.5, 8.0]]]
    # 0 - 3, 4 + 8.
    assert hires_cam(activation, gradient).tolist() == [[[-3.0, 12.0]]]


def test_heat_by_hand() -> None:
    maps = torch.tensor([[[-2.0, 4.0]], [[-1.0, -3.0]], [[1e-30, 0.0]]])
    # 1 x 2 -> 1 x 4 with pixel centres at 0.25 and 0.75: the outer ones repeat, the inner ones lie a quarter between.
    expected = torch.tensor([[[0.0, 0.25, 0.75, 1.0]], [[0.0] * 4], [[1.0, 0.75, 0.25, 0.0]]])
    torch.testing.assert_close(to_heat(maps, (1, 4)), expected)


def test_roll_out_by_hand() -> None:
    first = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]])  # two heads, mean 0.5 everywhere
    second = torch.tensor([[[[0.2, 0.8], [0.4, 0.6]]]])
    below = roll_out(None, first)
    assert below.tolist() == [[[0.75, 0.25], [0.25, 0.75]]]
    # [[0.6, 0.4], [0.2, 0.8]] times that: 0.45 + 0.1, 0.15 + 0.3, 0.15 + 0.2, 0.05 + 0.6.
    torch.testing.assert_close(roll_out(below, second), torch.tensor([[[0.55, 0.45], [0.35, 0.65]]]))


def test_behind_mean_pooling_and_one_layer_both_methods_agree_and_add_up() -> None:
    """Draelos and Carin 2020: then the maps of all places sum to the logit without its bias."""
    model, pixels = a_resnet(hidden_sizes=[]), sample_images(1)
    maps = [model.explain(pixel_values=pixels, target=3, method=method).heat_maps for method in THEIRS]
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=1e-5)
    with torch.no_grad():
        activation, output = model.backbone.forward_features(pixels), model(pixels)
    weight = model.head.logits.weight[3]
    places = torch.einsum("nchw,c->nhw", activation, weight).detach() / activation[0, 0].numel()
    torch.testing.assert_close(places.sum() + model.head.logits.bias[3], output.raw_logits[0, 3])
    torch.testing.assert_close(to_heat(places, (64, 64)), maps[1], rtol=0, atol=1e-5)


# ---------------------------------------------------------------- attention


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_roll_out_against_transformers_own_attention(size: tuple[int, int]) -> None:
    model, pixels = a_vit(), sample_images(size=size)
    assert model.config._attn_implementation == "sdpa"
    explanation = model.explain(pixel_values=pixels, method="attention_rollout", target=TARGETS)
    assert explanation.target.tolist() == TARGETS
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model.backbone(pixels, output_attentions=True, interpolate_pos_encoding=True).attentions
    assert len(attentions) == 3
    identity = np.eye(attentions[0].shape[-1])
    for row in range(3):
        joint = identity
        for layer in attentions:
            joint = (0.5 * layer[row].double().mean(0).numpy() + 0.5 * identity) @ joint
        np.testing.assert_allclose(joint.sum(1), 1, atol=1e-5)
        patches = torch.from_numpy(joint[0, 1:]).reshape(1, 1, size[0] // 16, size[1] // 16)
        large = functional.interpolate(patches, size, mode="bilinear", align_corners=False)[0, 0]
        np.testing.assert_allclose(explanation.heat_maps[row].numpy(), (large / large.max()).numpy(), rtol=0, atol=1e-5)


def test_roll_out_is_the_same_for_every_class_and_every_kernel() -> None:
    model, pixels = a_vit(), sample_images()
    maps = [model.explain(pixel_values=pixels, method="attention_rollout", target=c).heat_maps for c in (None, 0, 3)]
    model.set_attn_implementation("eager")
    maps.append(model.explain(pixel_values=pixels, method="attention_rollout").heat_maps)
    for other in maps[1:]:
        torch.testing.assert_close(other, maps[0], rtol=0, atol=1e-5)


# --------------------------------------------------------- cost, and layers


def test_no_graph_is_kept_in_front_of_the_explained_layers() -> None:
    """What a forward pass saves for its gradients: of a ResNet, all backbones together, no more than a head's worth."""
    members = [{"backbone": "resnet10t", "backbone_kwargs": {}, "dropout": 0.1}] * 3
    model, pixels = built(EnsembleForLesionClassification, EnsembleLesionConfig, members=members), sample_images(2)
    saved: list[int] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        saved.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model.explain(pixel_values=pixels)
        explained = sum(saved)
        model(pixels)
    assert explained < 0.02 * (sum(saved) - explained)


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "convnext_atto", "regnetx_002", "ghostnet_050", "resnet18", "efficientnet_lite0"]
)
def test_families_of_timm_are_explained_before_their_pooling(name: str) -> None:
    backbone = timm.create_model(name, num_classes=0).eval()
    (layer,) = pooling_layers([backbone])
    received: list[torch.Tensor] = []
    layer.register_forward_pre_hook(lambda module, inputs: received.append(inputs[0]))
    with torch.no_grad():
        backbone(sample_images(2))
        expected = backbone.forward_features(sample_images(2))
    assert received[0].shape == (2, backbone.num_features, 2, 2)
    assert torch.equal(received[0], expected)


def test_backbones_without_places_are_named() -> None:
    with pytest.raises(ExplanationError, match="the backbone is a VisionTransformer, which does not pool"):
        pooling_layers([timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)])
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, depths=(1, 1, 1, 1))
    with pytest.raises(ExplanationError, match="the backbone is a SwinTransformer"):
        pooling_layers([swin])
