"""The patients' table: what each patient's days say of each treatment, and the sentence that tells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.longitudinal.days import DayNoise, difference_variance
from trainers.longitudinal.mixed import MixedFit
from trainers.longitudinal.patient_means import differences
from trainers.longitudinal.patients import PRIOR_WIDTH, Shrunken, sentence, shrink, verdict
from trainers.longitudinal.study import Study


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        confidence: of all intervals, 0 to 1.
        sure: probability from which a patient is told better or worse, 0.5 to 1; 0.975 is where a 95 % interval
            leaves out 0.
        relevant: the smallest effect that matters to a patient, >= 0, in points.
    """

    confidence: float = 0.95
    sure: float = 0.975
    relevant: float = 0.0


@dataclass(frozen=True)
class PatientEffect:
    """One line of the patients' table.

    Attributes:
        patient: its name.
        treatment: its name.
        days_baseline: measured days.
        days_treatment: measured days.
        difference: mean under treatment minus baseline mean, in points.
        standard_error: of it, from days that resemble each other, in points; None where withheld.
        shrunken: posterior mean, low and high, in points; None where withheld.
        p_better: probability of an effect below ``-relevant``.
        p_worse: probability of an effect above ``relevant``.
        verdict: better, no clear change, worse; empty where withheld.
        sentence: for the patient.
        blup: the prediction of the mixed model with random effects, in points; None where that is withheld.
    """

    patient: str
    treatment: str
    days_baseline: int
    days_treatment: int
    difference: float
    standard_error: float | None
    shrunken: tuple[float, float, float] | None
    p_better: float | None
    p_worse: float | None
    verdict: str
    sentence: str
    blup: float | None


def patients_of(
    study: Study, treatment: int, noise: DayNoise | None, confidence: float, relevant: float
) -> tuple[np.ndarray, np.ndarray | None, Shrunken | None]:
    """Shrink the differences of all patients with days under a treatment and the baseline.

    Returns:
        Their indices (M,), the standard errors (M,) of their differences in points, and the shrunken estimates; the
        latter two None where days say nothing about their noise, or M is 0.
    """
    found = differences(study, treatment)
    who = np.flatnonzero(np.isfinite(found))
    if noise is None or not len(who):
        return who, None, None
    errors = noise.patient_sd[who] * np.sqrt(difference_variance(study, treatment, noise.rho)[who])
    return who, errors, shrink(found[who], errors, PRIOR_WIDTH * noise.sd, confidence, relevant)


def patient_table(
    study: Study,
    settings: Settings,
    noise: DayNoise | None,
    model: MixedFit | str,
    order: list[dict[str, Any]],
    decimals: int,
) -> tuple[list[PatientEffect], dict[str, Shrunken | None]]:
    """Every patient with days under a treatment and the baseline, and how far patients differ."""
    counts, rows = study.cell_counts(), []
    spreads: dict[str, Shrunken | None] = {}
    blups = model.responses if isinstance(model, MixedFit) else None
    for index, name in enumerate(study.treatments[1:], 1):
        found = differences(study, index)
        who, errors, spreads[name] = patients_of(study, index, noise, settings.confidence, settings.relevant)
        later = order[index - 1]
        for place, patient in enumerate(who.tolist()):
            told = _told(spreads[name], place, (name, study.treatments[0]), settings, later, decimals)
            rows.append(
                PatientEffect(
                    patient=study.patients[patient],
                    treatment=name,
                    days_baseline=int(counts[patient, 0]),
                    days_treatment=int(counts[patient, index]),
                    difference=float(found[patient]),
                    standard_error=None if errors is None else float(errors[place]),
                    blup=None if blups is None else float(blups[patient, index - 1]),
                    **told,
                )
            )
    return rows, spreads


def _told(
    found: Shrunken | None,
    place: int,
    names: tuple[str, str],
    settings: Settings,
    order: dict[str, Any],
    decimals: int,
) -> dict[str, Any]:
    """What one patient is told about one treatment."""
    if found is None:
        why = "Nothing can be said of this patient alone: how much days vary is unknown, no two of one phase differ."
        return {"shrunken": None, "p_better": None, "p_worse": None, "verdict": "", "sentence": why}
    estimate = (float(found.mean[place]), float(found.low[place]), float(found.high[place]))
    chances = (float(found.p_better[place]), float(found.p_worse[place]))
    said = verdict(*chances, settings.sure)
    text = sentence(
        *names,
        estimate,
        chances,
        said,
        relevant=settings.relevant,
        decimals=decimals,
        confidence=settings.confidence,
    )
    if order["confounded"] != "no":
        text += " Whether the treatment or the passing of time did it cannot be told from this."
    return {"shrunken": estimate, "p_better": chances[0], "p_worse": chances[1], "verdict": said, "sentence": text}
