"""Intervals of numbers: resampling of lesions, and exact intervals for shares.

Images of one lesion look alike, so they are not independent and an interval over images would be too narrow. What is
drawn is therefore the lesion group with all of its images (the cluster bootstrap: Davison & Hinkley, "Bootstrap Methods
and their Application", 1997, section 3.8), within each class, so that a rare class keeps its number of lesions.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import beta

LEVEL = 0.95
BLOCK = 4_000_000


def group_strata(groups: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the groups and give each one class.

    Args:
        groups: (N,) group ids.
        labels: (N,) class indices.

    Returns:
        ``index`` (N,) in [0, G) and ``strata`` (G,): the commonest label of a group, the lowest if several are.
    """
    groups, labels = np.asarray(groups).astype(str), np.asarray(labels)
    if groups.shape != labels.shape:
        raise ValueError(f"{groups.shape} group ids and {labels.shape} labels: give one group id per image")
    _, index = np.unique(groups, return_inverse=True)
    if not len(labels):
        return index, np.zeros(0, dtype=int)
    counts = np.zeros((index.max() + 1, labels.max() + 1), dtype=int)
    np.add.at(counts, (index, labels), 1)
    return index, counts.argmax(axis=1)


def bootstrap_weights(groups: np.ndarray, labels: np.ndarray, replicates: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each image stands in each resample.

    A resample draws, within each class, as many lesion groups as the class has, with replacement, each with all its
    images. The number of images varies between resamples, the number of groups of a class does not.

    Args:
        groups: (N,) group ids.
        labels: (N,) class indices.
        replicates: R.
        seed: of the random numbers; the same seed gives the same weights.

    Returns:
        (R, N) uint16 counts, equal for the images of one group.
    """
    index, strata = group_strata(groups, labels)
    rng = np.random.default_rng(seed)
    drawn = np.zeros((replicates, len(strata)), dtype=np.uint16)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        shares = np.full(len(members), 1 / len(members))
        drawn[:, members] = rng.multinomial(len(members), shares, size=replicates)
    return drawn[:, index]


def can_resample(groups: np.ndarray, labels: np.ndarray) -> bool:
    """Whether any class has two groups: without that, every resample is the sample."""
    _, strata = group_strata(groups, labels)
    return len(strata) > 0 and bool(np.bincount(strata).max() >= 2)


def replicate(statistic: Callable[[np.ndarray], dict[str, np.ndarray]], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Apply a weighted statistic to all resamples, a block at a time so that memory stays small.

    Args:
        statistic: takes (K, N) float64 weights, returns names with arrays (K,) or (K, C).
        weights: (R, N).

    Returns:
        The same names with arrays (R,) or (R, C).
    """
    block = max(1, BLOCK // max(weights.shape[1], 1))
    parts = [statistic(weights[i : i + block].astype(np.float64)) for i in range(0, len(weights), block)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentile_interval(replicates: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle ``level`` of the replicates that are defined: (R,) -> (low, high).

    Raises:
        ValueError: no replicate is defined.
    """
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        raise ValueError(f"none of {len(replicates)} replicates is defined: there is no interval to take")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def exact_interval(right: float, n: float, level: float = LEVEL) -> tuple[float, float]:
    """Clopper-Pearson interval of a share (Biometrika 26, 1934), by quantiles of the beta distribution.

    The formula ``beta((1-level)/2; k, n-k+1), beta((1+level)/2; k+1, n-k)`` does not need k to be whole, so a lesion
    of which half the images are right may count 0.5.

    Args:
        right: k, in [0, n].
        n: number of independent trials, above 0.
        level: share of intervals that must cover the truth; exact intervals cover at least this.

    Raises:
        ValueError: k outside [0, n], or n not above 0.
    """
    if n <= 0 or not 0 <= right <= n:
        raise ValueError(f"{right} right of {n}: give a count between 0 and n, with n above 0")
    tail = (1 - level) / 2
    low = 0.0 if right == 0 else float(beta.ppf(tail, right, n - right + 1))
    high = 1.0 if right == n else float(beta.ppf(1 - tail, right + 1, n - right))
    return low, high


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


def lesion_shares(correct: np.ndarray, groups: np.ndarray) -> tuple[float, int]:
    """Sum over lesion groups of the share of their images that is right, and the number of groups: ``(k, n)``."""
    _, index = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    images = np.bincount(index)
    right = np.bincount(index, weights=np.asarray(correct, dtype=np.float64))
    # Guards k <= n against the rounding of thirds.
    return float(min((right / images).sum(), len(images))), len(images)


def exact_by_lesion(correct: np.ndarray, groups: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Exact interval of a share of images whose independent units are lesions.

    k is the sum of each lesion's share of right images, n the number of lesions. The share itself is reported by
    image; where lesions with many images pull it outside the interval by lesion, the interval is widened to it.

    Args:
        correct: (N,) bool, N at least 1.
        groups: (N,) group ids.
        level: of the interval.

    Returns:
        ``(low, high)`` with ``low <= mean(correct) <= high``.
    """
    low, high = exact_interval(*lesion_shares(correct, groups), level)
    share = float(np.mean(correct))
    return min(low, share), max(high, share)
