"""With labels, the report of training; and peers are measured on the same images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetForImageClassification, ViTImageProcessor

from trainers.evaluation.report import evaluate
from trainers.metrics.predictions import read_predictions

LABELS = ["mel", "nv", "bkl"]
N = 11
Run = Callable[..., tuple[int, str, str]]


def test_labels_add_the_report_of_training(
    ours: Path, images: Path, tmp_path: Path, run: Run, rows_of: Any, loaded: Any
) -> None:
    out, table = tmp_path / "out", tmp_path / "labels.csv"
    lines = ["image,label,lesion_id,age,sex", "i00,mel,L1,40,female", "i01.png,Melanocytic nevus,L1,,male"]
    lines += ["i02.png,NV,,61,", "b/i07.png,bkl,,50,female", "i08,mel,L9,50,male", "i09,nv,L2,70,male"]
    table.write_text("\n".join(lines) + "\n")
    more = ("--labels", table, "--keep_features", "--estimate_skin_tone")
    code, shown, _ = run("--model", ours, "--images", images, "--out", out, *more)
    assert code == 0
    rows = read_predictions(out / "predictions_external.parquet")
    assert rows.image_id.tolist() == ["i00.png", "i01.png", "i02.png", "b/i07.png", "b/i09.png"]
    assert rows.label.tolist() == [0, 1, 1, 2, 1]
    assert rows.lesion_id.tolist() == ["L1", "L1", "i02.png", "b/i07.png", "L2"]
    assert (rows.split, rows.dataset, rows.labels) == ("external", "clinic", LABELS)
    assert np.array_equal(rows.columns["age"], [40, np.nan, 61, 50, 70], equal_nan=True)
    assert rows.columns["sex"].tolist() == ["female", "male", "unknown", "female", "male"]
    asking = loaded(ours)
    with torch.inference_mode():
        output = asking.model(**asking.processor(str(images / "i01.png"), return_tensors="pt"))
    assert rows.logits[1, 0] == pytest.approx(output.raw_logits[0].numpy(), abs=1e-4)
    assert rows.features is not None
    assert rows.features[1] == pytest.approx(output.features[0].numpy(), abs=2e-3)
    assert rows.ood_score is not None
    assert rows.ood_score[1] == pytest.approx(float(output.ood_score[0]), abs=1e-4)

    report = json.loads((out / "report.json").read_text())
    answers = {row["image"]: row["predicted"] for row in rows_of(out)}
    right = sum(answers[i] == LABELS[label] for i, label in zip(rows.image_id, rows.label, strict=True))
    found = report["evaluation"]["external"]
    assert found["discrimination"]["accuracy"]["value"] == pytest.approx(right / 5, abs=1e-6)
    assert found == json.loads(json.dumps(evaluate(rows, {"value": 1.5}, replicates=1000, seed=0)))
    assert report["scored"]["labelled"] == 6
    assert report["scored"]["own_lesion"] == 2
    gave = [row["abstain"] == "false" for row in rows_of(out) if row["image"] in set(rows.image_id)]
    assert report["trust_evaluation"]["verdicts"]["external"]["by_reason"]["answered"] == sum(gave) > 0
    page = (out / "README.md").read_text()
    assert "2 images have no `lesion_id` and count as a lesion each" in page
    assert "1 further labelled images could not be read" in page
    assert "| *sex unknown* | 1 |" in page, "an unknown group and a small one are shown"
    assert page.count("accepted by the gate") == 1
    tones = rows.columns["skin_tone_estimate"]
    assert report["scored"]["skin_tone_estimate"]["estimated"] == int((tones != "unknown").sum())
    assert "It could not be compared with a recorded tone." in page
    for name in ("per_class_metrics.csv", "classification_report.txt", *(f["file"] for f in report["figures"])):
        assert (out / name).stat().st_size > 0
    assert "5 labelled images: accuracy" in shown


def test_a_report_under_another_prior_evaluates_the_reweighted_answers(
    ours: Path, images: Path, tmp_path: Path, run: Run, rows_of: Any
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("image,label\n" + "".join(f"i{n:02d},{LABELS[n % 3]}\n" for n in range(7)))
    words = ("--labels", table, "--prior", "mel=0.8,nv=0.1,bkl=0.1")
    assert run("--model", ours, "--images", images, "--out", tmp_path / "out", *words)[0] == 0
    rows = read_predictions(tmp_path / "out" / "predictions_external.parquet")
    answers = np.array([[float(r[f"prob_{c}"]) for c in LABELS] for r in rows_of(tmp_path / "out")[:7]])
    assert rows.probs() == pytest.approx(answers, abs=1e-5)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["trust"] == {"temperature": {"value": 1.0}}
    assert "trust_evaluation" not in report


def test_a_model_that_is_not_ours_answers_with_probabilities(
    peer: Path, images: Path, tmp_path: Path, run: Run, rows_of: Any
) -> None:
    table = tmp_path / "labels.csv"
    names = ["Melanoma", "melanocytic nevus", "Benign keratosis-like lesion"]
    table.write_text("image,label\n" + "".join(f"i{n:02d},{names[n % 3]}\n" for n in range(7)))
    code, _, _ = run("--model", peer, "--images", images, "--out", tmp_path / "out", "--labels", table)
    assert code == 0
    row = rows_of(tmp_path / "out")[2]
    model = ResNetForImageClassification.from_pretrained(peer).eval()
    image = Image.open(images / "i02.png")
    with torch.inference_mode():
        logits = model(**ViTImageProcessor.from_pretrained(peer)(image, return_tensors="pt")).logits[0].double()
    probs = logits.softmax(dim=0)
    assert [float(row[f"prob_{model.config.id2label[i]}"]) for i in range(3)] == pytest.approx(probs.tolist(), abs=1e-5)
    assert row["predicted"] == model.config.id2label[int(probs.argmax())]
    assert row["reason"] == "not_our_model"
    assert float(row["predictive_entropy"]) == pytest.approx(float(-(probs * probs.log()).sum()), abs=1e-5)
    for name in ("p_malignant", "aleatoric", "epistemic", "band", "prediction_set", "ood_score", "is_ood", "abstain"):
        assert row[name] == ""
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["model"]["of_this_suite"] is False
    # The taxonomy knows classes of these names, so that malignancy is measured as of ours.
    assert [label["group"] for label in report["model"]["labels"]] == ["malignant", "benign", "benign"]
    assert 0 <= report["evaluation"]["external"]["discrimination"]["auroc_malignant"]["value"] <= 1
    code, out, _ = run("--model", peer, "--images", images / "i02.png", "--json")
    assert (code, json.loads(out)["predicted"]) == (0, row["predicted"])


def test_where_everything_is_declined_that_is_the_report(ours: Path, images: Path, tmp_path: Path, run: Run) -> None:
    strict = tmp_path / "strict"
    shutil.copytree(ours, strict)
    config = json.loads((strict / "config.json").read_text())
    config["trust"]["ood"]["threshold"] = -1.0
    (strict / "config.json").write_text(json.dumps(config))
    table = tmp_path / "labels.csv"
    table.write_text("image,label\ni00,mel\ni01,nv\ni02,bkl\n")
    words = ("--model", strict, "--images", images, "--out", tmp_path / "out", "--labels", table)
    code, shown, _ = run(*words)
    assert code == 0
    assert "out_of_distribution 10" in shown
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["trust_evaluation"]["verdicts"]["external"]["answered"]["value"] == 0.0
    assert "| error among the answered ↓ | n/a |" in (tmp_path / "out" / "README.md").read_text()
