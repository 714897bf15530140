"""Largest probability: an image is strange when no class is probable (Hendrycks & Gimpel, ICLR 2017).

The baseline. It also turns away lesions that are merely hard, which lie between two classes.
"""

from __future__ import annotations

import numpy as np

from trainers.trust.detectors import OODFit, apply, check


def fit(features: np.ndarray, raw_logits: np.ndarray, labels: np.ndarray, temperature: float) -> OODFit:
    """Nothing is fitted; the input is checked as for the other detectors.

    Args:
        features: (N, D).
        raw_logits: (N, C) or (N, M, C).
        labels: (N,).
        temperature: T > 0.

    Raises:
        OODFitError: input that no detector can be fitted on.
    """
    check(features, raw_logits, labels)
    return OODFit()


def score(fit: OODFit, features: np.ndarray, raw_logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N, D) and (N, C) or (N, M, C) -> (N,), higher = more OOD, by the shipped function."""
    return apply("max_softmax", fit, features, raw_logits, temperature)
