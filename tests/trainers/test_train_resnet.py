"""The ISIC 2017 run on a few drawn images: frozen backbone, challenge measures in report, card and files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from card_text import folder_card
from transformers import AutoModelForImageClassification

from datasets_scripts.build_phantom import main as build_phantom
from hub_models import ResNetForLesionClassification, ResNetLesionConfig
from model_cards.verify import verify_folder
from trainers.evaluation.isic2017_submission import pair, score
from trainers.metrics.predictions import read_predictions
from trainers.training.arguments import RECIPES
from trainers.training.train import classifier, run

TINY = {
    "backbone": "resnet10t",
    "backbone_weights": "none",
    "image_size": "32",
    "num_train_epochs": "1",
    "per_device_train_batch_size": "16",
    "bootstrap_replicates": "50",
    "dataloader_num_workers": "0",
    "disable_tqdm": "true",
    "precision": "fp32",
    "config_name": "grouped",
    "seed": "7",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("isic2017")
    build_phantom(["--task", "isic2017_ham", "--images", "96", "--size", "48x36", "--out", str(folder / "data")])
    words = [word for name, value in TINY.items() for word in (f"--{name}", value)]
    command = ["--recipe", "resnet_frozen", *words, "--dataset", str(folder / "data")]
    task = classifier(ResNetForLesionClassification)
    return run([*command, "--output_dir", str(folder / "model")], "resnet", task)


def test_the_folder_is_whole_and_the_card_shows_the_challenges_numbers(finished: Path) -> None:
    assert verify_folder(finished) == []
    challenge = json.loads((finished / "report.json").read_text())["evaluation"]["test"]["isic2017"]
    card = folder_card(finished)
    assert "### The ISIC 2017 challenge's measures" in card
    assert "**Not a score on the challenge.** `bkl` stands in" in card
    assert f"| Mean of the two AUCs | {challenge['auc_mean']['value']:.3f}" in card
    assert "![roc test](figures/roc_test.png)" in card


def test_the_submission_scores_what_the_report_says(finished: Path, tmp_path: Path) -> None:
    """results.csv through the public command's own functions, against a truth from the stored predictions."""
    rows = read_predictions(finished / "predictions_test.parquet")
    with (tmp_path / "truth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "melanoma", "seborrheic_keratosis"])
        names = [rows.labels[label] for label in rows.label]
        writer.writerows([i, int(n == "mel"), int(n == "bkl")] for i, n in zip(rows.image_id, names, strict=True))
    found = score(*pair(finished / "results.csv", tmp_path / "truth.csv"), threshold=0.5, replicates=20)
    challenge = json.loads((finished / "report.json").read_text())["evaluation"]["test"]["isic2017"]
    for name in ("auc_melanoma", "auc_keratosis", "auc_mean"):
        assert found[name]["value"] == pytest.approx(challenge[name]["value"], abs=1e-6)
    assert found["at_threshold"]["recall"]["value"] == challenge["at_threshold"]["recall"]["value"]


def test_the_frozen_backbone_is_the_one_it_began_with(finished: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(finished)
    assert isinstance(model, ResNetForLesionClassification)
    assert model.config.freeze_backbone is True
    assert model.config.hidden_sizes == [512, 256]
    torch.manual_seed(0)
    fresh = ResNetForLesionClassification(ResNetLesionConfig(num_labels=3, backbone="resnet10t"))
    for name, value in fresh.backbone.named_buffers():
        # Not one batch has moved the statistics of normalisation from where a new network has them.
        assert torch.equal(model.backbone.get_buffer(name), value), name
    assert not torch.equal(model.head.logits.bias, torch.zeros(3)), "the head was trained"


@pytest.mark.parametrize(
    ("name", "frozen", "layers", "schedule"),
    [("resnet_frozen", True, 2, "constant"), ("resnet", False, 1, "cosine"), ("resnet_cpu", False, 1, None)],
)
def test_the_recipes_are_the_published_one_and_the_one_wished_for(
    name: str, frozen: bool, layers: int, schedule: str | None
) -> None:
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    config = ResNetLesionConfig(num_labels=3, backbone=recipe["backbone"], **recipe["model_config"])
    assert config.freeze_backbone is frozen
    assert len(config.hidden_sizes) == layers
    assert recipe.get("lr_scheduler_type") == schedule  # none named: the suite's default, a cosine
    assert recipe["follows"] == "isic2017-resnet50"
    assert (recipe["backbone"] == "resnet50") == ("stand-in" not in recipe["title"])
