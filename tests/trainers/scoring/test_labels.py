"""How labels name a model's classes: by name, by the taxonomy, or by malignancy alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from sklearn.metrics import roc_auc_score

from datasets_scripts.taxonomy import TASKS, long_names, malignancy_groups
from trainers.metrics.predictions import read_predictions
from trainers.scoring.labels import Classes

Run = Callable[..., tuple[int, str, str]]


def classes(task: str) -> Classes:
    labels = list(TASKS[task])
    config = SimpleNamespace(label_names=long_names(labels), label_groups=malignancy_groups(labels))
    return Classes.of(labels, config)


@pytest.mark.parametrize(
    ("task", "text", "name"),
    [
        ("ham10000", "MEL", "mel"),
        ("ham10000", "Melanocytic nevus", "nv"),
        ("ham10000", "melanocytic_Nevi", "nv"),
        ("ham10000", "actinic keratosis", "akiec"),
        ("lesions12", "actinic keratosis", "ak"),
        ("isic_binary", "Malignant", "malignant"),
        ("isic_binary", "mel", "malignant"),
        ("isic_binary", "Basal cell carcinoma", "malignant"),
        ("isic_binary", "akiec", "malignant"),
        ("isic_binary", "df", "benign"),
        ("isic_binary", "psoriasis", None),
        ("isic2017", "bcc", None),
        ("ham10000", "malignant", None),
        ("ham10000", "psoriasis", None),
    ],
)
def test_a_label_names_one_class_or_none(task: str, text: str, name: str | None) -> None:
    found = classes(task)
    assert found.index(text) == (None if name is None else found.labels.index(name))


def test_two_classes_of_other_names_are_no_malignancy_classes() -> None:
    config = SimpleNamespace(label_groups={"mel": "malignant", "nv": "benign"})
    assert Classes.of(["mel", "nv"], config).index("bcc") is None


def test_what_the_taxonomy_translated_is_listed() -> None:
    found = classes("isic_binary")
    assert found.translated(["mel", "nv", "benign", "mel"]) == {"mel": "malignant", "nv": "benign"}
    assert classes("ham10000").translated(["mel", "Melanoma", "nevus"]) == {"nevus": "nv"}


def test_labels_of_malignancy_alone_are_evaluated_so() -> None:
    found = classes("ham10000")
    assert found.for_labels(["mel", "nv"]) is found
    assert not found.for_labels(["mel", "benign"]).on_malignancy, "one of them would be lost"
    coarse = found.for_labels(["Benign", "malignant"])
    assert coarse.on_malignancy
    assert [coarse.index(text) for text in ("Benign", "malignant")] == [0, 1]
    binary = classes("isic_binary")
    assert binary.for_labels(["benign", "malignant"]) is binary


def test_a_report_of_benign_and_malignant_labels_on_a_model_of_diagnoses(
    ours: Path, images: Path, tmp_path: Path, run: Run, rows_of: Callable[[Path], list[dict[str, str]]]
) -> None:
    table = tmp_path / "labels.csv"
    lines = [f"i{n:02d},{'malignant' if n % 3 == 0 else 'Benign'}" for n in range(7)]
    table.write_text("\n".join(["image,label", *lines]) + "\n")
    code, shown, _ = run("--model", ours, "--images", images, "--out", tmp_path / "out", "--labels", table)
    assert code == 0
    assert "benign or malignant only" in shown
    rows = read_predictions(tmp_path / "out" / "predictions_external.parquet")
    assert rows.labels == ["benign", "malignant"]
    answers = {row["image"]: float(row["p_malignant"]) for row in rows_of(tmp_path / "out") if row["p_malignant"]}
    assert rows.probs()[:, 1] == pytest.approx([answers[image] for image in rows.image_id], abs=1e-6)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["scored"]["evaluated_on"] == ["benign", "malignant"]
    assert "trust_evaluation" not in report
    assert report["evaluation"]["external"]["discrimination"]["auroc_malignant"]["value"] == pytest.approx(
        roc_auc_score(rows.label == 1, rows.probs()[:, 1]), abs=1e-6
    )
