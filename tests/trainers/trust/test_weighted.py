"""Weighted conformal prediction: values by hand, and coverage under a known covariate shift by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from trainers.trust.conformal import quantile
from trainers.trust.weighted import (
    WeightError,
    check_effective,
    density_ratios,
    effective_size,
    weighted_quantile,
)

ALPHA = 0.1


def test_equal_weights_are_the_plain_quantile() -> None:
    scores = np.random.default_rng(0).normal(size=99)
    for alpha in (0.05, 0.1, 0.18, 0.5, 0.001):
        found = weighted_quantile(scores, np.full(99, 0.7), np.array([0.7]), alpha)
        assert found[0] == quantile(scores, alpha)


def test_weights_move_the_quantile_as_computed_by_hand() -> None:
    # Masses 1/8, 1/8, 2/8, 3/8 and 1/8 at infinity: cumulated 0.125, 0.25, 0.5, 0.875.
    scores, weights = np.array([3.0, 1.0, 4.0, 2.0]), np.array([2.0, 1.0, 3.0, 1.0])
    found = [weighted_quantile(scores, weights, np.array([1.0]), alpha)[0] for alpha in (0.8, 0.5, 0.2, 0.125, 0.1)]
    assert found == [2.0, 3.0, 4.0, 4.0, np.inf]
    assert effective_size(weights) == pytest.approx(49 / 15)


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha 1\.5"):
        weighted_quantile(np.ones(3), np.ones(3), np.ones(1), 1.5)
    with pytest.raises(ValueError, match="at least 0"):
        weighted_quantile(np.ones(3), -np.ones(3), np.ones(1), 0.1)
    with pytest.raises(ValueError, match="5 or more"):
        density_ratios(np.ones((4, 2)), np.ones((40, 2)))
    with pytest.raises(WeightError, match=r"26 effective calibration images, and alpha 0\.1 needs 27"):
        check_effective(26.4, ALPHA)
    check_effective(27, ALPHA)


def covered(seed: int, *, concept: float = 0.0) -> dict[str, float]:
    """Coverage on shifted images by the plain, the weighted and the local threshold (50 local lesions)."""
    rng = np.random.default_rng(seed)

    def draw(n: int, shift: float, extra: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(n, 3)) + np.array([shift, 0, 0])
        # The score of the true class: its spread grows with the first feature, so a shift of it breaks the promise.
        return x, np.abs(rng.normal(size=n)) * np.exp(0.7 * x[:, 0]) + extra

    (x, scores), (new, truth), (_, local) = draw(600, 0), draw(600, 0.8, concept), draw(50, 0.8, concept)
    ratios = density_ratios(x, new, seed)
    thresholds = {
        "plain": quantile(scores, ALPHA),
        "weighted": weighted_quantile(scores, ratios.calibration, ratios.new, ALPHA),
        "local": quantile(local, ALPHA),
    }
    return {name: float((truth <= limit).mean()) for name, limit in thresholds.items()} | {"n": ratios.effective}


def test_weights_restore_coverage_under_covariate_shift_and_not_under_another() -> None:
    found = [covered(seed) for seed in range(25)]
    mean = {name: np.mean([row[name] for row in found]) for name in found[0]}
    assert mean["plain"] < 0.8
    assert mean["weighted"] == pytest.approx(0.9, abs=0.025)
    assert mean["local"] == pytest.approx(0.9, abs=0.025)
    assert 150 < mean["n"] < 500  # w = exp(0.8 x - 0.32): 600 / exp(0.64) = 316 with the true ratios
    other = [covered(seed, concept=2.0) for seed in range(8)]
    assert np.mean([row["weighted"] for row in other]) < 0.8
    assert np.mean([row["local"] for row in other]) > 0.86


def test_no_overlap_leaves_few_effective_images() -> None:
    rng = np.random.default_rng(1)
    near = density_ratios(rng.normal(size=(300, 4)), rng.normal(size=(300, 4)))
    far = density_ratios(rng.normal(size=(300, 4)), rng.normal(size=(300, 4)) + 3)
    assert near.auroc == pytest.approx(0.5, abs=0.1)
    assert near.effective > 250
    assert far.auroc > 0.99
    with pytest.raises(WeightError):
        check_effective(far.effective, ALPHA)
