"""A deep ensemble's run on a few drawn images: members, resuming, verifying, putting together, the report."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from card_text import folder_card
from safetensors.torch import load_file
from scipy.special import softmax
from shared_fixtures import stopped_at_checkpoint
from transformers import AutoImageProcessor, AutoModelForImageClassification

from datasets_scripts.build_phantom import main as build_phantom
from datasets_scripts.command import UserError
from datasets_scripts.output import locked
from hub_models import LesionImageProcessor
from model_cards.verify import verify_folder
from trainers.metrics.predictions import read_predictions
from trainers.model_folder.mc_dropout import head_samples, read_samples, samples_file
from trainers.training.ensemble import entry, member_folder, run, same_processor
from trainers.training.trainer import LesionTrainer

OPTIONS = [
    *("--recipe", "demo", "--backbone", "test_efficientnet,test_resnet", "--members", "2"),
    *("--image_size", "32", "--num_train_epochs", "1", "--per_device_train_batch_size", "16"),
    *("--bootstrap_replicates", "50", "--dataloader_num_workers", "0", "--disable_tqdm", "true"),
    *("--precision", "fp32", "--mc_dropout_samples", "4"),
]


def command(dataset: Path, out: Path, *more: str) -> list[str]:
    return [*OPTIONS, "--dataset", str(dataset), "--output_dir", str(out), *more]


@pytest.fixture(scope="module")
def ensemble(phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished ensemble of two members; they stay beside it."""
    out = tmp_path_factory.mktemp("ensemble") / "model"
    assert run(command(phantom_dataset, out), "ensemble") == out
    return out


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 drawn images, benign or malignant."""
    out = tmp_path_factory.mktemp("binary") / "data"
    build_phantom(["--task", "isic_binary", "--images", "60", "--seed", "5", "--size", "48x36", "--out", str(out)])
    return out


def copied(ensemble: Path, folder: Path) -> Path:
    """The members alone, to be put together again."""
    shutil.copytree(member_folder(ensemble, 0).parent, folder / "model.members")
    return folder / "model"


def test_the_ensemble_is_one_whole_verified_repo(ensemble: Path) -> None:
    assert verify_folder(ensemble) == []
    assert [path.name for path in ensemble.glob("*.safetensors")] == ["model.safetensors"]
    assert not list(ensemble.parent.glob("*.partial"))
    model = AutoModelForImageClassification.from_pretrained(ensemble)
    assert model.config.backbones == ["test_efficientnet", "test_resnet"]
    whole = model.state_dict()
    for number in range(2):
        alone = load_file(member_folder(ensemble, number) / "model.safetensors")
        for name, tensor in alone.items():
            if name.startswith("trust."):
                continue  # a gate knows its own model's features alone: the ensemble has another
            together = whole[name.replace("members.0.", f"members.{number}.")]
            assert torch.equal(together, tensor.to(together.dtype)), name


def test_predictions_hold_the_members_and_the_output_their_mean(ensemble: Path) -> None:
    stored = read_predictions(ensemble / "predictions_test.parquet")
    assert stored.logits.shape[1] == 2
    for number in range(2):
        alone = read_predictions(member_folder(ensemble, number) / "predictions_test.parquet")
        assert alone.image_id.tolist() == stored.image_id.tolist()
        np.testing.assert_allclose(stored.logits[:, number], alone.logits[:, 0], atol=1e-5)
    temperature = json.loads((ensemble / "report.json").read_text())["trust"]["temperature"]["value"]
    model = AutoModelForImageClassification.from_pretrained(ensemble)
    with torch.no_grad():
        output = model(torch.randn(3, 3, 32, 32))
    mean = softmax(output.raw_logits.numpy() / temperature, axis=-1).mean(axis=1)
    np.testing.assert_allclose(softmax(output.logits.numpy(), axis=-1), mean, atol=1e-5)


def test_finished_models_are_put_together(ensemble: Path, phantom_dataset: Path, tmp_path: Path) -> None:
    members = [str(member_folder(ensemble, number)) for number in (1, 0)]
    out = tmp_path / "model"
    assert run(command(phantom_dataset, out, "--members_from", ",".join(members)), "ensemble") == out
    assert verify_folder(out) == []
    made, whole = (read_predictions(folder / "predictions_test.parquet") for folder in (out, ensemble))
    np.testing.assert_allclose(made.logits[:, ::-1], whole.logits, atol=1e-5)
    report = json.loads((out / "report.json").read_text())
    assert report["provenance"]["recipe"]["members_from"] == "member_1,member_0"
    assert "learning_rate" not in report["provenance"]["recipe"]
    assert [member["backbone"] for member in report["training"]["members"]] == ["test_resnet", "test_efficientnet"]
    with pytest.raises(UserError, match="nowhere"):
        run(command(phantom_dataset, tmp_path / "other", "--members_from", str(tmp_path / "nowhere")), "ensemble")
    assert not (tmp_path / "other").exists()


def test_the_report_compares_the_methods(ensemble: Path) -> None:
    report = json.loads((ensemble / "report.json").read_text())
    assert report["model"]["backbone"] == "1 x test_efficientnet, 1 x test_resnet"
    assert [member["seed"] for member in report["training"]["members"]] == [42, 43]
    stored = read_predictions(ensemble / "predictions_test.parquet")
    hits = [(stored.logits[:, number].argmax(1) == stored.label).mean() for number in range(2)]
    rows = report["methods"]["uncalibrated"]["rows"]
    assert rows["single_model"]["accuracy"]["each"] == pytest.approx(hits, abs=1e-6)
    assert rows["single_model"]["accuracy"]["value"] == pytest.approx(np.mean(hits), abs=1e-6)
    together = softmax(stored.logits, axis=-1).mean(axis=1)
    assert rows["ensemble"]["accuracy"]["value"] == pytest.approx((together.argmax(1) == stored.label).mean(), abs=1e-6)
    nll = -np.log(together[np.arange(len(stored)), stored.label]).mean()
    assert rows["ensemble"]["nll"]["value"] == pytest.approx(nll, abs=1e-6)
    assert report["methods"]["uncalibrated"]["samples"] == 4
    single = rows["single_model"]["nll"]["value"]
    change = report["methods"]["uncalibrated"]["relative_change"]["ensemble"]["nll"]["value"]
    assert change == pytest.approx(nll / single - 1, abs=1e-5)
    card = folder_card(ensemble)
    assert "## What the ensemble adds" in card
    assert f"| 1 | `test_resnet` | {43} |" in card


def test_mc_dropout_samples_are_those_of_the_head(ensemble: Path) -> None:
    stored = read_predictions(ensemble / "predictions_test.parquet")
    samples = read_samples(stored, samples_file(ensemble, "test"))
    assert samples is not None
    assert samples.shape == (len(stored), 2, 4, len(stored.labels))
    assert (samples.std(axis=2) > 0).any(), "dropout was off"
    model = AutoModelForImageClassification.from_pretrained(ensemble)
    features = torch.randn(5, model.feature_dim).numpy()
    drawn = head_samples(model, features, 400, seed=1)
    assert np.array_equal(drawn[:, :, :4], head_samples(model, features, 4, seed=1))
    with torch.no_grad():
        undropped = model.classify(torch.from_numpy(features)).numpy()
    # Inverted dropout leaves the expected logits as they are.
    error = np.abs(drawn.mean(axis=2) - undropped) / (drawn.std(axis=2) / np.sqrt(400))
    assert error.max() < 4.5
    assert not model.training


def test_finished_members_are_verified_not_trained_again(
    ensemble: Path, phantom_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(ensemble, tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "model.members").rglob("*") if path.is_file()}
    assert run(command(phantom_dataset, out), "ensemble") == out
    assert capsys.readouterr().out.count("is finished and verified") == 2
    assert {path: path.read_bytes() for path in before} == before
    assert (out / "model.safetensors").read_bytes() == (ensemble / "model.safetensors").read_bytes()


def test_a_stopped_member_on_a_machine_of_its_own_goes_on_and_the_last_one_builds_the_ensemble(
    ensemble: Path, phantom_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    lone = command(phantom_dataset, out, "--member", "1")
    with pytest.raises(KeyboardInterrupt):
        stopped_at_checkpoint(LesionTrainer, lambda: run(lone, "ensemble"))
    assert not member_folder(out, 1).exists()
    with pytest.raises(UserError, match=re.escape("--resume_from_checkpoint true")):
        run(lone, "ensemble")
    assert run([*lone, "--resume_from_checkpoint", "true"], "ensemble") is None
    assert "members still to be trained: 0;" in capsys.readouterr().out
    assert not out.exists()
    alone, together = member_folder(out, 1), member_folder(ensemble, 1)
    assert (alone / "model.safetensors").read_bytes() == (together / "model.safetensors").read_bytes()
    shutil.copytree(member_folder(ensemble, 0), member_folder(out, 0))
    assert run(lone, "ensemble") == out
    assert (out / "model.safetensors").read_bytes() == (ensemble / "model.safetensors").read_bytes()


def test_a_changed_member_is_refused(ensemble: Path, phantom_dataset: Path, tmp_path: Path) -> None:
    out = copied(ensemble, tmp_path)
    weights = member_folder(out, 1) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(UserError, match=re.escape("member_1' is not as it was finished")):
        run(command(phantom_dataset, out), "ensemble")
    assert not out.exists()


def test_another_recipe_or_dataset_is_refused(
    ensemble: Path, phantom_dataset: Path, binary: Path, tmp_path: Path
) -> None:
    out = copied(ensemble, tmp_path)
    with pytest.raises(UserError, match=re.escape("was trained with learning_rate 0.003, now it is 0.1")):
        run(command(phantom_dataset, out, "--learning_rate", "0.1"), "ensemble")
    with pytest.raises(UserError, match="was trained on another dataset or config"):
        run(command(binary, out), "ensemble")
    assert not out.exists()


def test_it_works_for_other_labels(binary: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    assert run(command(binary, out, "--backbone", "test_efficientnet"), "ensemble") == out
    report = json.loads((out / "report.json").read_text())
    assert [label["name"] for label in report["model"]["labels"]] == ["benign", "malignant"]
    assert report["model"]["backbone"] == "2 x test_efficientnet"
    assert "of the malignant class" in report["methods"]["uncalibrated"]["conventions"]["auroc"]


def test_members_that_prepare_images_differently_are_refused(ensemble: Path, tmp_path: Path) -> None:
    out = copied(ensemble, tmp_path)
    folders = [member_folder(out, number) for number in range(2)]
    assert isinstance(same_processor(folders), LesionImageProcessor)
    changed = AutoImageProcessor.from_pretrained(folders[1])
    changed.image_mean = [0.5, 0.5, 0.5]
    changed.save_pretrained(folders[1])
    with pytest.raises(UserError, match=re.escape("member 1 prepares images with image_mean (0.5, 0.5, 0.5)")):
        same_processor(folders)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--members", "0"], "members 0: give at least 1"),
        (["--member", "2"], "member 2: give a number from 0 to 1 (of 2 members)"),
        (["--member", "-1"], "member -1: give a number from 0 to 1 (of 2 members)"),
        (["--mc_dropout_samples", "-1"], "mc_dropout_samples -1: give 0 or more"),
    ],
)
def test_bad_options_are_named(phantom_dataset: Path, tmp_path: Path, more: list[str], says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        run(command(phantom_dataset, tmp_path / "model", *more), "ensemble")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(phantom_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(UserError, match="is not empty"):
        run(command(phantom_dataset, tmp_path), "ensemble")
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_only_one_process_puts_the_members_together(ensemble: Path, phantom_dataset: Path, tmp_path: Path) -> None:
    out = copied(ensemble, tmp_path)
    with locked(out), pytest.raises(UserError, match="another process writes"):
        run(command(phantom_dataset, out), "ensemble")
    assert not out.exists()
    assert not out.with_name("model.partial").exists()


def test_entries_of_a_list_start_again_after_the_last() -> None:
    assert [entry("a, b", number) for number in range(4)] == ["a", "b", "a", "b"]
    assert entry("timm", 3) == "timm"
