"""Checks of arrays, weights of one sample or of many resamples, and division that is NaN where it is not defined."""

from __future__ import annotations

import numpy as np

# Beyond it float32 overflows where a model applies what was fitted.
LARGEST = 1e30


def as_labels(labels: np.ndarray, n: int, n_classes: int | None = None) -> np.ndarray:
    """Class indices as an array of integers (n,).

    Raises:
        ValueError: another shape, another type, or an index outside 0..n_classes - 1 (below 0 where that is None).
    """
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"labels have shape {labels.shape} for {n} images: give one label per image")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels are of type {labels.dtype}: give class indices as integers")
    most = np.inf if n_classes is None else n_classes - 1
    if n and (labels.min() < 0 or labels.max() > most):
        raise ValueError(f"labels span {labels.min()}..{labels.max()}; expected 0..{most}")
    return labels


def check_values(values: np.ndarray | None, name: str, images: str = "images") -> None:
    """Refuse values of which no score can be made.

    Args:
        values: (N, ...), or None where there are none.
        name: what one of them is, for the message.
        images: what they are of, for the message.

    Raises:
        ValueError: counts the images with a value that is NaN, infinite or above ``LARGEST``.
    """
    if values is None or not len(values):
        return
    bad = ~(np.abs(np.asarray(values, dtype=np.float64)) <= LARGEST).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {len(values)} {images} have a {name} that is NaN, infinite or above {LARGEST:g}: the "
            "training diverged; lower the learning rate or train in fp32"
        )


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
        raise ValueError(f"weights have shape {weights.shape}; expected (..., {n}): give one weight per image")
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
