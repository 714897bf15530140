"""Resampling keeps lesions together and classes in number; intervals cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from trainers.metrics import intervals
from trainers.metrics.weighting import weighted_mean

GROUPS = np.array(["a", "a", "b", "c", "c", "c", "d", "e"])
LABELS = np.array([0, 0, 0, 1, 1, 1, 1, 2])


def test_images_of_a_lesion_are_drawn_together():
    weights = intervals.bootstrap_weights(GROUPS, LABELS, 50, seed=0)
    assert weights.shape == (50, 8)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3:6] == weights[:, 3:4]).all()


def test_every_class_keeps_its_number_of_lesions():
    weights = intervals.bootstrap_weights(GROUPS, LABELS, 50, seed=0).astype(int)
    first_of_group = [0, 2, 3, 6, 7]
    per_group = weights[:, first_of_group]
    assert (per_group[:, :2].sum(axis=1) == 2).all()
    assert (per_group[:, 2:4].sum(axis=1) == 2).all()
    assert (per_group[:, 4] == 1).all()
    assert len(np.unique(per_group[:, 0])) == 3


def test_weights_repeat_with_their_seed_and_average_one():
    groups, labels = np.arange(200).astype(str), np.arange(200) % 3
    weights = intervals.bootstrap_weights(groups, labels, 2000, seed=4)
    assert (weights == intervals.bootstrap_weights(groups, labels, 2000, seed=4)).all()
    assert (weights != intervals.bootstrap_weights(groups, labels, 2000, seed=5)).any()
    assert weights.mean(axis=0) == pytest.approx(np.ones(200), abs=0.15)


def test_a_group_with_several_labels_counts_with_the_commonest():
    index, strata = intervals.group_strata(np.array(["x", "x", "x", "y"]), np.array([2, 1, 2, 0]))
    assert index.tolist() == [0, 0, 0, 1]
    assert strata.tolist() == [2, 0]


def test_one_lesion_a_class_cannot_be_resampled():
    assert not intervals.can_resample(np.array(["a", "a", "b"]), np.array([0, 0, 1]))
    assert intervals.can_resample(np.array(["a", "b"]), np.array([0, 0]))
    assert not intervals.can_resample(np.zeros(0, dtype=str), np.zeros(0, dtype=int))


def test_replicate_in_blocks_equals_all_at_once(monkeypatch):
    values, weights = np.arange(8.0), intervals.bootstrap_weights(GROUPS, LABELS, 30, seed=0)

    def statistic(block):
        return {"mean": weighted_mean(values, block)}

    whole = intervals.replicate(statistic, weights)["mean"]
    monkeypatch.setattr(intervals, "BLOCK", 8 * 7)
    assert intervals.replicate(statistic, weights)["mean"] == pytest.approx(whole)
    assert whole.shape == (30,)


def test_percentiles_by_hand():
    assert intervals.percentile_interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert intervals.percentile_interval(np.r_[np.arange(101.0), np.nan]) == pytest.approx((2.5, 97.5))
    with pytest.raises(ValueError, match="none of 2 replicates"):
        intervals.percentile_interval(np.array([np.nan, np.nan]))


def covered(correlated: bool, by_lesion: bool, runs: int = 300) -> float:
    """How often the bootstrap's interval of an accuracy holds the truth of 0.7; lesions of 1 to 5 images."""
    rng = np.random.default_rng(11)
    hits = 0
    for run in range(runs):
        lesion = np.repeat(np.arange(80), rng.integers(1, 6, 80))
        chance = rng.beta(0.7, 0.3, 80)[lesion] if correlated else np.full(len(lesion), 0.7)
        right = (rng.random(len(lesion)) < chance).astype(float)
        groups = lesion if by_lesion else np.arange(len(lesion))
        weights = intervals.bootstrap_weights(groups.astype(str), np.zeros(len(lesion), dtype=int), 200, seed=run)
        low, high = intervals.percentile_interval(weighted_mean(right, weights))
        hits += low <= 0.7 <= high
    return hits / runs


def test_the_bootstrap_over_lesions_covers_and_the_one_over_images_does_not():
    # Binomial spread over 300 runs is 0.013 at 0.95.
    assert covered(correlated=True, by_lesion=True) > 0.90
    assert covered(correlated=True, by_lesion=False) < 0.85


@pytest.mark.parametrize(("right", "n"), [(0, 5), (1, 1), (3, 10), (57, 60), (60, 60)])
def test_exact_interval_equals_scipy(right, n):
    expected = binomtest(right, n).proportion_ci(method="exact")
    assert intervals.exact_interval(right, n) == pytest.approx((expected.low, expected.high))


def test_exact_interval_of_a_half_count():
    found = intervals.exact_interval(2.5, 6)
    assert found == pytest.approx((beta.ppf(0.025, 2.5, 4.5), beta.ppf(0.975, 3.5, 3.5)))
    below, above = intervals.exact_interval(2, 6), intervals.exact_interval(3, 6)
    assert below[0] < found[0] < above[0]
    assert below[1] < found[1] < above[1]


def test_exact_interval_by_hand():
    # None of 5 right: the upper end solves (1 - p)^5 = 0.025.
    assert intervals.exact_interval(0, 5) == pytest.approx((0.0, 1 - 0.025 ** (1 / 5)))


@pytest.mark.parametrize(("right", "n"), [(-1, 5), (6, 5), (0, 0), (float("nan"), 3)])
def test_impossible_counts_are_named(right, n):
    with pytest.raises(ValueError, match=f"{right} right of {n}"):
        intervals.exact_interval(right, n)


def test_lesions_count_the_share_of_their_images():
    correct = np.array([True, False, True, True, True, False, False, True])
    # a: 1 of 2, b: 1, c: 2 of 3, d: 0, e: 1
    assert intervals.lesion_shares(correct, GROUPS) == (pytest.approx(0.5 + 1 + 2 / 3 + 0 + 1), 5)


def test_interval_by_lesion_is_wider_than_by_image():
    groups, correct = np.repeat(np.arange(10), 6).astype(str), np.repeat(np.arange(10) < 7, 6)
    low, high = intervals.exact_by_lesion(correct, groups)
    assert (low, high) == pytest.approx(intervals.exact_interval(7, 10))
    assert high - low > np.diff(intervals.exact_interval(42, 60))[0]


def test_interval_by_lesion_always_holds_the_share_by_image():
    # One lesion of 200 images, all wrong, beside 60 lesions that are right: 0.98 by lesion, 0.23 by image.
    groups = np.r_[np.zeros(200), np.arange(1, 61)].astype(int).astype(str)
    correct = np.r_[np.zeros(200), np.ones(60)].astype(bool)
    low, high = intervals.exact_by_lesion(correct, groups)
    assert low == pytest.approx(60 / 260)
    assert high > 0.98


@pytest.mark.parametrize(("errors", "n"), [(0, 59), (3, 80), (7, 140), (5, 5)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_upper_bound_is_that_of_scipy(errors, n, confidence):
    expected = binomtest(errors, n, alternative="less").proportion_ci(confidence, method="exact").high
    assert intervals.exact_upper(errors, n, confidence) == pytest.approx(expected)


def test_upper_bounds_by_hand():
    # Without an error in n: (1 - bound)^n = 0.05. Of nothing nothing is known.
    assert intervals.exact_upper(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert intervals.exact_upper(0, 0) == 1.0
    assert intervals.exact_upper(0.5, 10) < intervals.exact_upper(1, 10)


def test_an_upper_bound_of_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="3 errors of 2"):
        intervals.exact_upper(3, 2)
    with pytest.raises(ValueError, match="confidence 95"):
        intervals.exact_upper(1, 2, 95)
