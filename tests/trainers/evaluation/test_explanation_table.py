"""The seam: what is written is what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets_scripts.command import UserError
from trainers.evaluation.explanation_table import (
    CURVES,
    NUMBERS,
    ExplanationTable,
    explanations_file,
    read_table,
    write_table,
)


def a_table(abstain: np.ndarray | None) -> ExplanationTable:
    rng = np.random.default_rng(0)
    numbers = {name: rng.random(3) for name in NUMBERS}
    numbers["energy"][1] = np.nan
    curves = {name: rng.random((3, 5)) for name in CURVES}
    for values in curves.values():
        values[2] = np.nan
    ids = np.array(["a", "b", "c"], dtype=object)
    return ExplanationTable(
        image_id=ids,
        group_id=ids,
        label=np.array([0, 1, 1]),
        predicted=np.array([1, 1, 0]),
        abstain=abstain,
        mask=np.array(["there", "none", "empty"], dtype=object),
        numbers=numbers,
        curves=curves,
        labels=["mel", "nv"],
        about={"split": "test", "method": "grad_cam", "steps": 4},
    )


@pytest.mark.parametrize("abstain", [None, np.array([True, False, True])])
def test_it_comes_back_as_it_was(abstain: np.ndarray | None, tmp_path: Path) -> None:
    table, path = a_table(abstain), explanations_file(tmp_path, "test")
    write_table(table, path)
    assert [file.name for file in tmp_path.iterdir()] == ["explanations_test.parquet"]
    read = read_table(path)
    for name in ("image_id", "group_id", "label", "predicted", "mask"):
        assert np.array_equal(getattr(read, name), getattr(table, name)), name
    assert (read.abstain is None) if abstain is None else np.array_equal(read.abstain, abstain)
    for name in NUMBERS:
        np.testing.assert_array_equal(read.numbers[name], table.numbers[name])
    for name in CURVES:
        np.testing.assert_array_equal(read.curves[name], table.curves[name])
    assert (read.labels, read.about) == (table.labels, table.about)
    # Another program sees no NaN, but that there is nothing.
    assert pq.read_table(path)["energy"].null_count == 1
    assert pq.read_table(path)["deletion_blob"].null_count == 1


def test_curves_that_nobody_measured_have_no_points(tmp_path: Path) -> None:
    table = a_table(None)
    for values in table.curves.values():
        values[:] = np.nan
    write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").curves["insertion_random"].shape == (3, 0)


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.parquet cannot be read as Parquet"):
        read_table(tmp_path / "gone.parquet")
    pq.write_table(pa.table({"image_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"other\.parquet has layout None, 1 is known here: measure the"):
        read_table(tmp_path / "other.parquet")
