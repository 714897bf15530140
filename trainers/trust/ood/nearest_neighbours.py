"""Distance to the k-th nearest known image (Sun, Ming, Zhu, Li, ICML 2022).

Features are scaled to length 1 as in the paper, then projected onto principal components, which the paper does not:
the bank of known images is shipped with the model.
"""

from __future__ import annotations

import numpy as np

from trainers.trust.detectors import OODFit, apply, check
from trainers.trust.ood.projection import MOST, fit_projection, unit_length

NEIGHBOUR = 10
BANK = 10_000  # images; beyond, a seeded sample: 64 dimensions of float32 are 2.5 MB


def fit(
    features: np.ndarray,
    raw_logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    *,
    most: int = MOST,
    k: int = NEIGHBOUR,
) -> OODFit:
    """Fill the bank.

    Args:
        features: (N, D).
        raw_logits: (N, C) or (N, M, C); not looked at.
        labels: (N,); not looked at.
        temperature: not looked at.
        most: upper bound of the dimensions P.
        k: which neighbour. The paper takes 50 of 50,000 and 1,000 of 1.3 million; 10 is small enough for a rare class
            of a lesion set to have that many, and large enough to forget a single odd neighbour. Never above N / 2.

    Returns:
        ``mean`` (D,), ``projection`` (D, P), ``bank`` (B, P); ``k`` and ``dimensions`` P.

    Raises:
        OODFitError: input that cannot be fitted, or features that do not vary.
    """
    features, _ = check(features, raw_logits, labels)
    unit = unit_length(features)
    projection = fit_projection(unit, most)
    bank = projection(unit)
    if len(bank) > BANK:
        bank = bank[np.sort(np.random.default_rng(0).permutation(len(bank))[:BANK])]
    return OODFit(
        settings={"k": max(1, min(k, len(bank) // 2)), "dimensions": int(bank.shape[1])},
        buffers={
            "mean": projection.mean.astype(np.float32),
            "projection": projection.components.astype(np.float32),
            "bank": bank.astype(np.float32),
        },
    )


def score(fit: OODFit, features: np.ndarray, raw_logits: np.ndarray, temperature: float) -> np.ndarray:
    """(N, D) and (N, C) or (N, M, C) -> (N,), higher = more OOD, by the shipped function."""
    return apply("nearest_neighbours", fit, features, raw_logits, temperature)
