"""The image classifier on any backbone: the shared model tests, and every vision tower against transformers' own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from lesion_explain_tester import left_behind
from lesion_model_tester import LABELS, ClassifierTester
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, CLIPImageProcessor

from hub_models import (
    BackboneWeightsError,
    ImageForLesionClassification,
    ImageLesionConfig,
    LesionConfigError,
    PixelShapeError,
    UnknownBackboneError,
    describe_backbone,
)
from hub_models.tower_image import TOWERS

MEAN, STD = [0.4, 0.5, 0.6], [0.1, 0.2, 0.3]
TOKENS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "patch_size": 16}
WIDE = {**TOKENS, "intermediate_size": 48}
STAGES = {"depths": [1, 1, 2, 1], "hidden_sizes": [8, 16, 24, 32]}
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 8,
}
CLIP_TOWER = {"model_type": "clip_vision_model", "image_size": 64, **WIDE}


def dual(name: str, vision: dict[str, Any], **more: Any) -> Any:
    config = getattr(transformers, f"{name}Config")(vision_config=vision, text_config=TEXT, **more)
    return getattr(transformers, f"{name}Model")(config)


def single(name: str, ending: str = "Model", **values: Any) -> Any:
    return getattr(transformers, name + ending)(getattr(transformers, f"{name}Config")(**values))


# Model type -> a tiny random checkpoint of its architecture, as it lies on the Hub.
CHECKPOINTS: dict[str, Callable[[], Any]] = {
    "bit": lambda: single("Bit", embedding_size=8, hidden_sizes=[32, 32, 64, 64], depths=[1, 1, 1, 1], num_groups=4),
    "clip_vision_model": lambda: dual("CLIP", {**WIDE, "image_size": 64}, projection_dim=12),
    "convnext": lambda: single("ConvNext", "ForImageClassification", image_size=64, **STAGES),
    "convnextv2": lambda: single("ConvNextV2", image_size=64, **STAGES),
    "dinov2": lambda: single("Dinov2", image_size=64, **TOKENS),
    "dinov2_with_registers": lambda: single("Dinov2WithRegisters", image_size=64, **TOKENS),
    "dinov3_convnext": lambda: single("DINOv3ConvNext", image_size=64, **STAGES),
    "dinov3_vit": lambda: single("DINOv3ViT", image_size=64, num_register_tokens=2, **WIDE),
    "siglip_vision_model": lambda: dual("Siglip", {**WIDE, "image_size": 64}),
    "siglip2_vision_model": lambda: dual("Siglip2", {**WIDE, "num_patches": 16}),
    "swin": lambda: single("Swin", image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1, 2, 2, 2], window_size=2),
    "vit": lambda: single("ViT", "ForImageClassification", image_size=64, **WIDE),
}
ROLLED_OUT = {"clip_vision_model", "dinov2", "dinov2_with_registers", "vit"}


class TestImage(ClassifierTester):
    config_class = ImageLesionConfig
    model_class = ImageForLesionClassification
    config_kwargs = {"tower": CLIP_TOWER, "projection_dim": 12}
    own_files = {"checkpoint_image.py", "configuration_image.py", "modeling_image.py", "tower_image.py"}
    learning_rate = 1e-2
    explanations = ("grad_cam", "hires_cam", "attention_rollout")


def checkpoint(model_type: str, folder: Path) -> Any:
    """A tiny checkpoint in a folder: config.json, model.safetensors, preprocessor_config.json; and the model itself."""
    torch.manual_seed(0)
    model = CHECKPOINTS[model_type]().eval()
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    CLIPImageProcessor(size={"shortest_edge": 72}, crop_size=size, image_mean=MEAN, image_std=STD).save_pretrained(
        folder
    )
    return model


def pixels(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def own_features(model_type: str, model: Any) -> torch.Tensor:
    """What transformers itself pools of the same images."""
    if model_type == "siglip2_vision_model":
        patches = pixels().unflatten(3, (4, 16)).unflatten(2, (4, 16)).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, -1)
        output = model.vision_model(patches, torch.ones(2, 16).long(), torch.tensor([[4, 4]] * 2))
    else:
        part = {"clip_vision_model": "vision_model", "siglip_vision_model": "vision_model"}
        part |= {"convnext": "convnext", "vit": "vit"}
        output = (getattr(model, part[model_type]) if model_type in part else model)(pixels())
    return output.last_hidden_state[:, 0] if output.get("pooler_output") is None else output.pooler_output.flatten(1)


def test_every_tower_has_a_tiny_checkpoint() -> None:
    assert set(CHECKPOINTS) == set(TOWERS)


@pytest.mark.parametrize("model_type", sorted(TOWERS))
def test_a_tower_gives_its_own_features_and_has_every_hook(model_type: str, tmp_path: Path) -> None:
    original = checkpoint(model_type, tmp_path / "tower")
    found = describe_backbone(f"transformers/{tmp_path / 'tower'}")
    assert (found.preprocessing.mean, found.preprocessing.std, found.preprocessing.size) == (MEAN, STD, 64)
    assert str(tmp_path) not in json.dumps(found.fields)
    config = ImageLesionConfig(id2label=dict(enumerate(LABELS)), image_size=64, **found.fields)
    model = ImageForLesionClassification.from_backbone(config, found.weights).eval()
    assert model.config.initialised_from.startswith("tower (sha256 ")
    assert model.pixel_statistics() == (MEAN, STD)
    model.give_early = True
    with torch.no_grad():
        expected, output = own_features(model_type, original), model(pixels(), output_hidden_states=True)
    model.give_early = False
    torch.testing.assert_close(output.features, expected, rtol=1e-4, atol=1e-5)
    # A quarter of the way up, or an eighth of the size.
    tokens, stages = TOWERS[model_type].tokens, output.hidden_states
    early = stages[1] if tokens or model_type != "swin" else stages[0]
    over = (1,) if early.ndim == 3 else (2, 3)
    torch.testing.assert_close(output.early, torch.cat([early.mean(over), early.std(over, correction=0)], 1))
    assert early.shape[2:] == (8, 8) or early.ndim == 3
    before = left_behind(model)
    assert ("attention_rollout" in model.explanation_methods()) == (model_type in ROLLED_OUT)
    for method in model.explanation_methods():
        heat = model.explain(pixels(), method=method, target=1).heat_maps
        assert heat.shape == (2, 64, 64)
        assert heat.max() == 1
    assert left_behind(model) == before
    groups = model.layer_groups()
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in model.named_parameters())
    assert len(groups) >= 5
    assert groups[-1][-2:] == ["head.weight", "head.bias"]
    model.save_pretrained(tmp_path / "ours")
    shutil.rmtree(tmp_path / "tower")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.equal(again(pixels()).logits, output.logits)
        assert again(pixels(96)).features.shape == output.features.shape


def test_the_projection_of_a_dual_encoder_gives_its_image_embeddings(tmp_path: Path) -> None:
    clip = checkpoint("clip_vision_model", tmp_path)
    found = describe_backbone(f"transformers/{tmp_path}")
    config = ImageLesionConfig(image_size=64, num_labels=2, projection_dim=12, normalise_features=True, **found.fields)
    model = ImageForLesionClassification.from_backbone(config, found.weights).eval()
    with torch.no_grad():
        embeddings = clip.visual_projection(clip.vision_model(pixels()).pooler_output)
        features = model(pixels()).features
    torch.testing.assert_close(features, embeddings / embeddings.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "classes"), [("vit_tiny_patch16_224", 3), ("timm/eva02_tiny_patch14_224", 0)])
def test_a_transformer_of_timm_has_the_hooks_of_tokens(name: str, classes: int, tmp_path: Path) -> None:
    found = describe_backbone(name)
    assert found.preprocessing.size == 224
    config = ImageLesionConfig(image_size=112, num_labels=2, **found.fields)
    torch.manual_seed(0)
    model = ImageForLesionClassification(config).eval()
    model.give_early = True
    with torch.no_grad():
        output = model(pixels(112), output_hidden_states=True)
    early = output.hidden_states[3]
    torch.testing.assert_close(output.early[:, :192], early.mean(1))
    assert model.explain(pixels(112), method="grad_cam").heat_maps.shape == (2, 112, 112)
    assert len(model.layer_groups()) == 14
    # A file of another image size, with timm's keys: positions are resampled.
    other = timm.create_model(name.removeprefix("timm/"), num_classes=classes)
    save_file(other.state_dict(), tmp_path / "timm.safetensors")
    loaded = ImageForLesionClassification.from_backbone(config, tmp_path / "timm.safetensors")
    assert torch.equal(loaded.backbone.blocks[0].norm1.weight, other.blocks[0].norm1.weight)
    assert torch.equal(loaded.backbone.patch_embed.proj.weight, other.patch_embed.proj.weight)
    assert loaded.config.initialised_from.startswith("timm.safetensors (sha256 ")


def test_a_file_in_the_format_of_open_clip(tmp_path: Path) -> None:
    """As DermLIP ViT-B/16 lies on the Hub: image and text encoder in one file, under the names of the CLIP paper."""
    clip = timm.create_model("vit_xsmall_patch16_clip_224", num_classes=7)
    names = {"patch_embed.proj": "conv1", "blocks.": "transformer.resblocks.", "norm_pre": "ln_pre", "qkv.": "in_proj_"}
    names |= {"attn.proj": "attn.out_proj", "fc1": "c_fc", "fc2": "c_proj", "norm1": "ln_1", "norm2": "ln_2"}
    state = {"token_embedding.weight": torch.ones(5, 4)}
    for name, value in clip.state_dict().items():
        if name == "head.weight":
            state["visual.proj"] = value.T.contiguous()
        elif name in ("cls_token", "pos_embed"):
            one = {"cls_token": "class_embedding", "pos_embed": "positional_embedding"}[name]
            state[f"visual.{one}"] = value[0, 0] if name == "cls_token" else value[0]
        elif name != "head.bias":
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            state[f"visual.{name.replace('norm.', 'ln_post.')}"] = value
    save_file(state, tmp_path / "open_clip_model.safetensors")
    config = ImageLesionConfig(image_size=224, num_labels=2, **describe_backbone("vit_xsmall_patch16_clip_224").fields)
    loaded = ImageForLesionClassification.from_backbone(config, tmp_path / "open_clip_model.safetensors")
    for name, value in loaded.backbone.state_dict().items():
        assert torch.equal(value, clip.state_dict()[name]), name


def test_a_folder_in_the_format_of_timm(tmp_path: Path) -> None:
    cnn = timm.create_model("mobilenetv2_035", num_classes=5)
    save_file(cnn.state_dict(), tmp_path / "model.safetensors")
    settings = {"mean": MEAN, "std": STD, "input_size": [3, 96, 96], "classifier": "classifier"}
    stored = {"architecture": "mobilenetv2_035", "model_args": {"drop_path_rate": 0.1}, "pretrained_cfg": settings}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    found = describe_backbone(f"local-dir:{tmp_path}")
    assert found.fields == {"backbone": "mobilenetv2_035", "backbone_kwargs": {"drop_path_rate": 0.1}}
    model = ImageForLesionClassification.from_backbone(ImageLesionConfig(num_labels=2, **found.fields), found.weights)
    assert torch.equal(model.backbone.conv_stem.weight, cnn.conv_stem.weight)
    assert (model.pixel_statistics(), found.preprocessing.size) == ((MEAN, STD), 96)


@pytest.mark.parametrize(("blocks", "trained"), [(None, 4), (4, 4), (1, 1), (0, 0)])
def test_the_last_blocks_alone_are_trained(blocks: int | None, trained: int) -> None:
    model = ImageForLesionClassification(ImageLesionConfig(tower=CLIP_TOWER, image_size=64, trainable_blocks=blocks))
    model.train()
    layers = [all(p.requires_grad for p in layer.parameters()) for layer in model.backbone.encoder.layers]
    assert layers == [False] * (4 - trained) + [True] * trained
    free = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {"head.weight", "head.bias"} <= free
    assert ("backbone.embeddings.class_embedding" in free) == (blocks is None)
    assert ("backbone.post_layernorm.weight" in free) == (trained > 0)
    assert [layer.training for layer in model.backbone.encoder.layers] == layers


def test_single_parameters_before_the_blocks_are_frozen_too() -> None:
    model = ImageForLesionClassification(
        ImageLesionConfig(backbone="vit_tiny_patch16_224", image_size=64, trainable_blocks=2)
    ).train()
    free = {name.split(".")[1] for name, value in model.named_parameters() if value.requires_grad}
    assert free == {"blocks", "norm", "weight", "bias"}
    assert sum(value.requires_grad for value in model.backbone.blocks.parameters()) == 2 * 12


def test_the_last_stages_of_a_cnn_alone_are_trained() -> None:
    config = ImageLesionConfig(backbone="mobilenetv2_035", image_size=32, trainable_blocks=1)
    model = ImageForLesionClassification(config).train()
    free = {name for name, value in model.backbone.named_parameters() if value.requires_grad}
    last = [
        name for name, _ in model.backbone.named_parameters() if name.startswith(("blocks.6.", "conv_head.", "bn2."))
    ]
    assert free == set(last) != set()


# ------------------------------------------------------------------- refusals


@pytest.mark.parametrize(("backbone", "most"), [("mobilenetv2_035", 5), ("vit_tiny_patch16_224", 12)])
def test_more_blocks_than_the_backbone_has_are_refused(backbone: str, most: int) -> None:
    with pytest.raises(LesionConfigError, match=rf"trainable_blocks is 99, but {backbone} has {most} "):
        ImageForLesionClassification(ImageLesionConfig(backbone=backbone, image_size=32, trainable_blocks=99))


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("mobilnetv2_100", "did you mean mobilenetv2_100"),
        ("openai/clip", "did you mean transformers/openai/clip or hf-hub:openai/clip"),
        ("open_clip/ViT-B-16", "through timm or transformers alone"),
        ("../model", "is no name of timm"),
    ],
)
def test_an_unknown_backbone_is_answered_with_what_is_near(source: str, named: str) -> None:
    with pytest.raises(UnknownBackboneError, match=named):
        describe_backbone(source)


def test_a_gated_repository_and_a_missing_package_are_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*words: Any, **named: Any) -> Any:
        raise OSError(
            "You are trying to access a gated repo.\nMake sure to have access to it at https://hf.co/org/gated."
        )

    def lacks(*words: Any, **named: Any) -> Any:
        raise ImportError("No module named 'natten'")

    monkeypatch.setattr("hub_models.checkpoint_image.PreTrainedConfig.get_config_dict", refuses)
    with pytest.raises(BackboneWeightsError, match=r"org/gated: .* a gated repo\. .* its terms accepted") as refused:
        describe_backbone("transformers/org/gated")
    assert "\n" not in str(refused.value)
    monkeypatch.setattr("timm.create_model", lacks)
    with pytest.raises(UnknownBackboneError, match=r"needs a package that is not installed .*natten.*: pip install it"):
        ImageForLesionClassification(ImageLesionConfig(backbone="mobilenetv2_035", image_size=64))


def test_what_is_no_tower_is_one_line(tmp_path: Path) -> None:
    whole, other, lacking, pickled, bare = (
        tmp_path / name for name in ("whole", "other", "lacking", "pickled", "bare")
    )
    checkpoint("dinov2", whole)
    for folder in (other, lacking, pickled, bare):
        shutil.copytree(whole, folder)
    config = json.loads((whole / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "dinov1"}))
    with pytest.raises(UnknownBackboneError, match=r"model_type is 'dinov1', .* did you mean dinov2"):
        describe_backbone(f"transformers/{other}")
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 10**9}))
    with pytest.raises(BackboneWeightsError, match="hidden_size 1000000000"):
        describe_backbone(f"transformers/{other}")
    with pytest.raises(BackboneWeightsError, match=r"no config.json can be read there"):
        describe_backbone(f"transformers/{tmp_path}")

    fields = describe_backbone(f"transformers/{whole}").fields
    state = load_file(lacking / "model.safetensors")
    state.pop("layernorm.weight")
    save_file(state, lacking / "model.safetensors", metadata={"format": "pt"})
    (pickled / "model.safetensors").unlink()
    torch.save(state, pickled / "pytorch_model.bin")
    for folder, message in ((lacking, r"1 of .* \(first: layernorm.weight\)"), (pickled, "model.safetensors")):
        with pytest.raises(BackboneWeightsError, match=message) as refused:
            ImageForLesionClassification.from_backbone(ImageLesionConfig(image_size=64, **fields), folder)
        assert "\n" not in str(refused.value)
    (bare / "preprocessor_config.json").unlink()
    assert describe_backbone(f"transformers/{bare}").preprocessing is None
    model = ImageForLesionClassification.from_backbone(ImageLesionConfig(image_size=64, **fields), bare)
    with pytest.raises(BackboneWeightsError, match="give image_mean, image_std and image_size"):
        model.pixel_statistics()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tower": "google/vit"}, "tower has the model_type 'google/vit'"),
        ({"tower": {"model_type": "clip"}}, "did you mean clip"),
        ({"tower": {"model_type": "blip_2"}}, "model_type 'blip_2'"),
        ({"tower": {**CLIP_TOWER, "auto_map": {"AutoModel": "x.Y"}}}, "tower has 'auto_map'"),
        ({"tower": {**CLIP_TOWER, "_attn_implementation": "org/kernel"}}, "tower has '_attn_implementation'"),
        ({"tower": {**CLIP_TOWER, "transformers_weights": "../x"}}, "tower has 'transformers_weights'"),
        ({"tower": {**CLIP_TOWER, "hidden_size": 10**9}}, "hidden_size 1000000000"),
        ({"tower": {**CLIP_TOWER, "num_hidden_layers": 10**6}}, "num_hidden_layers 1000000"),
        ({"tower": {**CLIP_TOWER, "hidden_act": "os.system"}}, "hidden_act 'os.system'"),
        ({"tower": {**CLIP_TOWER, "hidden_act": "system"}}, "hidden_act 'system'"),
        ({"tower": {**CLIP_TOWER, "layer_norm_eps": float("nan")}}, "layer_norm_eps nan"),
        ({"tower": {**CLIP_TOWER, "num_channels": 4}}, "num_channels 4"),
        ({"tower": {"model_type": "swin", "depths": [10**6]}}, "depths"),
        ({"tower": {"model_type": "swin", "window_size": 200}}, "window_size 200"),
        ({"tower": {"model_type": "convnext", "hidden_sizes": [8] * 17}}, "hidden_sizes"),
        ({"tower": CLIP_TOWER, "backbone_kwargs": {"drop_rate": 0.1}}, "the tower is a clip_vision_model"),
        ({"backbone": "hf-hub:org/name"}, "backbone is 'hf-hub:org/name'"),
        ({"backbone": "transformers/org/name"}, "backbone is 'transformers/org/name'"),
        ({"projection_dim": -1}, "projection_dim is -1"),
        ({"normalise_features": "no"}, "normalise_features is 'no'"),
        ({"trainable_blocks": 10**9}, "trainable_blocks is 1000000000"),
    ],
)
def test_a_hostile_config_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(LesionConfigError, match=named):
        ImageLesionConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 65_536, "num_hidden_layers": 100, "intermediate_size": 65_536}, "parameters"),
        ({"num_attention_heads": 0}, "tower cannot be"),
        ({"num_attention_heads": 5}, "multiple of the number of attention"),
        ({"hidden_size": 32.5}, "hidden_size"),
    ],
)
def test_an_impossible_tower_is_refused_before_memory_is_taken(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(LesionConfigError, match=named):
        ImageForLesionClassification(ImageLesionConfig(tower={**CLIP_TOWER, **changes}))


def test_images_below_a_patch_or_a_window_are_named() -> None:
    with pytest.raises(PixelShapeError, match="at least 16 x 16"):
        ImageForLesionClassification(ImageLesionConfig(tower=CLIP_TOWER, image_size=64))(pixels(8))
    tower = {"model_type": "swin", "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2}
    with pytest.raises(PixelShapeError, match="at least 33 x 33"):
        ImageForLesionClassification(ImageLesionConfig(tower=tower, image_size=64))(pixels(32))
