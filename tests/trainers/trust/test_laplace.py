"""The posterior of a linear head against the whole matrix, and what the variance does far from the data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from trainers.trust.laplace import PRECISIONS, fit_laplace, with_one


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    features = rng.normal(size=(300, 4)) + 1.5 * np.eye(3, 4)[labels]
    weight, bias = 1.5 * np.eye(3, 4) + 0.2 * rng.normal(size=(3, 4)), np.array([0.1, -0.2, 0.0])
    return features, labels, weight, bias


def test_variances_are_those_of_the_whole_posterior(data):
    """(n A (x) B + tau I)^-1 written out, for 15 weights."""
    features, labels, weight, bias = data
    fit = fit_laplace(features, labels, weight, bias, 1000)
    phi = with_one(features)
    p = softmax(features @ weight.T + bias, axis=1)
    curvature = np.mean([np.diag(row) - np.outer(row, row) for row in p], axis=0)
    inverse = np.linalg.inv(1000 * np.kron(curvature, phi.T @ phi / 300) + fit.precision * np.eye(15))
    for row in range(3):
        whole = np.kron(np.eye(3), phi[row])
        assert fit.variances(features)[row] == pytest.approx(np.diag(whole @ inverse @ whole.T), rel=1e-8)


def test_logits_are_scaled_by_the_variance_alone(data):
    features, labels, weight, bias = data
    fit = fit_laplace(features, labels, weight, bias, 1000)
    plain = features @ weight.T + bias
    assert fit.logits(features) == pytest.approx(plain / np.sqrt(1 + np.pi / 8 * fit.variances(features)))
    # Far from the data the head is settled less, and the answer less sure than the plain one.
    near, far = np.full((1, 4), 0.5), np.full((1, 4), 50.0)
    assert fit.variances(far).min() > 100 * fit.variances(near).max()


def test_more_training_images_settle_the_head(data):
    features, labels, weight, bias = data
    few, many = (fit_laplace(features, labels, weight, bias, n).variances(features).mean() for n in (100, 100_000))
    assert many < few


def test_the_precision_has_the_least_loss(data):
    features, labels, weight, bias = data

    def loss(fit):
        p = softmax(fit.logits(features), axis=1)
        return -np.log(p[np.arange(300), labels]).mean()

    sure = fit_laplace(features, labels, 5 * weight, 5 * bias, 200)
    assert sure.precision in PRECISIONS
    from dataclasses import replace

    losses = [loss(replace(sure, precision=float(value))) for value in PRECISIONS]
    assert loss(sure) == pytest.approx(min(losses))
    # A head that is far too sure wants a wide posterior.
    plain = -np.log(softmax(5 * (features @ weight.T + bias), axis=1)[np.arange(300), labels]).mean()
    assert loss(sure) < plain


def test_shapes_that_do_not_agree_are_refused(data):
    features, labels, weight, bias = data
    for wrong in ((features[:, :3], weight, bias, 10), (features[:0], weight, bias, 10), (features, weight, bias, 0)):
        seen, head, offset, n = wrong
        with pytest.raises(ValueError, match="training images"):
            fit_laplace(seen, labels, head, offset, n)
