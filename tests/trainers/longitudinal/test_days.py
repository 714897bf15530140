"""The noise of days, against dense matrices and against what was simulated."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from datasets_scripts.simulate_acne import Design, simulate
from trainers.longitudinal.days import (
    SHARED_DAYS,
    autocorrelations,
    contrast_variance,
    difference_variance,
    fit_noise,
)
from trainers.longitudinal.study import Study


def correlation(days: np.ndarray, rho: float) -> np.ndarray:
    return rho ** np.abs(days[:, None] - days[None, :]).astype(float)


def test_the_variance_of_a_contrast_is_that_of_the_dense_matrix() -> None:
    rng = np.random.default_rng(0)
    days = np.sort(rng.choice(60, 25, replace=False))
    weights = rng.normal(size=25)
    for rho in (0.0, 0.3, 0.9):
        assert contrast_variance(days, weights, rho) == pytest.approx(weights @ correlation(days, rho) @ weights)
    # By hand: the mean of two consecutive days has variance (1 + rho) / 2.
    assert contrast_variance(np.array([1, 2]), np.array([0.5, 0.5]), 0.4) == pytest.approx(0.7)


def test_the_variance_of_a_difference_counts_gaps_and_leaves_other_treatments_out(study: Callable[..., Study]) -> None:
    rows = [("a", day, name, float(day)) for day, name in ((1, "Baseline"), (2, "Baseline"), (3, "A"), (5, "B"))]
    rows += [("b", 1, "Baseline", 1.0), ("b", 9, "A", 3.0), ("c", 1, "Baseline", 0.0), ("c", 3, "B", 0.0)]
    found = difference_variance(study([*rows, ("c", 4, "B", 1.0)]), 1, 0.5)
    weights, days = np.array([-0.5, -0.5, 1]), np.array([1, 2, 3])
    assert found[0] == pytest.approx(weights @ correlation(days, 0.5) @ weights)
    assert found[1] == pytest.approx(2 - 2 * 0.5**8)
    assert np.isnan(found[2])


def dense_restricted(study: Study, rho: float) -> float:
    """-2 x the restricted log likelihood, profiled over the variance, by dense matrices of the whole study."""
    same = study.patient[:, None] == study.patient[None, :]
    matrix = np.where(same, correlation(study.day, rho), 0.0)
    cells = study.patient * len(study.treatments) + study.treatment
    design = (cells[:, None] == np.unique(cells)[None, :]).astype(float)
    inverse = np.linalg.inv(matrix)
    gram = design.T @ inverse @ design
    projected = inverse - inverse @ design @ np.linalg.solve(gram, design.T @ inverse)
    free = len(cells) - design.shape[1]
    square = study.severity @ projected @ study.severity
    return free * np.log(square) + np.linalg.slogdet(matrix)[1] + np.linalg.slogdet(gram)[1]


def test_rho_is_the_restricted_maximum_likelihood_estimate(study: Callable[..., Study]) -> None:
    small = study(simulate(Design(patients=4, days=12, missing=0.2, shortest=6), seed=2).rows)
    noise = fit_noise(small)
    assert noise is not None
    dense = minimize_scalar(lambda rho: dense_restricted(small, rho), bounds=(0, 0.98), method="bounded")
    assert 0.2 < noise.rho < 0.9
    assert noise.rho == pytest.approx(dense.x, abs=1e-3)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_rho_and_spread_are_found_again(study: Callable[..., Study], rho: float) -> None:
    found = [
        fit_noise(study(simulate(Design(autocorrelation=rho, missing=0.2, shortest=10), seed).rows))
        for seed in range(8)
    ]
    assert np.mean([noise.rho for noise in found if noise]) == pytest.approx(rho, abs=0.05)
    assert np.mean([noise.sd for noise in found if noise]) == pytest.approx(5, rel=0.06)


def test_a_patients_own_spread_is_moderated_towards_all(study: Callable[..., Study]) -> None:
    rng = np.random.default_rng(1)
    rows = [
        (who, day, "Baseline" if day < 100 else "A", sd * float(rng.standard_normal()))
        for who, sd in (("calm", 1.0), ("lively", 5.0))
        for day in range(200)
    ]
    both = study([*rows, ("short", 0, "Baseline", 0.0), ("short", 1, "A", 1.0)])
    noise = fit_noise(both)
    assert noise is not None
    assert noise.rho < 0.1
    assert noise.freedom == 396
    assert noise.patient_sd[2] == pytest.approx(noise.sd)  # its days say nothing
    for patient in (0, 1):
        own = (both.residuals()[both.patient == patient] ** 2).sum() / 198
        expected = np.sqrt((SHARED_DAYS * noise.sd**2 + 198 * own) / (SHARED_DAYS + 198))
        assert noise.patient_sd[patient] == pytest.approx(expected, rel=0.01)
    assert noise.patient_sd[1] > 3 * noise.patient_sd[0]


def test_days_that_alternate_count_as_independent(study: Callable[..., Study]) -> None:
    rows = [
        (who, day, "Baseline" if day < 10 else "A", 5.0 + (-1) ** day + 0.01 * day * (who == "b"))
        for who in "ab"
        for day in range(20)
    ]
    noise = fit_noise(study(rows))
    assert noise is not None
    assert noise.rho == pytest.approx(0, abs=1e-4)


def test_without_two_days_that_differ_nothing_is_known(study: Callable[..., Study]) -> None:
    one = [("a", 1, "Baseline", 1.0), ("a", 2, "A", 2.0), ("b", 1, "Baseline", 5.0), ("b", 2, "A", 9.0)]
    assert fit_noise(study(one)) is None
    assert fit_noise(study([*one, ("a", 3, "A", 2.0), ("b", 3, "A", 9.0)])) is None


def test_autocorrelation_by_lag_by_hand(study: Callable[..., Study]) -> None:
    # Residuals of a at baseline: 1, -1, gap, 0; of b at baseline 2, -2; under A none but 0.
    rows = [("a", 1, "Baseline", 1.0), ("a", 2, "Baseline", -1.0), ("a", 4, "Baseline", 0.0), ("a", 5, "A", 9.0)]
    rows += [("b", 1, "Baseline", 2.0), ("b", 2, "Baseline", -2.0), ("b", 3, "A", 9.0), ("b", 4, "A", 9.0)]
    table = autocorrelations(study(rows))
    assert [row["lag"] for row in table] == list(range(1, 15))
    # Pairs one day apart: (1, -1), (2, -2), (0, 0).
    assert table[0] == {"lag": 1, "pairs": 3, "correlation": pytest.approx(-1)}
    assert table[1] == {"lag": 2, "pairs": 1, "correlation": None}
    assert table[4]["pairs"] == 0
