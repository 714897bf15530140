"""The table that papers on deep ensembles print: one model, the ensemble, MC dropout, side by side on one split.

Rows as in Lakshminarayanan et al. 2017 (deep ensembles) and Gal & Ghahramani 2016 (MC dropout): a single model is the
mean over the members evaluated alone, with their range; the ensemble is the mean of the members' probabilities; MC
dropout is the mean over S passes with dropout switched on, member by member. A pure function of stored logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import entr, softmax

from trainers.evaluation.paired import (
    ERRORS,
    RELATIVE,
    Drawn,
    described,
    difference,
    draw,
    lesion_swaps,
    relative_change,
    swap_test,
)
from trainers.evaluation.sample import Sample
from trainers.evaluation.selective import aurc, risk_coverage
from trainers.metrics.discrimination import auroc
from trainers.metrics.intervals import bootstrap_weights, can_resample
from trainers.metrics.number import bootstrapped, plain, undefined
from trainers.metrics.predictions import Predictions

SHOWN = ("accuracy", "auroc", *ERRORS)
SUM_TOLERANCE = 1e-4

# (uncertainty (N,), wrong (N,) bool) of each model that a row is the mean of.
Evaluated = list[tuple[np.ndarray, np.ndarray]]


def methods(
    predictions: Predictions,
    temperature: float = 1.0,
    *,
    mc_logits: np.ndarray | None = None,
    member_temperatures: Sequence[float] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Single model against ensemble (against MC dropout) on one split.

    Args:
        predictions: of an ensemble: logits (N, M, C), M > 1, raw.
        temperature: T > 0 of the ensemble, fitted on another split; 1 gives the table as it is published without one.
        mc_logits: (N, M, S, C) raw logits of S passes with dropout on, of each member; None leaves that row out.
        member_temperatures: M temperatures for the members alone (and their MC dropout), each fitted as the ensemble's
            was. Likelihoods compare fairly when each method has its own (Ashukha et al. 2020); without it
            the members get the ensemble's, which suits the ensemble alone.
        replicates: resamples of the intervals, and exchanges of the paired tests.
        seed: of both.

    Returns:
        JSON-ready: ``temperature``, ``member_temperatures``, ``n``, ``n_groups``, ``members``, ``samples``; ``rows``
        (``single_model``, ``ensemble``, ``mc_dropout``: metric -> value with interval and, over members, ``each``,
        ``min``, ``max``, ``sd``); ``differences`` (method minus single model, with interval and p) and
        ``relative_change`` of NLL and ECE, both method -> metric; ``uncertainty``; ``conventions``.

    Raises:
        ValueError: no image, one member only, a wrong shape of ``mc_logits`` or number of temperatures.
    """
    temperatures = _checked(predictions, temperature, mc_logits, member_temperatures)
    logits, members = predictions.logits, predictions.logits.shape[1]
    sides = {
        "single_model": [_alone(predictions, logits[:, m : m + 1], temperatures[m]) for m in range(members)],
        "ensemble": [Sample.at(predictions, temperature)],
    }
    if mc_logits is not None:
        sides["mc_dropout"] = [_alone(predictions, mc_logits[:, m], temperatures[m]) for m in range(members)]
    groups, labels = sides["ensemble"][0].groups, predictions.label
    weights = bootstrap_weights(groups, labels, replicates, seed) if can_resample(groups, labels) else None
    drawn = {name: _shown(predictions, draw(models, weights)) for name, models in sides.items()}
    swaps = lesion_swaps(groups, replicates, seed)
    others = [name for name in sides if name != "single_model"]
    tests = {name: _shown(predictions, swap_test(sides["single_model"], sides[name], swaps)) for name in others}
    return {
        "temperature": plain(temperature),
        "member_temperatures": [plain(value) for value in temperatures],
        "n": len(predictions),
        "n_groups": sides["ensemble"][0].n_groups,
        "members": members,
        "samples": None if mc_logits is None else int(mc_logits.shape[2]),
        "rows": {name: {metric: described(metric, one[metric]) for metric in SHOWN} for name, one in drawn.items()},
        "differences": {name: _differences(drawn["single_model"], drawn[name], tests[name]) for name in others},
        "relative_change": {name: _changes(drawn["single_model"], drawn[name]) for name in others},
        "uncertainty": uncertainty_by_outcome(predictions, temperature),
        "conventions": conventions(predictions, replicates, swaps[1]),
    }


def _differences(
    single: dict[str, Drawn], other: dict[str, Drawn], p_values: dict[str, float | None]
) -> dict[str, dict[str, Any]]:
    return {metric: {**difference(single[metric], other[metric]), "p": p_values[metric]} for metric in SHOWN}


def _changes(single: dict[str, Drawn], other: dict[str, Drawn]) -> dict[str, dict[str, Any]]:
    return {metric: relative_change(single[metric], other[metric]) for metric in RELATIVE}


def conventions(predictions: Predictions, replicates: int, every: bool) -> dict[str, str]:
    """What the numbers of ``methods`` mean; goes into the report."""
    kind = "of the malignant class" if _is_binary(predictions) else "mean over the classes, each against all the others"
    swaps = "all exchanges" if every else f"{replicates} random exchanges"
    return {
        "single_model": "Mean over the members evaluated alone; 'each' are their own values, 'min' and 'max' the "
        "range. The interval is of the mean: it covers which lesions were drawn, not which seeds.",
        "differences": "Method minus single model, paired by lesion; negative is better for NLL, Brier and ECE. "
        f"p: the predictions are exchanged within lesions ({swaps}; Noreen 1989), two-sided, not adjusted for the "
        "number of metrics. By Jensen's inequality the ensemble's NLL and Brier score can never exceed the members' "
        "mean at the same temperature: there the size says something, the p value does not.",
        "auroc": f"AUROC {kind}.",
        "brier": "Sum over classes of squared differences: range 0 to 2, for two classes twice the binary score.",
    }


def uncertainty(probs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Total, aleatoric and epistemic uncertainty of an ensemble's answers, in nats.

    Total is the entropy of the mean probability, aleatoric the members' expected entropy, epistemic their difference:
    the mutual information of answer and member (Depeweg et al. 2018, equation 9). ``hub_models`` computes the same.

    Args:
        probs: (N, M, C) members' probabilities; rows sum to 1.

    Returns:
        Three arrays (N,): total in [0, log C] = aleatoric + epistemic, both at least 0.

    Raises:
        ValueError: another shape, or rows that are no probabilities.
    """
    probs = np.asarray(probs, dtype=np.float64)
    if probs.ndim != 3:
        raise ValueError(f"probabilities have shape {probs.shape}; expected (N, members, C)")
    if probs.size and not (probs.min() >= 0 and np.abs(probs.sum(axis=2) - 1).max() <= SUM_TOLERANCE):
        raise ValueError("the members' rows are no probabilities (0 or more, sum 1): give softmax, not logits")
    total = entr(probs.mean(axis=1)).sum(axis=1)
    # Below 0 only by rounding: entropy is concave.
    epistemic = (total - entr(probs).sum(axis=2).mean(axis=1)).clip(min=0.0)
    return total, total - epistemic, epistemic


def uncertainty_by_outcome(predictions: Predictions, temperature: float) -> dict[str, dict[str, Any]]:
    """Mean uncertainty in nats of the images that the ensemble gets right, of those it gets wrong, and of all."""
    probs = softmax(predictions.logits / temperature, axis=2)
    parts = dict(zip(("total", "aleatoric", "epistemic"), uncertainty(probs), strict=True))
    right = probs.mean(axis=1).argmax(axis=1) == predictions.label
    chosen = {"all": np.ones(len(right), dtype=bool), "right": right, "wrong": ~right}
    return {
        name: {"n": int(rows.sum()), **{part: _mean(values[rows]) for part, values in parts.items()}}
        for name, rows in chosen.items()
    }


def error_detection(
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    member_temperatures: Sequence[float],
    mc_logits: np.ndarray | None,
    weights: np.ndarray | None,
) -> dict[str, dict[str, Any]]:
    """AUROC of each measure of uncertainty for wrong answers (Hendrycks & Gimpel, ICLR 2017); 0.5 is chance.

    A member alone and MC dropout are evaluated member by member; the mean is given.

    Args:
        logits: (N, M, C) raw, of M members.
        labels: (N,).
        temperature: T of the ensemble.
        member_temperatures: T of each member alone, and of its MC dropout.
        mc_logits: (N, M, S, C) raw logits of S passes with dropout on; None leaves these rows out.
        weights: (R, N) bootstrap weights by lesion, or None.

    Returns:
        ``confidence`` is 1 - the largest probability, ``entropy`` that of the answer, ``disagreement`` the mutual
        information between members, or passes; ``aurc`` the area under the risk-coverage curve of ``confidence``, lower
        is better. Method -> measure -> value with interval.
    """
    methods: dict[str, dict[str, Evaluated]] = {"single_model": {"confidence": [], "entropy": []}}
    for member, own in enumerate(member_temperatures):
        _add(methods["single_model"], softmax(logits[:, member : member + 1] / own, axis=2), labels)
    methods["ensemble"] = {"confidence": [], "entropy": [], "disagreement": []}
    _add(methods["ensemble"], softmax(logits / temperature, axis=2), labels)
    if mc_logits is not None:
        methods["mc_dropout"] = {"confidence": [], "entropy": [], "disagreement": []}
        for member, own in enumerate(member_temperatures):
            _add(methods["mc_dropout"], softmax(mc_logits[:, member] / own, axis=2), labels)
    return {
        method: {
            **{measure: _mean_auroc(evaluated, weights) for measure, evaluated in measures.items()},
            "aurc": _mean_over(_aurc, measures["confidence"], weights),
        }
        for method, measures in methods.items()
    }


def _mean(values: np.ndarray) -> float | None:
    return plain(values.mean()) if len(values) else None


def _checked(
    predictions: Predictions,
    temperature: float,
    mc_logits: np.ndarray | None,
    member_temperatures: Sequence[float] | None,
) -> list[float]:
    """The members' temperatures."""
    n, members, classes = predictions.logits.shape
    if not n:
        raise ValueError("the predictions hold no image: there is nothing to compare")
    if members < 2:
        raise ValueError(f"the predictions are of {members} member: an ensemble has 2 or more")
    if mc_logits is not None and (mc_logits.ndim != 4 or mc_logits.shape[:2] != (n, members)):
        raise ValueError(f"MC dropout's logits have shape {mc_logits.shape}; expected ({n}, {members}, S, {classes})")
    if mc_logits is not None and mc_logits.shape[3] != classes:
        raise ValueError(f"MC dropout's logits are of {mc_logits.shape[3]} classes; the members' of {classes}")
    temperatures = [temperature] * members if member_temperatures is None else list(member_temperatures)
    if len(temperatures) != members:
        raise ValueError(f"{len(temperatures)} member temperatures for {members} members: give one each")
    for value in (temperature, *temperatures):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"temperature {value}: give a finite number above 0")
    return temperatures


def _alone(predictions: Predictions, logits: np.ndarray, temperature: float) -> Sample:
    """One member, or its S passes, evaluated as a model of its own: logits (N, 1 or S, C)."""
    return Sample.at(replace(predictions, logits=np.asarray(logits, dtype=np.float64), features=None), temperature)


def _is_binary(predictions: Predictions) -> bool:
    return len(predictions.labels) == 2 and len(predictions.malignant_columns()) == 1


def _shown(predictions: Predictions, values: dict[str, Any]) -> dict[str, Any]:
    """The metrics of the table, under its names."""
    named = {**values, "auroc": values["auroc_malignant" if _is_binary(predictions) else "auroc_macro"]}
    return {name: named[name] for name in SHOWN}


def _add(measures: dict[str, Evaluated], probs: np.ndarray, labels: np.ndarray) -> None:
    """Evaluate one model: probabilities (N, members or passes, C)."""
    answer = probs.mean(axis=1)
    wrong = answer.argmax(axis=1) != labels
    total, _, epistemic = uncertainty(probs)
    found = {"confidence": 1 - answer.max(axis=1), "entropy": total, "disagreement": epistemic}
    for name, evaluated in measures.items():
        evaluated.append((found[name], wrong))


def _mean_auroc(evaluated: Evaluated, weights: np.ndarray | None) -> dict[str, Any]:
    if any(wrong.all() or not wrong.any() for _, wrong in evaluated):
        return undefined("a model is right, or wrong, on every image")
    return _mean_over(auroc, evaluated, weights)


def _mean_over(metric: Callable[..., np.ndarray], evaluated: Evaluated, weights: np.ndarray | None) -> dict[str, Any]:
    """The mean over models of a metric of (wrong, uncertainty, weights), with its interval."""
    value = float(np.mean([metric(wrong, scores) for scores, wrong in evaluated]))
    if weights is None:
        return bootstrapped(value, None)
    counts = weights.astype(np.float64)
    return bootstrapped(value, np.mean([metric(wrong, scores, counts) for scores, wrong in evaluated], axis=0))


def _aurc(wrong: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    return aurc(risk_coverage(scores, wrong, weights))
