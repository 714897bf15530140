"""Scores of calibration images by statistics that never saw them, and the threshold that follows.

An image lies nearer to a mean, a covariance or a bank that it was itself part of: with 700 images in 64 dimensions the
95 % quantile of such scores is far too low, and a threshold there would decline many more than 5 % of new lesions. So
the calibration half is dealt into folds by lesion group; the score of an image comes from the other folds' statistics.
The model then carries statistics of the whole half, which cover a little more: it accepts a little more than its
setting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainers.metrics.intervals import group_strata
from trainers.trust.detectors import OODFit, OODFitError, check, fit_of, score

FOLDS = 5
# Images that a source needs to be left out by itself, and that the others then need together.
LEAST_OF_SOURCE = 20


@dataclass(frozen=True)
class CrossFit:
    """One detector, fitted once without each fold.

    Attributes:
        detector: its name.
        fold: (N,) fold of each image, the same for the images of a group.
        fits: one per fold, on the images of all others.
        temperature: T > 0.
    """

    detector: str
    fold: np.ndarray
    fits: list[OODFit]
    temperature: float

    def score(self, features: np.ndarray, raw_logits: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Score images, each by the fit that never saw it.

        Args:
            features: (K, D).
            raw_logits: (K, C) or (K, M, C).
            rows: (K,) number of the calibration image that each one is, or was made from; None = all, in order.

        Returns:
            (K,), higher = more OOD.
        """
        fold = self.fold if rows is None else self.fold[rows]
        scores = np.empty(len(fold))
        for number, fitted in enumerate(self.fits):
            mine = fold == number
            scores[mine] = score(self.detector, fitted, features[mine], raw_logits[mine], self.temperature)
        return scores


def deal_folds(groups: np.ndarray, labels: np.ndarray, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Deal groups into folds, class by class, so that a class with two groups is never absent from a fit.

    Args:
        groups: (N,) group ids.
        labels: (N,) class indices; a group is of its commonest class.
        folds: at most; fewer where there are fewer groups.
        seed: of the order in which they are dealt.

    Returns:
        (N,) fold in [0, folds), equal for the images of one group.

    Raises:
        OODFitError: fewer than two folds or groups.
    """
    if folds < 2:
        raise OODFitError(f"{folds} folds: give at least 2")
    index, strata = group_strata(groups, labels)
    if len(strata) < 2:
        raise OODFitError(f"{len(strata)} lesion groups: a threshold needs images of at least two lesions")
    order = np.random.default_rng(seed).permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    fold = np.empty(len(strata), dtype=int)
    fold[order] = np.arange(len(strata)) % min(folds, len(strata))
    return fold[index]


def cross_fit(
    detector: str,
    features: np.ndarray,
    raw_logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    temperature: float,
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> CrossFit:
    """Fit a detector once without each fold of lesion groups.

    Args:
        detector: its name.
        features: (N, D).
        raw_logits: (N, C) or (N, M, C).
        labels: (N,).
        groups: (N,) lesion group ids.
        temperature: T > 0.
        folds: at most.
        seed: of the dealing.

    Raises:
        UnknownDetectorError: there is no such detector.
        OODFitError: input that cannot be fitted.
    """
    fit = fit_of(detector)
    check(features, raw_logits, labels)
    labels = np.asarray(labels)
    fold = deal_folds(groups, labels, folds, seed)
    fits = []
    for number in range(int(fold.max()) + 1):
        others = fold != number
        fits.append(fit(features[others], raw_logits[others], labels[others], temperature))
    return CrossFit(detector, fold, fits, temperature)


def held_out_scores(
    detector: str,
    features: np.ndarray,
    raw_logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    temperature: float,
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> np.ndarray:
    """Scores (N,) of calibration images, each by a fit that saw neither it nor its group; see :func:`cross_fit`."""
    fitted = cross_fit(detector, features, raw_logits, labels, groups, temperature, folds=folds, seed=seed)
    return fitted.score(features, raw_logits)


def threshold_at(scores: np.ndarray, acceptance: float = 0.95) -> float:
    """The score up to which images are accepted: the ceil((n + 1) * acceptance)-th smallest held-out one.

    A new image like them is then accepted with a chance of at least ``acceptance`` (as with conformal p-values for
    outliers: Bates et al., Annals of Statistics 51, 2023), up to what folds cost. Every image weighs the same, because
    users score images; intervals beside it are by lesion.

    Args:
        scores: (N,) held out, higher = more OOD.
        acceptance: in (0, 1).

    Returns:
        The threshold; an image is ood when its score is above it.

    Raises:
        OODFitError: acceptance outside (0, 1), or too few scores for it.
    """
    if not 0 < acceptance < 1:
        raise OODFitError(f"acceptance {acceptance}: give a share between 0 and 1, such as 0.95")
    scores = np.sort(np.asarray(scores, dtype=np.float64))
    # 20 * 0.95 is 19.000000000000004: a hair of slack keeps a whole number whole.
    rank = math.ceil((len(scores) + 1) * acceptance - 1e-9)
    if rank > len(scores):
        need = math.ceil(acceptance / (1 - acceptance) - 1e-9)
        raise OODFitError(
            f"{len(scores)} calibration images cannot show an acceptance of {acceptance:g}: give at least {need}, or a "
            "lower acceptance"
        )
    return float(scores[rank - 1])


def comparable_sources(sources: np.ndarray, labels: np.ndarray, least: int = LEAST_OF_SOURCE) -> dict[str, np.ndarray]:
    """The sources on which a gate that was fitted on the others can be evaluated, and the images that are compared.

    An image is compared where another source has images of its class too: a source whose classes no other source has
    differs from them by more than its camera.

    Args:
        sources: (N,) name of the source of each image.
        labels: (N,) class indices.
        least: compared images that a source needs.

    Returns:
        Source -> (N,) bool, its compared images; empty where fewer than two sources have enough of them.
    """
    sources, labels = np.asarray(sources).astype(str), np.asarray(labels)
    found = {}
    for name in np.unique(sources):
        mine = sources == name
        compared = mine & np.isin(labels, labels[~mine])
        if compared.sum() >= least:
            found[str(name)] = compared
    return found if len(found) > 1 else {}


def threshold_of_sources(scores: np.ndarray, compared: Mapping[str, np.ndarray], acceptance: float = 0.95) -> float:
    """The score up to which images are accepted, such that each source keeps the acceptance, however few its images.

    The largest of :func:`threshold_at` of all images and of each source alone; a source of fewer images than the
    acceptance needs counts with its largest score.

    Args:
        scores: (N,) held out, higher = more OOD.
        compared: source -> (N,) bool, its images; empty = one source.
        acceptance: in (0, 1).

    Raises:
        OODFitError: as :func:`threshold_at`, for all images.
    """
    found = [threshold_at(scores, acceptance)]
    for rows in compared.values():
        n = int(rows.sum())
        found.append(threshold_at(scores[rows], min(acceptance, n / (n + 1))))
    return max(found)
