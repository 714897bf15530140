"""The analysis of a study: effects by four methods, patients, diagnostics, warnings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainers.longitudinal import diagnostics
from trainers.longitudinal.days import DayNoise, autocorrelations, fit_noise
from trainers.longitudinal.mixed import MixedFit, NotConvergedError, fit_mixed
from trainers.longitudinal.patient_means import Estimate, holm, interval, lacking, patient_level
from trainers.longitudinal.patients import Shrunken, decimals_for
from trainers.longitudinal.shrinking import PatientEffect, Settings, patient_table
from trainers.longitudinal.study import Study

DEFAULT = "patient_means"
# In the order of the tables; what each is called, and what may be expected of it.
METHODS = {
    DEFAULT: "Patient means, t (default)",
    "random_intercept": "Random intercept, z (as published)",
    "random_effects": "Random intercept and effects, z",
    "random_effects_t": "Random intercept and effects, t",
}
MODELS = {"random_intercept": False, "random_effects": True}


@dataclass(frozen=True)
class Effect:
    """One line of the effect table.

    Attributes:
        treatment: its name.
        method: a key of :data:`METHODS`.
        found: the estimate, or why it is withheld.
        p_holm: p adjusted for the number of treatments by Holm's method, within the method.
        patients: with days under both (default), else with any day.
        days: under treatment and baseline of these patients.
    """

    treatment: str
    method: str
    found: Estimate
    p_holm: float | None
    patients: int
    days: int


@dataclass(frozen=True)
class Analysis:
    """Everything that was found.

    Attributes:
        study: what was read.
        settings: the settings of the command.
        effects: the effect table.
        patients: the patients' table.
        models: key of :data:`MODELS` -> its fit, or why there is none.
        noise: of days, None where they do not show it.
        spreads: treatment -> how far patients' own effects differ, None where withheld.
        diagnostics: JSON-ready.
        warnings: one line each, the gravest first.
        decimals: that points are shown with.
    """

    study: Study
    settings: Settings
    effects: list[Effect]
    patients: list[PatientEffect]
    models: dict[str, MixedFit | str]
    noise: DayNoise | None
    spreads: dict[str, Shrunken | None]
    diagnostics: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    decimals: int = 1


def analyse(study: Study, settings: Settings, step: Callable[[str], object] = lambda done: None) -> Analysis:
    """Fit everything.

    Args:
        study: what was read.
        settings: the settings of the command.
        step: called with the name of each part before it starts.
    """
    step("patient means")
    models: dict[str, MixedFit | str] = {}
    for name, random_effects in MODELS.items():
        step(name.replace("_", " "))
        try:
            models[name] = fit_mixed(study, random_effects)
        except NotConvergedError as error:
            models[name] = f"the model did not converge ({error})"
    step("patients")
    noise = fit_noise(study)
    order = diagnostics.order_of(study)
    decimals = decimals_for(float(np.nanstd(study.residuals())) / 2)
    drift = diagnostics.baseline_drift(study, settings.confidence)
    patients, spreads = patient_table(study, settings, noise, models["random_effects"], drift["drifts"], decimals)
    step("diagnostics")
    whole = models["random_effects"] if isinstance(models["random_effects"], MixedFit) else models["random_intercept"]
    found = {
        "order": order,
        "baseline_drift": drift,
        "autocorrelation": {"rho_reml": None if noise is None else noise.rho, "by_lag": autocorrelations(study)},
        "models": {name: described(fit) for name, fit in models.items()},
        "far_off": diagnostics.far_off(study),
        "residuals": diagnostics.residuals_of(study, whole) if isinstance(whole, MixedFit) else None,
        **diagnostics.gaps(study),
    }
    effects = effect_table(study, settings, models)
    found_warnings = warnings_of(study, effects, models, noise, found)
    return Analysis(study, settings, effects, patients, models, noise, spreads, found, found_warnings, decimals)


def effect_table(study: Study, settings: Settings, models: dict[str, MixedFit | str]) -> list[Effect]:
    """Every treatment by every method; a method without a number has the reason."""
    counts = study.cell_counts()
    found: dict[str, list[Estimate]] = {name: [] for name in METHODS}
    for index in range(1, len(study.treatments)):
        pairs = int(((counts[:, 0] > 0) & (counts[:, index] > 0)).sum())
        found[DEFAULT].append(patient_level(study, index, settings.confidence))
        for name, fit in models.items():
            found[name].append(by_model(fit, index, pairs, settings.confidence))
        found["random_effects_t"].append(
            by_model(models["random_effects"], index, pairs, settings.confidence, by_t=True)
        )
    adjusted = {name: holm([one.p for one in estimates]) for name, estimates in found.items()}
    effects = []
    for place, treatment in enumerate(study.treatments[1:]):
        columns = counts[:, [0, place + 1]]
        both = (columns > 0).all(axis=1)
        for name, estimates in found.items():
            kept = both if name == DEFAULT else (columns > 0).any(axis=1)
            effects.append(
                Effect(
                    treatment=treatment,
                    method=name,
                    found=estimates[place],
                    p_holm=adjusted[name][place],
                    patients=int(kept.sum()),
                    days=int(columns[kept].sum()),
                )
            )
    return effects


def by_model(fit: MixedFit | str, treatment: int, pairs: int, confidence: float, *, by_t: bool = False) -> Estimate:
    """A treatment's effect by a mixed model; without a fit, the reason.

    Args:
        fit: the model, or why there is none.
        treatment: index, 1 or more.
        pairs: patients with days under treatment and baseline.
        confidence: of the interval.
        by_t: t with ``pairs - 1`` degrees of freedom instead of normal, as statsmodels has it.
    """
    if pairs < 2:
        return Estimate(withheld=lacking(pairs))
    if isinstance(fit, str):
        return Estimate(withheld=fit)
    error = float(fit.standard_errors[treatment - 1])
    return interval(float(fit.effects[treatment - 1]), error, pairs - 1 if by_t else None, confidence)


def described(fit: MixedFit | str) -> dict[str, Any]:
    """A model for the report."""
    if isinstance(fit, str):
        return {"converged": False, "withheld": fit}
    return {
        "converged": True,
        "optimizer": fit.optimizer,
        "restricted_log_likelihood": fit.log_likelihood,
        "random_effect_sd": fit.sd,
        "residual_sd": fit.residual_sd,
        "notes": fit.notes,
    }


def warnings_of(
    study: Study,
    effects: list[Effect],
    models: dict[str, MixedFit | str],
    noise: DayNoise | None,
    found: dict[str, Any],
) -> list[str]:
    """What a reader must know before the numbers, one line each."""
    found_warnings = diagnostics.order_warnings(found["order"], study.treatments[0])
    drift = found["baseline_drift"]
    if drift["drifts"]:
        # Where the order differs between patients, a drift falls on both sides of their differences.
        what = "part of every effect may be that drift" if found_warnings else "it makes every effect less sure"
        found_warnings.append(
            f"severity moved during {study.treatments[0]} already, by {drift['points_a_week']:+.2g} points a week "
            f"({drift['low']:.2g} to {drift['high']:.2g}): {what}"
        )
    found_warnings += diagnostics.far_off_warnings(found["far_off"])
    for name, fit in models.items():
        if isinstance(fit, str):
            also = " and random_effects_t" if name == "random_effects" else ""
            found_warnings.append(f"{name}{also}: all entries of the effect table are withheld, {fit}")
    for effect in effects:
        if effect.method == DEFAULT and effect.found.withheld:
            found_warnings.append(f"{effect.treatment}, {DEFAULT}: the effect is withheld, {effect.found.withheld}")
    if len(study.patients) < diagnostics.FEW_PATIENTS:
        found_warnings.append(
            f"{len(study.patients)} patients: intervals this small a study gives rest on patients' differences being "
            "normally distributed, which cannot be checked"
        )
    if noise is not None and noise.rho >= diagnostics.AUTOCORRELATED:
        found_warnings.append(
            f"days resemble the day before (autocorrelation {noise.rho:.2f}): the random intercept's interval, which "
            "takes them for independent, is too narrow; read the default"
        )
    if study.meaning:
        found_warnings.append(f"severity here is {study.meaning}")
    return found_warnings
