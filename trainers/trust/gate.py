"""The out-of-distribution gate: which detector, and above which score an image is declined.

Chosen and fitted on the first half of the calibration split alone. The detector is the one that best separates these
images from perturbed versions of themselves (``trainers.model_folder.perturbations``). No ood image takes part, so that
the result on ood images stays a measurement.

Where the images come from several sources, each source is left out in turn: the detector is chosen by scores of fits
that saw no image of the source, and the threshold accepts the wanted share of every source and, where perturbed images
stay declined, 90 % of a source that the detector was not fitted on. The share of a source that is accepted without it
is stored with the gate. A gate of one source says nothing about others.
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
from trainers.trust.held_out import FOLDS, LEAST_OF_SOURCE, CrossFit
from trainers.trust.known import Known, LeftOut

AUTO = "auto"
# For a model without image input, for which no perturbed version can be made: the best on the models so far.
WITHOUT_PERTURBED = "mahalanobis"
CHOSEN = "highest mean AUROC of perturbed against unchanged calibration images, held out by lesion group"
CHOSEN_ELSEWHERE = "highest mean AUROC of perturbed against unchanged calibration images, leaving out one source"
ONE_SOURCE = "there is one source: how much is accepted of others is not known"
NOT_COMPARED = (
    f"fewer than two sources have {LEAST_OF_SOURCE} images of classes that another has too, or this one has fewer: how "
    "much a gate without it accepts is not known"
)
# Share of the images of a source that a detector without it is to accept.
ELSEWHERE = 0.9
# What the threshold for sources that were left out may cost: share of perturbed images that is declined no more.
MOST_PASSED = 0.05

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
        sources: name -> ``n``, ``accepted`` (share by held-out scores), ``accepted_left_out``: the share by the
            detector without the source at this threshold, which was set with it in view, and ``accepted_by_others``:
            by a gate of the other sources alone, None with ``why`` where these cannot be known.
        elsewhere: how the sources left out moved the threshold: ``acceptance``, ``threshold`` (of the sources left
            out), ``held_out_threshold``, ``perturbed_declined`` at each of the two, ``used``; empty without sources.
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
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    elsewhere: dict[str, Any] = field(default_factory=dict)
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
            "sources": self.sources,
            **({"elsewhere": self.elsewhere} if self.elsewhere else {}),
            "chosen_by": self.chosen_by,
        }


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
    decides, the earlier candidate on a tie. Each kind counts the same, however many images it has. Where there are
    several sources to compare, the AUROC is the mean over sources, of scores by the fit without that source.

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
    compared = known.compared()
    rows: dict[str, dict[str, Any]] = {}
    fits: dict[str, CrossFit] = {}
    for name in candidates:
        try:
            fitted = known.cross_fit(name, folds, seed)
            elsewhere = _separations_elsewhere(name, known, perturbed, perturbed_rows) if compared else None
        except OODFitError as error:
            rows[name] = {"why": str(error)}
            continue
        fits[name], rows[name] = fitted, elsewhere or _separations(fitted, known, perturbed, perturbed_rows)
    if not fits:
        raise OODFitError(f"no detector can be fitted: {rows[candidates[0]]['why']}")
    best = max(fits, key=lambda name: rows[name]["mean"])  # the first of several
    kinds = {kind: len(made[0]) for kind, made in perturbed.items()}
    method = CHOSEN_ELSEWHERE if compared else CHOSEN
    return best, {"method": method, "n": len(known), "kinds": kinds, "detectors": rows}, fits


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
    sources: np.ndarray | None = None,
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
        acceptance: share of calibration images to be accepted, and of the images of each source, in (0, 1).
        detector: a name, or ``auto``: the best by :func:`choose`; ``mahalanobis`` without perturbed images.
        early: (N, E) statistics of an early layer, for the detectors that look there.
        sources: (N,) the source of each image; None = all are of one.
        perturbed_rows: (K,) number of the calibration image that each perturbed one was made from; see :func:`choose`.
        folds: of the held-out scores, dealt by ``seed``.
        seed: of the folds.

    Raises:
        UnknownDetectorError: there is no such detector.
        OODFitError: input that cannot be fitted, or too few images for the acceptance.
    """
    check(features, raw_logits, labels)
    known = Known(features, raw_logits, labels, groups, temperature, early, sources, acceptance)
    detector, table, crossed = _chosen(known, detector, perturbed, perturbed_rows, folds, seed)
    fitted = known.fit(detector)
    return GateFit(
        detector=detector,
        **_limit(known, crossed, perturbed or {}, perturbed_rows, folds, seed),
        acceptance=acceptance,
        settings=fitted.settings,
        buffers=fitted.buffers,
        temperature=temperature,
        n=len(known),
        n_groups=known.n_groups,
        chosen_by=table,
        folds=folds,
        seed=seed,
        _fit=fitted,
    )


def _chosen(
    known: Known, detector: str, perturbed: Perturbed | None, perturbed_rows: np.ndarray | None, folds: int, seed: int
) -> tuple[str, dict[str, Any], CrossFit]:
    """The detector by its name, or the best; the table of the choice; and its cross-fit."""
    fits: dict[str, CrossFit] = {}
    table: dict[str, Any] = {"method": "named"}
    if detector != AUTO:
        fit_of(detector)
    if perturbed:
        candidates = [name for name in DETECTORS if known.early is not None or name not in EARLY]
        best, found, fits = choose(candidates, known, perturbed, perturbed_rows=perturbed_rows, folds=folds, seed=seed)
        detector, table = (best, found) if detector == AUTO else (detector, found | table)
    elif detector == AUTO:
        detector, table = WITHOUT_PERTURBED, {"method": "default: there are no perturbed images to choose by"}
    return detector, table, fits.get(detector) or known.cross_fit(detector, folds, seed)


def _limit(
    known: Known, crossed: CrossFit, perturbed: Perturbed, perturbed_rows: np.ndarray | None, folds: int, seed: int
) -> dict[str, Any]:
    """The threshold, and what is accepted at it."""
    scores = known.held_out(crossed)
    left_out = {source: known.left_out(source, crossed.detector, folds, seed) for source in known.compared()}
    threshold, elsewhere = _threshold(known, crossed, scores, left_out, perturbed, perturbed_rows)
    return {
        "threshold": threshold,
        "accepted": float((scores <= threshold).mean()),
        "sources": _of_sources(known, left_out, scores, threshold),
        "elsewhere": elsewhere,
    }


def _threshold(
    known: Known,
    crossed: CrossFit,
    scores: np.ndarray,
    left_out: Mapping[str, LeftOut],
    perturbed: Perturbed,
    perturbed_rows: np.ndarray | None,
) -> tuple[float, dict[str, Any]]:
    """The threshold, and how the sources that were left out moved it.

    It is that of the held-out scores or, if larger, that which accepts ``ELSEWHERE`` of each source by a detector
    without it; the latter only where it declines as many perturbed images, up to ``MOST_PASSED``: sources of different
    modalities would else open the gate to anything.
    """
    threshold = known.threshold(scores)
    found = [np.quantile(part.scores, ELSEWHERE, method="higher") for part in left_out.values() if len(part.scores)]
    if not found or not perturbed:
        return threshold, {}
    wider = max(float(max(found)), threshold)
    declined = [_declined(crossed, perturbed, perturbed_rows, at) for at in (threshold, wider)]
    used = declined[0] - declined[1] <= MOST_PASSED
    return wider if used else threshold, {
        "acceptance": ELSEWHERE,
        "threshold": wider,
        "held_out_threshold": threshold,
        "perturbed_declined": [plain(value) for value in declined],
        "used": used,
    }


def _declined(crossed: CrossFit, perturbed: Perturbed, perturbed_rows: np.ndarray | None, threshold: float) -> float:
    """The share of perturbed images above a threshold, the mean over kinds."""
    shares = []
    for made in perturbed.values():
        inputs = _inputs(crossed.detector, made)
        scores = crossed.score(inputs, made[1], _rows(perturbed_rows, crossed.fold, len(inputs)))
        shares.append(float((scores > threshold).mean()))
    return float(np.mean(shares))


def _of_sources(
    known: Known, left_out: Mapping[str, LeftOut], scores: np.ndarray, threshold: float
) -> dict[str, dict[str, Any]]:
    """What is accepted of each source by the gate, by its detector without the source and by a gate without it."""
    if known.sources is None:
        return {}
    names = np.asarray(known.sources).astype(str)
    found: dict[str, dict[str, Any]] = {}
    for name in np.unique(names):
        mine, part = names == name, left_out.get(str(name))
        row: dict[str, Any] = {"n": int(mine.sum()), "accepted": plain(float((scores[mine] <= threshold).mean()))}
        shares: dict[str, Any] = {"accepted_left_out": None, "accepted_by_others": None}
        if part is not None and len(part.scores):
            limits = (threshold, part.threshold)
            shares = {
                key: plain(float((part.scores <= limit).mean())) for key, limit in zip(shares, limits, strict=True)
            }
        elif part is not None:
            shares["why"] = part.why
        else:
            shares["why"] = ONE_SOURCE if mine.all() else NOT_COMPARED
        found[str(name)] = row | shares
    return found


def _separations(
    fitted: CrossFit, known: Known, perturbed: Perturbed, perturbed_rows: np.ndarray | None
) -> dict[str, Any]:
    """AUROC of each kind of perturbed images against the images as they are, and the mean over kinds."""
    clean, found = known.held_out(fitted), {}
    for kind, made in perturbed.items():
        inputs = _inputs(fitted.detector, made)
        found[kind] = _separation(clean, fitted.score(inputs, made[1], _rows(perturbed_rows, fitted.fold, len(inputs))))
    return _table(found)


def _separations_elsewhere(
    detector: str, known: Known, perturbed: Perturbed, perturbed_rows: np.ndarray | None
) -> dict[str, Any]:
    """The same, each source scored by the fit without it: the mean over sources.

    Perturbed images are those of the source; all, where none was made from it or that is not known.
    """
    found: dict[str, list[float]] = {kind: [] for kind in perturbed}
    for source, rows in known.compared().items():
        fitted, mine = known.without(source).fit(detector), known.select(rows)
        clean = score(detector, fitted, mine.inputs_of(detector), mine.raw_logits, known.temperature)
        for kind, made in perturbed.items():
            inputs = _inputs(detector, made)
            of_it = np.zeros(len(inputs), dtype=bool)
            if perturbed_rows is not None:
                of_it = rows[_rows(perturbed_rows, rows, len(inputs))]
            chosen = of_it if of_it.any() else ~of_it
            scores = score(detector, fitted, inputs[chosen], made[1][chosen], known.temperature)
            found[kind].append(_separation(clean, scores))
    return _table({kind: float(np.mean(values)) for kind, values in found.items()})


def _separation(clean: np.ndarray, scores: np.ndarray) -> float:
    """AUROC of perturbed images (positive) against images as they are."""
    is_perturbed = np.r_[np.zeros(len(clean), dtype=bool), np.ones(len(scores), dtype=bool)]
    return float(auroc(is_perturbed, np.r_[clean, scores]))


def _table(found: Mapping[str, float]) -> dict[str, Any]:
    return {
        "mean": plain(float(np.mean(list(found.values())))),
        "auroc": {kind: plain(value) for kind, value in found.items()},
    }


def _inputs(detector: str, made: Any) -> np.ndarray:
    return inputs_of(detector, made[0], made[2] if len(made) == 3 else None)


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
