"""Fitting risk bands: the largest uncertainty up to which the error can be promised to stay below a bound.

Learn-then-Test (Angelopoulos, Bates, Candes, Jordan, Lei, "Learn then Test: Calibrating Predictive Algorithms to
Achieve Risk Control", Annals of Applied Statistics 2025, arXiv 2110.01052) with fixed-sequence testing. For a threshold
t the null hypothesis is that the selective risk R(t) = P(wrong | uncertainty <= t) exceeds the bound. Of the n(t)
lesions of the second half that t accepts, errors(t) are wrong; given n(t), errors(t) ~ Bin(n(t), R(t)), so
P(Bin(n(t), bound) <= errors(t)) is an exact p-value. Thresholds are tested in a fixed order, each at the full level
1 - confidence, up to the first that is not rejected; the last rejected one is kept. The first true null hypothesis of
the order is rejected with a chance of at most 1 - confidence, hence R(kept) > bound with at most that chance.

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
from typing import Any

import numpy as np
from scipy.stats import beta, binom

LEAST = 60
GRID_SIZE = 100
MOST = 1_000_000
# Thresholds are stored to 6 decimals, rounded up, so that float32 noise of saturated answers decides nothing.
DECIMALS = 6
LARGEST = 1e6


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

    def as_config(self) -> dict[str, Any]:
        """JSON-ready, one band of ``config.trust["bands"]``."""
        return asdict(self)


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
) -> BandsFit:
    """Fit both bands, each by its own test; each promise holds with its own confidence, not both at once.

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

    Raises:
        ValueError: as ``fit_band``, or a moderate risk below the low one.
    """
    if moderate_risk < low_risk:
        raise ValueError(f"moderate risk {moderate_risk} is below the low risk {low_risk}: exchange them")
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
        )
        for risk in (low_risk, moderate_risk)
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
) -> BandFit:
    """Find the largest threshold whose selective risk is at most ``risk`` with the given confidence.

    The grid holds quantiles of the first half's uncertainty. Finer grids cost no confidence, since the tests are made
    one after the other, and gain little beyond 100 points (measured in simulation: 10 points accept 55 %, 50 points
    58 %, 100 points 59 %, 1000 points 59 % where 71 % would be right). Ties are accepted together.

    Args:
        first_uncertainty: (n1,) of the first half, higher is less sure.
        second_uncertainty: (n2,) of the second half.
        second_wrong: (n2,) bool.
        risk: bound on the share of wrong answers among those accepted, in (0, 1).
        confidence: in (0, 1).
        least: lesions of the first half that the first threshold accepts, at least 1. At a risk of 5 % and a
            confidence of 90 % fewer than 45 accepted lesions cannot pass even without an error.
        grid_size: number of thresholds, at most; ties leave fewer.
        first_wrong: (n1,) bool; starts where the first half supports the promise best. None starts at ``least``.

    Returns:
        The band; its threshold is None, with the reason, when nothing can be promised.

    Raises:
        ValueError: a half without lesions, lengths that differ, NaN, or a setting out of range.
    """
    first, second, wrong, wrong_before = _checked(first_uncertainty, second_uncertainty, second_wrong, first_wrong)
    _check_settings(risk, confidence, least, grid_size)
    if len(first) < least:
        why = f"the first half has {len(first)} lesions, fewer than the {least} that the first threshold needs"
        return BandFit(None, risk, confidence, 0, 0, 1.0, 0, 0, why)
    grid = _grid(first, least, grid_size)
    start = 0 if wrong_before is None else int(np.argmin(_p_values(first, wrong_before, grid, risk)[2]))
    n, errors, p_values = _p_values(second, wrong, grid[start:], risk)
    rejected = p_values <= 1 - confidence
    passed = len(rejected) if rejected.all() else int(np.argmin(rejected))
    at, tested = max(passed - 1, 0), min(passed + 1, len(rejected))
    threshold, reason = float(grid[start + at]), None
    if not passed:
        reason = (
            f"{errors[at]} of {n[at]} lesions are wrong at the first threshold, {threshold:.6g}: a risk of at most "
            f"{risk:g} cannot be promised with confidence {confidence:g} (p = {p_values[at]:.3g})"
        )
    counts = {"n": int(n[at]), "errors": int(errors[at]), "tested": tested, "grid": len(grid)}
    return BandFit(
        threshold if passed else None, risk, confidence, p_value=float(p_values[at]), reason=reason, **counts
    )


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


def exact_upper(errors: float, n: float, confidence: float = 0.95) -> float:
    """One-sided upper bound of a share (Clopper and Pearson, Biometrika 26, 1934): beta(confidence; k + 1, n - k).

    Exact for k of n independent trials whose number was not chosen by looking at k. On the half that a threshold was
    selected with, that is not so; the bound is for the test split. Neither number needs to be whole.

    Args:
        errors: k, in [0, n].
        n: number of trials, at least 0; without any, nothing is known and the bound is 1.
        confidence: in (0, 1).

    Raises:
        ValueError: k outside [0, n], or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: give a share above 0 and below 1, such as 0.95")
    if not 0 <= errors <= n:
        raise ValueError(f"{errors} errors of {n}: give a count between 0 and n")
    return 1.0 if errors == n else float(beta.ppf(confidence, errors + 1, n - errors))


def missed_in_low(
    malignant: np.ndarray,
    answered_benign: np.ndarray,
    in_low: np.ndarray,
    weights: np.ndarray | None = None,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """How many malignant lesions are missed: answered with a benign class, in the low band.

    The band's promise averages over mostly nevi and does not cover this. The bound is exact on a split that
    played no part in choosing the threshold (test); on the half it was selected with, it is too low.

    Args:
        malignant: (N,) bool, the truth is malignant or premalignant.
        answered_benign: (N,) bool, the answer is a benign class.
        in_low: (N,) bool.
        weights: (N,) each image's share of its lesion; None where every lesion has one image.
        confidence: of each one-sided bound.

    Returns:
        JSON-ready: ``missed``, ``confidence``, and the share with its denominator ``n`` and bound ``upper`` three
        ways: ``of_malignant`` (all malignant lesions), ``of_malignant_in_low``, and ``of_benign_answers_in_low`` (of
        the lesions that are called benign with low risk, those that are not). A share of nothing is None, its bound 1.

    Raises:
        ValueError: lengths that differ, no image, or a confidence outside (0, 1).
    """
    malignant, answered_benign, in_low = (
        np.asarray(values, dtype=bool) for values in (malignant, answered_benign, in_low)
    )
    weights = np.ones(len(malignant)) if weights is None else np.asarray(weights, dtype=np.float64)
    shapes = {values.shape for values in (malignant, answered_benign, in_low, weights)}
    if len(shapes) > 1 or not malignant.size:
        raise ValueError(f"shapes {sorted(shapes)}: give truth, answer, band and weight of each of at least one image")
    missed = malignant & answered_benign & in_low

    def share(among: np.ndarray) -> dict[str, float | None]:
        # Guards k <= n against the rounding of thirds.
        n = float(weights[among].sum())
        k = min(float(weights[missed].sum()), n)
        return {"n": n, "value": k / n if n else None, "upper": exact_upper(k, n, confidence)}

    return {
        "missed": float(weights[missed].sum()),
        "confidence": confidence,
        "of_malignant": share(malignant),
        "of_malignant_in_low": share(malignant & in_low),
        "of_benign_answers_in_low": share(answered_benign & in_low),
    }


def _grid(first: np.ndarray, least: int, grid_size: int) -> np.ndarray:
    """Ascending thresholds at evenly spaced ranks of the first half, from the ``least``-th to the last."""
    ranks = np.unique(np.linspace(least, len(first), grid_size).round().astype(int))
    return np.unique(np.ceil(np.sort(first)[ranks - 1] * 10**DECIMALS) / 10**DECIMALS)


def _p_values(
    uncertainty: np.ndarray, wrong: np.ndarray, grid: np.ndarray, risk: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lesions accepted, errors among them and the exact binomial p-value, for each threshold: three (K,) arrays."""
    order = np.argsort(uncertainty, kind="stable")
    n = np.searchsorted(uncertainty[order], grid, side="right")
    errors = np.r_[0, np.cumsum(wrong[order])][n]
    return n, errors, binom.cdf(errors, n, risk)


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
