"""The ISIC 2017 challenge's own measures (part 3): three AUCs, and melanoma recall at a stated threshold.

Two binary tasks are evaluated on one three-class answer: task 1 is melanoma against the rest, task 2 seborrheic
keratosis against the rest; a submission is ranked by the mean of their AUCs. Challenge: Codella et al. 2018, "Skin
lesion analysis toward melanoma detection", ISBI, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainers.evaluation.sample import Sample
from trainers.metrics.discrimination import auroc
from trainers.metrics.intervals import exact_by_lesion, replicate
from trainers.metrics.number import bootstrapped, measured, undefined

MELANOMA, NEVUS = "mel", "nv"
# bkl holds seborrheic keratosis, solar lentigo and lichenoid keratosis: HAM10000's nearest class, a stand-in.
KERATOSES = ("sk", "bkl")
AUCS = ("auc_melanoma", "auc_keratosis", "auc_mean")
THRESHOLD = 0.5


def task_columns(labels: Sequence[str]) -> tuple[int, int] | None:
    """Columns of melanoma and of (what stands for) seborrheic keratosis; None where the task is another.

    Args:
        labels: short class names in the order of the probabilities.
    """
    for keratosis in KERATOSES:
        if sorted(labels) == sorted((MELANOMA, NEVUS, keratosis)):
            return list(labels).index(MELANOMA), list(labels).index(keratosis)
    return None


def challenge_aucs(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The three numbers that the challenge ranks by.

    Args:
        truth: (N, 2) bool, task 1 (melanoma) and task 2 (seborrheic keratosis).
        scores: (N, 2), higher = more of it.
        weights: (N,) or (R, N) counts.

    Returns:
        ``auc_melanoma``, ``auc_keratosis`` and their mean ``auc_mean``, each one value or (R,) in [0, 1]; NaN where a
        task has one kind of image only, and then the mean is NaN too.

    Raises:
        ValueError: not two columns each, or lengths that differ.
    """
    truth, scores = np.asarray(truth, dtype=bool), np.asarray(scores, dtype=np.float64)
    if truth.ndim != 2 or truth.shape[1] != 2 or truth.shape != scores.shape:
        raise ValueError(f"truth has shape {truth.shape} and scores {scores.shape}; expected (N, 2) for both")
    one, two = (auroc(truth[:, task], scores[:, task], weights) for task in (0, 1))
    return {"auc_melanoma": one, "auc_keratosis": two, "auc_mean": (one + two) / 2}


def roc_points(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve: one point for each distinct score as a threshold, and (0, 0) above them all.

    Args:
        positive: (N,) bool, of both kinds.
        scores: (N,); an image is called positive when its score is at or above the threshold.

    Returns:
        False positive rates and true positive rates, ascending, each (distinct scores + 1,).

    Raises:
        ValueError: images of one kind only.
    """
    positive, scores = np.asarray(positive, dtype=bool), np.asarray(scores, dtype=np.float64)
    if positive.all() or not positive.any():
        raise ValueError(f"{int(positive.sum())} of {len(positive)} images are positive: give both kinds")
    order = np.argsort(-scores, kind="stable")
    last = np.r_[scores[order][1:] != scores[order][:-1], True]
    hits, alarms = np.cumsum(positive[order])[last], np.cumsum(~positive[order])[last]
    return np.r_[0.0, alarms / alarms[-1]], np.r_[0.0, hits / hits[-1]]


def decision(called: np.ndarray, melanoma: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Recall and specificity of calling melanoma, each with an exact interval over lesions.

    Args:
        called: (N,) bool, called melanoma.
        melanoma: (N,) bool, is melanoma.
        groups: (N,) lesion group ids.
    """
    found = {}
    for name, rows, right in (("recall", melanoma, called), ("specificity", ~melanoma, ~called)):
        if not rows.any():
            found[name] = undefined("no melanoma image" if name == "recall" else "every image is melanoma")
            continue
        interval = exact_by_lesion(right[rows], groups[rows])
        found[name] = measured(float(right[rows].mean()), *interval, "exact 95 % by lesion")
    return found


def measure(
    truth: np.ndarray, scores: np.ndarray, groups: np.ndarray, resamples: np.ndarray | None, threshold: float
) -> dict[str, Any]:
    """AUCs with bootstrap intervals, and the decision at a threshold; see :func:`challenge_aucs` for the arrays.

    Args:
        truth: (N, 2) bool.
        scores: (N, 2).
        groups: (N,) lesion group ids.
        resamples: (R, N) counts, or None where the sample cannot be resampled.
        threshold: an image is called melanoma when its score is at or above it.
    """
    point = challenge_aucs(truth, scores)
    spread = None if resamples is None else replicate(lambda w: challenge_aucs(truth, scores, w), resamples)
    numbers: dict[str, Any] = {}
    for name in AUCS:
        if np.isnan(point[name]):
            numbers[name] = undefined("images of one kind only")
        else:
            numbers[name] = bootstrapped(float(point[name]), None if spread is None else spread[name])
    numbers["threshold"] = threshold
    numbers["at_threshold"] = decision(scores[:, 0] >= threshold, truth[:, 0], groups)
    return numbers


def section(sample: Sample, labels: Sequence[str], resamples: np.ndarray | None) -> dict[str, Any] | None:
    """The challenge's part of a split's report; None where the classes are not the challenge's.

    Args:
        sample: the split at its temperature.
        labels: short class names in the order of the probabilities.
        resamples: (R, N) counts of the bootstrap, or None.
    """
    columns = task_columns(labels)
    if columns is None:
        return None
    truth = np.stack([sample.labels == column for column in columns], axis=1)
    return {
        "melanoma": labels[columns[0]],
        "keratosis": labels[columns[1]],
        "images": {"melanoma": int(truth[:, 0].sum()), "keratosis": int(truth[:, 1].sum())},
        **measure(truth, sample.probs[:, list(columns)], sample.groups, resamples, THRESHOLD),
        "at_argmax": decision(sample.predicted == columns[0], truth[:, 0], sample.groups),
    }
