"""The estimate for one patient: their own difference, shrunken towards what patients do on the whole.

``d_i ~ N(theta_i, s_i^2)`` with ``s_i`` from days that resemble each other, ``theta_i ~ N(mu, tau^2)`` over patients,
mu free. At a given tau, theta_i has the best linear unbiased prediction (BLUP) of the random-effects model:

    b_i = s_i^2 / (s_i^2 + tau^2),  w_i = 1 / (s_i^2 + tau^2),  m = sum(w d) / sum(w)
    mean = b_i m + (1 - b_i) d_i,   variance = (1 - b_i) s_i^2 + b_i^2 / sum(w)

Ten patients do not determine tau, so all are averaged by their posterior, the prior half-Cauchy with five times the
sd of a day as its scale (Gelman, Bayesian Analysis 1:515, 2006). A single plugged-in tau, often 0, would promise too
much; so would a narrower prior (``trainers.longitudinal.coverage`` measures it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

BETTER, UNCLEAR, WORSE = "better", "no clear change", "worse"
# What stands for better and worse where severity drifts by itself: seen, but no credit or blame of a treatment.
LOWER, HIGHER = "lower", "higher"
PRIOR_WIDTH = 5.0  # scale of tau's prior, in standard deviations of a day
CAVEAT = "Whether the treatment or the passing of time did it is not known from this study."
GRID = 400  # values of tau, of equal prior mass


@dataclass(frozen=True)
class Shrunken:
    """Estimates of P patients' own effects of one treatment, in points; negative is better.

    Attributes:
        mean: (P,) posterior means.
        low: (P,) lower ends of the intervals.
        high: (P,) upper ends.
        p_better: (P,) probability of an effect below ``-relevant``.
        p_worse: (P,) probability of an effect above ``relevant``.
        spread: posterior median of tau, the standard deviation of patients' own effects; with the three that follow
            None for a single patient, who shows nothing of others: there the prior alone would count.
        spread_low: lower end of its interval.
        spread_high: upper end.
        next_better: probability that a further patient of the same kind has an effect below ``-relevant``.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p_better: np.ndarray
    p_worse: np.ndarray
    spread: float | None
    spread_low: float | None
    spread_high: float | None
    next_better: float | None


def shrink(
    found: np.ndarray, errors: np.ndarray, scale: float, confidence: float = 0.95, relevant: float = 0.0
) -> Shrunken:
    """Shrink P patients' differences towards each other.

    Args:
        found: (P,) each patient's difference, in points, finite.
        errors: (P,) standard errors from the days, > 0, in points.
        scale: of the prior of tau, > 0, in points.
        confidence: of the intervals, 0 to 1.
        relevant: the smallest effect that matters, >= 0, in points.
    """
    tau = scale * np.tan(math.pi / 2 * (np.arange(GRID) + 0.5) / GRID)
    totals = errors[:, None] ** 2 + tau**2  # (P, GRID)
    precision = (1 / totals).sum(axis=0)
    centre = (found[:, None] / totals).sum(axis=0) / precision
    fit = -0.5 * (np.log(totals) + (found[:, None] - centre) ** 2 / totals).sum(axis=0) - 0.5 * np.log(precision)
    weights = np.exp(fit - fit.max())
    weights /= weights.sum()
    pull = errors[:, None] ** 2 / totals
    means = pull * centre + (1 - pull) * found[:, None]
    sds = np.sqrt((1 - pull) * errors[:, None] ** 2 + pull**2 / precision)
    tail = (1 - confidence) / 2
    ends = [[_quantile(share, weights, m, s) for m, s in zip(means, sds, strict=True)] for share in (tail, 1 - tail)]
    cumulated = np.cumsum(weights)
    spreads: list[float | None] = [None] * 3
    if len(found) > 1:
        spreads = [float(tau[min(int(np.searchsorted(cumulated, at)), GRID - 1)]) for at in (0.5, tail, 1 - tail)]
    next_sd = np.sqrt(tau**2 + 1 / precision)
    return Shrunken(
        mean=means @ weights,
        low=np.array(ends[0]),
        high=np.array(ends[1]),
        p_better=ndtr((-relevant - means) / sds) @ weights,
        p_worse=ndtr((means - relevant) / sds) @ weights,
        spread=spreads[0],
        spread_low=spreads[1],
        spread_high=spreads[2],
        next_better=float(ndtr((-relevant - centre) / next_sd) @ weights) if len(found) > 1 else None,
    )


def _quantile(share: float, weights: np.ndarray, means: np.ndarray, sds: np.ndarray) -> float:
    """The quantile of a mixture of normals."""
    reach = 10 * float(sds.max()) + 1e-9
    low, high = float(means.min()) - reach, float(means.max()) + reach
    return float(brentq(lambda at: float(ndtr((at - means) / sds) @ weights) - share, low, high))


def verdict(p_better: float, p_worse: float, sure: float, *, moves: bool = False) -> str:
    """``better`` or ``worse`` where its probability reaches ``sure``, else ``no clear change``.

    With ``moves`` (severity moved during the baseline already) ``lower`` and ``higher`` instead.
    """
    down, up = (LOWER, HIGHER) if moves else (BETTER, WORSE)
    return down if p_better >= sure else up if p_worse >= sure else UNCLEAR


def percent(share: float) -> str:
    """A probability in words; never 0 or 100 %."""
    if share > 0.99:
        return "over 99 %"
    return "under 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def change(points: float, decimals: int) -> str:
    """``-3.2`` -> ``3.2 lower``."""
    return f"{abs(points):.{decimals}f} {'lower' if points < 0 else 'higher'}"


def sentence(
    treatment: str,
    baseline: str,
    estimate: tuple[float, float, float],
    chances: tuple[float, float],
    outcome: str,
    *,
    difference: float | None = None,
    moves: bool = False,
    in_time: bool = False,
    relevant: float = 0.0,
    decimals: int = 1,
    confidence: float = 0.95,
) -> str:
    """One plain sentence for the patient; it states the estimate, not what caused it.

    Args:
        treatment: its name.
        baseline: its name.
        estimate: mean, low and high of the patient's own effect, in points.
        chances: probabilities of better and worse.
        outcome: the verdict.
        difference: of the patient's own means, in points; named where its sign is not that of the estimate.
        moves: severity moved during the baseline already, which the sentence states.
        in_time: the patient had the treatment (nearly) always later, or earlier, than the baseline.
        relevant: the smallest effect that matters, in points.
        decimals: of the points.
        confidence: of the interval.
    """
    mean, low, high = (change(points, decimals) for points in estimate)
    ends = f"{100 * confidence:g} % interval: {low} to {high}"
    seen = f"severity about {mean} than during {baseline} ({ends})"
    if difference is not None and difference * estimate[0] < 0:
        days = change(difference, decimals)
        seen = f"your days: {days} than during {baseline}; drawn towards all patients: {mean} ({ends})"
    least = f"more than {relevant:g} points " if relevant else ""
    lower, higher = (
        f"{least}{way}: {percent(chance)}" for way, chance in zip(("lower", "higher"), chances, strict=True)
    )
    start = (
        "if nothing else changed with time, probability that it was" if moves or in_time else "probability that it was"
    )
    if outcome == UNCLEAR:
        text = f"No clear change during {treatment}: {seen}; {start} {lower}, {higher}."
    else:
        chance = lower if outcome in (BETTER, LOWER) else higher
        text = f"{outcome.capitalize()} during {treatment}: {seen}; {start} {chance}."
    if moves:
        text += f" Severity moved during {baseline} already; that drift is part of this number."
    return text + (f" {CAVEAT}" if in_time else "")


def decimals_for(spread: float) -> int:
    """How many decimals show two digits of a spread, 0 to 6."""
    return int(min(max(1 - math.floor(math.log10(spread)), 0), 6)) if spread > 0 else 1
