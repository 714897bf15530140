"""The patients' table: the estimate of each treatment for each patient, and its sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.longitudinal.days import DayNoise, difference_variance
from trainers.longitudinal.diagnostics import confounded_by, later_shares
from trainers.longitudinal.mixed import MixedFit
from trainers.longitudinal.patient_means import alike, differences
from trainers.longitudinal.patients import PRIOR_WIDTH, Shrunken, sentence, shrink, verdict
from trainers.longitudinal.study import Study


@dataclass(frozen=True)
class Settings:
    """The settings of the command.

    Attributes:
        confidence: of all intervals, 0 to 1.
        sure: probability from which a patient counts as better or worse, 0.5 to 1; 0.975 is where a 95 % interval
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
        verdict: better, no clear change, worse; lower and higher where severity drifts; empty where withheld.
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
        latter two None where days do not show their noise, or M is 0, the last also where all differ by the same
        number: patients' spread, by which they are drawn towards each other, is unknown then.
    """
    found = differences(study, treatment)
    who = np.flatnonzero(np.isfinite(found))
    if noise is None or not len(who):
        return who, None, None
    errors = noise.patient_sd[who] * np.sqrt(difference_variance(study, treatment, noise.rho)[who])
    if len(who) > 1 and alike(study, found[who]):
        return who, errors, None
    return who, errors, shrink(found[who], errors, PRIOR_WIDTH * noise.sd, confidence, relevant)


def patient_table(
    study: Study,
    settings: Settings,
    noise: DayNoise | None,
    model: MixedFit | str,
    drifts: bool,
    decimals: int,
) -> tuple[list[PatientEffect], dict[str, Shrunken | None]]:
    """Every patient with days under a treatment and the baseline, and how far patients differ.

    Args:
        study: what was read.
        settings: the settings of the command.
        noise: of days, None where they do not show it.
        model: the mixed model with random effects, or why there is none.
        drifts: severity moved during the baseline already.
        decimals: of the points.
    """
    counts, rows = study.cell_counts(), []
    spreads: dict[str, Shrunken | None] = {}
    blups = model.responses if isinstance(model, MixedFit) else None
    for index, name in enumerate(study.treatments[1:], 1):
        found = differences(study, index)
        who, errors, spreads[name] = patients_of(study, index, noise, settings.confidence, settings.relevant)
        # A patient has one order, whatever the others have: time and treatment can be distinguished within the
        # patient alone.
        later = later_shares(study, index)
        for place, patient in enumerate(who.tolist()):
            entry = _withheld(noise)
            if (shrunken := spreads[name]) is not None:
                entry = _estimated(
                    shrunken,
                    place,
                    (name, study.treatments[0]),
                    settings,
                    difference=float(found[patient]),
                    moves=drifts,
                    in_time=confounded_by(float(later[patient])) != "no",
                    decimals=decimals,
                )
            rows.append(
                PatientEffect(
                    patient=study.patients[patient],
                    treatment=name,
                    days_baseline=int(counts[patient, 0]),
                    days_treatment=int(counts[patient, index]),
                    difference=float(found[patient]),
                    standard_error=None if errors is None else float(errors[place]),
                    blup=None if blups is None else float(blups[patient, index - 1]),
                    **entry,
                )
            )
    return rows, spreads


def _withheld(noise: DayNoise | None) -> dict[str, Any]:
    """The entry of a patient of whom nothing was estimated."""
    why = "how much days vary is unknown, no two of one phase differ"
    if noise is not None:
        why = "all patients differ by the same number, how far patients differ is unknown"
    text = f"No estimate for this patient alone: {why}."
    return {"shrunken": None, "p_better": None, "p_worse": None, "verdict": "", "sentence": text}


def _estimated(found: Shrunken, place: int, names: tuple[str, str], settings: Settings, **about: Any) -> dict[str, Any]:
    """The entry of one patient and one treatment; ``about`` as :func:`sentence` takes it."""
    estimate = (float(found.mean[place]), float(found.low[place]), float(found.high[place]))
    chances = (float(found.p_better[place]), float(found.p_worse[place]))
    outcome = verdict(*chances, settings.sure, moves=about["moves"])
    text = sentence(
        *names, estimate, chances, outcome, relevant=settings.relevant, confidence=settings.confidence, **about
    )
    return {"shrunken": estimate, "p_better": chances[0], "p_worse": chances[1], "verdict": outcome, "sentence": text}
