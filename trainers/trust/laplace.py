"""Last-layer Laplace approximation: how far a linear head is settled by its training data, from features alone.

The head's weights have the posterior N(W, (n A (x) B + tau I)^-1): A the mean outer product of the features (with a 1
for the bias), B the mean of diag(p) - p p', both of images like the n that the head was trained on (the generalised
Gauss-Newton matrix in its Kronecker form: Ritter, Botev, Barber 2018; Daxberger et al. 2021, "Laplace Redux"). The
logits of an image are then Gaussian around its own; the softmax of f_k / sqrt(1 + pi / 8 var_k) approximates the mean
probability (MacKay 1992; Kristiadi, Hein, Hennig 2020, "Being Bayesian, Even Just a Bit, Fixes Overconfidence"). The
labels are needed for the prior precision tau alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, softmax

PRECISIONS = np.logspace(-4, 6, 41)


@dataclass(frozen=True)
class LaplaceFit:
    """A fitted posterior of a head with D features and C classes.

    Attributes:
        weight: (C, D + 1), the bias last.
        of_features: eigenvalues (D + 1,) of A, and eigenvectors (D + 1, D + 1) in columns.
        of_classes: eigenvalues (C,) of B, and eigenvectors (C, C) in columns.
        n: images that the head was trained on.
        precision: tau, of the prior.
    """

    weight: np.ndarray
    of_features: tuple[np.ndarray, np.ndarray]
    of_classes: tuple[np.ndarray, np.ndarray]
    n: int
    precision: float

    def variances(self, features: np.ndarray) -> np.ndarray:
        """Variance of each logit: features (N, D) -> (N, C), above 0."""
        return self._variances(with_one(features), self.precision)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits whose softmax is the approximate mean probability: features (N, D) -> (N, C)."""
        with_bias = with_one(features)
        return with_bias @ self.weight.T / np.sqrt(1 + np.pi / 8 * self._variances(with_bias, self.precision))

    def _variances(self, with_bias: np.ndarray, precision: float) -> np.ndarray:
        (a, u), (b, v) = self.of_features, self.of_classes
        along = np.square(with_bias @ u) @ (1 / (self.n * np.outer(a, b) + precision))
        return along @ np.square(v).T


def fit_laplace(features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray, n: int) -> LaplaceFit:
    """Fit the posterior of a trained head.

    Args:
        features: (N, D) of images like those of the training.
        labels: (N,) their classes, by which the prior precision is chosen: the least negative log-likelihood.
        weight: (C, D) of the head.
        bias: (C,).
        n: images that the head was trained on.

    Raises:
        ValueError: no image, or shapes that do not agree.
    """
    features, weight = np.asarray(features, dtype=np.float64), np.asarray(weight, dtype=np.float64)
    if features.ndim != 2 or not len(features) or weight.shape != (len(bias), features.shape[1]) or n < 1:
        raise ValueError(
            f"features {features.shape}, weight {weight.shape}, bias ({len(bias)},) and {n} training images: give "
            "(N, D), (C, D), (C,) and at least one image of each"
        )
    with_bias, whole = with_one(features), np.column_stack([weight, bias])
    raw = with_bias @ whole.T
    p = softmax(raw, axis=1)
    spread = np.diag(p.mean(axis=0)) - p.T @ p / len(p)
    a, u = np.linalg.eigh(with_bias.T @ with_bias / len(features))
    b, v = np.linalg.eigh(spread)
    fit = LaplaceFit(whole, (a.clip(min=0), u), (b.clip(min=0), v), n, 1.0)
    rows = np.arange(len(labels))
    losses = []
    for precision in PRECISIONS:
        scaled = raw / np.sqrt(1 + np.pi / 8 * fit._variances(with_bias, precision))
        losses.append(-log_softmax(scaled, axis=1)[rows, labels].mean())
    return LaplaceFit(whole, fit.of_features, fit.of_classes, n, float(PRECISIONS[int(np.argmin(losses))]))


def with_one(features: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, D + 1) float64, a 1 last."""
    return np.column_stack([np.asarray(features, dtype=np.float64), np.ones(len(features))])
