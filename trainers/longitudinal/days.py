"""How much a day resembles the day before, and what that does to the uncertainty of a patient's means.

Days of a patient are taken as AR(1) about the mean of their treatment: ``corr(day s, day t) = rho ** |s - t|``. The
formula counts real days, so missed ones need no filling in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from trainers.longitudinal.study import Study

HIGHEST_RHO = 0.98  # beyond it a phase of a month holds about one independent day
MAX_LAG = 14  # days
# A patient's own variance counts by its days, the mean over all patients as this many.
SHARED_DAYS = 10


@dataclass(frozen=True)
class DayNoise:
    """The noise of days.

    Attributes:
        rho: autocorrelation of consecutive days, 0 to :data:`HIGHEST_RHO`, by REML.
        sd: standard deviation of a day about its patient's mean under the treatment, over all patients, in points.
        patient_sd: (P,) the same of each patient, moderated towards ``sd``, in points.
        freedom: days minus fitted means, over all patients.
    """

    rho: float
    sd: float
    patient_sd: np.ndarray
    freedom: int


def fit_noise(study: Study) -> DayNoise | None:
    """Fit the noise of days by restricted maximum likelihood, the means of each patient and treatment left free.

    Never below 0 in ``rho``: days that alternate are taken as independent, which errs to wide intervals.

    Returns:
        The noise, or None where no mean rests on more than one day, or days do not differ about their means: then they
        say nothing about it.
    """
    freedom = len(study.severity) - int((study.cell_counts() > 0).sum())
    if freedom < 1 or not np.any(np.abs(study.residuals()) > 1e-9 * np.abs(study.severity).max()):
        return None
    # Without two days of a patient under one treatment there is nothing that rho could be seen in.
    found = minimize_scalar(lambda rho: -_restricted(study, rho)[0], bounds=(0.0, HIGHEST_RHO), method="bounded")
    rho = float(found.x) if -found.fun > _restricted(study, 0.0)[0] else 0.0
    _, squares, free = _restricted(study, rho)
    shared = squares.sum() / freedom
    own = (SHARED_DAYS * shared + squares) / (SHARED_DAYS + free)
    return DayNoise(rho, float(np.sqrt(shared)), np.sqrt(own), freedom)


def _restricted(study: Study, rho: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Restricted log likelihood at ``rho``, its constant left out; (P,) weighted squares, (P,) degrees of freedom."""
    values = np.column_stack([np.eye(len(study.treatments))[study.treatment], study.severity])
    first = np.r_[True, study.patient[1:] != study.patient[:-1]]
    carried = np.where(first, 0.0, rho ** np.r_[0, np.diff(study.day)].astype(float).clip(min=0))
    free_share = 1 - carried**2
    innovations = (values - carried[:, None] * np.vstack([values[:1] * 0, values[:-1]])) / np.sqrt(free_share)[:, None]
    likelihood, squares, freedom = -0.5 * float(np.log(free_share).sum()), [], []
    starts = np.flatnonzero(first)
    for block, kinds in zip(np.split(innovations, starts[1:]), np.split(study.treatment, starts[1:]), strict=True):
        given = np.unique(kinds)
        design, target = block[:, given], block[:, -1]
        gram = design.T @ design
        coefficients = np.linalg.solve(gram, design.T @ target)
        left = target - design @ coefficients
        squares.append(float(left @ left))
        freedom.append(len(block) - len(given))
        likelihood -= 0.5 * float(np.linalg.slogdet(gram)[1])
    likelihood -= 0.5 * sum(freedom) * float(np.log(max(sum(squares), 1e-300)))
    return likelihood, np.array(squares), np.array(freedom)


def contrast_variance(days: np.ndarray, weights: np.ndarray, rho: float) -> float:
    """``w' R w`` with ``R[s, t] = rho ** |day s - day t|``: variance of a weighted sum of days, in units of a day's.

    Args:
        days: (n,) whole numbers, ascending.
        weights: (n,).
        rho: 0 <= rho < 1.
    """
    total, carried, before = 0.0, 0.0, 0.0
    for index, weight in enumerate(weights.tolist()):
        if index:
            carried = rho ** float(days[index] - days[index - 1]) * (carried + before)
        total += weight**2 + 2 * weight * carried
        before = weight
    return total


def difference_variance(study: Study, treatment: int, rho: float) -> np.ndarray:
    """(P,) variance of each patient's mean under a treatment minus its baseline mean, in units of a day's variance.

    NaN where the patient lacks days under one of the two.
    """
    counts = study.cell_counts()
    result = np.full(len(study.patients), np.nan)
    for patient in np.flatnonzero((counts[:, 0] > 0) & (counts[:, treatment] > 0)):
        rows = (study.patient == patient) & np.isin(study.treatment, (0, treatment))
        kinds = study.treatment[rows]
        weights = np.where(kinds == treatment, 1 / counts[patient, treatment], -1 / counts[patient, 0])
        result[patient] = contrast_variance(study.day[rows], weights, rho)
    return result


def autocorrelations(study: Study) -> list[dict[str, float | int | None]]:
    """Correlation of residuals by lag, over pairs of days of one patient under one treatment.

    Returns:
        For lags 1 to :data:`MAX_LAG`: ``lag`` in days, ``pairs``, ``correlation`` (None with fewer than 3 pairs or
        without spread). Residuals about fitted means lean to below 0 by about 1 / days of a phase.
    """
    place = {
        (int(patient), int(kind), int(day)): index
        for index, (patient, kind, day) in enumerate(zip(study.patient, study.treatment, study.day, strict=True))
    }
    residuals, table = study.residuals(), []
    for lag in range(1, MAX_LAG + 1):
        pairs = [
            (index, place[patient, kind, day + lag])
            for (patient, kind, day), index in place.items()
            if (patient, kind, day + lag) in place
        ]
        earlier, later = (residuals[[pair[side] for pair in pairs]] for side in (0, 1))
        spread = float(np.sqrt((earlier**2).sum() * (later**2).sum())) if pairs else 0.0
        value = float((earlier * later).sum()) / spread if len(pairs) >= 3 and spread > 0 else None
        table.append({"lag": lag, "pairs": len(pairs), "correlation": value})
    return table
