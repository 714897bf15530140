"""Who is answered, and how well: abstention, errors and missed malignant lesions by age, sex, site and class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from trainers.evaluation.coverage import weighted_share
from trainers.evaluation.decisions import Decisions
from trainers.evaluation.subgroups import abstention_columns
from trainers.metrics.number import undefined
from trainers.metrics.predictions import Predictions
from trainers.metrics.weighting import group_weights

# A group of fewer lesions is not named.
LEAST_LESIONS = 50
# What is promised -> the bands that it is about, the band that states the bound, and the bound's key there.
PROMISES = {
    "error_low": (("low",), "low", "risk"),
    "error_moderate": (("low", "moderate"), "moderate", "risk"),
    "missed_low": (("low",), "low", "missed_risk"),
    "missed_moderate": (("low", "moderate"), "moderate", "missed_risk"),
}
CONVENTIONS = {
    "answered": "Share of the lesions, of several images each counting its part; exact 95 % intervals.",
    "missed": "Of the malignant or premalignant lesions that the gate accepts, those named benign in the band low; "
    "'missed_moderate': in low and moderate together.",
    "broken": f"Groups of {LEAST_LESIONS} lesions or more whose whole interval lies above the bound. The bound was "
    "promised on average over all lesions, not for a group. No allowance is made for the number of groups: one in "
    "40 that are at the bound lies above it by chance.",
}


def abstention_section(predictions: Predictions, made: Decisions, bands: Mapping[str, Any]) -> dict[str, Any]:
    """Abstention by group on one split, for the report.

    Args:
        predictions: of the split, N images.
        made: the answers to them.
        bands: ``config.trust["bands"]``.

    Returns:
        JSON-ready: ``columns``: name -> one row a value with ``n``, ``n_groups``, ``accepted`` (by the gate),
        ``answered``, ``error_answered``, ``error_low``, ``error_moderate``, ``missed_low``, ``missed_moderate`` (shares
        by lesion with exact intervals);
        ``broken``: ``column``, ``value``, ``n_groups``, ``promise`` (of ``PROMISES``), ``bound``, ``measured`` of every
        group that breaks a promise; ``conventions``.
    """
    weights = group_weights(predictions.group_id)
    malignant = np.isin(predictions.label, predictions.malignant_columns())
    benign = ~np.isin(made.predicted, predictions.malignant_columns())
    wrong, everyone = made.predicted != predictions.label, np.ones(len(predictions), dtype=bool)
    shares = {
        "accepted": (made.accepted, everyone),
        "answered": (~made.abstains, everyone),
        "error_answered": (wrong, ~made.abstains),
    }
    for name, (within, _, bound) in PROMISES.items():
        inside = made.accepted & np.isin(made.bands, within)
        shares[name] = (wrong, inside) if bound == "risk" else (inside & benign, malignant & made.accepted)
    columns: dict[str, list[dict[str, Any]]] = {}
    for column, (values, of_image) in abstention_columns(predictions).items():
        columns[column] = []
        for value in values:
            rows = of_image == value
            found = {name: weighted_share(hits, among & rows, weights) for name, (hits, among) in shares.items()}
            if not len(predictions.malignant_columns()):
                found |= dict.fromkeys(("missed_low", "missed_moderate"), undefined("no class is malignant"))
            count = {"n": int(rows.sum()), "n_groups": len(set(predictions.group_id[rows].tolist()))}
            columns[column].append({"value": value, **count, **found})
    return {"columns": columns, "broken": broken(columns, bands), "conventions": CONVENTIONS}


def broken(columns: Mapping[str, list[dict[str, Any]]], bands: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The groups of ``LEAST_LESIONS`` lesions or more that break a promise by more than its interval."""
    found = []
    for column, rows in columns.items():
        for row in rows:
            for promise, (_, band, bound) in PROMISES.items():
                fitted = bands[band]
                if fitted["threshold"] is None or fitted.get(bound) is None or row["n_groups"] < LEAST_LESIONS:
                    continue
                if row[promise]["value"] is not None and row[promise]["low"] > fitted[bound]:
                    named = {"column": column, "value": row["value"], "n_groups": row["n_groups"]}
                    found.append({**named, "promise": promise, "bound": fitted[bound], "measured": row[promise]})
    return found
