"""Scores, sets and bands against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from hub_models.trust_lesion import (
    ROUNDING,
    ConformalError,
    conformal_scores,
    prediction_sets,
    risk_bands,
)

PROBS = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], dtype=torch.float64)


def rows(values: torch.Tensor) -> list[list[float]]:
    return [pytest.approx(row) for row in values.tolist()]


def test_lac_by_hand() -> None:
    assert rows(conformal_scores(PROBS)) == [[0.5, 0.7, 0.8], [0.8, 0.8, 0.4]]


def test_aps_by_hand() -> None:
    # The classes of equal probability of the second row are ranked by their index.
    assert rows(conformal_scores(PROBS, "aps")) == [[0.5, 0.8, 1.0], [0.8, 1.0, 0.6]]


def test_raps_by_hand() -> None:
    # Ranks 1 2 3 and 2 3 1: a penalty of 0.1 for each rank beyond the first.
    found = conformal_scores(PROBS, "raps", {"penalty": 0.1, "k_reg": 1})
    assert rows(found) == [[0.5, 0.9, 1.2], [0.9, 1.2, 0.6]]


def test_raps_takes_its_defaults() -> None:
    # 0.01 for the third rank alone.
    assert rows(conformal_scores(PROBS, "raps")) == [[0.5, 0.8, 1.01], [0.8, 1.01, 0.6]]


def test_raps_without_a_penalty_is_aps() -> None:
    probs = torch.rand((50, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    aps = conformal_scores(probs, "aps")
    assert torch.equal(conformal_scores(probs, "raps", {"penalty": 0.0}), aps)
    assert torch.allclose(aps.amax(dim=1), torch.ones(50, dtype=torch.float64))
    assert torch.equal(aps.amin(dim=1), probs.amax(dim=1))


def test_sets_by_hand() -> None:
    scores = conformal_scores(PROBS)
    # 0.8 meets a threshold of 0.8; no threshold lets class 1 in always.
    assert prediction_sets(scores, [0.5, None, 0.79]).tolist() == [[True, True, False], [False, True, True]]
    assert prediction_sets(scores, [0.79, math.inf, 0.8]).tolist() == [[True, True, True], [False, True, True]]
    assert prediction_sets(scores, torch.zeros(3)).tolist() == [[False] * 3] * 2


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_a_threshold_fitted_in_float64_holds_in_float32(method: str) -> None:
    generator = torch.Generator().manual_seed(1)
    probs = (8 * torch.randn((400, 8), dtype=torch.float64, generator=generator)).softmax(dim=1)
    qhat = conformal_scores(probs, method)
    again = conformal_scores(probs.float(), method)
    for row in range(len(probs)):
        assert prediction_sets(again[row : row + 1], qhat[row]).all()


def test_the_slack_is_no_more_than_it_says() -> None:
    scores = torch.tensor([[0.5 + 0.5 * ROUNDING, 0.5 + 2 * ROUNDING]], dtype=torch.float64)
    assert prediction_sets(scores, [0.5, 0.5]).tolist() == [[True, False]]


def test_half_precision_is_scored_in_single() -> None:
    found = conformal_scores(PROBS.half(), "aps")
    assert found.dtype == torch.float32
    assert found.tolist()[0] == pytest.approx([0.5, 0.8, 1.0], abs=1e-3)


def test_what_deterministic_aps_costs() -> None:
    """The surest answer scores highest of all first classes: at a threshold below it its set is empty; lac's is not."""
    sure = torch.tensor([[0.99, 0.01]], dtype=torch.float64)
    assert prediction_sets(conformal_scores(sure, "aps"), [0.95, 0.95]).tolist() == [[False, False]]
    assert prediction_sets(conformal_scores(sure, "lac"), [0.95, 0.95]).tolist() == [[True, False]]


def test_no_image_gives_no_set() -> None:
    assert conformal_scores(torch.zeros(0, 3), "raps").shape == (0, 3)
    assert prediction_sets(torch.zeros(0, 3), [0.5] * 3).shape == (0, 3)
    assert risk_bands(torch.zeros(0), 0.1, 0.2) == []


@pytest.mark.parametrize(
    ("low", "moderate", "expected"),
    [
        (0.1, 0.3, ["low", "low", "moderate", "moderate", "high"]),
        (None, 0.3, ["moderate", "moderate", "moderate", "moderate", "high"]),
        (0.1, None, ["low", "low", "high", "high", "high"]),
        (0.3, 0.3, ["low", "low", "low", "low", "high"]),
        (None, None, ["high"] * 5),
    ],
)
def test_bands_by_hand(low: float | None, moderate: float | None, expected: list[str]) -> None:
    uncertainty = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    assert risk_bands(uncertainty, low, moderate) == expected


@pytest.mark.parametrize(
    ("probs", "method", "settings", "message"),
    [
        (PROBS, "top", None, "method 'top': give one of lac, aps, raps"),
        (PROBS, "lac", {"penalty": 0.1}, "method 'lac' knows no setting 'penalty'"),
        (PROBS, "raps", {"lambda": 0.1}, "method 'raps' knows no setting 'lambda'"),
        (PROBS, "raps", {"penalty": -0.1}, "penalty -0.1: give a finite number of at least 0"),
        (PROBS, "raps", {"k_reg": math.nan}, "k_reg nan"),
        (PROBS[0], "lac", None, r"shape \(3,\): give \(N, C\)"),
        (torch.tensor([[0.5, math.nan], [0.5, 0.5]]), "lac", None, "1 of 2 images have a probability that is NaN"),
        (torch.tensor([[2.0, -1.0]]), "aps", None, "give softmax, not logits"),
        (torch.tensor([[0.9, 0.9]]), "lac", None, "give softmax, not logits"),
    ],
)
def test_what_cannot_be_scored_is_named(probs, method, settings, message) -> None:
    with pytest.raises(ConformalError, match=message):
        conformal_scores(probs, method, settings)


@pytest.mark.parametrize(
    ("scores", "qhat", "message"),
    [
        (torch.zeros(2, 3), [0.1, 0.2], r"scores have shape \(2, 3\) and qhat \(2,\)"),
        (torch.zeros(3), [0.1, 0.2, 0.3], r"scores have shape \(3,\)"),
        (torch.tensor([[math.nan, 0.1]]), [0.1, 0.2], "1 of the scores are NaN"),
        (torch.zeros(1, 2), [0.1, math.nan], "1 of the qhat are NaN"),
    ],
)
def test_sets_that_cannot_be_made_are_named(scores, qhat, message) -> None:
    with pytest.raises(ConformalError, match=message):
        prediction_sets(scores, qhat)


@pytest.mark.parametrize(
    ("uncertainty", "low", "moderate", "message"),
    [
        (torch.zeros(2, 2), 0.1, 0.2, r"shape \(2, 2\)"),
        (torch.tensor([0.1, math.nan]), 0.1, 0.2, "1 NaN"),
        (torch.zeros(2), 0.2, 0.1, "moderate threshold 0.1 is below the low one 0.2"),
        (torch.zeros(2), math.nan, 0.1, "low threshold is NaN"),
    ],
)
def test_bands_that_cannot_be_determined_are_named(uncertainty, low, moderate, message) -> None:
    with pytest.raises(ConformalError, match=message):
        risk_bands(uncertainty, low, moderate)
