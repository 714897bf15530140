"""Principal components: the few directions along which the features of known images vary most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh

from trainers.trust.detectors import OODFitError

MOST = 64  # dimensions; keeps a released ensemble small and a covariance well determined
NEGLIGIBLE = 1e-10  # of the largest variance


@dataclass(frozen=True)
class Projection:
    """A centred projection ``(features - mean) @ components``.

    Attributes:
        mean: (D,) mean of the features it was fitted on.
        components: (D, P) orthonormal columns, the direction of the largest variance first.
    """

    mean: np.ndarray
    components: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features (N, D) -> coordinates (N, P)."""
        return (features - self.mean) @ self.components


def unit_length(features: np.ndarray) -> np.ndarray:
    """Features (N, D), each scaled to Euclidean length 1; one of length 0 stays 0. As torch's ``normalize`` does."""
    return features / np.linalg.norm(features, axis=1, keepdims=True).clip(min=1e-12)


def fit_projection(features: np.ndarray, most: int = MOST) -> Projection:
    """Principal components of the features: at most ``min(most, N - 1, D)``, fewer where the variance runs out.

    Args:
        features: (N, D), finite.
        most: upper bound of P.

    Returns:
        The projection; the sign of a column is such that its largest entry is positive.

    Raises:
        OODFitError: fewer than two images, or features that are the same on all of them.
    """
    features = np.asarray(features, dtype=np.float64)
    n, width = features.shape
    if n < 2:
        raise OODFitError(f"{n} images: principal components need at least two")
    mean = features.mean(axis=0)
    centred = features - mean
    kept = min(most, n - 1, width)
    # Eigenvectors of the smaller of covariance (D, D) and inner products (N, N): both give the same components.
    small = centred @ centred.T if n < width else centred.T @ centred
    values, vectors = eigh(small, subset_by_index=(len(small) - kept, len(small) - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    if not values[0] > (NEGLIGIBLE * np.abs(features).max()) ** 2:
        raise OODFitError(f"the {width} features are the same on all {n} images: the model looks at nothing")
    vectors = vectors[:, values > NEGLIGIBLE * values[0]]
    if n < width:
        vectors = centred.T @ vectors
        vectors /= np.linalg.norm(vectors, axis=0)
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return Projection(mean, vectors * np.sign(largest))
