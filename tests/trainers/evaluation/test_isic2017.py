"""The ISIC 2017 challenge's measures: by hand, against scikit-learn, and in report and files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sk

from trainers.evaluation.isic2017 import (
    challenge_aucs,
    decision,
    measure,
    roc_points,
    section,
    task_columns,
)
from trainers.evaluation.isic2017_files import results_csv, two_by_two, write_challenge
from trainers.evaluation.report import evaluate
from trainers.evaluation.sample import Sample
from trainers.metrics.predictions import Predictions

# Six images: two melanomas, two nevi, two keratoses, in the order of the columns mel, nv, sk.
LABEL = np.array([0, 0, 1, 1, 2, 2])
PROBS = np.array(
    [
        [0.80, 0.10, 0.10],
        [0.30, 0.50, 0.20],
        [0.30, 0.60, 0.10],
        [0.10, 0.85, 0.05],
        [0.50, 0.30, 0.20],
        [0.05, 0.05, 0.90],
    ]
)


def tiny(labels: tuple[str, ...] = ("mel", "nv", "sk"), label: np.ndarray = LABEL) -> Predictions:
    ids = np.array([f"ISIC_{i:07d}" for i in range(len(label))], dtype=object)
    return Predictions(
        image_id=ids,
        lesion_id=ids,
        group_id=ids,
        label=label,
        logits=np.log(PROBS)[:, None, :],
        labels=list(labels),
        label_names={name: name for name in labels},
        label_groups={name: "malignant" if name == "mel" else "benign" for name in labels},
        split="test",
    )


def test_values_worked_out_by_hand() -> None:
    """Melanoma: 0.8 beats all four others; 0.3 beats 0.1 and 0.05, ties with 0.3, loses to 0.5: (4 + 2.5) / 8.

    Keratosis: 0.9 beats all four; 0.2 beats 0.1, 0.1, 0.05 and ties with 0.2: (4 + 3.5) / 8.
    """
    found = evaluate(tiny(), replicates=50)["isic2017"]
    assert found["auc_melanoma"]["value"] == 0.8125
    assert found["auc_keratosis"]["value"] == 0.9375
    assert found["auc_mean"]["value"] == 0.875
    assert found["images"] == {"melanoma": 2, "keratosis": 2}
    # At 0.5 or more: images 0 and 4 are called; as the most probable class too.
    for rule in ("at_threshold", "at_argmax"):
        assert found[rule]["recall"]["value"] == 0.5
        assert found[rule]["specificity"]["value"] == 0.75
    assert found["threshold"] == 0.5


def test_the_threshold_and_the_highest_probability_are_different_rules() -> None:
    probs = np.array([[0.40, 0.35, 0.25], [0.6, 0.2, 0.2], [0.2, 0.4, 0.4]])
    truth = np.array([[True, False], [True, False], [False, True]])
    groups = np.array(["a", "b", "c"])
    at_half = measure(truth, probs[:, [0, 2]], groups, None, 0.5)["at_threshold"]
    assert at_half["recall"]["value"] == 0.5
    assert decision(probs.argmax(axis=1) == 0, truth[:, 0], groups)["recall"]["value"] == 1.0
    assert measure(truth, probs[:, [0, 2]], groups, None, 0.7)["at_threshold"]["recall"]["value"] == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_aucs_and_curves_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, 200)
    scores = rng.integers(0, 12, (200, 2)) / 12  # many ties
    truth = np.stack([label == 0, label == 2], axis=1)
    found = challenge_aucs(truth, scores)
    each = [sk.roc_auc_score(truth[:, task], scores[:, task]) for task in (0, 1)]
    assert found["auc_melanoma"] == pytest.approx(each[0], abs=1e-12)
    assert found["auc_keratosis"] == pytest.approx(each[1], abs=1e-12)
    assert found["auc_mean"] == pytest.approx(np.mean(each), abs=1e-12)
    fpr, tpr = roc_points(truth[:, 0], scores[:, 0])
    theirs = sk.roc_curve(truth[:, 0], scores[:, 0], drop_intermediate=False)
    np.testing.assert_allclose(fpr, theirs[0])
    np.testing.assert_allclose(tpr, theirs[1])
    assert np.trapezoid(tpr, fpr) == pytest.approx(each[0], abs=1e-12)
    np.testing.assert_array_equal(
        two_by_two(truth[:, 0], scores[:, 0] >= 0.5), sk.confusion_matrix(truth[:, 0], scores[:, 0] >= 0.5)
    )


def test_weights_are_repetitions() -> None:
    truth = np.stack([LABEL == 0, LABEL == 2], axis=1)
    counts = np.array([1, 3, 2, 1, 0, 2])
    repeated = np.repeat(np.arange(6), counts)
    weighted = challenge_aucs(truth, PROBS[:, [0, 2]], counts[None])
    again = challenge_aucs(truth[repeated], PROBS[repeated][:, [0, 2]])
    for name, value in again.items():
        assert weighted[name][0] == pytest.approx(value, abs=1e-12)


def test_intervals_resample_lesions_not_images(make_predictions) -> None:
    rows = make_predictions(lesions=200, labels=["mel", "nv", "bkl"], strength=1.0)
    found = evaluate(rows, replicates=300)["isic2017"]
    for name in ("auc_melanoma", "auc_keratosis", "auc_mean"):
        number = found[name]
        assert number["low"] < number["value"] < number["high"]
        assert number["method"] == "bootstrap by lesion, 300 resamples, 95 % percentile"
    assert found["at_threshold"]["recall"]["method"] == "exact 95 % by lesion"
    alone = Predictions(**{**rows.__dict__, "group_id": rows.image_id})
    by_image = evaluate(alone, replicates=300)["isic2017"]["auc_mean"]
    assert by_image["high"] - by_image["low"] < found["auc_mean"]["high"] - found["auc_mean"]["low"]


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        (("mel", "nv", "sk"), (0, 2)),
        (("bkl", "nv", "mel"), (2, 0)),
        (("mel", "nv"), None),
        (("mel", "nv", "df"), None),
        (("mel", "nv", "sk", "bkl"), None),
        (("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"), None),
    ],
)
def test_the_label_set_says_whether_it_is_the_challenges(
    labels: tuple[str, ...], columns: tuple[int, int] | None
) -> None:
    assert task_columns(labels) == columns
    if len(labels) == 3:
        assert ("isic2017" in evaluate(tiny(labels), replicates=20)) == (columns is not None)


def test_a_task_without_its_class_is_not_defined_instead_of_a_number() -> None:
    found = section(Sample.at(tiny(label=np.array([1, 1, 1, 1, 2, 2])), 1.0), ["mel", "nv", "sk"], None)
    assert found["auc_melanoma"] == found["auc_mean"] == {"value": None, "why": "not defined: images of one kind only"}
    assert found["at_threshold"]["recall"] == {"value": None, "why": "not defined: no melanoma image"}
    assert found["auc_keratosis"]["value"] == 0.9375


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"truth has shape \(3,\)"):
        challenge_aucs(np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="0 of 3 images are positive"):
        roc_points(np.zeros(3), np.zeros(3))


def test_the_submission_is_the_challenges_format() -> None:
    text = results_csv(["ISIC_0012258", "ISIC_0012356"], np.array([[0.25, 1e-7], [1.0, 0.0]]))
    assert results_csv(["x"], np.array([[1 / 3, 0.1 + 0.2]])).endswith("x,0.3333333333333333,0.30000000000000004\n")
    assert text == "Id,task_1,task_2\nISIC_0012258,0.25,1e-07\nISIC_0012356,1.0,0.0\n"


def test_a_finished_folder_gets_the_submission_and_the_curve(tmp_path: Path) -> None:
    rows, temperature = tiny(), 2.0
    report = {
        "evaluation": {"test": evaluate(rows, temperature, replicates=20)},
        "trust": {"temperature": {"value": temperature}},
    }
    (figure,) = write_challenge(report, {"test": rows}, tmp_path)
    assert figure["file"] == "figures/roc_test.png"
    assert (tmp_path / figure["file"]).read_bytes().startswith(b"\x89PNG")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert [line["Id"] for line in lines] == rows.image_id.tolist()
    expected = np.sqrt(PROBS) / np.sqrt(PROBS).sum(axis=1, keepdims=True)  # softmax of log p / 2
    np.testing.assert_allclose([float(line["task_1"]) for line in lines], expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose([float(line["task_2"]) for line in lines], expected[:, 2], rtol=1e-5)


def test_another_task_gets_neither(tmp_path: Path) -> None:
    rows = tiny(("mel", "nv", "df"))
    report = {"evaluation": {"test": evaluate(rows, replicates=20)}, "trust": {}}
    assert write_challenge(report, {"test": rows}, tmp_path) == []
    assert list(tmp_path.iterdir()) == []
