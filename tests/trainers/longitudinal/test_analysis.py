"""The effect table's arithmetic, and which warnings a study earns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, t

from datasets_scripts.simulate_acne import Design, simulate
from trainers.longitudinal.analysis import DEFAULT, METHODS, MODELS, Settings, analyse, by_model, effect_table
from trainers.longitudinal.mixed import MixedFit, fit_mixed
from trainers.longitudinal.study import Study


def test_models_give_normal_intervals_and_the_last_method_t_intervals(balanced: Study) -> None:
    models: dict[str, MixedFit | str] = {name: fit_mixed(balanced, random) for name, random in MODELS.items()}
    table = effect_table(balanced, Settings(confidence=0.9), models)
    assert [(row.treatment, row.method) for row in table] == [(name, method) for name in "AB" for method in METHODS]
    for row in table:
        found = row.found
        law = norm if row.method in MODELS else t(7)
        assert found.freedom == (None if row.method in MODELS else 7)
        assert (found.high - found.low) / 2 == pytest.approx(law.ppf(0.95) * found.standard_error)
        assert (found.high + found.low) / 2 == pytest.approx(found.estimate)
        assert found.p == pytest.approx(2 * law.cdf(-abs(found.estimate) / found.standard_error))
        assert (row.patients, row.days) == (8, 192)
    for method in METHODS:
        p = sorted(row.found.p for row in table if row.method == method)
        adjusted = sorted(row.p_holm for row in table if row.method == method)
        assert adjusted == pytest.approx([min(1, 2 * p[0]), max(min(1, 2 * p[0]), p[1])])


def test_a_model_says_nothing_of_a_treatment_that_no_two_patients_compare() -> None:
    fit = MixedFit(np.array([-3.0]), np.array([1.0]), {}, 1.0, 0.0, "lbfgs")
    assert by_model(fit, 1, 2, 0.95).estimate == -3
    assert by_model(fit, 1, 1, 0.95).withheld == "one patient has days under it and the baseline, two are needed"
    assert by_model("it did not converge", 1, 9, 0.95).withheld == "it did not converge"


@pytest.mark.parametrize(
    ("design", "sentences"),
    [
        (Design(), ["always given later", "days resemble the day before"]),
        (Design(trend=-0.6), ["always given later", "part of every effect may be that drift", "days resemble"]),
        (Design(order="random", patients=20), ["days resemble the day before"]),
        (Design(order="random", patients=20, autocorrelation=0.0), []),
        (Design(patients=4, autocorrelation=0.0), ["always given later", "4 patients: "]),
        (
            Design(trend=0.6, order="random", patients=20, autocorrelation=0.0),
            ["(3.9 to 4.8): it makes every effect less sure", "days resemble the day before"],
        ),
    ],
)
def test_warnings(study: Callable[..., Study], design: Design, sentences: list[str]) -> None:
    found = analyse(study(simulate(design, 7).rows), Settings()).warnings
    assert len(found) == len(sentences)
    for expected, warning in zip(sentences, found, strict=True):
        assert expected in warning


def test_a_patients_error_counts_days_that_resemble_each_other(simulated: Study) -> None:
    analysis = analyse(simulated, Settings())
    noise = analysis.noise
    assert noise is not None
    assert noise.rho > 0.3
    for row in analysis.patients:
        patient, kind = simulated.patients.index(row.patient), simulated.treatments.index(row.treatment)
        days = (simulated.patient == patient) & np.isin(simulated.treatment, (0, kind))
        weights = np.where(simulated.treatment[days] == kind, 1 / row.days_treatment, -1 / row.days_baseline)
        apart = np.abs(simulated.day[days][:, None] - simulated.day[days][None, :])
        variance = noise.patient_sd[patient] ** 2 * (weights @ noise.rho ** apart.astype(float) @ weights)
        assert row.standard_error == pytest.approx(np.sqrt(variance))
        assert row.difference == pytest.approx(simulated.severity[days] @ weights)


def test_steps_are_reported_in_turn(balanced: Study) -> None:
    steps: list[Any] = []
    analysis = analyse(balanced, Settings(), steps.append)
    assert steps == ["patient means", "random intercept", "random effects", "patients", "diagnostics"]
    assert analysis.decimals == 1
    assert len(analysis.patients) == 16
    assert analysis.effects[0].method == DEFAULT
