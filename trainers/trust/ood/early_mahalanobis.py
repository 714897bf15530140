"""Mahalanobis distance of what an early layer sees: means and deviations of its channels over the image.

The last features of a classifier keep what tells its classes apart and may forget the rest: those of a two-class
ensemble put clothes among the lesions. An early layer knows colours, edges and textures, in which foreign and spoilt
images differ; it does not know a rare lesion from a common one. Which depth is best differs with what is strange
(Anthony & Kamnitsas, UNSURE 2023), so this detector stands beside the others and is chosen as they are.
"""

from __future__ import annotations

import numpy as np

from trainers.trust.detectors import OODFit, apply
from trainers.trust.ood import mahalanobis


def fit(early: np.ndarray, raw_logits: np.ndarray, labels: np.ndarray, temperature: float) -> OODFit:
    """Fit projection, class means and shared covariance, as ``mahalanobis.fit`` does.

    Args:
        early: (N, E) statistics by ``hub_models.ood_lesion.channel_statistics``, in the place of the features.
        raw_logits: (N, C) or (N, M, C); not looked at.
        labels: (N,) class indices.
        temperature: not looked at.

    Raises:
        OODFitError: input that cannot be fitted, or statistics that do not vary.
    """
    return mahalanobis.fit(early, raw_logits, labels, temperature)


def score(fit: OODFit, early: np.ndarray, raw_logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N, E) and (N, C) or (N, M, C) -> (N,), higher = more OOD, by the shipped function."""
    return apply("early_mahalanobis", fit, early, raw_logits, temperature)
