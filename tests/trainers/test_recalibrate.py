"""recalibrate as a command: a whole folder whose card names both places, and bad input in one line."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from card_text import folder_card
from PIL import Image
from safetensors.torch import load_file

from datasets_scripts.command import run as run_command
from model_cards.verify import verify_folder
from trainers import measure_recalibration, recalibrate
from trainers.metrics.predictions import read_predictions
from trainers.model_folder.data import load_splits
from trainers.model_folder.rebuild import rebuild
from trainers.scoring.matrix import export

Call = Callable[..., tuple[int, str, str]]
pytestmark = [
    pytest.mark.filterwarnings("ignore::trainers.trust.conformal.ConformalFitWarning"),
]
FAST = ("--bootstrap_replicates", 10)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*words: object, command: object = recalibrate) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["recalibrate", *map(str, words)])
        code = 0
        try:
            run_command(command.main)  # type: ignore[attr-defined]
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture(scope="module")
def clinic(phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All phantoms as a folder of images with a table of labels, each a lesion of its own."""
    folder = tmp_path_factory.mktemp("clinic")
    splits = load_splits(str(phantom_dataset), "grouped")
    rows: list[dict[str, str]] = []
    for split in splits.splits:
        export(splits, split, folder / split)
        with (folder / split / "labels.csv").open(newline="") as file:
            rows += list(csv.DictReader(file))
    names = ["image", "label", "lesion_id", "age", "sex"]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_a_clinics_lesions_give_a_whole_folder(trained: Path, clinic: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "local"
    Image.new("RGB", (40, 30)).save(clinic / "unlabelled.png")
    code, shown, error = call(
        *(trained, "--images", clinic, "--labels", clinic / "labels.csv", "--output_dir", out, "--name", "local"),
        *("--test_fraction", 0.3, "--alpha", 0.2, *FAST),
    )
    (clinic / "unlabelled.png").unlink()
    assert code == 0, error
    assert "note: 1 of 161 images have no label: they were not used" in error
    assert "the prediction set holds the true class: 80 %: kept" in shown
    assert 'wrong in the band "low"' in shown
    assert "dropped: " in shown
    assert "| 1,600 | up to" in shown
    assert verify_folder(out) == []
    report = json.loads((out / "report.json").read_text())
    again = report["recalibrated"]
    assert again["calibration"]["images"] + again["test"]["images"] == 160
    assert (again["calibration"]["lesions"], again["test"]["lesions"]) == (61, 25)
    assert report["trust"]["conformal"]["alpha"] == 0.2
    assert report["trained_on"]["name"] == "phantoms"
    assert (report["provenance"]["dataset"]["name"], report["model"]["name"]) == (clinic.name, "local")
    rows = {name: read_predictions(out / f"predictions_{name}.parquet") for name in ("calibration", "test")}
    assert not set(rows["calibration"].group_id) & set(rows["test"].group_id)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    card = folder_card(out)
    assert "**Calibrated for another place.**" in card
    assert f"of `{clinic.name}`; before, they were fitted on `phantoms`" in card
    assert "## What local lesions can promise" in card
    assert any(row["there"] and row["after"] for row in again["comparison"])
    before = (out / "report.json").read_bytes()
    rebuild(out, 10)
    assert (out / "report.json").read_bytes() == before
    assert verify_folder(out) == []
    code, shown, error = call(
        *(
            out,
            "--predictions",
            out / "predictions_test.parquet",
            "--calibration",
            out / "predictions_calibration.parquet",
        ),
        *("--sizes", 20, "--draws", 2, "--output_dir", tmp_path / "study"),
        command=measure_recalibration,
    )
    assert code == 0, error
    assert "| 20 | " in (tmp_path / "study" / "README.md").read_text()
    [row] = json.loads((tmp_path / "study" / "recalibration.json").read_text())["rows"]
    assert (row["draws"], row["after"]["accepted"]["n"] + row["refused"]) == (2, 2)


def test_without_a_test_part_nothing_is_measured(
    trained: Path, phantom_dataset: Path, tmp_path: Path, call: Call
) -> None:
    words = (trained, "--dataset", phantom_dataset, "--output_dir", tmp_path / "out", *FAST)
    code, _, error = call(*words)
    assert code == 2
    assert "was trained on the train and validation split" in error
    code, _, error = call(*words, "--splits", "calibration,test", "--leave_out", "acne", "--temperature", "keep")
    assert code == 0, error
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["evaluation"]) == ["calibration"]
    assert "trust_evaluation" not in report
    assert (
        report["trust"]["temperature"]["value"]
        == json.loads((trained / "report.json").read_text())["trust"]["temperature"]["value"]
    )
    assert "Nothing was measured here" in folder_card(tmp_path / "out")
    assert verify_folder(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "image,label\n{0},melanomma\n{1},melanomma\n{2},psoriasis vulgaris\n",
            "2 labels that the model does not know: 'melanomma' (2 rows, nearest ",
        ),
        ("image,label\n{0},melanomma\n", "nearest 'Melanoma')"),
        ("image,label\n{0},squamous cell carcinoma\n", "'squamous cell carcinoma' (1 row, nearest "),
        ("image,label\n{0},mel\nelsewhere,nv\n", "1 of 2 images are not in --images"),
        ("image,label\n{0},benign\n{1},malignant\n", "benign or malignant only"),
        ("image,label\n{0},nv\n{1},nv\n{2},mel\n{3},mel\n", "4 lesions support no promise"),
        ("image,label,age\n{0},nv,400\n", "has age '400'"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    table: str, message: str, trained: Path, clinic: Path, tmp_path: Path, call: Call
) -> None:
    with (clinic / "labels.csv").open(newline="") as file:
        images = [row["image"] for row in csv.DictReader(file)][:4]
    (tmp_path / "labels.csv").write_text(table.format(*images))
    code, _, error = call(
        *(trained, "--images", clinic, "--labels", tmp_path / "labels.csv", "--output_dir", tmp_path / "out")
    )
    assert code == 2
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.csv"]
