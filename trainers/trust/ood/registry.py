"""The detectors by name, in the order in which a tie between them is decided: what needs less comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hub_models.ood_lesion import UnknownDetectorError
from trainers.trust.ood import energy, mahalanobis, max_logit, max_softmax, nearest_neighbours, vim
from trainers.trust.ood.fitted import OODFit


@dataclass(frozen=True)
class Detector:
    """The two functions of a detector's file.

    Attributes:
        fit: takes features (N, D), raw logits (N, C) or (N, M, C), labels (N,), a temperature.
        score: takes a fit, features, raw logits, a temperature; returns (N,), higher = stranger.
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
}


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
