"""Ways to get an uncertainty, side by side on the same images: what each is worth, and what it costs.

Every way gets a temperature and a low band of its own, fitted on the same halves of the calibration split, and is
measured on the same test images. A pure function of stored predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.evaluation.coverage import weighted_share
from trainers.evaluation.paired import signed
from trainers.evaluation.sample import Sample
from trainers.evaluation.selective import aurc, risk_coverage
from trainers.metrics import calibration as cal
from trainers.metrics.discrimination import auroc
from trainers.metrics.intervals import bootstrap_weights, can_resample, replicate
from trainers.metrics.number import bootstrapped, undefined, without_interval
from trainers.metrics.predictions import Predictions
from trainers.metrics.weighting import group_weights
from trainers.trust.groups import Answered, bands_of
from trainers.trust.halves import halve, one_per_group
from trainers.trust.options import TrustOptions
from trainers.trust.temperature import fit_temperature

# Metric -> whether more is better.
METRICS = {"nll": False, "ece": False, "auroc_errors": True, "aurc": False}
WORTH, NOT_WORTH, WORSE = "pays", "does not pay", "is worse"
CONVENTIONS = {
    "methods": "Each with its own scalar temperature and low band, fitted on the same halves of the calibration split. "
    "'single': the mean over the members alone.",
    "auroc_errors": "AUROC of 1 - the largest probability for wrong answers; aurc: the area under its risk-coverage "
    "curve, lower is better.",
    "missed_low": "Of all malignant or premalignant test lesions, those named benign in the way's own low band; "
    "'low': the share of all lesions in that band. No gate.",
    "differences": "Against the reference, paired bootstrap by lesion, 95 %; not adjusted for the number of ways. By "
    "Jensen's inequality the NLL of an ensemble can never exceed the mean over its members at one temperature: there "
    "the size says something, the interval does not.",
    "verdict": f"'{WORTH}': the interval of the difference of AUROC of errors or of AURC, or of NLL where the "
    f"reference is one model, lies on the better side, and none on the worse one; '{WORSE}': one lies on the worse "
    f"side and none on the better; '{NOT_WORTH}': otherwise. It says nothing of the size: weigh that against the "
    "passes.",
}


@dataclass(frozen=True)
class Way:
    """One way to get an uncertainty.

    Attributes:
        models: calibration and test predictions of each model that the way is the mean of; the images of all ways are
            the same, in the same order.
        cost: what one image costs, in words.
    """

    models: Sequence[tuple[Predictions, Predictions]]
    cost: str


@dataclass(frozen=True)
class _Measured:
    point: dict[str, float]
    spread: dict[str, np.ndarray] | None
    low: list[dict[str, Any]]
    missed: list[dict[str, Any]]


def uncertainty_section(
    ways: Mapping[str, Way], reference: str, options: TrustOptions, *, replicates: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Measure every way.

    Args:
        ways: name -> predictions and cost.
        reference: the way that the others are compared with.
        options: bounds and confidence of the low band, and the seed of the halves.
        replicates: of the intervals.
        seed: of the resamples.

    Returns:
        JSON-ready: ``reference``, ``n``, ``n_groups``; ``rows``: way -> ``cost``, each of ``METRICS``, ``low`` and
        ``missed_low``; ``differences``: way -> metric -> way minus reference; ``verdicts``: way -> verdict;
        ``conventions``.
    """
    test = ways[reference].models[0][1]
    groups = np.asarray(test.group_id).astype(str)
    weights = bootstrap_weights(groups, test.label, replicates, seed) if can_resample(groups, test.label) else None
    found = {name: _measured(way, options, weights) for name, way in ways.items()}
    rows: dict[str, Any] = {}
    for name, one in found.items():
        numbers = {metric: _number(metric, one) for metric in METRICS}
        shares = {"low": _share(one.low), "missed_low": _share(one.missed)}
        rows[name] = {"cost": ways[name].cost, **numbers, **shares}
    differences = {
        name: {metric: _difference(metric, found[reference], one) for metric in METRICS}
        for name, one in found.items()
        if name != reference
    }
    return {
        "reference": reference,
        "n": len(test),
        "n_groups": len(set(groups.tolist())),
        "rows": rows,
        "differences": differences,
        "verdicts": {name: verdict(row, len(ways[reference].models) == 1) for name, row in differences.items()},
        "conventions": CONVENTIONS,
    }


def verdict(differences: Mapping[str, Mapping[str, Any]], with_nll: bool = True) -> str:
    """Whether a way pays, by the intervals of its differences from the reference.

    Args:
        differences: metric -> way minus reference.
        with_nll: whether that of NLL counts beside AUROC of errors and AURC.
    """
    better = worse = False
    for metric in ("nll", "auroc_errors", "aurc") if with_nll else ("auroc_errors", "aurc"):
        number = differences[metric]
        if number["value"] is None or number["low"] is None:
            continue
        above, below = number["low"] > 0, number["high"] < 0
        better |= above if METRICS[metric] else below
        worse |= below if METRICS[metric] else above
    if better and not worse:
        return WORTH
    return WORSE if worse and not better else NOT_WORTH


def _measured(way: Way, options: TrustOptions, weights: np.ndarray | None) -> _Measured:
    points, spreads, low, missed = [], [], [], []
    for calibration, test in way.models:
        first, second = (
            calibration.select(rows) for rows in halve(calibration.label, calibration.group_id, options.seed)
        )
        temperature = fit_temperature(first.logits, first.label).value
        sample = Sample.at(test, temperature)

        def statistic(counts: np.ndarray, sample: Sample = sample) -> dict[str, np.ndarray]:
            doubt, wrong = 1 - sample.confidence, ~sample.correct
            return {
                "nll": cal.nll(sample.log_probs, sample.labels, counts),
                "ece": sample.ece(counts),
                "auroc_errors": auroc(wrong, doubt, counts),
                "aurc": aurc(risk_coverage(doubt, wrong, counts)),
            }

        points.append({name: float(values[0]) for name, values in statistic(np.ones((1, len(test)))).items()})
        if weights is not None:
            spreads.append(replicate(statistic, weights))
        one, two = (_answered(part, temperature, options.seed) for part in (first, second))
        threshold = bands_of(one, two, options).low.threshold
        inside = 1 - sample.confidence <= (-1.0 if threshold is None else threshold)
        by_lesion = group_weights(test.group_id)
        benign = ~np.isin(sample.predicted, test.malignant_columns())
        low.append(weighted_share(inside, np.ones(len(test), dtype=bool), by_lesion))
        missed.append(weighted_share(inside & benign, sample.malignant, by_lesion))
    point = {name: float(np.mean([one[name] for one in points])) for name in METRICS}
    spread = None
    if spreads:
        spread = {name: np.mean([one[name] for one in spreads], axis=0) for name in METRICS}
        spread["ece"] = spread["ece"] - np.nanmean(spread["ece"]) + point["ece"]
    return _Measured(point, spread, low, missed)


def _answered(part: Predictions, temperature: float, seed: int) -> Answered:
    rows = part.select(one_per_group(part.group_id, seed))
    probs = rows.probs(temperature)
    return Answered(rows, probs, probs.argmax(axis=1))


def _number(metric: str, found: _Measured) -> dict[str, Any]:
    if np.isnan(found.point[metric]):
        return undefined("every answer is right, or every one is wrong")
    spread = None if found.spread is None else found.spread[metric]
    return bootstrapped(found.point[metric], spread, ceiling=None if metric == "nll" else 1.0)


def _difference(metric: str, reference: _Measured, found: _Measured) -> dict[str, Any]:
    spread = None
    if reference.spread is not None and found.spread is not None:
        spread = found.spread[metric] - reference.spread[metric]
    return signed(found.point[metric] - reference.point[metric], spread)


def _share(shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The share of one model with its interval, or the mean over several."""
    values = [share["value"] for share in shares]
    if len(shares) == 1 or None in values:
        return shares[0]
    return without_interval(float(np.mean(values)), f"the mean over {len(shares)} models")
