"""Uncertainty as a warning: values by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import entr, softmax
from sklearn.metrics import roc_auc_score

from trainers.evaluation.methods import error_detection
from trainers.metrics.intervals import bootstrap_weights


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    truth = 1.2 * np.eye(3)[labels][:, None] + rng.normal(size=(200, 1, 3))
    logits = truth + 0.5 * rng.normal(size=(200, 4, 3))
    return logits, labels, logits[:, :, None] + 0.1 * rng.normal(size=(200, 4, 6, 3))


def test_values_are_sklearns(drawn):
    logits, labels, mc_logits = drawn
    own = [1.0, 1.5, 2.0, 0.7]
    weights = bootstrap_weights(np.arange(200).astype(str), labels, 100, 0)
    found = error_detection(logits, labels, 1.3, own, mc_logits, weights)
    probs = softmax(logits / 1.3, axis=2)
    answer = probs.mean(axis=1)
    wrong = answer.argmax(axis=1) != labels
    total = entr(answer).sum(axis=1)
    expected = {
        "confidence": 1 - answer.max(axis=1),
        "entropy": total,
        "disagreement": total - entr(probs).sum(axis=2).mean(axis=1),
    }
    for name, scores in expected.items():
        row = found["ensemble"][name]
        assert row["value"] == pytest.approx(roc_auc_score(wrong, scores), abs=1e-6)
        assert row["low"] < row["value"] < row["high"]
    alone = []
    for member, temperature in enumerate(own):
        p = softmax(logits[:, member] / temperature, axis=1)
        alone.append(roc_auc_score(p.argmax(axis=1) != labels, 1 - p.max(axis=1)))
    assert found["single_model"]["confidence"]["value"] == pytest.approx(np.mean(alone), abs=1e-6)
    errors = np.cumsum(wrong[np.argsort(expected["confidence"])])
    area = found["ensemble"]["aurc"]
    assert area["value"] == pytest.approx((errors / np.arange(1, 201)).mean(), abs=1e-6)
    assert area["low"] < area["value"] < area["high"]
    assert set(found["single_model"]) == {"confidence", "entropy", "aurc"}
    assert set(found["mc_dropout"]) == {"confidence", "entropy", "disagreement", "aurc"}
    # Passes that differ by noise alone say little: less than the members' own confidence.
    assert found["mc_dropout"]["disagreement"]["value"] < found["mc_dropout"]["confidence"]["value"]


def test_nothing_to_detect_is_stated(drawn):
    _, labels, _ = drawn
    always = 50 * np.eye(3)[labels][:, None].repeat(4, axis=1)
    found = error_detection(always, labels, 1.0, [1.0] * 4, None, None)
    assert found["ensemble"]["entropy"] == {
        "value": None,
        "why": "not defined: a model is right, or wrong, on every image",
    }
    assert found["ensemble"]["aurc"]["value"] == 0
    assert set(found) == {"single_model", "ensemble"}
