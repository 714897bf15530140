"""How well a classifier separates the classes: plain, weighted functions of labels and scores.

Weights make the bootstrap fast: a resample is a count per image, so every function takes ``weights`` of shape (N,) or
(R, N) and returns one value, or R values in one pass. Counts of images are the weights 1. All results are in
[0, 1], higher is better, and NaN where the definition divides by zero (a class without images, one class only).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from trainers.metrics.weighting import as_weights, divide_or_nan, mean_defined


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, n_classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Weighted counts, rows true, columns predicted.

    Args:
        labels: (N,) true class indices.
        predicted: (N,) predicted class indices.
        n_classes: C.
        weights: (N,) or (R, N); None counts each image once.

    Returns:
        (C, C) or (R, C, C) float64.

    Raises:
        ValueError: lengths differ, or an index lies outside 0..C-1.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    weights = as_weights(weights, len(labels))
    if labels.shape != predicted.shape:
        raise ValueError(f"{labels.shape} labels and {predicted.shape} predictions: give one prediction a label")
    for name, values in (("labels", labels), ("predictions", predicted)):
        if len(values) and (values.min() < 0 or values.max() >= n_classes):
            raise ValueError(f"{name} span {values.min()}..{values.max()}; expected 0..{n_classes - 1}")
    cells = csr_array(
        (np.ones(len(labels)), (np.arange(len(labels)), labels * n_classes + predicted)),
        shape=(len(labels), n_classes * n_classes),
    )
    return (weights @ cells).reshape(*weights.shape[:-1], n_classes, n_classes)


@dataclass(frozen=True)
class Margins:
    """What the metrics need of a confusion matrix: (..., C) each. Of many classes R whole matrices are too large.

    Attributes:
        right: the diagonal.
        true: sums of rows.
        predicted: sums of columns.
    """

    right: np.ndarray
    true: np.ndarray
    predicted: np.ndarray


Confusion = np.ndarray | Margins


def margins(labels: np.ndarray, predicted: np.ndarray, n_classes: int, weights: np.ndarray) -> Margins:
    """The margins of :func:`confusion_matrix`, without the matrix."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    images = np.arange(len(labels))

    def counts(classes: np.ndarray, which: np.ndarray) -> np.ndarray:
        cells = csr_array((which.astype(np.float64), (images, classes)), shape=(len(labels), n_classes))
        return np.asarray(weights @ cells)

    every = np.ones(len(labels), dtype=bool)
    return Margins(counts(labels, labels == predicted), counts(labels, every), counts(predicted, every))


def _margins(confusion: Confusion) -> Margins:
    if isinstance(confusion, Margins):
        return confusion
    return Margins(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1), confusion.sum(axis=-2))


def accuracy(confusion: Confusion) -> np.ndarray:
    """Share of images whose predicted class is the true one: (..., C, C) -> (...)."""
    of = _margins(confusion)
    return divide_or_nan(of.right.sum(axis=-1), of.true.sum(axis=-1))


def recall(confusion: Confusion) -> np.ndarray:
    """Per class, the share of its images that are found: (..., C, C) -> (..., C); NaN for support 0."""
    of = _margins(confusion)
    return divide_or_nan(of.right, of.true)


def precision(confusion: Confusion) -> np.ndarray:
    """Per class, the share of its predictions that are right: (..., C, C) -> (..., C); NaN if never predicted."""
    of = _margins(confusion)
    return divide_or_nan(of.right, of.predicted)


def f1(confusion: Confusion) -> np.ndarray:
    """Per class, 2 TP / (2 TP + FP + FN): (..., C, C) -> (..., C).

    A class that has images and is never predicted scores 0; a class of support 0 is NaN, also when it is predicted.
    """
    of = _margins(confusion)
    scores = divide_or_nan(2 * of.right, of.true + of.predicted)
    return np.where(of.true > 0, scores, np.nan)


def balanced_accuracy(confusion: Confusion) -> np.ndarray:
    """Mean recall over the classes that have images: (..., C, C) -> (...). The ISIC 2018 challenge's metric."""
    return mean_defined(recall(confusion))


def macro_f1(confusion: Confusion) -> np.ndarray:
    """Mean F1 over the classes that have images, each class weighing the same: (..., C, C) -> (...)."""
    return mean_defined(f1(confusion))


def weighted_f1(confusion: Confusion) -> np.ndarray:
    """Mean F1 weighted by support: (..., C, C) -> (...)."""
    support = _margins(confusion).true
    return divide_or_nan((np.nan_to_num(f1(confusion)) * support).sum(axis=-1), support.sum(axis=-1))


def auroc(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve: the chance that a positive image scores above a negative one, ties counting half.

    Args:
        positive: (N,) bool.
        scores: (N,) higher means more positive.
        weights: (N,) or (R, N).

    Returns:
        One value, or (R,); NaN where only one of the two kinds has weight.
    """
    positives, negatives = by_score(positive, scores, weights)
    below = np.cumsum(negatives, axis=-1) - negatives
    wins = (positives * (below + 0.5 * negatives)).sum(axis=-1)
    return divide_or_nan(wins, positives.sum(axis=-1) * negatives.sum(axis=-1))


def macro_auroc(labels: np.ndarray, probs: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean over classes of the one-against-rest AUROC of that class's probability.

    Classes without images (or without any other image beside them) are left out of the mean.

    Args:
        labels: (N,) class indices.
        probs: (N, C).
        weights: (N,) or (R, N).

    Returns:
        One value, or (R,).
    """
    return mean_defined(np.stack([auroc(labels == c, probs[:, c], weights) for c in range(probs.shape[1])], axis=-1))


def sensitivity_at_specificity(
    positive: np.ndarray, scores: np.ndarray, specificity: float, weights: np.ndarray | None = None
) -> np.ndarray:
    """Highest sensitivity among thresholds whose specificity is at least the given one.

    An image is called positive when its score is at or above the threshold; thresholds are the scores themselves and
    one above them all, so no point between two measured ones is invented.

    Args:
        positive: (N,) bool.
        scores: (N,) higher means more positive.
        specificity: in [0, 1].
        weights: (N,) or (R, N).

    Returns:
        One value, or (R,); NaN where only one of the two kinds has weight.
    """
    if not 0 <= specificity <= 1:
        raise ValueError(f"specificity {specificity}: give a share between 0 and 1")
    positives, negatives = by_score(positive, scores, weights)
    total_positive, total_negative = positives.sum(axis=-1), negatives.sum(axis=-1)
    below = np.cumsum(negatives, axis=-1) - negatives
    at_or_above = np.cumsum(positives[..., ::-1], axis=-1)[..., ::-1]
    # Weights are counts, so half a count of slack only absorbs the rounding of `specificity * total`.
    allowed = below >= specificity * total_negative[..., None] - 1e-9
    found = np.where(allowed, at_or_above, 0.0).max(axis=-1, initial=0.0)
    return divide_or_nan(np.where(total_negative > 0, found, np.nan), total_positive)


def specificity_at_sensitivity(
    positive: np.ndarray, scores: np.ndarray, sensitivity: float, weights: np.ndarray | None = None
) -> np.ndarray:
    """Highest specificity among thresholds whose sensitivity is at least the given one.

    Arguments and result as of :func:`sensitivity_at_specificity`, with the two kinds exchanged.
    """
    if not 0 <= sensitivity <= 1:
        raise ValueError(f"sensitivity {sensitivity}: give a share between 0 and 1")
    return sensitivity_at_specificity(~np.asarray(positive, dtype=bool), -np.asarray(scores), sensitivity, weights)


def partial_auroc(
    positive: np.ndarray, scores: np.ndarray, least_tpr: float = 0.8, weights: np.ndarray | None = None
) -> np.ndarray:
    """Area between the ROC curve and the line of a least true positive rate; the metric of ISIC 2024 at 0.8.

    The area left of the curve, int (1 - FPR) dTPR from ``least_tpr`` to 1: 1 - ``least_tpr`` for a perfect order, and
    (1 - ``least_tpr``)^2 / 2 by chance (Kurtansky et al., "The SLICE-3D dataset", Scientific Data 2024). Points of the
    curve are joined by lines, so that ties count half.

    Args:
        positive: (N,) bool.
        scores: (N,) higher means more positive.
        least_tpr: in [0, 1).
        weights: (N,) or (R, N).

    Returns:
        One value, or (R,), in [0, 1 - ``least_tpr``]; NaN where only one of the two kinds has weight.
    """
    if not 0 <= least_tpr < 1:
        raise ValueError(f"least_tpr {least_tpr}: give a share of at least 0 and below 1")
    positives, negatives = by_score(positive, scores, weights)
    missed = divide_or_nan(np.cumsum(positives, axis=-1), positives.sum(axis=-1, keepdims=True))
    right = divide_or_nan(np.cumsum(negatives, axis=-1), negatives.sum(axis=-1, keepdims=True))
    zero = np.zeros((*missed.shape[:-1], 1))
    before = np.concatenate([zero, missed[..., :-1]], axis=-1) if missed.shape[-1] else missed
    low = np.concatenate([zero, right[..., :-1]], axis=-1) if right.shape[-1] else right
    most = 1 - least_tpr
    start, end = np.minimum(before, most), np.minimum(missed, most)
    step = missed - before
    share = np.divide(end - before, step, out=np.zeros_like(step), where=(step > 0) & (end > before))
    area = ((end - start) * (low + 0.5 * share * (right - low))).sum(axis=-1)
    return area if missed.shape[-1] else area * np.nan


def net_benefit(
    positive: np.ndarray, probs: np.ndarray, thresholds: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Net benefit of treating the images whose probability is at or above each threshold.

    TP / n - FP / n * t / (1 - t) (Vickers and Elkin, "Decision curve analysis", Medical Decision Making 2006): a false
    alarm costs what the threshold says of the one who chooses it. Treating all is the same at probabilities of 1,
    treating none is 0. It depends on the share of positive images.

    Args:
        positive: (N,) bool.
        probs: (N,) of being positive.
        thresholds: (K,) in (0, 1).
        weights: (N,) or (R, N).

    Returns:
        (K,) or (R, K), at most the share of positive images; NaN without any weight.

    Raises:
        ValueError: a threshold outside (0, 1), or shapes that do not agree.
    """
    positive, probs, thresholds = np.asarray(positive, dtype=bool), np.asarray(probs), np.asarray(thresholds)
    weights = as_weights(weights, len(probs))
    if positive.shape != probs.shape:
        raise ValueError(f"{positive.shape} labels and {probs.shape} probabilities: give one per label")
    if not ((thresholds > 0) & (thresholds < 1)).all():
        raise ValueError(f"thresholds {thresholds.tolist()}: give shares between 0 and 1, both excluded")
    treated = probs[:, None] >= thresholds
    true, false = weights @ (treated & positive[:, None]), weights @ (treated & ~positive[:, None])
    return divide_or_nan(true - false * thresholds / (1 - thresholds), weights.sum(axis=-1, keepdims=True))


def by_score(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives at each distinct score, ascending: two arrays (..., distinct).

    Arguments as of :func:`auroc`.
    """
    positive, scores = np.asarray(positive, dtype=bool), np.asarray(scores)
    weights = as_weights(weights, len(scores))
    if positive.shape != scores.shape:
        raise ValueError(f"{positive.shape} labels and {scores.shape} scores: give one score per label")
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    if not len(ranked):
        return np.zeros((*weights.shape[:-1], 0)), np.zeros((*weights.shape[:-1], 0))
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sorted_weights, sorted_positive = weights[..., order], positive[order]
    positives = np.add.reduceat(sorted_weights * sorted_positive, starts, axis=-1)
    negatives = np.add.reduceat(sorted_weights * ~sorted_positive, starts, axis=-1)
    return positives, negatives
