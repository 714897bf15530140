"""Applying sets and bands: which classes cannot be ruled out, and how risky the answer is. Pure functions of tensors.

A conformal set holds every class y whose score s(x, y) is at most that class's threshold qhat[y]; low scores conform.
The thresholds are fitted elsewhere, on images that the weights never saw. What a set promises is a share of sets that
hold the truth, over images like those of the fit; it promises nothing about one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

METHODS = ("lac", "aps", "raps")
RAPS_SETTINGS = {"penalty": 0.01, "k_reg": 2}
# Thresholds are fitted in float64 and applied in float32: a score that equals its threshold must not fall out of the
# set by rounding. The slack only ever adds a class, so it cannot break the promise.
ROUNDING = 1e-6
# Half-precision softmax rows miss 1 by about this much; logits miss by far more.
NOT_A_PROBABILITY = 1e-2


class ConformalError(ValueError):
    """Probabilities, scores, thresholds or settings from which no set or band follows."""


def conformal_scores(
    probs: torch.Tensor, method: str = "lac", settings: Mapping[str, float] | None = None
) -> torch.Tensor:
    """How badly each class would fit each image; higher is a worse fit.

    ``lac``: 1 - p_y, in [0, 1] (Sadinle, Lei, Wasserman 2019, equation 4). The smallest sets on average; they may be
    empty, where no class is probable enough.

    ``aps``: the probability of y and of all classes more probable than y, in (0, 1] (Romano, Sesia, Candes 2020,
    equation 7, with u = 1). Deterministic: their random u, which makes the coverage exact, would let the same image
    get two different sets. What that costs: the sets cover more and are larger, and the score of the first class is
    its own probability, so the surest answers have high scores and can fall out of their own set, leaving it empty.

    ``raps``: aps + penalty * max(rank - k_reg, 0), rank 1 for the most probable class (Angelopoulos, Bates, Malik,
    Jordan 2021, equation 4, with u = 1); at least 0 and without upper bound. Cuts off the long tails of aps sets.

    Args:
        probs: (N, C) probabilities, rows sum to 1; float64 stays, everything else is taken to float32.
        method: ``lac``, ``aps`` or ``raps``.
        settings: of ``raps``: ``penalty`` >= 0 and ``k_reg`` >= 0; ``RAPS_SETTINGS`` where missing. Others take none.

    Returns:
        (N, C) scores. Classes of equal probability are ranked by their index.

    Raises:
        ConformalError: another shape, a NaN or infinite value, rows that are no probabilities, an unknown method or
            setting, a negative penalty or k_reg.
    """
    penalty, k_reg = _checked_settings(method, settings)
    probs = _checked_probs(probs)
    if method == "lac":
        return 1.0 - probs
    order = probs.argsort(dim=1, descending=True, stable=True)
    # A class's place in its row's order is the inverse of that permutation.
    place = order.argsort(dim=1)
    down_to = probs.gather(1, order).cumsum(dim=1).gather(1, place)
    if method == "aps":
        return down_to
    return down_to + penalty * (place + 1 - k_reg).clamp(min=0).to(probs.dtype)


def prediction_sets(scores: torch.Tensor, qhat: Sequence[float | None] | torch.Tensor) -> torch.Tensor:
    """Which classes stand in the set of each image: score <= qhat of that class.

    The comparison allows ``ROUNDING`` (1e-6) so that a score fitted in float64 and recomputed in float32 still meets
    its own threshold.

    Args:
        scores: (N, C) of ``conformal_scores``, by the method that the thresholds were fitted with.
        qhat: C thresholds; None or infinite where the fit had too few lesions: that class always stands in the set.

    Returns:
        (N, C) bool; a row may be all False (an empty set) or all True.

    Raises:
        ConformalError: shapes that do not agree, or a NaN among scores or thresholds.
    """
    thresholds = torch.as_tensor(
        [math.inf if value is None else float(value) for value in qhat], dtype=scores.dtype, device=scores.device
    )
    if scores.ndim != 2 or thresholds.shape != scores.shape[1:]:
        raise ConformalError(
            f"scores have shape {tuple(scores.shape)} and qhat {tuple(thresholds.shape)}: "
            "give (N, C) scores and one threshold a class"
        )
    for name, values in (("scores", scores), ("qhat", thresholds)):
        if bool(values.isnan().any()):
            raise ConformalError(f"{int(values.isnan().sum())} of the {name} are NaN: no set can be made of them")
    return scores <= thresholds + ROUNDING


def sets_and_bands(probs: torch.Tensor, trust: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Calibrated probabilities (N, C) -> what was fitted says of them.

    Args:
        probs: (N, C).
        trust: a model's ``config.trust``.

    Returns:
        The sets (N, C) bool; the uncertainty (N,), 1 - the largest probability; N names of bands.
    """
    fitted, bands = trust["conformal"], trust["bands"]
    sets = prediction_sets(conformal_scores(probs, fitted["method"], fitted["settings"]), fitted["qhat"])
    uncertainty = 1 - probs.amax(dim=1)
    return sets, uncertainty, risk_bands(uncertainty, bands["low"]["threshold"], bands["moderate"]["threshold"])


def risk_bands(uncertainty: torch.Tensor, low: float | None, moderate: float | None) -> list[str]:
    """The risk band of each answer.

    ``low`` where the uncertainty is at most the low threshold, ``moderate`` where it is above that and at most the
    moderate one, ``high`` elsewhere. The moderate promise was tested on both bands together.

    Args:
        uncertainty: (N,), of the kind that the thresholds were fitted on (1 - the largest calibrated probability).
        low: threshold of the low band, None when nothing could be promised: the band is empty.
        moderate: the same of the moderate band; None leaves it empty.

    Returns:
        N names.

    Raises:
        ConformalError: another shape, a NaN, or a moderate threshold below the low one.
    """
    if uncertainty.ndim != 1 or bool(uncertainty.isnan().any()):
        raise ConformalError(
            f"uncertainty has shape {tuple(uncertainty.shape)} and {int(uncertainty.isnan().sum())} NaN: "
            "give one number an image"
        )
    for name, value in (("low", low), ("moderate", moderate)):
        if value is not None and math.isnan(value):
            raise ConformalError(f"the {name} threshold is NaN: give a number, or None for an empty band")
    if low is not None and moderate is not None and moderate < low:
        raise ConformalError(f"the moderate threshold {moderate} is below the low one {low}: fit the bands again")
    lowest = -math.inf if low is None else low
    middle = -math.inf if moderate is None else moderate
    return ["low" if u <= lowest else "moderate" if u <= middle else "high" for u in uncertainty.tolist()]


def _checked_settings(method: str, settings: Mapping[str, float] | None) -> tuple[float, float]:
    if method not in METHODS:
        raise ConformalError(f"method {method!r}: give one of {', '.join(METHODS)}")
    given = dict(settings or {})
    unknown = sorted(set(given) - set(RAPS_SETTINGS if method == "raps" else ()))
    if unknown:
        raise ConformalError(f"method {method!r} knows no setting {unknown[0]!r}: leave it out")
    penalty, k_reg = (float(given.get(name, default)) for name, default in RAPS_SETTINGS.items())
    for name, value in (("penalty", penalty), ("k_reg", k_reg)):
        if not (math.isfinite(value) and value >= 0):
            raise ConformalError(f"{name} {value}: give a finite number of at least 0")
    return penalty, k_reg


def _checked_probs(probs: torch.Tensor) -> torch.Tensor:
    if probs.ndim != 2:
        raise ConformalError(f"probabilities have shape {tuple(probs.shape)}: give (N, C)")
    probs = probs if probs.dtype == torch.float64 else probs.float()
    if not bool(probs.isfinite().all()):
        bad = int((~probs.isfinite()).any(dim=1).sum())
        raise ConformalError(f"{bad} of {len(probs)} images have a probability that is NaN or infinite")
    if probs.numel() and not bool((probs >= 0).all() & ((probs.sum(dim=1) - 1).abs() <= NOT_A_PROBABILITY).all()):
        raise ConformalError("rows are no probabilities (each at least 0, sum 1): give softmax, not logits")
    return probs
