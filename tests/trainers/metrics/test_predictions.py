from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datasets_scripts.command import UserError
from trainers.metrics.predictions import (
    METADATA_KEY,
    NO_LABEL,
    Predictions,
    read_predictions,
    write_predictions,
)


@pytest.fixture
def predictions() -> Predictions:
    logits = np.array([[[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]], [[3.0, 0.0, 0.0], [0.5, -2.0, 0.25]]])  # N=2, M=2, C=3
    return Predictions(
        image_id=np.array(["a", "b"], dtype=object),
        lesion_id=np.array(["l1", "l2"], dtype=object),
        group_id=np.array(["g1", "g2"], dtype=object),
        label=np.array([2, 0]),
        logits=logits,
        labels=["nv", "mel", "akiec"],
        label_names={"nv": "Melanocytic nevus", "mel": "Melanoma", "akiec": "Actinic keratosis"},
        label_groups={"nv": "benign", "mel": "malignant", "akiec": "premalignant"},
        split="test",
        config_name="grouped",
        dataset="d",
        columns={
            "age": np.array([35.0, np.nan]),
            "sex": np.array(["female", "unknown"], dtype=object),
            "skin_tone": np.array(["Fitzpatrick 5", "unknown"], dtype=object),
        },
        features=np.array([[0.5, -1.0], [2.0, 0.25]], dtype=np.float32),
    )


def test_round_trip_keeps_every_value(predictions: Predictions, tmp_path: Path) -> None:
    write_predictions(predictions, tmp_path / "p.parquet")
    back = read_predictions(tmp_path / "p.parquet")
    assert back.logits.shape == (2, 2, 3)
    np.testing.assert_array_equal(back.logits, predictions.logits)
    np.testing.assert_array_equal(back.features, predictions.features)
    np.testing.assert_array_equal(back.columns["age"], predictions.columns["age"])
    assert back.columns["sex"].tolist() == ["female", "unknown"]
    assert back.columns["skin_tone"].tolist() == ["Fitzpatrick 5", "unknown"]
    assert (back.labels, back.label_groups, back.split, back.config_name) == (
        predictions.labels,
        predictions.label_groups,
        "test",
        "grouped",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]


def test_round_trip_keeps_what_the_gate_looks_at_and_says(predictions: Predictions, tmp_path: Path) -> None:
    scored = replace(predictions, early=np.array([[1.0, 0.5, -2.0], [0.0, 4.0, 8.0]]), ood_score=np.array([1 / 3, 9.0]))
    write_predictions(scored, tmp_path / "p.parquet")
    back = read_predictions(tmp_path / "p.parquet")
    np.testing.assert_array_equal(back.ood_score, scored.ood_score)  # to the last digit: a threshold may lie there
    np.testing.assert_array_equal(back.early, scored.early)
    one = back.select(np.array([1]))
    assert (one.ood_score.tolist(), one.early.tolist()) == ([9.0], [[0.0, 4.0, 8.0]])
    write_predictions(scored, tmp_path / "small.parquet", with_features=False)
    small = read_predictions(tmp_path / "small.parquet")
    assert (small.features, small.early, small.ood_score.tolist()) == (None, None, [1 / 3, 9.0])
    assert predictions.ood_score is None


def test_only_images_of_none_of_the_classes_have_no_label(predictions: Predictions, tmp_path: Path) -> None:
    ood = replace(predictions, label=np.full(2, NO_LABEL), split="ood_clothes")
    write_predictions(ood, tmp_path / "p.parquet")
    assert read_predictions(tmp_path / "p.parquet").label.tolist() == [NO_LABEL, NO_LABEL]
    with pytest.raises(UserError, match=r"labels span -1\.\.-1; expected 0\.\.2"):
        replace(ood, split="test")


@pytest.mark.parametrize("name", ["lesion_id", "group_id", "label", "features"])
def test_each_array_has_a_row_an_image(predictions: Predictions, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} holds 1 values for 2 images"):
        replace(predictions, **{name: getattr(predictions, name)[:1]})


def test_features_can_be_left_out(predictions: Predictions, tmp_path: Path) -> None:
    write_predictions(predictions, tmp_path / "p.parquet", with_features=False)
    assert read_predictions(tmp_path / "p.parquet").features is None


def test_probs_are_the_mean_over_members(predictions: Predictions) -> None:
    e = np.exp([0.0, 1.0, 2.0])
    expected = (e / e.sum() + 1 / 3) / 2
    np.testing.assert_allclose(predictions.probs()[0], expected)
    np.testing.assert_allclose(predictions.p_malignant()[0], expected[1] + expected[2])
    flat = predictions.probs(temperature=1e6)
    np.testing.assert_allclose(flat, 1 / 3, atol=1e-5)


def test_select_takes_the_same_rows_everywhere(predictions: Predictions) -> None:
    one = predictions.select(np.array([False, True]))
    assert (len(one), one.image_id[0], one.columns["sex"][0]) == (1, "b", "unknown")
    np.testing.assert_array_equal(one.logits[0], predictions.logits[1])


def test_a_nan_logit_is_refused_and_named(predictions: Predictions) -> None:
    logits = predictions.logits.copy()
    logits[1, 0, 0] = np.nan
    with pytest.raises(UserError, match="'b' has a logit that is NaN"):
        replace(predictions, logits=logits)


def test_a_label_out_of_range_is_refused(predictions: Predictions) -> None:
    with pytest.raises(UserError, match=r"0\.\.3; expected 0\.\.2"):
        replace(predictions, label=np.array([3, 0]))


def test_files_of_others_and_newer_files_are_refused(predictions: Predictions, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_predictions(tmp_path / "text.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="not written by this suite"):
        read_predictions(tmp_path / "other.parquet")
    write_predictions(predictions, tmp_path / "p.parquet")
    table = pq.read_table(tmp_path / "p.parquet")
    about = {**json.loads(table.schema.metadata[METADATA_KEY]), "schema_version": 99}
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(about)}), tmp_path / "newer.parquet")
    with pytest.raises(UserError, match="layout 99"):
        read_predictions(tmp_path / "newer.parquet")
    pq.write_table(table.drop_columns(["group_id"]), tmp_path / "short.parquet")
    with pytest.raises(UserError, match="no column 'group_id'"):
        read_predictions(tmp_path / "short.parquet")


def test_rows_that_lack_values_are_refused(predictions: Predictions, tmp_path: Path) -> None:
    write_predictions(predictions, tmp_path / "p.parquet")
    whole = pq.read_table(tmp_path / "p.parquet")
    damaged = {
        "logits": [[[0.0, 1.0], [2.0, 1.0, 1.0, 3.0]], [[3.0, 0.0, 0.0], [0.5, -2.0, 0.25]]],
        "features": [[0.5], [2.0, 0.25, 1.0]],
        "label": [2, None],
        "image_id": ["a", None],
    }
    for name, rows in {**damaged, "logits of a row": [None, whole["logits"].to_pylist()[1]]}.items():
        column = name.split()[0]
        values = pa.array(rows, whole.schema.field(column).type)
        place = whole.schema.get_field_index(column)
        pq.write_table(whole.set_column(place, column, values), tmp_path / "damaged.parquet")
        with pytest.raises(UserError, match=column):
            read_predictions(tmp_path / "damaged.parquet")


def test_metadata_without_labels_is_refused(predictions: Predictions, tmp_path: Path) -> None:
    write_predictions(predictions, tmp_path / "p.parquet")
    whole = pq.read_table(tmp_path / "p.parquet")
    for about, named in ((b'{"schema_version": 1}', "labels"), (b"<html>", "JSON"), (b"[1]", "JSON")):
        pq.write_table(whole.replace_schema_metadata({METADATA_KEY: about}), tmp_path / "damaged.parquet")
        with pytest.raises(UserError, match=named):
            read_predictions(tmp_path / "damaged.parquet")
