"""Charts: the right files, the same bytes each time, and no trace left in matplotlib's settings."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from trainers.evaluation.figures import charts as figures
from trainers.evaluation.report import evaluate

pytestmark = pytest.mark.usefixtures("painted")
HISTORY = [
    {"epoch": 1.0, "train_loss": 1.5, "eval_loss": 1.2, "eval_accuracy": 0.5, "eval_macro_f1": 0.3},
    {"epoch": 2.0, "train_loss": None, "eval_loss": 0.9, "eval_accuracy": 0.6, "eval_balanced_accuracy": 0.5},
]


@pytest.fixture(scope="module")
def predictions(make_predictions):
    return make_predictions(40)


@pytest.fixture(scope="module")
def report(predictions):
    return {
        "evaluation": {"test": evaluate(predictions, 1.25, replicates=20)},
        "trust": {"temperature": {"value": 1.25}},
        "training": {"history": HISTORY, "kept_epoch": 2.0, "kept_because": "best validation macro_f1"},
    }


def texts(figure):
    """Every string that stands in a figure's axes."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_all_charts_are_drawn_and_described(report, predictions, tmp_path):
    drawn = figures.draw_all(report, {"test": predictions}, tmp_path)
    assert [item["file"] for item in drawn] == [
        "figures/confusion_matrix_test.png",
        "figures/reliability_test.png",
        "figures/training_curves.png",
    ]
    assert all(item["caption"].endswith(".") for item in drawn)
    assert "T = 1.250" in drawn[1]["caption"]
    for item in drawn:
        with Image.open(tmp_path / item["file"]) as image:
            assert image.width >= 900
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_the_same_report_gives_the_same_bytes_and_leaves_no_settings(report, predictions, tmp_path):
    settings = dict(mpl.rcParams)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        # A user's own settings must not show either.
        with mpl.rc_context({"font.size": 10 if folder == "a" else 23, "axes.facecolor": "0.5"}):
            figures.draw_all(report, {"test": predictions}, tmp_path / folder)
    for path in sorted((tmp_path / "a" / "figures").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / "figures" / path.name).read_bytes(), path.name
    assert dict(mpl.rcParams) == settings


def test_validation_has_a_confusion_matrix_beside_the_test_splits(report, predictions, tmp_path):
    both = {**report, "evaluation": dict.fromkeys(("validation", "test"), report["evaluation"]["test"])}
    drawn = figures.draw_all(both, {"validation": predictions, "test": predictions}, tmp_path)
    assert [item["file"] for item in drawn] == [
        "figures/confusion_matrix_test.png",
        "figures/reliability_test.png",
        "figures/confusion_matrix_validation.png",
        "figures/training_curves.png",
    ]
    assert "of the validation split" in drawn[2]["caption"]


def test_a_scored_model_has_no_training_curves(report, predictions, tmp_path):
    scored = {"evaluation": {"external": report["evaluation"]["test"]}}
    drawn = figures.draw_all(scored, {"external": predictions}, tmp_path)
    assert [item["file"] for item in drawn] == [
        "figures/confusion_matrix_external.png",
        "figures/reliability_external.png",
    ]
    assert "as its probabilities are" in drawn[1]["caption"]


def test_confusion_matrix_shows_counts_shares_and_gaps(predictions):
    confusion = np.array(
        [
            [3, 1, 0, 0, 0, 0],
            [0, 999, 0, 1, 0, 0],
            [0] * 6,
            [1, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, 5, 0],
            [0, 0, 0, 0, 0, 2],
        ]
    )
    figure = figures.draw_confusion(confusion, predictions, 12)
    found = texts(figure)
    assert {"75 %", "3", "25 %", ">99 %", "999", "<1 %", "50 %", "100 %", "not defined: no images"} <= set(found)
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert names == ["akiec *", "bcc *", "df", "mel *", "nv", "acne"]
    assert figure.axes[0].get_yticklabels()[1].get_text() == "bcc *\nn = 1,000"


def test_reliability_prints_the_numbers_of_the_report(report, predictions):
    calibration = report["evaluation"]["test"]["calibration"]
    figure = figures.draw_reliability(predictions, calibration, 1.25)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == [
        "Before calibration",
        "After, T = 1.250",
    ]
    assert f"ECE {calibration['after']['ece']['value']:.3f}" in texts(figure)[1]
    heights = [sum(patch.get_height() for patch in axes.patches) for axes in figure.axes[2:]]
    assert heights == pytest.approx([100, 100])


def test_training_curves_skip_what_was_not_measured():
    figure = figures.draw_training(HISTORY, None)
    lines = {line.get_label(): len(line.get_xdata()) for axes in figure.axes for line in axes.get_lines()}
    assert lines == {"training": 1, "validation": 2, "accuracy": 2, "balanced accuracy": 1, "macro F1": 1}
