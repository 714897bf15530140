"""Calibration images that a gate is fitted on: the fits, held-out scores and threshold of a detector, by source."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from trainers.trust.detectors import OODFit, OODFitError, fit_of, inputs_of, score
from trainers.trust.held_out import CrossFit, comparable_sources, cross_fit, threshold_of_sources


@dataclass(frozen=True)
class LeftOut:
    """A source, scored by a detector that was fitted on the others alone.

    Attributes:
        scores: (K,) of its compared images; empty where nothing could be fitted.
        threshold: of a gate of the others.
        why: the reason where nothing could be fitted.
    """

    scores: np.ndarray
    threshold: float = float("nan")
    why: str = ""


@dataclass(frozen=True)
class Known:
    """Calibration images that a gate is fitted on.

    Attributes:
        features: (N, D).
        raw_logits: (N, C) or (N, M, C), before temperature.
        labels: (N,) class indices.
        groups: (N,) lesion group ids.
        temperature: T > 0.
        early: (N, E) statistics of an early layer, by ``hub_models.ood_lesion.channel_statistics``, or None.
        sources: (N,) the source of each image, or None: all are of one.
        acceptance: share of the images, and of those of each source, that is to be accepted, in (0, 1).
    """

    features: np.ndarray
    raw_logits: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    temperature: float
    early: np.ndarray | None = None
    sources: np.ndarray | None = None
    acceptance: float = 0.95

    def __len__(self) -> int:
        return len(self.features)

    @property
    def n_groups(self) -> int:
        """Lesion groups of the images."""
        return len(np.unique(np.asarray(self.groups).astype(str)))

    def inputs_of(self, detector: str) -> np.ndarray:
        """The features, or the early statistics where the detector uses those."""
        return inputs_of(detector, self.features, self.early)

    def select(self, rows: np.ndarray) -> Known:
        """Some of the images, by (N,) bool."""
        arrays = ("features", "raw_logits", "labels", "groups", "early", "sources")
        return replace(self, **{k: np.asarray(v)[rows] for k in arrays if (v := getattr(self, k)) is not None})

    def compared(self) -> dict[str, np.ndarray]:
        """Source -> (N,) bool, its compared images; empty where there are no two sources to compare."""
        return {} if self.sources is None else comparable_sources(self.sources, self.labels)

    def without(self, source: str) -> Known:
        """The images of all other sources."""
        return self.select(np.asarray(self.sources).astype(str) != source)

    def fit(self, detector: str) -> OODFit:
        """Fit a detector on all images."""
        return fit_of(detector)(self.inputs_of(detector), self.raw_logits, self.labels, self.temperature)

    def cross_fit(self, detector: str, folds: int, seed: int) -> CrossFit:
        """Fit a detector once without each fold."""
        inputs = self.inputs_of(detector)
        return cross_fit(
            detector, inputs, self.raw_logits, self.labels, self.groups, self.temperature, folds=folds, seed=seed
        )

    def held_out(self, fitted: CrossFit) -> np.ndarray:
        """(N,) scores of the images, each by the fit that saw neither it nor its group."""
        return fitted.score(self.inputs_of(fitted.detector), self.raw_logits)

    def threshold(self, scores: np.ndarray) -> float:
        """The score up to which images are accepted, by held-out scores (N,)."""
        return threshold_of_sources(scores, self.compared(), self.acceptance)

    def left_out(self, source: str, detector: str, folds: int, seed: int) -> LeftOut:
        """Score the compared images of a source by the images of all others."""
        others, mine = self.without(source), self.select(self.compared()[source])
        try:
            threshold = others.threshold(others.held_out(others.cross_fit(detector, folds, seed)))
            fitted = others.fit(detector)
            scores = score(detector, fitted, mine.inputs_of(detector), mine.raw_logits, self.temperature)
        except OODFitError as error:
            return LeftOut(np.zeros(0), why=f"no gate of the other sources can be fitted: {error}")
        return LeftOut(scores, threshold)
