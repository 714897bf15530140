"""Weighted conformal prediction under covariate shift, with density ratios from a classifier.

Where the new images differ from the calibration images by their features x alone, and P(class | x) is the same, the
calibration scores are weighted by w(x) = dP_new / dP_calibration (Tibshirani, Barber, Candes, Ramdas, "Conformal
Prediction Under Covariate Shift", NeurIPS 2019): the threshold of an image x is the 1 - alpha quantile of the scores
with probabilities w(x_i) / (sum_j w(x_j) + w(x)) and infinity with w(x) / (sum_j w(x_j) + w(x)) (their equation 7).

The ratio is estimated by a probabilistic classifier of new against calibration images, w(x) = p / (1 - p) times
n_calibration / n_new (their section 2.3): a logistic regression on the leading principal components, its penalty chosen
by cross-validation, and each calibration image weighted by a fit that did not see it. Nothing here shows that P(class |
x) is the same; where it is not, the weights do not help.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trainers.trust.conformal import least_n

FOLDS = 5
PENALTIES = (0.001, 0.01, 0.1, 1.0)
# Principal components, at most, and images of the smaller sample for each.
COMPONENTS, IMAGES_EACH = 32, 10
# Effective calibration images for each that an unweighted quantile needs: with fewer the threshold is mostly chance.
LEAST_TIMES = 3


class WeightError(ValueError):
    """The new images overlap too little with the calibration images for a weighted promise."""


@dataclass(frozen=True)
class Ratios:
    """Estimated density ratios.

    Attributes:
        calibration: (n,) of the calibration images, by fits without them; their mean is 1.
        new: (m,) of the new images, on the same scale.
        effective: effective sample size of the calibration images, ``(sum w)^2 / sum w^2`` (Kish 1965), in [1, n].
        auroc: of the classifier on images that it did not see, 0.5 without a shift.
    """

    calibration: np.ndarray
    new: np.ndarray
    effective: float
    auroc: float


def density_ratios(calibration: np.ndarray, new: np.ndarray, seed: int = 0) -> Ratios:
    """Estimate dP_new / dP_calibration at every image, by fits that did not see it.

    Args:
        calibration: (n, D) features (or logits) of calibration images, one per lesion.
        new: (m, D) of new images, without labels.
        seed: of the folds.

    Raises:
        ValueError: fewer than ``FOLDS`` images in a sample, or shapes that do not agree.
    """
    n, m = len(calibration), len(new)
    if min(n, m) < FOLDS or calibration.shape[1:] != new.shape[1:]:
        raise ValueError(f"features of shape {calibration.shape} and {new.shape}: give ({FOLDS} or more, D) of both")
    features = np.concatenate([calibration, new]).astype(np.float64)
    is_new = np.r_[np.zeros(n, dtype=int), np.ones(m, dtype=int)]
    width = max(1, min(COMPONENTS, features.shape[1], min(n, m) // IMAGES_EACH))
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, is_new))
    held_out = {penalty: _held_out(features, is_new, folds, penalty, width) for penalty in PENALTIES}
    losses = {penalty: _loss(log_odds, is_new) for penalty, log_odds in held_out.items()}
    log_odds = held_out[min(losses, key=lambda penalty: losses[penalty])]
    weights = np.exp(np.clip(log_odds, -30, 30)) * n / m
    scale = weights[:n].mean()
    return Ratios(weights[:n] / scale, weights[n:] / scale, effective_size(weights[:n]), _auroc(log_odds, is_new))


def effective_size(weights: np.ndarray) -> float:
    """``(sum w)^2 / sum w^2``, in [1, n]: as many unweighted images give an estimate of the same variance."""
    weights = np.asarray(weights, dtype=np.float64)
    return float(weights.sum() ** 2 / (weights**2).sum())


def check_effective(effective: float, alpha: float) -> None:
    """Refuse weights that leave too few calibration images.

    Raises:
        WeightError: fewer effective images than ``LEAST_TIMES`` times those of an unweighted quantile.
    """
    needed = LEAST_TIMES * least_n(alpha)
    if effective < needed:
        raise WeightError(
            f"the new images overlap with {effective:.0f} effective calibration images, and alpha {alpha:g} needs "
            f"{needed}: label some local lesions and recalibrate"
        )


def weighted_quantile(scores: np.ndarray, weights: np.ndarray, own_weight: np.ndarray, alpha: float) -> np.ndarray:
    """The threshold of each image (Tibshirani et al. 2019, equation 7).

    Args:
        scores: (n,) conformal scores of the true classes of calibration images.
        weights: (n,) their density ratios.
        own_weight: (m,) the ratios of the images that get a threshold.
        alpha: share of sets that may miss the truth, in (0, 1).

    Returns:
        (m,), infinite where the image's own weight is above a share alpha.

    Raises:
        ValueError: alpha outside (0, 1), lengths that differ, or weights that are negative.
    """
    scores, weights, own = (np.asarray(values, dtype=np.float64) for values in (scores, weights, own_weight))
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha}: give a share above 0 and below 1, such as 0.1")
    if scores.shape != weights.shape or scores.ndim != 1 or (weights < 0).any() or (own < 0).any():
        raise ValueError(f"scores {scores.shape} and weights {weights.shape}: give (n,) of each, weights of at least 0")
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(weights[order])
    wanted = (1 - alpha) * (weights.sum() + own)
    # A hair of slack: sums of equal weights must reach a whole number.
    place = np.searchsorted(reached, wanted * (1 - 1e-12), side="left")
    return np.where(place < len(scores), np.r_[scores[order], math.inf][np.minimum(place, len(scores))], math.inf)


def _held_out(features: np.ndarray, is_new: np.ndarray, folds: list, penalty: float, width: int) -> np.ndarray:
    """(N,) log odds of being new, each image by the fit without its fold."""
    log_odds = np.empty(len(features))
    for inside, outside in folds:
        model = make_pipeline(
            StandardScaler(), PCA(width, random_state=0), StandardScaler(), LogisticRegression(C=penalty, max_iter=500)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[inside], is_new[inside])
        prior = math.log(is_new[inside].sum() / (len(inside) - is_new[inside].sum()))
        log_odds[outside] = model.decision_function(features[outside]) - prior
    return log_odds + math.log(is_new.sum() / (len(is_new) - is_new.sum()))


def _loss(log_odds: np.ndarray, is_new: np.ndarray) -> float:
    return float(np.logaddexp(0, np.where(is_new == 1, -log_odds, log_odds)).mean())


def _auroc(log_odds: np.ndarray, is_new: np.ndarray) -> float:
    from trainers.metrics.discrimination import auroc

    return float(auroc(is_new.astype(bool), log_odds))
