"""Temperature scaling recovers a known temperature, never makes the loss worse, and names what it cannot fit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from trainers.trust.temperature import TemperatureWarning, fit_temperature, log_probs


def drawn(probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One label a row, with the row's probabilities."""
    return (probs.cumsum(axis=1) < rng.random((len(probs), 1))).sum(axis=1).clip(max=probs.shape[1] - 1)


@pytest.mark.parametrize("true", [0.3, 1.0, 1.8, 5.0])
def test_a_known_temperature_is_recovered(true):
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(6000, 7)) * 2
    labels = drawn(softmax(honest, axis=1), rng)
    fit = fit_temperature(honest * true, labels)
    assert fit.value == pytest.approx(true, rel=0.05)
    assert fit.n == 6000
    assert fit.nll_after <= fit.nll_before


def test_a_known_temperature_of_an_ensemble_is_recovered():
    rng = np.random.default_rng(1)
    honest = 2 * rng.normal(size=(6000, 1, 5)) + rng.normal(size=(6000, 4, 5))
    labels = drawn(softmax(honest, axis=2).mean(axis=1), rng)
    assert fit_temperature(honest * 2.5, labels).value == pytest.approx(2.5, rel=0.05)


def test_a_two_class_fit_by_hand():
    # Logit gap 2 on each of four images, three right: softmax(2 / T) = 3/4 at T = 2 / ln 3.
    logits = np.array([[2.0, 0.0]] * 4)
    fit = fit_temperature(logits, np.array([0, 0, 0, 1]))
    assert fit.value == pytest.approx(2 / np.log(3), rel=1e-4)
    assert fit.nll_after == pytest.approx(-(3 * np.log(0.75) + np.log(0.25)) / 4, rel=1e-6)
    assert fit.nll_before == pytest.approx(np.log1p(np.exp(-2)) + 2 / 4, rel=1e-6)


def test_the_answers_stay():
    logits = np.random.default_rng(2).normal(size=(50, 4))
    assert (log_probs(logits, 3.7).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_log_probs_by_hand():
    members = np.log(np.array([[[0.9, 0.1], [0.3, 0.7]]]))
    assert np.exp(log_probs(members)) == pytest.approx(np.array([[0.6, 0.4]]))
    assert log_probs(np.array([[1e6, 0.0]])).tolist() == [[0.0, -1e6]]


@pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning")
@pytest.mark.parametrize("seed", range(5))
def test_the_loss_never_gets_worse(seed):
    rng = np.random.default_rng(seed)
    fit = fit_temperature(rng.normal(size=(12, 3, 4)) * rng.uniform(0.1, 20), rng.integers(0, 4, 12))
    assert fit.nll_after <= fit.nll_before
    assert fit.value > 0


def test_equal_logits_keep_one_with_a_warning():
    with pytest.warns(TemperatureWarning, match="no temperature changes the answer"):
        fit = fit_temperature(np.full((5, 3), 2.0), np.array([0, 1, 2, 0, 1]))
    assert (fit.value, fit.nll_before, fit.nll_after) == (1.0, pytest.approx(np.log(3)), pytest.approx(np.log(3)))


def test_right_on_every_image_keeps_one_with_a_warning():
    with pytest.warns(TemperatureWarning, match="right on every image"):
        fit = fit_temperature(4 * np.eye(3), np.arange(3))
    assert fit.value == 1.0
    assert fit.nll_after == fit.nll_before


def test_worse_than_chance_is_softened_with_a_warning():
    with pytest.warns(TemperatureWarning, match="no better than chance"):
        fit = fit_temperature(4 * np.eye(3), np.array([1, 2, 0]))
    assert fit.value > 50
    assert fit.nll_after < fit.nll_before


@pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning")
def test_one_image_and_float32_are_enough():
    fit = fit_temperature(np.array([[1.0, 2.0, 0.0]], dtype=np.float32), np.array([0], dtype=np.int32))
    assert fit.n == 1
    assert fit.nll_after <= fit.nll_before


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, dtype=int), "needs at least one image"),
        (
            np.array([[1.0, np.nan], [0.0, 1.0]]),
            np.array([0, 1]),
            "1 of 2 images have a logit that is NaN, infinite",
        ),
        (np.array([[1.0, np.inf]]), np.array([0]), "1 of 1 images have a logit that is NaN, infinite"),
        (np.eye(3), np.array([0, 1, 3]), r"labels span 0\.\.3; expected 0\.\.2"),
        (np.eye(3), np.array([0, -1, 2]), r"labels span -1\.\.2; expected 0\.\.2"),
        (np.eye(3), np.array([0.0, 1.0, 2.0]), "labels are of type float64"),
        (np.eye(3), np.array([0, 1]), "give one label per image"),
        (np.zeros(3), np.array([0, 1, 2]), r"logits have shape \(3,\)"),
    ],
)
def test_what_cannot_be_fitted_is_named(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, labels)
