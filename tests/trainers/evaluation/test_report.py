"""``evaluate``: every key of the contract, honest gaps, and numbers that agree with plain arithmetic."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import tracemalloc

import numpy as np
import pytest
from sklearn import metrics as sk

from trainers.evaluation.report import evaluate
from trainers.metrics.calibration import ece_adaptive, ece_classwise
from trainers.metrics.number import bootstrapped, measured, undefined
from trainers.metrics.predictions import Predictions

DISCRIMINATION = {"accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "auroc_macro", "auroc_malignant"}
DISCRIMINATION |= {"partial_auroc_malignant"}
CALIBRATION = {"nll", "brier", "ece", "ece_floor", "ece_debiased", "ece_adaptive", "ece_classwise"}


def numbers(node, path=""):
    """Every measured number below a node, with its path."""
    if isinstance(node, dict):
        # A subgroup's row also has a "value": its name.
        if "value" in node and not isinstance(node["value"], str):
            yield path, node
            return
        for key, value in node.items():
            yield from numbers(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from numbers(value, f"{path}[{index}]")


@pytest.fixture(scope="module")
def predictions(make_predictions):
    return make_predictions()


@pytest.fixture(scope="module")
def split(predictions):
    return evaluate(predictions, 1.3, replicates=200)


def test_every_key_of_the_contract(split, predictions):
    assert set(split) == {
        "n",
        "n_groups",
        "conventions",
        "discrimination",
        "decision_curve",
        "calibration",
        "per_class",
        "confusion_matrix",
        "subgroups",
        "views",
    }
    assert {"ece", "ece_adaptive", "ece_classwise", "brier", "bootstrap"} <= set(split["conventions"])
    at_points = {"sensitivity_malignant_at_specificity", "specificity_malignant_at_sensitivity"}
    assert set(split["discrimination"]) == DISCRIMINATION | at_points
    assert list(split["discrimination"]["specificity_malignant_at_sensitivity"]) == ["0.80", "0.90", "0.95"]
    assert list(split["discrimination"]["sensitivity_malignant_at_specificity"]) == ["0.80", "0.90", "0.95"]
    assert set(split["calibration"]) == {"before", "after"}
    assert set(split["calibration"]["before"]) == set(split["calibration"]["after"]) == CALIBRATION
    assert [row["name"] for row in split["per_class"]] == predictions.labels
    for row in split["per_class"]:
        assert set(row) == {"name", "precision", "recall", "f1", "support", "lesions", "auroc"}
    assert [row["value"] for row in split["subgroups"]["age"]] == ["0-29", "30-44", "45-59", "60-74", "75+", "unknown"]
    assert [row["value"] for row in split["subgroups"]["sex"]] == ["female", "male", "unknown"]
    for row in (*split["subgroups"]["age"], *split["subgroups"]["sex"]):
        assert set(row) == {"value", "n", "n_groups", "accuracy", "balanced_accuracy", "auroc_malignant", "ece"}
    for view in split["views"]:
        assert set(view) == {"name", "description", "labels", "n", "n_groups", "discrimination", "calibration"}


def test_the_report_is_json_and_every_number_has_an_interval_or_a_reason(split):
    assert json.loads(json.dumps(split, allow_nan=False)) == split
    found = list(numbers(split))
    assert len(found) > 80
    for path, number in found:
        if number["value"] is None:
            assert number["why"].startswith("not defined: "), path
        elif number["low"] is None:
            assert number["high"] is None, path
            assert number["why"], path
        else:
            assert number["low"] <= number["high"], path
            assert number["method"], path
            assert all(type(number[key]) is float for key in ("value", "low", "high")), path


def test_values_lie_in_their_intervals(split):
    for path, number in numbers({key: split[key] for key in ("discrimination", "calibration", "per_class")}):
        if number["value"] is not None and number["low"] is not None:
            assert number["low"] <= number["value"] <= number["high"], path


def test_values_equal_sklearn(split, predictions):
    probs = predictions.probs(1.3)
    predicted, labels = probs.argmax(axis=1), predictions.label
    there = np.unique(labels)
    overall = {name: number["value"] for name, number in split["discrimination"].items() if "value" in number}
    assert overall["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted), abs=1e-6)
    f1 = {name: sk.f1_score(labels, predicted, average=name, labels=there) for name in ("macro", "weighted")}
    assert overall["macro_f1"] == pytest.approx(f1["macro"], abs=1e-6)
    assert overall["weighted_f1"] == pytest.approx(f1["weighted"], abs=1e-6)
    malignant = np.isin(labels, [0, 1, 3])
    expected = sk.roc_auc_score(malignant, probs[:, [0, 1, 3]].sum(axis=1))
    assert overall["auroc_malignant"] == pytest.approx(expected, abs=1e-6)
    at_risk = probs[:, [0, 1, 3]].sum(axis=1)
    part = sk.roc_auc_score(~malignant, 1 - at_risk, max_fpr=0.2)
    assert overall["partial_auroc_malignant"] == pytest.approx(0.02 + 0.36 * (part - 0.5), abs=1e-6)
    (half,) = (row for row in split["decision_curve"] if row["threshold"] == 0.5)
    flagged = at_risk >= 0.5
    assert half["model"]["value"] == pytest.approx(
        (flagged & malignant).mean() - (flagged & ~malignant).mean(), abs=1e-6
    )
    assert half["treat_all"]["value"] == pytest.approx(malignant.mean() - (~malignant).mean(), abs=1e-6)
    better = max(half["treat_all"]["value"], 0.0)
    assert half["gain"]["value"] == pytest.approx(half["model"]["value"] - better, abs=2e-6)
    assert split["confusion_matrix"] == sk.confusion_matrix(labels, predicted, labels=range(6)).tolist()
    before = split["calibration"]["before"]
    assert before["nll"]["value"] == pytest.approx(sk.log_loss(labels, predictions.probs(), labels=range(6)), abs=1e-6)


def test_temperature_moves_calibration_and_not_the_answers_of_one_member(split, predictions):
    plain = evaluate(predictions, 1.0, replicates=50)
    assert plain["calibration"]["before"] == plain["calibration"]["after"]
    assert split["calibration"]["before"]["nll"]["value"] == plain["calibration"]["after"]["nll"]["value"]
    assert split["calibration"]["after"]["nll"]["value"] != plain["calibration"]["after"]["nll"]["value"]
    assert split["confusion_matrix"] == plain["confusion_matrix"]


def test_every_calibration_error_is_of_the_calibrated_probabilities_with_a_centred_interval(split, predictions):
    after, probs = split["calibration"]["after"], predictions.probs(1.3)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == predictions.label
    assert after["ece_adaptive"]["value"] == pytest.approx(ece_adaptive(confidence, right), abs=1e-6)
    assert after["ece_classwise"]["value"] == pytest.approx(ece_classwise(probs, predictions.label), abs=1e-6)
    for name in ("ece", "ece_debiased", "ece_adaptive", "ece_classwise"):
        assert after[name]["method"].endswith(", centred"), name
        assert after[name]["low"] < after[name]["value"] < after[name]["high"], name


def test_a_class_with_support_zero_says_so(split):
    row = split["per_class"][2]
    assert (row["name"], row["support"], row["lesions"]) == ("df", 0, 0)
    for measure in ("precision", "recall", "f1", "auroc"):
        assert row[measure] == {"value": None, "why": "not defined: support 0"}


def test_a_class_that_is_never_predicted_has_no_precision(predictions):
    logits = predictions.logits.copy()
    logits[:, :, 0] = -50
    row = evaluate(dataclasses.replace(predictions, logits=logits), replicates=20)["per_class"][0]
    assert row["precision"] == {"value": None, "why": "not defined: never predicted"}
    assert row["recall"]["value"] == 0
    assert row["f1"]["value"] == 0


def test_recall_is_by_image_with_an_exact_interval_by_lesion(split, predictions):
    row = split["per_class"][4]
    mine = predictions.label == 4
    right = predictions.probs().argmax(axis=1)[mine] == 4
    lesions = [right[predictions.group_id[mine] == lesion].mean() for lesion in np.unique(predictions.group_id[mine])]
    assert row["recall"]["value"] == pytest.approx(right.mean(), abs=1e-6)
    assert row["recall"]["by_lesion"] == pytest.approx(np.mean(lesions), abs=1e-6)
    assert row["recall"]["method"] == "exact 95 % by lesion"
    assert row["lesions"] == len(lesions)


def test_views_by_source(split, predictions):
    assert [view["name"] for view in split["views"]] == ["source: DermNet", "source: HAM10000"]
    acne, ham = split["views"]
    assert acne["labels"] == ["acne"]
    assert ham["labels"] == ["akiec", "bcc", "mel", "nv"]
    rows = predictions.columns["source"] == "HAM10000"
    assert ham["n"] == rows.sum()
    # A HAM10000 image taken for acne counts as wrong: the argmax runs over all classes.
    right = predictions.probs().argmax(axis=1)[rows] == predictions.label[rows]
    assert ham["discrimination"]["accuracy"]["value"] == pytest.approx(right.mean(), abs=1e-6)
    assert acne["discrimination"]["auroc_macro"]["why"] == "not defined: images of one class only"
    assert acne["discrimination"]["auroc_malignant"]["why"] == "not defined: no malignant or premalignant image"


def test_one_source_gives_no_views(make_predictions):
    assert evaluate(make_predictions(30, labels=["mel", "nv"]), replicates=20)["views"] == []


def test_subgroups_add_up(split):
    for rows in split["subgroups"].values():
        assert sum(row["n"] for row in rows) == split["n"]


def test_an_empty_subgroup_says_so(predictions):
    columns = {**predictions.columns, "age": np.full(len(predictions), 50.0)}
    rows = evaluate(dataclasses.replace(predictions, columns=columns), replicates=20)["subgroups"]["age"]
    assert rows[0]["n"] == 0
    assert rows[0]["accuracy"] == {"value": None, "why": "not defined: no images"}
    assert rows[2]["n"] == len(predictions)


def test_copies_of_images_within_their_lesion_do_not_narrow_an_interval(predictions):
    twice = predictions.select(np.repeat(np.arange(len(predictions)), 2))
    once, doubled = evaluate(predictions, replicates=100), evaluate(twice, replicates=100)
    assert doubled["n"] == 2 * once["n"]
    assert doubled["discrimination"] == once["discrimination"]
    assert [row["recall"] for row in doubled["per_class"]] == [row["recall"] for row in once["per_class"]]


def test_the_seed_decides(predictions):
    first = evaluate(predictions, replicates=30, seed=1)
    assert first == evaluate(predictions, replicates=30, seed=1)
    assert first != evaluate(predictions, replicates=30, seed=2)


def test_one_class_only(predictions):
    split = evaluate(predictions.select(predictions.label == 3), replicates=30)
    assert split["discrimination"]["auroc_macro"]["why"] == "not defined: images of one class only"
    assert split["discrimination"]["auroc_malignant"]["why"] == "not defined: no benign image"
    assert split["discrimination"]["balanced_accuracy"]["value"] == split["discrimination"]["accuracy"]["value"]
    assert split["per_class"][3]["auroc"]["why"] == "not defined: every image is of this class"


def test_a_single_image(predictions):
    wrong = predictions.probs().argmax(axis=1) != predictions.label
    split = evaluate(predictions.select(np.flatnonzero(wrong)[:1]), replicates=30)
    assert (split["n"], split["n_groups"]) == (1, 1)
    json.dumps(split, allow_nan=False)
    # None of one right: the exact upper end solves (1 - p) = 0.025.
    accuracy = split["discrimination"]["accuracy"]
    assert (accuracy["value"], accuracy["low"], accuracy["high"]) == (0.0, 0.0, 0.975)
    assert split["calibration"]["after"]["nll"]["why"] == "no class has two lesions"


def test_all_right_claims_no_certainty(predictions):
    logits = 30 * np.eye(6)[predictions.label][:, None, :]
    split = evaluate(dataclasses.replace(predictions, logits=logits), replicates=30)
    accuracy = split["discrimination"]["accuracy"]
    assert accuracy["value"] == 1
    assert accuracy["low"] == pytest.approx(0.025 ** (1 / split["n_groups"]), abs=1e-6)
    assert accuracy["method"] == "exact 95 % by lesion"
    assert split["discrimination"]["macro_f1"]["low"] is None
    assert split["discrimination"]["macro_f1"]["why"] == "the same in every resample"


def test_no_malignant_class_in_the_vocabulary(make_predictions):
    split = evaluate(make_predictions(20, labels=["nv", "acne"]), replicates=20)
    why = "not defined: no class is marked as malignant or premalignant"
    assert split["discrimination"]["auroc_malignant"]["why"] == why
    assert split["discrimination"]["sensitivity_malignant_at_specificity"]["0.90"]["why"] == why


def test_sure_and_wrong_keeps_a_finite_loss(predictions):
    logits = 5000 * np.eye(6)[(predictions.label + 1) % 6][:, None, :]
    split = evaluate(dataclasses.replace(predictions, logits=logits), replicates=20)
    assert split["calibration"]["after"]["nll"]["value"] == pytest.approx(5000)
    assert split["calibration"]["after"]["brier"]["value"] == 2


def test_members_answer_by_their_mean_probability(make_predictions):
    several = make_predictions(60, members=3)
    split = evaluate(several, 1.2, replicates=20)
    expected = (several.probs(1.2).argmax(axis=1) == several.label).mean()
    assert split["discrimination"]["accuracy"]["value"] == pytest.approx(expected, abs=1e-6)


def test_missing_columns_are_no_error(predictions):
    split = evaluate(dataclasses.replace(predictions, columns={}), replicates=20)
    assert split["subgroups"]["sex"][2]["n"] == len(predictions)
    assert split["views"] == []


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_temperature_is_named(predictions, temperature):
    with pytest.raises(ValueError, match=f"temperature {temperature}"):
        evaluate(predictions, temperature)


def test_no_images_and_no_replicates_are_named(predictions):
    with pytest.raises(ValueError, match="split 'test' hold no image"):
        evaluate(predictions.select(np.zeros(len(predictions), dtype=bool)))
    with pytest.raises(ValueError, match="0 replicates"):
        evaluate(predictions, replicates=0)


def test_a_full_split_takes_seconds(make_predictions):
    big: Predictions = make_predictions(750)
    assert len(big) > 1400
    start = time.process_time()
    evaluate(big, 1.2)
    assert time.process_time() - start < 15


def test_numbers_as_they_are_written():
    assert measured(np.float64(0.1234567), 0.1, np.float32(0.5), "m") == {
        "value": 0.123457,
        "low": 0.1,
        "high": 0.5,
        "method": "m",
    }
    assert undefined("support 0") == {"value": None, "why": "not defined: support 0"}
    with pytest.raises(ValueError, match="nan cannot be written into a report"):
        measured(float("nan"), 0, 1, "m")


def test_replicates_that_are_mostly_undefined_give_no_interval():
    mostly = np.r_[np.full(60, np.nan), np.linspace(0.4, 0.6, 40)]
    assert bootstrapped(0.5, mostly)["why"] == "defined in 40 of 100 resamples only"
    partly = np.r_[np.full(10, np.nan), np.linspace(0.4, 0.6, 90)]
    assert bootstrapped(0.5, partly)["method"].endswith("of the 90 in which it is defined")


def test_centred_intervals_lie_around_their_value():
    # Replicates of a biased error average 0.08 where the sample shows 0.05.
    replicates = np.linspace(0.06, 0.10, 1001)
    centred, plain = bootstrapped(0.05, replicates, centred=True), bootstrapped(0.05, replicates)
    assert (centred["low"], centred["high"]) == pytest.approx((0.031, 0.069))
    assert plain["low"] > plain["value"]
    assert bootstrapped(0.005, replicates, centred=True)["low"] == 0


def test_a_thousand_classes_take_little_memory(make_predictions) -> None:
    predictions = make_predictions(150, labels=[f"class {number}" for number in range(1000)], strength=6.0)
    tracemalloc.start()
    report = evaluate(predictions, 1.0, replicates=30, seed=0)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 200e6  # 30 whole confusion matrices alone are 240 MB
    right = predictions.logits.mean(axis=1).argmax(axis=1) == predictions.label
    assert report["discrimination"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert sum(row["support"] for row in report["per_class"]) == len(predictions)
