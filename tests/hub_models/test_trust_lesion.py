"""Applying fitted numbers: calibration, prior shift, the policy."""

from __future__ import annotations

import pytest
import torch

from hub_models.answer_lesion import (
    ANSWERED,
    EMPTY_SET,
    HIGH_UNCERTAINTY,
    OTHER_PRIOR,
    OUT_OF_DISTRIBUTION,
    SET_TOO_LARGE,
    decide,
)
from hub_models.trust_lesion import PriorError, calibrate, check_prior, shift_prior
from trainers.trust.temperature import calibrated

LABELS = ["mel", "nv", "bkl"]
TRUST = {
    "policy": {"max_set_size": 2},
    "bands": {
        "low": {"risk": 0.05, "confidence": 0.9, "threshold": 0.1},
        "moderate": {"risk": 0.2, "confidence": 0.9, "threshold": 0.4},
    },
}


@pytest.mark.parametrize(
    ("fitted", "expected"),
    [
        ({}, [1.0, -2.0, 4.0]),
        (None, [1.0, -2.0, 4.0]),
        ({"value": 2.0}, [0.5, -1.0, 2.0]),
        ({"value": 2.0, "bias": [1.0, 0.0, -1.0]}, [1.5, -1.0, 1.0]),
        ({"value": 9.0, "scale": [1.0, 2.0, 0.5], "bias": [0.0, 1.0, 0.0]}, [1.0, -3.0, 2.0]),
    ],
)
def test_calibrate_by_hand_and_as_the_metrics_do(fitted, expected):
    raw = torch.tensor([1.0, -2.0, 4.0])
    assert calibrate(raw, fitted).tolist() == expected
    members = raw.repeat(2, 5, 1)
    assert calibrate(members, fitted).tolist() == [[expected] * 5] * 2
    if fitted:
        assert calibrated(members.numpy(), fitted).tolist() == [[expected] * 5] * 2


def test_shift_prior_by_hand():
    log_probs = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    home, away = torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.5, 0.25, 0.25])
    # 0.5 * 2, 0.3 / 2, 0.2 over their sum, 1.35.
    got = shift_prior(log_probs, home, away).exp()[0].tolist()
    assert got == pytest.approx([1 / 1.35, 0.15 / 1.35, 0.2 / 1.35])
    assert shift_prior(log_probs, home, home).exp()[0].tolist() == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize(
    ("given", "abstain", "reason"),
    [
        ({"is_ood": False, "band": "low", "prediction_set": ["nv"]}, False, ANSWERED),
        ({"is_ood": False, "band": "moderate", "prediction_set": ["nv", "bkl"]}, False, ANSWERED),
        ({"is_ood": False, "band": "high", "prediction_set": ["nv"]}, True, HIGH_UNCERTAINTY),
        ({"is_ood": False, "band": "moderate", "prediction_set": LABELS}, True, SET_TOO_LARGE),
        ({"is_ood": False, "band": "low", "prediction_set": []}, True, EMPTY_SET),
        ({"is_ood": True, "band": "low", "prediction_set": ["nv"]}, True, OUT_OF_DISTRIBUTION),
        ({"is_ood": True, "withdrawn": OTHER_PRIOR}, True, OUT_OF_DISTRIBUTION),
        ({"is_ood": False, "withdrawn": OTHER_PRIOR}, False, OTHER_PRIOR),
    ],
)
def test_the_policy(given, abstain, reason):
    verdict = decide(TRUST, "nv", **given)
    assert (verdict.abstain, verdict.reason) == (abstain, reason)
    assert verdict.message.startswith("The model declines") == abstain


WORDS = {
    "long_names": {"mel": "Melanoma", "nv": "Melanocytic nevus", "bkl": "Benign keratosis-like lesion"},
    "groups": {"mel": "malignant", "nv": "benign", "bkl": "benign"},
}


def test_a_promise_is_worded_as_what_was_tested():
    low = decide(TRUST, "nv", is_ood=False, band="low", prediction_set=["nv"], **WORDS).message
    assert low == (
        "Melanocytic nevus (benign). Low uncertainty: at most 5 % of such answers are expected to be wrong, with 90 % "
        "confidence, on lesions like those it was calibrated on."
    )
    moderate = decide(TRUST, "nv", is_ood=False, band="moderate", prediction_set=["nv"], **WORDS).message
    assert "Moderate uncertainty: at most 20 % of answers with low or moderate uncertainty" in moderate
    sentence = decide(TRUST, "nv", is_ood=False, withdrawn=OTHER_PRIOR, **WORDS).message
    assert sentence.startswith("Melanocytic nevus (benign), without a tested error rate: the classes are assumed")


def test_the_promise_about_malignant_lesions_has_a_sentence_of_its_own():
    bands = {name: {**band, "missed_risk": band["risk"]} for name, band in TRUST["bands"].items()}
    trust = {**TRUST, "bands": bands}
    low = decide(trust, "nv", is_ood=False, band="low", prediction_set=["nv"], **WORDS).message
    assert low.endswith(
        "calibrated on. At most 5 % of all malignant lesions are expected to be called benign with low uncertainty, "
        "with the same confidence."
    )
    moderate = decide(trust, "nv", is_ood=False, band="moderate", prediction_set=["nv"], **WORDS).message
    assert "At most 20 % of all malignant lesions are expected to be called benign with low or moderate" in moderate


@pytest.mark.parametrize(
    ("band", "names", "begins"),
    [
        ("low", ["nv", "mel"], "Melanoma (malignant) or Melanocytic nevus (benign): neither is ruled out"),
        ("low", ["mel"], "Melanoma (malignant) is not ruled out, and Melanocytic nevus (benign) is the most probable"),
        ("high", ["nv", "mel"], "The model declines. High uncertainty"),
        ("moderate", LABELS, "The model declines: it cannot tell 3 classes apart: Melanoma (malignant)"),
    ],
)
def test_every_class_of_the_set_is_named_and_malignant_ones_first(band, names, begins):
    message = decide(TRUST, "nv", is_ood=False, band=band, prediction_set=names, **WORDS).message
    assert message.startswith(begins)
    assert f"{band.capitalize()} uncertainty" in message
    places = [message.index(WORDS["long_names"][name]) for name in names]
    assert min(places) == message.index("Melanoma")


def test_two_classes_with_one_name_are_named():
    one = {**TRUST, "policy": {"max_set_size": 1}}
    words = {"long_names": {"b": "Benign lesion", "m": "Malignant lesion"}, "groups": {"b": "benign", "m": "malignant"}}
    message = decide(one, "b", is_ood=False, band="low", prediction_set=["b", "m"], **words).message
    assert message == ("The model declines: it cannot tell Malignant lesion and Benign lesion apart. Low uncertainty.")


def test_a_prior_by_name_or_in_order():
    assert check_prior({"nv": 0.7, "bkl": 0.2, "mel": 0.1}, LABELS).tolist() == [0.1, 0.7, 0.2]
    assert check_prior([0.1, 0.7, 0.2], LABELS).tolist() == [0.1, 0.7, 0.2]
    assert check_prior(torch.ones(3, dtype=torch.float64) / 3, LABELS).sum() == pytest.approx(1)
    assert check_prior([0.1, 0.7, 0.2 + 9e-7], LABELS)[2] == 0.2 + 9e-7


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"mel": 0.5, "nv": 0.5}, "the prior lacks bkl: give one share for each of mel, nv, bkl"),
        ({"mel": 0.1, "nv": 0.7, "bkl": 0.1, "df": 0.1}, "has the unknown class df: give one share for each of"),
        ({"melanoma": 0.1, "nv": 0.7, "bkl": 0.2}, "has the unknown class melanoma and lacks mel"),
        ([0.5, 0.5], r"has shape \(2,\) for 3 classes"),
        (0.5, r"has shape \(\) for 3 classes"),
        ([0.0, 0.8, 0.2], "the prior of mel is 0: give a share above 0, a small one such as 0.001"),
        ([0.4, 0.8, -0.2], "the prior of bkl is -0.2: give a share above 0"),
        ([0.4, float("nan"), 0.2], "the prior of nv is nan: give a share above 0"),
        ([0.4, float("inf"), 0.2], "the prior of nv is inf"),
        ([0.5, 0.5, 0.5], "the prior sums to 1.5: divide each share by 1.5, so that they sum to 1"),
        ([10, 70, 20], "the prior sums to 100: divide each share by 100"),
        ([0.1, 0.7, 0.2 + 2e-6], "the prior sums to 1"),
        (["a", "b", "c"], "is not numbers"),
        ({"mel": None, "nv": 0.7, "bkl": 0.2}, "the prior of mel is nan"),
    ],
)
def test_a_prior_that_is_none_is_named(prior, message):
    with pytest.raises(PriorError, match=message):
        check_prior(prior, LABELS)
