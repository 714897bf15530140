"""Decision rules side by side, and the flag of malignancy with its promise, on a split that none was fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hub_models.decision_lesion import named_class
from trainers.evaluation.decisions import Decisions
from trainers.evaluation.sample import Sample
from trainers.evaluation.subgroups import UNKNOWN, subgroup_columns
from trainers.metrics.intervals import bootstrap_weights, can_resample, exact_interval, lesion_shares, replicate
from trainers.metrics.number import bootstrapped, measured, undefined
from trainers.metrics.predictions import Predictions

# ``sensitivity`` names the same class as ``most_probable``.
NAMING = ("most_probable", "balanced", "cost")
BY_LESION = "exact 95 % by lesion"


def decision_section(
    predictions: Predictions, made: Decisions, trust: Mapping[str, Any], *, replicates: int = 1000, seed: int = 0
) -> dict[str, Any] | None:
    """Evaluate the decision rules on one split.

    Args:
        predictions: of the split.
        made: the answers to them.
        trust: the model's ``config.trust``.
        replicates: of the intervals.
        seed: of the resamples.

    Returns:
        JSON-ready; None where no rules were fitted. ``rule``: the model's own. ``rules``: of each rule that it has, as
        if every image were answered: ``accuracy``, ``balanced_accuracy`` (by image), ``sensitivity`` and
        ``specificity`` (by lesion, a malignant class named or not), ``confusion_matrix``. ``flag``: of the images that
        the gate accepts, None where there is no threshold: ``sensitivity`` and ``specificity`` by lesion, ``per_class``
        and ``diagnosis`` (share flagged), ``kept`` and ``contradicted`` as of the bands.
    """
    fitted = trust.get("decision")
    if not fitted:
        return None
    sample = Sample.at(predictions, trust["temperature"])
    weights = None
    if can_resample(sample.groups, sample.labels):
        weights = bootstrap_weights(sample.groups, sample.labels, replicates, seed)
    probs = torch.from_numpy(made.probs)
    rules = [name for name in NAMING if name != "cost" or fitted.get("cost")]
    return {
        "rule": fitted["rule"],
        "rules": [
            {"rule": rule, **_rule(replace(sample, predicted=named.numpy()), predictions.malignant_columns(), weights)}
            for rule in rules
            for named in [named_class(probs, rule, trust)]
        ],
        "flag": None if made.flagged is None else _flag(predictions, made, fitted["sensitivity"]),
        "conventions": _conventions(),
    }


def _rule(sample: Sample, malignant: np.ndarray, weights: np.ndarray | None) -> dict[str, Any]:
    point = sample.brief(np.ones((1, len(sample))))
    spread = None if weights is None else replicate(sample.brief, weights)
    named = np.isin(sample.predicted, malignant)
    return {
        **{
            name: bootstrapped(float(point[name][0]), None if spread is None else spread[name])
            for name in ("accuracy", "balanced_accuracy")
        },
        "sensitivity": _share(named, sample.malignant, sample.groups),
        "specificity": _share(~named, ~sample.malignant, sample.groups),
        "confusion_matrix": sample.confusion().astype(int).tolist(),
    }


def _flag(predictions: Predictions, made: Decisions, fitted: Mapping[str, Any]) -> dict[str, Any]:
    flagged, kept = made.flagged, made.accepted
    assert flagged is not None
    malignant = np.isin(predictions.label, predictions.malignant_columns())
    groups = predictions.group_id

    def share(hits: np.ndarray, among: np.ndarray) -> dict[str, Any]:
        return _share(hits, among & kept, groups)

    sensitivity = share(flagged, malignant)
    known = sensitivity["value"] is not None
    diagnoses = subgroup_columns(predictions.columns, predictions.label).get("diagnosis")
    own = np.array(predictions.labels, dtype=object)[predictions.label]
    # Where one of several archives states no finer diagnosis, the label is the diagnosis.
    column = own if diagnoses is None else np.where(diagnoses[1] == UNKNOWN, own, diagnoses[1])
    values = [] if diagnoses is None else sorted(set(column[malignant].tolist()))
    return {
        **{name: fitted[name] for name in ("target", "confidence", "threshold", "n", "missed")},
        "sensitivity": sensitivity,
        "specificity": share(~flagged, ~malignant),
        "kept": bool(sensitivity["value"] >= fitted["target"]) if known else None,
        "contradicted": bool(sensitivity["high"] < fitted["target"]) if known else None,
        "per_class": [
            {"name": name, "group": predictions.label_groups.get(name), **_flagged(share, flagged, mine, groups, kept)}
            for index, name in enumerate(predictions.labels)
            for mine in [predictions.label == index]
        ],
        "diagnosis": [
            {"value": value, **_flagged(share, flagged, mine, groups, kept)}
            for value in values
            for mine in [(column == value) & malignant]
            if (mine & kept).any()
        ],
    }


def _flagged(share: Any, flagged: np.ndarray, mine: np.ndarray, groups: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    counted = groups[mine & kept]
    return {"n": len(counted), "n_groups": len(set(counted.tolist())), "flagged": share(flagged, mine)}


def _share(hits: np.ndarray, among: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    if not among.any():
        return undefined("no such image")
    right, lesions = lesion_shares(hits[among], groups[among])
    return measured(right / lesions, *exact_interval(right, lesions), BY_LESION)


def _conventions() -> dict[str, str]:
    return {
        "rules": "Every image answered, also those that the model declines. Sensitivity: share of malignant or "
        "premalignant lesions for which a malignant or premalignant class is named, whichever; specificity: share of "
        "the others for which none is. By lesion, one of several images counting the share of its images; "
        "Clopper-Pearson 95 %.",
        "flag": "Of the images that the gate accepts, whether or not the model then answers: share with p_malignant at "
        "or above the threshold, by lesion. 'kept': the measured sensitivity is at least the promised one; "
        "'contradicted': its whole interval lies below.",
    }
