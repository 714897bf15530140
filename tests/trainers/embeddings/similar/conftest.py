"""A tiny random model with and without a gate, and a cache folder of these tests' own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from datasets_scripts.build_phantom import main as build_phantom
from datasets_scripts.taxonomy import TASKS, long_names, malignancy_groups
from hub_models import (
    FusionForLesionClassification,
    FusionLesionConfig,
    LesionImageProcessor,
    MetadataForLesionClassification,
    MetadataLesionConfig,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
)
from trainers.embeddings.cases import Cases, load_cases
from trainers.model_folder.data import load_splits

LABELS = TASKS["dermx"]
SIDE = 32


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing is read from, or left in, the user's cache."""
    folder = tmp_path_factory.mktemp("similar-cache")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def save_classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Path]:
    """Write a random MobileNet of the eight classes that the phantoms have, with this trust."""

    def save(trust: dict[str, Any]) -> Path:
        folder = tmp_path_factory.mktemp("models") / "tiny-derm-x"
        torch.manual_seed(0)
        config = MobileNetLesionConfig(
            id2label=dict(enumerate(LABELS)),
            label_names=long_names(LABELS),
            label_groups=malignancy_groups(LABELS),
            image_size=SIDE,
            backbone="mobilenetv2_035",
            trust=trust,
        )
        MobileNetForLesionClassification(config).eval().save_pretrained(folder)
        LesionImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
        report = {"schema_version": 1, "model": {"name": "tiny-derm-x", "title": "A tiny one"}}
        (folder / "report.json").write_text(json.dumps(report))
        return folder

    return save


@pytest.fixture(scope="session")
def classifier(save_classifier: Callable[[dict[str, Any]], Path]) -> Path:
    """Without trust."""
    return save_classifier({})


@pytest.fixture(scope="session")
def wary_classifier(save_classifier: Callable[[dict[str, Any]], Path]) -> Path:
    """Its gate, by energy, declines every image."""
    fitted_on = {"split": "calibration", "n": 100, "method": "test", "date": "2026-01-01"}
    classes = len(LABELS)
    return save_classifier(
        {
            "temperature": {"kind": "scalar", "value": 1.5, **fitted_on},
            "prior": {"value": [1 / classes] * classes, **fitted_on},
            "ood": {"detector": "energy", "threshold": -1e9, "settings": {}, "buffers": {}, **fitted_on},
            "conformal": {**fitted_on, "method": "lac", "alpha": 0.1, "qhat": [1.0] * classes, "settings": {}},
            "bands": {
                "low": {"threshold": 0.1, "risk": 0.05, "confidence": 0.9, **fitted_on},
                "moderate": {"threshold": 0.2, "risk": 0.2, "confidence": 0.9, **fitted_on},
            },
            "policy": {"max_set_size": 3},
            "fitted_for": {"inference": "plain", "preprocessing": {"do_hair_removal": False}},
        }
    )


@pytest.fixture(scope="session")
def records_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that looks at no image."""
    folder = tmp_path_factory.mktemp("models") / "records"
    model = MetadataForLesionClassification(MetadataLesionConfig(id2label=dict(enumerate(LABELS))))
    model.save_pretrained(folder)
    processor = LesionImageProcessor(metadata_fields=model.config.metadata_fields, model_input_names=["metadata"])
    processor.save_pretrained(folder)
    (folder / "report.json").write_text(json.dumps({"schema_version": 1, "model": {"name": "records"}}))
    return folder


@pytest.fixture(scope="session")
def reading_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A late fusion: it looks at the image and at the record."""
    folder = tmp_path_factory.mktemp("models") / "fusion"
    torch.manual_seed(2)
    config = FusionLesionConfig(
        id2label=dict(enumerate(LABELS)), image_size=SIDE, backbone="mobilenetv2_035", backbone_kwargs={}
    )
    FusionForLesionClassification(config).eval().save_pretrained(folder)
    LesionImageProcessor(
        size={"height": SIDE, "width": SIDE},
        metadata_fields=config.metadata_fields,
        model_input_names=["pixel_values", "metadata"],
    ).save_pretrained(folder)
    (folder / "report.json").write_text(json.dumps({"schema_version": 1, "model": {"name": "fusion"}}))
    return folder


@pytest.fixture(scope="session")
def two_class_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images of another task: benign or malignant."""
    out = tmp_path_factory.mktemp("data") / "binary"
    build_phantom(["--task", "isic_binary", "--images", "60", "--seed", "1", "--size", "32x24", "--out", str(out)])
    return out


@pytest.fixture(scope="session")
def train_cases(phantom_dataset: Path) -> Cases:
    """The drawn train split: 96 images."""
    return load_cases(load_splits(str(phantom_dataset), "grouped"), "train")
