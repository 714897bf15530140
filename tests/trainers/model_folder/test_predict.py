"""What a predictions file keeps of a dataset's columns."""

from __future__ import annotations

import datasets
import numpy as np

from trainers.model_folder.data import Splits
from trainers.model_folder.predict import patient_columns


def test_skin_tone_is_kept_where_the_dataset_has_it() -> None:
    rows = {"sex": ["female", None], "age": [35.0, None], "skin_tone": [None, "Fitzpatrick 4"]}
    splits = {name: datasets.Dataset.from_dict(rows) for name in ("train", "validation")}
    found = patient_columns(Splits(splits, ["nv"], "d", "grouped"), "train")
    assert found["skin_tone"].tolist() == ["unknown", "Fitzpatrick 4"]
    assert found["sex"].tolist() == ["female", "unknown"]
    np.testing.assert_array_equal(found["age"], [35.0, np.nan])
    assert "image_type" not in found
