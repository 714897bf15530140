"""The CSV and the text report say what the report says."""

from __future__ import annotations

import csv
import io

import pytest
from sklearn.metrics import classification_report as sklearn_report

from trainers.evaluation.report import evaluate
from trainers.evaluation.tables import classification_report, per_class_csv, write_tables


@pytest.fixture(scope="module")
def predictions(make_predictions):
    return make_predictions(60)


@pytest.fixture(scope="module")
def split(predictions):
    return evaluate(predictions, replicates=50)


def test_csv_holds_every_class_with_its_intervals(split):
    rows = list(csv.DictReader(io.StringIO(per_class_csv(split))))
    assert [row["class"] for row in rows] == ["akiec", "bcc", "df", "mel", "nv", "acne"]
    for row, expected in zip(rows, split["per_class"], strict=True):
        assert int(row["support"]) == expected["support"]
        for key, column in (("value", "recall"), ("low", "recall_low"), ("high", "recall_high")):
            value = expected["recall"].get(key)
            assert row[column] == ("" if value is None else f"{value:.6f}")
    assert rows[2]["f1"] == ""
    assert "f1: not defined: support 0" in rows[2]["note"]


def test_text_report_equals_sklearn_where_both_are_defined(split, predictions):
    there = [0, 1, 3, 4, 5]
    expected = sklearn_report(
        predictions.label, predictions.probs().argmax(axis=1), labels=there, output_dict=True, zero_division=0
    )
    lines = {
        line[:12].strip(): line[12:].split() for line in classification_report(split).splitlines() if line[:12].strip()
    }
    for name, key in [(predictions.labels[index], str(index)) for index in there] + [("macro avg", "macro avg")]:
        wanted = [f"{expected[key][column]:.4f}" for column in ("precision", "recall", "f1-score")]
        assert lines[name][:3] == wanted
    accuracy = split["discrimination"]["accuracy"]["value"]
    assert lines["accuracy"] == [f"{accuracy:.4f}", str(split["n"])]
    assert lines["df"] == ["n/a", "n/a", "n/a", "0"]


def test_tables_are_written_whole(split, tmp_path):
    assert write_tables(split, tmp_path, title="A model, test split") == [
        "per_class_metrics.csv",
        "classification_report.txt",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["classification_report.txt", "per_class_metrics.csv"]
    assert (tmp_path / "classification_report.txt").read_text().startswith("A model, test split\n")
    assert (tmp_path / "per_class_metrics.csv").read_text() == per_class_csv(split)


def test_a_second_split_has_files_of_its_own(split, tmp_path):
    write_tables(split, tmp_path)
    assert write_tables(split, tmp_path, title="validation", suffix="_validation") == [
        "per_class_metrics_validation.csv",
        "classification_report_validation.txt",
    ]
    assert len(list(tmp_path.iterdir())) == 4
