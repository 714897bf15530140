"""Every model in hub_models/released: whole, small, loadable by a stranger, and true to its own numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from model_cards.verify import verify_folder
from trainers.predictions import read_predictions

RELEASED = sorted(path.parent for path in (Path(__file__).parents[1] / "hub_models" / "released").glob("*/config.json"))
MEGABYTE = 1_000_000
# Runs where none of our packages can be imported: what a stranger's machine does.
STRANGER = """
import json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"hub_models", "trainers", "datasets_scripts", "model_cards"}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
folder, paths = sys.argv[1], sys.argv[2:]
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor([Image.open(p) for p in paths], return_tensors="pt")
model.eval()
says = [answer["predicted"] for answer in model.predict(**inputs)]
print(json.dumps({"raw": model(**inputs).raw_logits.tolist(), "says": says}))
"""


def ask_as_a_stranger(folder: Path, images: list[Path], tmp_path: Path) -> dict[str, list]:
    env = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-I", "-c", STRANGER, str(folder), *map(str, images)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_something_is_released() -> None:
    assert "derm-x-mobilenetv2-ham7" in [path.name for path in RELEASED]


@pytest.mark.parametrize("folder", RELEASED, ids=lambda path: path.name)
def test_a_release_is_whole_small_and_shows_nobody(folder: Path) -> None:
    assert verify_folder(folder) == []
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10 * MEGABYTE
    pictures = {path.name for path in files if path.suffix.lower() in {".png", ".jpg", ".jpeg", ".webp"}}
    assert pictures == {"confusion_matrix_test.png", "reliability_test.png", "training_curves.png"}
    assert json.loads((folder / "report.json").read_text())["model"]["license"] == "cc-by-nc-4.0"


@pytest.mark.parametrize("folder", RELEASED, ids=lambda path: path.name)
def test_its_headline_numbers_follow_from_its_predictions(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    rows = read_predictions(folder / "predictions_test.parquet")
    assert rows.features is None
    predicted = rows.probs(report["trust"]["temperature"]["value"]).argmax(axis=1)
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
@pytest.mark.parametrize("folder", RELEASED, ids=lambda path: path.name)
def test_a_stranger_gets_the_stored_logits_from_the_images(folder: Path, data_dir: Path, tmp_path: Path) -> None:
    rows = read_predictions(folder / "predictions_test.parquet")
    chosen = np.linspace(0, len(rows) - 1, 12).astype(int)
    names = [f"{rows.image_id[row]}.jpg" for row in chosen]
    images = [next((data_dir / "ham10000").glob(f"HAM10000_images_part_*/{name}")) for name in names]
    answer = ask_as_a_stranger(folder, images, tmp_path)
    np.testing.assert_allclose(np.array(answer["raw"]), rows.logits[chosen, 0], atol=2e-3)
    assert answer["says"] == [rows.labels[column] for column in rows.logits[chosen, 0].argmax(axis=1)]


def test_the_readme_quotes_the_released_report(repo_root: Path) -> None:
    report = json.loads((repo_root / "hub_models/released/derm-x-mobilenetv2-ham7/report.json").read_text())
    stated = report["evaluation"]["test"]["discrimination"]
    text = (repo_root / "README.md").read_text()
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "auroc_macro", "auroc_malignant"):
        number = stated[name]
        assert f"{number['value']:.3f} ({number['low']:.3f}–{number['high']:.3f})" in text, name
