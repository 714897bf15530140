"""How well an out-of-distribution score separates ood images from lesions, and the rates at the gate's threshold.

An ood image is the positive case and a higher score is more OOD, throughout:

- ``auroc``: the chance that an ood image scores above a lesion image, ties counting half.
- ``aupr``: average precision with ood images positive; read it beside their share, which is what chance gives.
- ``fpr_at_tpr``: the usual "FPR at 95 % TPR", whose words count lesion images as the positive ones: at the threshold
  that accepts 95 % of the lesion images, the share of ood images that is accepted too. Lower is better.

The functions take weights as those of ``discrimination`` do: (N,) or (R, N), one value or R.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainers.metrics.discrimination import auroc, by_score
from trainers.metrics.intervals import bootstrap_weights, can_resample, exact_by_lesion, lesion_shares, replicate
from trainers.metrics.number import bootstrapped, measured, plain, undefined
from trainers.metrics.weighting import divide_or_nan

TPR = 0.95
CONVENTIONS = {
    "score": "Higher = more out-of-distribution; an image is turned away when its score is above the threshold.",
    "auroc": "Chance that an ood image scores above an image of the split, ties counting half.",
    "aupr": "Average precision, ood images positive; 'share_foreign' is what a score without worth would reach.",
    "fpr_at_95_tpr": "Share of ood images accepted at the threshold that accepts 95 % of the split's images (set "
    "on these very images, unlike the gate's own); lower is better.",
    "bootstrap": "Lesions and ood images are drawn with replacement, each side apart; 95 % percentile.",
    "exact": "Accepted and declined shares: by image; the interval is Clopper-Pearson 95 % over lesions, an ood "
    "image counting as one unless it belongs to a lesion.",
}


def aupr(is_ood: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision, ood images positive: sum over thresholds of precision times the gain in recall.

    Steps, no interpolation, as scikit-learn's ``average_precision_score``. Depends on the share of ood images.

    Args:
        is_ood: (N,) bool, True for an ood image.
        scores: (N,) higher = more OOD.
        weights: (N,) or (R, N).

    Returns:
        One value, or (R,), in [0, 1]; NaN where only one of the two kinds has weight.
    """
    ood, known = by_score(is_ood, scores, weights)
    found, wrong = np.cumsum(ood[..., ::-1], axis=-1), np.cumsum(known[..., ::-1], axis=-1)
    # A score that no image of the resample has gains no recall, so its precision of 0 / 0 may count as 0.
    precision = np.nan_to_num(divide_or_nan(found, found + wrong))
    total = found[..., -1]
    value = divide_or_nan((precision * ood[..., ::-1]).sum(axis=-1), total)
    return np.where(wrong[..., -1] > 0, value, np.nan)


def fpr_at_tpr(
    is_ood: np.ndarray, scores: np.ndarray, tpr: float = TPR, weights: np.ndarray | None = None
) -> np.ndarray:
    """Share of ood images accepted where at least ``tpr`` of the lesion images are; lower is better.

    The threshold is the lowest score up to which that share of lesion images lies; both are accepted up to it.

    Args:
        is_ood: (N,) bool, True for an ood image.
        scores: (N,) higher = more OOD.
        tpr: in (0, 1].
        weights: (N,) or (R, N).

    Returns:
        One value, or (R,), in [0, 1]; NaN where only one of the two kinds has weight.

    Raises:
        ValueError: ``tpr`` outside (0, 1].
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"true positive rate {tpr}: give a share above 0 and at most 1")
    ood, known = by_score(is_ood, scores, weights)
    accepted, passed = np.cumsum(known, axis=-1), np.cumsum(ood, axis=-1)
    total = accepted[..., -1]
    # Weights are counts, so a hair of slack only absorbs the rounding of `tpr * total`.
    at = (accepted >= tpr * total[..., None] - 1e-9).argmax(axis=-1)
    share = divide_or_nan(np.take_along_axis(passed, at[..., None], axis=-1)[..., 0], passed[..., -1])
    return np.where(total > 0, share, np.nan)


def ood_section(
    in_scores: np.ndarray,
    in_groups: np.ndarray,
    ood: Mapping[str, np.ndarray],
    threshold: float,
    *,
    ood_groups: Mapping[str, np.ndarray] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """The gate on a split and on sets of ood images, JSON-ready.

    Args:
        in_scores: (N,) of the split's images, higher = more OOD.
        in_groups: (N,) their lesion group ids.
        ood: name -> (K,) scores of a set of ood images; may be empty.
        threshold: an image is declined when its score is above it.
        ood_groups: name -> (K,) group ids, for sets whose images are not independent (lesions of a class that was
            left out); each image is its own where none are given.
        replicates: bootstrap resamples, of both sides.
        seed: of them.

    Returns:
        ``threshold``, ``conventions``, ``in_distribution`` (n, n_groups, accepted) and ``sets``, one a name: n,
        n_groups, share_foreign, declined, auroc, aupr, fpr_at_95_tpr.

    Raises:
        ValueError: no image in the split, a score that is no finite number, or groups of another length.
    """
    in_scores, in_groups = _checked("the split", in_scores, in_groups)
    if not len(in_scores):
        raise ValueError("the split holds no image: there is nothing to measure the gate on")
    rows = []
    for name, scores in ood.items():
        given = (ood_groups or {}).get(name)
        ood_scores, groups = _checked(name, scores, np.arange(len(scores)) if given is None else given)
        rows.append({"name": name, **_set(in_scores, in_groups, ood_scores, groups, threshold, replicates, seed)})
    return {
        "threshold": plain(threshold),
        "conventions": CONVENTIONS,
        "in_distribution": {
            "n": len(in_scores),
            "n_groups": len(np.unique(in_groups)),
            "accepted": _share(in_scores <= threshold, in_groups),
        },
        "sets": rows,
    }


def _set(
    in_scores: np.ndarray,
    in_groups: np.ndarray,
    ood_scores: np.ndarray,
    groups: np.ndarray,
    threshold: float,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """One set of ood images beside the split's images."""
    names = ("auroc", "aupr", "fpr_at_95_tpr")
    counts = {
        "n": len(ood_scores),
        "n_groups": len(np.unique(groups)),
        "share_foreign": plain(len(ood_scores) / (len(ood_scores) + len(in_scores))),
    }
    if not len(ood_scores):
        return counts | dict.fromkeys(("declined", *names), undefined("no ood image"))
    scores = np.r_[in_scores, ood_scores]
    is_ood = np.arange(len(scores)) >= len(in_scores)
    # A group id may occur on both sides; they are drawn apart.
    units = np.r_[np.char.add("in ", in_groups), np.char.add("out ", groups)]

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "auroc": auroc(is_ood, scores, weights),
            "aupr": aupr(is_ood, scores, weights),
            "fpr_at_95_tpr": fpr_at_tpr(is_ood, scores, TPR, weights),
        }

    point = statistic(np.ones((1, len(scores))))
    spread = None
    if can_resample(units, is_ood.astype(int)):
        spread = replicate(statistic, bootstrap_weights(units, is_ood.astype(int), replicates, seed))
    return counts | {
        "declined": _share(ood_scores > threshold, groups),
        **{name: bootstrapped(float(point[name][0]), None if spread is None else spread[name]) for name in names},
    }


def _share(hits: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """A share of images, with the exact interval by lesion group and the share by group."""
    found = measured(float(hits.mean()), *exact_by_lesion(hits, groups), "exact 95 % by lesion")
    right, lesions = lesion_shares(hits, groups)
    return found | {"by_lesion": plain(right / lesions)}


def _checked(name: str, scores: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores, groups = np.asarray(scores, dtype=np.float64), np.asarray(groups).astype(str)
    if scores.ndim != 1 or scores.shape != groups.shape:
        raise ValueError(f"{name}: {scores.shape} scores and {groups.shape} groups: give one group id per score")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).sum())
        raise ValueError(f"{name}: {bad} of {len(scores)} scores are NaN or infinite: predict them again")
    return scores, groups
