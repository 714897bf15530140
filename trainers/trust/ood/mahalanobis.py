"""Mahalanobis distance to the nearest class (Lee, Lee, Lee, Shin, NeurIPS 2018), with a shrunk covariance.

One mean a class and one covariance for all, of the principal components of the last features. The covariance is that of
Ledoit & Wolf (Journal of Multivariate Analysis 88, 2004), which stays invertible with few images. Unlike the paper:

- Features are scaled to length 1 first (Müller & Hein, "Mahalanobis++", ICML 2025). Their lengths can differ twentyfold
  between the sources of one dataset, and then a few long ones make up the whole covariance.
- No noise is added to the image and no other layer is looked at, so that one forward pass is enough.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cholesky
from sklearn.covariance import LedoitWolf

from trainers.trust.detectors import OODFit, OODFitError, apply, check
from trainers.trust.ood.projection import MOST, NEGLIGIBLE, fit_projection, unit_length


def fit(
    features: np.ndarray, raw_logits: np.ndarray, labels: np.ndarray, temperature: float, *, most: int = MOST
) -> OODFit:
    """Fit projection, class means and shared covariance.

    Args:
        features: (N, D).
        raw_logits: (N, C) or (N, M, C); not looked at.
        labels: (N,) class indices; a class without an image has no mean.
        temperature: not looked at.
        most: upper bound of the dimensions P.

    Returns:
        ``mean`` (D,), ``projection`` (D, P) whitened by the covariance, ``class_means`` (K, P) of the K classes that
        occur; ``dimensions`` P and the ``shrinkage`` found, in [0, 1].

    Raises:
        OODFitError: input that cannot be fitted, or features that do not vary, or not within any class.
    """
    features, _ = check(features, raw_logits, labels)
    labels = np.asarray(labels)
    unit = unit_length(features)
    projection = fit_projection(unit, most)
    coordinates = projection(unit)
    present, index = np.unique(labels, return_inverse=True)
    means = np.stack([coordinates[index == k].mean(axis=0) for k in range(len(present))])
    within = coordinates - means[index]
    if not np.abs(within).max() > NEGLIGIBLE * np.abs(coordinates).max():
        raise OODFitError(
            f"the features of {len(features)} images of {len(present)} classes do not vary within any class: a "
            "covariance needs a class of two unlike images"
        )
    shrunk = LedoitWolf(assume_centered=True).fit(within)
    # distance^2 = d' precision d = |d L|^2 with precision = L L'
    whitening = cholesky(shrunk.precision_, lower=True)
    return OODFit(
        settings={"dimensions": int(whitening.shape[0]), "shrinkage": float(shrunk.shrinkage_)},
        buffers={
            "mean": projection.mean.astype(np.float32),
            "projection": (projection.components @ whitening).astype(np.float32),
            "class_means": (means @ whitening).astype(np.float32),
        },
    )


def score(fit: OODFit, features: np.ndarray, raw_logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N, D) and (N, C) or (N, M, C) -> (N,), higher = more OOD, by the shipped function."""
    return apply("mahalanobis", fit, features, raw_logits, temperature)
