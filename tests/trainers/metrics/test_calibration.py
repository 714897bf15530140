"""Calibration errors against values worked out by hand, scikit-learn, and simulation."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from trainers.metrics import calibration as cal

PROBS = np.array([[0.5, 0.5], [0.25, 0.75]])
LABELS = np.array([0, 1])


def two_bins() -> cal.ReliabilityBins:
    """Ten images at 0.9 of which 8 are right, ten at 0.6 of which 6 are."""
    confidence = np.repeat([0.9, 0.6], 10)
    correct = np.r_[np.arange(10) < 8, np.arange(10) < 6]
    return cal.reliability_bins(confidence, correct)


def test_nll_by_hand():
    assert cal.nll(np.log(PROBS), LABELS) == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)


def test_brier_by_hand():
    # (0.5^2 + 0.5^2 + 0.25^2 + 0.25^2) / 2: summed over the classes, not halved.
    assert cal.brier(PROBS, LABELS) == pytest.approx(0.3125)


def test_brier_spans_zero_to_two():
    assert cal.brier(np.eye(3), np.arange(3)) == 0
    assert cal.brier(np.eye(3), np.array([1, 2, 0])) == 2


def test_weighted_scores_equal_sklearn():
    rng = np.random.default_rng(0)
    labels, probs, weight = rng.integers(0, 4, 80), rng.dirichlet(np.ones(4), 80), rng.integers(0, 3, 80)
    halved = {"labels": range(4), "sample_weight": weight, "scale_by_half": False}
    assert cal.nll(np.log(probs), labels, weight) == pytest.approx(sk.log_loss(labels, probs, sample_weight=weight))
    assert cal.brier(probs, labels, weight) == pytest.approx(sk.brier_score_loss(labels, probs, **halved))


def test_bins_by_hand():
    bins = two_bins()
    assert bins.weight[[8, 13]].tolist() == [10, 10]
    assert bins.weight.sum() == 20
    assert bins.accuracy[[8, 13]] == pytest.approx([0.6, 0.8])
    assert bins.confidence[[8, 13]] == pytest.approx([0.6, 0.9])
    assert np.isnan(bins.accuracy[0])


def test_ece_by_hand():
    assert cal.ece(two_bins()) == pytest.approx(0.5 * 0.1)


def test_bin_edges_belong_to_the_bin_below():
    bins = cal.reliability_bins(np.array([0.0, 0.5, 0.50001, 1.0]), np.ones(4), n_bins=2)
    assert bins.weight.tolist() == [2, 2]


def test_weights_equal_repeated_images():
    rng = np.random.default_rng(2)
    confidence, correct, weights = rng.random(30), rng.random(30) < 0.5, rng.integers(0, 4, (2, 30))
    bins = cal.reliability_bins(confidence, correct, weights)
    for row, weight in enumerate(weights):
        repeated = cal.reliability_bins(np.repeat(confidence, weight), np.repeat(correct, weight))
        assert cal.ece(bins)[row] == pytest.approx(cal.ece(repeated))
        assert cal.ece_debiased(bins)[row] == pytest.approx(cal.ece_debiased(repeated))


def test_debiased_ece_equals_the_drawn_estimator():
    # Kumar et al. draw the noise; here one bin at 0.9 with 8 of 10 right, so the accuracy has spread sqrt(.16 / 10).
    bins = cal.reliability_bins(np.full(10, 0.9), np.arange(10) < 8)
    drawn = np.abs(np.random.default_rng(0).normal(0.8, np.sqrt(0.016), 400_000) - 0.9).mean()
    assert cal.ece_debiased(bins) == pytest.approx(0.1 - (drawn - 0.1), abs=5e-4)


def test_debiased_ece_is_close_to_the_truth_where_the_plain_one_is_not():
    rng = np.random.default_rng(3)
    plain, debiased = [], []
    for _ in range(200):
        confidence = 0.4 + 0.6 * rng.random(600)
        bins = cal.reliability_bins(confidence, rng.random(600) < confidence - 0.05)
        plain.append(cal.ece(bins))
        debiased.append(cal.ece_debiased(bins))
    assert abs(np.mean(debiased) - 0.05) < 0.004
    assert np.mean(plain) - 0.05 > 0.006


def test_debiased_ece_stays_between_zero_and_the_plain_one():
    rng = np.random.default_rng(4)
    confidence = rng.random(40)
    bins = cal.reliability_bins(confidence, rng.random(40) < confidence)
    assert 0 <= cal.ece_debiased(bins) <= cal.ece(bins)
    assert cal.ece_debiased(cal.reliability_bins(np.array([0.7]), np.array([True]))) == pytest.approx(0.3)


def test_floor_of_one_image_by_hand():
    # Right with chance 0.7 (error 0.3), wrong with chance 0.3 (error 0.7): 2 * 0.7 * 0.3.
    assert cal.simulated_ece(np.array([0.7]), 40_000, seed=0).mean() == pytest.approx(0.42, abs=0.005)


def test_floor_of_a_hundred_images_by_hand():
    # Mean absolute deviation of a fair coin thrown 100 times, over 100: C(100, 50) / 2^100 / 2.
    assert cal.simulated_ece(np.full(100, 0.5), 20_000, seed=0).mean() == pytest.approx(0.0398, abs=0.0005)


def test_floor_is_what_a_calibrated_model_shows():
    rng = np.random.default_rng(5)
    confidence = 0.3 + 0.7 * rng.random(400)
    seen = [cal.ece(cal.reliability_bins(confidence, rng.random(400) < confidence)) for _ in range(300)]
    assert cal.simulated_ece(confidence, 500, seed=1).mean() == pytest.approx(np.mean(seen), rel=0.05)


def test_floor_repeats_with_its_seed():
    confidence = np.linspace(0.3, 1, 50)
    same = cal.simulated_ece(confidence, 20, seed=7)
    assert same.tolist() == cal.simulated_ece(confidence, 20, seed=7).tolist()
    assert same.tolist() != cal.simulated_ece(confidence, 20, seed=8).tolist()


def test_a_confidence_that_is_no_probability_is_named():
    with pytest.raises(ValueError, match=r"confidences span 0\.5\.\.1\.2"):
        cal.reliability_bins(np.array([0.5, 1.2]), np.array([True, False]))
    with pytest.raises(ValueError, match="one outcome per image"):
        cal.reliability_bins(np.array([0.5, 0.6]), np.array([True]))


def drawn(n: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, classes) that are not calibrated, and labels."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.4), n)
    return probs, np.where(rng.random(n) < 0.5, probs.argmax(axis=1), rng.integers(0, classes, n))


def test_ece_equals_torchmetrics():
    probs, labels = drawn(700, 6, seed=10)
    theirs = multiclass_calibration_error(torch.tensor(probs), torch.tensor(labels), num_classes=6, n_bins=15)
    bins = cal.reliability_bins(probs.max(axis=1), probs.argmax(axis=1) == labels)
    assert cal.ece(bins) == pytest.approx(theirs.item(), abs=1e-6)  # theirs counts in float32


def test_classwise_ece_equals_the_mean_of_torchmetrics_binary_ones():
    probs, labels = drawn(700, 6, seed=11)
    theirs = [
        binary_calibration_error(torch.tensor(probs[:, c]), torch.tensor(labels == c).int(), n_bins=15).item()
        for c in range(6)
    ]
    assert cal.ece_classwise(probs, labels) == pytest.approx(np.mean(theirs), abs=1e-6)


def test_adaptive_ece_equals_sklearns_quantile_bins():
    # 20 images a bin and no two alike: every convention of equal mass agrees, and bins weigh the same.
    probs, labels = drawn(300, 5, seed=12)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    accuracy, mean = calibration_curve(right, confidence, n_bins=15, strategy="quantile")
    assert cal.ece_adaptive(confidence, right) == pytest.approx(np.abs(accuracy - mean).mean(), abs=1e-12)


def test_adaptive_ece_by_hand():
    # Two bins of two: accuracies 1 and 1/2, confidences 0.5 and 0.75.
    confidence, right = np.array([0.9, 0.4, 0.6, 0.6]), np.array([False, True, True, True])
    assert cal.ece_adaptive(confidence, right, n_bins=2) == pytest.approx((0.5 + 0.25) / 2)
    # One bin: three of four right at a mean confidence of 0.625.
    assert cal.ece_adaptive(confidence, right, n_bins=1) == pytest.approx(0.125)


def test_adaptive_ece_shares_out_what_lies_on_a_border():
    # Three images in two bins: the middle one, wrong at 0.6, half in each: (|-0.4 - 0.3| + |-0.3 + 0.2|) / 3.
    found = cal.ece_adaptive(np.array([0.4, 0.6, 0.8]), np.array([False, False, True]), n_bins=2)
    assert found == pytest.approx((0.7 + 0.1) / 3)


def test_adaptive_ece_of_one_confidence_hangs_on_no_order():
    confidence, right = np.full(6, 0.7), np.array([True, True, True, False, False, False])
    assert cal.ece_adaptive(confidence, right, n_bins=3) == pytest.approx(0.2)
    assert cal.ece_adaptive(confidence, right[::-1], n_bins=3) == pytest.approx(0.2)


def test_classwise_ece_by_hand():
    # Class 0: one image at 0.5 that is of it (gap 0.5), one at 0.25 that is not (0.25); class 1 mirrors it.
    assert cal.ece_classwise(PROBS, LABELS) == pytest.approx(0.375)
    # A third class that never comes and gets nothing adds 0 to the sum and 1 to the number of classes.
    assert cal.ece_classwise(np.c_[PROBS, [0.0, 0.0]], LABELS) == pytest.approx(0.25)


def test_classwise_ece_sees_what_the_plain_one_cannot():
    # The predicted class is honest, the rest of the mass is on the wrong one of the two others.
    probs, labels = np.tile([0.6, 0.4, 0.0], (10, 1)), np.array([0] * 6 + [2] * 4)
    assert cal.ece(cal.reliability_bins(probs.max(axis=1), labels == 0)) == pytest.approx(0)
    assert cal.ece_classwise(probs, labels) == pytest.approx(0.8 / 3)


def test_weights_equal_repeated_images_in_the_other_eces():
    probs, labels = drawn(40, 3, seed=13)
    confidence, right = probs.max(axis=1).round(1), probs.argmax(axis=1) == labels
    weights = np.random.default_rng(14).integers(0, 4, (3, 40))
    adaptive, classwise = cal.ece_adaptive(confidence, right, weights), cal.ece_classwise(probs, labels, weights)
    assert adaptive.shape == classwise.shape == (3,)
    for row, weight in enumerate(weights):
        rows = np.repeat(np.arange(40), weight)
        assert adaptive[row] == pytest.approx(cal.ece_adaptive(confidence[rows], right[rows]))
        assert classwise[row] == pytest.approx(cal.ece_classwise(probs[rows], labels[rows]))


def test_the_other_eces_of_nothing_are_not_defined():
    assert np.isnan(cal.ece_adaptive(np.zeros(0), np.zeros(0)))
    assert np.isnan(cal.ece_classwise(np.zeros((0, 3)), np.zeros(0, dtype=int)))
    assert np.isnan(cal.ece_adaptive(np.array([0.5]), np.array([True]), np.zeros((2, 1)))).all()


def test_what_is_no_probability_is_named_by_the_other_eces():
    with pytest.raises(ValueError, match=r"confidences span 0\.5\.\.1\.2"):
        cal.ece_adaptive(np.array([0.5, 1.2]), np.array([True, False]))
    with pytest.raises(ValueError, match="confidences span nan"):
        cal.ece_adaptive(np.array([0.5, np.nan]), np.array([True, False]))
    with pytest.raises(ValueError, match=r"confidences span 2\.0\.\.2\.0"):
        cal.ece_classwise(np.array([[2.0, -1.0]]), np.array([0]))
    with pytest.raises(ValueError, match="one label per image"):
        cal.ece_classwise(PROBS, np.array([0]))


def test_a_thousand_resamples_of_a_full_split_take_a_moment():
    probs, labels = drawn(1500, 8, seed=15)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    weights = np.random.default_rng(16).multinomial(1500, np.full(1500, 1 / 1500), size=1000).astype(float)
    start = time.process_time()
    adaptive, classwise = cal.ece_adaptive(confidence, right, weights), cal.ece_classwise(probs, labels, weights)
    assert time.process_time() - start < 5
    # Resampling adds noise, and the noise adds error: a little above the sample's own.
    assert 0.9 < adaptive.mean() / cal.ece_adaptive(confidence, right) < 1.2
    assert 0.9 < classwise.mean() / cal.ece_classwise(probs, labels) < 1.2
