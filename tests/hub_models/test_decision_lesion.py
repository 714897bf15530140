"""Decision rules by hand: the class that is named, the flag, what withdraws a promise, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hub_models import DecisionError, LesionConfigError, MobileNetLesionConfig, TrustNotFittedError
from hub_models.answer_lesion import answers
from hub_models.decision_lesion import chosen_rule, flags, named_class, same_class

LABELS = ["mel", "nv", "bkl"]
GROUPS = {"mel": "malignant", "nv": "benign", "bkl": "benign"}
# Costs 8 to call a melanoma benign.
COST = [[0.0, 8.0, 8.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
SENSITIVITY = {"target": 0.9, "confidence": 0.9, "threshold": 0.1, "n": 40, "missed": 1, "reason": None}
TRUST: dict[str, Any] = {
    "temperature": {"value": 1.0},
    "prior": {"value": [0.1, 0.8, 0.1]},
    "ood": {"detector": "energy", "threshold": 1.0},
    "conformal": {"method": "lac", "alpha": 0.1, "qhat": [0.85, 0.5, 0.5], "settings": {}},
    "bands": {
        "low": {"threshold": 0.25, "risk": 0.05, "confidence": 0.9},
        "moderate": {"threshold": 0.9, "risk": 0.2, "confidence": 0.9},
    },
    "policy": {"max_set_size": 2},
    "decision": {"rule": "most_probable", "cost": COST, "sensitivity": SENSITIVITY},
}
PROBS = torch.tensor([[0.16, 0.8, 0.04], [0.11, 0.85, 0.04], [0.06, 0.9, 0.04], [0.1, 0.6, 0.3]], dtype=torch.float64)


def config(rule: str = "most_probable", **trust: Any) -> Any:
    decided = {**TRUST["decision"], "rule": rule}
    fitted = {**TRUST, "decision": decided, **trust}
    return SimpleNamespace(trust=fitted, labels=LABELS, label_names={}, label_groups=GROUPS)


def answered(asked: Any, score: float = 0.5, **options: Any) -> list[dict[str, Any]]:
    output = SimpleNamespace(logits=PROBS.log(), ood_score=torch.full((len(PROBS),), score), get=lambda _: None)
    return answers(output, asked, **options)


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("most_probable", ["nv", "nv", "nv", "nv"]),
        # p / prior: 1.6 > 1.0 and 1.1 > 1.06, then 0.6 < 1.125, then bkl's 3.
        ("balanced", ["mel", "mel", "nv", "bkl"]),
        # Calling it nv costs 8 p_mel + p_bkl, mel costs 1 - p_mel: 1.32 > 0.84, 0.92 > 0.89, 0.52 < 0.94, 1.1 > 0.9.
        ("cost", ["mel", "mel", "nv", "mel"]),
        ("sensitivity", ["nv", "nv", "nv", "nv"]),
    ],
)
def test_rules_by_hand(rule: str, named: list[str]) -> None:
    assert [LABELS[index] for index in named_class(PROBS, rule, TRUST).tolist()] == named
    by_call, stored = answered(config(), decision=rule, trust=False), answered(config(rule), trust=False)
    assert [row["predicted"] for row in by_call] == named
    assert by_call == stored
    assert {row["decision"] for row in stored} == {rule}
    assert {row["malignancy"] for row in stored} == {None}


def test_the_flag_does_not_depend_on_the_rule() -> None:
    expected = ["flagged", "flagged", "not flagged", "flagged"]
    assert flags(PROBS, config()) == expected
    for rule in ("most_probable", "balanced", "cost", "sensitivity"):
        assert [row["malignancy"] for row in answered(config(rule))] == expected
        assert [row["malignancy"] for row in answered(config(), decision=rule)] == expected
    at_threshold = torch.tensor([[0.1 - 5e-7, 0.9, 0.0], [0.0999, 0.9, 0.0001]])
    assert flags(at_threshold, config()) == ["flagged", "not flagged"]


def test_the_flag_is_withdrawn_where_its_promise_does_not_hold() -> None:
    nothing = [None] * len(PROBS)
    assert [row["malignancy"] for row in answered(config(), score=2.0)] == nothing
    assert [row["malignancy"] for row in answered(config(), withdrawn="other_preprocessing")] == nothing
    assert [row["malignancy"] for row in answered(config(), prior=[0.2, 0.6, 0.2])] == nothing
    without = config()
    without.label_groups = {}
    assert [row["malignancy"] for row in answered(without)] == nothing
    assert [row["malignancy"] for row in answered(config(decision={}))] == nothing


def test_promise_and_flag_stand_in_the_message() -> None:
    first = answered(config())[0]["message"]
    flag = (
        "Flagged as possibly malignant: at least 90 % of malignant lesions are expected to be flagged, with 90 % "
        "confidence, on lesions like those it was calibrated on."
    )
    assert first.startswith(
        "mel (malignant) or nv (benign): neither is ruled out, and nv (benign) is the most probable"
    )
    assert first.endswith(f"lesions like those it was calibrated on. {flag}")
    assert answered(config("sensitivity"))[0]["message"] == f"{flag} {first.removesuffix(f' {flag}')}"
    assert " Not flagged as possibly malignant: at least 90 %" in answered(config())[2]["message"]
    balanced = answered(config("balanced"))
    assert (
        "mel (malignant) is the most probable if all classes were equally frequent. Moderate" in balanced[0]["message"]
    )
    assert "bkl (benign) is the one of the lowest expected cost" not in answered(config("cost"))[3]["message"]


def test_uncertainty_is_that_of_the_named_class() -> None:
    assert [row["band"] for row in answered(config())] == ["low", "low", "low", "moderate"]
    # 1 - p of mel, mel, nv, bkl.
    assert [row["band"] for row in answered(config("balanced"))] == ["moderate", "moderate", "low", "moderate"]


def test_a_rule_of_other_classes_withdraws_band_and_set() -> None:
    for row in answered(config(), decision="balanced"):
        assert (row["reason"], row["band"], row["prediction_set"]) == ("other_decision", None, None)
    assert [row["reason"] for row in answered(config(), decision="sensitivity")] == ["answered"] * 4
    assert same_class("sensitivity", "most_probable")
    assert not same_class("sensitivity", "balanced")


def test_with_another_prior_balanced_names_the_same_classes() -> None:
    rows = answered(config("balanced"), prior=[0.3, 0.3, 0.4])
    assert [row["predicted"] for row in rows] == ["mel", "mel", "nv", "bkl"]
    assert {row["reason"] for row in rows} == {"other_prior"}


def test_a_model_from_before_there_were_rules_answers_as_before() -> None:
    old = config()
    del old.trust["decision"]
    rows = answered(old)
    assert [row["predicted"] for row in rows] == ["nv"] * 4
    assert {(row["decision"], row["malignancy"]) for row in rows} == {("most_probable", None)}
    assert "flagged" not in rows[0]["message"]
    assert [row["predicted"] for row in answered(old, decision="balanced")] == ["mel", "mel", "nv", "bkl"]
    for rule, lacks in (("cost", "cost matrix"), ("sensitivity", "threshold on p_malignant")):
        with pytest.raises(TrustNotFittedError, match=f"decision '{rule}' needs a fitted {lacks}"):
            answered(old, decision=rule)


def test_rules_that_there_are_not_are_named() -> None:
    with pytest.raises(
        DecisionError, match="decision 'best': choose one of most_probable, balanced, cost, sensitivity"
    ):
        chosen_rule("best", TRUST)
    few = {**SENSITIVITY, "threshold": None, "reason": "9 malignant calibration lesions are too few"}
    trust = {**TRUST, "decision": {**TRUST["decision"], "sensitivity": few}}
    with pytest.raises(DecisionError, match="promises nothing here: 9 malignant calibration lesions are too few"):
        chosen_rule("sensitivity", trust)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rule": "best"}, "rule"),
        ({"cost": [[0.0, 1.0], [1.0, 0.0]]}, "cost"),
        ({"cost": [[0.0, -1.0, 1.0], *COST[1:]]}, "cost"),
        ({"cost": [[0.0, float("nan"), 1.0], *COST[1:]]}, "cost"),
        ({"rule": "cost", "cost": None}, "rule"),
        ({"rule": "sensitivity", "sensitivity": None}, "rule"),
        ({"sensitivity": 0.9}, "sensitivity"),
        ({"sensitivity": {**SENSITIVITY, "threshold": 2.0}}, "sensitivity.threshold"),
        ({"sensitivity": {**SENSITIVITY, "target": None}}, "sensitivity.target"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, Any], named: str) -> None:
    labels = dict(enumerate(LABELS))
    decision = TRUST["decision"]
    MobileNetLesionConfig(id2label=labels, label_groups=GROUPS, trust={"decision": decision})
    with pytest.raises(LesionConfigError, match=f'trust."decision".."{named}"'):
        MobileNetLesionConfig(id2label=labels, label_groups=GROUPS, trust={"decision": {**decision, **change}})
