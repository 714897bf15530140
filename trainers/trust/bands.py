"""Fitting risk bands: the largest uncertainty up to which errors and missed cancers can be promised to stay rare.

Learn-then-Test (Angelopoulos, Bates, Candes, Jordan, Lei, "Learn then Test: Calibrating Predictive Algorithms to
Achieve Risk Control", Annals of Applied Statistics 2025, arXiv 2110.01052) with fixed-sequence testing. For a threshold
t the null hypothesis is that the selective risk R(t) = P(wrong | uncertainty <= t) exceeds the bound. Of the n(t)
lesions of the second half that t accepts, errors(t) are wrong; given n(t), errors(t) ~ Bin(n(t), R(t)), so
P(Bin(n(t), bound) <= errors(t)) is an exact p-value. Thresholds are tested in a fixed order, each at the full level
1 - confidence, up to the first that is not rejected; the last rejected one is kept. The first true null hypothesis of
the order is rejected with a chance of at most 1 - confidence, hence R(kept) > bound with at most that chance.

A second risk, where classes are malignant: M(t) = P(named benign, uncertainty <= t | malignant), of all malignant
lesions, also those outside the band. Of the m malignant lesions of the second half missed(t) ~ Bin(m, M(t)). The null
hypothesis is then that either risk exceeds its bound. Its p-value is the larger of the two (section 4.2 of that paper;
an intersection-union test, Berger 1982), so that both bounds hold at once with the given confidence. Testing both costs
no confidence.

What keeps it exact: grid, order and start come from the first half alone. A start where the second half accepts at
least 60 lesions would be chosen by the data that are tested. The start here is the grid point with the least p-value
on the first half, among those that accept at least ``least`` of its lesions: a threshold that accepts few lesions often
fails for want of lesions, and then nothing is promised. In simulation (545 lesions a half, 13 % errors in all, 71 %
acceptable at 5 %) that start leaves 3 % of the fits without a band, and accepts 59 % on average; starting at the 60
surest leaves 22 % and accepts 45 %.

The rows are one image per lesion, drawn by the caller: images of one lesion are not independent trials. Halves dealt by
class vary a little less than the binomial, which errs on the safe side.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import binom

LEAST = 60
GRID_SIZE = 100
MOST = 1_000_000
# Thresholds are stored to 6 decimals, rounded up, so that float32 noise of saturated answers decides nothing.
DECIMALS = 6
LARGEST = 1e6


@dataclass(frozen=True)
class Misses:
    """The malignant lesions of both halves, and which of them are named benign.

    Attributes:
        first: (n1,) bool, malignant and named benign.
        second: (n2,) bool.
        malignant: number of malignant lesions of the first and of the second half.
    """

    first: np.ndarray
    second: np.ndarray
    malignant: tuple[int, int]

    @property
    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """``first`` and ``second``."""
        return self.first, self.second


@dataclass(frozen=True)
class BandFit:
    """One fitted band.

    Attributes:
        threshold: answers with at most this uncertainty are in the band; None: nothing could be promised.
        risk: the bound on the share of wrong answers within the band, in (0, 1).
        confidence: the chance that the bound holds, over the calibration lesions drawn.
        n: lesions of the second half that the threshold accepts; of the first threshold tested when none was kept.
        errors: how many of them are wrong.
        p_value: of that threshold.
        tested: grid points tested, up to and including the first that was not rejected.
        grid: grid points there were.
        reason: why ``threshold`` is None, or None.
        missed_risk: the bound on the share of all malignant lesions that are named benign within the band; None:
            nothing is promised about them, and what follows is None.
        n_malignant: malignant lesions of the second half.
        missed: how many of them are named benign within the band.
        limited_by: the test at which the band ends, ``errors``, ``missed`` or both; "": it holds the whole grid.
    """

    threshold: float | None
    risk: float
    confidence: float
    n: int
    errors: int
    p_value: float
    tested: int
    grid: int
    reason: str | None = None
    missed_risk: float | None = None
    n_malignant: int | None = None
    missed: int | None = None
    limited_by: str | None = None

    def as_config(self) -> dict[str, Any]:
        """JSON-ready, one band of ``config.trust["bands"]``; without a promise about malignant lesions none of it."""
        left_out = () if self.missed_risk is not None else ("missed_risk", "n_malignant", "missed", "limited_by")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


@dataclass(frozen=True)
class BandsFit:
    """The low and the moderate band; the moderate promise is about both together."""

    low: BandFit
    moderate: BandFit

    def as_config(self) -> dict[str, dict[str, Any]]:
        """JSON-ready ``config.trust["bands"]``."""
        return {"low": self.low.as_config(), "moderate": self.moderate.as_config()}


def fit_bands(
    first_uncertainty: np.ndarray,
    first_wrong: np.ndarray,
    second_uncertainty: np.ndarray,
    second_wrong: np.ndarray,
    *,
    low_risk: float = 0.05,
    moderate_risk: float = 0.2,
    confidence: float = 0.9,
    least: int = LEAST,
    grid_size: int = GRID_SIZE,
    misses: Misses | None = None,
    low_missed: float = 0.05,
    moderate_missed: float = 0.1,
) -> BandsFit:
    """Fit both bands, each by its own test; the promises of each band hold with its own confidence.

    A moderate threshold below the low one would contradict it, and is dropped: the moderate band is then empty, with
    the reason. Raising it to the low threshold instead would claim what its own test did not show.

    Args:
        first_uncertainty: (n1,) of the first half, one image per lesion.
        first_wrong: (n1,) bool, whether the answer is wrong.
        second_uncertainty: (n2,) of the second half, one image per lesion.
        second_wrong: (n2,) bool.
        low_risk: bound of the low band.
        moderate_risk: bound of low and moderate together, at least ``low_risk``.
        confidence: of each promise.
        least: lesions of the first half that every tested threshold accepts.
        grid_size: thresholds to choose from, at most.
        misses: of both halves; None where no class is malignant.
        low_missed: bound on the share of all malignant lesions that are named benign in the low band; 1 promises
            nothing.
        moderate_missed: the same of low and moderate together, at least ``low_missed``.

    Raises:
        ValueError: as ``fit_band``, or a moderate risk below the low one.
    """
    for name, smaller, larger in (("risk", low_risk, moderate_risk), ("missed", low_missed, moderate_missed)):
        if larger < smaller:
            raise ValueError(f"moderate {name} {larger} is below the low {name} {smaller}: exchange them")
    low, moderate = (
        fit_band(
            first_uncertainty,
            second_uncertainty,
            second_wrong,
            risk,
            confidence,
            least,
            grid_size,
            first_wrong=first_wrong,
            misses=None if missed_risk == 1 else misses,
            missed_risk=missed_risk,
        )
        for risk, missed_risk in ((low_risk, low_missed), (moderate_risk, moderate_missed))
    )
    if low.threshold is not None and moderate.threshold is not None and moderate.threshold < low.threshold:
        why = f"its own test stops at {moderate.threshold}, below the low band's {low.threshold}"
        moderate = replace(moderate, threshold=None, reason=why)
    return BandsFit(low, moderate)


def fit_band(
    first_uncertainty: np.ndarray,
    second_uncertainty: np.ndarray,
    second_wrong: np.ndarray,
    risk: float = 0.05,
    confidence: float = 0.9,
    least: int = LEAST,
    grid_size: int = GRID_SIZE,
    *,
    first_wrong: np.ndarray | None = None,
    misses: Misses | None = None,
    missed_risk: float = 0.05,
) -> BandFit:
    """Find the largest threshold whose risk, or both risks, are within their bounds with the given confidence.

    The grid holds quantiles of the first half's uncertainty; ties are accepted together. Finer grids cost no confidence
    and gain little (simulated: 10 points accept 55 %, 100 and 1000 points 59 % where 71 % would be right).

    Args:
        first_uncertainty, second_uncertainty: (n1,) and (n2,) of the halves, higher is less sure.
        second_wrong: (n2,) bool.
        risk: bound on the share of wrong answers among those accepted, in (0, 1).
        confidence: in (0, 1).
        least: lesions of the first half that the first threshold accepts, at least 1.
        grid_size: number of thresholds, at most.
        first_wrong: (n1,) bool; starts where the first half supports the promise best. None starts at ``least``.
        misses: of both halves; None promises nothing about malignant lesions.
        missed_risk: bound on the share of all malignant lesions that are named benign in the band, in (0, 1).

    Returns:
        The band; its threshold is None, with the reason, when nothing can be promised.

    Raises:
        ValueError: a half without lesions, lengths that differ, NaN, or a setting out of range.
    """
    first, second, wrong, wrong_before = _checked(first_uncertainty, second_uncertainty, second_wrong, first_wrong)
    _check_settings(risk, confidence, least, grid_size)
    band, before, after = BandFit(None, risk, confidence, 0, 0, 1.0, 0, 0), None, None
    if misses is not None:
        _check_misses(misses, missed_risk, len(first), len(second))
        before, after = ((rows, n, missed_risk) for rows, n in zip(misses.halves, misses.malignant, strict=True))
        band = replace(band, missed_risk=missed_risk, n_malignant=misses.malignant[1], missed=0, limited_by="")
    if (n := len(first)) < least:
        return replace(
            band, reason=f"the first half has {n} lesions, fewer than the {least} that the first threshold needs"
        )
    if misses is not None and (why := _too_few(misses.malignant[1], missed_risk, confidence)):
        return replace(band, reason=why, limited_by="missed")
    grid = _grid(first, least, grid_size)
    start = 0 if wrong_before is None else int(np.argmin(_tests(first, wrong_before, grid, risk, before).p_value))
    tests = _tests(second, wrong, grid[start:], risk, after)
    passed, tested = _walk(tests.p_value, 1 - confidence)
    at = max(passed - 1, 0)
    n, errors, p_value = int(tests.n[at]), int(tests.errors[at]), float(tests.p_value[at])
    band = replace(band, n=n, errors=errors, p_value=p_value, tested=tested, grid=len(grid))
    failed = tests.failed(tested - 1, 1 - confidence)
    if misses is not None:
        band = replace(band, missed=int(tests.missed[at]), limited_by=" and ".join(failed))
    threshold = float(grid[start + at])
    return replace(band, threshold=threshold) if passed else replace(band, reason=_why_empty(band, threshold, failed))


@cache
def least_n(risk: float, confidence: float, errors: float = 0.0) -> int | None:
    """The fewest accepted lesions whose p-value is at most 1 - confidence when a share ``errors`` of them is wrong.

    At a risk of 10 % and a confidence of 90 % it is 22 without an error, at 5 % it is 45.

    Args:
        risk: bound on the share of wrong answers, in (0, 1).
        confidence: in (0, 1).
        errors: the share of wrong answers to expect, in [0, 1].

    Returns:
        The number; None where not even a million is enough, since the answers are wrong about as often.

    Raises:
        ValueError: a setting out of range.
    """
    _check_settings(risk, confidence, 1, 1)
    if errors >= risk:
        return None
    below, above = 0, 64
    while below < MOST:
        numbers = np.arange(below + 1, above + 1)
        passed = binom.cdf(np.ceil(errors * numbers), numbers, risk) <= 1 - confidence
        if passed.any():
            return int(numbers[np.argmax(passed)])
        below, above = above, 4 * above
    return None


def _grid(first: np.ndarray, least: int, grid_size: int) -> np.ndarray:
    """Ascending thresholds at evenly spaced ranks of the first half, from the ``least``-th to the last."""
    ranks = np.unique(np.linspace(least, len(first), grid_size).round().astype(int))
    return np.unique(np.ceil(np.sort(first)[ranks - 1] * 10**DECIMALS) / 10**DECIMALS)


@dataclass(frozen=True)
class _Tests:
    """Counts and exact binomial p-values at each of K thresholds.

    Attributes:
        n: (K,) lesions accepted.
        errors: (K,) of them wrong.
        missed: (K,) malignant lesions named benign among them.
        of_errors: (K,) p-values of the first risk.
        of_missed: (K,) of the second, 0 where it is not tested.
    """

    n: np.ndarray
    errors: np.ndarray
    missed: np.ndarray
    of_errors: np.ndarray
    of_missed: np.ndarray

    @property
    def p_value(self) -> np.ndarray:
        """(K,) of both risks together, the larger one."""
        return np.maximum(self.of_errors, self.of_missed)

    def failed(self, at: int, level: float) -> dict[str, float]:
        """Test -> p-value of those that are not rejected at a threshold."""
        found = {"errors": float(self.of_errors[at]), "missed": float(self.of_missed[at])}
        return {name: p for name, p in found.items() if p > level}


def _tests(
    uncertainty: np.ndarray,
    wrong: np.ndarray,
    grid: np.ndarray,
    risk: float,
    misses: tuple[np.ndarray, int, float] | None,
) -> _Tests:
    """Test each threshold of a half; ``misses``: (n,) bool, number of malignant lesions, bound of the second risk."""
    order = np.argsort(uncertainty, kind="stable")
    n = np.searchsorted(uncertainty[order], grid, side="right")
    errors = np.r_[0, np.cumsum(wrong[order])][n]
    of_errors = binom.cdf(errors, n, risk)
    if misses is None:
        return _Tests(n, errors, np.zeros_like(n), of_errors, np.zeros(len(n)))
    are_missed, malignant, bound = misses
    missed = np.r_[0, np.cumsum(np.asarray(are_missed, dtype=bool)[order])][n]
    return _Tests(n, errors, missed, of_errors, binom.cdf(missed, malignant, bound))


def _walk(p_values: np.ndarray, level: float) -> tuple[int, int]:
    """How many thresholds are rejected before the first that is not, and how many were tested."""
    rejected = p_values <= level
    passed = len(rejected) if rejected.all() else int(np.argmin(rejected))
    return passed, min(passed + 1, len(rejected))


def _too_few(malignant: int, risk: float, confidence: float) -> str:
    """Why there are too few malignant lesions for any promise about them; "" where there are enough."""
    needed = least_n(risk, confidence)
    if needed is None or malignant >= needed:
        return ""
    return (
        f"{malignant} malignant lesions are too few to promise that at most {risk:g} of them are called benign with "
        f"confidence {confidence:g}: {needed} are needed in the second half"
    )


def _why_empty(band: BandFit, threshold: float, failed: dict[str, float]) -> str:
    """Which promise fails at the first threshold, and by which counts."""
    facts = {
        "errors": (f"{band.errors} of {band.n} lesions are wrong", "risk", band.risk),
        "missed": (
            f"{band.missed} of {band.n_malignant} malignant lesions are called benign",
            "share",
            band.missed_risk,
        ),
    }
    return "; ".join(
        f"{what} at the first threshold, {threshold:.6g}: a {name} of at most {bound:g} cannot be promised with "
        f"confidence {band.confidence:g} (p = {failed[test]:.3g})"
        for test in failed
        for what, name, bound in [facts[test]]
    )


def _check_misses(misses: Misses, risk: float, *lesions: int) -> None:
    if not (math.isfinite(risk) and 0 < risk < 1):
        raise ValueError(f"missed risk {risk}: give a share above 0 and below 1")
    for half, missed, malignant, n in zip(("first", "second"), misses.halves, misses.malignant, lesions, strict=True):
        if np.shape(missed) != (n,) or not np.sum(missed) <= malignant <= n:
            raise ValueError(
                f"the {half} half has {n} lesions, {malignant} of them malignant, and {np.shape(missed)} outcomes: "
                "give one per lesion, and no more missed lesions than malignant ones"
            )


def _check_settings(risk: float, confidence: float, least: int, grid_size: int) -> None:
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not (math.isfinite(value) and 0 < value < 1):
            raise ValueError(f"{name} {value}: give a share above 0 and below 1")
    for name, count in (("least", least), ("grid_size", grid_size)):
        if count < 1:
            raise ValueError(f"{name} {count}: give at least 1")


def _checked(
    first: np.ndarray, second: np.ndarray, wrong: np.ndarray, first_wrong: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    outcomes = {"first": (first, first_wrong), "second": (second, wrong)}
    for name, (values, outcome) in outcomes.items():
        if values.ndim != 1 or not len(values):
            raise ValueError(f"the {name} half's uncertainty has shape {values.shape}: give (n,), with n above 0")
        outside = ~(np.abs(values) <= LARGEST)  # NaN, too
        if outside.any():
            raise ValueError(
                f"{int(outside.sum())} of {len(values)} uncertainties of the {name} half are NaN, infinite or "
                f"enormous (the first is {values[outside][0]:g}): give 1 - the largest probability of each image"
            )
        if outcome is not None and np.shape(outcome) != values.shape:
            raise ValueError(f"{np.shape(outcome)} outcomes for {values.shape} uncertainties of the {name} half")
    before = None if first_wrong is None else np.asarray(first_wrong, dtype=bool)
    return first, second, np.asarray(wrong, dtype=bool), before
