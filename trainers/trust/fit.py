"""All of trust, fitted at once on the predictions of one split: a pure function of stored predictions.

The split is halved by lesion group. The first half gives the temperature, the class frequencies, the gate and the grid
of the bands; the second half, which none of these saw, gives the quantiles of the sets and the tests of the bands, on
the images that the gate accepts, one image per lesion. Nothing here reads the test split.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from trainers.metrics.predictions import Predictions
from trainers.metrics.weighting import check_values
from trainers.trust.bands import LEAST, least_n
from trainers.trust.conformal import least_n as least_of_sets
from trainers.trust.decision import fit_decision, names_of
from trainers.trust.detectors import OODFit, OODFitError, score
from trainers.trust.gate import GateFit, fit_gate
from trainers.trust.groups import Answered, bands_of, check_subgroup_column, fit_groups, sets_of
from trainers.trust.halves import halve, one_per_group
from trainers.trust.held_out import threshold_at
from trainers.trust.options import AUTO, TrustOptions
from trainers.trust.prior import class_prior
from trainers.trust.temperature import CalibrationFit, fit_calibration

# 20 * 0.95 is 19.000000000000004: a hair of slack keeps a whole number whole.
SLACK = 1e-9
# The detector that is fitted on nothing, and so can always be had.
UNFITTED = "energy"
METHODS = {
    "scalar": "scalar, minimum NLL (Guo et al. 2017)",
    "vector": "vector scaling, minimum NLL (Guo et al. 2017)",
    "bias_corrected": "bias-corrected temperature, minimum NLL (Alexandari et al. 2020)",
}


class TrustWarning(UserWarning):
    """Trust was fitted, but promises less than its options set; the message gives the reason."""


@dataclass(frozen=True)
class FittedTrust:
    """What a model takes over by ``set_trust``.

    Attributes:
        config: JSON-ready, as ``LesionConfig`` describes its ``trust``.
        buffers: name -> float32 matrix of the gate.
    """

    config: dict[str, Any]
    buffers: dict[str, np.ndarray]


def fit_trust(
    rows: Predictions,
    perturbed: Mapping[str, Predictions],
    options: TrustOptions,
    *,
    date: str,
    preprocessing: Mapping[str, Any] | None = None,
    gate_sets: Mapping[str, Predictions] | None = None,
) -> FittedTrust:
    """Fit everything.

    Args:
        rows: predictions of the calibration split, with features; of validation where there is none, and then marked
            so.
        perturbed: kind of perturbation -> predictions of perturbed images of the first half (:func:`first_half`); empty
            where the model has no image input: the detector is then the first that does not depend on the answer alone.
        options: what to fit.
        date: of the fit, ISO.
        preprocessing: the image processor's settings, for which alone the promises hold.
        gate_sets: name -> predictions of images of another source, labelled or not, that the gate alone is fitted on.

    Raises:
        ValueError: no features, a half of which the gate accepts nothing, or nothing to fit on.
    """
    if options.subgroup_column:
        check_subgroup_column(options.subgroup_column, rows.columns, len(rows), f"the {rows.split} split")
    first, second = halve(rows.label, rows.group_id, options.seed)
    facts = {
        "split": rows.split,
        "date": date,
        "also_used_for_model_selection": rows.split == "validation",
    }
    one, two = rows.select(first), rows.select(second)
    # Biases and class frequencies must weigh the images alike; a scalar has no such partner and counts images.
    by_lesion = None if options.temperature == "scalar" else one.group_id
    calibration = fit_calibration(one.logits, one.label, options.temperature, groups=by_lesion)
    made_from = np.searchsorted(np.flatnonzero(first), first_half(rows, options)) if perturbed else None
    gate, fewer = _gate(one, calibration.value, perturbed, made_from, options, gate_sets or {})
    of_first = {"n_groups": _groups(one), "half": "first", **facts}
    config = {
        "temperature": {**temperature_section(calibration), "seed": options.seed, **of_first},
        "prior": {
            "value": class_prior(one.label, one.group_id, len(rows.labels)).tolist(),
            "n": len(one),
            "method": "share of each class, every lesion weighing the same",
            **of_first,
        },
        "ood": {**gate.as_config(), **fewer, "half": "first", **facts},
    }
    drawn_one, drawn_two = (_accepted(part, gate, options.seed) for part in (one, two))
    config |= promises_on(drawn_one, drawn_two, calibration, config["prior"], options, facts)
    config["policy"] = {"max_set_size": min(options.max_set_size, len(rows.labels) - 1)}
    config["fitted_for"] = {"inference": options.inference, "preprocessing": dict(preprocessing or {}), **facts}
    return FittedTrust(config, gate.buffers)


def temperature_alone(rows: Predictions, why: str) -> FittedTrust:
    """A temperature, fitted on all of a split, where nothing else can be.

    Args:
        rows: predictions of the split.
        why: why there is no more; stands beside the temperature.
    """
    fit = fit_calibration(rows.logits, rows.label)
    facts = {
        "n_groups": _groups(rows),
        "split": rows.split,
        "date": datetime.now(UTC).date().isoformat(),
        "also_used_for_model_selection": rows.split == "validation",
        "alone_because": why,
    }
    return FittedTrust({"temperature": {**temperature_section(fit), **facts}}, {})


def promised(rows: Predictions, trust: Mapping[str, Any], options: TrustOptions) -> dict[str, Any]:
    """Whether anything is promised, and if not, why, and how many calibration lesions it would take.

    Args:
        rows: of the split that trust was fitted on.
        trust: what was fitted, or a temperature alone.
        options: of the fit.

    Returns:
        ``possible``; ``declines``: the model declines every image; ``split``, ``n``: the lesions it has (``unit``:
        images where each is a lesion of its own); ``needed``: about how many would be enough, None where more
        would not help because too many answers are wrong; ``reason``: None where something is promised.
    """
    n = _groups(rows)
    unit = "images" if n == len(rows) else "lesions"
    least = needed_lesions(options, len(rows.labels))
    counts = {"split": rows.split, "n": n, "unit": unit, "needed": least}
    found: dict[str, Any] = {"possible": True, "declines": False, **counts, "reason": None}
    if "bands" not in trust:
        return {**found, "possible": False, "reason": str(trust["temperature"].get("alone_because", "nothing fitted"))}
    bands = trust["bands"]
    if any(band["threshold"] is not None for band in bands.values()):
        return found
    moderate = bands["moderate"]
    if n >= least and moderate["reason"]:
        found["needed"] = _needed_for(moderate, n)
    return {**found, "possible": False, "declines": True, "reason": str(moderate["reason"])}


def _needed_for(band: Mapping[str, Any], n: int) -> int | None:
    """About how many lesions a band without a promise takes, where ``n`` were not enough; None where more do not help.

    The share of wrong answers, and that of missed malignant lesions, decide how many more it takes.
    """
    wanted = []
    if band["n"]:
        more = least_n(band["risk"], band["confidence"], band["errors"] / band["n"])
        wanted.append(None if more is None else n * more / band["n"])
    if band.get("missed_risk"):
        malignant = max(band["n_malignant"], 1)
        more = least_n(band["missed_risk"], band["confidence"], band["missed"] / malignant)
        wanted.append(None if more is None else n * more / malignant)
    return None if None in wanted else max([math.ceil(value) for value in wanted if value is not None] + [n + 1])


def needed_lesions(options: TrustOptions, classes: int) -> int:
    """About how many calibration lesions it takes to promise anything, where the surest answers are all right.

    Each half needs, among the lesions that the gate accepts, those of the first threshold, those of the binomial bound
    without an error, and those of a finite quantile; of each class the first half may get one lesion less.
    """
    without_error = least_n(options.moderate_risk, options.confidence) or 0
    half = max(LEAST, without_error, least_of_sets(options.alpha))
    return 2 * math.ceil(half / options.acceptance) + classes


def first_half(rows: Predictions, options: TrustOptions) -> np.ndarray:
    """Indices of up to ``shifted_images`` images of the first half, one per lesion, drawn by the seed."""
    first, _ = halve(rows.label, rows.group_id, options.seed)
    inside = np.flatnonzero(first)
    drawn = inside[one_per_group(rows.group_id[inside], options.seed)]
    order = np.random.default_rng(options.seed).permutation(len(drawn))
    return np.sort(drawn[order[: options.shifted_images]])


def shown_acceptance(wanted: float, n: int) -> float:
    """The acceptance that n images can show: ``wanted``, or n / (n + 1) cut to hundredths where they are too few.

    The threshold is then the largest held-out score, which a next image exceeds with a chance of 1 / (n + 1).
    """
    return wanted if (n + 1) * wanted <= n + SLACK else math.floor(100 * n / (n + 1)) / 100


def _gate(
    one: Predictions,
    temperature: float,
    perturbed: Mapping[str, Predictions],
    made_from: np.ndarray | None,
    options: TrustOptions,
    gate_sets: Mapping[str, Predictions],
) -> tuple[GateFit, dict[str, Any]]:
    """The gate of the first half; and what it accepts less than the options set, with the reason."""
    acceptance = shown_acceptance(options.acceptance, len(one))
    # Before the fit: a detector without a fit stands in where there are too few images, and for nothing else.
    others = {f"images ({name})": part for name, part in {**perturbed, **gate_sets}.items()}
    for images, rows in {"images": one, **others}.items():
        check_values(_features(rows), "feature", images)
        check_values(rows.logits, "logit", images)
        check_values(rows.early, "statistic of an early layer", images)
    try:
        gate = fit_gate(
            **_known(one, gate_sets),
            temperature=temperature,
            perturbed={kind: _gate_inputs(part) for kind, part in perturbed.items()},
            acceptance=acceptance,
            detector=options.detector,
            perturbed_rows=made_from,
            seed=options.seed,
        )
    except OODFitError as error:
        if options.detector != AUTO:
            raise
        gate = _unfitted_gate(one, temperature, acceptance, options.seed, f"no other can be fitted: {error}")
    if acceptance == options.acceptance:
        return gate, {}
    why = (
        f"{len(one)} images can show that {acceptance:g} of such images pass, not {options.acceptance:g}, which needs "
        f"{math.ceil(options.acceptance / (1 - options.acceptance) - SLACK)}"
    )
    warnings.warn(f"the gate: {why}", TrustWarning, stacklevel=3)
    return gate, {"acceptance_asked": options.acceptance, "reason": why}


def _known(one: Predictions, gate_sets: Mapping[str, Predictions]) -> dict[str, Any]:
    """Images that the gate is fitted on, those of the split first; one without a label counts as what is predicted."""
    parts = {"": one, **gate_sets}
    source = one.columns.get("source", np.full(len(one), one.dataset or "the dataset", dtype=object))
    own = [rows.probs().argmax(axis=1) for rows in gate_sets.values()]
    groups = [[f"{name}/{group}" for group in rows.group_id] for name, rows in gate_sets.items()]
    early = [rows.early for rows in parts.values() if rows.early is not None]
    return {
        "features": np.concatenate([_features(rows) for rows in parts.values()]),
        "raw_logits": np.concatenate([rows.logits for rows in parts.values()]),
        "labels": np.concatenate([one.label, *own]),
        "groups": np.concatenate([one.group_id, *groups]),
        "early": np.concatenate(early) if early else None,
        "sources": np.concatenate([source, *(np.full(len(rows), name) for name, rows in gate_sets.items())])
        if gate_sets or "source" in one.columns
        else None,
    }


def _unfitted_gate(one: Predictions, temperature: float, acceptance: float, seed: int, why: str) -> GateFit:
    """The gate of a handful of images: a detector that is fitted on nothing, so that no score needs holding out."""
    nothing = OODFit()
    scores = score(UNFITTED, nothing, _features(one), one.logits, temperature)
    threshold = threshold_at(scores, acceptance)
    return GateFit(
        detector=UNFITTED,
        threshold=threshold,
        acceptance=acceptance,
        accepted=float((scores <= threshold).mean()),
        settings=nothing.settings,
        buffers=nothing.buffers,
        temperature=temperature,
        n=len(one),
        n_groups=_groups(one),
        chosen_by={"method": why},
        seed=seed,
    )


def _accepted(part: Predictions, gate: GateFit, seed: int) -> Predictions:
    """The images of a half that the gate accepts, one per lesion."""
    inside = part.select(gate.accepts(*_gate_inputs(part)))
    if not len(inside):
        raise ValueError(
            f"the gate, set on one half, accepts none of the {len(part)} images of the other: there is nothing to "
            "promise anything about; give more images, or another detector"
        )
    return inside.select(one_per_group(inside.group_id, seed))


def _gate_inputs(rows: Predictions) -> Any:
    """Features, raw logits and, where there are, early statistics."""
    return (_features(rows), rows.logits, *(() if rows.early is None else (rows.early,)))


def _features(rows: Predictions) -> np.ndarray:
    if rows.features is None:
        raise ValueError(
            f"the predictions of {rows.split!r} hold no features, which the gate is fitted on: predict them again, and "
            "keep the features"
        )
    return rows.features


def promises_on(
    one: Predictions,
    two: Predictions,
    calibration: CalibrationFit,
    prior: dict[str, Any],
    options: TrustOptions,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Decision rules, sets and bands, from the accepted images of both halves, one per lesion."""
    probs_one, probs_two = (np.exp(calibration.log_probs(part.logits)) for part in (one, two))
    decision = fit_decision(two, probs_two, options)
    rule = {"decision": decision, "prior": prior}
    first, second = (
        Answered(part, probs, names_of(probs, rule)) for part, probs in ((one, probs_one), (two, probs_two))
    )
    sets, bands = sets_of(second, options), bands_of(first, second, options)
    counted = {"n_lesions": len(two), "half": "second", **facts}
    return {
        "decision": {**decision, **counted},
        "conformal": {**sets.as_config(), **counted},
        "bands": {name: {**band, **counted} for name, band in bands.as_config().items()},
        **({"groups": {**fit_groups(first, second, sets, options), **counted}} if options.subgroup_column else {}),
    }


def temperature_section(fit: CalibrationFit) -> dict[str, Any]:
    """JSON-ready ``config.trust["temperature"]``, less where it was fitted."""
    found: dict[str, Any] = {"kind": fit.kind, "value": fit.value}
    for name in ("scale", "bias"):
        values = getattr(fit, name)
        if values is not None:
            found[name] = values.tolist()
    return found | {"n": fit.n, "nll_before": fit.nll_before, "nll_after": fit.nll_after, "method": METHODS[fit.kind]}


def _groups(rows: Predictions) -> int:
    return len(set(rows.group_id.tolist()))
