"""Class priors: shares by lesion, errors that say what to do, and another prior estimated from unlabelled images."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from datasets_scripts.command import UserError
from trainers.metrics import calibration as cal
from trainers.metrics.weighting import group_weights
from trainers.trust.prior import class_prior, estimate_prior, shift
from trainers.trust.temperature import fit_calibration

LABELS = ["mel", "nv", "bkl"]
CENTRES = np.array([[1.5, 0.0], [0.0, 1.5], [-1.0, -1.0]])
HOME = np.array([0.2, 0.6, 0.2])
AWAY = np.array([0.55, 0.15, 0.3])


def population(prior: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points in the plane, each class a unit normal around its centre: (n, 2) and labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=prior)
    return CENTRES[labels] + rng.normal(size=(n, 2)), labels


def posterior(points: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Bayes' rule, exactly: (n, 3)."""
    return softmax(-((points[:, None] - CENTRES) ** 2).sum(axis=2) / 2 + np.log(prior), axis=1)


def errors(probs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """ECE and NLL."""
    bins = cal.reliability_bins(probs.max(axis=1), probs.argmax(axis=1) == labels)
    return float(cal.ece(bins)), float(cal.nll(np.log(probs), labels))


def test_group_weights_by_hand():
    assert group_weights(np.array(["a", "b", "a", "a"])).tolist() == pytest.approx([1 / 3, 1, 1 / 3, 1 / 3])


def test_class_prior_by_hand():
    # Lesion a: three images of class 0; b: one of class 1; c: one each of 0 and 1. Class 2 counts half a lesion.
    prior = class_prior(np.array([0, 0, 0, 1, 0, 1]), np.array(list("aaabcc")), 3)
    assert prior == pytest.approx(np.array([1.5, 1.5, 0.5]) / 3.5)


def test_class_prior_of_single_images_is_their_share():
    assert class_prior(np.array([1, 0, 1, 1]), np.arange(4), 2).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        (np.zeros(0, dtype=int), np.zeros(0), "0 images: a prior needs at least one"),
        (np.array([0, 1]), np.array(["a"]), "give one label per image"),
        (np.array([0, 3]), np.array(["a", "b"]), r"labels span 0\.\.3; expected 0\.\.2"),
        (np.array([0.0, 1.0]), np.array(["a", "b"]), "labels are of type float64"),
    ],
)
def test_class_prior_names_what_it_cannot_use(labels, groups, message):
    with pytest.raises(ValueError, match=message):
        class_prior(labels, groups, 3)


def test_shift_by_hand():
    # Ratios 2 and 2/3: 0.5 * 2 : 0.5 * 2/3 = 3 : 1.
    found = shift(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0.25, 0.75]), np.array([0.5, 0.5]))
    assert found == pytest.approx(np.array([[0.75, 0.25], [1.0, 0.0]]))


def test_shift_is_bayes_rule_and_can_be_undone():
    points, _ = population(HOME, 50, seed=0)
    moved = shift(posterior(points, HOME), HOME, AWAY)
    assert moved == pytest.approx(posterior(points, AWAY))
    assert shift(moved, AWAY, HOME) == pytest.approx(posterior(points, HOME))
    assert shift(moved, AWAY, AWAY) == pytest.approx(moved)


@pytest.mark.parametrize("seed", range(4))
def test_em_recovers_a_shifted_prior(seed):
    points, _ = population(AWAY, 4000, seed=10 + seed)
    found = estimate_prior(posterior(points, HOME), HOME)
    assert found.converged
    assert found.prior == pytest.approx(AWAY, abs=0.03)
    assert found.prior.sum() == pytest.approx(1)
    # The authors' test of "nothing has changed": chi-squared, 2 degrees of freedom, 5.99 at 95 %.
    assert 2 * 4000 * found.log_likelihood > 100


def test_em_finds_no_shift_where_there_is_none():
    points, _ = population(HOME, 4000, seed=20)
    found = estimate_prior(posterior(points, HOME), HOME)
    assert found.prior == pytest.approx(HOME, abs=0.03)
    assert 0 <= 2 * 4000 * found.log_likelihood < 12


def test_em_equals_the_maximum_found_by_another_method():
    probs = posterior(population(AWAY, 300, seed=21)[0], HOME)
    likelihood = minimize(
        lambda free: -np.log(probs / HOME @ softmax(np.r_[free, 0.0])).mean(), np.zeros(2), method="BFGS", tol=1e-10
    )
    found = estimate_prior(probs, HOME, tolerance=1e-10)
    assert found.prior == pytest.approx(softmax(np.r_[likelihood.x, 0.0]), abs=1e-4)
    assert found.log_likelihood == pytest.approx(-likelihood.fun, abs=1e-8)


def test_one_iteration_by_hand():
    # From an even prior the first estimate is the mean probability.
    probs = np.array([[0.9, 0.1], [0.6, 0.4]])
    found = estimate_prior(probs, np.array([0.5, 0.5]), max_iterations=1)
    assert found.prior == pytest.approx([0.75, 0.25])
    assert (found.iterations, found.converged) == (1, False)
    expected = (np.log(2 * (0.9 * 0.75 + 0.1 * 0.25)) + np.log(2 * (0.6 * 0.75 + 0.4 * 0.25))) / 2
    assert found.log_likelihood == pytest.approx(expected)


def test_no_iteration_lowers_the_likelihood():
    probs = posterior(population(AWAY, 200, seed=22)[0], HOME)
    found = [estimate_prior(probs, HOME, max_iterations=n, tolerance=0.0).log_likelihood for n in range(1, 60)]
    assert found[0] > 0
    assert (np.diff(found) >= -1e-12).all()
    assert found[-1] > found[0]


def test_a_class_that_no_image_supports_keeps_a_trace():
    found = estimate_prior(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0.5, 0.5]))
    assert found.prior == pytest.approx([1.0, 1e-9])
    assert found.prior[1] > 0


def test_groups_weigh_each_lesion_once():
    probs = posterior(population(AWAY, 100, seed=23)[0], HOME)
    rows = np.repeat(np.arange(100), np.random.default_rng(24).integers(1, 6, 100))
    found = estimate_prior(probs[rows], HOME, groups=rows)
    assert found.prior == pytest.approx(estimate_prior(probs, HOME).prior, abs=1e-6)


def test_calibration_at_a_shifted_prior_improves():
    # A model trained on even classes and overconfident: calibrated at home, used away, without a label from there.
    (at_home, home), (points, away) = population(HOME, 3000, seed=30), population(AWAY, 3000, seed=31)
    logits, raw = (1.7 * np.log(posterior(where, np.full(3, 1 / 3))) for where in (at_home, points))
    fit, prior = fit_calibration(logits, home, "bias_corrected"), class_prior(home, np.arange(3000), 3)
    probs = np.exp(fit.log_probs(raw))
    found = estimate_prior(probs, prior).prior
    assert found == pytest.approx(AWAY, abs=0.04)
    ece, nll = errors(probs, away)
    assert ece > 0.05
    for better in (shift(probs, prior, AWAY), shift(probs, prior, found)):
        assert errors(better, away)[0] < 0.02
        assert errors(better, away)[1] < nll - 0.1
    # Without biases the probabilities hold another prior than is claimed, and the estimate is off.
    scalar = np.exp(fit_calibration(logits, home).log_probs(raw))
    assert np.abs(estimate_prior(scalar, prior).prior - AWAY).max() > 0.05


@pytest.mark.parametrize(
    ("probs", "prior", "message"),
    [
        (np.zeros((0, 2)), [0.5, 0.5], "0 images: a prior is estimated from images of the new population"),
        (np.array([[0.5, 0.5], [np.nan, 1.0]]), [0.5, 0.5], "1 of 2 images have a probability that is NaN or infinite"),
        (np.array([[2.0, -1.0]]), [0.5, 0.5], "give softmax, not logits"),
        (np.array([[0.5, 0.6]]), [0.5, 0.5], "give softmax, not logits"),
        (np.array([0.5, 0.5]), [0.5, 0.5], r"probabilities have shape \(2,\): give \(N, C\)"),
        (np.array([[0.5, 0.5]]), [1.0, 0.0], "calibration_prior: the prior of class 1 is 0"),
        (np.array([[0.5, 0.5]]), [0.5, 0.3, 0.2], r"calibration_prior: the prior has shape \(3,\) for 2 classes"),
    ],
)
def test_what_no_prior_can_be_estimated_from_is_named(probs, prior, message):
    with pytest.raises(UserError, match=message):
        estimate_prior(probs, np.array(prior))


def test_settings_that_cannot_be_are_named():
    probs = np.array([[0.5, 0.5]])
    with pytest.raises(UserError, match="0 iterations: give at least 1"):
        estimate_prior(probs, np.array([0.5, 0.5]), max_iterations=0)
    with pytest.raises(UserError, match="give one group id per image"):
        estimate_prior(probs, np.array([0.5, 0.5]), groups=np.array(["a", "b"]))


@pytest.mark.parametrize(
    ("probs", "before", "after", "message"),
    [
        ([[0.5, np.nan]], [0.5, 0.5], [0.5, 0.5], "1 of 1 images have a probability that is NaN"),
        ([[0.5, 0.5]], [0.0, 1.0], [0.5, 0.5], "from_prior: the prior of class 0 is 0"),
        ([[0.5, 0.5]], [0.5, 0.5], [0.5, 0.6], "to_prior: the prior sums to 1.1"),
    ],
)
def test_shift_names_what_it_cannot_use(probs, before, after, message):
    with pytest.raises(UserError, match=message):
        shift(np.array(probs), np.array(before), np.array(after))


def test_shift_of_no_images_is_no_images():
    assert shift(np.zeros((0, 2)), np.array([0.5, 0.5]), np.array([0.1, 0.9])).shape == (0, 2)
