"""What recalibration on n local lesions gains, from stored predictions: repeated draws, evaluated on the other lesions.

Each draw takes n local lesions, fits trust again on them (``trust.local``) and evaluates it on all others, beside the
trust before, the verdict of the test for a shift on the n lesions without their labels, and weighted conformal sets
(``trust.weighted``) that use the others' images, but no local label.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from datasets_scripts.command import UserError
from hub_models.trust_lesion import conformal_scores
from trainers.evaluation.decisions import calibrated_probs, decisions
from trainers.metrics.number import plain
from trainers.metrics.predictions import Predictions
from trainers.metrics.weighting import group_weights
from trainers.trust.conformal import ConformalFitWarning, quantile
from trainers.trust.halves import halve, one_per_group
from trainers.trust.local import AUTO, refit, with_gate_scores
from trainers.trust.options import TrustOptions
from trainers.trust.shift import Answers, find_shift
from trainers.trust.weighted import WeightError, check_effective, density_ratios, weighted_quantile

MEASURES = {
    "accepted": "passes the gate",
    "coverage": "set holds the true class",
    "set_size": "classes in a set",
    "flagged": "malignant lesions flagged",
    "answered": "answered",
    "wrong": "wrong, of the answered",
    "nll": "NLL, nats",
}
BEFORE, AFTER = "before", "after"


def measure(rows: Predictions, trust: Mapping[str, Any]) -> dict[str, float | None]:
    """``MEASURES`` of a model with fitted trust on labelled lesions, a lesion weighing 1; None where not defined."""
    rows = with_gate_scores(rows, trust)
    made, weights = decisions(rows, trust), group_weights(rows.group_id)
    right, kept = made.predicted == rows.label, made.accepted
    malignant = np.isin(rows.label, rows.malignant_columns())
    answered = ~made.abstains

    def mean(values: np.ndarray, of: np.ndarray) -> float | None:
        return float(np.average(values[of], weights=weights[of])) if of.any() else None

    return {
        "accepted": mean(kept, np.ones_like(kept)),
        "coverage": mean(made.sets[np.arange(len(rows)), rows.label], kept),
        "set_size": mean(made.sets.sum(axis=1), kept),
        "flagged": None if made.flagged is None else mean(made.flagged, kept & malignant),
        "answered": mean(answered, np.ones_like(kept)),
        "wrong": mean(~right, answered),
        "nll": mean(-np.log(np.maximum(made.probs[np.arange(len(rows)), rows.label], 1e-12)), np.ones_like(kept)),
    }


def study(
    local: Predictions,
    calibration: Predictions,
    trust: Mapping[str, Any],
    options: TrustOptions,
    sizes: Sequence[int],
    draws: int,
    *,
    temperature: str = AUTO,
    seed: int = 0,
) -> dict[str, Any]:
    """Recalibrate on draws of n local lesions.

    Args:
        local: labelled predictions of the other place, with the scores of the gate.
        calibration: of the lesions that ``trust`` was fitted on, for the test for a shift and the weights.
        trust: the trust before.
        options: the promises that are asked for.
        sizes: numbers of lesions.
        draws: of each size.
        temperature: one of ``trust.local.REFITS``.
        seed: of the draws.

    Returns:
        JSON-ready ``rows``: of each size ``n``, ``draws``, ``refused`` (draws that support no promise), ``shift`` (the
        share of draws with a shift), ``before`` and ``after``: measure -> ``mean``, ``sd`` over draws, ``n`` of them;
        and ``weighted``, see :func:`weighted_sets`.

    Raises:
        UserError: fewer lesions than a size needs.
    """
    groups = np.unique(local.group_id.astype(str))
    too_many = [n for n in sizes if n >= len(groups)]
    if too_many:
        raise UserError(f"{too_many[0]} lesions are to be drawn of {len(groups)}: give smaller numbers")
    reference, rng = _reference(calibration, trust), np.random.default_rng(seed)
    rows = []
    for n in sizes:
        before, after, shifts = [], [], []
        for _ in range(draws):
            inside = np.isin(local.group_id.astype(str), rng.permutation(groups)[:n])
            fitted_on, rest = local.select(inside), local.select(~inside)
            shifts.append(_has_shift(reference, fitted_on, trust, seed))
            before.append(measure(rest, trust))
            if (again := _refitted(fitted_on, trust, options, temperature)) is not None:
                after.append(measure(rest, again))
        row: dict[str, Any] = {"n": n, "draws": draws, "refused": draws - len(after)}
        row["shift"] = plain(float(np.mean(shifts)))
        rows.append({**row, BEFORE: _summed_up(before), AFTER: _summed_up(after)})
    return {"rows": rows, "weighted": weighted_sets(local, calibration, trust, options.alpha, seed)}


def _refitted(
    rows: Predictions, trust: Mapping[str, Any], options: TrustOptions, temperature: str
) -> dict[str, Any] | None:
    """Trust fitted again on local lesions; None where they support no promise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConformalFitWarning)
            return refit(rows, trust, options, date="", temperature=temperature).config
    except UserError:
        return None


def weighted_sets(
    local: Predictions, calibration: Predictions, trust: Mapping[str, Any], alpha: float, seed: int = 0
) -> dict[str, Any]:
    """Coverage of sets with one threshold, unweighted and weighted, without a local label.

    The density ratios are of the features where both predictions hold them, else of the logits and the gate score.

    Returns:
        JSON-ready: ``of``, ``n``, ``m``, ``auroc`` of the classifier, ``effective``, ``refused`` (why, or ""),
        ``plain`` and ``weighted``: ``coverage`` and mean ``set_size`` of the accepted local lesions.
    """
    accepted = [part.select(np.asarray(part.ood_score) <= trust["ood"]["threshold"]) for part in (calibration, local)]
    before, now = (part.select(one_per_group(part.group_id, seed)) for part in accepted)
    of = "features" if before.features is not None and now.features is not None else "logits and gate score"
    ratios = density_ratios(_seen(before, of), _seen(now, of), seed)
    probs = [calibrated_probs(part, trust) for part in (before, now)]
    scores = [conformal_scores(part, "lac", None).numpy() for part in probs]
    truth = [part[np.arange(len(rows)), rows.label] for part, rows in zip(scores, (before, now), strict=True)]
    limits = {
        "plain": np.full(len(now), quantile(truth[0], alpha)),
        "weighted": weighted_quantile(truth[0], ratios.calibration, ratios.new, alpha),
    }
    try:
        check_effective(ratios.effective, alpha)
        refused = ""
    except WeightError as error:
        refused = str(error)
    return {
        "of": of,
        "n": len(before),
        "m": len(now),
        "auroc": plain(ratios.auroc),
        "effective": plain(ratios.effective),
        "refused": refused,
        **{
            name: {
                "coverage": plain(float((truth[1] <= limit).mean())),
                "set_size": plain(float((scores[1] <= limit[:, None]).sum(axis=1).mean())),
            }
            for name, limit in limits.items()
        },
    }


def only_source(rows: Predictions, source: str) -> Predictions:
    """The images of one source.

    Raises:
        UserError: there are none.
    """
    names = rows.columns.get("source", np.full(len(rows), rows.dataset, dtype=object)).astype(str)
    if not (names == source).any():
        raise UserError(f"source {source!r}: the predictions are of {', '.join(sorted(set(names.tolist())))}")
    return rows.select(names == source)


def study_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The tables of a study in Markdown."""
    yield f"| local lesions | shift found | trust | {' | '.join(MEASURES.values())} |"
    yield "|---:|---:|---|" + "---:|" * len(MEASURES)
    for row in found["rows"]:
        for which in (BEFORE, AFTER):
            cells = [_cell(row[which][name]) for name in MEASURES]
            label = which if which == BEFORE or not row["refused"] else f"after ({row['refused']} refused)"
            yield f"| {row['n']} | {100 * row['shift']:.0f} % of draws | {label} | {' | '.join(cells)} |"
    weighted = found["weighted"]
    yield ""
    yield (
        f"Weighted conformal sets without a local label, ratios of {weighted['of']}: AUROC of the classifier "
        f"{weighted['auroc']:.2f}, {weighted['effective']:.0f} effective of {weighted['n']} calibration lesions; "
        f"coverage {100 * weighted['plain']['coverage']:.1f} % unweighted and "
        f"{100 * weighted['weighted']['coverage']:.1f} % weighted, {weighted['plain']['set_size']:.1f} and "
        f"{weighted['weighted']['set_size']:.1f} classes in a set of {weighted['m']} lesions"
        + (f" (refused: {weighted['refused']})." if weighted["refused"] else ".")
    )


def _cell(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "–"
    return f"{found['mean']:.3f} ± {found['sd']:.3f}"


def _summed_up(draws: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, Any]]:
    found = {}
    for name in MEASURES:
        values = [value for draw in draws if (value := draw[name]) is not None]
        mean = plain(float(np.mean(values))) if values else None
        found[name] = {"mean": mean, "sd": plain(float(np.std(values))) if values else None, "n": len(values)}
    return found


def _reference(calibration: Predictions, trust: Mapping[str, Any]) -> tuple[Answers, list[str]]:
    half = halve(calibration.label, calibration.group_id, trust["temperature"].get("seed", 0))[1]
    rows = calibration.select(half)
    rows = rows.select(one_per_group(rows.group_id, 0))
    return Answers.of(calibrated_probs(rows, trust).numpy(), rows.ood_score), rows.labels


def _has_shift(reference: tuple[Answers, list[str]], local: Predictions, trust: Mapping[str, Any], seed: int) -> bool:
    rows = local.select(one_per_group(local.group_id, seed))
    new = Answers.of(calibrated_probs(rows, trust).numpy(), rows.ood_score)
    return bool(find_shift(reference[0], new, reference[1], seed=seed)["shifted"])


def _seen(rows: Predictions, of: str) -> np.ndarray:
    """(N, D) what the density ratios are of; the members' mean logits, centred in each row."""
    if of == "features" and rows.features is not None:
        return rows.features
    logits = rows.logits.mean(axis=1)
    return np.column_stack([logits - logits.mean(axis=1, keepdims=True), np.log1p(np.abs(np.asarray(rows.ood_score)))])
