"""Risk bands: the test by hand, its promise over 2,000 draws with a known risk, and what cannot be promised."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from trainers.trust import bands
from trainers.trust.bands import Misses, fit_band, fit_bands, least_n

DRAWS = 2000
EVEN = np.arange(1, 101) / 100


def wrong_at(*ranks: int) -> np.ndarray:
    """Of 100 lesions from the surest on, those of these ranks are wrong."""
    return np.isin(np.arange(1, 101), ranks)


def test_the_walk_by_hand():
    """Thresholds 0.6 0.7 0.8 0.9 1.0 accept 60 to 100 lesions, one of which, the 65th, is wrong.

    0 of 60: 0.95^60 = 0.046. 1 of 70: 0.95^70 + 70 * 0.05 * 0.95^69 = 0.129, the first above 0.1. 1 of 100 would pass
    again (0.037), but the walk has stopped.
    """
    fit = fit_band(EVEN, EVEN, wrong_at(65), grid_size=5)
    assert (fit.threshold, fit.n, fit.errors, fit.tested, fit.grid) == (0.6, 60, 0, 2, 5)
    assert fit.p_value == pytest.approx(0.95**60)
    assert fit.reason is None


def test_the_first_half_chooses_the_start():
    """Without an error in the first half its least p-value is at 1.0, where 1 of 100 is wrong: 0.037 passes."""
    fit = fit_band(EVEN, EVEN, wrong_at(65), grid_size=5, first_wrong=wrong_at())
    assert (fit.threshold, fit.n, fit.errors, fit.tested) == (1.0, 100, 1, 1)
    assert fit.p_value == pytest.approx(0.95**100 + 100 * 0.05 * 0.95**99)
    # Four errors beyond the 70th: 0.95^70 = 0.028 is the least of the first half's p-values, and 1 of 70 fails.
    fit = fit_band(EVEN, EVEN, wrong_at(65), grid_size=5, first_wrong=wrong_at(71, 72, 73, 74))
    assert (fit.threshold, fit.n, fit.errors, fit.tested) == (None, 70, 1, 1)


def test_nothing_to_promise_says_why():
    fit = fit_band(EVEN, EVEN, wrong_at(1), grid_size=5)
    assert (fit.threshold, fit.n, fit.errors, fit.tested) == (None, 60, 1, 1)
    assert fit.reason == (
        "1 of 60 lesions are wrong at the first threshold, 0.6: a risk of at most 0.05 cannot be promised "
        "with confidence 0.9 (p = 0.192)"
    )


def test_too_few_lesions_say_so():
    fit = fit_band(EVEN[:59], EVEN, wrong_at())
    assert (fit.threshold, fit.n, fit.tested) == (None, 0, 0)
    assert fit.reason == "the first half has 59 lesions, fewer than the 60 that the first threshold needs"


def test_a_second_half_without_accepted_lesions_promises_nothing():
    fit = fit_band(EVEN, EVEN + 5, wrong_at())
    assert (fit.threshold, fit.n, fit.errors, fit.p_value) == (None, 0, 0, 1.0)


def test_ties_are_accepted_together():
    fit = fit_band(np.full(80, 0.25), np.full(50, 0.25), np.zeros(50, dtype=bool))
    assert (fit.threshold, fit.n, fit.grid, fit.tested) == (0.25, 50, 1, 1)
    assert fit.p_value == pytest.approx(0.95**50)


def test_thresholds_are_rounded_up_to_six_decimals():
    fit = fit_band(np.full(80, 1e-9), np.full(80, 5e-7), np.zeros(80, dtype=bool))
    assert (fit.threshold, fit.n) == (1e-6, 80)


# Chance of a wrong answer at a share v of the surest; the selective risk is its mean over [0, v].
RISKS = {
    "like a real model": (lambda v: 0.003 + 0.52 * v**3, lambda v: 0.003 + 0.13 * v**3),
    "worst among the surest": (lambda v: 0.09 - 0.06 * v, lambda v: 0.09 - 0.03 * v),
    "just above the bound": (lambda v: 0.0501 + 0.5 * v**3, lambda v: 0.0501 + 0.125 * v**3),
    "a steep step": (lambda v: np.where(v < 0.4, 0.01, 0.5), lambda v: (0.01 * v + 0.49 * np.maximum(v - 0.4, 0)) / v),
}


@pytest.mark.parametrize(
    ("name", "from_surest", "found"),
    [
        ("like a real model", False, 0.7),
        ("worst among the surest", False, 0.0),
        ("just above the bound", False, 0.0),
        ("a steep step", False, 0.7),
        ("like a real model", True, 0.7),
        ("a steep step", True, 0.5),
    ],
)
def test_the_bound_fails_in_at_most_one_draw_in_ten(name, from_surest, found):
    chance, selective = RISKS[name]
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(DRAWS):
        u = rng.random((2, 300))
        first_wrong, second_wrong = rng.random((2, 300)) < chance(u)
        fit = fit_band(u[0], u[1], second_wrong, first_wrong=None if from_surest else first_wrong)
        kept.append(np.nan if fit.threshold is None else fit.threshold)
    thresholds = np.array(kept)
    broken = np.nan_to_num(selective(thresholds), nan=0.0) > 0.05
    assert broken.mean() <= 0.1
    # Not by promising nothing: of a real model a share of 0.71 may be accepted, of the step 0.44.
    assert np.mean(~np.isnan(thresholds)) >= found
    if found:
        assert np.nanmean(thresholds) > (0.48 if name == "like a real model" else 0.37)


def test_the_level_is_used_up():
    """One threshold that accepts nearly all of 500, each wrong with the bound itself: fails just below one in ten."""
    rng = np.random.default_rng(3)
    promised = [
        fit_band(rng.random(500), rng.random(500), rng.random(500) < 0.2, risk=0.2, least=500, grid_size=1).threshold
        for _ in range(DRAWS)
    ]
    assert 0.07 < np.mean([threshold is not None for threshold in promised]) <= 0.1


def test_the_start_that_the_first_half_supports_best_fails_less_often():
    chance, _ = RISKS["like a real model"]
    rng = np.random.default_rng(1)
    found = {"best": 0, "surest": 0}
    for _ in range(300):
        u = rng.random((2, 545))
        first_wrong, second_wrong = rng.random((2, 545)) < chance(u)
        found["surest"] += fit_band(u[0], u[1], second_wrong).threshold is not None
        found["best"] += fit_band(u[0], u[1], second_wrong, first_wrong=first_wrong).threshold is not None
    assert found["best"] > 0.94 * 300
    assert found["surest"] < 0.85 * 300


def test_a_plain_choice_would_break_its_promise():
    """Why a test at all: the largest threshold with 5 % errors on the sample is above 5 % in truth half of the time."""
    chance, selective = RISKS["like a real model"]
    rng = np.random.default_rng(2)
    broken = []
    for _ in range(500):
        u = np.sort(rng.random(300))
        risk = np.cumsum(rng.random(300) < chance(u)) / np.arange(1, 301)
        broken.append(selective(u[np.flatnonzero(risk <= 0.05)[-1]]) > 0.05)
    assert np.mean(broken) > 0.4


def test_both_bands_by_hand():
    """From the 81st on every other lesion is wrong: 10 of 100. At 20 % that passes (0.0057), at 5 % far less does."""
    wrong = wrong_at(*range(81, 101, 2))
    fit = fit_bands(EVEN, wrong, EVEN, wrong, grid_size=5)
    # The first half's least p-value at 5 % is at 0.8: 0.95^80 = 0.017; 5 of 90 fails.
    assert (fit.low.threshold, fit.low.n, fit.low.errors) == (0.8, 80, 0)
    assert (fit.moderate.threshold, fit.moderate.n, fit.moderate.errors) == (1.0, 100, 10)
    assert (fit.low.risk, fit.moderate.risk, fit.moderate.confidence) == (0.05, 0.2, 0.9)
    assert json.loads(json.dumps(fit.as_config()))["low"]["threshold"] == 0.8


def test_a_moderate_threshold_below_the_low_one_is_dropped(monkeypatch):
    low = fit_band(EVEN, EVEN, wrong_at())
    below = {0.05: low, 0.2: replace(low, threshold=0.6, risk=0.2)}
    monkeypatch.setattr(bands, "fit_band", lambda *args, **kwargs: below[args[3]])
    fit = fit_bands(EVEN, wrong_at(), EVEN, wrong_at())
    assert (fit.low.threshold, fit.moderate.threshold) == (1.0, None)
    assert fit.moderate.reason == "its own test stops at 0.6, below the low band's 1.0"


# ------------------------------------------------------------------------- malignant lesions that are named benign


def missed_at(*ranks: int, malignant: int = 50) -> Misses:
    """The same in both halves: of so many malignant lesions those of these ranks are named benign."""
    missed = wrong_at(*ranks)
    return Misses(missed, missed, (malignant, malignant))


def test_the_walk_stops_at_the_first_threshold_that_misses_too_many():
    """Of 50 malignant lesions none may be missed: 0.95^50 = 0.077; with one it is 0.279."""
    fit = fit_band(EVEN, EVEN, wrong_at(85), grid_size=5, misses=missed_at(85))
    assert (fit.threshold, fit.n, fit.errors, fit.missed, fit.limited_by) == (0.8, 80, 0, 0, "missed")
    assert fit.p_value == pytest.approx(0.95**50)
    assert (fit.missed_risk, fit.n_malignant, fit.reason) == (0.05, 50, None)
    assert fit_band(EVEN, EVEN, wrong_at(85), grid_size=5).threshold == 1.0
    wider = fit_band(EVEN, EVEN, wrong_at(85), grid_size=5, misses=missed_at(85), missed_risk=0.1)
    assert (wider.threshold, wider.missed, wider.limited_by) == (1.0, 1, "")


def test_the_first_half_chooses_the_start_by_both_risks():
    """Its errors alone would start at 1.0, where 0.95^100 is least; there a malignant lesion is missed."""
    fit = fit_band(EVEN, EVEN, wrong_at(), grid_size=5, first_wrong=wrong_at(), misses=missed_at(95))
    # The larger p-value is 0.077 up to 0.9: the first of these, 0.6, is the start.
    assert (fit.threshold, fit.n, fit.tested, fit.limited_by) == (0.9, 90, 5, "missed")


@pytest.mark.parametrize(
    ("wrong", "missed", "says", "limited_by"),
    [
        ([1], [1], "1 of 60 lesions are wrong .* (p = 0.192); 1 of 50 malignant lesions", "errors and missed"),
        ([2], [], "1 of 60 lesions are wrong at the first threshold, 0.6: a risk of at most 0.05", "errors"),
        ([], [3], "1 of 50 malignant lesions are called benign at the first threshold, 0.6: a share of", "missed"),
    ],
)
def test_an_empty_band_names_the_promise_that_cannot_be_had(wrong, missed, says, limited_by):
    fit = fit_band(EVEN, EVEN, wrong_at(*wrong), grid_size=5, misses=missed_at(*missed))
    assert (fit.threshold, fit.limited_by) == (None, limited_by)
    for part in says.split(" .* "):
        assert part in fit.reason


def test_too_few_malignant_lesions_say_how_many_it_takes():
    fit = fit_band(EVEN, EVEN, wrong_at(), misses=missed_at(malignant=44))
    assert (fit.threshold, fit.n, fit.limited_by) == (None, 0, "missed")
    assert fit.reason == (
        "44 malignant lesions are too few to promise that at most 0.05 of them are called benign with confidence 0.9: "
        "45 are needed in the second half"
    )
    assert fit_band(EVEN, EVEN, wrong_at(), misses=missed_at(malignant=45)).threshold == 1.0


def test_both_bands_have_their_own_share_of_missed_lesions():
    fit = fit_bands(EVEN, wrong_at(85), EVEN, wrong_at(85), grid_size=5, misses=missed_at(85))
    assert (fit.low.threshold, fit.low.missed_risk, fit.low.missed) == (0.8, 0.05, 0)
    assert (fit.moderate.threshold, fit.moderate.missed_risk, fit.moderate.missed) == (1.0, 0.1, 1)
    stored = json.loads(json.dumps(fit.as_config()))
    assert (stored["low"]["n_malignant"], stored["low"]["limited_by"]) == (50, "missed")
    without = fit_bands(EVEN, wrong_at(85), EVEN, wrong_at(85), misses=missed_at(85), low_missed=1, moderate_missed=1)
    assert "missed_risk" not in without.as_config()["low"]


# Chance that a benign lesion at a share v of the surest is wrong, and that a malignant one is named benign; its place
# is v^power of a uniform number. What both risks are follows by integration.
MALIGNANT = 0.25
BOTH = {
    "cancers are missed first": (lambda v: 0.002 + 0.05 * v**3, lambda v: 0.02 + 0.6 * v**2, 1.0, 0.35),
    "errors come first": (lambda v: 0.002 + 0.6 * v**3, lambda v: 0.01 * np.ones_like(v), 1.0, 0.55),
    "cancers look like the surest": (lambda v: 0.0 * v, lambda v: 0.3 * np.ones_like(v), 3.0, None),
    "both just above": (lambda v: 0.0501 + 0.0 * v, lambda v: 0.0501 + 0.0 * v, 3.0, None),
}


def true_risks(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds, the share of wrong answers up to each, and the share of malignant lesions named benign up to it."""
    benign, missed, power, _ = BOTH[name]
    u = (np.arange(400_000) + 0.5) / 400_000
    place = np.sort(u**power)
    grid = np.linspace(0.001, 1, 1000)
    up_to = np.searchsorted(place, grid)
    of_malignant = np.r_[0, np.cumsum(missed(place))][up_to] / len(u)
    wrong_benign = np.r_[0, np.cumsum(benign(u))][np.searchsorted(u, grid)] / len(u)
    inside = MALIGNANT * up_to / len(u) + (1 - MALIGNANT) * grid
    return grid, (MALIGNANT * of_malignant + (1 - MALIGNANT) * wrong_benign) / inside, of_malignant


@pytest.mark.parametrize("name", BOTH)
def test_each_of_both_promises_fails_in_at_most_one_draw_in_ten(name):
    benign, missed, power, reached = BOTH[name]
    grid, of_errors, of_missed = true_risks(name)
    rng = np.random.default_rng(4)
    n, m = 360, 90
    are_malignant = np.arange(n) < m
    thresholds = np.full(DRAWS, np.nan)
    for draw in range(DRAWS):
        u = rng.random((2, n))
        u[:, :m] **= power
        wrong = rng.random((2, n)) < np.where(are_malignant, missed(u), benign(u))
        both = Misses(wrong[0] & are_malignant, wrong[1] & are_malignant, (m, m))
        fit = fit_band(u[0], u[1], wrong[1], first_wrong=wrong[0], misses=both)
        thresholds[draw] = np.nan if fit.threshold is None else fit.threshold
    kept = ~np.isnan(thresholds)
    at = np.nan_to_num(thresholds)
    broken = [kept & (np.interp(at, grid, risk) > 0.05) for risk in (of_errors, of_missed)]
    assert [share.mean() <= 0.1 for share in broken] == [True, True]
    assert (broken[0] | broken[1]).mean() <= 0.1, "both at once, too"
    if reached is not None:
        assert kept.mean() > 0.65
        assert np.median(thresholds[kept]) > reached


def test_conformal_risk_control_allows_more_and_keeps_its_mean():
    """Angelopoulos, Bates, Fisch, Lei, Schuster 2024: the mean share missed, over draws, is at most the bound.

    It takes the largest threshold with (missed + 1) / (m + 1) at most the bound. A bound that holds in nine draws of
    ten is stricter in every single draw.
    """
    rng = np.random.default_rng(5)
    m, risk, chance = 90, 0.05, 0.3
    controlled, tested = [], []
    for _ in range(500):
        u = rng.random(m)
        missed = np.sort(u[rng.random(m) < chance])
        allowed = int(np.floor(risk * (m + 1) - 1 + 1e-9))
        controlled.append(missed[allowed] if len(missed) > allowed else 1.0)
        both = Misses(np.zeros(m, dtype=bool), np.isin(u, missed), (m, m))
        fit = fit_band(np.linspace(0, 1, m), u, np.zeros(m, dtype=bool), least=1, risk=0.99, misses=both)
        tested.append(0.0 if fit.threshold is None else fit.threshold)
    assert (np.array(tested) <= np.array(controlled)).all()
    # Named benign with the same chance everywhere: the share missed is chance * threshold, 4 / 91 on average.
    assert np.mean(controlled) * chance == pytest.approx((allowed + 1) / (m + 1), abs=0.003)
    assert (allowed + 1) / (m + 1) <= risk
    assert np.mean(np.array(tested) * chance > risk) <= 0.1


OK = np.zeros(100, dtype=bool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_uncertainty": np.zeros(0)}, r"first half's uncertainty has shape \(0,\)"),
        ({"second_uncertainty": np.zeros(0), "second_wrong": OK[:0]}, "second half's uncertainty"),
        ({"second_uncertainty": np.zeros((100, 2))}, r"shape \(100, 2\)"),
        (
            {"second_uncertainty": np.where(EVEN > 0.98, np.nan, EVEN)},
            "2 of 100 uncertainties of the second half are NaN",
        ),
        ({"second_uncertainty": np.where(EVEN > 0.98, np.inf, EVEN)}, r"second half .* \(the first is inf\)"),
        ({"first_uncertainty": np.where(EVEN > 0.98, 1e300, EVEN)}, r"first half .* \(the first is 1e\+300\)"),
        ({"second_wrong": OK[:5]}, r"\(5,\) outcomes for \(100,\) uncertainties of the second half"),
        ({"first_wrong": OK[:5]}, r"\(5,\) outcomes for \(100,\) uncertainties of the first half"),
        ({"risk": 0.0}, "risk 0.0: give a share"),
        ({"risk": float("nan")}, "risk nan"),
        ({"confidence": 1.0}, "confidence 1.0: give a share"),
        ({"least": 0}, "least 0: give at least 1"),
        ({"grid_size": 0}, "grid_size 0: give at least 1"),
    ],
)
def test_what_cannot_be_fitted_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        fit_band(**{"first_uncertainty": EVEN, "second_uncertainty": EVEN, "second_wrong": OK, **change})


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match=r"moderate risk 0\.1 is below the low risk 0\.2"):
        fit_bands(EVEN, OK, EVEN, OK, low_risk=0.2, moderate_risk=0.1)
    with pytest.raises(ValueError, match=r"moderate missed 0\.1 is below the low missed 0\.2"):
        fit_bands(EVEN, OK, EVEN, OK, low_missed=0.2)
    with pytest.raises(ValueError, match="missed risk 0: give a share"):
        fit_band(EVEN, EVEN, OK, misses=missed_at(), missed_risk=0)
    with pytest.raises(ValueError, match="the first half has 100 lesions, 1 of them malignant"):
        fit_band(EVEN, EVEN, OK, misses=missed_at(1, 2, malignant=1))


# ------------------------------------------------------------------------- how many lesions it takes


@pytest.mark.parametrize(("risk", "confidence"), [(0.1, 0.9), (0.05, 0.9), (0.2, 0.95)])
@pytest.mark.parametrize("errors", [0.0, 0.01, 0.04])
def test_the_least_number_of_lesions_is_the_first_that_passes(risk: float, confidence: float, errors: float) -> None:
    least = least_n(risk, confidence, errors)
    assert least is not None
    passed = [binom.cdf(np.ceil(errors * n), n, risk) <= 1 - confidence for n in range(1, least + 1)]
    assert passed == [False] * (least - 1) + [True]


def test_without_an_error_the_least_number_is_the_papers() -> None:
    assert (least_n(0.1, 0.9), least_n(0.05, 0.9)) == (22, 45)


def test_no_number_is_enough_where_the_answers_are_wrong_as_often_as_the_risk() -> None:
    assert least_n(0.1, 0.9, 0.1) is None
    assert least_n(0.1, 0.9, 0.3) is None
    assert least_n(0.1, 0.9, 0.09999999) is None
