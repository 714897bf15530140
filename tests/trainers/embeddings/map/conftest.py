"""Tiny random models, and a cache folder of these tests' own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from datasets_scripts.build_phantom import main as build_phantom
from datasets_scripts.phantom import draw
from datasets_scripts.taxonomy import TASKS, long_names, malignancy_groups
from hub_models import (
    AutoencoderLesionConfig,
    AutoencoderLesionModel,
    LesionImageProcessor,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
)

LABELS = TASKS["dermx"]
SIDE = 32


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Nothing is read from, or left in, the user's cache."""
    folder = tmp_path_factory.mktemp("latent-cache")
    patch = pytest.MonkeyPatch()
    patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random MobileNet of the eight classes that the phantoms have, as a folder with a report."""
    folder = tmp_path_factory.mktemp("models") / "tiny-derm-x"
    torch.manual_seed(0)
    config = MobileNetLesionConfig(
        id2label=dict(enumerate(LABELS)),
        label_names=long_names(LABELS),
        label_groups=malignancy_groups(LABELS),
        image_size=SIDE,
        backbone="mobilenetv2_035",
    )
    MobileNetForLesionClassification(config).eval().save_pretrained(folder)
    LesionImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    report = {"schema_version": 1, "model": {"name": "tiny-derm-x", "title": "A tiny one"}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random autoencoder of 6 codes."""
    folder = tmp_path_factory.mktemp("models") / "tiny-autoencoder"
    torch.manual_seed(1)
    config = AutoencoderLesionConfig(image_size=SIDE, encoder_channels=[8, 8], squeeze_channels=2, code_size=6)
    AutoencoderLesionModel(config).eval().save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    processor = LesionImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=half, image_std=half)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def two_class_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images of another task: benign or malignant."""
    out = tmp_path_factory.mktemp("data") / "binary"
    build_phantom(["--task", "isic_binary", "--images", "60", "--seed", "1", "--size", "32x24", "--out", str(out)])
    return out


@pytest.fixture(scope="session")
def one_class_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder whose images are all nevi."""
    folder = tmp_path_factory.mktemp("data") / "nevi"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(LABELS))})
    files = []
    for split in ("train", "validation"):
        images = [{"bytes": draw("nv", seed, (32, 24)).png(), "path": None} for seed in range(3)]
        rows = {"image": images, "label": [LABELS.index("nv")] * 3}
        (folder / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "data" / f"{split}.parquet")
        files.append(f"  - split: {split}\n    path: data/{split}.parquet\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: grouped\n  data_files:\n{''.join(files)}---\n")
    return folder


@pytest.fixture
def space_numbers() -> dict[str, Any]:
    """Numbers of a space, as a report has them, as far as charts and page read them."""
    measured = {"value": 0.5, "low": 0.4, "high": 0.6}
    return {
        "dimensions": 12,
        "knn": {"k": 5, "balanced_accuracy": measured, "chance": {"value": 0.25}},
        "silhouette": {"mean_over_classes": {"value": -0.1, "low": None, "high": None}, "chance": {"value": -0.2}},
        "sibling_first": {"value": None},
        "map": {"trustworthiness": 0.9, "neighbours_kept": 0.5, "neighbours": 15},
    }
