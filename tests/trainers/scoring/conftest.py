"""Tiny models of ours and of others, a folder of images, and the command called in this process."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from shared_fixtures import called
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hub_models import (
    FusionForLesionClassification,
    FusionLesionConfig,
    LesionImageProcessor,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
)
from trainers import score
from trainers.model_folder.source import parse_source
from trainers.scoring.scorer import AnswerSettings, Scorer

LABELS = ["mel", "nv", "bkl"]
N = 11


def sharpen(model: Any, factor: float) -> Any:
    """Answers that differ between images, as a fresh model's hardly do."""
    torch.manual_seed(7)
    model.train()
    with torch.no_grad():
        for _ in range(20):  # statistics of normalisation
            model(pixel_values=torch.randn(8, 3, 1, 1) + 0.2 * torch.randn(8, 3, 32, 32))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=factor / module.in_features**0.5)
    return model.eval()


def save(folder: Path, config_class: Any, model_class: Any, trusted: bool = True, **config: Any) -> Path:
    fields = ["age", "sex"] if "metadata_fields" in config else None
    inputs = ["pixel_values", "metadata"] if fields else ["pixel_values"]
    processor = LesionImageProcessor(size={"height": 32, "width": 32}, metadata_fields=fields, model_input_names=inputs)
    torch.manual_seed(3)
    names = {"mel": "Melanoma", "nv": "Melanocytic nevus", "bkl": "Benign keratosis"}
    groups = {"mel": "malignant", "nv": "benign", "bkl": "benign"}
    model = model_class(
        config_class(
            id2label=dict(enumerate(LABELS)),
            label_names=names,
            label_groups=groups,
            image_size=32,
            dropout=0.3,
            **config,
        )
    )
    sharpen(model, 40.0)
    if trusted:
        model.set_trust(
            {
                "temperature": {"kind": "scalar", "value": 1.5},
                "prior": {"value": [0.2, 0.5, 0.3]},
                "ood": {
                    "detector": "max_softmax",
                    "threshold": 0.55,
                    "acceptance": 0.95,
                    "settings": {},
                    "buffers": {},
                },
                "conformal": {
                    "method": "lac",
                    "alpha": 0.1,
                    "qhat": [0.6, 0.6, None],
                    "class_conditional": True,
                    "settings": {},
                    "n": {"mel": 20, "nv": 20, "bkl": 5},
                    "groups": {"mel": "mel", "nv": "nv", "bkl": "bkl"},
                },
                "bands": {
                    "low": {"threshold": 0.1, "risk": 0.05, "confidence": 0.9, "n": 60, "errors": 0},
                    "moderate": {"threshold": 0.4, "risk": 0.2, "confidence": 0.9, "n": 90, "errors": 9},
                },
                "decision": {
                    "rule": "most_probable",
                    "cost": None,
                    "sensitivity": {"target": 0.9, "confidence": 0.9, "threshold": 0.25, "n": 40, "missed": 1},
                },
                "policy": {"max_set_size": 2},
                "fitted_for": {"inference": "plain", "preprocessing": processor.pixel_settings()},
            }
        )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "ours"
    return save(folder, MobileNetLesionConfig, MobileNetForLesionClassification, backbone="mobilenetv2_035")


@pytest.fixture(scope="session")
def fusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fields = {"age": None, "sex": None}
    folder = tmp_path_factory.mktemp("models") / "fusion"
    return save(
        folder,
        FusionLesionConfig,
        FusionForLesionClassification,
        trusted=False,
        backbone="test_efficientnet",
        metadata_fields=fields,
    )


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that knows nothing of us, with long class names."""
    folder = tmp_path_factory.mktemp("models") / "peer"
    names = dict(enumerate(["Melanoma", "Melanocytic nevus", "Benign keratosis-like lesion"]))
    torch.manual_seed(5)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=names, num_labels=3
    )
    sharpen(ResNetForImageClassification(config), 4.0).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven images in two folders, one of them broken; a hidden one and a text, which are no images."""
    folder = tmp_path_factory.mktemp("images") / "clinic"
    (folder / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(N):
        colour = rng.integers(0, 256, 3)
        pixels = (colour + rng.integers(-40, 40, (24, 30, 3))).clip(0, 255).astype(np.uint8)
        place = folder / ("b" if number > 6 else "") / f"i{number:02d}.png"
        Image.fromarray(pixels).save(place)
    (folder / "b" / "i08.png").write_bytes((folder / "b" / "i08.png").read_bytes()[:60])
    (folder / "._i00.png").write_bytes(b"a Mac's remark")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="session")
def run() -> Callable[..., tuple[int, str, str]]:
    """Call the command in this process: exit code, stdout, stderr."""
    return partial(called, score.main)


def _rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "answers.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@lru_cache
def _loaded(model: Path) -> Scorer:
    return Scorer(parse_source(str(model)), AnswerSettings(), "cpu")


def _answer_to(model: Path, path: Path, record: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """What ``predict`` says of one file."""
    asking = _loaded(model)
    item: Any = str(path) if record is None else {"image": str(path), **record}
    inputs = asking.processor(item, return_tensors="pt")
    return asking.model.predict(**inputs, prepared_as=asking.processor.pixel_settings(), **given)[0]


def _close(row: dict[str, str], answer: dict[str, Any]) -> None:
    """A row of answers.csv says what the answer says."""
    for label, share in answer["probabilities"].items():
        assert float(row[f"prob_{label}"]) == pytest.approx(share, abs=2e-4)
    for name in ("p_malignant", "predictive_entropy", "aleatoric", "epistemic", "ood_score"):
        assert (row[name] == "") == (answer[name] is None)
        assert row[name] == "" or float(row[name]) == pytest.approx(answer[name], abs=5e-4)
    words = {None: "", True: "true", False: "false"}
    for name in ("predicted", "band", "reason", "message", "decision", "malignancy"):
        assert row[name] == (answer[name] or "")
    for name in ("is_ood", "abstain"):
        assert row[name] == words[answer[name]]
    assert row["prediction_set"] == " ".join(answer["prediction_set"] or [])


@pytest.fixture(scope="session")
def loaded() -> Callable[[Path], Scorer]:
    """A model's folder -> the loaded model."""
    return _loaded


@pytest.fixture(scope="session")
def answer_to() -> Callable[..., dict[str, Any]]:
    """Model folder, image, record -> what ``predict`` says."""
    return _answer_to


@pytest.fixture(scope="session")
def close() -> Callable[[dict[str, str], dict[str, Any]], None]:
    """Asserts that a row of answers.csv says what an answer says."""
    return _close


@pytest.fixture(scope="session")
def rows_of() -> Callable[[Path], list[dict[str, str]]]:
    """A finished folder -> the rows of its answers.csv."""
    return _rows_of
