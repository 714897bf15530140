"""Virtual logit of what the principal space does not explain (Wang, Li, Feng, Zhang, "ViM", CVPR 2022).

Unlike the paper: features are centred at their mean rather than at the point where the head's logits vanish, for the
predictions know no head (and an ensemble has several); the space has at most 64 dimensions.
"""

from __future__ import annotations

import numpy as np

from trainers.trust.detectors import OODFit, apply, check
from trainers.trust.ood.projection import MOST, fit_projection


def fit(
    features: np.ndarray, raw_logits: np.ndarray, labels: np.ndarray, temperature: float, *, most: int = MOST
) -> OODFit:
    """Fit the principal space and the scale of the virtual logit.

    Args:
        features: (N, D).
        raw_logits: (N, C) or (N, M, C).
        labels: (N,); not looked at.
        temperature: not looked at.
        most: upper bound of the dimensions P; also at most half of N and of D, so that something is left outside.

    Returns:
        ``mean`` (D,), ``projection`` (D, P); ``alpha`` and ``dimensions`` P. ``alpha`` (equation 6) makes the virtual
        logit on average as large as the largest logit, by its absolute value, so that a residual never speaks for a
        image; 0 where nothing lies outside the space.

    Raises:
        OODFitError: input that cannot be fitted, or features that do not vary.
    """
    features, logits = check(features, raw_logits, labels)
    projection = fit_projection(features, max(1, min(most, len(features) // 2, features.shape[1] // 2)))
    centred = features - projection.mean
    residual = np.linalg.norm(centred - (centred @ projection.components) @ projection.components.T, axis=1).mean()
    length = np.linalg.norm(centred, axis=1).mean()
    alpha = abs(logits.max(axis=-1).mean()) / residual if residual > 1e-6 * length else 0.0
    return OODFit(
        settings={"alpha": float(alpha), "dimensions": int(projection.components.shape[1])},
        buffers={
            "mean": projection.mean.astype(np.float32),
            "projection": projection.components.astype(np.float32),
        },
    )


def score(fit: OODFit, features: np.ndarray, raw_logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N, D) and (N, C) or (N, M, C) -> (N,), higher = more OOD, by the shipped function."""
    return apply("vim", fit, features, raw_logits, temperature)
