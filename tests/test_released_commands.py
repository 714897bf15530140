"""Every public command that takes a model, on a released model and on real images: what is released is tested."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import processes
import pytest
from hub_server import LoopbackHub
from real_images import of_ham10000
from test_released import RELEASED, calibrated

from datasets_scripts.command import run as run_command
from model_cards.verify import verify_folder
from trainers.explaining import examples
from trainers.metrics.predictions import read_predictions
from trainers.scoring.answers import PROBABILITY

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::trainers.trust.fit.TrustWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.conformal.ConformalFitWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning"),
]
PER_CLASS = 12
SCORED = 16
NAMES = ("derm-x-mobilenetv2-ham7", "isic-skin-lesion-uncertainty")
ONE, ENSEMBLE = (next(path for path in RELEASED if path.name == name) for name in NAMES)


@dataclass(frozen=True)
class Released:
    """A released model of one network and what the commands are given with it.

    Attributes:
        model: its folder.
        images: a folder of SCORED real images of its own test split.
        labels: a table with the diagnosis of each, as HAM10000 names it.
        dataset: a small dataset of real images, built for its task.
        fitted: the model with trust fitted again on that dataset.
    """

    model: Path
    images: Path
    labels: Path
    dataset: Path
    fitted: Path

    @property
    def classes(self) -> list[str]:
        """The model's classes in order."""
        return classes_of(self.model)


def classes_of(model: Path) -> list[str]:
    """The classes of a model's folder in order."""
    return [name for _, name in sorted(json.loads((model / "config.json").read_text())["id2label"].items())]


def call(module: str, *words: object) -> None:
    """Run a command in this process as its command line does; anything but success fails the test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *map(str, words)])
        try:
            run_command(importlib.import_module(module).main)
        except SystemExit as stopped:
            if stopped.code:
                pytest.fail(f"{module} {words} ended with exit code {stopped.code}")


@pytest.fixture(scope="module")
def archive(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small HAM10000 in the public layout: PER_CLASS images of each diagnosis."""
    source, out = data_dir / "ham10000", tmp_path_factory.mktemp("archive")
    with (source / "HAM10000_metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["dx"] for row in rows})
    chosen = [row for name in classes for row in [one for one in rows if one["dx"] == name][:PER_CLASS]]
    paths = {path.stem: path for path in source.glob("HAM10000_images_part_*/*.jpg")}
    masks = "HAM10000_segmentations_lesion_tschandl"
    for folder in ("HAM10000_images_part_1", masks):
        (out / folder).mkdir()
    for row in chosen:
        (out / "HAM10000_images_part_1" / f"{row['image_id']}.jpg").symlink_to(paths[row["image_id"]].absolute())
        mask = f"{row['image_id']}_segmentation.png"
        (out / masks / mask).symlink_to((source / masks / mask).absolute())
    with (out / "HAM10000_metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(chosen)
    return out


@pytest.fixture(scope="module")
def released(archive: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """A released model, real images of its test split, a small real dataset, and trust fitted on it again."""
    model, place = ONE, tmp_path_factory.mktemp("released")
    rows = read_predictions(model / "predictions_test.parquet")
    paths = of_ham10000(data_dir)
    ids = rows.image_id[[image in paths for image in rows.image_id]]
    ids = ids[np.linspace(0, len(ids) - 1, SCORED).astype(int)]
    with (data_dir / "ham10000" / "HAM10000_metadata.csv").open(newline="") as file:
        known = {row["image_id"]: row for row in csv.DictReader(file)}
    (place / "images").mkdir()
    with (place / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "lesion_id"])
        for name in ids:
            (place / "images" / f"{name}.jpg").symlink_to(paths[name])
            writer.writerow([name, known[name]["dx"], known[name]["lesion_id"]])
    call("datasets_scripts.build_ham10000", "--source", archive, "--out", place / "dataset")
    words = ["--dataset", place / "dataset", "--output_dir", place / "fitted", "--bootstrap_replicates", 50]
    call("trainers.fit_trust", model, *words)
    return Released(model, place / "images", place / "labels.csv", place / "dataset", place / "fitted")


def test_score_answers_a_folder_with_the_diagnoses_of_its_source(released: Released, tmp_path: Path) -> None:
    words = ["--images", released.images, "--labels", released.labels, "--estimate_prior"]
    call("trainers.score", "--model", released.model, *words, "--out", tmp_path / "out", "--bootstrap_replicates", 50)
    with (tmp_path / "out" / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    stored = read_predictions(released.model / "predictions_test.parquet")
    trust = json.loads((released.model / "config.json").read_text())["trust"]
    probs = dict(zip(stored.image_id, calibrated(stored, trust["temperature"]), strict=True))
    assert len(rows) == SCORED
    for row in rows:
        found = [float(row[f"{PROBABILITY}{name}"]) for name in released.classes]
        assert found == pytest.approx(probs[row["image"].removesuffix(".jpg")].tolist(), abs=5e-3)
        malignant = sum(found[column] for column in stored.malignant_columns())
        assert float(row["p_malignant"]) == pytest.approx(malignant, abs=1e-6)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["evaluation"]["external"]["n"] == SCORED
    assert report["evaluation"]["external"]["discrimination"]["accuracy"]["value"] > 0.5


def test_an_ensemble_scores_one_image(released: Released, capsys: pytest.CaptureFixture[str]) -> None:
    image = sorted(released.images.iterdir())[0]
    call("trainers.score", "--model", ENSEMBLE, "--images", image, "--json")
    answer = json.loads(capsys.readouterr().out)
    classes = classes_of(ENSEMBLE)
    assert list(answer["probabilities"]) == classes
    prior = ",".join(f"{name}={1 / len(classes)}" for name in classes)
    call("trainers.score", "--model", ENSEMBLE, "--images", image, "--prior", prior)
    assert "Research software" in capsys.readouterr().out


def test_fit_trust_rebuild_verify_and_build_give_whole_folders(released: Released, tmp_path: Path) -> None:
    assert verify_folder(released.fitted) == []
    copy = shutil.copytree(ENSEMBLE, tmp_path / ENSEMBLE.name)
    call("trainers.rebuild", copy, "--bootstrap_replicates", 50)
    call("model_cards.build", copy)
    call("model_cards.verify", copy)


def test_a_release_of_a_release_is_whole(released: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "phantom_examples", partial(examples.phantom_examples, per_class=3))
    call("trainers.release", released.model, tmp_path / "again", "--bootstrap_replicates", 50)
    call("model_cards.verify", tmp_path / "again")
    assert verify_folder(tmp_path / "again") == []


@pytest.mark.parametrize("other", RELEASED, ids=lambda path: path.name)
def test_two_released_models_are_compared(other: Path, tmp_path: Path) -> None:
    words = ["--shared", "--replicates", 100, "--out", tmp_path / "compared.json"]
    call("trainers.compare", ONE, other, *words)
    result = json.loads((tmp_path / "compared.json").read_text())
    assert ("own_classes" in result) == (classes_of(ONE) != classes_of(other))
    found = result["comparisons"][0]["differences"]["auroc_malignant"]
    assert found["value"] == 0 if other == ONE else abs(found["value"]) < 0.2


def test_robustness_and_explanations_are_measured(released: Released, tmp_path: Path) -> None:
    given = [released.fitted, "--dataset", released.dataset, "--images", 4, "--bootstrap_replicates", 50]
    some = ["--corruptions", "jpeg", "--severities", 1, "--views", "turn"]
    call("trainers.measure_robustness", *given, *some, "--output_dir", tmp_path / "robust")
    assert json.loads((tmp_path / "robust" / "report.json").read_text())["robustness"]["n"] == 4
    call("trainers.measure_explanations", *given, "--steps", 3, "--output_dir", tmp_path / "explained")
    assert json.loads((tmp_path / "explained" / "report.json").read_text())["explanations"]["n"] >= 4


def test_similar_cases_gallery_and_map(released: Released, tmp_path: Path) -> None:
    given = ["--model", released.model, "--dataset", released.dataset]
    image = sorted(released.images.iterdir())[0]
    call("trainers.similar", *given, "--image", image, "--k", 3, "--out", tmp_path / "similar")
    assert len(json.loads((tmp_path / "similar" / "similar.json").read_text())["cases"]) == 3
    call(
        "trainers.similar", *given, "--evaluate", "--k", 3, "--out", tmp_path / "quality", "--bootstrap_replicates", 50
    )
    assert (tmp_path / "quality" / "report.json").is_file()
    call("trainers.similar", *given, "--build_gallery", tmp_path / "gallery")
    assert any((tmp_path / "gallery").iterdir())
    words = ["--splits", "test", "--thumbnail", 0, "--perplexity", 5, "--bootstrap_replicates", 50]
    call("trainers.map_latent", *given, *words, "--out", tmp_path / "map")
    assert (tmp_path / "map" / "map.html").is_file()


def test_a_dataset_of_two_classes_is_built_of_real_images(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    call("datasets_scripts.build_isic_binary", "--per-class", 10, "--source", archive, "--out", out)
    audit = json.loads((out / "audit.json").read_text())
    assert audit["per_class"] == {"benign": 4 * PER_CLASS, "malignant": 2 * PER_CLASS}, "akiec is neither"


def test_it_is_published_to_a_hub_and_scores_from_there(
    released: Released, hub: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"org/{released.model.name}"
    image = sorted(released.images.iterdir())[0]

    def clean(*words: object) -> str:
        command = [sys.executable, "-m", *map(str, words)]
        env = hub.client_env(tmp_path, OMP_NUM_THREADS="1")
        done = processes.run(command, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert name in clean("model_cards.publish", released.model, "--repo-id", name)
    clean("model_cards.verify", name)
    answer = json.loads(clean("trainers.score", "--model", name, "--images", image, "--json"))
    capsys.readouterr()
    call("trainers.score", "--model", released.model, "--images", image, "--json")
    assert answer == json.loads(capsys.readouterr().out)
