"""Shrunken estimates, against numerical integration, limits, and what the words mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from trainers.longitudinal.patients import (
    change,
    decimals_for,
    percent,
    sentence,
    shrink,
    verdict,
)

FOUND = np.array([-9.0, -4.0, -1.0, 2.0, -5.0])
ERRORS = np.array([1.0, 2.0, 0.8, 1.5, 3.0])


def test_one_patient_is_not_drawn_anywhere() -> None:
    result = shrink(np.array([-3.0]), np.array([2.0]), scale=5.0)
    assert (result.spread, result.spread_low, result.spread_high, result.next_better) == (None,) * 4
    assert result.mean == pytest.approx([-3])
    assert (result.low[0], result.high[0]) == (
        pytest.approx(-3 - 1.96 * 2, abs=1e-3),
        pytest.approx(-3 + 3.92, abs=1e-3),
    )
    assert result.p_better == pytest.approx([norm.cdf(1.5)])
    assert result.p_worse == pytest.approx([norm.cdf(-1.5)])


def test_it_is_the_posterior_of_brute_force() -> None:
    """theta_1 by summing over a grid of (mu, tau) with the model's densities alone, no closed form."""
    scale, relevant = 3.0, 1.0
    mu = np.linspace(-60, 60, 2401)[:, None]
    tau = np.tan(np.pi / 2 * (np.arange(1200) + 0.5) / 1200)[None, :] * scale
    weight = np.ones((2401, 1200))
    for found, error in zip(FOUND, ERRORS, strict=True):
        weight = weight * norm.pdf(found, mu, np.sqrt(error**2 + tau**2))
    weight /= weight.sum()
    variance = 1 / (1 / ERRORS[0] ** 2 + 1 / tau**2)
    centre = variance * (FOUND[0] / ERRORS[0] ** 2 + mu / tau**2)
    result = shrink(FOUND, ERRORS, scale, 0.9, relevant)
    assert result.mean[0] == pytest.approx((weight * centre).sum(), abs=5e-3)
    below = (weight * norm.cdf((-relevant - centre) / np.sqrt(variance))).sum()
    assert result.p_better[0] == pytest.approx(below, abs=2e-4)
    for end, share in ((result.low[0], 0.05), (result.high[0], 0.95)):
        assert (weight * norm.cdf((end - centre) / np.sqrt(variance))).sum() == pytest.approx(share, abs=1e-3)
    assert result.next_better == pytest.approx((weight * norm.cdf((-relevant - mu) / tau)).sum(), abs=2e-3)
    cumulated = np.cumsum(weight.sum(axis=0))
    assert result.spread == pytest.approx(tau[0, np.searchsorted(cumulated, 0.5)], rel=0.02)


def test_sharp_days_are_believed_and_blunt_ones_pooled() -> None:
    sharp = shrink(FOUND, np.full(5, 1e-3), scale=5.0)
    assert sharp.mean == pytest.approx(FOUND, abs=1e-3)
    blunt = shrink(FOUND, np.full(5, 300.0), scale=5.0)
    assert blunt.mean == pytest.approx(np.full(5, FOUND.mean()), abs=0.1)
    middle = shrink(FOUND, ERRORS, scale=5.0)
    drawn = (middle.mean - FOUND) / (np.average(FOUND, weights=1 / (ERRORS**2 + middle.spread**2)) - FOUND)
    assert np.all((drawn > 0) & (drawn < 1))
    assert drawn.argmax() == ERRORS.argmax()


def test_probabilities_go_with_the_interval() -> None:
    result = shrink(FOUND, ERRORS, scale=5.0)
    for better, worse, low, high in zip(result.p_better, result.p_worse, result.low, result.high, strict=True):
        assert better + worse == pytest.approx(1)
        assert (better >= 0.975) == (high <= 0)
        assert (worse >= 0.975) == (low >= 0)
    strict = shrink(FOUND, ERRORS, scale=5.0, relevant=2.0)
    assert np.all(strict.p_better < result.p_better)
    assert np.all(strict.p_better + strict.p_worse < 1)
    mirrored = shrink(-FOUND, ERRORS, scale=5.0)
    assert mirrored.mean == pytest.approx(-result.mean)
    assert mirrored.p_worse == pytest.approx(result.p_better)
    assert mirrored.next_better == pytest.approx(1 - result.next_better)


def test_verdicts() -> None:
    assert verdict(0.975, 0.025, 0.975) == "better"
    assert verdict(0.02, 0.98, 0.975) == "worse"
    assert verdict(0.97, 0.03, 0.975) == "no clear change"
    assert [verdict(p, 1 - p, 0.975, moves=True) for p in (0.98, 0.5, 0.02)] == ["lower", "no clear change", "higher"]


def test_sentences_say_what_was_seen() -> None:
    text = sentence("Cream", "Baseline", (-4.26, -7.0, -1.5), (0.999, 0.001), "better")
    assert text == (
        "Better during Cream: severity about 4.3 lower than during Baseline (95 % interval: 7.0 lower to 1.5 lower); "
        "probability that it was lower: over 99 %."
    )
    text = sentence("Gel", "Before", (0.4, -2.0, 2.8), (0.37, 0.62), "no clear change", decimals=0, confidence=0.9)
    assert text == (
        "No clear change during Gel: severity about 0 higher than during Before (90 % interval: 2 lower to 3 higher); "
        "probability that it was lower: 37 %, higher: 62 %."
    )
    text = sentence("Gel", "Before", (6.0, 3.0, 9.0), (0.0, 0.98), "worse", relevant=2.0)
    assert text.startswith("Worse during Gel: severity about 6.0 higher than during Before")
    assert text.endswith("; probability that it was more than 2 points higher: 98 %.")


def test_an_estimate_against_the_patients_own_days_is_stated_with_them() -> None:
    text = sentence("Gel", "Before", (-0.9, -3.0, 1.2), (0.8, 0.2), "no clear change", difference=0.4)
    assert text == (
        "No clear change during Gel: your days: 0.4 higher than during Before; drawn towards all patients: 0.9 lower "
        "(95 % interval: 3.0 lower to 1.2 higher); probability that it was lower: 80 %, higher: 20 %."
    )
    assert "your days" not in sentence("Gel", "Before", (-0.9, -3.0, 1.2), (0.8, 0.2), "no clear change", difference=-2)


def test_time_is_named_where_it_may_have_done_it() -> None:
    given = ("Gel", "Before", (-5.0, -8.0, -2.0), (0.999, 0.001), "better")
    late = sentence(*given, in_time=True)
    assert late.startswith("Better during Gel: ")
    assert late.endswith(
        "; if nothing else changed with time, probability that it was lower: over 99 %. "
        "Whether the treatment or the passing of time did it is not known from this study."
    )
    drifting = sentence(*given[:4], "lower", moves=True)
    assert drifting.startswith("Lower during Gel: ")
    assert drifting.endswith("Severity moved during Before already; that drift is part of this number.")


def test_numbers_in_words() -> None:
    assert [percent(share) for share in (0, 0.0099, 0.01, 0.5)] == ["under 1 %", "under 1 %", "1 %", "50 %"]
    assert [percent(share) for share in (0.99, 0.991, 1)] == ["99 %", "over 99 %", "over 99 %"]
    assert (change(-3.26, 1), change(3.26, 2)) == ("3.3 lower", "3.26 higher")
    assert [decimals_for(spread) for spread in (25.0, 2.5, 0.03, 0.0)] == [0, 1, 3, 1]
