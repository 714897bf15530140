"""Confident learning against counts made by hand and against labels that were changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets_scripts.command import UserError
from datasets_scripts.label_errors import Held, error_share, read_predictions, report, suggested, thresholds

# Labels 0 0 0 1 1. Thresholds: mean of 0.9, 0.8, 0.4 = 0.7; mean of 0.9, 0.7 = 0.8.
GIVEN = np.array([0, 0, 0, 1, 1])
PROBS = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9], [0.3, 0.7]])


def test_by_hand() -> None:
    probs = PROBS.copy()
    assert thresholds(GIVEN, probs) == pytest.approx([(0.9 + 0.8 + 0.1) / 3, 0.8])
    # Row 2 reaches the threshold of class 1 only; row 4 reaches neither and keeps its label.
    assert suggested(GIVEN, probs).tolist() == [0, 0, 1, 1, 1]
    # The joint of the four rows that reach one: [[2, 1], [0, 1]], scaled to 3 and 2 labels: [[2, 1], [0, 2]].
    assert error_share(GIVEN, probs) == pytest.approx(1 / 5)
    found = report(Held([f"i{n}" for n in range(5)], GIVEN, probs, ["a", "b"], None), range(5))
    assert (found["likely_errors"], found["share"]) == (1, 0.2)
    assert found["pairs"] == [{"label": "a", "suggested": "b", "images": 1}]
    assert found["listed"] == [
        {"image_id": "i2", "label": "a", "suggested": "b", "p_label": 0.1, "p_suggested": 0.9}
    ]  # fmt: skip


def test_a_class_without_images_is_never_suggested() -> None:
    probs = np.array([[0.2, 0.1, 0.7], [0.1, 0.2, 0.7]])
    assert thresholds(np.array([0, 1]), probs)[2] == np.inf
    assert suggested(np.array([0, 1]), probs).tolist() == [0, 1]


def test_changed_labels_are_found() -> None:
    """A good classifier, and 5 % of the labels changed: most of them are listed, and few others."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 2000)
    logits = rng.normal(size=(2000, 3))
    logits[np.arange(2000), true] += 4
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = true.copy()
    changed = rng.choice(2000, 100, replace=False)
    given[changed] = (given[changed] + 1) % 3
    found = np.flatnonzero(suggested(given, probs) != given)
    assert len(np.intersect1d(found, changed)) >= 85
    assert len(found) <= 95
    assert error_share(given, probs) == pytest.approx(0.05, abs=0.012)


def write(
    path: Path, split: str = "test", labels: tuple[str, ...] = ("a", "b"), ids: tuple[str, ...] = ("x", "y")
) -> Path:
    logits = [[[2.0, 0.0]], [[0.0, 1.0]]]
    table = pa.table({"image_id": list(ids), "label": pa.array([0, 1], pa.int32()), "logits": logits})
    about = json.dumps({"labels": list(labels), "split": split}).encode()
    pq.write_table(table.replace_schema_metadata({b"lesion_suite": about}), path)
    return path


def test_predictions_of_folds_are_joined(tmp_path: Path) -> None:
    held = read_predictions([write(tmp_path / "1.parquet"), write(tmp_path / "2.parquet", ids=("u", "v"))])
    assert held.image_ids == ["x", "y", "u", "v"]
    assert held.given.tolist() == [0, 1, 0, 1]
    assert held.probs[1] == pytest.approx([1 / (1 + np.e), np.e / (1 + np.e)])
    assert held.gate is None


@pytest.mark.parametrize(
    ("second", "part"),
    [
        ({"split": "train"}, "train split"),
        ({"labels": ("a", "c")}, "has the classes a, c"),
        ({}, "the first is 'x'"),
    ],
)
def test_predictions_that_cannot_be_used(second: dict, part: str, tmp_path: Path) -> None:
    files = [write(tmp_path / "1.parquet"), write(tmp_path / "2.parquet", **second)]
    with pytest.raises(UserError, match=part):
        read_predictions(files)


def test_another_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no table")
    with pytest.raises(UserError, match="is no predictions file"):
        read_predictions([tmp_path / "a.parquet"])
