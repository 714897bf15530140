"""Calibration errors of probabilities: plain, weighted functions (see ``discrimination`` for the weights).

All are errors: 0 is best. Conventions, stated because each has rivals: the Brier score sums over the classes (range
0 to 2, Brier 1950) and is not halved; ECE uses the confidence of the predicted class only, in 15 bins of equal
width (Guo et al. 2017, equation 3), and takes absolute differences. The adaptive ECE is the same in bins of equal mass,
the class-wise ECE uses every class's probability, not the predicted one's alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from trainers.metrics.weighting import as_labels, as_weights, divide_or_nan, weighted_mean

N_BINS = 15
CLASSES_AT_ONCE = 64  # memory for many classes


@dataclass(frozen=True)
class ReliabilityBins:
    """What the bins of a reliability diagram hold; each array is (..., B), bin b spans (b / B, (b + 1) / B].

    Attributes:
        weight: weighted number of images.
        confidence: mean confidence, NaN in an empty bin.
        accuracy: share that is right, NaN in an empty bin.
    """

    weight: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    def gaps(self) -> np.ndarray:
        """Accuracy minus confidence, 0 in an empty bin: (..., B)."""
        return np.nan_to_num(self.accuracy - self.confidence)

    def shares(self) -> np.ndarray:
        """Share of the images in each bin: (..., B)."""
        return divide_or_nan(self.weight, self.weight.sum(axis=-1, keepdims=True))


def nll(log_probs: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean negative log-likelihood of the true class, in nats per image.

    Args:
        log_probs: (N, C) natural logs of probabilities; logs, because a probability can round to 0.
        labels: (N,) class indices.
        weights: (N,) or (R, N).

    Returns:
        One value, or (R,).
    """
    return weighted_mean(-log_probs[np.arange(len(labels)), labels], weights)


def brier(probs: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Brier score in the multi-class convention: mean over images of sum over classes of (p - y)^2, in [0, 2].

    Args:
        probs: (N, C).
        labels: (N,) class indices.
        weights: (N,) or (R, N).

    Returns:
        One value, or (R,). For two classes it is twice the binary Brier score.
    """
    truth = np.eye(probs.shape[1])[labels]
    return weighted_mean(((probs - truth) ** 2).sum(axis=1), weights)


def reliability_bins(
    confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray | None = None, n_bins: int = N_BINS
) -> ReliabilityBins:
    """Put images into bins of equal width by the confidence of their predicted class.

    Args:
        confidence: (N,) in [0, 1].
        correct: (N,) bool, or a float share.
        weights: (N,) or (R, N).
        n_bins: B.

    Returns:
        The bins, (B,) or (R, B) each.

    Raises:
        ValueError: a confidence outside [0, 1], or lengths that differ.
    """
    confidence, correct = _paired(confidence, correct)
    members = _members(confidence, n_bins)
    weights = as_weights(weights, len(confidence))
    weight = weights @ members
    return ReliabilityBins(
        weight=weight,
        confidence=divide_or_nan(weights @ (members * confidence[:, None]), weight),
        accuracy=divide_or_nan(weights @ (members * correct[:, None]), weight),
    )


def ece(bins: ReliabilityBins) -> np.ndarray:
    """Expected calibration error: the bins' |accuracy - confidence|, weighted by their share of images, in [0, 1]."""
    return (bins.shares() * np.abs(bins.gaps())).sum(axis=-1)


def ece_debiased(bins: ReliabilityBins) -> np.ndarray:
    """ECE less an estimate of what chance alone adds to it.

    |accuracy - confidence| cannot be negative, so noise in a bin's accuracy only ever adds. Kumar, Liang, Ma,
    "Verified Uncertainty Calibration", NeurIPS 2019, in the absolute (l1) case of their reference library: take each
    bin's accuracy as normal with variance acc (1 - acc) / n_b, let the bias be what fresh noise of that size adds to
    the gap that was measured, and subtract it. Their estimator draws that noise; the mean of a folded normal has a
    closed form, used here, so the value does not hang on a seed. Cut off at 0.

    Why not ECE less its floor: that is right for a calibrated model only and takes far too much from one that is not.
    In simulation (1,500 images, true ECE 0.050) the plain ECE averages 0.054, this 0.050, ECE less floor 0.033; for a
    perfectly calibrated model they average 0.022, 0.014 and 0.000, so read a small value beside the floor.

    Args:
        bins: (..., B); empty bins count nothing, a bin of one image is not corrected.

    Returns:
        One value, or (R,), in [0, ECE].
    """
    gaps = np.abs(bins.gaps())
    spread = np.sqrt(np.nan_to_num(divide_or_nan(bins.accuracy * (1 - bins.accuracy), bins.weight)).clip(min=0.0))
    safe = np.where(spread > 0, spread, 1.0)
    folded = safe * np.sqrt(2 / np.pi) * np.exp(-0.5 * (gaps / safe) ** 2) + gaps * erf(gaps / safe / np.sqrt(2))
    bias = np.where(spread > 0, folded - gaps, 0.0)
    return (bins.shares() * (gaps - bias)).sum(axis=-1).clip(min=0.0)


def ece_adaptive(
    confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray | None = None, n_bins: int = N_BINS
) -> np.ndarray:
    """ECE in bins of equal mass: the same number of images in each, so that none hangs on a handful.

    Nguyen & O'Connor, "Posterior calibration and exploratory analysis for natural language processing models", EMNLP
    2015; for the predicted class alone, as ECE is (Nixon et al., "Measuring Calibration in Deep Learning", CVPR
    workshops 2019, use such bins over all classes). Every bin holds exactly 1 / B of the weight: where a bin ends
    within an image, or within images of one confidence, these count on both sides in proportion, so the value hangs
    neither on the order of the images nor on whether an image has weight 2 or stands there twice.

    Args:
        confidence: (N,) in [0, 1] of the predicted class.
        correct: (N,) bool, or a float share.
        weights: (N,) or (R, N).
        n_bins: B.

    Returns:
        One value, or (R,), in [0, 1]; NaN without images.

    Raises:
        ValueError: a confidence outside [0, 1], or lengths that differ.
    """
    confidence, correct = _paired(confidence, correct)
    weights = as_weights(weights, len(confidence))
    if not len(confidence):
        return np.full(weights.shape[:-1], np.nan)
    order = np.argsort(confidence, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(confidence[order]) > 0])
    ordered = np.atleast_2d(weights)[:, order]
    mass = np.add.reduceat(ordered, starts, axis=1).cumsum(axis=1)
    gap = np.add.reduceat(ordered * (correct - confidence)[order], starts, axis=1).cumsum(axis=1)
    total = mass[:, -1:]
    ends = total * np.linspace(0, 1, n_bins + 1)
    # The cumulated gap at the ends of the bins; flat where resampling left images out, which np.interp takes as it is.
    at_ends = np.stack([np.interp(e, np.r_[0.0, m], np.r_[0.0, g]) for e, m, g in zip(ends, mass, gap, strict=True)])
    return divide_or_nan(np.abs(np.diff(at_ends, axis=1)).sum(axis=1), total[:, 0]).reshape(weights.shape[:-1])


def ece_classwise(
    probs: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, n_bins: int = N_BINS
) -> np.ndarray:
    """Mean over all classes of the ECE of "is it this class?" (Kull et al., NeurIPS 2019, section 2: cw-ECE).

    For each class the images are put into bins of equal width by its probability, and each bin's share of images of the
    class is held against the mean probability. A class without images counts too, as in the paper: probability given to
    it is an error. As most images have nearly no probability of a rare class, the mean falls with the number of
    classes; compare it between models of one vocabulary only.

    Args:
        probs: (N, C).
        labels: (N,) class indices.
        weights: (N,) or (R, N).
        n_bins: B.

    Returns:
        One value, or (R,), in [0, 1]; NaN without images.

    Raises:
        ValueError: a probability outside [0, 1], or lengths that differ.
    """
    probs = np.asarray(probs, dtype=np.float64)
    if probs.ndim != 2:
        raise ValueError(f"probabilities have shape {probs.shape}: give (N, C)")
    labels = as_labels(labels, *probs.shape)
    weights = as_weights(weights, len(labels))
    summed = np.zeros(weights.shape[:-1])
    for start in range(0, probs.shape[1], CLASSES_AT_ONCE):
        classes = range(start, min(start + CLASSES_AT_ONCE, probs.shape[1]))
        # One column per bin of each class, (N, 64 B): all resamples in one matrix product.
        gaps = [_members(probs[:, c], n_bins) * ((labels == c) - probs[:, c])[:, None] for c in classes]
        summed += np.abs(weights @ np.concatenate(gaps, axis=1)).sum(axis=-1)
    return divide_or_nan(summed, weights.sum(axis=-1) * probs.shape[1])


def simulated_ece(confidence: np.ndarray, draws: int, seed: int, n_bins: int = N_BINS) -> np.ndarray:
    """ECE that a perfectly calibrated model with these very confidences would show: the floor to read an ECE against.

    Each draw makes every image right with a chance equal to its confidence, independently, and measures the ECE.

    Args:
        confidence: (N,) in [0, 1].
        draws: number of simulated test sets.
        seed: of the random numbers.
        n_bins: B.

    Returns:
        (draws,) ECEs; their mean is the floor.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    members = _members(confidence, n_bins)
    expected = confidence @ members
    rng = np.random.default_rng(seed)
    block = max(1, 4_000_000 // max(len(confidence), 1))
    totals = []
    for start in range(0, draws, block):
        right = rng.random((min(block, draws - start), len(confidence))) < confidence
        totals.append(np.abs(right @ members - expected).sum(axis=1))
    return np.concatenate(totals) / max(len(confidence), 1)


def _paired(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, one per image."""
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if confidence.shape != correct.shape:
        raise ValueError(f"{confidence.shape} confidences and {correct.shape} outcomes: give one outcome per image")
    _check_range(confidence)
    return confidence, correct


def _check_range(confidence: np.ndarray) -> None:
    if len(confidence) and not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-9):
        raise ValueError(f"confidences span {confidence.min()}..{confidence.max()}: give probabilities in [0, 1]")


def _members(confidence: np.ndarray, n_bins: int) -> np.ndarray:
    """(N, B) one-hot membership; bin b is (b / B, (b + 1) / B], the first also takes 0."""
    _check_range(confidence)
    members = np.zeros((len(confidence), n_bins))
    members[np.arange(len(confidence)), np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)] = 1.0
    return members
