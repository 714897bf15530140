"""Sets and bands that were fitted by group beside those of all groups, on a split that neither was fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hub_models.groups_lesion import OWN, trust_of
from trainers.evaluation.coverage import coverage_row, promise_held, weighted_share
from trainers.evaluation.decisions import Decisions, decisions
from trainers.metrics.number import undefined
from trainers.metrics.predictions import Predictions
from trainers.metrics.weighting import group_weights
from trainers.trust.groups import UNKNOWN, group_values

WITHIN = {"low": ("low",), "moderate": ("low", "moderate")}
CONVENTIONS = {
    "own": "With the group given to the model; 'together': without, by the thresholds of all groups. A part that is "
    "not among 'fitted' takes the threshold of all groups, for the reason under 'pooled'.",
    "rows": "Of the lesions that the gate accepts, several images of one counting their part: exact 95 % intervals. "
    "'expected' is where the coverage falls in 95 of 100 test splits, given where every class has a threshold of its "
    "own in the group.",
    "missed": "Of all malignant or premalignant lesions of the group that the gate accepts, those named benign in the "
    "band low; 'moderate': in low and moderate together.",
    "confidence": "Each group's bands were tested alone, each with the stated confidence: of ten groups one may break "
    "its promise by chance.",
}


def groups_section(predictions: Predictions, together: Decisions, trust: Mapping[str, Any]) -> dict[str, Any]:
    """Promises by group, for the report.

    Args:
        predictions: of the split.
        together: the answers to them without a group.
        trust: ``config.trust``, with ``groups``.

    Returns:
        JSON-ready: ``column``; ``rows``, one a group and ``unknown`` where some image has none: ``value``, ``n``,
        ``n_groups``, ``fitted`` (what the group has of its own), ``pooled``, ``own`` and ``together`` (each:
        ``answered``, ``coverage``, ``expected``, ``inside``, ``mean_set_size``, and of both ``bands`` ``error`` and
        ``missed``: ``measured``, ``risk``, ``kept``, ``contradicted``); ``conventions``.
    """
    groups = trust["groups"]
    of_image = group_values(groups["column"], predictions.columns, len(predictions))
    names = [None if value not in groups["values"] else value for value in of_image.tolist()]
    own = decisions(predictions, trust, names)
    rows = []
    for value in [*groups["values"], None]:
        mine = np.array([name == value for name in names], dtype=bool)
        if value is None and not mine.any():
            continue
        fitted = groups["values"].get(value) or {}
        count = {"n": int(mine.sum()), "n_groups": len(set(predictions.group_id[mine].tolist()))}
        rows.append(
            {
                "value": UNKNOWN if value is None else value,
                **count,
                "fitted": [part for part in OWN if fitted.get(part)],
                "pooled": dict(fitted.get("pooled") or {}),
                "own": _row(predictions, own, trust_of(trust, value), mine),
                "together": _row(predictions, together, trust, mine),
            }
        )
    return {"column": groups["column"], "rows": rows, "conventions": CONVENTIONS}


def _row(predictions: Predictions, made: Decisions, trust: Mapping[str, Any], mine: np.ndarray) -> dict[str, Any]:
    weights = group_weights(predictions.group_id)
    inside = mine & made.accepted
    conformal = trust["conformal"]
    columns = predictions.malignant_columns()
    wrong, benign = made.predicted != predictions.label, ~np.isin(made.predicted, columns)
    malignant = np.isin(predictions.label, columns)
    pooled = [name for name, of in conformal["groups"].items() if of.startswith("all groups")]
    here = [name for name in pooled if predictions.labels.index(name) in predictions.label[inside]]
    law = f"thresholds of all groups for {', '.join(here)}" if here else None
    accepted = predictions.select(inside)
    everyone = np.ones(len(accepted), dtype=bool)
    found: dict[str, Any] = {
        "answered": weighted_share(~made.abstains, mine, weights),
        **coverage_row(accepted, made.sets[inside], conformal, everyone, law),
        "bands": {},
    }
    for name, within in WITHIN.items():
        band = inside & np.isin(made.bands, within)
        fitted = trust["bands"][name]
        error = weighted_share(wrong, band, weights)
        missed = weighted_share(band & benign, malignant & inside, weights)
        if not len(columns):
            missed = undefined("no class is malignant")
        found["bands"][name] = {
            "error": _held(error, fitted, "risk"),
            "missed": _held(missed, fitted, "missed_risk"),
        }
    return found


def _held(found: dict[str, Any], fitted: Mapping[str, Any], bound: str) -> dict[str, Any]:
    """A measured share beside its bound; without a bound where the band is empty or promises nothing of the kind."""
    if fitted["threshold"] is None or not fitted.get(bound):
        return {"measured": found, "risk": None, "kept": None, "contradicted": None}
    return {"risk": fitted[bound], **promise_held(found, fitted[bound])}
