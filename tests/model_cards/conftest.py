"""A complete report with invented numbers, and finished folders that carry it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_fixture import hub  # noqa: F401

from model_cards.build import build_card
from model_cards.manifest import write_manifest

LABELS = [
    ("bcc", "Basal cell carcinoma", "malignant"),
    ("df", "Dermatofibroma", "benign"),
    ("mel", "Melanoma", "malignant"),
    ("nv", "Melanocytic nevus", "benign"),
]
SMALL = "small classes: bcc, df"
COUNTS = {"train": (60, 12, 90, 400), "validation": (10, 2, 15, 70), "calibration": (15, 3, 22, 100)}
TEST_COUNTS = (15, 0, 22, 100)
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63f8ffff3f0005fe02fea735817b0000000049454e44ae426082"
)


def measured(value: float, spread: float = 0.02) -> dict[str, Any]:
    low, high = round(value - spread, 6), round(value + spread, 6)
    return {"value": value, "low": low, "high": high, "method": "bootstrap by lesion, 1000 resamples, 95 % percentile"}


def undefined(why: str) -> dict[str, Any]:
    return {"value": None, "why": f"not defined: {why}"}


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


def fitted_trust() -> dict[str, Any]:
    """Everything that is fitted, as ``trainers.trust.fit`` writes it; too few ``bcc`` and ``df`` for a promise each."""
    said = {"split": "calibration", "date": "2026-01-02", "also_used_for_model_selection": False}
    tested = {"tested": 24, "grid": 100, "reason": None, "n_lesions": 47, "half": "second", **said}
    return {
        "temperature": {
            "kind": "scalar",
            "value": 1.31371,
            "n": 70,
            "nll_before": 0.7012,
            "nll_after": 0.6533,
            "method": "scalar, minimum NLL (Guo et al. 2017)",
            "n_groups": 46,
            "half": "first",
            "seed": 7,
            **said,
        },
        "prior": {"value": [0.107, 0.021, 0.157, 0.715], "n": 70, "n_groups": 46, "half": "first", **said},
        "ood": {
            "detector": "energy",
            "threshold": 4.405595,
            "acceptance": 0.95,
            "settings": {},
            "buffers": {},
            "chosen_by": {
                "method": "highest mean AUROC of ruined against unchanged calibration images, held out by lesion group",
                "kinds": {"noisy": 46, "hue_turned": 46},
                "detectors": {
                    "max_softmax": {"mean": 0.571, "auroc": {"noisy": 0.743, "hue_turned": 0.399}},
                    "energy": {"mean": 0.905, "auroc": {"noisy": 0.929, "hue_turned": 0.881}},
                    "vim": {"why": "70 images for 1280 features: give more"},
                },
            },
            "half": "first",
            **said,
        },
        "conformal": {
            "method": "lac",
            "alpha": 0.1,
            "qhat": [0.91, 0.91, 0.93, 0.42],
            "class_conditional": True,
            "settings": {},
            "groups": {"bcc": SMALL, "df": SMALL, "mel": "mel", "nv": "nv"},
            "n": {SMALL: 9, "mel": 11, "nv": 27},
            "without_own_promise": ["bcc", "df"],
            "malignant_without_own_promise": ["bcc"],
            "n_lesions": 47,
            "half": "second",
            **said,
        },
        "bands": {
            "low": {"threshold": 0.223, "risk": 0.05, "confidence": 0.9, "n": 46, "errors": 0, **tested},
            "moderate": {"threshold": 0.416, "risk": 0.1, "confidence": 0.9, "n": 47, "errors": 1, **tested},
        },
        "policy": {"max_set_size": 3},
        "fitted_for": {"inference": "plain", "preprocessing": {}, **said},
    }


def coverage(n_groups: int, value: float = 0.0, expected: float | None = 0.9) -> dict[str, Any]:
    if not n_groups:
        none = {name: undefined("no images") for name in ("coverage", "expected", "mean_set_size")}
        return {"n": 0, "n_groups": 0, **none, "inside": None}
    law = undefined(f"promised on average over {SMALL}, not for the class")
    return {
        "n": n_groups + 5,
        "n_groups": n_groups,
        "coverage": measured(value, 0.03),
        "expected": law if expected is None else measured(expected, 0.05),
        "inside": None if expected is None else abs(value - expected) <= 0.05,
        "mean_set_size": {"value": 1.85},
    }


def judged_sets() -> dict[str, Any]:
    return {
        "method": "lac",
        "alpha": 0.1,
        "promised": 0.9,
        "class_conditional": True,
        "overall": coverage(88, 0.896),
        "per_class": [
            {"name": "bcc", "group": SMALL, **coverage(10, 0.8, None)},
            {"name": "df", "group": SMALL, **coverage(0)},
            {"name": "mel", "group": "mel", **coverage(14, 0.929)},
            {"name": "nv", "group": "nv", **coverage(64, 0.812)},
        ],
        "pools": [{"name": SMALL, **coverage(10, 0.87)}],
        "subgroups": {"sex": [{"value": "female", **coverage(40, 0.911)}, {"value": "unknown", **coverage(0)}]},
        "without_own_promise": ["bcc", "df"],
        "conventions": {"coverage": "Share of lesions whose set holds the true class."},
    }


def judged_bands() -> dict[str, Any]:
    def row(n: int, share: float, error: float) -> dict[str, Any]:
        return {"n": n, "n_groups": n - 4, "share": measured(share), "error": measured(error)}

    def promise(risk: float, error: float) -> dict[str, Any]:
        return {"risk": risk, "measured": measured(error), "kept": True, "contradicted": False}

    return {
        "bands": {"low": row(80, 0.688, 0.041), "moderate": row(30, 0.152, 0.282), "high": row(22, 0.16, 0.544)},
        "promises": {"low": promise(0.05, 0.041), "moderate": promise(0.1, 0.0846)},
        "missed_in_low": {
            "missed": 1.333333,
            "confidence": 0.95,
            "of_malignant": {"n": 24.0, "value": 0.055556, "upper": 0.2021},
            "of_malignant_in_low": {"n": 9.5, "value": 0.140351, "upper": 0.4338},
            "of_benign_answers_in_low": {"n": 70.25, "value": 0.01898, "upper": 0.0707},
        },
        "conventions": {"error": "Share of wrong answers, by lesion."},
    }


def verdicts() -> dict[str, Any]:
    def reasons(*counts: int) -> dict[str, int]:
        codes = ("answered", "high_uncertainty", "set_too_large", "empty_set", "out_of_distribution")
        return dict(zip(codes, counts, strict=True))

    return {
        "test": {
            "n": 137,
            "answered": measured(0.77),
            "by_reason": reasons(105, 22, 5, 0, 5),
            "error_answered": measured(0.098),
            "error_declined": measured(0.41),
        },
        "chairs": {"n": 300, "declined": measured(0.917), "by_reason": reasons(25, 0, 0, 3, 272)},
        "left out: vasc": {"n": 21, "declined": measured(0.333), "by_reason": reasons(14, 5, 1, 0, 1)},
    }


def trust_evaluation() -> dict[str, Any]:
    """As ``trainers.evaluation.trusted`` writes it."""

    def foreign(name: str, n: int, declined: float) -> dict[str, Any]:
        values = {"declined": declined, "auroc": 0.985, "aupr": 0.903, "fpr_at_95_tpr": 0.053}
        return {"name": name, "n": n, "n_groups": n, **{key: measured(value) for key, value in values.items()}}

    return {
        "split": "test",
        "gate": {
            "threshold": 4.405595,
            "conventions": {"auroc": "Chance that a foreign picture scores above an image of the split."},
            "in_distribution": {"n": 137, "n_groups": 91, "accepted": measured(0.968)},
            "sets": [foreign("chairs", 300, 0.907), foreign("left out: vasc", 21, 0.048)],
            "per_class": [accepted(name, n) for (name, _, _), n in zip(LABELS, TEST_COUNTS, strict=True)],
        },
        "sets": judged_sets(),
        "bands": judged_bands(),
        "verdicts": verdicts(),
        "selective": {
            "auroc_errors": measured(0.846),
            "aurc": measured(0.057),
            "augrc": measured(0.045),
            "coverage_at_risk": {"risk": 0.05, **measured(0.544)},
            "conventions": {"ties": "Images of equal uncertainty are accepted together."},
        },
    }


def accepted(name: str, n: int) -> dict[str, Any]:
    return {"name": name, "n": n, "n_groups": n, "accepted": measured(0.96) if n else undefined("no images")}


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
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
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
