"""A complete report with invented numbers, and finished folders that carry it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_fixture import hub  # noqa: F401
from invented_trust import LABELS, TEST_COUNTS, fitted_trust, measured, trust_evaluation, undefined
from safetensors.numpy import save_file

from model_cards.build import build_card
from model_cards.manifest import write_manifest

COUNTS = {"train": (60, 12, 90, 400), "validation": (10, 2, 15, 70), "calibration": (15, 3, 22, 100)}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63f8ffff3f0005fe02fea735817b0000000049454e44ae426082"
)


def discrimination(base: float) -> dict[str, Any]:
    sensitivity = {"0.80": measured(base + 0.05), "0.90": measured(base - 0.05), "0.95": measured(base - 0.2)}
    return {
        "accuracy": measured(base),
        "balanced_accuracy": measured(base - 0.1),
        "macro_f1": measured(base - 0.12),
        "weighted_f1": measured(base - 0.01),
        "auroc_macro": measured(base + 0.1),
        "auroc_malignant": measured(base + 0.08),
        "sensitivity_malignant_at_specificity": sensitivity,
    }


def calibration(after: float) -> dict[str, Any]:
    def at(ece: float) -> dict[str, Any]:
        names = {"nll": 0.6 + ece, "brier": 0.3 + ece, "ece": ece, "ece_floor": 0.021, "ece_debiased": ece - 0.012}
        names |= {"ece_adaptive": ece + 0.003, "ece_classwise": 0.018}
        return {name: measured(round(value, 6), 0.01) for name, value in names.items()}

    return {"before": at(0.071), "after": at(after)}


def per_class(counts: tuple[int, ...]) -> list[dict[str, Any]]:
    rows = []
    for index, (name, _, _) in enumerate(LABELS):
        row: dict[str, Any] = {"name": name, "support": counts[index], "lesions": counts[index] * 2 // 3}
        for metric, value in (("precision", 0.71), ("recall", 0.64), ("f1", 0.67), ("auroc", 0.93)):
            row[metric] = measured(round(value + index / 50, 6), 0.05) if counts[index] else undefined("support 0")
        rows.append(row)
    return rows


def subgroups() -> dict[str, Any]:
    def row(value: str, n: int) -> dict[str, Any]:
        names = ("accuracy", "balanced_accuracy", "auroc_malignant", "ece")
        numbers = {name: measured(0.7) if n else undefined("no images") for name in names}
        return {"value": value, "n": n, "n_groups": n * 2 // 3, **numbers}

    ages = [("0-29", 20), ("30-44", 40), ("45-59", 40), ("60-74", 30), ("75+", 7), ("unknown", 0)]
    sexes = [("female", 60), ("male", 70), ("unknown", 7)]
    rows = {"age": [row(*age) for age in ages], "sex": [row(*sex) for sex in sexes]}
    # Three of three right: resampling has nothing to say about it.
    rows["sex"][2]["accuracy"] = {"value": 1.0, "low": None, "high": None, "method": "no interval: too few lesions"}
    return rows


def split_results(counts: tuple[int, ...], base: float, views: bool = False) -> dict[str, Any]:
    n = sum(counts)
    view = {
        "name": "source: HAM10000",
        "description": "rows of this source; a prediction of a class outside it counts as wrong",
        "labels": ["bcc", "mel", "nv"],
        "n": n - 15,
        "n_groups": (n - 15) * 2 // 3,
        "discrimination": discrimination(base - 0.02),
        "calibration": calibration(0.044),
    }
    return {
        "n": n,
        "n_groups": n * 2 // 3,
        "conventions": {"brier": "sum over classes, range 0 to 2", "ece": "15 bins of equal width"},
        "discrimination": discrimination(base),
        "calibration": calibration(0.034),
        "per_class": per_class(counts),
        "confusion_matrix": [[counts[i] if i == j else 0 for j in range(4)] for i in range(4)],
        "subgroups": subgroups(),
        "views": [view] if views else [],
    }


def leaks(n: int, leaking: int) -> dict[str, Any]:
    per = {"mel": {"n": 22, "leaking": leaking, "share": leaking / 22}}
    return {"n": n, "leaking": leaking, "share": leaking / n, "per_class": per}


def dataset() -> dict[str, Any]:
    splits = {**COUNTS, "test": TEST_COUNTS}
    return {
        "name": "invented-lesions",
        "config_name": "grouped",
        "fingerprint": "sha256:" + "ab" * 32,
        "license": ["cc-by-nc-4.0", "unknown"],
        "sources": ["DermNet", "HAM10000"],
        "attribution": ["Tschandl et al. 2018, CC BY-NC 4.0"],
        "image_sizes": {"200x150": 900, "other": 36},
        "splits": {
            name: {
                "n": sum(counts),
                "groups": sum(counts) * 2 // 3,
                "per_class": {label[0]: count for label, count in zip(LABELS, counts, strict=True)},
            }
            for name, counts in splits.items()
        },
    }


def example_answers() -> list[dict[str, Any]]:
    answered = {"label": "nv", "predicted": "mel", "band": "low", "prediction_set": ["mel", "nv"], "abstain": False}
    declined = {"label": "df", "predicted": "nv", "band": None, "prediction_set": None, "abstain": True}
    return [
        {**answered, "reason": "answered", "message": "Melanoma (malignant) or Nevus, low uncertainty."},
        {**declined, "reason": "out_of_distribution", "message": "The model declines."},
    ]


@pytest.fixture
def report() -> dict[str, Any]:
    """A full report; every number in it is invented."""
    return {
        "schema_version": 1,
        "model": {
            "name": "invented-mobilenet",
            "title": "Invented MobileNetV2",
            "class": "MobileNetForLesionClassification",
            "model_type": "lesion_mobilenet",
            "backbone": "mobilenetv2_100",
            "initialised_from": "timm/mobilenetv2_100.ra_in1k",
            "base_model": "timm/mobilenetv2_100.ra_in1k",
            "inputs": ["pixel_values"],
            "num_parameters": 2228996,
            "image_size": 224,
            "labels": [{"name": name, "long_name": long, "group": group} for name, long, group in LABELS],
            "license": "cc-by-nc-4.0",
            "weights_dtype": "float16",
            "citation": ["@misc{derma2026,\n  title = {Nothing},\n  year = {2026}\n}"],
            "tags": ["mobilenet"],
            "notes": ["This model was invented for a test."],
        },
        "provenance": {
            "created": "2026-01-02T03:04:05Z",
            "command": "trainers/train_mobilenet.py --seed 7",
            "packages": {"python": "3.11.9", "torch": "2.14.0"},
            "git_commit": "0123456789abcdef0123456789abcdef01234567",
            "git_dirty": True,
            "recipe": {"learning_rate": 0.0008, "imbalance": "oversample"},
            "recipe_name": "mobilenet",
            "seed": 7,
            "hardware": {"device": "cpu", "name": "x86_64", "cores": 2, "processes": 1, "precision": "bf16"},
            "dataset": dataset(),
        },
        "training": {
            "epochs": 14.0,
            "best_epoch": 12.0,
            "kept_epoch": 12.0,
            "kept_because": "best validation macro_f1",
            "metric": "macro_f1",
            "best_metric": 0.7012,
            "train_seconds": 6725.4,
            "images_per_second": 51.26,
            "peak_memory_bytes": 1912345678,
            "history": [{"epoch": 1, "train_loss": 1.1, "eval_loss": 1.0}],
        },
        "trust": fitted_trust(),
        "test_reads": [
            {
                "split": "test",
                "date": "2026-01-02T03:04:05Z",
                "command": "trainers/train_mobilenet.py --seed 7",
                "purpose": "evaluation of the finished model",
            }
        ],
        "leak_audit": {"validation": leaks(97, 0), "calibration": leaks(140, 0), "test": leaks(137, 0)},
        "evaluation": {
            "test": split_results(TEST_COUNTS, 0.816, views=True),
            "validation": split_results(COUNTS["validation"], 0.83),
            "calibration": split_results(COUNTS["calibration"], 0.82),
        },
        "trust_evaluation": trust_evaluation(),
        "example_answers": example_answers(),
        "figures": [{"file": "figures/confusion_matrix_test.png", "caption": "Confusion matrix of the test split"}],
    }


def config_of(report: dict[str, Any]) -> dict[str, Any]:
    labels = report["model"]["labels"]
    return {
        "model_type": report["model"]["model_type"],
        "image_size": report["model"]["image_size"],
        "id2label": {str(index): label["name"] for index, label in enumerate(labels)},
        "label_names": {label["name"]: label["long_name"] for label in labels},
        "label_groups": {label["name"]: label["group"] for label in labels},
        "trust": report["trust"],
    }


@pytest.fixture
def model_folder(tmp_path: Path, report: dict[str, Any]) -> Path:
    """A finished model folder with made-up weights: two files large enough in kind for LFS, the rest regular."""
    folder = tmp_path / "invented-mobilenet"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "confusion_matrix_test.png").write_bytes(PNG)
    noise = np.arange(10_096, dtype=np.uint8)
    save_file({"head.bias": np.zeros(2, dtype=np.float32), "noise": noise}, folder / "model.safetensors")
    (folder / "predictions_test.parquet").write_bytes(b"PAR1" + bytes(3000) + b"PAR1")
    (folder / "config.json").write_text(json.dumps(config_of(report)), encoding="utf-8")
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    build_card(folder)
    return folder


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """A dataset folder in outline: the files that publishing looks at."""
    folder = tmp_path / "invented-dataset"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Invented\n", encoding="utf-8")
    (folder / "audit.json").write_text(json.dumps({"rows": 3}), encoding="utf-8")
    for shard in range(3):
        (folder / "data" / f"train-{shard}.parquet").write_bytes(bytes([shard]) * 2000 + b"\0")
    write_manifest(folder)
    return folder
