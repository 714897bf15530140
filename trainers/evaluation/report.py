"""Predictions -> the ``evaluation`` part of ``report.json``: every metric of one split, with intervals.

A pure function of the predictions, a temperature and a seed: no model, no accelerator, seconds. The layout is the
contract that cards are rendered from; a number that cannot be computed has a reason instead of a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trainers.evaluation import isic2017
from trainers.evaluation.sample import SENSITIVITIES, SPECIFICITIES, THRESHOLDS, Sample
from trainers.evaluation.subgroups import subgroup_columns
from trainers.metrics.calibration import N_BINS, simulated_ece
from trainers.metrics.discrimination import recall
from trainers.metrics.intervals import bootstrap_weights, can_resample, exact_by_lesion, lesion_shares, replicate
from trainers.metrics.number import bootstrapped, measured, plain, undefined
from trainers.metrics.predictions import Predictions
from trainers.trust.temperature import Calibration

Statistic = Callable[[np.ndarray], dict[str, np.ndarray]]
Replicates = dict[str, np.ndarray] | None
NO_MALIGNANT_CLASS = "no class is marked as malignant or premalignant"
# What only some label sets are evaluated by: name -> function(sample, labels, resamples), None where they are others.
TASK_SECTIONS = {"isic2017": isic2017.section}


def evaluate(
    predictions: Predictions, temperature: Calibration = 1.0, *, replicates: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Measure one split.

    Args:
        predictions: of the split, at least one image.
        temperature: T > 0, or a whole ``config.trust["temperature"]``, fitted on another split; 1 when none was.
            Discrimination, per-class values, subgroups and views are those of the probabilities after it; calibration
            is given before and after.
        replicates: bootstrap resamples, and draws of the ECE floor.
        seed: of both.

    Returns:
        A JSON-ready dictionary: n, n_groups, conventions, discrimination, decision_curve, calibration, per_class,
        confusion_matrix, subgroups, views, and the sections of ``TASK_SECTIONS`` that fit the labels.

    Raises:
        ValueError: no images, a temperature that is not positive and finite, fewer than one replicate.
    """
    if not len(predictions):
        raise ValueError(f"the predictions of split {predictions.split!r} hold no image: there is nothing to measure")
    if not isinstance(temperature, Mapping) and not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature {temperature}: give a finite number above 0")
    if replicates < 1:
        raise ValueError(f"{replicates} replicates: give at least 1")
    before, after = Sample.at(predictions, 1.0), Sample.at(predictions, temperature)
    weights = _resamples(after, replicates, seed)
    point, spread = _with_spread(after.discrimination, weights, len(after))
    return {
        "n": len(after),
        "n_groups": after.n_groups,
        "conventions": conventions(replicates),
        "discrimination": _discrimination(after, point, spread),
        "decision_curve": _decision_curve(after, weights),
        "calibration": _calibration(before, after, weights, replicates, seed),
        "per_class": _per_class(after, predictions.labels, point, spread),
        "confusion_matrix": after.confusion().astype(int).tolist(),
        "subgroups": _subgroups(predictions, after, replicates, seed),
        "views": _views(predictions, before, after, replicates, seed),
        **{
            name: found
            for name, section in TASK_SECTIONS.items()
            if (found := section(after, predictions.labels, weights)) is not None
        },
    }


def conventions(replicates: int) -> dict[str, str]:
    """The definition of each number that has several in the literature; goes into the report and the card."""
    return {
        "averages": "Balanced accuracy, macro F1 and macro AUROC (one class against the rest) are means over the "
        "classes that have images; weighted F1 weighs them by support.",
        "p_malignant": "The sum of the probabilities of the malignant and premalignant classes; an image counts as "
        "positive when its true class is one of these. Sensitivity at a specificity is the highest among thresholds "
        "whose specificity is at least that, chosen on the same images; specificity at a sensitivity likewise. "
        "'partial_auroc_malignant' is the area of the ROC curve above a sensitivity of 0.8, at most 0.2 and 0.02 by "
        "chance (the metric of ISIC 2024).",
        "decision_curve": "Net benefit of acting where p_malignant is at or above the threshold: true positives per "
        "image less false ones times t / (1 - t) (Vickers & Elkin 2006), at the share of malignant images here. "
        "'gain': over the better of acting on all and on none.",
        "temperature": "All values but 'before' are of probabilities after temperature scaling.",
        "nll": "Mean negative log-likelihood of the true class, natural logarithm.",
        "brier": "Mean over images of the sum over classes of squared differences: range 0 to 2, not halved.",
        "ece": f"Confidence of the predicted class, {N_BINS} bins of equal width, absolute differences weighted by "
        "images. 'ece_floor' is the mean ECE of a perfectly calibrated model with these confidences and this number of "
        f"images ({replicates} simulations, images independent; its interval is their middle 95 %). 'ece_debiased' "
        "subtracts an estimate of the noise (Kumar et al. 2019, absolute case, normal approximation in closed form), "
        "which removes part of the floor, not all. An ECE inside the interval of the floor shows no miscalibration; "
        "near it, read the floor rather than the intervals of the others.",
        "ece_adaptive": f"As ECE, in {N_BINS} bins of equal mass (Nguyen & O'Connor 2015): each holds the same number "
        "of images, those on the border of two count in both in proportion. Chance adds to it as to ECE; the floor is "
        "not of it.",
        "ece_classwise": f"Mean over all classes of the ECE of each class's own probability, {N_BINS} bins of equal "
        "width (Kull et al. 2019); a class without images counts with the probability it was given. It falls with the "
        "number of classes: compare it within one vocabulary only.",
        "bootstrap": f"Lesion groups are drawn with replacement within each class, with all their images; {replicates} "
        "resamples, 95 % percentile. For every ECE the resamples are shifted to be centred on the value, since "
        "resampling itself adds to it. No interval is given where all resamples agree.",
        "exact": "Recall of a class: Clopper-Pearson 95 % over lesions, each counting the share of its images that is "
        "right; the value itself is by image, 'by_lesion' is the mean over lesions. Also for an accuracy of 0 or 1.",
    }


def _resamples(sample: Sample, replicates: int, seed: int) -> np.ndarray | None:
    if not can_resample(sample.groups, sample.labels):
        return None
    return bootstrap_weights(sample.groups, sample.labels, replicates, seed)


def _with_spread(statistic: Statistic, weights: np.ndarray | None, n: int) -> tuple[dict[str, np.ndarray], Replicates]:
    """The statistic of the sample itself, and of its resamples."""
    point = {name: values[0] for name, values in statistic(np.ones((1, n))).items()}
    return point, None if weights is None else replicate(statistic, weights)


def _of(name: str, point: dict[str, np.ndarray], spread: Replicates, **how: Any) -> dict[str, Any]:
    return bootstrapped(float(point[name]), None if spread is None else spread[name], **how)


def _accuracy(sample: Sample, point: dict[str, np.ndarray], spread: Replicates) -> dict[str, Any]:
    share = float(point["accuracy"])
    if share in (0.0, 1.0):
        return measured(share, *exact_by_lesion(sample.correct, sample.groups), "exact 95 % by lesion")
    return _of("accuracy", point, spread)


def _why_no_malignant(sample: Sample) -> str | None:
    """Why AUROC and sensitivity of p_malignant are not defined, or None when they are."""
    if not sample.has_malignant_classes:
        return NO_MALIGNANT_CLASS
    if not sample.malignant.any():
        return "no malignant or premalignant image"
    return "no benign image" if sample.malignant.all() else None


def _malignant(name: str, sample: Sample, point: dict[str, np.ndarray], spread: Replicates) -> dict[str, Any]:
    why = _why_no_malignant(sample)
    return undefined(why) if why else _of(name, point, spread)


def _discrimination(sample: Sample, point: dict[str, np.ndarray], spread: Replicates) -> dict[str, Any]:
    one_class = len(np.unique(sample.labels)) == 1
    return {
        "accuracy": _accuracy(sample, point, spread),
        "balanced_accuracy": _of("balanced_accuracy", point, spread),
        "macro_f1": _of("macro_f1", point, spread),
        "weighted_f1": _of("weighted_f1", point, spread),
        "auroc_macro": undefined("images of one class only") if one_class else _of("auroc_macro", point, spread),
        "auroc_malignant": _malignant("auroc_malignant", sample, point, spread),
        "sensitivity_malignant_at_specificity": {
            name: _malignant(f"sensitivity@{name}", sample, point, spread) for name in SPECIFICITIES
        },
        "specificity_malignant_at_sensitivity": {
            name: _malignant(f"specificity@{name}", sample, point, spread) for name in SENSITIVITIES
        },
        "partial_auroc_malignant": _malignant("partial_auroc", sample, point, spread),
    }


def _decision_curve(sample: Sample, weights: np.ndarray | None) -> list[dict[str, Any]]:
    """Net benefit at each threshold; empty where it is not defined."""
    if _why_no_malignant(sample):
        return []
    point, spread = _with_spread(sample.decision_curve, weights, len(sample))
    return [
        {
            "threshold": threshold,
            **{
                name: bootstrapped(float(values[at]), None if spread is None else spread[name][:, at], floor=None)
                for name, values in point.items()
            },
        }
        for at, threshold in enumerate(THRESHOLDS)
    ]


def _calibration(
    before: Sample, after: Sample, weights: np.ndarray | None, replicates: int, seed: int
) -> dict[str, dict[str, Any]]:
    return {
        name: _calibration_at(sample, weights, replicates, seed)
        for name, sample in (("before", before), ("after", after))
    }


def _calibration_at(sample: Sample, weights: np.ndarray | None, draws: int, seed: int) -> dict[str, Any]:
    point, spread = _with_spread(sample.calibration, weights, len(sample))
    floor = simulated_ece(sample.confidence, draws, seed)
    low, high = np.quantile(floor, [0.025, 0.975])
    return {
        "nll": _of("nll", point, spread, ceiling=None),
        "brier": _of("brier", point, spread, ceiling=2.0),
        "ece": _of("ece", point, spread, centred=True),
        "ece_floor": measured(floor.mean(), low, high, f"simulation, {draws} draws, 95 % of them"),
        "ece_debiased": _of("ece_debiased", point, spread, centred=True),
        "ece_adaptive": _of("ece_adaptive", point, spread, centred=True),
        "ece_classwise": _of("ece_classwise", point, spread, centred=True),
    }


def _per_class(
    sample: Sample, names: list[str], point: dict[str, np.ndarray], spread: Replicates
) -> list[dict[str, Any]]:
    found = recall(sample.confusion())
    rows = []
    for index, name in enumerate(names):
        mine = sample.labels == index
        support, lesions = int(mine.sum()), len(np.unique(sample.groups[mine]))
        row: dict[str, Any] = {"name": name, "support": support, "lesions": lesions}
        if not support:
            row |= dict.fromkeys(("precision", "recall", "f1", "auroc"), undefined("support 0"))
            rows.append(row)
            continue

        def of(metric: str, column: int = index) -> dict[str, Any]:
            return bootstrapped(float(point[metric][column]), None if spread is None else spread[metric][:, column])

        predicted = (sample.predicted == index).any()
        interval = exact_by_lesion(sample.correct[mine], sample.groups[mine])
        row["precision"] = of("class_precision") if predicted else undefined("never predicted")
        row["recall"] = measured(float(found[index]), *interval, "exact 95 % by lesion")
        right, lesions = lesion_shares(sample.correct[mine], sample.groups[mine])
        row["recall"]["by_lesion"] = plain(right / lesions)
        row["f1"] = of("class_f1")
        row["auroc"] = undefined("every image is of this class") if mine.all() else of("class_auroc")
        rows.append(row)
    return rows


def _subgroups(predictions: Predictions, after: Sample, replicates: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for name, (values, column) in subgroup_columns(predictions.columns, predictions.label).items():
        found[name] = [
            {"value": value, **_subgroup(after.select(column == value), replicates, seed)} for value in values
        ]
    return found


def _subgroup(sample: Sample, replicates: int, seed: int) -> dict[str, Any]:
    counts = {"n": len(sample), "n_groups": sample.n_groups}
    if not len(sample):
        return counts | dict.fromkeys(
            ("accuracy", "balanced_accuracy", "auroc_malignant", "ece"), undefined("no images")
        )
    weights = _resamples(sample, replicates, seed)

    def statistic(resampled: np.ndarray) -> dict[str, np.ndarray]:
        return sample.brief(resampled) | {"ece": sample.ece(resampled)}

    point, spread = _with_spread(statistic, weights, len(sample))
    return counts | {
        "accuracy": _accuracy(sample, point, spread),
        "balanced_accuracy": _of("balanced_accuracy", point, spread),
        "auroc_malignant": _malignant("auroc_malignant", sample, point, spread),
        "ece": _of("ece", point, spread, centred=True),
    }


def _views(predictions: Predictions, before: Sample, after: Sample, replicates: int, seed: int) -> list[dict[str, Any]]:
    """One view a source when there are several, as photos of another kind can be distinguished for the wrong reason."""
    sources = predictions.columns.get("source")
    if sources is None or len(set(sources.tolist())) < 2:
        return []
    views = []
    for source in sorted(set(sources.tolist())):
        old, new = before.select(sources == source), after.select(sources == source)
        weights = _resamples(new, replicates, seed)
        point, spread = _with_spread(new.discrimination, weights, len(new))
        views.append(
            {
                "name": f"source: {source}",
                "description": "rows of this source; a prediction of a class outside it counts as wrong",
                "labels": [predictions.labels[index] for index in np.unique(new.labels)],
                "n": len(new),
                "n_groups": new.n_groups,
                "discrimination": _discrimination(new, point, spread),
                "calibration": _calibration(old, new, weights, replicates, seed),
            }
        )
    return views
