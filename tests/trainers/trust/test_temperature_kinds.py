"""Bias-corrected and vector calibration: known values come back, independent fits agree, open data change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from trainers.trust.prior import class_prior
from trainers.trust.temperature import (
    BIAS_SD,
    CalibrationFit,
    TemperatureWarning,
    _nll_slopes,
    fit_calibration,
    fit_temperature,
    log_probs,
)

BIAS = np.array([1.0, -0.5, 0.2, -0.7])
SCALE = np.array([0.5, 1.0, 0.8, 1.4])


def drawn(probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One label a row, with the row's probabilities."""
    return (probs.cumsum(axis=1) < rng.random((len(probs), 1))).sum(axis=1).clip(max=probs.shape[1] - 1)


def raw_logits(n: int, seed: int, scale: np.ndarray | float, bias: np.ndarray, members: int = 1):
    """Logits (n, members, 4) that ``logits * scale + bias`` makes honest, and labels."""
    rng = np.random.default_rng(seed)
    raw = (2 * rng.normal(size=(n, 1, 4)) + rng.normal(size=(n, members, 4))) / np.mean(scale)
    return raw, drawn(softmax(raw * scale + bias, axis=2).mean(axis=1), rng)


class Logits(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier whose decision function is what it is given."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X):
        return X

    def predict(self, X):
        return self.classes_[X.argmax(axis=1)]


def test_temperature_equals_scikit_learns():
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(800, 5))
    labels = drawn(softmax(logits / 2, axis=1), rng)
    theirs = CalibratedClassifierCV(FrozenEstimator(Logits().fit(logits, labels)), ensemble=False, method="temperature")
    theirs.fit(logits, labels)
    fit = fit_temperature(logits, labels)
    assert np.exp(fit.log_probs(logits)) == pytest.approx(theirs.predict_proba(logits), abs=1e-4)
    assert 1 / fit.value == pytest.approx(theirs.calibrated_classifiers_[0].calibrators[0].beta_, rel=1e-3)


def test_two_classes_bias_corrected_is_logistic_regression_on_the_logit_gap():
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(3000, 2))
    gap = logits[:, 1] - logits[:, 0]
    labels = (rng.random(3000) < 1 / (1 + np.exp(-(0.6 * gap - 1.2)))).astype(int)
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(gap[:, None], labels)
    fit = fit_calibration(logits, labels, "bias_corrected")
    assert fit.bias is not None
    assert 1 / fit.value == pytest.approx(theirs.coef_.item(), rel=2e-3)
    assert fit.bias[1] - fit.bias[0] == pytest.approx(theirs.intercept_.item(), rel=2e-3)


def test_two_classes_vector_is_logistic_regression_on_both_logits():
    rng = np.random.default_rng(2)
    logits = 2 * rng.normal(size=(3000, 2))
    chance = 1 / (1 + np.exp(-(0.9 * logits[:, 1] - 0.5 * logits[:, 0] + 0.8)))
    labels = (rng.random(3000) < chance).astype(int)
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(logits * [-1, 1], labels)
    fit = fit_calibration(logits, labels, "vector")
    assert fit.scale == pytest.approx(theirs.coef_[0], rel=5e-3)
    assert fit.value == pytest.approx(np.exp(-np.log(theirs.coef_[0]).mean()), rel=5e-3)
    assert np.ptp(fit.bias) == pytest.approx(theirs.intercept_.item(), rel=5e-3)


@pytest.mark.parametrize("kind", ["bias_corrected", "vector"])
def test_an_ensembles_fit_equals_torchs(kind):
    raw, labels = raw_logits(600, 3, SCALE if kind == "vector" else 0.6, BIAS, members=3)
    logits, target = torch.tensor(raw), torch.tensor(labels)
    scale = torch.zeros(4 if kind == "vector" else 1, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([scale, bias], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        mean = torch.softmax(logits * scale.exp() + bias, dim=-1).mean(dim=1)
        ridge = ((bias / 3) ** 2).sum() + ((scale - scale.mean()) ** 2).sum()
        value = torch.nn.functional.nll_loss(mean.log(), target) + ridge / 2 / len(labels)
        value.backward()
        return value

    optimizer.step(loss)
    fit = fit_calibration(raw, labels, kind)
    assert fit.bias == pytest.approx((bias - bias.mean()).detach().numpy(), abs=1e-4)
    mine = fit.scale if kind == "vector" else np.array([1 / fit.value])
    assert mine == pytest.approx(scale.exp().detach().numpy(), rel=1e-4)


def test_slopes_equal_finite_differences():
    rng = np.random.default_rng(4)
    logits, labels, weights = rng.normal(size=(5, 3, 4)), rng.integers(0, 4, 5), rng.random(5)

    def nll(flat):
        return _nll_slopes(flat.reshape(logits.shape), labels, weights)[0]

    slopes = _nll_slopes(logits, labels, weights)[1]
    assert slopes.ravel() == pytest.approx(approx_fprime(logits.ravel(), nll, 1e-7), abs=1e-6)
    expected = -(weights @ log_probs(logits)[np.arange(5), labels]) / weights.sum()
    assert nll(logits.ravel()) == pytest.approx(expected)


@pytest.mark.parametrize("members", [1, 4])
@pytest.mark.parametrize("kind", ["bias_corrected", "vector"])
def test_known_values_are_recovered(kind, members):
    scale = SCALE if kind == "vector" else 0.4
    raw, labels = raw_logits(12_000, 5, scale, BIAS, members)
    fit = fit_calibration(raw, labels, kind)
    assert fit.kind == kind
    assert fit.bias == pytest.approx(BIAS, abs=0.12)
    assert fit.bias.sum() == pytest.approx(0, abs=1e-9)
    if kind == "vector":
        assert fit.scale == pytest.approx(SCALE, rel=0.08)
        assert fit.value == pytest.approx(np.exp(-np.log(fit.scale).mean()))
    else:
        assert fit.scale is None
        assert fit.value == pytest.approx(2.5, rel=0.05)


def test_oversampling_is_undone_by_a_bias_and_not_by_a_scalar():
    # Two classes, 1 in 10 of them positive; trained as if even, so the logit gap lacks log(1 / 9).
    rng = np.random.default_rng(6)
    labels = (rng.random(8000) < 0.1).astype(int)
    gap = 2 * (rng.normal(size=8000) + 2 * labels - 1)  # the log ratio of N(1, 1) to N(-1, 1)
    logits = np.stack([np.zeros(8000), gap], axis=1)
    fit = fit_calibration(logits, labels, "bias_corrected")
    assert fit.bias[1] - fit.bias[0] == pytest.approx(-np.log(9), abs=0.1)
    assert fit.value == pytest.approx(1, abs=0.05)
    assert np.exp(fit.log_probs(logits))[:, 1].mean() == pytest.approx(labels.mean(), abs=2e-3)
    scalar = fit_calibration(logits, labels)
    assert np.exp(scalar.log_probs(logits))[:, 1].mean() > labels.mean() + 0.04
    assert fit.nll_after < scalar.nll_after - 0.03


@pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning")
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [(12, 3, 4), (40, 5)])
def test_the_loss_is_never_worse_than_the_scalars(shape, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=shape) * rng.uniform(0.1, 20), rng.integers(0, shape[-1], shape[0])
    scalar = fit_calibration(logits, labels)
    for kind in ("bias_corrected", "vector"):
        fit = fit_calibration(logits, labels, kind)
        assert fit.nll_after <= scalar.nll_after + 1e-12
        assert fit.nll_after <= fit.nll_before == scalar.nll_before
        found = -fit.log_probs(logits)[np.arange(len(labels)), labels].mean()
        assert fit.nll_after == pytest.approx(found)
        assert fit.value > 0
        assert np.isfinite(fit.bias).all()


def test_apply_by_hand():
    logits = np.array([[[2.0, 4.0], [0.0, 8.0]]])
    assert CalibrationFit(2.0, 1, 1, 1).apply(logits).tolist() == [[[1, 2], [0, 4]]]
    biased = CalibrationFit(2.0, 1, 1, 1, "bias_corrected", None, np.array([1.0, -1.0]))
    assert biased.apply(logits).tolist() == [[[2, 1], [1, 3]]]
    vector = CalibrationFit(2.0, 1, 1, 1, "vector", np.array([2.0, 0.25]), np.array([1.0, -1.0]))
    assert vector.apply(logits).tolist() == [[[5, 0], [1, 1]]]
    expected = np.log(softmax([[5.0, 0.0], [1.0, 1.0]], axis=1).mean(axis=0))
    assert vector.log_probs(logits)[0] == pytest.approx(expected)
    assert vector.log_probs(logits[:, 0])[0] == pytest.approx(log_softmax([5.0, 0.0]))


@pytest.mark.parametrize("kind", ["bias_corrected", "vector"])
def test_a_class_without_images_is_held_by_the_ridge(kind):
    raw, labels = raw_logits(700, 7, 1.0, np.zeros(4))
    keep = labels != 3
    fit = fit_calibration(raw[keep], labels[keep], kind)
    assert -6 < fit.bias[3] < -2
    # Where the ridge holds: the class's mean probability balances its pull, as the data alone would drive it to 0.
    mean = np.exp(fit.log_probs(raw[keep]))[:, 3].mean()
    assert mean == pytest.approx(-fit.bias[3] / BIAS_SD**2 / keep.sum(), rel=0.01)
    assert mean > 1e-4
    if kind == "vector":
        assert 0.2 < fit.scale[3] * fit.value < 5


def test_a_fit_by_group_weighs_each_lesion_once():
    raw, labels = raw_logits(400, 8, 0.5, BIAS)
    copies = np.random.default_rng(9).integers(1, 5, 400)
    groups = np.repeat(np.arange(400), copies)
    once = fit_calibration(raw, labels, "bias_corrected")
    many = fit_calibration(raw[groups], labels[groups], "bias_corrected", groups=groups)
    assert many.bias == pytest.approx(once.bias, abs=1e-4)
    assert many.value == pytest.approx(once.value, rel=1e-4)
    assert many.nll_after == pytest.approx(once.nll_after)
    assert fit_temperature(raw[groups], labels[groups], groups=groups).value == pytest.approx(
        fit_temperature(raw, labels).value, rel=1e-4
    )


def test_mean_probabilities_are_the_class_prior_in_the_same_weights():
    raw, labels = raw_logits(900, 10, 0.5, BIAS)
    groups = np.random.default_rng(11).integers(0, 300, 900)
    fit = fit_calibration(raw, labels, "bias_corrected", groups=groups)
    _, index, images = np.unique(groups, return_inverse=True, return_counts=True)
    mean = np.average(np.exp(fit.log_probs(raw)), axis=0, weights=1 / images[index])
    # Equal but for the pull of the ridge.
    assert mean == pytest.approx(class_prior(labels, groups, 4), abs=2e-3)


@pytest.mark.parametrize("kind", ["scalar", "bias_corrected", "vector"])
def test_constant_logits_change_nothing_with_a_warning(kind):
    with pytest.warns(TemperatureWarning, match="T = 1 is kept; check the training"):
        fit = fit_calibration(np.full((6, 2, 3), 2.0), np.array([0, 1, 2, 0, 0, 0]), kind)
    assert (fit.value, fit.kind) == (1.0, kind)
    assert fit.nll_after == fit.nll_before == pytest.approx(np.log(3))
    assert fit.apply(np.array([[1.0, 2.0, 3.0]])).tolist() == [[1, 2, 3]]
    assert (fit.bias is None) == (kind == "scalar")
    assert (fit.scale is None) == (kind != "vector")


@pytest.mark.parametrize("kind", ["bias_corrected", "vector"])
def test_right_on_every_image_changes_nothing_with_a_warning(kind):
    with pytest.warns(TemperatureWarning, match="right on every image"):
        fit = fit_calibration(4 * np.eye(3), np.arange(3), kind)
    assert fit.apply(np.eye(3)).tolist() == np.eye(3).tolist()


@pytest.mark.parametrize("kind", ["bias_corrected", "vector"])
def test_biases_that_would_put_every_image_right_are_left_out(kind):
    # Gaps 3, 2 (both class 0) and 1 (class 1): a bias between 1 and 2 separates them, the scalar cannot.
    logits, labels = np.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0]]), np.array([0, 0, 1])
    with pytest.warns(TemperatureWarning, match="right on every one of the 3 images, so nothing holds them back"):
        fit = fit_calibration(logits, labels, kind)
    assert fit.value == pytest.approx(fit_temperature(logits, labels).value)
    assert fit.bias.tolist() == [0, 0]
    assert fit.nll_after < fit.nll_before


@pytest.mark.parametrize("kind", ["bias_corrected", "vector"])
def test_no_better_than_chance_is_softened_with_a_warning(kind):
    with pytest.warns(TemperatureWarning, match="no better than chance"):
        fit = fit_calibration(np.tile(4 * np.eye(3), (4, 1)), np.tile([1, 2, 0], 4), kind)
    assert fit.value > 50
    assert fit.nll_after == pytest.approx(np.log(3), abs=0.05)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="'platt' is unknown: give one of scalar, vector, bias_corrected"):
        fit_calibration(np.eye(3), np.arange(3), "platt")


@pytest.mark.parametrize("kind", ["scalar", "bias_corrected", "vector"])
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, dtype=int), "needs at least one image"),
        (
            np.array([[1.0, np.nan], [0.0, 1.0]]),
            np.array([0, 1]),
            "1 of 2 images have a logit that is NaN, infinite",
        ),
        (np.eye(3), np.array([0, 1, 3]), r"labels span 0\.\.3; expected 0\.\.2"),
    ],
)
def test_what_cannot_be_fitted_is_named(logits, labels, message, kind):
    with pytest.raises(ValueError, match=message):
        fit_calibration(logits, labels, kind)


def test_groups_of_another_length_are_named():
    with pytest.raises(ValueError, match=r"group ids have shape \(2,\) for 3 images"):
        fit_calibration(np.eye(3), np.arange(3), groups=np.array(["a", "b"]))
