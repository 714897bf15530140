"""Each detector's fit against an independent library, and what cannot be fitted is named."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_ood import detector as other
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.decomposition import PCA

from hub_models.ood_lesion import BUFFERS, UnknownDetectorError
from trainers.trust import detectors
from trainers.trust.detectors import (
    DETECTORS,
    OODFit,
    OODFitError,
    fit_mahalanobis,
    fit_nearest_neighbours,
    fit_of,
    fit_projection,
    fit_vim,
    score,
    unit_length,
)

N, WIDTH, CLASSES = 240, 8, 3


@pytest.fixture(scope="module")
def known() -> SimpleNamespace:
    """Correlated features around three class means, logits linear in them, and some images from elsewhere."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(WIDTH, WIDTH)) / 2
    means = 2 * rng.normal(size=(CLASSES, WIDTH)) + 3
    labels = rng.integers(0, CLASSES, N)
    features = means[labels] + rng.normal(size=(N, WIDTH)) @ mixing
    weight = rng.normal(size=(CLASSES, WIDTH))
    return SimpleNamespace(
        features=features, labels=labels, logits=features @ weight.T, ood=4 * rng.normal(size=(50, WIDTH))
    )


def as_tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values)).float()


@pytest.mark.parametrize("t", [1.0, 1.7])
def test_max_softmax_agrees(known, t):
    ours = score("max_softmax", OODFit(), known.features, known.logits, t)
    theirs = other.MaxSoftmax.score(as_tensor(known.logits), t).numpy()
    assert ours == pytest.approx(1 + theirs, abs=1e-6)  # ours counts from 1, theirs from 0


def test_max_logit_and_energy_agree(known):
    ours = {name: score(name, OODFit(), known.features, known.logits, 3.0) for name in ("max_logit", "energy")}
    assert ours["max_logit"] == pytest.approx(other.MaxLogit.score(as_tensor(known.logits)).numpy(), rel=1e-5)
    assert ours["energy"] == pytest.approx(other.EnergyBased.score(as_tensor(known.logits)).numpy(), rel=1e-5)


def test_mahalanobis_agrees_without_shrinkage(known, monkeypatch):
    class Unshrunk(EmpiricalCovariance):
        shrinkage_ = 0.0

    monkeypatch.setattr(detectors, "LedoitWolf", Unshrunk)
    fit = fit_mahalanobis(known.features, known.logits, known.labels, 1.0)
    ours = score("mahalanobis", fit, known.ood, np.zeros((50, CLASSES)), 1.0)
    unit = as_tensor(unit_length(known.features))
    detector = other.Mahalanobis(None).fit_features(unit, torch.from_numpy(known.labels))
    theirs = detector.predict_features(as_tensor(unit_length(known.ood))).numpy()
    # Theirs is half the square, and its covariance a sum, not a mean, with 1e-6 added to its diagonal.
    assert ours == pytest.approx(2 * N * theirs, rel=1e-2)
    assert fit.settings == {"dimensions": WIDTH, "shrinkage": 0.0}


def test_early_statistics_keep_their_length(known):
    early = fit_of("early_mahalanobis")(known.features, known.logits, known.labels, 1.0)
    assert early.settings["unit_length"] == 0
    means = np.stack([known.features[known.labels == k].mean(axis=0) for k in range(CLASSES)])
    shrunk = LedoitWolf(assume_centered=True).fit(known.features - means[known.labels])
    away = known.ood[:, None] - means
    expected = np.einsum("nkd,de,nke->nk", away, shrunk.precision_, away).min(axis=1)
    assert score("early_mahalanobis", early, known.ood, np.zeros((50, CLASSES)), 1.0) == pytest.approx(
        expected, rel=1e-3
    )


def test_mahalanobis_is_that_of_the_shrunk_covariance(known):
    fit = fit_mahalanobis(known.features, known.logits, known.labels, 1.0, most=3)
    unit = unit_length(known.features)
    pca = PCA(3).fit(unit)
    inside = pca.transform(unit)
    means = np.stack([inside[known.labels == label].mean(axis=0) for label in range(CLASSES)])
    shrunk = LedoitWolf(assume_centered=True).fit(inside - means[known.labels])
    away = pca.transform(unit_length(known.ood))[:, None] - means
    squares = np.einsum("nkp,pq,nkq->nk", away, shrunk.precision_, away).min(axis=1)
    ours = score("mahalanobis", fit, known.ood, np.zeros((50, CLASSES)), 1.0)
    assert ours == pytest.approx(squares, rel=1e-4)
    assert fit.settings == {"dimensions": 3, "shrinkage": pytest.approx(shrunk.shrinkage_)}


@pytest.mark.parametrize("k", [1, 10, 50])
def test_nearest_neighbours_agree_without_projection(known, k):
    fit = fit_nearest_neighbours(known.features, known.logits, known.labels, 1.0, k=k)
    ours = score("nearest_neighbours", fit, known.ood, np.zeros((50, CLASSES)), 1.0)
    detector = other.KNN(None, k=k).fit_features(as_tensor(known.features), torch.from_numpy(known.labels))
    assert ours == pytest.approx(detector.predict_features(as_tensor(known.ood)).numpy(), abs=1e-5)
    assert fit.buffers["bank"].shape == (N, WIDTH)


def test_vim_agrees_where_its_origin_is_the_mean(known):
    # Their origin is where the logits vanish; with as many classes as features it can be put on the mean.
    weight = np.random.default_rng(1).normal(size=(WIDTH, WIDTH))
    bias = -weight @ known.features.mean(axis=0)
    logits, ood = known.features @ weight.T + bias, known.ood @ weight.T + bias
    fit = fit_vim(known.features, logits, known.labels, 1.0, most=3)
    ours = score("vim", fit, known.ood, ood, 1.0)
    detector = other.ViM(None, d=3, w=as_tensor(weight), b=as_tensor(bias))
    detector.fit_features(as_tensor(known.features), torch.from_numpy(known.labels))
    theirs = detector.predict_features(as_tensor(known.ood)).numpy()
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3)
    assert fit.settings == {"alpha": pytest.approx(detector.alpha, rel=1e-4), "dimensions": 3}


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_the_projection_is_that_of_principal_components(shape):
    features = np.random.default_rng(2).normal(size=shape) * np.arange(1, shape[1] + 1)
    projection, pca = fit_projection(features, 5), PCA(5).fit(features)
    assert np.abs(projection.components.T @ pca.components_.T) == pytest.approx(np.eye(5), abs=1e-6)
    assert projection.mean == pytest.approx(features.mean(axis=0))
    largest = np.abs(projection.components).argmax(axis=0)
    assert (projection.components[largest, range(5)] > 0).all()


def test_the_projection_keeps_no_direction_without_variance():
    rng = np.random.default_rng(3)
    flat = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 10))
    assert fit_projection(flat).components.shape == (10, 2)
    assert fit_projection(rng.normal(size=(4, 10))).components.shape == (10, 3)
    assert fit_projection(rng.normal(size=(90, 70))).components.shape == (70, 64)


def test_the_bank_has_an_upper_bound(monkeypatch):
    monkeypatch.setattr(detectors, "BANK", 25)
    rng = np.random.default_rng(4)
    fit = fit_nearest_neighbours(rng.normal(size=(60, 6)), np.zeros((60, 2)), np.zeros(60, dtype=int), 1.0)
    assert fit.buffers["bank"].shape == (25, 6)
    assert fit.settings["k"] == 10


def test_few_images_have_a_nearer_neighbour():
    rng = np.random.default_rng(5)
    fit = fit_nearest_neighbours(rng.normal(size=(7, 6)), np.zeros((7, 2)), np.zeros(7, dtype=int), 1.0)
    assert fit.settings["k"] == 3


def test_a_virtual_logit_is_never_in_favour_of_an_image():
    rng = np.random.default_rng(6)
    features, logits = rng.normal(size=(50, 10)), rng.normal(size=(50, 3)) - 9
    fit = fit_vim(features, logits, np.zeros(50, dtype=int), 1.0)
    assert fit.settings["alpha"] > 0
    inside = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 10))
    assert fit_vim(inside, logits, np.zeros(50, dtype=int), 1.0).settings["alpha"] == 0.0


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("members", [1, 3])
def test_buffers_are_small_float32_and_named_as_the_model_expects(name, members):
    rng = np.random.default_rng(7)
    features, logits = rng.normal(size=(90, 200)).clip(min=0), rng.normal(size=(90, members, 4))
    fit = fit_of(name)(features, logits, rng.integers(0, 4, 90), 1.0)
    assert set(fit.buffers) == set(BUFFERS[name])
    assert all(values.dtype == np.float32 for values in fit.buffers.values())
    assert fit.n_bytes <= 4 * (200 + 64 * (200 + 90))
    scores = score(name, fit, features, logits, 1.0)
    assert scores.shape == (90,)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", ["mahalanobis", "nearest_neighbours", "vim"])
def test_features_that_never_vary_are_named(name):
    with pytest.raises(OODFitError, match="20 images: they do not depend on the image"):
        fit_of(name)(np.full((20, 5), 3.3), np.zeros((20, 2)), np.zeros(20, dtype=int), 1.0)


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize(
    ("features", "logits", "labels", "message"),
    [
        (np.zeros((1, 4)), np.zeros((1, 2)), [0], "1 images: an out-of-distribution detector needs at least two"),
        (np.full((3, 4), np.nan), np.zeros((3, 2)), [0, 0, 0], "3 of 3 images have a feature that is NaN"),
        (np.zeros((3, 4)), np.array([[0, 1], [np.inf, 0], [0, 0]]), [0, 0, 0], "1 of 3 images have a logit"),
        (np.zeros((3, 4)), np.zeros((2, 2)), [0, 0, 0], r"features have shape \(3, 4\) and logits \(2, 2\)"),
        (np.zeros((3, 4)), np.zeros((3, 2)), [0, 0], "give one label per image"),
    ],
)
def test_what_cannot_be_fitted_is_named(name, features, logits, labels, message):
    with pytest.raises(OODFitError, match=message):
        fit_of(name)(features, logits, np.array(labels), 1.0)


def test_a_buffer_that_is_not_finite_is_named():
    with pytest.raises(OODFitError, match="buffer 'mean'"):
        OODFit(buffers={"mean": np.array([np.nan], dtype=np.float32)})


def test_an_unknown_detector_is_named():
    with pytest.raises(UnknownDetectorError, match="called 'odin': choose one of max_softmax"):
        fit_of("odin")
