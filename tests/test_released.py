"""Every model in hub_models/released: complete, small, loadable without this repository, with its own numbers."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
from real_images import real_image
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score, f1_score

from model_cards.card import read_report
from model_cards.report_view import ReportNode
from model_cards.results_table import replaced, table
from model_cards.verify import verify_folder
from trainers.evaluation.decisions import decisions
from trainers.metrics.predictions import Predictions, read_predictions

RELEASED = sorted(path.parent for path in (Path(__file__).parents[1] / "hub_models" / "released").glob("*/config.json"))
MEGABYTE = 1_000_000
CHARTS = {
    "confusion_matrix_test",
    "confusion_matrix_validation",
    "gate_test",
    "prediction_sets_test",
    "reliability_test",
    "risk_coverage_test",
}
# Charts that not every release has: of its training, and of what was measured later.
FURTHER_CHARTS = {"training_curves", "heat_on_lesion_test", "heat_map_checks_test", "robustness_test", "roc_test"}
# Too few calibration images for any promise: it declines every image, and its card says why.
WITHOUT_BANDS = {"isic2017-classifier"}
DRAWN = "Drawn phantoms, none of them a photograph"
# Runs where none of our packages can be imported, as on a user's machine.
CLEAN_PROCESS = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"hub_models", "trainers", "datasets_scripts", "model_cards"}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
folder, own, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor([Image.open(p) for p in paths], return_tensors="pt")
model.eval()
with torch.no_grad():
    raw = model(**{name: value[:own] for name, value in inputs.items()}).raw_logits
raw = raw[:, None] if raw.ndim == 2 else raw
print(json.dumps({"raw": raw.tolist(), "answers": model.predict(**inputs)}))
"""


def calibrated(rows: Predictions, temperature: dict) -> np.ndarray:
    """Mean over members of softmax(logits / temperature + bias): (N, C), by plain arithmetic."""
    bias = np.array(temperature.get("bias") or 0.0)
    return softmax(rows.logits / np.array(temperature["value"]) + bias, axis=-1).mean(axis=1)


@pytest.fixture(scope="module", params=RELEASED, ids=lambda path: path.name)
def answered(
    request: pytest.FixtureRequest, data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, np.ndarray, list[list], list[dict[str, Any]]]:
    """A release, rows of its test predictions, and what another process gets of their images and then of clothes."""
    folder, place = request.param, tmp_path_factory.mktemp("answered")
    rows = read_predictions(folder / "predictions_test.parquet")
    chosen = np.linspace(0, len(rows) - 1, 8).astype(int)
    images = [real_image(data_dir, rows.image_id[row], place) for row in chosen]
    photos = sorted((data_dir / "ood" / "clothing").glob("*.jpg"))[::14]
    env = {**os.environ, "HF_HOME": str(tmp_path_factory.getbasetemp() / "user"), "PYTHONPATH": ""}
    command = [sys.executable, "-c", CLEAN_PROCESS, str(folder), str(len(images)), *map(str, [*images, *photos])]
    done = processes.run(command, env=env, cwd=place)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return folder, chosen, found["raw"], found["answers"]


def test_something_is_released() -> None:
    assert [path.name for path in RELEASED] == [
        "derm-x-mobilenetv2-ham7",
        "ham10000-ensemble",
        "isic-skin-lesion-uncertainty",
        "isic2017-classifier",
    ]


@pytest.mark.parametrize("folder", RELEASED, ids=lambda path: path.name)
def test_a_release_is_whole_small_and_shows_nobody(folder: Path) -> None:
    assert verify_folder(folder) == []
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 35 * MEGABYTE
    charts = {path.stem for path in files if path.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}}
    report = json.loads((folder / "report.json").read_text())
    examples = report.get("explanations", {}).get("examples", [])
    assert all(DRAWN in example["caption"] for example in examples)
    assert charts - FURTHER_CHARTS - {Path(example["file"]).stem for example in examples} == CHARTS
    assert report["model"]["license"] == "cc-by-nc-4.0"


@pytest.mark.parametrize("folder", RELEASED, ids=lambda path: path.name)
def test_its_headline_numbers_follow_from_its_predictions(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    rows = read_predictions(folder / "predictions_test.parquet")
    assert rows.features is None
    predicted = calibrated(rows, report["trust"]["temperature"]).argmax(axis=1)
    stated = report["evaluation"]["test"]["discrimination"]
    assert stated["accuracy"]["value"] == pytest.approx(np.mean(predicted == rows.label), abs=1e-6)
    assert stated["balanced_accuracy"]["value"] == pytest.approx(
        balanced_accuracy_score(rows.label, predicted), abs=1e-6
    )
    assert stated["macro_f1"]["value"] == pytest.approx(f1_score(rows.label, predicted, average="macro"), abs=1e-6)
    assert report["leak_audit"]["test"]["leaking"] == 0
    split = {
        name: set(read_predictions(folder / f"predictions_{name}.parquet").group_id) for name in ("calibration", "test")
    }
    assert split["calibration"].isdisjoint(split["test"])


@pytest.mark.real
def test_another_process_gets_the_stored_logits_from_the_images(answered: tuple) -> None:
    folder, chosen, raw, answers = answered
    rows = read_predictions(folder / "predictions_test.parquet")
    np.testing.assert_allclose(np.array(raw), rows.logits[chosen], atol=2e-3)
    trust = json.loads((folder / "config.json").read_text())["trust"]
    made = decisions(rows.select(chosen), trust)
    own = answers[: len(chosen)]
    assert [row["predicted"] for row in own] == [rows.labels[column] for column in made.probs.argmax(axis=1)]
    np.testing.assert_allclose([row["ood_score"] for row in own], rows.ood_score[chosen], rtol=2e-2)
    # Neither is decided by a hair on these images.
    assert [row["reason"] for row in own] == made.reasons.tolist()


@pytest.mark.real
def test_it_declines_clothes(answered: tuple) -> None:
    _, chosen, _, answers = answered
    clothes = answers[len(chosen) :]
    assert len(clothes) > 10
    assert sum(answer["abstain"] for answer in clothes) >= 0.95 * len(clothes)


@pytest.mark.parametrize("folder", RELEASED, ids=lambda path: path.name)
def test_its_promises_follow_from_its_predictions(folder: Path) -> None:
    """Bands, sets and gate, once more by plain arithmetic on the stored test predictions."""
    report = json.loads((folder / "report.json").read_text())
    trust, evaluated = report["trust"], report["trust_evaluation"]
    rows = read_predictions(folder / "predictions_test.parquet")
    accepted = rows.ood_score <= trust["ood"]["threshold"]
    _, lesions = np.unique(rows.group_id[accepted].astype(str), return_inverse=True)
    weight = 1.0 / np.bincount(lesions)[lesions]
    probs, label = calibrated(rows, trust["temperature"])[accepted], rows.label[accepted]
    limit = trust["bands"]["low"]["threshold"]
    assert (limit is None) == (folder.name in WITHOUT_BANDS)
    if limit is not None:
        low = 1 - probs.max(axis=1) <= limit
        wrong = probs.argmax(axis=1) != label
        error = (weight * wrong)[low].sum() / weight[low].sum()
        assert evaluated["bands"]["promises"]["low"]["measured"]["value"] == pytest.approx(error, abs=1e-6)
    qhat = np.array([np.inf if value is None else value for value in trust["conformal"]["qhat"]])
    covered = 1 - probs[np.arange(len(label)), label] <= qhat[label] + 1e-6
    assert evaluated["sets"]["overall"]["coverage"]["value"] == pytest.approx(
        np.average(covered, weights=weight), abs=1e-6
    )
    assert evaluated["sets"]["overall"]["inside"] is True
    assert evaluated["verdicts"]["clothing"]["declined"]["value"] >= 0.95


def test_the_results_table_of_the_readme_is_that_of_the_released_reports(repo_root: Path) -> None:
    readme = (repo_root / "README.md").read_text()
    assert replaced(readme, table([ReportNode(read_report(folder)) for folder in RELEASED]), "README.md") == readme
    stale = readme.replace("| Accuracy | ", "| Accuracy | 9", 1)
    assert stale != readme
    assert replaced(stale, table([ReportNode(read_report(folder)) for folder in RELEASED]), "README.md") == readme


def test_the_readme_prints_the_answer_of_the_released_model(
    repo_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = re.findall(r"```(?:python)?\n(.*?)```", (repo_root / "README.md").read_text(), re.S)[1:3]
    assert "pipeline(" in code
    monkeypatch.chdir(repo_root)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == answer.strip()
