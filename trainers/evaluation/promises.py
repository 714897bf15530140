"""Whether a model's promises hold on labelled images from elsewhere: holds, does not hold, or too few lesions to say.

A promise is compared with the exact 95 % interval (Clopper and Pearson 1934) of what was measured, by lesion. A bound
on a risk, and the sensitivity of the flag, were promised with a confidence: they hold where the whole interval is on
the right side. Coverage, acceptance and calibration were promised on average, so that a good model is at them and not
beyond them: they hold where the whole interval lies above the promise less ``MARGIN``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from trainers.evaluation.decisions import Decisions
from trainers.metrics.intervals import exact_interval, lesion_shares
from trainers.metrics.number import measured, plain
from trainers.metrics.predictions import Predictions
from trainers.metrics.weighting import group_weights

HOLDS, BROKEN, TOO_FEW, NOTHING = "holds", "does not hold", "too few to say", "nothing is promised"
# How far below an average that was promised a share may lie and still count as kept.
MARGIN = 0.05
AT_MOST, AT_LEAST, ABOUT, EQUAL = "at most", "at least", "about", "equal to"
CONVENTIONS = {
    "verdict": f"'{HOLDS}': the whole exact 95 % interval, by lesion, is on the right side of the promise; "
    f"'{BROKEN}': the whole interval is on the wrong side; '{TOO_FEW}': neither. No allowance is made for the number "
    "of promises.",
    "about": f"Coverage and acceptance were promised on average over calibrations: they hold where the whole interval "
    f"is above the promise less {MARGIN:g}. Accuracy equals the mean confidence where the interval of the accuracy, no "
    f"wider than {2 * MARGIN:g}, contains it.",
    "of": "Gate: all labelled images. Sets, bands and flag: those that it accepts.",
}


def promise_table(
    section: Mapping[str, Any], predictions: Predictions, made: Decisions, trust: Mapping[str, Any]
) -> dict[str, Any]:
    """Verdicts on every promise of a model.

    Args:
        section: ``trust_report.trust_section`` of these predictions.
        predictions: labelled images, with ``ood_score``.
        made: the answers to them.
        trust: the model's ``config.trust``.

    Returns:
        JSON-ready: ``rows``: ``promise`` (words), ``how`` (``at most``, ``at least``, ``about``, ``equal to``),
        ``promised`` (a share; None: nothing), ``measured`` (with interval), ``verdict``; ``conventions``.
    """
    return {"rows": list(_rows(section, predictions, made, trust)), "conventions": CONVENTIONS}


def _rows(
    section: Mapping[str, Any], predictions: Predictions, made: Decisions, trust: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    sets, bands = section["sets"], section["bands"]
    passed = section["gate"]["in_distribution"]["accepted"]
    yield _row("an ordinary image passes the gate", ABOUT, trust["ood"].get("acceptance"), passed)
    if sets is not None:
        yield _row("the prediction set holds the true class", ABOUT, sets["promised"], sets["overall"]["coverage"])
    within = {"low": 'in the band "low"', "moderate": 'in "low" and "moderate"'}
    for name, where in within.items() if bands is not None else ():
        promise = bands["promises"][name]
        bound = None if promise["threshold"] is None else promise["risk"]
        yield _row(f"wrong, {where}", AT_MOST, bound, promise["measured"])
    for name, where in within.items() if bands is not None else ():
        promise = bands["promises"][name]
        if "missed" in promise:
            bound = None if promise["threshold"] is None else promise["missed"]["risk"]
            measured_here = promise["missed"]["measured"]
            yield _row(f"called benign {where}, of all malignant lesions", AT_MOST, bound, measured_here)
    flag = (section.get("decision") or {}).get("flag")
    if flag is not None:
        yield _row("flagged, of malignant lesions", AT_LEAST, flag["target"], flag["sensitivity"])
    kept = made.accepted
    if not kept.any():
        return
    rows = predictions.select(kept)
    right, lesions = lesion_shares(made.predicted[kept] == rows.label, rows.group_id)
    confidence = float(np.average(1 - made.uncertainty[kept], weights=group_weights(rows.group_id)))
    accuracy = measured(right / lesions, *exact_interval(right, lesions), "exact 95 % by lesion")
    yield _row("accuracy equals the mean confidence", EQUAL, confidence, accuracy)


def _row(promise: str, how: str, promised: float | None, found: Mapping[str, Any]) -> dict[str, Any]:
    bound = None if promised is None else plain(promised)
    verdict_here = verdict(how, bound, found)
    return {"promise": promise, "how": how, "promised": bound, "measured": dict(found), "verdict": verdict_here}


def verdict(how: str, promised: float | None, found: Mapping[str, Any]) -> str:
    """Compare a promise with the interval of what was measured.

    Args:
        how: ``AT_MOST``, ``AT_LEAST``, ``ABOUT`` or ``EQUAL``.
        promised: a share in [0, 1]; None = nothing was promised.
        found: ``value``, ``low``, ``high``; value None where nothing was measured.
    """
    if promised is None:
        return NOTHING
    if found["value"] is None or found["low"] is None:
        return TOO_FEW
    low, high = found["low"], found["high"]
    if how == AT_MOST:
        return HOLDS if high <= promised else BROKEN if low > promised else TOO_FEW
    if how == EQUAL:
        inside = low <= promised <= high
        return BROKEN if not inside else HOLDS if high - low <= 2 * MARGIN else TOO_FEW
    least = promised if how == AT_LEAST else promised - MARGIN
    return HOLDS if low >= least else BROKEN if high < promised else TOO_FEW


def promise_lines(table: Mapping[str, Any]) -> Iterator[str]:
    """The table in Markdown, a line each."""
    yield "| promise | promised | measured here (95 % interval) | verdict |"
    yield "|---|---|---:|---|"
    for row in table["rows"]:
        promised = "nothing" if row["promised"] is None else f"{row['how']} {100 * row['promised']:.3g} %"
        found = row["measured"]
        shown = f"{100 * found['value']:.1f} %" if found["value"] is not None else "–"
        if found.get("low") is not None:
            shown += f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
        yield f"| {row['promise']} | {promised} | {shown} | {row['verdict']} |"
