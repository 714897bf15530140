"""Promises by group, on lesions that can be counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trainers.evaluation.trust_report import trust_section
from trainers.metrics.predictions import Predictions

SETS = {
    "method": "lac",
    "alpha": 0.1,
    "qhat": [0.5, 0.5],
    "class_conditional": True,
    "settings": {},
    "groups": {"nv": "nv", "mel": "mel"},
    "n": {"nv": 99, "mel": 40},
}


def band(threshold: float | None, risk: float) -> dict:
    return {"threshold": threshold, "risk": risk, "confidence": 0.9, "n": 90, "missed_risk": 0.1, "n_malignant": 40} | {
        "limited_by": "missed"
    }


GROUPS = {
    "column": "sex",
    "read_from": "sex",
    "values": {
        "female": {
            "conformal": {**SETS, "qhat": [0.9, 0.9], "groups": {"nv": "nv", "mel": "all groups: mel"}},
            "bands": {"low": band(None, 0.05), "moderate": band(0.15, 0.1)},
            "pooled": {},
        },
        "male": {"pooled": {"conformal": "3 lesions", "bands": "3 lesions"}},
    },
}
GROUPS["values"]["female"]["conformal"]["n"] = {"nv": 30, "all groups: mel": 40}
TRUST = {
    "temperature": {"kind": "scalar", "value": 1.0},
    "prior": {"value": [0.5, 0.5]},
    "ood": {"detector": "energy", "threshold": 1.0, "acceptance": 0.95},
    "conformal": SETS,
    "bands": {"low": band(0.15, 0.05), "moderate": band(0.3, 0.1)},
    "policy": {"max_set_size": 1},
    "groups": GROUPS,
}


def split() -> Predictions:
    """Of each sex ten nevi (two called melanoma) and ten melanomas (five called nevi), two unknown; p is 0.9 or 0.8."""
    sex = np.array(["female"] * 20 + ["male"] * 20 + ["?"] * 2, dtype=object)
    label = np.array(([0] * 10 + [1] * 10) * 2 + [0, 1])
    nevus = np.array(([0.9] * 8 + [0.1] * 2 + [0.9] * 5 + [0.2] * 5) * 2 + [0.9, 0.1])
    ids = np.array([f"L{row}" for row in range(len(label))], dtype=object)
    return Predictions(
        image_id=ids,
        lesion_id=ids,
        group_id=ids,
        label=label,
        logits=np.log(np.stack([nevus, 1 - nevus], axis=1))[:, None],
        labels=["nv", "mel"],
        label_names={},
        label_groups={"nv": "benign", "mel": "malignant"},
        split="test",
        columns={"sex": sex},
        ood_score=np.zeros(len(label)),
    )


@pytest.fixture(scope="module")
def found():
    section = trust_section(split(), TRUST, {}, replicates=20)["groups"]
    json.dumps(section, allow_nan=False)
    return section


def test_groups_are_counted_with_their_own_thresholds(found):
    assert found["column"] == "sex"
    female, male, unknown = found["rows"]
    assert [(row["value"], row["n_groups"], row["fitted"]) for row in found["rows"]] == [
        ("female", 20, ["conformal", "bands"]),
        ("male", 20, []),
        ("unknown", 2, []),
    ]
    # At 0.5 a set holds the named class alone, right for 8 nevi and 5 melanomas; at 0.9 it holds both classes.
    assert (female["own"]["coverage"]["value"], female["together"]["coverage"]["value"]) == (1.0, 0.65)
    assert female["own"]["mean_set_size"]["value"] == 2.0
    # A class with the threshold of all groups follows no law within a group.
    assert (female["own"]["expected"]["value"], female["own"]["inside"]) == (None, None)
    assert female["together"]["expected"]["value"] == pytest.approx((90 / 100 + 37 / 41) / 2, abs=1e-6)
    own, together = (female[name]["bands"] for name in ("own", "together"))
    assert (own["low"]["error"]["measured"]["value"], own["low"]["error"]["risk"]) == (None, None)
    assert own["moderate"]["error"]["measured"]["value"] == pytest.approx(7 / 15)
    assert together["low"]["error"]["measured"]["value"] == pytest.approx(7 / 15)
    assert together["moderate"]["error"]["measured"]["value"] == pytest.approx(7 / 20)
    assert own["moderate"]["missed"]["measured"]["value"] == pytest.approx(0.5)
    assert own["moderate"]["missed"]["contradicted"] is True
    assert male["own"] == male["together"]
    assert male["pooled"] == {"conformal": "3 lesions", "bands": "3 lesions"}
    assert unknown["own"]["coverage"]["value"] == 1.0
    # Two classes are too many for the policy; the five of 0.2 are above the group's only threshold.
    assert (female["own"]["answered"]["value"], female["together"]["answered"]["value"]) == (0.0, 1.0)


def test_a_model_without_groups_has_no_such_section():
    plain = {name: value for name, value in TRUST.items() if name != "groups"}
    assert "groups" not in trust_section(split(), plain, {}, replicates=20)
