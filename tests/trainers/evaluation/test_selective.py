"""Selective classification against values worked out by hand, a plain loop, and the relation of AUGRC and AUROC."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trainers.evaluation.selective import (
    augrc,
    aurc,
    coverage_at_risk,
    risk_coverage,
    selective_section,
)
from trainers.metrics.discrimination import auroc

# Accepting one to four images: 0, 1, 1 and 2 errors.
UNCERTAINTY = np.array([0.3, 0.1, 0.4, 0.2])
WRONG = np.array([False, False, True, True])


def sample(n: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Uncertainties with many ties, outcomes and counts."""
    rng = np.random.default_rng(seed)
    uncertainty = rng.integers(0, 12, n) / 12
    return uncertainty, rng.random(n) < 0.05 + 0.5 * uncertainty, rng.integers(0, 4, n)


def test_the_curve_by_hand():
    curve = risk_coverage(UNCERTAINTY, WRONG)
    assert curve.threshold.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert curve.coverage().tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.generalised_risk().tolist() == [0, 0.25, 0.25, 0.5]


def test_the_areas_by_hand():
    curve = risk_coverage(UNCERTAINTY, WRONG)
    assert aurc(curve) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    # Trapezoids of the errors 0 0 1 1 2, over 16.
    assert augrc(curve) == pytest.approx((0 + 0.5 + 1 + 1.5) / 16)


def test_equal_uncertainties_are_accepted_together():
    curve = risk_coverage(np.array([0.1, 0.1, 0.2, 0.2]), np.array([False, True, False, False]))
    assert curve.threshold.tolist() == [0.1, 0.2]
    assert curve.risk().tolist() == [0.5, 0.25]
    assert aurc(curve) == pytest.approx((0.5 + 0.5 + 0.25 + 0.25) / 4)
    assert augrc(curve) == pytest.approx((2 * 0.5 + 2 * 1) / 16)


def test_a_constant_uncertainty_gives_the_error_itself():
    curve = risk_coverage(np.zeros(4), np.array([True, False, False, False]))
    assert (aurc(curve), augrc(curve)) == (0.25, 0.125)
    assert (coverage_at_risk(curve, 0.05), coverage_at_risk(curve, 0.25)) == (0.0, 1.0)


def test_best_and_worst():
    right, wrong = np.zeros(5, dtype=bool), np.ones(5, dtype=bool)
    ranks = np.arange(5.0)
    assert aurc(risk_coverage(ranks, right)) == augrc(risk_coverage(ranks, right)) == 0
    assert aurc(risk_coverage(ranks, wrong)) == 1
    assert augrc(risk_coverage(ranks, wrong)) == 0.5


@pytest.mark.parametrize(("risk", "expected"), [(0.0, 0.25), (0.05, 0.25), (1 / 3, 0.75), (0.4, 0.75), (0.5, 1.0)])
def test_coverage_at_a_risk_by_hand(risk, expected):
    assert coverage_at_risk(risk_coverage(UNCERTAINTY, WRONG), risk) == expected


@pytest.mark.parametrize("seed", range(5))
def test_areas_equal_a_plain_loop(seed):
    uncertainty, wrong, _ = sample(seed=seed)
    own = [wrong[uncertainty <= u].mean() for u in uncertainty]
    assert aurc(risk_coverage(uncertainty, wrong)) == pytest.approx(np.mean(own))


@pytest.mark.parametrize("seed", range(5))
def test_augrc_is_that_of_the_errors_auroc(seed):
    """Traub et al. 2024: (1 - AUROC) acc (1 - acc) + (1 - acc)^2 / 2, with weights and ties."""
    uncertainty, wrong, weights = sample(seed=seed)
    error = np.average(wrong, weights=weights)
    expected = (1 - auroc(wrong, uncertainty, weights)) * error * (1 - error) + error**2 / 2
    assert augrc(risk_coverage(uncertainty, wrong, weights)) == pytest.approx(expected)


def test_weights_count_images_and_resamples_go_in_one_pass():
    uncertainty, wrong, first = sample()
    weights = np.stack([first, np.roll(first, 7), np.ones_like(first)])
    curves = risk_coverage(uncertainty, wrong, weights)
    for row, counts in enumerate(weights):
        repeated = risk_coverage(np.repeat(uncertainty, counts), np.repeat(wrong, counts))
        for metric in (aurc, augrc, coverage_at_risk):
            assert metric(curves)[row] == pytest.approx(metric(repeated))


def test_the_section_reports_each_measure_with_its_interval():
    rng = np.random.default_rng(0)
    groups = np.repeat([f"L{i}" for i in range(150)], 2)
    labels = np.repeat(rng.integers(0, 3, 150), 2)
    uncertainty = rng.random(300)
    wrong = rng.random(300) < 0.4 * uncertainty**2
    found = selective_section(uncertainty, wrong, labels, groups, replicates=200)
    curve = risk_coverage(uncertainty, wrong)
    assert json.loads(json.dumps(found)) == found
    assert (found["n"], found["n_groups"]) == (300, 150)
    expected = {
        "error": wrong.mean(),
        "auroc_errors": auroc(wrong, uncertainty),
        "aurc": aurc(curve),
        "augrc": augrc(curve),
        "coverage_at_risk": coverage_at_risk(curve, 0.05),
    }
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-6)
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
        assert "bootstrap by lesion" in found[name]["method"]
    assert found["coverage_at_risk"]["risk"] == 0.05
    assert found == selective_section(uncertainty, wrong, labels, groups, replicates=200)


def test_the_curve_of_the_section_is_thinned_and_ends_at_all_images():
    uncertainty = np.random.default_rng(1).random(1000)
    wrong = uncertainty > 0.9
    points = selective_section(uncertainty, wrong, np.zeros(1000, dtype=int), np.arange(1000), replicates=1)["curve"]
    assert len(points) == 50
    assert [point["coverage"] for point in points[:2]] == [0.02, 0.04]
    assert points[-1] == {
        "coverage": 1.0,
        "risk": pytest.approx(wrong.mean()),
        "uncertainty": pytest.approx(uncertainty.max(), abs=1e-6),
    }


def test_without_errors_the_auroc_is_not_defined():
    found = selective_section(np.arange(6) / 6, np.zeros(6, dtype=bool), np.zeros(6, dtype=int), np.arange(6))
    assert found["auroc_errors"] == {"value": None, "why": "not defined: no wrong answer"}
    assert found["error"]["value"] == 0
    assert found["error"]["high"] == pytest.approx(1 - 0.025 ** (1 / 6), abs=1e-6)
    assert found["coverage_at_risk"]["value"] == 1


def test_one_lesion_has_no_interval():
    found = selective_section(UNCERTAINTY, WRONG, np.zeros(4, dtype=int), np.array(["a"] * 4))
    assert found["aurc"]["low"] is None
    assert found["aurc"]["why"] == "no class has two lesions"


@pytest.mark.parametrize(
    ("uncertainty", "wrong", "message"),
    [
        (np.zeros(0), np.zeros(0, dtype=bool), "0 images"),
        (np.array([0.1, np.nan]), np.array([True, False]), "1 with an uncertainty that is NaN"),
        (np.array([0.1, 0.2]), np.array([True]), r"\(2,\) uncertainties and \(1,\) outcomes"),
    ],
)
def test_what_cannot_be_measured_is_named(uncertainty, wrong, message):
    with pytest.raises(ValueError, match=message):
        risk_coverage(uncertainty, wrong)


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match="risk 5: give a share"):
        coverage_at_risk(risk_coverage(UNCERTAINTY, WRONG), 5)
    with pytest.raises(ValueError, match="0 replicates"):
        selective_section(UNCERTAINTY, WRONG, np.zeros(4, dtype=int), np.arange(4), replicates=0)
