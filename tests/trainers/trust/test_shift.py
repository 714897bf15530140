"""Tests for a shift: by hand, false alarms by simulation, power on a real shift."""

from __future__ import annotations

import json
from math import comb
from pathlib import Path

import numpy as np
import pytest

from trainers.evaluation.decisions import calibrated_probs
from trainers.metrics.predictions import Predictions, read_predictions
from trainers.trust.halves import halve, one_per_group
from trainers.trust.shift import CERTAINTY, CLASSES, GATE, UNUSUAL, Answers, conformal_p_values, find_shift, holm

LABELS = ["a", "b", "c", "d"]


def drawn(rng: np.random.Generator, n: int, shift: float = 0.0) -> Answers:
    odds = 1.5 * (rng.normal(size=(n, 4)) + np.array([1, 0.3, 0, -1]) * (1 - shift))
    probs = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    return Answers.of(probs, rng.normal(size=n) + shift)


def test_p_values_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert conformal_p_values(np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 4.0, 2.5, 0.0])).tolist() == [
        *(0.2, 0.4, 0.6, 1.0)
    ]
    # 19 calibration scores: the tail is above the largest; all of 3 new ones are there with a chance of 1 / C(22, 3).
    flat = np.full(19, 0.5), np.zeros(19, dtype=int)
    new = Answers(np.full(3, 99.0), np.full(3, 0.5), np.zeros(3, dtype=int))
    found = {test["test"]: test for test in find_shift(Answers(np.arange(19.0), *flat), new, LABELS)["tests"]}
    assert found[UNUSUAL]["p_value"] == pytest.approx(1 / comb(22, 3), abs=1e-6)
    assert found[GATE]["p_value"] == pytest.approx(2 / comb(22, 3), abs=1e-6)  # two-sided
    assert (found[CERTAINTY]["p_value"], found[CLASSES]["p_value"]) == (1.0, 1.0)
    assert found[UNUSUAL]["share"] == 1


@pytest.mark.parametrize(("n", "m", "repeats"), [(150, 40, 250), (30, 5, 250)])
def test_false_alarms_are_at_most_alpha(n: int, m: int, repeats: int) -> None:
    rng, alpha = np.random.default_rng(m), 0.1
    alarms = [find_shift(drawn(rng, n), drawn(rng, m), LABELS, alpha, seed)["shifted"] for seed in range(repeats)]
    assert np.mean(alarms) <= alpha + 2.5 * np.sqrt(alpha * (1 - alpha) / repeats)
    assert np.mean(alarms) > 0.02, "tests that never reject show nothing"


def test_a_shift_is_found_and_named() -> None:
    rng = np.random.default_rng(0)
    found = find_shift(drawn(rng, 400), drawn(rng, 200, 1.0), LABELS)
    assert [test["test"] for test in found["tests"] if test["rejected"]] == [GATE, UNUSUAL, CERTAINTY, CLASSES]
    assert found["sentence"].startswith("The promises may not hold here, because ")
    assert "the gate scores are higher" in found["sentence"]
    assert "is the most probable class for" in found["sentence"]
    power = [find_shift(drawn(rng, 400), drawn(rng, 60, 0.5), LABELS, seed=seed)["shifted"] for seed in range(20)]
    assert np.mean(power) > 0.8
    none = find_shift(drawn(rng, 400), drawn(rng, 30), LABELS)
    assert none["sentence"] == "No shift was found in 30 images; this does not prove there is none."
    assert 0.2 < none["visible_difference"] < 0.4


def test_a_model_without_a_gate_is_compared_by_its_answers() -> None:
    rng = np.random.default_rng(3)
    bare = [Answers(None, part.largest, part.predicted) for part in (drawn(rng, 90), drawn(rng, 40))]
    assert [test["test"] for test in find_shift(*bare, LABELS)["tests"]] == [CERTAINTY, CLASSES]
    with pytest.raises(ValueError, match="0 new images"):
        find_shift(bare[0], Answers(None, np.zeros(0), np.zeros(0, dtype=int)), LABELS)
    with pytest.raises(ValueError, match="alpha 1"):
        find_shift(*bare, LABELS, alpha=1)


def test_a_real_shift_is_found_and_the_same_source_is_not_suspected(repo_root: Path) -> None:
    model = repo_root / "hub_models" / "released" / "derm-x-mobilenetv2-ham7"
    trust = json.loads((model / "config.json").read_text("utf-8"))["trust"]
    calibration, test = (read_predictions(model / f"predictions_{name}.parquet") for name in ("calibration", "test"))

    def answers(rows: Predictions, most: int = 10**6) -> Answers:
        rows = rows.select(one_per_group(rows.group_id, 0)[:most])
        return Answers.of(calibrated_probs(rows, trust).numpy(), rows.ood_score)

    before = answers(
        calibration.select(halve(calibration.label, calibration.group_id, trust["temperature"]["seed"])[1])
    )
    assert not find_shift(before, answers(test), test.labels)["shifted"]
    other = test.select(test.columns["source"] == "ISIC 2017 challenge")
    assert find_shift(before, answers(other, 100), test.labels)["shifted"]
