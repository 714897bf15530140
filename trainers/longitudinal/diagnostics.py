"""What may be wrong with a study or a model of it: order and time, drift at baseline, residuals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import kurtosis, skew

from trainers.longitudinal.mixed import MixedFit
from trainers.longitudinal.patient_means import interval
from trainers.longitudinal.study import Study

# Of the pairs of a treated and a baseline day of one patient, the share with the treated one later: 0.5 is balanced.
ALWAYS, MOSTLY = 0.95, 0.75
DRIFT_DAYS = 5  # baseline days that a patient's own slope needs
FEW_PATIENTS = 6
AUTOCORRELATED = 0.2
# A day is far off beyond this many robust standard deviations of days about the median of their phase.
FAR_OFF, PHASE_DAYS, FEW_OFF = 6.0, 3, 5
MOST_FAR = 5  # of them that a warning names


def later_shares(study: Study, treatment: int) -> np.ndarray:
    """(P,) share of the pairs (treated day, baseline day) with the treated day later; NaN without such a pair."""
    shares = np.full(len(study.patients), np.nan)
    for patient in range(len(study.patients)):
        mine = study.patient == patient
        treated, base = (np.sort(study.day[mine & (study.treatment == kind)]) for kind in (treatment, 0))
        if len(treated) and len(base):
            shares[patient] = float(np.searchsorted(base, treated).mean()) / len(base)
    return shares


def order_of(study: Study) -> list[dict[str, Any]]:
    """How each treatment lies in time against the baseline, and whether time can be separated from effect.

    Returns:
        One a treatment: ``treatment``, ``later_share`` (mean over patients of :func:`later_shares`, None without a
        pair), ``confounded``: ``fully`` where it was always (or never) later, ``mostly``, or ``no``.
    """
    found = []
    for index, name in enumerate(study.treatments[1:], 1):
        shares = later_shares(study, index)
        known = shares[np.isfinite(shares)]
        share = float(known.mean()) if len(known) else None
        found.append({"treatment": name, "later_share": share, "confounded": confounded_by(share)})
    return found


def confounded_by(later_share: float | None) -> str:
    """``fully`` where treated days were always (or never) the later ones, ``mostly``, or ``no``; of a study or patient.

    Args:
        later_share: as :func:`later_shares` gives it, 0 to 1; None = unknown, which is ``no``.
    """
    distance = abs((0.5 if later_share is None else later_share) - 0.5) + 0.5
    return "fully" if distance >= ALWAYS else "mostly" if distance >= MOSTLY else "no"


def baseline_drift(study: Study, confidence: float) -> dict[str, Any]:
    """Whether severity moved during the baseline already: each patient's own slope, and a t interval over patients.

    Returns:
        ``points_a_week``, ``low``, ``high`` (None with fewer than 2 patients of :data:`DRIFT_DAYS` baseline days or
        without spread), ``patients``, ``drifts`` (the interval excludes 0).
    """
    slopes = []
    for patient in range(len(study.patients)):
        rows = (study.patient == patient) & (study.treatment == 0)
        if int(rows.sum()) >= DRIFT_DAYS:
            day = study.day[rows] - study.day[rows].mean()
            slopes.append(7 * float(day @ study.severity[rows]) / float(day @ day))
    error = float(np.std(slopes, ddof=1)) / math.sqrt(len(slopes)) if len(slopes) > 1 else 0.0
    if error <= 1e-12:
        return {"points_a_week": None, "low": None, "high": None, "patients": len(slopes), "drifts": False}
    found = interval(float(np.mean(slopes)), error, len(slopes) - 1, confidence)
    low, high = float(found.low or 0.0), float(found.high or 0.0)
    return {
        "points_a_week": found.estimate,
        "low": low,
        "high": high,
        "patients": len(slopes),
        "drifts": low > 0 or high < 0,
    }


def residuals_of(study: Study, fit: MixedFit) -> dict[str, Any]:
    """What the residuals of a model look like: spread by treatment, skewness, excess kurtosis, the largest one.

    Points in units of severity; skewness and excess kurtosis are 0 for normal residuals.
    """
    by_treatment = {
        name: float(fit.residuals[study.treatment == index].std()) for index, name in enumerate(study.treatments)
    }
    sd = float(fit.residuals.std())
    flat = sd <= 1e-12
    return {
        "sd": sd,
        "sd_by_treatment": by_treatment,
        "skewness": None if flat else float(skew(fit.residuals)),
        "excess_kurtosis": None if flat else float(kurtosis(fit.residuals)),
        "largest_in_sd": None if flat else float(np.abs(fit.residuals).max()) / sd,
    }


def far_off(study: Study) -> list[dict[str, Any]]:
    """Days far from the other days of the same patient and treatment: often a slip of the pen.

    The yardstick is robust (1.4826 median absolute deviations from the median of a phase of :data:`PHASE_DAYS` days or
    more), for a large slip would hide itself in an ordinary one. Where half the days do not differ it is 1.2533 mean
    deviations, or, if larger, 1.4826 medians of the deviations that are not 0, of :data:`FEW_OFF` or more.

    Returns:
        ``patient``, ``day``, ``treatment``, ``severity`` in points, ``in_sd`` (how many standard deviations off), the
        farthest first.
    """
    deviations = np.full(len(study.severity), np.nan)
    for patient, kind in np.unique(np.column_stack([study.patient, study.treatment]), axis=0):
        rows = (study.patient == patient) & (study.treatment == kind)
        if int(rows.sum()) >= PHASE_DAYS:
            deviations[rows] = study.severity[rows] - np.median(study.severity[rows])
    away = np.abs(deviations)
    known = away[np.isfinite(away)]
    if not len(known) or not known.any():
        return []
    sd = 1.4826 * float(np.median(known))
    if sd == 0:  # most days do not differ: counts near 0, or a flat line
        some = known[known > 0]
        sd = max(1.2533 * float(known.mean()), 1.4826 * float(np.median(some)) if len(some) >= FEW_OFF else 0.0)
    found = np.flatnonzero(np.nan_to_num(away) > FAR_OFF * sd)
    return [
        {
            "patient": study.patients[study.patient[row]],
            "day": int(study.day[row]),
            "treatment": study.treatments[study.treatment[row]],
            "severity": float(study.severity[row]),
            "in_sd": float(away[row]) / sd,
        }
        for row in found[np.argsort(-away[found], kind="stable")].tolist()
    ]


def far_off_warnings(found: list[dict[str, Any]]) -> list[str]:
    """One line that names the days of :func:`far_off`, the farthest first; none without any."""
    if not found:
        return []
    named = ", ".join(f"{row['patient']!r} on day {row['day']} ({row['severity']:g})" for row in found[:MOST_FAR])
    more = f" and {len(found) - MOST_FAR:,} more" if len(found) > MOST_FAR else ""
    return [
        f"far from the other days of the same patient and treatment, by more than {FAR_OFF:g} standard deviations: "
        f"{named}{more}; a slip of the pen moves every number, so check these days"
    ]


def gaps(study: Study) -> dict[str, Any]:
    """Days by treatment, and the share of days between a patient's first and last one that are not there."""
    spans = 0
    for patient in range(len(study.patients)):
        days = study.day[study.patient == patient]
        spans += int(days.max() - days.min()) + 1
    counts = study.cell_counts()
    return {
        "days_by_treatment": {name: int(counts[:, index].sum()) for index, name in enumerate(study.treatments)},
        "patients_by_treatment": {
            name: int((counts[:, index] > 0).sum()) for index, name in enumerate(study.treatments)
        },
        "share_of_days_missing": 1 - len(study.day) / spans,
        "rows_without_severity": study.missed,
        "rows_of_other_treatments": study.left_out,
    }


def order_warnings(order: list[dict[str, Any]], baseline: str) -> list[str]:
    """Why effects may be those of time: one line for the treatments that lie alike in it.

    Args:
        order: as :func:`order_of` gives it.
        baseline: its name.
    """
    alike: dict[str, list[str]] = {}
    for entry in order:
        if entry["confounded"] != "no":
            how = "always" if entry["confounded"] == "fully" else "mostly"
            when = "later" if entry["later_share"] > 0.5 else "earlier"
            alike.setdefault(f"{how} given {when}", []).append(entry["treatment"])
    return [
        f"{', '.join(names)}: {when} than {baseline}, so what changes with time alone (the season, healing by itself, "
        "falling back to the mean after a bad start, an earlier treatment that still works) cannot be separated from "
        "the effect; only an order drawn by lot can do that"
        for when, names in alike.items()
    ]
