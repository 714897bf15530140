"""The out-of-distribution gate: which detector, and above which score an image is declined.

Chosen and fitted on the first half of the calibration split alone. The detector is the one that best separates these
images from perturbed versions of themselves (``trainers.model_folder.perturbations``). No ood image takes part, so that
the result on ood images stays a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hub_models.ood_lesion import EARLY
from trainers.metrics.discrimination import auroc
from trainers.metrics.number import plain
from trainers.trust.detectors import DETECTORS, OODFit, OODFitError, check, fit_of, inputs_of, score
from trainers.trust.held_out import FOLDS, CrossFit, cross_fit, threshold_at

AUTO = "auto"
# For a model without image input, for which no perturbed version can be made: the best on the models so far.
WITHOUT_PERTURBED = "mahalanobis"
CHOSEN = "highest mean AUROC of perturbed against unchanged calibration images, held out by lesion group"

# kind -> features (K, D), raw logits (K, C) or (K, M, C) and, where the model gives them, early statistics (K, E) of
# calibration images perturbed that way
Perturbed = Mapping[str, tuple[np.ndarray, np.ndarray] | tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class GateFit:
    """A fitted gate.

    Attributes:
        detector: its name.
        threshold: an image is ood when its score is above it.
        acceptance: the share of calibration images that was to be accepted.
        accepted: the share of them that is, by their held-out scores.
        settings: the detector's numbers.
        buffers: the detector's matrices, float32; of this detector only.
        temperature: T that it was fitted with and must be applied with.
        n: calibration images.
        n_groups: their lesion groups.
        chosen_by: ``{"method"}`` and, where there were perturbed images, the rest of the table of :func:`choose`.
        folds: of the held-out scores.
        seed: of the folds.
    """

    detector: str
    threshold: float
    acceptance: float
    accepted: float
    settings: dict[str, Any]
    buffers: dict[str, np.ndarray]
    temperature: float
    n: int
    n_groups: int
    chosen_by: dict[str, Any] = field(default_factory=dict)
    folds: int = FOLDS
    seed: int = 0
    _fit: OODFit = field(default_factory=OODFit, repr=False)

    def score(self, features: np.ndarray, raw_logits: np.ndarray, early: np.ndarray | None = None) -> np.ndarray:
        """(N, D), (N, C) or (N, M, C) and perhaps (N, E) -> (N,), higher = more OOD, by the shipped function."""
        inputs = inputs_of(self.detector, features, early)
        return score(self.detector, self._fit, inputs, raw_logits, self.temperature)

    def accepts(self, features: np.ndarray, raw_logits: np.ndarray, early: np.ndarray | None = None) -> np.ndarray:
        """(N,) bool: the score is at most the threshold."""
        return self.score(features, raw_logits, early) <= self.threshold

    def as_config(self) -> dict[str, Any]:
        """What ``config.trust["ood"]`` holds: JSON scalars and short lists, and the shapes of the buffers."""
        return {
            "detector": self.detector,
            "threshold": self.threshold,
            "acceptance": self.acceptance,
            "accepted": plain(self.accepted),
            "settings": dict(self.settings),
            "buffers": {name: list(values.shape) for name, values in self.buffers.items()},
            "temperature": self.temperature,
            "n": self.n,
            "n_groups": self.n_groups,
            "folds": self.folds,
            "seed": self.seed,
            "chosen_by": self.chosen_by,
        }


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
    """

    features: np.ndarray
    raw_logits: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    temperature: float
    early: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.features)

    def inputs_of(self, detector: str) -> np.ndarray:
        """The features, or the early statistics where the detector uses those."""
        return inputs_of(detector, self.features, self.early)

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


def choose(
    candidates: Sequence[str],
    known: Known,
    perturbed: Perturbed,
    *,
    perturbed_rows: np.ndarray | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> tuple[str, dict[str, Any], dict[str, CrossFit]]:
    """Choose the detector that best separates calibration images from perturbed ones.

    Both are scored by fits that saw neither the image nor any of its lesion group, also its perturbed versions. For
    each kind of perturbation the AUROC of perturbed (positive) against all images as they are; the mean over kinds
    decides, the earlier candidate on a tie. Each kind counts the same, however many images it has.

    Args:
        candidates: names of detectors.
        known: the calibration half.
        perturbed: kind -> features, raw logits and perhaps early statistics of K images perturbed that way; at least
            one.
        perturbed_rows: (K,) number of the calibration image that each was made from. None = unknown: they are then
            scored by the folds in turn, most by a fit that saw the unchanged image.
        folds: of the cross-fit.
        seed: of the folds.

    Returns:
        The name; a JSON-ready table ``{"method", "n", "kinds": {kind: n}, "detectors": {name: {"mean", "auroc": {kind:
        value}} | {"why"}}}``; and the cross-fit of each candidate that could be fitted.

    Raises:
        UnknownDetectorError: a candidate that is none.
        OODFitError: no perturbed images, no candidates, or none that can be fitted.
    """
    if not perturbed or not candidates:
        raise OODFitError(
            f"{len(candidates)} detectors and {len(perturbed)} kinds of perturbation: to choose one, give at least one "
            "of each; or name the detector"
        )
    check(known.features, known.raw_logits, known.labels)
    rows: dict[str, dict[str, Any]] = {}
    fits: dict[str, CrossFit] = {}
    for name in candidates:
        try:
            fitted = known.cross_fit(name, folds, seed)
        except OODFitError as error:
            rows[name] = {"why": str(error)}
            continue
        fits[name], rows[name] = fitted, _separations(fitted, known, perturbed, perturbed_rows)
    if not fits:
        raise OODFitError(f"no detector can be fitted: {rows[candidates[0]]['why']}")
    best = max(fits, key=lambda name: rows[name]["mean"])  # the first of several
    kinds = {kind: len(made[0]) for kind, made in perturbed.items()}
    return best, {"method": CHOSEN, "n": len(known), "kinds": kinds, "detectors": rows}, fits


def fit_gate(
    features: np.ndarray,
    raw_logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    temperature: float,
    perturbed: Perturbed | None = None,
    acceptance: float = 0.95,
    detector: str = AUTO,
    *,
    early: np.ndarray | None = None,
    perturbed_rows: np.ndarray | None = None,
    folds: int = FOLDS,
    seed: int = 0,
) -> GateFit:
    """Fit the gate on the first half of the calibration split.

    Args:
        features: (N, D).
        raw_logits: (N, C) or (N, M, C), before temperature.
        labels: (N,) class indices.
        groups: (N,) lesion group ids.
        temperature: T > 0.
        perturbed: kind -> features, raw logits and, with ``early``, early statistics of calibration images perturbed
            that way. With a named detector the table is filled all the same, for the report.
        acceptance: share of calibration images to be accepted, in (0, 1).
        detector: a name, or ``auto``: the best of all by :func:`choose`, or ``mahalanobis`` where there are no
            perturbed images.
        early: (N, E) statistics of an early layer; without them no detector that looks there is a candidate.
        perturbed_rows: (K,) number of the calibration image that each perturbed one was made from; see :func:`choose`.
        folds: of the held-out scores.
        seed: of the folds.

    Raises:
        UnknownDetectorError: there is no such detector.
        OODFitError: input that cannot be fitted, or too few images for the acceptance.
    """
    check(features, raw_logits, labels)
    known = Known(features, raw_logits, labels, groups, temperature, early)
    fits: dict[str, CrossFit] = {}
    table: dict[str, Any] = {"method": "named"}
    if detector != AUTO:
        fit_of(detector)
    if perturbed:
        candidates = [name for name in DETECTORS if early is not None or name not in EARLY]
        best, found, fits = choose(candidates, known, perturbed, perturbed_rows=perturbed_rows, folds=folds, seed=seed)
        detector, table = (best, found) if detector == AUTO else (detector, found | table)
    elif detector == AUTO:
        detector, table = WITHOUT_PERTURBED, {"method": "default: there are no perturbed images to choose by"}
    scores = known.held_out(fits.get(detector) or known.cross_fit(detector, folds, seed))
    return _gate(known, detector, scores, threshold_at(scores, acceptance), acceptance, table, folds, seed)


def _gate(
    known: Known,
    detector: str,
    scores: np.ndarray,
    threshold: float,
    acceptance: float,
    table: dict[str, Any],
    folds: int,
    seed: int,
) -> GateFit:
    """The chosen detector on all images, beside the threshold of their held-out scores."""
    fitted = known.fit(detector)
    return GateFit(
        detector=detector,
        threshold=threshold,
        acceptance=acceptance,
        accepted=float((scores <= threshold).mean()),
        settings=fitted.settings,
        buffers=fitted.buffers,
        temperature=known.temperature,
        n=len(known),
        n_groups=len(np.unique(np.asarray(known.groups).astype(str))),
        chosen_by=table,
        folds=folds,
        seed=seed,
        _fit=fitted,
    )


def _separations(
    fitted: CrossFit, known: Known, perturbed: Perturbed, perturbed_rows: np.ndarray | None
) -> dict[str, Any]:
    """AUROC of each kind of perturbed images against the images as they are, and the mean over kinds."""
    clean, found = known.held_out(fitted), {}
    for kind, made in perturbed.items():
        inputs = inputs_of(fitted.detector, made[0], made[2] if len(made) == 3 else None)
        scores = fitted.score(inputs, made[1], _rows(perturbed_rows, fitted.fold, len(inputs)))
        is_perturbed = np.r_[np.zeros(len(clean), dtype=bool), np.ones(len(scores), dtype=bool)]
        found[kind] = float(auroc(is_perturbed, np.r_[clean, scores]))
    return {
        "mean": plain(float(np.mean(list(found.values())))),
        "auroc": {kind: plain(value) for kind, value in found.items()},
    }


def _rows(perturbed_rows: np.ndarray | None, fold: np.ndarray, n: int) -> np.ndarray:
    """(n,) calibration images whose folds score n perturbed ones."""
    if perturbed_rows is None:
        first_of_fold = np.unique(fold, return_index=True)[1]
        return first_of_fold[np.arange(n) % len(first_of_fold)]
    rows = np.asarray(perturbed_rows)
    if rows.shape != (n,) or (n and (rows.min() < 0 or rows.max() >= len(fold))):
        raise OODFitError(
            f"{rows.shape} row numbers for {n} perturbed of {len(fold)} calibration images: give the row that each "
            "was made from"
        )
    return rows
