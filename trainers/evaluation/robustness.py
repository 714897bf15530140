"""What is left of accuracy and of the promises when the images are worse than those of the split, cut or turned.

The same images stand under every corruption, so that a difference from the clean ones is paired: each resample of
lesions is drawn once and counts for all. Corruptions and severities are those of
``trainers.model_folder.perturbations`` (after Hendrycks and Dietterich 2019, and Maron et al. 2021 for skin lesions),
views those of ``trainers.model_folder.views``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from trainers.evaluation.decisions import decisions
from trainers.evaluation.sample import Sample
from trainers.metrics.calibration import ece_debiased, reliability_bins
from trainers.metrics.intervals import bootstrap_weights, can_resample, replicate
from trainers.metrics.number import bootstrapped, plain, undefined
from trainers.metrics.predictions import CORRUPTION, FRAMED_BY, FRAMING, SEEN, VIEW, Predictions
from trainers.metrics.weighting import divide_or_nan, group_weights, mean_defined

# What every condition is evaluated by, and what only with fitted trust.
PLAIN = ("accuracy", "balanced_accuracy", "auroc_malignant", "ece_debiased")
TRUSTED = ("accepted", "answered", "error_answered", "low", "error_low", "coverage")
COUNTED, AMONG = ".counted", ".among"
WHY_NOT = {
    "auroc_malignant": "no class is malignant, or all images are or none",
    "error_answered": "the model answers none of these",
    "error_low": "none of these is in the low band",
    "coverage": "the gate accepts none of these",
    "low": "the gate accepts none of these",
}
# Kind of view -> its settings: width to height, % of the frame's shorter side that the lesion fills, degrees.
VIEWS = {
    "aspect": ("1:1", "3:4", "4:3", "16:9"),
    "scale": ("25", "50", "75", "100"),
    "turn": ("0", "90", "180", "270"),
}
AS_STORED = ("turn", "0")
# The largest difference in balanced accuracy between settings that a released model should have.
GOALS = {"aspect": 0.02}
# A setting that not every image can be shown at counts for the differences from so many lesions on.
LEAST_LESIONS = 50
Values = dict[str, np.ndarray]
# Of the sample itself, and of its resamples where there are any.
Evaluated = tuple[Values, Values | None]
# (kind, setting) -> the rows of the split that it shows, and their predictions.
Views = dict[tuple[str, str], tuple[np.ndarray, Predictions]]


def robustness_section(
    clean: Predictions,
    corrupted: Predictions,
    trust: Mapping[str, Any],
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a model on corrupted copies of images, beside the images as they are.

    Args:
        clean: N images.
        corrupted: K N rows, N of each of K conditions, named in ``columns["corruption"]`` as ``kind severity``.
        trust: the model's ``config.trust``.
        replicates: of the intervals.
        seed: of the resamples.

    Returns:
        JSON-ready: ``split``, ``n``, ``n_groups``, ``kinds``, ``severities``, ``clean``, ``conditions`` (one per kind
        and severity) and ``by_severity`` (all kinds together), each with the metrics of ``PLAIN`` and, where a gate
        scored the images, of ``TRUSTED``, with the number of lesions that a share is ``among``; and ``drop``, the
        accuracy lost against clean. All kinds together is the mean of accuracy, AUROC and calibration, and the pooled
        share of what is counted among answers: a kind that leaves two answers does not weigh as much as one that leaves
        all.

    Raises:
        ValueError: a condition holds other images than ``clean``, or there is none.
    """
    parts = by_condition(clean, corrupted)
    weights = lesion_weights(clean, replicates, seed)
    evaluate = partial(evaluated_on, rows=np.arange(len(clean)), trust=trust, weights=weights)
    reference = evaluate(clean)
    found = {name: evaluate(rows) for name, rows in parts.items()}
    kinds, severities = ([*dict.fromkeys(part)] for part in zip(*found, strict=True))
    return {
        "split": clean.split,
        "n": len(clean),
        "n_groups": lesions_of(clean),
        "seed": seed,
        "kinds": kinds,
        "severities": sorted(severities),
        "clean": described(*reference),
        "conditions": [
            {"kind": kind, "severity": severity, **described(*values), "drop": drop(reference, values)}
            for (kind, severity), values in found.items()
        ],
        "by_severity": [
            {"severity": severity, **described(*mean), "drop": drop(reference, mean)}
            for severity in sorted(severities)
            for mean in [together([values for (_, level), values in found.items() if level == severity])]
        ],
    }


def view_section(
    clean: Predictions,
    viewed: Predictions,
    trust: Mapping[str, Any],
    kinds: list[str],
    drawn: int,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a model on views of images, beside the images as they are.

    Args:
        clean: N images.
        viewed: rows of each setting, named in ``columns["view"]`` as ``kind setting``; images that cannot be shown at a
            setting are left out of it.
        trust: the model's ``config.trust``.
        kinds: of ``VIEWS``.
        drawn: how many images were to be shown; N of them can be, at one setting at least.
        replicates: of the intervals.
        seed: of the resamples.

    Returns:
        JSON-ready: ``split``, ``n``, ``n_groups``, ``drawn``, ``kinds``, ``framed_by`` (images by how the lesion was
        found), ``clean``, ``settings`` (one per setting of a kind, with ``n``, ``n_groups``, ``left_out``, ``cut``
        (images whose lesion is not whole), the metrics of ``robustness_section``, and ``lost``, the balanced accuracy
        lost against the same images as they are) and ``spreads``: the highest minus the lowest balanced accuracy of the
        settings of a kind, on the images that all of them show; of aspects also on the images whose lesion is whole in
        all. Its interval is that of resamples shifted to the value: noise alone makes a spread larger.

    Raises:
        ValueError: a setting holds images that are not among ``clean``, or in another order.
    """
    parts = by_view(clean, viewed, kinds)
    weights = lesion_weights(clean, replicates, seed)
    framed = viewed.columns[FRAMING]
    return {
        "split": clean.split,
        "n": len(clean),
        "n_groups": lesions_of(clean),
        "drawn": drawn,
        "seed": seed,
        "kinds": list(kinds),
        "framed_by": {name: len(set(viewed.image_id[framed == name].tolist())) for name in FRAMED_BY},
        "clean": described(*evaluated_on(clean, np.arange(len(clean)), trust, weights)),
        "settings": [
            {
                **{"kind": kind, "setting": setting, "n": len(rows), "n_groups": lesions_of(part)},
                "left_out": drawn - len(rows),
                "cut": int((part.columns[SEEN] == "cut").sum()) if SEEN in part.columns else 0,
                **against_the_same(clean, rows, part, trust, weights),
            }
            for (kind, setting), (rows, part) in parts.items()
        ],
        "spreads": [
            spread_of(kind, whole, parts, trust, weights)
            for kind in kinds
            for whole in ((False, True) if kind == "aspect" else (False,))
        ],
    }


def by_view(clean: Predictions, viewed: Predictions, kinds: list[str]) -> Views:
    """(kind, setting) -> the rows of ``clean`` that it shows, (K,), and their predictions in this order; all settings.

    Raises:
        ValueError: an image that is not among ``clean``, or in another order; no view named.
    """
    named = viewed.columns.get(VIEW)
    if named is None:
        raise ValueError(f"the predictions of {viewed.split!r} name no view: measure robustness again")
    number = {name: row for row, name in enumerate(clean.image_id.tolist())}
    parts: Views = {}
    for kind in kinds:
        for setting in VIEWS[kind]:
            part = clean if (kind, setting) == AS_STORED else viewed.select(named == f"{kind} {setting}")
            rows = np.array([number.get(name, -1) for name in part.image_id.tolist()], dtype=int)
            if len(rows) and (rows[0] < 0 or (np.diff(rows) <= 0).any()):
                raise ValueError(f"'{kind} {setting}' holds other images than the clean ones: measure again")
            parts[kind, setting] = rows, part
    return parts


def against_the_same(
    clean: Predictions, rows: np.ndarray, part: Predictions, trust: Mapping[str, Any], weights: np.ndarray | None
) -> dict[str, Any]:
    """The metrics of one setting and the balanced accuracy ``lost`` against the same images; none without an image."""
    if not len(rows):
        return {}
    same, values = (evaluated_on(one, rows, trust, weights) for one in (clean.select(rows), part))
    return {**described(*values), "lost": drop(same, values, "balanced_accuracy")}


def spread_of(
    kind: str, whole: bool, parts: Views, trust: Mapping[str, Any], weights: np.ndarray | None
) -> dict[str, Any]:
    """Highest minus lowest balanced accuracy of the settings of one kind, on the images that all of them show.

    Args:
        kind: of ``VIEWS``.
        whole: only the images whose lesion is whole at every setting.
        parts: of ``by_view``.
        trust: the model's ``config.trust``.
        weights: (R, N) of the resamples, or None.

    Returns:
        ``kind``, ``lesions`` (``all`` or ``whole``), ``settings`` that are compared, ``n``, ``n_groups``, the value
        with its interval, ``by_chance`` (the mean of resamples whose settings are all shifted to the same value: so
        much comes of the choice of lesions alone), and where there is one ``goal``.
    """
    own = {setting: part for (name, setting), part in parts.items() if name == kind}
    most = max(len(rows) for rows, _ in own.values())
    compared = {
        setting: (rows[kept], part.select(kept))
        for setting, (rows, part) in own.items()
        if len(rows) == most or lesions_of(part) >= LEAST_LESIONS
        for kept in [part.columns[SEEN] == "whole" if whole else np.ones(len(rows), dtype=bool)]
    }
    common = sorted(set.intersection(*(set(rows.tolist()) for rows, _ in compared.values())))
    shown = [(rows, part.select(np.isin(rows, common))) for rows, part in compared.values()]
    found: dict[str, Any] = {
        "kind": kind,
        "lesions": "whole" if whole else "all",
        "settings": list(compared),
        "n": len(common),
        "n_groups": lesions_of(shown[0][1]),
    }
    if len(compared) < 2 or not common:
        return {**found, **undefined(f"fewer than two settings show {LEAST_LESIONS} lesions")}
    points, spreads = zip(*(evaluated_on(part, np.array(common), trust, weights) for _, part in shown), strict=True)
    point = np.array([values["balanced_accuracy"] for values in points])
    resampled = None if weights is None else np.array([values["balanced_accuracy"] for values in spreads])
    number = bootstrapped(float(np.ptp(point)), None if resampled is None else np.ptp(resampled, axis=0), centred=True)
    if resampled is not None:
        number["by_chance"] = plain(np.nanmean(np.ptp(resampled - point, axis=0)))
    return {**found, **number, **({"goal": GOALS[kind]} if kind in GOALS else {})}


def evaluated_on(
    part: Predictions, rows: np.ndarray, trust: Mapping[str, Any], weights: np.ndarray | None
) -> Evaluated:
    """Predictions of some rows of a split, itself and in the resamples (R, N) of the whole split."""
    statistic = Conditions(part, trust)
    spread = None if weights is None else replicate(statistic, weights[:, rows])
    return statistic(np.ones((1, len(part)))), spread


def lesion_weights(rows: Predictions, replicates: int, seed: int) -> np.ndarray | None:
    """Bootstrap weights by lesion (R, N), or None where no class has two lesions."""
    if not can_resample(rows.group_id, rows.label):
        return None
    return bootstrap_weights(rows.group_id, rows.label, replicates, seed)


def lesions_of(rows: Predictions) -> int:
    """How many lesions some images are of."""
    return len(set(rows.group_id.tolist()))


def by_condition(clean: Predictions, corrupted: Predictions) -> dict[tuple[str, int], Predictions]:
    """(kind, severity) -> its rows, each in the order of ``clean``.

    Raises:
        ValueError: other images than those of ``clean``, or no condition at all.
    """
    named = corrupted.columns.get(CORRUPTION)
    if named is None or not len(corrupted):
        raise ValueError(f"the predictions of {corrupted.split!r} name no corruption: measure robustness again")
    parts = {}
    for name in dict.fromkeys(named.tolist()):
        rows = corrupted.select(named == name)
        if rows.image_id.tolist() != clean.image_id.tolist():
            raise ValueError(
                f"{name!r} holds {len(rows)} images, not the {len(clean)} clean ones in their order: measure again"
            )
        kind, _, severity = name.rpartition(" ")
        parts[kind, int(severity)] = rows
    return parts


class Conditions:
    """Every metric of one condition, for weights (R, N): names with (R,)."""

    def __init__(self, rows: Predictions, trust: Mapping[str, Any]) -> None:
        self.sample = Sample.at(rows, trust["temperature"])
        self.by_lesion = group_weights(rows.group_id)
        self.shares: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if rows.ood_score is None:
            return
        made = decisions(rows, trust)
        wrong, kept, answered = made.predicted != rows.label, made.accepted, ~made.abstains
        low = kept & (made.bands == "low")
        covered = made.sets[np.arange(len(rows)), rows.label]
        everyone = np.ones(len(rows), dtype=bool)
        # Name -> what is counted, among which.
        self.shares = {
            "accepted": (kept, everyone),
            "answered": (answered, everyone),
            "error_answered": (wrong, answered),
            "low": (low, kept),
            "error_low": (wrong, low),
            "coverage": (covered, kept),
        }

    def __call__(self, weights: np.ndarray) -> Values:
        """Weights (R, N) -> name -> (R,), NaN where it is not defined; of shares what is counted and among how many."""
        bins = reliability_bins(self.sample.confidence, self.sample.correct, weights)
        values = self.sample.brief(weights) | {"ece_debiased": ece_debiased(bins)}
        lesions = weights * self.by_lesion
        for name, (counted, among) in self.shares.items():
            values[name + COUNTED] = lesions @ (counted & among).astype(float)
            values[name + AMONG] = lesions @ among.astype(float)
        return values


def together(several: list[Evaluated]) -> Evaluated:
    """Several conditions as one, for the value and within each resample: means, and sums of what makes up a share."""

    def one(parts: list[Values]) -> Values:
        found = {}
        for name in parts[0]:
            values = np.stack([part[name] for part in parts], axis=-1)
            found[name] = values.sum(axis=-1) if name.endswith((COUNTED, AMONG)) else mean_defined(values)
        return found

    spreads = [spread for _, spread in several if spread is not None]
    return one([values for values, _ in several]), one(spreads) if len(spreads) == len(several) else None


def described(point: Values, spread: Values | None) -> dict[str, Any]:
    """Each metric with its interval; one that is not defined has the reason."""
    found: dict[str, Any] = {}
    for name in (*PLAIN, *(name for name in TRUSTED if name + AMONG in point)):
        value = float(share(point, name)[0])
        if np.isnan(value):
            found[name] = undefined(WHY_NOT.get(name, "no image"))
        else:
            resampled = None if spread is None else share(spread, name)
            found[name] = bootstrapped(value, resampled, centred=name == "ece_debiased")
        if name in TRUSTED:
            found[name]["among"] = plain(point[name + AMONG][0])
    return found


def share(values: Values, name: str) -> np.ndarray:
    """A metric (R,), of a share what is counted over among how many."""
    return values[name] if name in values else divide_or_nan(values[name + COUNTED], values[name + AMONG])


def drop(clean: Evaluated, other: Evaluated, metric: str = "accuracy") -> dict[str, Any]:
    """A share lost, paired: clean minus other, in [-1, 1]."""
    lost = float(clean[0][metric][0] - other[0][metric][0])
    resampled = None if clean[1] is None or other[1] is None else clean[1][metric] - other[1][metric]
    return bootstrapped(lost, resampled, floor=-1.0, paired=True)
