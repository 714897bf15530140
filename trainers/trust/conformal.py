"""Fitting conformal sets: one threshold per class, so that the set misses the true class in at most a share alpha.

Split conformal prediction (Vovk, Gammerman, Shafer 2005; Lei, G'Sell, Rinaldo, Tibshirani, Wasserman 2018): with n
exchangeable images, the k-th smallest of their true classes' scores with k = ceil((n + 1)(1 - alpha)) covers the next
one with a chance of at least 1 - alpha. Within a class (Mondrian, Vovk 2012) the same holds for the images of that
class, which is what keeps a rare cancer from being missed for the sake of the many nevi. The chance is over the
calibration images too: the coverage of one fit is itself random, Beta(k, n + 1 - k) for continuous scores.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from hub_models.trust_lesion import RAPS_SETTINGS, conformal_scores
from trainers.metrics.predictions import MALIGNANT_GROUPS
from trainers.metrics.weighting import as_labels

ALL_CLASSES = "all classes"
FINEST = 10**9


class ConformalFitWarning(UserWarning):
    """The thresholds are valid but useless; the message gives the reason."""


@dataclass(frozen=True)
class ConformalFit:
    """Fitted thresholds.

    Attributes:
        method: ``lac``, ``aps`` or ``raps``.
        alpha: the share of sets that may miss the truth, in (0, 1).
        qhat: (C,) float64, the largest score that stands in a set; infinite: the class always does.
        class_conditional: whether classes have thresholds of their own.
        settings: of the method.
        groups: class -> name of the group whose quantile it uses: itself, the pool of small classes, or all classes.
        n: name of that group -> number of lesions the quantile was taken over.
        without_own_promise: classes whose coverage is promised only within a pool or on average, if at all.
        malignant_without_own_promise: those of them that are malignant or premalignant.
    """

    method: str
    alpha: float
    qhat: np.ndarray
    class_conditional: bool
    settings: dict[str, float]
    groups: dict[str, str]
    n: dict[str, int]
    without_own_promise: list[str] = field(default_factory=list)
    malignant_without_own_promise: list[str] = field(default_factory=list)

    def as_config(self) -> dict[str, Any]:
        """JSON-ready ``config.trust["conformal"]``; an infinite threshold is None."""
        return {
            "method": self.method,
            "alpha": self.alpha,
            "qhat": [float(value) if math.isfinite(value) else None for value in self.qhat],
            "class_conditional": self.class_conditional,
            "settings": dict(self.settings),
            "groups": dict(self.groups),
            "n": dict(self.n),
            "without_own_promise": list(self.without_own_promise),
            "malignant_without_own_promise": list(self.malignant_without_own_promise),
        }


def quantile_rank(n: int, alpha: float) -> int:
    """k = ceil((n + 1)(1 - alpha)) in whole numbers: 123 at n = 149 and alpha 0.18, which floating point makes 124.

    Alpha means the fraction that its float stands for: 0.1 is one tenth, and so is 1 - 0.9.

    Returns:
        k in [1, n + 1]; n + 1 means that n images are too few.

    Raises:
        ValueError: alpha outside (0, 1), or n negative.
    """
    if n < 0:
        raise ValueError(f"n = {n}: give a number of images")
    return math.ceil((n + 1) * (1 - _exact(alpha)))


def least_n(alpha: float) -> int:
    """The fewest images whose quantile is finite, ceil(1 / alpha) - 1: 9 at alpha 0.1."""
    return math.ceil(1 / _exact(alpha)) - 1


def quantile(scores: np.ndarray, alpha: float) -> float:
    """The ceil((n + 1)(1 - alpha))-th smallest score (Lei et al. 2018, algorithm 2); infinite where that exceeds n.

    A plain ``np.quantile(scores, 1 - alpha)`` covers too little: 0.86 instead of 0.90 at n = 20.

    Args:
        scores: (n,) of the true classes.
        alpha: in (0, 1).

    Raises:
        ValueError: alpha outside (0, 1), scores that are not one row, or one that is NaN.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"scores have shape {scores.shape}: give (n,), the score of each true class")
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {len(scores)} scores are NaN: check the logits")
    k = quantile_rank(len(scores), alpha)
    return math.inf if k > len(scores) else float(np.partition(scores, k - 1)[k - 1])


def fit_conformal(
    probs: np.ndarray,
    labels: np.ndarray,
    label_names: Sequence[str],
    label_groups: Mapping[str, str],
    method: str = "lac",
    class_conditional: bool = True,
    alpha: float = 0.1,
    settings: Mapping[str, float] | None = None,
) -> ConformalFit:
    """Fit the thresholds of prediction sets.

    The caller draws one image per lesion first (``halves.one_per_group``) from a half that nothing else was fitted on:
    the law wants exchangeable rows, and images of one lesion are none. Settings of ``raps`` must come from elsewhere
    too: the fixed defaults, or a choice made on the first half.

    A class with fewer than ``least_n(alpha)`` lesions is pooled with the other such classes; their common quantile
    covers the pool on average, not each class. Where even the pool is too small its classes take the quantile of all
    lesions together, which promises nothing about them.

    Args:
        probs: (n, C) calibrated probabilities.
        labels: (n,) class indices.
        label_names: C short names.
        label_groups: short name -> ``benign`` | ``premalignant`` | ``malignant``.
        method: ``lac``, ``aps`` or ``raps``; see ``hub_models.trust_lesion``.
        class_conditional: one threshold per class; False takes one for all, which promises the average only.
        alpha: in (0, 1).
        settings: of ``raps``; the defaults where missing.

    Returns:
        The fit; every threshold is infinite, with a warning, below ``least_n(alpha)`` lesions in all.

    Raises:
        ValueError: no lesion, alpha outside (0, 1), shapes that do not agree, a label out of range.
        ConformalError: probabilities that are NaN or none, an unknown method or setting.
    """
    probs, labels = _checked(probs, labels, label_names)
    least = least_n(alpha)
    scores = conformal_scores(torch.from_numpy(probs), method, settings).numpy()[np.arange(len(labels)), labels]
    if len(labels) < least:
        warnings.warn(
            f"{len(labels)} lesions are fewer than the {least} that alpha {alpha} needs: every set holds every class",
            ConformalFitWarning,
            stacklevel=2,
        )
    groups = _grouped(labels, label_names, least) if class_conditional else [ALL_CLASSES] * len(label_names)
    qhat, n = _quantiles(scores, labels, groups, alpha)
    without = [name for name, group in zip(label_names, groups, strict=True) if name != group]
    return ConformalFit(
        method=method,
        alpha=float(alpha),
        qhat=qhat,
        class_conditional=class_conditional,
        settings={**RAPS_SETTINGS, **(settings or {})} if method == "raps" else {},
        groups=dict(zip(label_names, groups, strict=True)),
        n=n,
        without_own_promise=without,
        malignant_without_own_promise=[name for name in without if label_groups.get(name) in MALIGNANT_GROUPS],
    )


def _quantiles(
    scores: np.ndarray, labels: np.ndarray, groups: list[str], alpha: float
) -> tuple[np.ndarray, dict[str, int]]:
    """The threshold of each class, that of its group, and the number of lesions behind each group."""
    group_of_row = np.array(groups, dtype=object)[labels]
    qhat, n = np.empty(len(groups)), {}
    for group in dict.fromkeys(groups):
        mine = np.ones(len(labels), dtype=bool) if group == ALL_CLASSES else group_of_row == group
        qhat[[index for index, name in enumerate(groups) if name == group]] = quantile(scores[mine], alpha)
        n[group] = int(mine.sum())
    return qhat, n


def _grouped(labels: np.ndarray, names: Sequence[str], least: int) -> list[str]:
    """The group of each class: itself, the named pool of small classes, or all classes."""
    counts = np.bincount(labels, minlength=len(names))
    small = [index for index in range(len(names)) if counts[index] < least]
    pool = ALL_CLASSES
    if counts[small].sum() >= least:
        pool = "small classes: " + ", ".join(names[index] for index in small)
    return [pool if index in small else name for index, name in enumerate(names)]


def _exact(alpha: float) -> Fraction:
    fraction = Fraction(alpha).limit_denominator(FINEST) if math.isfinite(alpha) else Fraction(0)
    if not 0 < fraction < 1:
        raise ValueError(f"alpha {alpha}: give a share above 0 and below 1, such as 0.1")
    return fraction


def _checked(probs: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    probs = np.ascontiguousarray(probs, dtype=np.float64)
    if probs.ndim != 2 or probs.shape[1] != len(names):
        raise ValueError(f"probabilities have shape {probs.shape} for {len(names)} classes: give (n, C)")
    if not len(probs):
        raise ValueError("0 lesions: there is nothing to fit sets on; check the calibration split")
    return probs, as_labels(labels, len(probs), len(names))
