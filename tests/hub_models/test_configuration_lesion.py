"""The shared configuration: what it derives, what it refuses, what its file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hub_models import LesionConfigError, MobileNetLesionConfig

LABELS = {0: "mel", 1: "nv"}


def test_defaults_are_a_valid_config() -> None:
    config = MobileNetLesionConfig()
    assert config.labels == ["LABEL_0", "LABEL_1"]
    assert config.trust == {}
    assert config.softmax_temperature == 1.0
    assert config.initialised_from is None


def test_label2id_follows_id2label_also_when_a_stale_one_is_given() -> None:
    config = MobileNetLesionConfig(id2label={"0": "mel", "1": "nv"}, label2id={"other": 0})
    assert config.id2label == LABELS
    assert config.label2id == {"mel": 0, "nv": 1}
    assert config.labels == ["mel", "nv"]


def test_mutable_defaults_are_not_shared() -> None:
    first, second = MobileNetLesionConfig(), MobileNetLesionConfig()
    first.trust["temperature"] = {"value": 2.0}
    assert second.trust == {}


def test_file_holds_everything_and_loads_again(tmp_path: Path) -> None:
    config = MobileNetLesionConfig(
        id2label=LABELS,
        label_names={"mel": "melanoma", "nv": "melanocytic nevi"},
        label_groups={"mel": "malignant", "nv": "benign"},
        image_size=176,
        backbone_kwargs={"bn_eps": 1e-3},
        dropout=0.3,
        initialised_from="random",
        trust={"temperature": {"value": 1.25, "split": "calibration", "n": 1500, "method": "nll"}},
    )
    config.save_pretrained(tmp_path)
    result = json.loads((tmp_path / "config.json").read_text())
    assert result["model_type"] == "lesion_mobilenet"
    assert result["id2label"] == {"0": "mel", "1": "nv"}
    assert result["trust"]["temperature"]["value"] == 1.25
    loaded = MobileNetLesionConfig.from_pretrained(tmp_path)
    assert loaded.softmax_temperature == 1.25
    for name in ("id2label", "label2id", "label_names", "label_groups", "image_size", "backbone_kwargs", "dropout"):
        assert getattr(loaded, name) == getattr(config, name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id2label": {0: "mel"}}, "at least two classes"),
        ({"id2label": {0: "mel", 2: "nv"}}, r"indices \[0, 2\]"),
        ({"id2label": {0: "mel", 1: "mel"}}, "its own, non-empty name"),
        ({"id2label": {0: "mel", 1: ""}}, "its own, non-empty name"),
        ({"id2label": LABELS, "label_names": {"mel": "melanoma"}}, r"missing \['nv'\], unknown \[\]"),
        (
            {"id2label": LABELS, "label_groups": {"mel": "malignant", "nv": "benign", "df": "benign"}},
            r"unknown \['df'\]",
        ),
        ({"id2label": LABELS, "label_groups": {"mel": "malignant", "nv": "harmless"}}, "label_groups.*'harmless'"),
        ({"label_names": ["mel"]}, "label_names is"),
        ({"id2label": [1]}, r"id2label is \[1\]"),
        ({"dtype": "x"}, "dtype is 'x'"),
        ({"dtype": [1]}, r"dtype is \[1\]"),
        ({"torch_dtype": 5}, "torch_dtype is 5"),
        ({"image_size": 31}, "image_size is 31"),
        ({"image_size": 224.0}, "image_size is 224.0"),
        ({"image_size": True}, "image_size is True"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": "0.2"}, "dropout is '0.2'"),
        ({"backbone": ""}, "backbone is ''"),
        ({"backbone_kwargs": None}, "backbone_kwargs is None"),
        ({"trust": [1]}, r"trust is \[1\]"),
        ({"trust": {"temperature": 1.5}}, r'trust\["temperature"\] is 1.5; give a dictionary'),
        ({"trust": {"temperature": {"split": "calibration"}}}, "a finite number above 0"),
        ({"trust": {"temperature": {"value": 0.0}}}, "a finite number above 0"),
        ({"trust": {"temperature": {"value": float("nan")}}}, "a finite number above 0"),
        ({"trust": {"temperature": {"value": float("inf")}}}, "a finite number above 0"),
        ({"trust": {"temperature": {"value": True}}}, "a finite number above 0"),
    ],
)
def test_bad_values_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(LesionConfigError, match=message):
        MobileNetLesionConfig(**values)


def test_a_value_spoilt_after_construction_is_not_saved(tmp_path: Path) -> None:
    config = MobileNetLesionConfig()
    config.trust["temperature"] = {"value": -1.0}
    with pytest.raises(LesionConfigError, match=r"-1\.0"):
        config.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_set_before_their_labels_stay() -> None:
    config = MobileNetLesionConfig(id2label=LABELS, label_names={"mel": "melanoma", "nv": "naevus"})
    config.label_names = {"x": "X", "y": "Y"}
    config.id2label = {0: "x", 1: "y"}
    config.check()
    assert config.label_names == {"x": "X", "y": "Y"}
