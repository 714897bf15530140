"""The released model on photos of its own test split, with labels: the same answers as at its release."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from real_images import of_ham10000
from test_released import calibrated

from trainers import score
from trainers.metrics.predictions import read_predictions

pytestmark = pytest.mark.real
N = 120


def test_the_released_model_gives_files_the_answers_of_its_test_split(
    data_dir: Path, repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = repo_root / "hub_models" / "released" / "derm-x-mobilenetv2-ham7"
    test = read_predictions(released / "predictions_test.parquet")
    paths = of_ham10000(data_dir)
    known = np.flatnonzero([image in paths for image in test.image_id])
    rows = test.select(known[np.argsort(test.image_id[known])[:: len(known) // N][:N]])
    images = tmp_path / "images"
    images.mkdir()
    for image in rows.image_id:
        (images / f"{image}.jpg").symlink_to(paths[image])
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "lesion_id", "age", "sex"])
        ages = ["" if np.isnan(age) else age for age in rows.columns["age"]]
        labels = [rows.labels[label] for label in rows.label]
        writer.writerows(zip(rows.image_id, labels, rows.lesion_id, ages, rows.columns["sex"], strict=True))
    trust = json.loads((released / "config.json").read_text())["trust"]
    words = ["--model", str(released), "--images", str(images), "--labels", str(tmp_path / "labels.csv")]
    words += ["--out", str(tmp_path / "out"), "--bootstrap_replicates", "100"]
    words += [] if "conformal" in trust else ["--no_trust"]
    monkeypatch.setattr(sys, "argv", ["trainers/score.py", *words])
    score.main()

    found = read_predictions(tmp_path / "out" / "predictions_external.parquet")
    assert [image.removesuffix(".jpg") for image in found.image_id] == rows.image_id.tolist()
    assert found.label.tolist() == rows.label.tolist()
    assert found.lesion_id.tolist() == rows.lesion_id.tolist()
    assert np.abs(found.logits - rows.logits).max() < 1e-2
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    right = float((calibrated(rows, trust["temperature"]).argmax(axis=1) == rows.label).mean())
    assert report["evaluation"]["external"]["discrimination"]["accuracy"]["value"] == pytest.approx(right, abs=1e-6)
    assert right > 0.6
    assert ("trust_evaluation" in report) == ("conformal" in trust)
