"""The detectors by name, in the order in which a tie between them is decided: what needs less comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hub_models.ood_lesion import EARLY, UnknownDetectorError
from trainers.trust.detectors import OODFit, OODFitError
from trainers.trust.ood import (
    early_mahalanobis,
    energy,
    mahalanobis,
    max_logit,
    max_softmax,
    nearest_neighbours,
    vim,
)


@dataclass(frozen=True)
class Detector:
    """The two functions of a detector's file.

    Attributes:
        fit: takes features (N, D), raw logits (N, C) or (N, M, C), labels (N,), a temperature. Detectors in ``EARLY``
            take the statistics of an early layer (N, E) for features, here and below.
        score: takes a fit, features, raw logits, a temperature; returns (N,), higher = more OOD.
    """

    fit: Callable[[np.ndarray, np.ndarray, np.ndarray, float], OODFit]
    score: Callable[[OODFit, np.ndarray, np.ndarray, float], np.ndarray]


DETECTORS: dict[str, Detector] = {
    "max_softmax": Detector(max_softmax.fit, max_softmax.score),
    "max_logit": Detector(max_logit.fit, max_logit.score),
    "energy": Detector(energy.fit, energy.score),
    "mahalanobis": Detector(mahalanobis.fit, mahalanobis.score),
    "nearest_neighbours": Detector(nearest_neighbours.fit, nearest_neighbours.score),
    "vim": Detector(vim.fit, vim.score),
    "early_mahalanobis": Detector(early_mahalanobis.fit, early_mahalanobis.score),
}


def looked_at(detector: str, features: np.ndarray, early: np.ndarray | None) -> np.ndarray:
    """What a detector looks at: the features (N, D), or the early statistics (N, E).

    Raises:
        OODFitError: it looks at early statistics, and there are none.
    """
    if detector not in EARLY:
        return features
    if early is None:
        raise OODFitError(f"{detector} looks at an early layer, of which nothing was stored: choose another detector")
    return early


def named(detector: str) -> Detector:
    """The detector of that name.

    Raises:
        UnknownDetectorError: there is none.
    """
    if detector not in DETECTORS:
        raise UnknownDetectorError(
            f"no out-of-distribution detector is called {detector!r}: choose one of {', '.join(DETECTORS)}, or auto"
        )
    return DETECTORS[detector]
