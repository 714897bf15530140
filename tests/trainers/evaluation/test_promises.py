"""Promises by group, and verdicts on promises, on lesions that can be counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from trainers.evaluation.decisions import decisions
from trainers.evaluation.promises import promise_lines, promise_table, verdict
from trainers.evaluation.trust_report import trust_section
from trainers.metrics.intervals import exact_interval
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


def share(right: int, n: int) -> dict:
    low, high = exact_interval(right, n)
    return {"value": right / n, "low": low, "high": high}


@pytest.mark.parametrize(
    ("how", "promised", "right", "n", "expected"),
    [
        # 0 of 72 has the upper end 1 - 0.025 ** (1 / 72) = 0.0499, 0 of 71 has 0.0506.
        ("at most", 0.05, 0, 72, "holds"),
        ("at most", 0.05, 0, 71, "too few to say"),
        ("at most", 0.05, 10, 72, "does not hold"),
        # All of 36 has the lower end 0.025 ** (1 / 36) = 0.9026, all of 35 has 0.8999.
        ("at least", 0.9, 36, 36, "holds"),
        ("at least", 0.9, 35, 35, "too few to say"),
        ("at least", 0.9, 20, 36, "does not hold"),
        # Coverage of 0.9 at n = 1000 has the interval 0.880 to 0.918: above 0.85.
        ("about", 0.9, 900, 1000, "holds"),
        ("about", 0.9, 9, 10, "too few to say"),
        ("about", 0.9, 800, 1000, "does not hold"),
        ("equal to", 0.9, 900, 1000, "holds"),
        ("equal to", 0.9, 90, 100, "too few to say"),
        ("equal to", 0.9, 800, 1000, "does not hold"),
    ],
)
def test_verdicts(how: str, promised: float, right: int, n: int, expected: str) -> None:
    assert verdict(how, promised, share(right, n)) == expected


def test_what_was_not_promised_or_not_measured() -> None:
    nothing = {"value": None, "why": "no image"}
    assert verdict("at most", None, share(0, 100)) == "nothing is promised"
    assert verdict("at most", 0.05, nothing) == "too few to say"


def test_the_table_of_a_site() -> None:
    rows = split()
    table = promise_table(trust_section(rows, TRUST, {}, replicates=20), rows, decisions(rows, TRUST), TRUST)
    found = {row["promise"]: row for row in table["rows"]}
    assert list(found) == [
        "an ordinary image passes the gate",
        "the prediction set holds the true class",
        'wrong, in the band "low"',
        'wrong, in "low" and "moderate"',
        'called benign in the band "low", of all malignant lesions',
        'called benign in "low" and "moderate", of all malignant lesions',
        "accuracy equals the mean confidence",
    ]
    gate = found["an ordinary image passes the gate"]
    assert (gate["promised"], gate["measured"]["value"], gate["verdict"]) == (0.95, 1.0, "holds")
    # Of 42 lesions 28 are right: 13 of 20 of each sex and both others.
    sets = found["the prediction set holds the true class"]
    assert sets["measured"]["value"] == pytest.approx(28 / 42, abs=1e-6)
    assert sets["measured"]["high"] == pytest.approx(beta.ppf(0.975, 29, 14), abs=1e-6)
    assert sets["verdict"] == "does not hold"
    confidence = found["accuracy equals the mean confidence"]
    assert confidence["promised"] == pytest.approx((32 * 0.9 + 10 * 0.8) / 42)
    assert confidence["verdict"] == "does not hold"
    assert found['called benign in the band "low", of all malignant lesions']["verdict"] == "does not hold"
    lines = list(promise_lines(table))
    assert lines[2] == "| an ordinary image passes the gate | about 95 % | 100.0 % (91.6 to 100.0) | holds |"
    assert len(lines) == 9


def test_a_gate_that_accepts_nothing_leaves_one_row() -> None:
    rows = replace(split(), ood_score=np.full(42, 5.0))
    table = promise_table(trust_section(rows, TRUST, {}, replicates=20), rows, decisions(rows, TRUST), TRUST)
    assert [row["verdict"] for row in table["rows"]] == ["does not hold"]
