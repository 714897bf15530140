"""The mixed models: closed forms of balanced studies, and fits that may not be believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams

from trainers.longitudinal import mixed
from trainers.longitudinal.mixed import NotConvergedError, SummedMixedLM, fit_mixed
from trainers.longitudinal.patient_means import differences, patient_level
from trainers.longitudinal.study import Study


def test_a_balanced_random_intercept_is_the_analysis_of_variance(balanced: Study) -> None:
    fit = fit_mixed(balanced, random_effects=False)
    patients, treatments, days = 8, 3, 12
    cells = balanced.cell_means()
    mean = balanced.severity.mean()
    predicted = cells.mean(axis=1)[balanced.patient] + cells.mean(axis=0)[balanced.treatment] - mean
    residual = ((balanced.severity - predicted) ** 2).sum() / (len(balanced.day) - patients - treatments + 1)
    assert fit.effects == pytest.approx([differences(balanced, index).mean() for index in (1, 2)], abs=1e-6)
    assert fit.standard_errors == pytest.approx([np.sqrt(2 * residual / (patients * days))] * 2, rel=1e-4)
    assert fit.residual_sd == pytest.approx(np.sqrt(residual), rel=1e-4)
    between = days * treatments * cells.mean(axis=1).var(ddof=1)
    assert fit.sd["level"] == pytest.approx(np.sqrt((between - residual) / (days * treatments)), rel=1e-2)
    assert fit.responses is None


def test_balanced_random_effects_are_the_patients_differences(balanced: Study) -> None:
    fit = fit_mixed(balanced, random_effects=True)
    for index in (1, 2):
        level = patient_level(balanced, index, 0.95)
        assert fit.effects[index - 1] == pytest.approx(level.estimate, abs=1e-4)
        assert fit.standard_errors[index - 1] == pytest.approx(level.standard_error, rel=1e-2)
    assert fit.residual_sd == pytest.approx(np.sqrt((balanced.residuals() ** 2).sum() / (8 * 3 * 11)), rel=1e-3)
    assert fit.residuals == pytest.approx(balanced.severity - fit.fitted)
    # Predicted effects are drawn towards the mean, the farther the stronger, and keep their order.
    assert fit.responses is not None
    plain, drawn = differences(balanced, 1), fit.responses[:, 0]
    assert drawn.mean() == pytest.approx(plain.mean(), abs=1e-3)
    assert 0.8 < drawn.std() / plain.std() < 1
    assert drawn.argsort().tolist() == plain.argsort().tolist()


def test_it_is_statsmodels_own_fit(simulated: Study) -> None:
    design = np.column_stack([np.ones(len(simulated.day)), np.eye(3)[simulated.treatment][:, 1:]])
    theirs = MixedLM(simulated.severity, design, groups=simulated.patient).fit(method=["bfgs"])
    ours = fit_mixed(simulated, random_effects=False)
    assert ours.effects == pytest.approx(theirs.fe_params[1:], abs=1e-3)
    assert ours.standard_errors == pytest.approx(theirs.bse_fe[1:], rel=1e-3)
    assert ours.log_likelihood == pytest.approx(theirs.llf, abs=1e-3)


def test_the_likelihood_by_sums_is_statsmodels_own(simulated: Study) -> None:
    design = np.column_stack([np.ones(len(simulated.day)), np.eye(3)[simulated.treatment][:, 1:]])
    models = [
        kind(simulated.severity, design, groups=simulated.patient, exog_re=design) for kind in (MixedLM, SummedMixedLM)
    ]
    for model in models:
        model.fit(reml=True, method=["lbfgs"], maxiter=1)
    rng = np.random.default_rng(0)
    for scale in (10.0, 1.0, 0.1, 1e-3, 1e-7):
        packed = scale * rng.normal(size=6)
        theirs, ours = (model.loglike(packed) for model in models)
        assert ours == pytest.approx(theirs, rel=1e-11), scale
    fixed = MixedLMParams.from_components(np.array([50.0, -5.0, 1.0]), np.diag([4.0, 2.0, 1.0]))
    theirs, ours = (model.loglike(fixed, profile_fe=False) for model in models)
    assert ours == pytest.approx(theirs, rel=1e-11)


def test_errors_and_predictions_are_those_of_dense_generalised_least_squares(simulated: Study) -> None:
    fit = fit_mixed(simulated, random_effects=True)
    design = np.column_stack([np.ones(len(simulated.day)), np.eye(3)[simulated.treatment][:, 1:]])
    result = MixedLM(simulated.severity, design, groups=simulated.patient, exog_re=design).fit(method=["bfgs"])
    same = simulated.patient[:, None] == simulated.patient[None, :]
    covariance = np.where(same, design @ result.cov_re @ design.T, 0) + result.scale * np.eye(len(design))
    gram = design.T @ np.linalg.solve(covariance, design)
    assert fit.standard_errors == pytest.approx(np.sqrt(np.diag(np.linalg.inv(gram)))[1:], rel=2e-3)
    effects = np.linalg.solve(gram, design.T @ np.linalg.solve(covariance, simulated.severity))
    assert fit.effects == pytest.approx(effects[1:], abs=2e-3)
    # The prediction (BLUP) of a patient is C Z' V^-1 of what the effects leave over.
    left = np.linalg.solve(covariance, simulated.severity - design @ effects)
    assert fit.responses is not None
    for patient in range(10):
        rows = simulated.patient == patient
        own = (effects + result.cov_re @ design[rows].T @ left[rows])[1:]
        assert fit.responses[patient] == pytest.approx(own, abs=0.02)


def test_patients_who_respond_alike_are_fitted_at_the_edge_of_the_parameters(
    study: Callable[..., Study], balanced_rows: Callable[..., list[Any]]
) -> None:
    for seed in range(3):
        alike = study(balanced_rows(seed=seed, spread=0.0))
        fit = fit_mixed(alike, random_effects=True)
        assert fit.effects == pytest.approx([differences(alike, index).mean() for index in (1, 2)], abs=0.05)
        # Between the error of days alone and twice that.
        least = np.sqrt(2 * fit.residual_sd**2 / (8 * 12))
        assert np.all((0.95 * least < fit.standard_errors) & (fit.standard_errors < 2 * least))


class Result:
    """A fit as statsmodels returns it, with something wrong."""

    def __init__(self, result: Any, **changes: Any) -> None:
        self.__dict__.update(changes)
        self._result = result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._result, name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"converged": False}, "lbfgs and powell and nm: did not converge"),
        ({"llf": np.inf}, "its likelihood is not finite"),
        ({"cov_re": np.array([[np.nan]])}, "its standard errors are not finite"),
        ({"fe_params": np.array([50.0, 0.63, 0.0])}, "standard errors off generalised least squares"),
        ({"scale": 1e-12}, "no day differs from what it predicts"),
        ({"scale": np.nan}, "no day differs from what it predicts"),
    ],
)
def test_a_fit_that_cannot_be_believed_is_no_fit(
    balanced: Study, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    real = MixedLM.fit
    monkeypatch.setattr(mixed.MixedLM, "fit", lambda self, **options: Result(real(self, **options), **changes))
    with pytest.raises(NotConvergedError) as raised:
        fit_mixed(balanced, random_effects=False)
    assert message in str(raised.value)


def test_an_error_of_the_library_is_no_fit(balanced: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, **options: Any) -> None:
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(mixed.MixedLM, "fit", fail)
    with pytest.raises(NotConvergedError, match="lbfgs and powell and nm: Singular matrix"):
        fit_mixed(balanced, random_effects=True)


def test_days_that_never_differ_leave_random_effects_unknown(study: Callable[..., Study]) -> None:
    # statsmodels calls this converged, with an effect that is not even the mean of the patients' differences.
    cells = (("a", 50, 40), ("b", 60, 52), ("c", 55, 41))
    rows = [
        (who, day, name, float(value))
        for who, base, treated in cells
        for name, value, start in (("Baseline", base, 0), ("Cream", treated, 5))
        for day in range(start, start + 5)
    ]
    with pytest.raises(NotConvergedError, match="no day differs from what it predicts"):
        fit_mixed(study(rows), random_effects=True)
