"""Answers by group, on images that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from trainers.evaluation.abstention import abstention_section
from trainers.evaluation.decisions import Decisions
from trainers.metrics.predictions import Predictions

BANDS = {
    "low": {"threshold": 0.1, "risk": 0.05, "missed_risk": 0.05},
    "moderate": {"threshold": 0.3, "risk": 0.9, "missed_risk": None},
}


def split(lesions: int = 100) -> tuple[Predictions, Decisions]:
    """Lesions of one image: even ones are of women and benign, odd ones of men and malignant; all called benign.

    The first half is in the band low, the third quarter in high and declined, the last is not accepted.
    """
    number = np.arange(lesions)
    ids = np.array([f"L{n}" for n in number], dtype=object)
    rows = Predictions(
        image_id=ids,
        lesion_id=ids,
        group_id=ids,
        label=number % 2,
        logits=np.zeros((lesions, 1, 2)),
        labels=["nv", "mel"],
        label_names={"nv": "Nevus", "mel": "Melanoma"},
        label_groups={"nv": "benign", "mel": "malignant"},
        split="test",
        columns={"sex": np.array(["female", "male"], dtype=object)[number % 2]},
        ood_score=np.zeros(lesions),
    )
    half, accepted = number < lesions // 2, number < 3 * lesions // 4
    made = Decisions(
        probs=np.tile([0.9, 0.1], (lesions, 1)),
        predicted=np.zeros(lesions, dtype=int),
        flagged=None,
        uncertainty=np.zeros(lesions),
        sets=np.ones((lesions, 2), dtype=bool),
        bands=np.where(half, "low", "high").astype(object),
        accepted=accepted,
        reasons=np.where(half, "answered", "high_uncertainty").astype(object),
        abstains=~half,
    )
    return rows, made


def test_shares_of_a_group_are_counted():
    found = abstention_section(*split(), BANDS)["columns"]
    assert list(found) == ["sex", "class"]
    women, men = found["sex"]
    assert (women["value"], men["value"], men["n_groups"]) == ("female", "male", 50)
    assert women["answered"]["value"] == men["answered"]["value"] == 0.5
    assert (women["error_answered"]["value"], men["error_answered"]["value"]) == (0, 1)
    assert (women["error_low"]["value"], men["error_low"]["value"]) == (0, 1)
    # 37 of the 50 malignant lesions are accepted, 25 of these are called benign in the band.
    assert men["missed_low"]["value"] == pytest.approx(25 / 37, abs=1e-6)
    assert men["missed_low"]["low"] == pytest.approx(beta.ppf(0.025, 25, 13), abs=1e-6)
    assert women["missed_low"]["value"] is None


def test_a_group_is_named_from_fifty_lesions_on_where_its_interval_is_above_the_bound():
    broken = abstention_section(*split(), BANDS)["broken"]
    assert [(row["column"], row["value"], row["promise"]) for row in broken] == [
        ("sex", "male", "error_low"), ("sex", "male", "missed_low"),
        ("class", "mel", "error_low"), ("class", "mel", "missed_low"),
    ]  # fmt: skip
    assert broken[0]["bound"] == 0.05
    assert abstention_section(*split(98), BANDS)["broken"] == []


def test_a_band_that_is_empty_or_promises_nothing_about_cancers_breaks_nothing():
    old = {name: {"threshold": 0.1, "risk": 0.05} for name in BANDS}
    assert {row["promise"] for row in abstention_section(*split(), old)["broken"]} == {"error_low", "error_moderate"}
    empty = {name: {**band, "threshold": None} for name, band in BANDS.items()}
    assert abstention_section(*split(), empty)["broken"] == []
