"""The local ``evaluate`` modules load by path, offline, and agree with the Trainer's ``compute_metrics``."""

from __future__ import annotations

from pathlib import Path

import evaluate
import numpy as np
import pytest
from transformers import EvalPrediction

import trainers.evaluation
from trainers.evaluation.trainer_metrics import trainer_metrics

MODULES = Path(trainers.evaluation.__file__).parent / "modules"

LABELS = ["bcc", "mel", "nv"]
LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]], dtype=np.float32))
TRUTH = np.array([0, 1, 2, 2])
# Right: 0, 1, 2; the fourth nv is taken for mel. F1: 1, 2/3, 2/3.
EXPECTED = {
    "accuracy": 0.75,
    "balanced_accuracy": (1 + 1 + 0.5) / 3,
    "macro_f1": (1 + 2 / 3 + 2 / 3) / 3,
    "weighted_f1": (1 + 2 / 3 + 2 * 2 / 3) / 4,
    "nll": -np.log([0.7, 0.6, 0.5, 0.1]).mean(),
}


def test_modules_load_by_path():
    classification = evaluate.load(str(MODULES / "lesion_classification"))
    found = classification.compute(predictions=[0, 1, 2, 1], references=TRUTH)
    assert found == pytest.approx({key: value for key, value in EXPECTED.items() if key != "nll"})


def test_calibration_module_by_hand():
    found = evaluate.load(str(MODULES / "lesion_calibration")).compute(
        predictions=[[0.5, 0.5], [0.25, 0.75]], references=[0, 1]
    )
    assert found["nll"] == pytest.approx((np.log(2) + np.log(4 / 3)) / 2)
    assert found["brier"] == pytest.approx(0.3125)
    assert found["ece"] == pytest.approx((0.5 + 0.25) / 2)
    assert set(found) == {"nll", "brier", "ece", "ece_debiased"}


def test_calibration_module_survives_a_probability_of_zero():
    found = evaluate.load(str(MODULES / "lesion_calibration")).compute(predictions=[[1.0, 0.0]], references=[1])
    assert np.isfinite(found["nll"])
    assert found["brier"] == 2


def test_compute_metrics_by_hand():
    assert trainer_metrics(LABELS)(EvalPrediction(LOGITS, TRUTH)) == pytest.approx(EXPECTED, rel=1e-6)


def test_compute_metrics_are_those_of_the_modules():
    probs = np.exp(LOGITS.astype(np.float64))
    probs /= probs.sum(axis=1, keepdims=True)
    classes = {"predictions": probs.argmax(axis=1), "references": TRUTH}
    found = evaluate.load(str(MODULES / "lesion_classification")).compute(**classes, n_classes=3)
    found["nll"] = evaluate.load(str(MODULES / "lesion_calibration")).compute(predictions=probs, references=TRUTH)[
        "nll"
    ]
    assert trainer_metrics(LABELS)(EvalPrediction(LOGITS, TRUTH)) == pytest.approx(found, rel=1e-12)


def test_compute_metrics_takes_the_first_of_a_tuple_and_repeats():
    metrics = trainer_metrics(LABELS)
    features = np.zeros((4, 8), dtype=np.float32)
    for _ in range(2):
        assert metrics(EvalPrediction((LOGITS, LOGITS / 2, features), TRUTH)) == pytest.approx(EXPECTED, rel=1e-6)


def test_compute_metrics_of_members_uses_the_mean_probability():
    members = np.stack([np.log([[0.9, 0.1]]), np.log([[0.3, 0.7]])], axis=1)
    found = trainer_metrics(["benign", "malignant"])(EvalPrediction(members, np.array([0])))
    assert found["nll"] == pytest.approx(-np.log(0.6))
    assert found["accuracy"] == 1


def test_a_class_of_the_vocabulary_without_images_is_no_error():
    found = trainer_metrics([*LABELS, "vasc"])(
        EvalPrediction(np.pad(LOGITS, ((0, 0), (0, 1)), constant_values=-9), TRUTH)
    )
    assert found["balanced_accuracy"] == pytest.approx(EXPECTED["balanced_accuracy"])


def test_a_diverged_training_is_named():
    broken = LOGITS.copy()
    broken[1, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 4 images have a logit that is NaN or infinite"):
        trainer_metrics(LABELS)(EvalPrediction(broken, TRUTH))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"expected \(N, 7\)"):
        trainer_metrics([str(index) for index in range(7)])(EvalPrediction(LOGITS, TRUTH))
