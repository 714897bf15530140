"""The default inference: each patient's own difference between treatment and baseline, and a t interval over patients.

Patients are independent of each other, whatever their days do. So the spread of their differences holds everything that
makes an effect uncertain: noise, days that resemble each other, and patients who respond differently. With P patients
the interval is exact where the differences are normal and phases equally long, and keeps its coverage otherwise (see
``trainers.longitudinal.coverage``). It is the paired t test on summary measures (Matthews et al., BMJ 300:230, 1990).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from trainers.longitudinal.study import Study


@dataclass(frozen=True)
class Estimate:
    """An effect, in points against the baseline; negative is better.

    Attributes:
        estimate: its value, None where it is withheld.
        low: lower end of the interval.
        high: upper end.
        standard_error: > 0, in points.
        freedom: degrees of freedom of the t distribution; None = normal.
        p: two-sided, of no effect.
        withheld: why there is no number; empty where there is.
    """

    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    freedom: int | None = None
    p: float | None = None
    withheld: str = ""


def interval(estimate: float, standard_error: float, freedom: int | None, confidence: float) -> Estimate:
    """An estimate with its t (or, with ``freedom`` None, normal) interval and p value.

    Args:
        estimate: in points.
        standard_error: > 0, in points.
        freedom: degrees of freedom, >= 1, or None.
        confidence: of the interval, 0 to 1.
    """
    law = norm if freedom is None else t(freedom)
    half = float(law.ppf(0.5 + confidence / 2)) * standard_error
    p = 2 * float(law.sf(abs(estimate) / standard_error))
    return Estimate(estimate, estimate - half, estimate + half, standard_error, freedom, p)


def differences(study: Study, treatment: int) -> np.ndarray:
    """(P,) each patient's mean under a treatment minus its baseline mean, in points; NaN where one is lacking."""
    means = study.cell_means()
    return means[:, treatment] - means[:, 0]


def patient_level(study: Study, treatment: int, confidence: float) -> Estimate:
    """The effect of a treatment by the patients' own differences, each patient counting once.

    Args:
        study: of P patients.
        treatment: index, 1 or more.
        confidence: of the interval, 0 to 1.
    """
    found = differences(study, treatment)
    found = found[np.isfinite(found)]
    if len(found) < 2:
        return Estimate(withheld=lacking(len(found)))
    error = float(found.std(ddof=1)) / math.sqrt(len(found))
    if alike(study, found):
        return Estimate(withheld="all patients differ by the same number, their spread is unknown")
    return interval(float(found.mean()), error, len(found) - 1, confidence)


def alike(study: Study, found: np.ndarray) -> bool:
    """Whether two or more differences (M,) are the same number but for rounding, which leaves their spread unknown."""
    error = float(found.std(ddof=1)) / math.sqrt(len(found))
    return error <= 1e-9 * max(float(np.abs(study.severity).max()), 1e-300)


def lacking(pairs: int) -> str:
    """Why so few patients with days under both treatments give no effect."""
    return f"{'no patient has' if pairs == 0 else 'one patient has'} days under it and the baseline, two are needed"


def holm(p_values: list[float | None]) -> list[float | None]:
    """P values adjusted for their number by Holm's step-down method (Scand J Stat 6:65, 1979); None stays None."""
    known = sorted((value, index) for index, value in enumerate(p_values) if value is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, index) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * value))
        adjusted[index] = largest
    return adjusted
