"""Decision rules and the flag on ten images that can be counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from trainers.evaluation.decisions import decisions
from trainers.evaluation.rules import decision_section
from trainers.metrics.intervals import exact_interval
from trainers.metrics.predictions import Predictions

LABELS = ["nv", "mel", "bcc"]
# lesion, label, probabilities, ood_score; flagged at 0.2.
IMAGES = [
    ("a", 0, (0.9, 0.05, 0.05), 0.0),
    ("a", 0, (0.7, 0.2, 0.1), 0.0),  # flagged; mel when balanced
    ("b", 0, (0.85, 0.05, 0.1), 0.0),
    ("c", 1, (0.6, 0.3, 0.1), 0.0),  # flagged; mel when balanced
    ("d", 1, (0.95, 0.03, 0.02), 0.0),  # missed by all
    ("e", 2, (0.1, 0.1, 0.8), 0.0),
    ("f", 2, (0.4, 0.2, 0.4), 9.0),  # the gate declines it
]
TRUST = {
    "temperature": {"kind": "scalar", "value": 1.0},
    "prior": {"value": [0.8, 0.1, 0.1]},
    "ood": {"detector": "energy", "threshold": 1.0},
    "conformal": {"method": "lac", "alpha": 0.1, "qhat": [0.5] * 3, "settings": {}},
    "bands": {
        "low": {"threshold": 0.1, "risk": 0.05, "confidence": 0.9, "n": 70},
        "moderate": {"threshold": 0.3, "risk": 0.2, "confidence": 0.9, "n": 90},
    },
    "policy": {"max_set_size": 1},
    "decision": {
        "rule": "balanced",
        "cost": None,
        "sensitivity": {"target": 0.9, "confidence": 0.9, "threshold": 0.2, "n": 40, "missed": 1, "reason": None},
    },
}


@pytest.fixture
def rows() -> Predictions:
    lesions = np.array([image[0] for image in IMAGES], dtype=object)
    return Predictions(
        image_id=np.array([f"i{number}" for number in range(len(IMAGES))], dtype=object),
        lesion_id=lesions,
        group_id=lesions,
        label=np.array([image[1] for image in IMAGES]),
        logits=np.log(np.array([image[2] for image in IMAGES]))[:, None],
        labels=LABELS,
        label_names={name: name for name in LABELS},
        label_groups={"nv": "benign", "mel": "malignant", "bcc": "malignant"},
        split="test",
        ood_score=np.array([image[3] for image in IMAGES]),
        columns={
            "diagnosis": np.array(["nevus"] * 2 + ["halo nevus"] + ["melanoma"] * 2 + ["carcinoma"] * 2, dtype=object)
        },
    )


def test_rules_and_flag_by_hand(rows: Predictions) -> None:
    made = decisions(rows, TRUST)
    # p / prior of the last: 0.5, 2, 4.
    assert made.predicted.tolist() == [0, 1, 0, 1, 0, 2, 2]
    assert made.flagged.tolist() == [False, True, False, True, False, True, True]
    found = decision_section(rows, made, TRUST, replicates=20)
    assert json.loads(json.dumps(found)) == found
    plain, balanced = found["rules"]
    assert (found["rule"], plain["rule"], balanced["rule"]) == ("balanced", "most_probable", "balanced")
    assert plain["confusion_matrix"] == [[3, 0, 0], [2, 0, 0], [1, 0, 1]]
    assert balanced["confusion_matrix"] == [[2, 1, 0], [1, 1, 0], [0, 0, 2]]
    assert balanced["balanced_accuracy"]["value"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3, abs=1e-6)
    assert (plain["sensitivity"]["value"], balanced["sensitivity"]["value"]) == (0.25, 0.75)
    # One of two images of the first of two lesions.
    assert (plain["specificity"]["value"], balanced["specificity"]["value"]) == (1.0, 0.75)
    low, high = exact_interval(1.5, 2)
    assert (balanced["specificity"]["low"], balanced["specificity"]["high"]) == pytest.approx((low, high), abs=1e-6)
    flag = found["flag"]
    # Of the accepted malignant lesions c, d, e two are flagged.
    assert flag["sensitivity"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert flag["specificity"]["value"] == 0.75
    assert (flag["kept"], flag["contradicted"], flag["threshold"]) == (False, False, 0.2)
    assert [(row["name"], row["n"], row["n_groups"], row["flagged"]["value"]) for row in flag["per_class"]] == [
        ("nv", 3, 2, 0.25),
        ("mel", 2, 2, 0.5),
        ("bcc", 1, 1, 1.0),
    ]
    assert [(row["value"], row["n"], row["flagged"]["value"]) for row in flag["diagnosis"]] == [
        ("carcinoma", 1, 1.0),
        ("melanoma", 2, 0.5),
    ]


def test_a_diagnosis_that_one_archive_does_not_state_is_the_label(rows: Predictions) -> None:
    given = np.array(["nevus"] * 2 + ["halo nevus"] + ["unknown"] * 2 + ["carcinoma", "unknown"], dtype=object)
    flag = decision_section(replace(rows, columns={"diagnosis": given}), decisions(rows, TRUST), TRUST)["flag"]
    assert [(row["value"], row["n"]) for row in flag["diagnosis"]] == [("carcinoma", 1), ("mel", 2)]


def test_what_was_not_fitted_is_left_out(rows: Predictions) -> None:
    old = {name: part for name, part in TRUST.items() if name != "decision"}
    made = decisions(rows, old)
    assert made.predicted.tolist() == [0, 0, 0, 0, 0, 2, 0]
    assert made.flagged is None
    assert decision_section(rows, made, old) is None
    without = {**TRUST, "decision": {"rule": "most_probable", "cost": [[0.0, 1, 1]] * 3, "sensitivity": None}}
    found = decision_section(rows, decisions(rows, without), without, replicates=20)
    assert [row["rule"] for row in found["rules"]] == ["most_probable", "balanced", "cost"]
    assert found["flag"] is None
