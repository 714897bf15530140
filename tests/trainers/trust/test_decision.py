"""Fitting decision rules: the threshold by hand and by simulation, cost matrices, and what cannot be promised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from datasets_scripts.command import UserError
from trainers.metrics.predictions import Predictions
from trainers.trust.decision import cost_matrix, fit_decision, fit_sensitivity, names_of
from trainers.trust.options import TrustOptions

LABELS = ["nv", "mel", "bkl"]
MALIGNANT = np.array([False, True, False])
DRAWS = 2000


def test_the_threshold_by_hand() -> None:
    """Of 40 lesions at most 1 may be missed at 90 %: 0.9^40 + 40 * 0.1 * 0.9^39 = 0.0805; with 2 it is 0.2228."""
    p = np.random.default_rng(0).permutation(np.arange(1, 41) / 100)
    fit = fit_sensitivity(p, 0.9, 0.9)
    assert (fit["threshold"], fit["missed"], fit["n"], fit["reason"]) == (0.02, 1, 40, None)
    assert fit["p_value"] == pytest.approx(0.9**40 + 40 * 0.1 * 0.9**39)
    # The lower Clopper-Pearson bound of 39 of 40 found is above the target, that of 38 is not.
    bound = [binomtest(found, 40, alternative="greater").proportion_ci(0.9, method="exact").low for found in (39, 38)]
    assert bound[0] >= 0.9 > bound[1]


def test_ties_are_flagged_together_and_the_threshold_is_rounded_down() -> None:
    fit = fit_sensitivity(np.r_[0.2000009, 0.2000009, np.full(38, 0.7)], 0.9, 0.9)
    assert (fit["threshold"], fit["missed"]) == (0.2, 0)


@pytest.mark.parametrize(("target", "n"), [(0.9, 40), (0.9, 84), (0.95, 60), (0.95, 84)])
def test_the_promise_fails_in_at_most_one_draw_in_ten(target: float, n: int) -> None:
    """``p_malignant`` uniform: a threshold t misses the share t."""
    drawn = np.random.default_rng(1).random((DRAWS, n))
    missed = np.array([fit_sensitivity(p, target, 0.9)["threshold"] for p in drawn])
    broken = (missed > 1 - target).mean()
    exact = binom.cdf(fit_sensitivity(drawn[0], target, 0.9)["missed"], n, 1 - target)
    assert broken <= 0.1
    assert broken == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize(
    ("target", "n", "needed", "instead"),
    [(0.9, 21, 22, ", or ask for at most 0.896"), (0.95, 44, 45, ", or ask for at most 0.949"), (0.9, 0, 22, "")],
)
def test_too_few_malignant_lesions_say_how_many_it_takes(target: float, n: int, needed: int, instead: str) -> None:
    fit = fit_sensitivity(np.full(n, 0.5), target, 0.9)
    assert fit["threshold"] is None
    assert fit["reason"] == (
        f"{n} malignant calibration lesions are too few to promise that {target:g} of them are found with confidence "
        f"0.9: {needed} are needed in the second half of the split, so about {2 * needed} in all{instead}"
    )
    assert fit_sensitivity(np.full(needed, 0.5), target, 0.9)["threshold"] == 0.5


def rows(malignant: int = 30, groups: dict[str, str] | None = None) -> Predictions:
    label = np.repeat([0, 1, 2], [40, malignant, 20])
    ids = np.array([f"L{index}" for index in range(len(label))], dtype=object)
    known = {"nv": "benign", "mel": "malignant", "bkl": "benign"} if groups is None else groups
    names = {name: name for name in LABELS}
    logits = np.eye(3)[label][:, None]
    return Predictions(ids, ids, ids, label, logits, LABELS, names, known, "calibration")


def probs(of: Predictions) -> np.ndarray:
    return 0.1 + 0.7 * np.eye(3)[of.label]


def test_what_is_fitted_is_plain_and_the_default_is_the_most_probable() -> None:
    found = fit_decision(rows(), probs(rows()), TrustOptions())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["rule"] == "most_probable"
    assert found["cost"] == [[0.0, 1.0, 1.0], [10.0, 0.0, 10.0], [1.0, 1.0, 0.0]]
    assert (found["sensitivity"]["target"], found["sensitivity"]["n"]) == (0.9, 30)
    assert found["sensitivity"]["threshold"] == pytest.approx(0.8, abs=2e-6)


def test_the_rule_that_is_named_decides() -> None:
    p = np.array([[0.8, 0.15, 0.05], [0.5, 0.06, 0.44]])
    prior = {"value": [0.8, 0.1, 0.1]}
    fitted = {"decision": {"rule": "balanced"}, "prior": prior}
    assert names_of(p, fitted).tolist() == [1, 2]
    assert names_of(p, {"decision": {"rule": "sensitivity"}}).tolist() == names_of(p, {}).tolist() == [0, 0]
    cost = cost_matrix("10", LABELS, MALIGNANT)
    assert names_of(p, {"decision": {"rule": "cost", "cost": cost}}).tolist() == [1, 1]


def test_few_lesions_are_an_error_where_the_sensitivity_was_requested() -> None:
    few = rows(malignant=9)
    assert fit_decision(few, probs(few), TrustOptions())["sensitivity"]["threshold"] is None
    for options in (TrustOptions(decision="sensitivity"), TrustOptions(sensitivity=0.95)):
        with pytest.raises(
            UserError, match=r"sensitivity 0\.9\d?: 9 malignant calibration lesions are too few .* are "
        ):
            fit_decision(few, probs(few), options)


def test_without_malignant_classes_only_what_needs_none_is_fitted() -> None:
    plain = rows(groups={})
    for rule in ("most_probable", "balanced"):
        found = fit_decision(plain, probs(plain), TrustOptions(decision=rule))
        assert found == {"rule": rule, "cost": None, "sensitivity": None}
    for options in (TrustOptions(decision="sensitivity"), TrustOptions(sensitivity=0.8), TrustOptions(decision="cost")):
        with pytest.raises(UserError, match="no class is marked as malignant or premalignant"):
            fit_decision(plain, probs(plain), options)


@pytest.mark.parametrize(("name", "text"), [("c.json", "[[0, 1, 2.5], [9, 0, 9], [1, 1, 0]]"), ("c.csv", None)])
def test_a_cost_matrix_from_a_file(tmp_path: Path, name: str, text: str | None) -> None:
    path = tmp_path / name
    path.write_text(text or "0,1,2.5\n9,0,9\n1,1,0\n")
    expected = [[0.0, 1.0, 2.5], [9.0, 0.0, 9.0], [1.0, 1.0, 0.0]]
    assert cost_matrix(str(path), LABELS, MALIGNANT) == expected
    plain = rows(groups={})
    assert fit_decision(plain, probs(plain), TrustOptions(decision="cost", cost=str(path)))["cost"] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[0, 1], [1, 0]]", r"has shape \(2, 2\): give 3 rows of 3 costs.*nv, mel, bkl"),
        ("[0, 1, 1]", r"has shape \(3,\)"),
        ("[[0, 1, 1], [1, 0]]", "is no matrix of numbers: give 3 rows of 3 costs"),
        ("[[0, 1, 1], [-2, 0, 1], [1, 1, 0]]", "has -2 for mel called nv: give finite costs of at least 0"),
        ("[[0, 1, NaN], [2, 0, 1], [1, 1, 0]]", "has nan for nv called bkl"),
        ("[[0, 1, 1], [2, 0, 1], [1, Infinity, 0]]", "has inf for bkl called mel"),
        ("a,b,c\n0,1,1\n1,0,1\n1,1,0", "is no matrix of numbers"),
        ("[[0, 1", "is no JSON"),
        ("", "has shape"),
    ],
)
def test_a_cost_matrix_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cost").write_text(text)
    with pytest.raises(UserError, match=message):
        cost_matrix(str(tmp_path / "cost"), LABELS, MALIGNANT)


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "no_such_file.json"])
def test_a_cost_that_is_no_number_and_no_file_is_named(given: str) -> None:
    with pytest.raises(UserError, match=f"cost '?{given}"):
        cost_matrix(given, LABELS, MALIGNANT)
