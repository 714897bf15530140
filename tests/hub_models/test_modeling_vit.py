"""The ViT under the shared model tests, against transformers' own ViTForImageClassification, and its first weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lesion_model_tester import GROUPS, LABELS, ClassifierTester
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, ViTModel

from hub_models import (
    BackboneWeightsError,
    LesionConfigError,
    PixelShapeError,
    ViTForLesionClassification,
    ViTLesionConfig,
)
from hub_models.modeling_vit import resample_positions

TINY = {
    "patch_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}


class TestViT(ClassifierTester):
    config_class = ViTLesionConfig
    model_class = ViTForLesionClassification
    config_kwargs = {**TINY, "initializer_range": 0.02}
    own_files = {"configuration_vit.py", "modeling_vit.py"}
    explanations = ("grad_cam", "hires_cam", "attention_rollout")


def a_config(**changes: Any) -> ViTLesionConfig:
    values = {"id2label": dict(enumerate(LABELS)), "label_groups": GROUPS, "image_size": 64, **TINY, **changes}
    return ViTLesionConfig(**values)


def a_vit(classes: int = 3, **changes: Any) -> ViTForImageClassification:
    """A random ViT of transformers that is not our default: another width, norms and biases off their start."""
    torch.manual_seed(1)
    vit = ViTForImageClassification(
        ViTConfig(num_labels=classes, image_size=64, **{**TINY, "hidden_size": 48, **changes})
    )
    with torch.no_grad():
        for value in vit.parameters():
            if value.ndim == 1:
                value.add_(0.3 * torch.randn_like(value))
    return vit.eval()


@pytest.fixture(scope="module")
def melanoma_vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ViTForImageClassification]:
    """A 3-class checkpoint as published: on disk, with its image processor."""
    folder = tmp_path_factory.mktemp("checkpoints") / "vit-melanoma"
    vit = a_vit()
    vit.save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": 64, "width": 64}, image_mean=[0.4, 0.5, 0.6], image_std=[0.1, 0.2, 0.3]
    ).save_pretrained(folder)
    return folder, vit


def pixels(size: int = 64, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------ arithmetic


@pytest.mark.parametrize("size", [64, 96])
def test_logits_are_those_of_transformers(size: int) -> None:
    vit = a_vit(4)
    model = ViTForLesionClassification.from_vit(vit, a_config(), keep_head=True).eval()
    with torch.no_grad():
        expected = vit(pixels(size), interpolate_pos_encoding=size != 64)
        output = model(pixels(size))
    torch.testing.assert_close(output.raw_logits, expected.logits, rtol=0, atol=5e-6)
    assert expected.logits.std() > 0.1
    assert model.config.initialised_from == "a ViT"


def test_gradients_are_those_of_transformers() -> None:
    vit = a_vit(4)
    model = ViTForLesionClassification.from_vit(vit, a_config(), keep_head=True)
    labels = torch.tensor([1, 3])
    vit.train()(pixels(), labels=labels).loss.backward()
    model.train()(pixels(), labels=labels).loss.backward()
    expected = {
        name.replace("vit.", "backbone.").replace("classifier.", "head."): p for name, p in vit.named_parameters()
    }
    assert set(expected) == {name for name, _ in model.named_parameters()}
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.grad, expected[name].grad, rtol=1e-4, atol=5e-6, msg=name)


def test_export_gives_the_same_logits_and_the_published_names(tmp_path: Path) -> None:
    vit = a_vit(4)
    model = ViTForLesionClassification.from_vit(vit, a_config(drop_path_rate=0.3), keep_head=True).eval()
    model.to_vit().save_pretrained(tmp_path)
    assert "vit.encoder.layer.2.attention.attention.query.weight" in load_file(tmp_path / "model.safetensors")
    again = ViTForImageClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels()).logits, model(pixels()).raw_logits, rtol=0, atol=5e-6)
    assert again.config.id2label == dict(enumerate(LABELS))


def test_attention_maps_by_the_eager_implementation(tmp_path: Path) -> None:
    model = ViTForLesionClassification(a_config()).eval()
    model.save_pretrained(tmp_path)
    assert model.backbone.config._attn_implementation == "sdpa"
    eager = ViTForLesionClassification.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        maps = eager.backbone(pixels(), output_attentions=True).attentions
        torch.testing.assert_close(eager(pixels()).logits, model(pixels()).logits, rtol=1e-4, atol=1e-5)
        model.set_attn_implementation("eager")
        torch.testing.assert_close(model.backbone(pixels(), output_attentions=True).attentions, maps)
    # 3 layers; 4 heads; 4 x 4 patches and the class token; each row is a distribution.
    assert [tuple(layer.shape) for layer in maps] == [(2, 4, 17, 17)] * 3
    torch.testing.assert_close(maps[1].sum(-1), torch.ones(2, 4, 17))


def test_an_image_below_one_patch_is_named() -> None:
    with pytest.raises(PixelShapeError, match=r"\(2, 3, 8, 8\), smaller than a patch of 16 pixels"):
        ViTForLesionClassification(a_config())(pixels(8))


# ------------------------------------------------- stochastic depth, checkpointing


def test_stochastic_depth_drops_whole_branches_of_an_image_and_rises_with_depth() -> None:
    model = ViTForLesionClassification(a_config(drop_path_rate=0.6))
    plain = ViTForLesionClassification(a_config())
    assert list(model.state_dict()) == list(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(pixels()).logits, plain.eval()(pixels()).logits)
    shares = []
    for layer in model.backbone.layers:
        torch.manual_seed(0)
        branch = layer.dropout.train()(torch.ones(4000, 5, 2))
        kept = branch[:, 0, 0] != 0
        assert torch.equal(branch, kept[:, None, None] * branch[kept][0, 0, 0] * torch.ones_like(branch))
        torch.testing.assert_close(branch.mean(), torch.tensor(1.0), rtol=0.1, atol=0)
        shares.append(1 - kept.float().mean().item())
    assert shares == pytest.approx([0.0, 0.3, 0.6], abs=0.03)
    assert all(isinstance(layer.dropout, nn.Dropout) for layer in plain.backbone.layers)


def test_checkpointing_computes_layers_twice_and_the_same_gradients() -> None:
    torch.manual_seed(0)
    model = ViTForLesionClassification(a_config()).train()
    calls: list[int] = []
    model.backbone.layers[1].layernorm_after.register_forward_hook(lambda *_: calls.append(1))
    grads = []
    for enabled in (False, True):
        if enabled:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(pixels(), labels=torch.tensor([0, 2])).loss.backward()
        grads.append({name: value.grad.clone() for name, value in model.named_parameters()})
        assert len(calls) == (3 if enabled else 1)
    for name, value in grads[0].items():
        torch.testing.assert_close(grads[1][name], value, rtol=1e-5, atol=1e-7, msg=name)


# --------------------------------------------------------------- first weights


def test_a_checkpoint_with_another_head_keeps_all_but_the_head(melanoma_vit: tuple[Path, Any]) -> None:
    folder, vit = melanoma_vit
    torch.manual_seed(4)
    model = ViTForLesionClassification.from_backbone(a_config(), folder)
    for name, value in vit.vit.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value), name
    assert model.head.weight.shape == (4, 48)
    origin = model.config.initialised_from
    assert origin.startswith("vit-melanoma (sha256 ")
    assert origin.endswith("), its 3-class head replaced by 4 classes")
    assert model.pixel_statistics() == ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    assert (model.config.hidden_size, model.config.backbone) == (48, "vit_48x3_patch16_64")


def test_a_checkpoint_of_as_many_classes_loses_its_head_by_default(melanoma_vit: tuple[Path, Any]) -> None:
    _, vit = melanoma_vit
    labels = {"id2label": {0: "mel", 1: "nv", 2: "bkl"}, "label_groups": {}}
    new = ViTForLesionClassification.from_vit(vit, a_config(**labels), source="here")
    assert new.config.initialised_from == "here, its 3-class head replaced by 3 classes"
    assert not torch.equal(new.head.weight, vit.classifier.weight)
    kept = ViTForLesionClassification.from_vit(vit, a_config(**labels), keep_head=True)
    assert torch.equal(kept.head.weight, vit.classifier.weight)
    with pytest.raises(LesionConfigError, match=r"head has 3 classes and the labels are 4 \(mel, nv, akiec, bkl\)"):
        ViTForLesionClassification.from_vit(vit, a_config(), keep_head=True)


def test_another_image_size_interpolates_the_position_embeddings(melanoma_vit: tuple[Path, Any]) -> None:
    folder, vit = melanoma_vit
    model = ViTForLesionClassification.from_backbone(a_config(image_size=96), folder).eval()
    assert model.config.initialised_from.endswith("position embeddings interpolated from 64 to 96 px")
    with torch.no_grad():
        expected = vit.vit(pixels(96), interpolate_pos_encoding=True).last_hidden_state[:, 0]
        torch.testing.assert_close(model(pixels(96)).features, expected, rtol=0, atol=5e-6)


def test_interpolated_positions_keep_the_class_token_and_a_constant() -> None:
    positions = torch.cat([torch.full((1, 1, 2), 7.0), torch.full((1, 9, 2), -3.0)], dim=1)
    expected = torch.cat([torch.full((1, 1, 2), 7.0), torch.full((1, 25, 2), -3.0)], dim=1)
    torch.testing.assert_close(resample_positions(positions, 5), expected)
    assert resample_positions(positions, 3) is positions


def test_a_checkpoint_without_head_or_image_processor_will_do(tmp_path: Path) -> None:
    ViTModel(ViTConfig(image_size=64, **TINY)).save_pretrained(tmp_path / "in21k")
    model = ViTForLesionClassification.from_backbone(a_config(), tmp_path / "in21k")
    assert model.config.initialised_from.startswith("in21k (sha256 ")
    assert model.pixel_statistics() == ([0.5] * 3, [0.5] * 3)


def test_half_precision_checkpoints_train_in_single(melanoma_vit: tuple[Path, Any], tmp_path: Path) -> None:
    a_vit().half().save_pretrained(tmp_path)
    model = ViTForLesionClassification.from_backbone(a_config(), tmp_path)
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_what_is_no_vit_checkpoint_is_one_line(melanoma_vit: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = melanoma_vit
    ours, cut, lacking, empty = (tmp_path / name for name in ("ours", "cut", "lacking", "empty"))
    ViTForLesionClassification(a_config()).save_pretrained(ours)
    shutil.copytree(folder, cut)
    (cut / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    shutil.copytree(folder, lacking)
    state = load_file(lacking / "model.safetensors")
    del state["vit.layernorm.weight"]
    save_file(state, lacking / "model.safetensors", metadata={"format": "pt"})
    empty.mkdir()
    (empty / "config.json").write_text(json.dumps({"model_type": "vit"}))
    origin = {
        "timm": '"timm" has no ViT',
        "nobody/nothing": "nobody/nothing: no ViT checkpoint can be read there",
        str(tmp_path / "nowhere"): "nowhere: no ViT checkpoint can be read there",
        str(ours): "ours: its model_type is 'lesion_vit', not 'vit'",
        str(cut): "bytes where its header promises",
        str(lacking): "1 of the ViT's weights are missing (first: vit.layernorm.weight)",
        str(empty): "empty: its weights cannot be loaded",
    }
    for weights, expected in origin.items():
        with pytest.raises(BackboneWeightsError) as caught:
            ViTForLesionClassification.from_backbone(a_config(), weights)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(BackboneWeightsError, match="no part that takes metadata_weights"):
        ViTForLesionClassification.from_backbone(a_config(), None, metadata_weights="x")


# --------------------------------------------------------------- configuration


def test_the_published_architecture_is_the_default() -> None:
    config = ViTLesionConfig(num_labels=12)
    assert (config.backbone, config.image_size, config.dropout) == ("vit_large_patch32_384", 384, 0.0)
    with torch.device("meta"):
        model = ViTForLesionClassification(config)
        original = ViTForImageClassification(ViTConfig(num_labels=12, **{f: getattr(config, f) for f in PUBLISHED}))
    assert model.num_parameters() == original.num_parameters() == 305_619_980


PUBLISHED = (
    "image_size",
    "patch_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 30}, "hidden_size 30 is no multiple of num_attention_heads 4"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"patch_size": "16"}, "patch_size is '16'"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate is 1.0; give a probability in \[0, 1\)"),
        ({"backbone": "resnet50"}, "backbone is 'resnet50'.* the fields describe vit_32x3_patch16_64"),
        ({"backbone_kwargs": {"bn_eps": 0.1}}, "leave both out"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(LesionConfigError, match=named):
        a_config(**changes)


def test_patches_must_tile_the_image() -> None:
    with pytest.raises(
        LesionConfigError, match=r"image_size 100 is no multiple of .* patch_size 16; give e\.g\. 96 or 112"
    ):
        ViTForLesionClassification(a_config(image_size=100))


def test_layer_groups_run_from_the_embeddings_to_the_head() -> None:
    model = ViTForLesionClassification(a_config(num_hidden_layers=11))
    groups = model.layer_groups()
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in model.named_parameters())
    assert len(groups) == 13
    assert "backbone.embeddings.position_embeddings" in groups[0]
    assert {name.split(".")[2] for name in groups[2]} == {"1"}
    assert {name.split(".")[2] for name in groups[11]} == {"10"}
    assert set(groups[12]) == {"backbone.layernorm.weight", "backbone.layernorm.bias", "head.weight", "head.bias"}
