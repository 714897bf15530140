"""A classifier on a vision tower, from its tiny checkpoint to the finished folder; its options and what they refuse."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from card_text import folder_card
from transformers import AutoModelForImageClassification, CLIPImageProcessor, Dinov2Config, Dinov2Model, set_seed

from datasets_scripts.command import UserError
from hub_models import ImageForLesionClassification, ImageLesionConfig
from model_cards.verify import verify_folder
from trainers.model_folder.data import load_splits
from trainers.model_folder.pretraining import IMAGENET, NONE, UNKNOWN, pretraining
from trainers.model_folder.provenance import _without_machine
from trainers.training.arguments import parse
from trainers.training.image_arguments import ImageArguments
from trainers.training.lora import add_lora, merge_lora
from trainers.training.train import build_model, build_trainer, classifier, run, run_trainer

SMALL = (
    *("--num_train_epochs", "2", "--bootstrap_replicates", "20", "--dataloader_num_workers", "0", "--augmentation"),
    *("none", "--disable_tqdm", "true", "--precision", "fp32", "--learning_rate", "1e-3", "--layer_decay", "0.5"),
)


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINOv2 with its image processor."""
    folder = tmp_path_factory.mktemp("checkpoints") / "dino"
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=28, patch_size=7)
    Dinov2Model(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.2, 0.3]
    CLIPImageProcessor(size=size, do_center_crop=False, image_mean=mean, image_std=std).save_pretrained(folder)
    return folder


def test_a_tower_becomes_a_finished_folder_that_does_not_need_it(
    dino: Path, phantom_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = shutil.copytree(dino, tmp_path / "source")
    words = ["--backbone", f"transformers/{source}", "--image_size", "32", "--trainable_blocks", "2", *SMALL]
    words += ["--dataset", str(phantom_dataset), "--output_dir", str(tmp_path / "model")]
    out = run(words, "image", classifier(ImageForLesionClassification, ImageArguments))
    before = Dinov2Model.from_pretrained(source)
    shutil.rmtree(source)
    assert verify_folder(out) == []
    model = AutoModelForImageClassification.from_pretrained(out)
    assert type(model) is ImageForLesionClassification
    kept, trained = (model.backbone.encoder.layer[number].mlp.fc1.weight for number in (0, 2))
    assert torch.equal(kept, before.encoder.layer[0].mlp.fc1.weight)
    assert not torch.equal(trained, before.encoder.layer[2].mlp.fc1.weight)
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert (processor["image_mean"], processor["image_std"]) == ([0.4, 0.5, 0.6], [0.2, 0.2, 0.3])
    assert processor["size"] == {"height": 32, "width": 32}
    everything = "".join(path.read_text() for path in out.iterdir() if path.suffix in (".json", ".md"))
    assert str(tmp_path) not in everything
    report = json.loads((out / "report.json").read_text())
    assert report["model"]["initialised_from"].startswith("source (sha256 ")
    assert report["model"]["base_model"] is None
    assert report["provenance"]["recipe"]["backbone"] == "transformers/source"
    assert f"| Pre-training images | {UNKNOWN} |" in folder_card(out)


def lora_trainer(dino: Path, dataset: Path, out: Path) -> tuple[Any, ...]:
    words = ["--backbone", f"transformers/{dino}", "--image_size", "32", "--lora_rank", "2", *SMALL]
    words += ["--dataset", str(dataset), "--output_dir", str(out)]
    words += ["--load_best_model_at_end", "false", "--save_total_limit", "9"]
    options, training, _ = parse(words, "image", ImageArguments)
    splits = load_splits(options.dataset, options.config_name)
    set_seed(training.seed)
    model, processor = build_model(options, splits, ImageForLesionClassification)
    return build_trainer(model, processor, splits, options, training), options, training, splits, out


def test_adapters_are_trained_resumed_and_merged_into_plain_weights(
    dino: Path, phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lora_trainer(dino, phantom_dataset, tmp_path / "whole")
    run_trainer(*whole, None)
    first = min((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    again = lora_trainer(dino, phantom_dataset, tmp_path / "again")
    run_trainer(*again, str(first))
    model = again[0].model.eval()
    for name, value in whole[0].model.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(pixel_values=pixels).raw_logits
        merge_lora(model).save_pretrained(tmp_path / "merged")
    monkeypatch.setitem(sys.modules, "peft", None)  # a user need not have it
    plain = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    with torch.inference_mode():
        assert torch.allclose(plain(pixel_values=pixels).raw_logits, expected, atol=1e-5)
    before = Dinov2Model.from_pretrained(dino).encoder.layer[0]
    after = plain.backbone.encoder.layer[0]
    change = (after.attention.q_proj.weight - before.attention.q_proj.weight).detach()
    assert torch.linalg.matrix_rank(change, atol=1e-6, rtol=0) == 2
    assert torch.equal(after.mlp.fc1.weight, before.mlp.fc1.weight)


TINY_LAYERS = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "patch_size": 4}


@pytest.mark.parametrize(
    ("described", "adapters"),
    [
        ({"tower": {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8, **TINY_LAYERS}}, 8),
        ({"tower": {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8, **TINY_LAYERS}}, 8),
        ({"tower": {"model_type": "vit", "image_size": 32, "patch_size": 8, **TINY_LAYERS}}, 8),
        ({"tower": {"model_type": "swin", "image_size": 32, **TINY_SWIN}}, 8),
        ({"backbone": "vit_tiny_patch16_224", "image_size": 32}, 24),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_adapter_changes_nothing_at_first_and_nothing_by_being_merged(
    described: dict[str, Any], adapters: int
) -> None:
    labels = {"id2label": {0: "nv", 1: "mel"}, "label2id": {"nv": 0, "mel": 1}}
    model = ImageForLesionClassification(ImageLesionConfig(**{"image_size": 32, **labels, **described})).eval()
    names, pixels = list(model.state_dict()), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model(pixel_values=pixels).raw_logits
        add_lora(model, 2)
        assert torch.allclose(model(pixel_values=pixels).raw_logits, before, atol=1e-6)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert sum("lora_B" in name for name in trained) == adapters
    assert {name for name in trained if "lora_" not in name} == {"head.weight", "head.bias"}
    for name, value in trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    with torch.no_grad():
        adapted = model(pixel_values=pixels).raw_logits
        merged = merge_lora(model)(pixel_values=pixels).raw_logits
    assert not torch.allclose(adapted, before, atol=1e-3)
    assert torch.allclose(merged, adapted, atol=1e-5)
    assert list(model.state_dict()) == names


def test_adapters_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ImageForLesionClassification(ImageLesionConfig(backbone="mobilenetv2_035", image_size=32))
    with pytest.raises(UserError, match="lora_rank: mobilenetv2_035 has no linear layers of attention"):
        add_lora(model, 2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="lora_rank 4 needs the package peft: pip install peft"):
        ImageArguments(lora_rank=4)


def test_what_the_backbone_decides_is_taken_from_its_files(dino: Path) -> None:
    options = ImageArguments(backbone=f"transformers/{dino}")
    options.settle_backbone()
    assert (options.image_size, options.backbone_weights) == (28, str(dino))
    assert options.backbone_fields()["tower"]["model_type"] == "dinov2"
    assert options.pixel_statistics() is None
    given = ImageArguments(backbone="vit_tiny_patch16_224", image_mean="0.1,0.2,0.3", image_std="1,1,1")
    given.settle_backbone()
    assert (given.image_size, given.backbone_weights) == (224, "timm")
    assert given.pixel_statistics() == ([0.1, 0.2, 0.3], [1.0, 1.0, 1.0])
    assert "found" not in {option.name for option in fields(given)}


def test_a_tower_without_an_image_processor_must_be_told_its_size(dino: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(dino, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="states no image size of its own; give --image_size"):
        ImageArguments(backbone=f"transformers/{bare}").settle_backbone()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"trainable_blocks": -2}, "trainable_blocks -2"),
        ({"lora_rank": -1}, "lora_rank -1"),
        ({"lora_rank": 4, "trainable_blocks": 1}, "lora_rank 4, trainable_blocks 1"),
        ({"image_mean": "0.5"}, "image_mean '0.5'"),
        ({"image_mean": "0.5,0.5,0.5"}, "image_std ''"),
        ({"image_mean": "0.5,0.5,0.5", "image_std": "1,0,1"}, "image_std '1,0,1'"),
        ({"image_size": 16}, "image_size 16"),
    ],
)
def test_impossible_options_are_refused_by_name(values: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        ImageArguments(**values)  # type: ignore[arg-type]


def test_an_unknown_backbone_is_one_line() -> None:
    with pytest.raises(UserError, match="did you mean mobilenetv2_100"):
        ImageArguments(backbone="mobilnetv2_100").backbone_fields()


@pytest.mark.parametrize(
    ("weights", "base", "expected"),
    [
        ("none", None, NONE),
        ("timm", "timm/mobilenetv2_100.ra_in1k", IMAGENET),
        ("timm", "timm/vit_base_patch16_224.augreg_in21k_ft_in1k", IMAGENET),
        ("timm", "timm/vit_base_patch16_clip_224.laion2b_ft_in1k", UNKNOWN),
        ("org/model", "org/model", UNKNOWN),
        ("weights.safetensors", None, UNKNOWN),
    ],
)
def test_what_is_known_of_the_pretraining_images(weights: str, base: str | None, expected: str) -> None:
    assert pretraining(weights, base) == expected


def test_members_of_finished_models_did_not_start_from_random_weights() -> None:
    assert pretraining("none", None, "random") == NONE
    assert pretraining("none", None, "member_0/model.safetensors (a finished model's keys)") == UNKNOWN


def test_what_authors_state_of_their_images() -> None:
    assert pretraining("x", "facebook/dinov2-small").startswith("LVD-142M")
    assert "may be among them" in pretraining("x", "redlessone/DermLIP_ViT-B-16")


def test_a_report_names_no_folder_of_the_machine() -> None:
    assert _without_machine("transformers//home/me/model") == "transformers/model"
    assert _without_machine("local-dir:/home/me/model") == "local-dir:model"
    assert _without_machine("transformers/org/model") == "transformers/org/model"
