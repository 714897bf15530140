"""Configs that somebody else wrote: every value that decides what is built or opened has a limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageClassification

from hub_models import (
    EnsembleLesionConfig,
    LesionConfigError,
    LesionImageProcessor,
    MetadataLesionConfig,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
    ViTLesionConfig,
)
from hub_models.image_processing_pixels import PixelSettingError

NAN, INF = float("nan"), float("inf")
LABELS = {0: "mel", 1: "nv"}
BAND = {"threshold": 0.1, "risk": 0.1, "confidence": 0.9}


def bands(**changes: Any) -> dict[str, Any]:
    return {"bands": {"low": {**BAND, **changes}, "moderate": {**BAND, "threshold": 0.2}}}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"image_size": 10**9}, "image_size is 1000000000"),
        ({"image_size": NAN}, "image_size is nan"),
        ({"image_size": "224"}, "image_size is '224'"),
        ({"image_size": -224}, "image_size is -224"),
        ({"num_labels": 10**9}, "num_labels is 1000000000"),
        ({"num_labels": "7"}, "num_labels is '7'"),
        ({"num_labels": True}, "num_labels is True"),
        ({"id2label": {i: str(i) for i in range(10_001)}}, "10001 classes"),
        ({"id2label": ["mel", "nv"]}, "id2label is"),
        ({"label_names": {"mel": 1, "nv": 2}, "id2label": LABELS}, "label_names is"),
        ({"dropout": NAN}, "dropout is nan"),
        ({"self_check": [1]}, "self_check is"),
        ({"model_version": "1"}, "model_version is '1'"),
        ({"suite_version": "<script>"}, "suite_version is '<script>'"),
        ({"dropout": True}, "dropout is True"),
        ({"freeze_backbone": "false"}, "freeze_backbone is 'false'"),
        ({"transformers_weights": "../other.safetensors"}, "transformers_weights is"),
        ({"quantization_config": {"quant_method": "x"}}, "quantization_config is"),
        ({"attn_implementation": "org/kernel"}, "attn_implementation is 'org/kernel'"),
        ({"_attn_implementation": "org/kernel"}, "attn_implementation is 'org/kernel'"),
        ({"trust": {"temperature": {"value": 10**400}}}, "temperature"),
        ({"trust": {"ood": {"detector": "energy", "threshold": NAN}}}, 'trust."ood".."threshold".'),
        ({"trust": {"ood": {"detector": "energy", "threshold": INF}}}, "is inf"),
        ({"trust": {"ood": {"detector": 1, "threshold": 1.0}}}, "detector"),
        ({"trust": {"ood": {"detector": "vim", "threshold": 1.0, "settings": {"alpha": NAN}}}}, "settings"),
        ({"trust": {"ood": {"detector": "vim", "threshold": 1.0, "buffers": {"mean": [10**9, 10**9]}}}}, "buffers"),
        ({"trust": {"ood": {"detector": "vim", "threshold": 1.0, "buffers": {"mean": "x"}}}}, "buffers"),
        ({"trust": {"ood": {"detector": "vim", "threshold": 1.0, "buffers": {"a.b": [1]}}}}, "buffers"),
        ({"trust": {"conformal": {"method": "x", "settings": {}, "qhat": [None, None]}}}, "method"),
        ({"trust": {"conformal": {"method": "lac", "settings": {}, "qhat": [INF, None]}}}, "qhat"),
        ({"trust": bands(threshold=INF)}, "low.threshold.. is inf"),
        ({"trust": bands(threshold=NAN)}, "low.threshold.. is nan"),
        ({"trust": bands(threshold=True)}, "low.threshold.. is True"),
        ({"trust": bands(threshold=0.3)}, "moderate.threshold.. is 0.2"),
        ({"trust": bands(risk="0.1")}, "low.risk.. is '0.1'"),
        ({"trust": {"bands": {"low": BAND}}}, "both bands"),
        ({"trust": {"policy": {"max_set_size": 10**9}}}, "max_set_size"),
    ],
)
def test_a_hostile_value_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(LesionConfigError, match=named) as refused:
        MobileNetLesionConfig(**values)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("config_class", "values", "named"),
    [
        (EnsembleLesionConfig, {"members": [{}] * 3000}, "members is 3000 entries"),
        (EnsembleLesionConfig, {"members": {"a": 1}}, "members is"),
        (MetadataLesionConfig, {"hidden_sizes": [10**9]}, "hidden_sizes"),
        (MetadataLesionConfig, {"hidden_sizes": [8] * 101}, "hidden_sizes"),
        (ViTLesionConfig, {"hidden_size": 10**9}, "hidden_size is 1000000000"),
        (ViTLesionConfig, {"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
        (ViTLesionConfig, {"hidden_size": 4096, "num_hidden_layers": 64}, "parameters"),
        (ViTLesionConfig, {"hidden_act": "os.system"}, "hidden_act is 'os.system'"),
        (ViTLesionConfig, {"layer_norm_eps": NAN}, "layer_norm_eps is nan"),
    ],
)
def test_a_hostile_shape_is_refused_by_name(config_class: Any, values: dict[str, Any], named: str) -> None:
    with pytest.raises(LesionConfigError, match=named):
        config_class(**values)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"height": 10**9, "width": 10**9}},
        {"size": {"height": "224", "width": 224}},
        {"size": {"height": -1, "width": 224}},
        {"crop_size": {"height": 10**9, "width": 10**9}},
        {"pad_size": {"height": 10**9, "width": 10**9}},
        {"image_mean": [0.5, NAN, 0.5]},
        {"image_mean": "0.5"},
        {"image_std": [0.5, 0.0, 0.5]},
        {"rescale_factor": INF},
        {"rescale_factor": "x"},
        {"resample": 77},
    ],
    ids=str,
)
def test_a_hostile_processor_is_refused_by_name(changes: dict[str, Any], tmp_path: Path) -> None:
    LesionImageProcessor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises((PixelSettingError, ValueError), match=next(iter(changes))):
        LesionImageProcessor.from_pretrained(tmp_path)


def test_more_parameters_than_anybody_has_weights_for_are_refused_before_they_are_allocated(tmp_path: Path) -> None:
    config = MobileNetLesionConfig(id2label=LABELS, image_size=32, backbone="mobilenetv2_035")
    MobileNetForLesionClassification(config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "backbone": "vit_giant_patch14_clip_224"}))
    with pytest.raises(LesionConfigError, match="parameters"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
