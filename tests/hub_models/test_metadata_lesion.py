"""Records as numbers: encodings worked out by hand, every way to say unknown, and one clear line for each mistake."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lesion_shipping_tester import sample_image

from hub_models import (
    STANDARD_FIELDS,
    LesionImageProcessor,
    MetadataFieldsError,
    RecordError,
    encode_record,
    metadata_width,
    resolve_fields,
)

FIELDS = resolve_fields(list(STANDARD_FIELDS))
UNKNOWN_SITE = [0.0] * 14 + [1.0]


def site(number: int) -> list[float]:
    return [1.0 if i == number else 0.0 for i in range(15)]


def test_the_standard_vocabulary() -> None:
    assert list(FIELDS) == ["age", "localization", "sex"]
    assert FIELDS["sex"]["values"] == ["female", "male", "unknown"]
    assert len(FIELDS["localization"]["values"]) == 15
    assert metadata_width(FIELDS) == 20


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"age": 75, "localization": "abdomen", "sex": "female"}, [1.0, 0.0, *site(0), 1.0, 0.0, 0.0]),
        ({"age": 0, "localization": "upper extremity", "sex": "male"}, [-2.0, 0.0, *site(13), 0.0, 1.0, 0.0]),
        ({"age": "45", "localization": " Lower Extremity ", "sex": "FEMALE"}, [-0.2, 0.0, *site(9), 1.0, 0.0, 0.0]),
        ({"age": 120, "image": "nowhere.png"}, [2.8, 0.0, *UNKNOWN_SITE, 0.0, 0.0, 1.0]),
        ({}, [0.0, 1.0, *UNKNOWN_SITE, 0.0, 0.0, 1.0]),
    ],
)
def test_encoding_by_hand(record: dict[str, Any], expected: list[float]) -> None:
    assert encode_record(record, FIELDS) == pytest.approx(expected)


@pytest.mark.parametrize(
    "unknown", [None, math.nan, np.float32("nan"), pd.NA, "", " ", "unknown", "Unknown", "nan"], ids=repr
)
def test_every_way_to_say_unknown(unknown: Any) -> None:
    record = {"age": unknown, "sex": unknown, "localization": unknown}
    assert encode_record(record, FIELDS) == encode_record({}, FIELDS)


@pytest.mark.parametrize(
    "age", [45, 45.0, np.int64(45), np.float32(45), torch.tensor(45.0), "45", " 45.0 "], ids=lambda age: repr(age)
)
def test_ages_of_any_type(age: Any) -> None:
    assert encode_record({"age": age}, resolve_fields(["age"])) == pytest.approx([-0.2, 0.0])


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"localization": "elbow"}, "localization is 'elbow'; give one of abdomen, acral, back"),
        ({"localization": 7}, "localization is 7; give one of"),
        ({"age": -3}, "age is -3; give a number from 0 to 120, or 'unknown'"),
        ({"age": 900}, "age is 900; give a number"),
        ({"age": "forty"}, "age is 'forty'; give a number"),
        ({"age": "45 years"}, "age is '45 years'; give a number"),
        ({"age": math.inf}, "age is inf; give a number"),
        ({"age": True}, "age is True; give a number"),
        ({"age": [45]}, "age is [45]; give a number"),
        ({"sex": "x"}, "sex is 'x'; give one of female, male, unknown"),
        ({"sex": 1}, "sex is 1; give one of"),
        ({"site": "back"}, "'site' is no key of a record; give image, age, sex, localization"),
        ({"dx": "mel"}, "'dx' is no key of a record"),
        ({"dx_type": "histo"}, "'dx_type' must not be given: it says how the diagnosis was made, and so leaks it"),
        ([45, "female"], "[45, 'female'] is no record; give a dictionary"),
    ],
)
@pytest.mark.parametrize("fields", [FIELDS, resolve_fields(["age"]), {}], ids=["all", "age", "none"])
def test_mistakes_are_one_line_for_every_model(record: Any, says: str, fields: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=re.escape(says)) as raised:
        encode_record(record, fields)
    assert "\n" not in str(raised.value)


def test_own_vocabularies() -> None:
    fields = resolve_fields(
        {
            "sex": None,
            "localization": {"values": ["Head", "Torso"]},
            "diameter": {"lowest": 0, "highest": 50, "centre": 6, "scale": 4},
        }
    )
    assert list(fields) == ["diameter", "localization", "sex"]
    assert fields["localization"] == {"values": ["head", "torso", "unknown"]}
    record = {"diameter": 10, "localization": "torso", "age": 40}
    assert encode_record(record, fields) == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    with pytest.raises(RecordError, match="localization is 'back'; give one of head, torso, unknown"):
        encode_record({"localization": "back"}, fields)
    with pytest.raises(RecordError, match="diameter is 60; give a number from 0 to 50"):
        encode_record({"diameter": 60}, fields)


def test_the_order_of_the_encoding_survives_the_files_it_is_saved_in() -> None:
    fields = resolve_fields({"sex": None, "age": None})
    assert resolve_fields(json.loads(json.dumps(fields, sort_keys=True))) == fields
    assert list(resolve_fields(["sex", "age"])) == list(resolve_fields(["age", "sex"])) == ["age", "sex"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([], "metadata_fields is []"),
        ("age", "metadata_fields is 'age'"),
        (["weight"], "metadata_fields has 'weight'; choose from age, sex, localization"),
        (["age", "dx_type"], "metadata_fields has 'dx_type': it says how the diagnosis was made"),
        ({"dx_type": {"values": ["histo"]}}, "metadata_fields has 'dx_type'"),
        (["image"], "metadata_fields has 'image'"),
        ({"sex": {"values": ["f", "F"]}}, "metadata_fields['sex'] is {'values': ['f', 'F']}"),
        ({"sex": {"values": []}}, "metadata_fields['sex'] is {'values': []}"),
        ({"sex": ["f", "m"]}, "metadata_fields['sex'] is ['f', 'm']"),
        ({"age": {"lowest": 0, "highest": 9, "centre": 5, "scale": 0}}, "metadata_fields['age'] is"),
        ({"age": {"lowest": 9, "highest": 0, "centre": 5, "scale": 1}}, "metadata_fields['age'] is"),
        ({"age": {"lowest": 0, "highest": "old", "centre": 5, "scale": 1}}, "metadata_fields['age'] is"),
    ],
)
def test_fields_that_cannot_be_encoded_are_named(fields: Any, says: str) -> None:
    with pytest.raises(MetadataFieldsError, match=re.escape(says)):
        resolve_fields(fields)


# ------------------------------------------------------------------ in the image processor


def both(**changes: Any) -> LesionImageProcessor:
    values = {"size": 32, "model_input_names": ["pixel_values", "metadata"], "metadata_fields": ["age", "sex"]}
    return LesionImageProcessor(**{**values, **changes})


def test_a_record_is_its_image_and_its_metadata(tmp_path: Path) -> None:
    sample_image(0).save(tmp_path / "0.png")
    given = [
        {"image": sample_image(0), "age": 75, "sex": "male"},
        {"image": np.asarray(sample_image(1))},
        {"image": tmp_path / "0.png", "age": 50},
        sample_image(1),
    ]
    inputs = both()(given, return_tensors="pt")
    assert inputs["metadata"].dtype == inputs["pixel_values"].dtype == torch.float32
    assert inputs["metadata"].tolist() == [[1, 0, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 0, 0, 1], [0, 1, 0, 0, 1]]
    plain = LesionImageProcessor(size=32)([sample_image(0), sample_image(1)] * 2, return_tensors="pt")
    assert list(plain) == ["pixel_values"]
    assert torch.equal(inputs["pixel_values"], plain["pixel_values"])


def test_one_record_and_one_image_are_batches_of_one() -> None:
    of_record, of_image = (
        both()({"image": sample_image(0)}, return_tensors="np"),
        both()(sample_image(0), return_tensors="np"),
    )
    assert of_record["pixel_values"].shape == (1, 3, 32, 32)
    assert isinstance(of_record["metadata"], np.ndarray)
    assert of_record["metadata"].tolist() == of_image["metadata"].tolist() == [[0, 1, 0, 0, 1]]
    np.testing.assert_array_equal(of_record["pixel_values"], of_image["pixel_values"])


def test_an_image_only_model_takes_the_same_form_and_checks_it() -> None:
    processor = LesionImageProcessor(size=32)
    record = {"image": sample_image(0), "age": 45, "sex": "female", "localization": "back"}
    inputs = processor([record, record], return_tensors="pt")
    assert list(inputs) == ["pixel_values"]
    assert torch.equal(inputs["pixel_values"], processor([sample_image(0)] * 2, return_tensors="pt")["pixel_values"])
    with pytest.raises(RecordError, match="record 1: age is 900"):
        processor([record, {**record, "age": 900}])


@pytest.mark.parametrize("processor", [LesionImageProcessor(size=32), both()], ids=["image", "both"])
def test_a_missing_image_is_named_where_one_is_needed(processor: LesionImageProcessor) -> None:
    with pytest.raises(RecordError, match=r"record 1 has no image; this model reads one: give it under 'image'"):
        processor([{"image": sample_image(0)}, {"age": 45}])


def test_the_vocabulary_is_saved_with_the_processor(tmp_path: Path) -> None:
    both(metadata_fields={"sex": None, "localization": {"values": ["head", "torso"]}}).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["model_input_names"] == ["pixel_values", "metadata"]
    assert saved["metadata_fields"]["localization"] == {"values": ["head", "torso", "unknown"]}
    loaded = LesionImageProcessor.from_pretrained(tmp_path)
    inputs = loaded({"image": sample_image(0), "localization": "torso", "sex": "female"}, return_tensors="pt")
    assert inputs["metadata"].tolist() == [[0, 1, 0, 1, 0, 0]]
    LesionImageProcessor().save_pretrained(tmp_path)
    assert "metadata_fields" not in json.loads((tmp_path / "preprocessor_config.json").read_text())


@pytest.mark.parametrize(
    "values",
    [
        {"model_input_names": ["metadata"]},
        {"metadata_fields": ["age"]},
        {"model_input_names": ["pixels"]},
        {"model_input_names": []},
    ],
)
def test_inputs_and_fields_must_go_together(values: dict[str, Any]) -> None:
    with pytest.raises(MetadataFieldsError, match="metadata_fields exactly when metadata is among them"):
        LesionImageProcessor(**values)


@pytest.mark.real
def test_every_row_of_ham10000_is_a_record(data_dir: Path) -> None:
    with (data_dir / "ham10000" / "HAM10000_metadata.csv").open(newline="") as file:
        rows = [{name: row[name] for name in STANDARD_FIELDS} for row in csv.DictReader(file)]
    encoded = np.array([encode_record(row, FIELDS) for row in rows])
    assert encoded.shape == (10_015, 20)
    # Ages, sites and sexes that are unknown, as counted on the table.
    assert encoded[:, 1].sum() == 57
    assert encoded[:, 16].sum() == 234
    assert encoded[:, 19].sum() == 57
    assert encoded[:, 2:17].sum() == encoded[:, 17:].sum() == 10_015
