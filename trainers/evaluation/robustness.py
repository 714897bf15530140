"""What is left of accuracy and of the promises when the images are worse than those of the test split.

The same images stand under every corruption, so that a difference from the clean ones is paired: each resample of
lesions is drawn once and counts for all. Corruptions and severities are those of
``trainers.model_folder.perturbations`` (after Hendrycks and Dietterich 2019, and Maron et al. 2021 for skin lesions).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainers.evaluation.decisions import decisions
from trainers.evaluation.sample import Sample
from trainers.metrics.calibration import ece_debiased, reliability_bins
from trainers.metrics.intervals import bootstrap_weights, can_resample, percentile_interval, replicate
from trainers.metrics.number import bootstrapped, measured, plain, undefined, without_interval
from trainers.metrics.predictions import CORRUPTION, Predictions
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
Values = dict[str, np.ndarray]
# Of the sample itself, and of its resamples where there are any.
Evaluated = tuple[Values, Values | None]


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
    everyone = np.ones((1, len(clean)))
    resampled = can_resample(clean.group_id, clean.label)
    weights = bootstrap_weights(clean.group_id, clean.label, replicates, seed) if resampled else None

    def evaluated(rows: Predictions) -> Evaluated:
        statistic = Conditions(rows, trust)
        return statistic(everyone), None if weights is None else replicate(statistic, weights)

    reference = evaluated(clean)
    found = {name: evaluated(rows) for name, rows in parts.items()}
    kinds, severities = ([*dict.fromkeys(part)] for part in zip(*found, strict=True))
    return {
        "split": clean.split,
        "n": len(clean),
        "n_groups": len(set(clean.group_id.tolist())),
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


def drop(clean: Evaluated, other: Evaluated) -> dict[str, Any]:
    """Accuracy lost, paired: clean minus corrupted, in [-1, 1]."""
    lost = float(clean[0]["accuracy"][0] - other[0]["accuracy"][0])
    if clean[1] is None or other[1] is None:
        return without_interval(lost, "no class has two lesions")
    resampled = clean[1]["accuracy"] - other[1]["accuracy"]
    if np.ptp(resampled) == 0:
        return without_interval(lost, "the same in every resample")
    return measured(
        lost, *percentile_interval(resampled), f"paired bootstrap by lesion, {len(resampled)} resamples, 95 %"
    )
