"""The trust sections of an invented report: what was fitted, and how it did on the test split."""

from __future__ import annotations

from typing import Any

LABELS = [
    ("bcc", "Basal cell carcinoma", "malignant"),
    ("df", "Dermatofibroma", "benign"),
    ("mel", "Melanoma", "malignant"),
    ("nv", "Melanocytic nevus", "benign"),
]
SMALL = "small classes: bcc, df"
TEST_COUNTS = (15, 0, 22, 100)


def measured(value: float, spread: float = 0.02) -> dict[str, Any]:
    low, high = round(value - spread, 6), round(value + spread, 6)
    return {"value": value, "low": low, "high": high, "method": "bootstrap by lesion, 1000 resamples, 95 % percentile"}


def undefined(why: str) -> dict[str, Any]:
    return {"value": None, "why": f"not defined: {why}"}


def fitted_trust() -> dict[str, Any]:
    """Everything that is fitted, as ``trainers.trust.fit`` writes it; too few ``bcc`` and ``df`` for a promise each."""
    fitted_on = {"split": "calibration", "date": "2026-01-02", "also_used_for_model_selection": False}
    low = {"missed_risk": 0.05, "n_malignant": 48, "missed": 0, "limited_by": "missed"}
    moderate = {"missed_risk": 0.1, "n_malignant": 48, "missed": 1, "limited_by": ""}
    tested = {"tested": 24, "grid": 100, "reason": None, "n_lesions": 47, "half": "second", **fitted_on}
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
            **fitted_on,
        },
        "prior": {"value": [0.107, 0.021, 0.157, 0.715], "n": 70, "n_groups": 46, "half": "first", **fitted_on},
        "ood": {
            "detector": "energy",
            "threshold": 4.405595,
            "acceptance": 0.95,
            "settings": {},
            "buffers": {},
            "chosen_by": {
                "method": "highest mean AUROC of perturbed against unchanged calibration images, held out by lesion",
                "kinds": {"noisy": 46, "hue_turned": 46},
                "detectors": {
                    "max_softmax": {"mean": 0.571, "auroc": {"noisy": 0.743, "hue_turned": 0.399}},
                    "energy": {"mean": 0.905, "auroc": {"noisy": 0.929, "hue_turned": 0.881}},
                    "vim": {"why": "70 images for 1280 features: give more"},
                },
            },
            "half": "first",
            **fitted_on,
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
            **fitted_on,
        },
        "bands": {
            "low": {"threshold": 0.223, "risk": 0.05, "confidence": 0.9, "n": 46, "errors": 0, **tested, **low},
            "moderate": {
                "threshold": 0.416,
                "risk": 0.1,
                "confidence": 0.9,
                "n": 47,
                "errors": 1,
                **tested,
                **moderate,
            },
        },
        "decision": {
            "rule": "most_probable",
            "cost": [[0.0, 10.0, 1.0, 10.0], [1.0, 0.0, 1.0, 1.0], [1.0, 10.0, 0.0, 10.0], [1.0, 1.0, 1.0, 0.0]],
            "sensitivity": {
                "target": 0.9,
                "confidence": 0.9,
                "threshold": 0.084312,
                "n": 41,
                "missed": 1,
                "p_value": 0.0743,
                "reason": None,
            },
            "n_lesions": 47,
            "half": "second",
            **fitted_on,
        },
        "policy": {"max_set_size": 3},
        "fitted_for": {"inference": "plain", "preprocessing": {}, **fitted_on},
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


def evaluated_sets() -> dict[str, Any]:
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


def evaluated_bands() -> dict[str, Any]:
    def row(n: int, share: float, error: float) -> dict[str, Any]:
        return {"n": n, "n_groups": n - 4, "share": measured(share), "error": measured(error)}

    def promise(risk: float, error: float, missed: float) -> dict[str, Any]:
        held = {"risk": risk, "measured": measured(error), "kept": True, "contradicted": False}
        about = {"n_malignant": 48, "limited_by": "missed", "measured": measured(missed, 0.05), "contradicted": False}
        return {**held, "missed": {"risk": risk, "kept": missed <= risk, **about}}

    return {
        "bands": {"low": row(80, 0.688, 0.041), "moderate": row(30, 0.152, 0.282), "high": row(22, 0.16, 0.544)},
        "promises": {"low": promise(0.05, 0.041, 0.0556), "moderate": promise(0.1, 0.0846, 0.16)},
        "missed_in_low": {
            "missed": 1.333333,
            "confidence": 0.95,
            "of_malignant": {"n": 24.0, "value": 0.055556, "upper": 0.2021},
            "of_malignant_in_low": {"n": 9.5, "value": 0.140351, "upper": 0.4338},
            "of_benign_answers_in_low": {"n": 70.25, "value": 0.01898, "upper": 0.0707},
        },
        "missed_in_moderate": {
            "missed": 2.5,
            "confidence": 0.95,
            "of_malignant": {"n": 24.0, "value": 0.104167, "upper": 0.2671},
            "of_malignant_in_moderate": {"n": 7.5, "value": 0.333333, "upper": 0.6863},
            "of_benign_answers_in_moderate": {"n": 20.0, "value": 0.125, "upper": 0.3193},
        },
        "conventions": {"error": "Share of wrong answers, by lesion."},
    }


def evaluated_rules() -> dict[str, Any]:
    def rule(name: str, accuracy: float, sensitivity: float) -> dict[str, Any]:
        values = {"accuracy": accuracy, "balanced_accuracy": 0.71, "sensitivity": sensitivity, "specificity": 0.91}
        return {"rule": name, **{key: measured(value) for key, value in values.items()}}

    return {
        "rule": "most_probable",
        "rules": [rule("most_probable", 0.81, 0.63), rule("balanced", 0.74, 0.84), rule("cost", 0.72, 0.88)],
        "flag": {
            "target": 0.9,
            "confidence": 0.9,
            "threshold": 0.084312,
            "n": 41,
            "missed": 1,
            "sensitivity": measured(0.917),
            "specificity": measured(0.774),
            "kept": True,
            "contradicted": False,
            "per_class": [
                {"name": name, "group": group, "n": n, "n_groups": n, "flagged": flagged}
                for (name, _, group), n in zip(LABELS, TEST_COUNTS, strict=True)
                for flagged in [measured(0.9 if group == "malignant" else 0.2) if n else undefined("no such image")]
            ],
            "diagnosis": [],
        },
        "conventions": {"flag": "Share with p_malignant at or above the threshold, by lesion."},
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
    """As ``trainers.evaluation.trust_report`` writes it."""

    def ood_set(name: str, n: int, declined: float) -> dict[str, Any]:
        values = {"declined": declined, "auroc": 0.985, "aupr": 0.903, "fpr_at_95_tpr": 0.053}
        return {"name": name, "n": n, "n_groups": n, **{key: measured(value) for key, value in values.items()}}

    return {
        "split": "test",
        "gate": {
            "threshold": 4.405595,
            "conventions": {"auroc": "Chance that an ood image scores above an image of the split."},
            "in_distribution": {"n": 137, "n_groups": 91, "accepted": measured(0.968)},
            "sets": [ood_set("chairs", 300, 0.907), ood_set("left out: vasc", 21, 0.048)],
            "per_class": [accepted(name, n) for (name, _, _), n in zip(LABELS, TEST_COUNTS, strict=True)],
        },
        "decision": evaluated_rules(),
        "sets": evaluated_sets(),
        "bands": evaluated_bands(),
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
