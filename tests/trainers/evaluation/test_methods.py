"""The rows of the ensemble's table against scikit-learn and by hand; uncertainties that add up."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn import metrics as sk

from hub_models.trust_lesion import uncertainty_parts
from trainers.evaluation.methods import SHOWN, methods, uncertainty
from trainers.metrics.calibration import ece, reliability_bins
from trainers.metrics.predictions import Predictions

T = 1.4


@pytest.fixture(scope="module")
def binary(make_predictions) -> Predictions:
    """Three members on benign against malignant."""
    return make_predictions(90, labels=["nv", "mel"], members=3, seed=2, strength=1.5)


@pytest.fixture(scope="module")
def found(binary) -> dict:
    return methods(binary, T, replicates=200, seed=1)


def by_sklearn(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": sk.accuracy_score(labels, probs.argmax(axis=1)),
        "auroc": sk.roc_auc_score(labels, probs[:, 1]),
        "nll": sk.log_loss(labels, probs),
        "brier": 2 * sk.brier_score_loss(labels, probs[:, 1]),
        "ece": float(ece(reliability_bins(probs.max(axis=1), probs.argmax(axis=1) == labels))),
    }


def test_rows_equal_sklearn(binary, found):
    probs = softmax(binary.logits / T, axis=2)
    ensemble = by_sklearn(probs.mean(axis=1), binary.label)
    members = [by_sklearn(probs[:, m], binary.label) for m in range(3)]
    for name, expected in ensemble.items():
        assert found["rows"]["ensemble"][name]["value"] == pytest.approx(expected, abs=2e-6), name
        single = found["rows"]["single_model"][name]
        values = [member[name] for member in members]
        assert single["each"] == pytest.approx(values, abs=2e-6)
        assert single["value"] == pytest.approx(np.mean(values), abs=2e-6)
        assert (single["min"], single["max"]) == pytest.approx((min(values), max(values)), abs=2e-6)
        assert single["low"] < single["value"] < single["high"]
        change = found["differences"]["ensemble"][name]
        assert change["value"] == pytest.approx(expected - np.mean(values), abs=2e-6)
        assert change["low"] < change["high"]
        assert 0 < change["p"] <= 1
    relative = found["relative_change"]["ensemble"]["nll"]
    assert relative["value"] == pytest.approx(ensemble["nll"] / np.mean([m["nll"] for m in members]) - 1, abs=2e-6)
    assert relative["low"] < relative["value"] < relative["high"] < 0


def test_the_result_is_plain_json_and_says_what_it_is_of(binary, found):
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again["members"] == 3
    assert again["samples"] is None
    assert again["n"] == len(binary)
    assert again["n_groups"] == 90
    assert set(again["rows"]) == {"single_model", "ensemble"}
    assert set(again["rows"]["ensemble"]) == set(SHOWN)
    assert "malignant" in again["conventions"]["auroc"]


def test_several_classes_show_the_mean_auroc(make_predictions):
    six = make_predictions(120, members=2, seed=4)
    found = methods(six, replicates=20)
    probs = softmax(six.logits, axis=2).mean(axis=1)
    there = np.unique(six.label)
    each = [sk.roc_auc_score(six.label == c, probs[:, c]) for c in there]
    assert found["rows"]["ensemble"]["auroc"]["value"] == pytest.approx(np.mean(each), abs=2e-6)
    assert "each against all the others" in found["conventions"]["auroc"]


def test_mc_dropout_is_the_mean_of_its_passes(binary):
    rng = np.random.default_rng(0)
    passes = binary.logits[:, :, None] + rng.normal(size=(len(binary), 3, 4, 2))
    found = methods(binary, T, mc_logits=passes, replicates=50)
    assert found["samples"] == 4
    probs = softmax(passes / T, axis=3).mean(axis=2)
    values = [sk.log_loss(binary.label, probs[:, m]) for m in range(3)]
    assert found["rows"]["mc_dropout"]["nll"]["each"] == pytest.approx(values, abs=2e-6)
    change = found["differences"]["mc_dropout"]["nll"]["value"]
    single = found["rows"]["single_model"]["nll"]["value"]
    assert change == pytest.approx(np.mean(values) - single, abs=3e-6)


def test_passes_that_agree_are_the_single_model(binary):
    found = methods(binary, T, mc_logits=np.repeat(binary.logits[:, :, None], 3, axis=2), replicates=50)
    assert found["rows"]["mc_dropout"] == found["rows"]["single_model"]
    assert all(change["value"] == 0 and change["p"] == 1 for change in found["differences"]["mc_dropout"].values())


def test_members_may_have_temperatures_of_their_own(binary):
    own = [0.8, 1.0, 2.0]
    found = methods(binary, T, member_temperatures=own, replicates=20)
    values = [sk.log_loss(binary.label, softmax(binary.logits[:, m] / t, axis=1)) for m, t in enumerate(own)]
    assert found["member_temperatures"] == own
    assert found["rows"]["single_model"]["nll"]["each"] == pytest.approx(values, abs=2e-6)
    shared = methods(binary, T, replicates=20)
    assert found["rows"]["ensemble"] == shared["rows"]["ensemble"]


def test_uncertainty_by_hand():
    disagree, agree, sure = [[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [1.0, 0.0]]
    total, aleatoric, epistemic = uncertainty(np.array([disagree, agree, sure]))
    assert total == pytest.approx([np.log(2), np.log(2), 0])
    assert aleatoric == pytest.approx([0, np.log(2), 0])
    assert epistemic == pytest.approx([np.log(2), 0, 0])


def test_uncertainties_add_up_and_equal_the_shipped_ones():
    probs = np.random.default_rng(0).dirichlet(np.ones(5), size=(40, 3))
    total, aleatoric, epistemic = uncertainty(probs)
    assert (epistemic > 0).all()
    assert total == pytest.approx(aleatoric + epistemic)
    shipped = uncertainty_parts(torch.log(torch.from_numpy(probs)))
    for mine, other in zip((total, aleatoric, epistemic), shipped, strict=True):
        assert mine == pytest.approx(other.numpy())


def test_uncertainty_of_right_and_wrong_images(binary, found):
    probs = softmax(binary.logits / T, axis=2)
    wrong = probs.mean(axis=1).argmax(axis=1) != binary.label
    assert found["uncertainty"]["wrong"]["n"] == wrong.sum()
    total = uncertainty(probs)[0]
    assert found["uncertainty"]["wrong"]["total"] == pytest.approx(total[wrong].mean(), abs=2e-6)
    assert found["uncertainty"]["right"]["total"] == pytest.approx(total[~wrong].mean(), abs=2e-6)


def test_what_is_no_ensemble_is_refused(binary, make_predictions):
    with pytest.raises(ValueError, match="of 1 member"):
        methods(make_predictions(20))
    with pytest.raises(ValueError, match="hold no image"):
        methods(binary.select(np.zeros(len(binary), dtype=bool)))
    with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
        methods(binary, mc_logits=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="of 5 classes"):
        methods(binary, mc_logits=np.zeros((len(binary), 3, 2, 5)))
    with pytest.raises(ValueError, match="2 member temperatures for 3"):
        methods(binary, member_temperatures=[1.0, 1.0])
    with pytest.raises(ValueError, match="temperature 0"):
        methods(binary, 0.0)
    with pytest.raises(ValueError, match="give softmax"):
        uncertainty(np.full((2, 2, 3), 0.9))
    with pytest.raises(ValueError, match=r"\(N, members, C\)"):
        uncertainty(np.full((2, 2), 0.5))
