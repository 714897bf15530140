"""Out-of-distribution detectors: one ``fit_...`` function each, named in ``DETECTORS``.

Their scores are the shipped functions of ``hub_models.ood_lesion``, so that what is fitted is what is applied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.linalg import cholesky, eigh
from sklearn.covariance import LedoitWolf

from hub_models.ood_lesion import EARLY, UnknownDetectorError, ood_score
from trainers.metrics.weighting import check_values

BATCH = 512
MOST = 64  # dimensions; keeps a released ensemble small and a covariance well determined
NEGLIGIBLE = 1e-10  # of the largest variance
NEIGHBOUR = 10
BANK = 10_000  # images; beyond, a seeded sample: 64 dimensions of float32 are 2.5 MB


class OODFitError(ValueError):
    """Features, logits or labels from which an out-of-distribution detector cannot be fitted."""


@dataclass(frozen=True)
class OODFit:
    """A fitted detector.

    Attributes:
        settings: its numbers, for ``config.trust``.
        buffers: its matrices, float32, for the model's buffers.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    buffers: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.buffers.items():
            if values.dtype != np.float32 or not np.isfinite(values).all():
                raise OODFitError(f"buffer {name!r} is of type {values.dtype} or not finite: give finite float32")

    @property
    def n_bytes(self) -> int:
        """Size of the buffers in bytes."""
        return sum(values.nbytes for values in self.buffers.values())


def score(name: str, fit: OODFit, features: np.ndarray, raw_logits: np.ndarray, temperature: float) -> np.ndarray:
    """Scores of images by a fitted detector: the shipped function.

    Args:
        name: the detector.
        fit: its fit.
        features: (N, D); of the detectors in ``EARLY`` the early statistics (N, E).
        raw_logits: (N, C) or (N, M, C).
        temperature: T > 0.

    Returns:
        (N,) float64, finite; higher = more OOD.

    Raises:
        OODFitError: a score is NaN or infinite.
    """
    buffers = {key: torch.from_numpy(values) for key, values in fit.buffers.items()}
    parts = []
    with torch.inference_mode():
        for start in range(0, len(features), BATCH):
            rows = slice(start, start + BATCH)
            batch = torch.from_numpy(np.ascontiguousarray(features[rows], dtype=np.float32))
            logits = torch.from_numpy(np.ascontiguousarray(raw_logits[rows], dtype=np.float32))
            early = batch if name in EARLY else None
            parts.append(ood_score(name, batch, logits, temperature, fit.settings, buffers, early).numpy())
    scores = np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
    bad = ~np.isfinite(scores)
    if bad.any():
        raise OODFitError(
            f"{name} gives {int(bad.sum())} of {len(scores)} images a score that is NaN or infinite: their features or "
            "logits are enormous; check the training"
        )
    return scores


def check(
    features: np.ndarray, raw_logits: np.ndarray, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Features as float64 and logits as (N, M, C) float64.

    Raises:
        OODFitError: fewer than two images, lengths that differ, or a value that is NaN or infinite.
    """
    features, logits = np.asarray(features, dtype=np.float64), np.asarray(raw_logits, dtype=np.float64)
    if features.ndim != 2 or logits.ndim not in (2, 3) or len(features) != len(logits):
        raise OODFitError(
            f"features have shape {features.shape} and logits {logits.shape}: give (N, D) and (N, C) or (N, M, C)"
        )
    if labels is not None and np.shape(labels) != (len(features),):
        raise OODFitError(f"labels have shape {np.shape(labels)}, features {features.shape}: give one label per image")
    if len(features) < 2:
        raise OODFitError(f"{len(features)} images: an out-of-distribution detector needs at least two")
    try:
        check_values(features, "feature")
        check_values(logits, "logit")
    except ValueError as error:
        raise OODFitError(str(error)) from None
    return features, logits[:, None] if logits.ndim == 2 else logits


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
        raise OODFitError(f"the {width} features are the same on all {n} images: they do not depend on the image")
    vectors = vectors[:, values > NEGLIGIBLE * values[0]]
    if n < width:
        vectors = centred.T @ vectors
        vectors /= np.linalg.norm(vectors, axis=0)
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return Projection(mean, vectors * np.sign(largest))


def fit_nothing(features: np.ndarray, raw_logits: np.ndarray, labels: np.ndarray, temperature: float) -> OODFit:
    """An empty fit, for detectors that are functions of the logits alone; the input is checked as for the others.

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


def fit_mahalanobis(
    features: np.ndarray,
    raw_logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    *,
    most: int = MOST,
    unit: bool = True,
) -> OODFit:
    """Projection, class means and shared covariance of the Mahalanobis distance to the nearest class.

    Lee, Lee, Lee, Shin, NeurIPS 2018, on the principal components of the features. The covariance is that of Ledoit &
    Wolf (Journal of Multivariate Analysis 88, 2004), which stays invertible with few images. Unlike the paper, features
    are scaled to length 1 first (Müller & Hein, "Mahalanobis++", ICML 2025), because their lengths can differ
    twentyfold between the sources of one dataset; no noise is added to the image and no other layer is used, so that
    one forward pass is enough.

    ``early_mahalanobis`` is the same fit on the statistics of an early layer (N, E), which keeps colours, edges and
    textures. They are not scaled: their length is the contrast of the image. Which depth is best depends on the ood
    images (Anthony & Kamnitsas, UNSURE 2023).

    Args:
        features: (N, D), or early statistics (N, E) by ``hub_models.ood_lesion.channel_statistics``.
        raw_logits: (N, C) or (N, M, C); not used.
        labels: (N,) class indices; a class without an image has no mean.
        temperature: not used.
        most: upper bound of the dimensions P.
        unit: scale to length 1 first.

    Returns:
        ``mean`` (D,), ``projection`` (D, P) whitened by the covariance, ``class_means`` (K, P) of the K classes that
        occur; ``dimensions`` P, the ``shrinkage`` found, in [0, 1], and ``unit_length`` 0 where not ``unit``.

    Raises:
        OODFitError: input that cannot be fitted, or features that do not vary, or not within any class.
    """
    features, _ = check(features, raw_logits, labels)
    labels = np.asarray(labels)
    seen = unit_length(features) if unit else features
    projection = fit_projection(seen, most)
    coordinates = projection(seen)
    present, index = np.unique(labels, return_inverse=True)
    means = np.stack([coordinates[index == k].mean(axis=0) for k in range(len(present))])
    within = coordinates - means[index]
    if not np.abs(within).max() > NEGLIGIBLE * np.abs(coordinates).max():
        raise OODFitError(
            f"the features of {len(features)} images of {len(present)} classes do not vary within any class: a "
            "covariance needs a class of two unlike images"
        )
    shrunk = LedoitWolf(assume_centered=True).fit(within)
    whitening = cholesky(shrunk.precision_, lower=True)  # distance^2 = d' precision d = |d L|^2, precision = L L'
    scaling: dict[str, float] = {} if unit else {"unit_length": 0}
    return OODFit(
        settings={"dimensions": int(whitening.shape[0]), "shrinkage": float(shrunk.shrinkage_), **scaling},
        buffers={
            "mean": projection.mean.astype(np.float32),
            "projection": (projection.components @ whitening).astype(np.float32),
            "class_means": (means @ whitening).astype(np.float32),
        },
    )


def fit_nearest_neighbours(
    features: np.ndarray,
    raw_logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    *,
    most: int = MOST,
    k: int = NEIGHBOUR,
) -> OODFit:
    """The bank of known images for the distance to the k-th nearest of them (Sun, Ming, Zhu, Li, ICML 2022).

    Features are scaled to length 1 as in the paper, then projected onto principal components, which the paper does not:
    the bank ships with the model.

    Args:
        features: (N, D).
        raw_logits: (N, C) or (N, M, C); not used.
        labels: (N,); not used.
        temperature: not used.
        most: upper bound of the dimensions P.
        k: which neighbour. The paper takes 50 of 50,000 and 1,000 of 1.3 million; 10 is small enough for a rare class
            of a lesion set to have that many, and large enough to ignore a single outlier. Never above N / 2.

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


def fit_vim(
    features: np.ndarray, raw_logits: np.ndarray, labels: np.ndarray, temperature: float, *, most: int = MOST
) -> OODFit:
    """Principal space and scale of the virtual logit (Wang, Li, Feng, Zhang, "ViM", CVPR 2022).

    Unlike the paper, features are centred at their mean rather than at the point where the head's logits are 0, because
    the predictions hold no head (and an ensemble has several), and the space has at most 64 dimensions.

    Args:
        features: (N, D).
        raw_logits: (N, C) or (N, M, C).
        labels: (N,); not used.
        temperature: not used.
        most: upper bound of the dimensions P; also at most half of N and of D, so that something is left outside.

    Returns:
        ``mean`` (D,), ``projection`` (D, P); ``alpha`` and ``dimensions`` P. ``alpha`` (equation 6) makes the virtual
        logit on average as large as the largest logit, by its absolute value, so that a residual never lowers the
        score; 0 where nothing lies outside the space.

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


Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, float], OODFit]

# The first of several wins a tie: the simplest come first. ``max_softmax``: Hendrycks & Gimpel, ICLR 2017;
# ``max_logit``: Hendrycks et al., ICML 2022; ``energy``: Liu, Wang, Owens, Li, NeurIPS 2020, equation 4 at their
# temperature 1. Those in ``EARLY`` take the statistics of an early layer (N, E) for features.
DETECTORS: dict[str, Fit] = {
    "max_softmax": fit_nothing,
    "max_logit": fit_nothing,
    "energy": fit_nothing,
    "mahalanobis": fit_mahalanobis,
    "nearest_neighbours": fit_nearest_neighbours,
    "vim": fit_vim,
    "early_mahalanobis": partial(fit_mahalanobis, unit=False),
}


def fit_of(detector: str) -> Fit:
    """The fit of the detector of that name: of features (N, D), raw logits (N, C) or (N, M, C), labels (N,) and T.

    Raises:
        UnknownDetectorError: there is none.
    """
    if detector not in DETECTORS:
        raise UnknownDetectorError(
            f"no out-of-distribution detector is called {detector!r}: choose one of {', '.join(DETECTORS)}, or auto"
        )
    return DETECTORS[detector]


def inputs_of(detector: str, features: np.ndarray, early: np.ndarray | None) -> np.ndarray:
    """The input of a detector: the features (N, D), or the early statistics (N, E).

    Raises:
        OODFitError: it uses early statistics, and there are none.
    """
    if detector not in EARLY:
        return features
    if early is None:
        raise OODFitError(f"{detector} uses an early layer, of which nothing was stored: choose another detector")
    return early
