"""What the weighted metrics share: weights of one sample or of many resamples, and division that says "not defined"."""

from __future__ import annotations

import numpy as np


def group_weights(groups: np.ndarray) -> np.ndarray:
    """(N,) group ids -> (N,) weights 1 / (images of the group): each group weighs 1 in all."""
    _, index, images = np.unique(np.asarray(groups).astype(str), return_inverse=True, return_counts=True)
    return 1.0 / images[index]


def as_weights(weights: np.ndarray | None, n: int) -> np.ndarray:
    """Weights as float64 of shape (..., n); None counts each image once.

    Raises:
        ValueError: the last axis is not n.
    """
    if weights is None:
        return np.ones(n)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape[-1:] != (n,):
        raise ValueError(f"weights have shape {weights.shape}; expected (..., {n}): give one weight an image")
    return weights


def divide_or_nan(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``, NaN wherever ``below`` is 0, without a warning."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.asarray(below) == 0, np.nan, np.divide(above, below))


def mean_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the values that are not NaN; NaN when there is none: (..., K) -> (...)."""
    defined = ~np.isnan(values)
    return divide_or_nan(np.where(defined, values, 0.0).sum(axis=-1), defined.sum(axis=-1))


def weighted_mean(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Mean of (N,) values under weights (N,) or (R, N): one value, or (R,)."""
    weights = as_weights(weights, len(values))
    return divide_or_nan(weights @ values, weights.sum(axis=-1))
