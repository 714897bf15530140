"""Trust fitted again on a few labelled lesions of another place, without training, and what so few can promise.

The gate keeps its detector, since n lesions cannot give a covariance; its threshold is set on the local images. The
temperature starts from the one there is, so that few lesions change little. All of this is fitted on the first half of
the lesions; the second half, which none of it saw, gives decision rules, sets and bands, as in :mod:`fit`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datasets_scripts.command import UserError
from trainers.metrics.number import plain
from trainers.metrics.predictions import Predictions
from trainers.metrics.weighting import group_weights
from trainers.trust.bands import LEAST, least_n
from trainers.trust.conformal import least_n as least_of_sets
from trainers.trust.fit import promises_on, shown_acceptance, temperature_section
from trainers.trust.halves import divide, halve, one_per_group
from trainers.trust.held_out import threshold_at
from trainers.trust.options import TrustOptions
from trainers.trust.prior import class_prior
from trainers.trust.temperature import CalibrationFit, TemperatureWarning, calibrated, fit_calibration, log_probs

KEEP, AUTO = "keep", "auto"
# What a second fit of the temperature may be; auto: the one with the least cross-validated loss on the first half.
REFITS = (AUTO, KEEP, "scalar", "bias_corrected")
FOLDS = 5
# Local lesions for which the table says what they can promise.
SIZES = (50, 100, 200, 400, 800, 1600)
TEMPERATURE_GATE = "max_softmax"


@dataclass(frozen=True)
class LocalFit:
    """Trust of another place.

    Attributes:
        config: JSON-ready ``config.trust``; the matrices of the gate stay.
        promises: what was asked and what is kept: see :func:`kept_promises`.
        table: number of lesions -> narrowest promises: see :func:`narrowest`.
    """

    config: dict[str, Any]
    promises: list[dict[str, Any]]
    table: list[dict[str, Any]]


def refit(
    rows: Predictions, old: Mapping[str, Any], options: TrustOptions, *, date: str, temperature: str = AUTO
) -> LocalFit:
    """Fit temperature, gate threshold, decision rules, sets and bands on local lesions.

    Args:
        rows: predictions of the local lesions, with the scores of the model's gate.
        old: the model's ``config.trust``.
        options: the promises that are asked for.
        date: of the fit, ISO.
        temperature: one of ``REFITS``.

    Raises:
        UserError: the lesions support no promise at all, or no class has two lesions.
    """
    try:
        first, _ = halve(rows.label, rows.group_id, options.seed)
    except ValueError as error:
        raise UserError(f"{error}: no promise can be made from these lesions") from error
    one, two = rows.select(first), rows.select(~first)
    facts = {"split": rows.split, "date": date, "also_used_for_model_selection": False}
    of_first = {"n_groups": len(set(one.group_id.tolist())), "half": "first", **facts}
    calibration = fit_on_top(one, old["temperature"], temperature, options.seed)
    section = temperature_section(calibration)
    section["method"] = "the earlier calibration kept" if calibration.kept else f"{section['method']}, from the earlier"
    config: dict[str, Any] = {
        "temperature": {**section, "seed": options.seed, **of_first},
        "prior": {
            "value": class_prior(one.label, one.group_id, len(rows.labels)).tolist(),
            "n": len(one),
            "method": "share of each class, every lesion weighing the same",
            **of_first,
        },
    }
    one, two = (with_gate_scores(part, {**old, **config}) for part in (one, two))
    config["ood"] = _gate(one, old["ood"], options, {"half": "first", **facts})
    inside, promising = (_accepted(part, config["ood"]["threshold"], options.seed) for part in (one, two))
    if not len(inside) or len(promising) < least_of_sets(options.alpha):
        least = 2 * math.ceil(least_of_sets(options.alpha) / options.acceptance)
        raise UserError(
            f"{len(set(rows.group_id.tolist()))} lesions support no promise (the gate accepts {len(promising)} of "
            f"the half that makes the promises; prediction sets with alpha {options.alpha:g} need "
            f"{least_of_sets(options.alpha)}, the bands {LEAST} in each half): give about {least} or more"
        )
    config |= promises_on(inside, promising, calibration, config["prior"], options, facts)
    config["policy"] = {"max_set_size": min(options.max_set_size, len(rows.labels) - 1)}
    fitted_for = {name: old.get("fitted_for", {}).get(name) for name in ("inference", "preprocessing")}
    config["fitted_for"] = {
        "inference": fitted_for["inference"] or "plain",
        "preprocessing": fitted_for["preprocessing"] or {},
        **facts,
    }
    drawn = one_per_group(rows.group_id, options.seed)
    malignant = float(np.isin(rows.label[drawn], rows.malignant_columns()).mean())
    table = [narrowest(n, malignant, options) for n in sorted({*SIZES, len(drawn)})]
    return LocalFit(config, kept_promises(config, options, malignant), table)


@dataclass(frozen=True, eq=False)
class _Refit(CalibrationFit):
    """A calibration on top of another one; ``kept``: it is that other one."""

    kept: bool = False


def fit_on_top(rows: Predictions, old: Mapping[str, Any], kind: str, seed: int) -> _Refit:
    """A calibration that is fitted to the calibrated logits of an earlier one, and both as one.

    ``softmax((z / T0 + b0) / T1 + b1)`` is ``softmax(z / (T0 T1) + b0 / T1 + b1)``; the ridge of the biases
    draws towards the earlier calibration and not towards none.

    Args:
        rows: local images, a lesion of them weighing 1.
        old: the earlier calibration, as a model's config holds it.
        kind: one of ``REFITS``.
        seed: of the folds of ``auto``.
    """
    before = calibrated(rows.logits, old)
    chosen = _least_loss(before, rows, seed) if kind == AUTO else kind
    fit = _fit(before, rows.label, rows.group_id, chosen)
    scale, bias = old.get("scale"), old.get("bias")
    new_bias = None
    if bias is not None or fit.bias is not None:
        nothing = np.zeros(rows.logits.shape[-1])
        new_bias = (nothing if bias is None else np.asarray(bias)) / fit.value
        new_bias = new_bias + (nothing if fit.bias is None else fit.bias)
        new_bias = new_bias - new_bias.mean()
    return _Refit(
        value=float(old["value"]) * fit.value,
        nll_before=fit.nll_before,
        nll_after=fit.nll_after,
        n=fit.n,
        kind="vector" if scale is not None else "scalar" if new_bias is None else "bias_corrected",
        scale=None if scale is None else np.asarray(scale) / fit.value,
        bias=new_bias,
        kept=chosen == KEEP,
    )


def _fit(logits: np.ndarray, labels: np.ndarray, groups: np.ndarray, kind: str) -> CalibrationFit:
    """One calibration; one that the data leave open is none, without a warning."""
    if kind == KEEP:
        weights = group_weights(groups)
        loss = float(weights @ -log_probs(logits)[np.arange(len(labels)), labels] / weights.sum())
        return CalibrationFit(1.0, loss, loss, len(labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TemperatureWarning)
        return fit_calibration(logits, labels, kind, groups=groups)


def _least_loss(logits: np.ndarray, rows: Predictions, seed: int) -> str:
    """The kind with the least loss on lesions that it was not fitted on; the simpler of equals."""
    fold, rest = np.zeros(len(rows), dtype=int), np.arange(len(rows))
    for number in range(FOLDS - 1):
        inside = divide(rows.label[rest], rows.group_id[rest], 1 / (FOLDS - number), seed + number)
        fold[rest[inside]] = number
        rest = rest[~inside]
    fold[rest] = FOLDS - 1
    weights, losses = group_weights(rows.group_id), {}
    for kind in REFITS[1:]:
        loss = np.zeros(len(rows))
        for number in np.unique(fold):
            inside = fold == number
            if inside.all():
                return KEEP
            fit = _fit(logits[~inside], rows.label[~inside], rows.group_id[~inside], kind)
            loss[inside] = -fit.log_probs(logits[inside])[np.arange(inside.sum()), rows.label[inside]]
        losses[kind] = float(weights @ loss)
    return min(losses, key=lambda kind: losses[kind])


def with_gate_scores(rows: Predictions, trust: Mapping[str, Any]) -> Predictions:
    """The same predictions; of the one detector that reads the temperature the scores at the temperature of now."""
    if trust["ood"]["detector"] != TEMPERATURE_GATE:
        return rows
    return replace(rows, ood_score=1 - rows.probs(float(trust["temperature"]["value"])).max(axis=1))


def _gate(one: Predictions, old: Mapping[str, Any], options: TrustOptions, facts: dict[str, Any]) -> dict[str, Any]:
    """The gate with a threshold that accepts the wanted share of local lesions, an image drawn of each."""
    drawn = one.select(one_per_group(one.group_id, options.seed))
    if drawn.ood_score is None:
        raise ValueError(f"the predictions of {one.split!r} have no ood_score: predict them with the model's gate")
    acceptance = shown_acceptance(options.acceptance, len(drawn))
    threshold = threshold_at(drawn.ood_score, acceptance)
    left_out = ("elsewhere", "acceptance_asked", "reason", "sources", "kept")
    fewer = {} if acceptance == options.acceptance else {"acceptance_asked": options.acceptance}
    return {
        **{name: value for name, value in old.items() if name not in left_out},
        "threshold": threshold,
        "acceptance": acceptance,
        "accepted": plain(float((drawn.ood_score <= threshold).mean())),
        "n": len(one),
        "n_groups": len(drawn),
        "sources": {},
        "kept": {"threshold": old["threshold"], "accepted": plain(float((drawn.ood_score <= old["threshold"]).mean()))},
        **fewer,
        **facts,
    }


def _accepted(part: Predictions, threshold: float, seed: int) -> Predictions:
    """The images of a half that the gate accepts, one per lesion."""
    inside = part.select(np.asarray(part.ood_score) <= threshold)
    return inside.select(one_per_group(inside.group_id, seed)) if len(inside) else inside


def kept_promises(trust: Mapping[str, Any], options: TrustOptions, malignant: float) -> list[dict[str, Any]]:
    """What was asked for and what the lesions support.

    Args:
        trust: as fitted.
        options: what was asked for.
        malignant: the share of malignant and premalignant lesions.

    Returns:
        JSON-ready rows: ``promise`` in words, ``asked`` (a share), ``kept``, ``reason`` (None where it is kept),
        ``needed``: about how many lesions it takes at least; None where no number is enough.
    """
    least = needed(options, malignant)
    sets, sensitivity = trust["conformal"], (trust["decision"].get("sensitivity") or {"threshold": 0.0})
    rows: list[tuple[str, float, str | None, int | None]] = [
        ("the prediction set holds the true class", 1 - options.alpha, None, least["sets"])
    ]
    if options.class_conditional and (without := sets["without_own_promise"]):
        rows.append(
            (f"the same for each class ({', '.join(without)})", 1 - options.alpha, _few_of(sets, options), None)
        )
    for name, within in (("low", 'in the band "low"'), ("moderate", 'in "low" and "moderate"')):
        band, missed = trust["bands"][name], ""
        if "missed_risk" in band:
            missed = f", and at most {band['missed_risk']:g} of malignant lesions called benign there"
        rows.append((f"wrong {within}, at most{missed}", band["risk"], band["reason"], least[name]))
    if trust["decision"].get("sensitivity"):
        rows.append(("malignant lesions are flagged", options.sensitivity, sensitivity["reason"], least["flagged"]))
    return [
        {"promise": words, "asked": plain(asked), "kept": why is None, "reason": why, "needed": lesions}
        for words, asked, why, lesions in rows
    ]


def _few_of(sets: Mapping[str, Any], options: TrustOptions) -> str:
    return f"fewer than {least_of_sets(options.alpha)} of {sets['n_lesions']} lesions are of each of these classes"


def narrowest(n: int, malignant: float, options: TrustOptions) -> dict[str, Any]:
    """The narrowest promises that n local lesions can support where the surest answers are all right.

    Half of the lesions, less those that the gate declines, make the promises; m of these are malignant. Without an
    error in k lesions a risk of ``1 - (1 - confidence)^(1/k)`` can be promised (Clopper & Pearson 1934).

    Args:
        n: lesions.
        malignant: the share of malignant and premalignant ones.
        options: acceptance, confidence, and the promises asked for.

    Returns:
        JSON-ready: ``n``, ``coverage`` of the sets, ``wrong`` in a band, ``missed`` malignant lesions in a band,
        ``flagged``; None where nothing can be promised.
    """
    half = math.floor(n / 2 * options.acceptance)
    at_risk = math.floor(half * malignant)

    def risk(k: int) -> float | None:
        return plain(1 - (1 - options.confidence) ** (1 / k)) if k else None

    bands = half >= LEAST
    flagged = risk(at_risk)
    return {
        "n": n,
        "malignant": at_risk,
        "coverage": plain(half / (half + 1)) if half else None,
        "wrong": risk(half) if bands else None,
        "missed": risk(at_risk) if bands else None,
        "flagged": None if flagged is None else plain(1 - flagged),
    }


def needed(options: TrustOptions, malignant: float) -> dict[str, int | None]:
    """About how many lesions each promise takes as it is asked for, where the surest answers are all right.

    Args:
        options: the promises.
        malignant: the share of malignant and premalignant lesions; where it is 0 promises about them need None.
    """

    def lesions(half: int | None, share: float = 1.0) -> int | None:
        return None if half is None or share <= 0 else 2 * math.ceil(half / options.acceptance / share)

    found: dict[str, int | None] = {"sets": lesions(least_of_sets(options.alpha))}
    for name in ("low", "moderate"):
        wrong, missed = getattr(options, f"{name}_risk"), getattr(options, f"{name}_missed")
        both = [lesions(max(LEAST, least_n(wrong, options.confidence) or 0))]
        if missed < 1:
            both.append(lesions(least_n(missed, options.confidence), malignant))
        found[name] = None if None in both else max(value for value in both if value is not None)
    return {**found, "flagged": lesions(least_n(1 - options.sensitivity, options.confidence), malignant)}


def table_lines(table: Sequence[Mapping[str, Any]], confidence: float) -> list[str]:
    """The table of :func:`narrowest` in Markdown."""

    def at(value: float | None, words: str) -> str:
        return "nothing" if value is None else f"{words} {100 * value:.1f} %"

    lines = [
        f"| local lesions | prediction sets hold the truth | wrong in a band ({100 * confidence:g} % confidence) | "
        "malignant called benign in a band | malignant lesions flagged |",
        "|---:|---:|---:|---:|---:|",
    ]
    for row in table:
        cells = [at(row["coverage"], "up to"), at(row["wrong"], "from"), at(row["missed"], "from")]
        lines.append(f"| {row['n']:,} | {' | '.join(cells)} | {at(row['flagged'], 'up to')} |")
    return lines
