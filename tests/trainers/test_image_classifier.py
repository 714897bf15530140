"""A classifier on a vision tower, from its tiny checkpoint to the finished folder; its options and what they refuse."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from card_text import folder_card
from transformers import AutoModelForImageClassification, CLIPImageProcessor, Dinov2Config, Dinov2Model

from datasets_scripts.command import UserError
from hub_models import ImageForLesionClassification
from model_cards.verify import verify_folder
from trainers.model_folder.pretraining import IMAGENET, NONE, UNKNOWN, pretraining
from trainers.model_folder.provenance import _without_machine
from trainers.training.image_arguments import ImageArguments
from trainers.training.train import classifier, run

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


def test_what_authors_state_of_their_images() -> None:
    assert pretraining("x", "facebook/dinov2-small").startswith("LVD-142M")
    assert "may be among them" in pretraining("x", "redlessone/DermLIP_ViT-B-16")


def test_a_report_names_no_folder_of_the_machine() -> None:
    assert _without_machine("transformers//home/me/model") == "transformers/model"
    assert _without_machine("local-dir:/home/me/model") == "local-dir:model"
    assert _without_machine("transformers/org/model") == "transformers/org/model"
