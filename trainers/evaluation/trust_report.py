"""Evaluation of trust: gate, sets, bands and verdicts on a split that none of them was fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hub_models.answer_lesion import ANSWERED, EMPTY_SET, HIGH_UNCERTAINTY, OUT_OF_DISTRIBUTION, SET_TOO_LARGE
from trainers.evaluation.abstention import abstention_section
from trainers.evaluation.coverage import bands_section, coverage_section
from trainers.evaluation.decisions import Decisions, decisions, gate_scores
from trainers.evaluation.groups import groups_section
from trainers.evaluation.ood import ood_section
from trainers.evaluation.rules import decision_section
from trainers.evaluation.selective import selective_section
from trainers.metrics.intervals import exact_interval, lesion_shares
from trainers.metrics.number import measured, undefined
from trainers.metrics.predictions import Predictions

REASONS = (ANSWERED, HIGH_UNCERTAINTY, SET_TOO_LARGE, EMPTY_SET, OUT_OF_DISTRIBUTION)


def trust_section(
    predictions: Predictions,
    trust: Mapping[str, Any],
    ood_sets: Mapping[str, Predictions],
    *,
    replicates: int = 1000,
    seed: int = 0,
    made: Decisions | None = None,
) -> dict[str, Any]:
    """Evaluate fitted trust on a split.

    Args:
        predictions: of the split, with ``ood_score``.
        trust: what was fitted on another split.
        ood_sets: name -> predictions of images of none of the classes, with ``ood_score``; may be empty.
        replicates: of the intervals.
        seed: of the resamples.
        made: the answers to the split, where they are there already.

    Returns:
        JSON-ready: ``split``, ``n``, ``n_groups``, ``gate``, ``decision`` (where rules were fitted), ``sets`` and
        ``bands`` (of the accepted images alone; None where there are none), ``verdicts`` (also of each set of ood
        images), ``abstention`` (by group), ``groups`` (where sets and bands were fitted by group) and ``selective`` (of
        all images). All but ``groups`` is of answers without a group.

    Raises:
        ValueError: predictions without ``ood_score``.
    """
    made = decisions(predictions, trust) if made is None else made
    wrong = made.predicted != predictions.label
    kept = made.accepted
    accepted = predictions.select(kept)
    how: dict[str, Any] = {"replicates": replicates, "seed": seed}
    bands = bands_section(accepted, made.bands[kept], made.predicted[kept], trust["bands"]) if kept.any() else None
    rules = decision_section(predictions, made, trust, **how)
    return {
        "split": predictions.split,
        "n": len(predictions),
        "n_groups": len(set(predictions.group_id.tolist())),
        "gate": _gate(predictions, kept, ood_sets, trust, **how),
        **({} if rules is None else {"decision": rules}),
        "sets": coverage_section(accepted, made.sets[kept], trust["conformal"]) if kept.any() else None,
        "bands": bands,
        "verdicts": {
            predictions.split: verdicts(made, wrong, predictions.group_id),
            **{name: _of_ood(rows, trust) for name, rows in ood_sets.items()},
        },
        "abstention": abstention_section(predictions, made, trust["bands"]),
        **({"groups": groups_section(predictions, made, trust)} if trust.get("groups") else {}),
        "selective": selective_section(made.uncertainty, wrong, predictions.label, predictions.group_id, **how),
    }


def _gate(
    predictions: Predictions,
    kept: np.ndarray,
    ood_sets: Mapping[str, Predictions],
    trust: Mapping[str, Any],
    **how: Any,
) -> dict[str, Any]:
    """What the gate accepts of the split, by class and, where there are several, by source; and of ood images."""
    gate = ood_section(
        gate_scores(predictions),
        predictions.group_id,
        {name: gate_scores(rows) for name, rows in ood_sets.items()},
        trust["ood"]["threshold"],
        ood_groups={name: rows.group_id for name, rows in ood_sets.items()},
        **how,
    )
    gate["per_class"] = [
        {"name": name, **_accepted(predictions, kept, predictions.label == number)}
        for number, name in enumerate(predictions.labels)
    ]
    sources = predictions.columns.get("source", np.zeros(0))
    names = sorted(set(sources.tolist()))
    if len(names) > 1:
        gate["per_source"] = {name: _accepted(predictions, kept, sources == name) for name in names}
    return gate


def verdicts(made: Decisions, wrong: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """How often the model answers, why not, and how often it is wrong: shares by lesion, counts of images.

    Args:
        made: N answers.
        wrong: (N,) bool, the named class is not the label.
        groups: (N,) lesion group ids.

    Returns:
        ``n``, ``answered``, ``by_reason`` (code -> images), ``error_answered`` and ``error_declined`` (of the answers
        that it keeps to itself).
    """
    answered = ~made.abstains
    found: dict[str, Any] = {
        "n": len(wrong),
        "answered": _share(answered, groups),
        "by_reason": {reason: int((made.reasons == reason).sum()) for reason in REASONS},
    }
    for name, rows in (("error_answered", answered), ("error_declined", ~answered)):
        found[name] = _share(wrong[rows], groups[rows]) if rows.any() else undefined("no image")
    return found


def _accepted(predictions: Predictions, kept: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """How many of some images the gate accepts."""
    groups = predictions.group_id[rows]
    found = _share(kept[rows], groups) if rows.any() else undefined("no images")
    return {"n": int(rows.sum()), "n_groups": len(set(groups.tolist())), "accepted": found}


def _of_ood(rows: Predictions, trust: Mapping[str, Any]) -> dict[str, Any]:
    known = replace(rows, label=np.zeros(len(rows), dtype=np.int64))
    made = decisions(known, trust)
    return {
        "n": len(rows),
        "declined": _share(made.abstains, rows.group_id),
        "by_reason": {reason: int((made.reasons == reason).sum()) for reason in REASONS},
    }


def _share(hits: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """A share of lesions, one of several images counting the share of its images, with its exact interval."""
    right, lesions = lesion_shares(hits, groups)
    return measured(right / lesions, *exact_interval(right, lesions), "exact 95 % by lesion")
