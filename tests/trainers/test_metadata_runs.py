"""Metadata-only and late-fusion runs by the real Trainer, on drawn lesions of invented patients."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_dataset
from safetensors.torch import load_file
from shared_fixtures import SHORT
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from datasets_scripts.command import UserError
from hub_models import PIPELINE_TASK, FusionForLesionClassification, MetadataForLesionClassification
from model_cards.verify import verify_folder
from trainers.metrics.predictions import read_predictions
from trainers.training.train import classifier
from trainers.training.train import run as run_training

TINY = [*SHORT, "--bootstrap_replicates", "20"]
FROZEN = '{"freeze_backbone": true, "freeze_metadata": true}'


METADATA = classifier(MetadataForLesionClassification)
FUSION = classifier(FusionForLesionClassification)


def train(name: str, task: Any, *options: object) -> None:
    """A run as its train script makes it."""
    run_training([*TINY, *map(str, options)], name, task)


@pytest.fixture(scope="module")
def metadata_only(phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("metadata") / "model"
    train("metadata", METADATA, "--dataset", phantom_dataset, "--output_dir", out)
    return out


@pytest.fixture(scope="module")
def fused(
    trained: Path,
    metadata_only: Path,
    phantom_dataset: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A frozen fusion of the session's image model and the metadata-only model."""
    out = tmp_path_factory.mktemp("fused") / "model"
    parts = ["--backbone_weights", trained, "--metadata_weights", metadata_only]
    where = ["--dataset", phantom_dataset, "--output_dir", out, "--image_size", 32, "--ema_decay", 0.9]
    train("fusion", FUSION, "--recipe", "fusion_cpu", *parts, *where, "--train_image_size", 0)
    return out


def test_a_metadata_only_model_is_finished_like_any_other(metadata_only: Path, phantom_dataset: Path) -> None:
    assert verify_folder(metadata_only) == []
    report = json.loads((metadata_only / "report.json").read_text())
    assert report["model"]["model_type"] == "lesion_metadata"
    assert report["training"]["epochs"] == 2
    rows = read_predictions(metadata_only / "predictions_test.parquet")
    model = AutoModelForImageClassification.from_pretrained(metadata_only)
    processor = AutoImageProcessor.from_pretrained(metadata_only)
    table = load_dataset(str(phantom_dataset), "grouped")["test"].select_columns(["age", "sex", "localization"])
    output = model(**processor(table.to_list(), return_tensors="pt"))
    np.testing.assert_allclose(rows.logits[:, 0], output.raw_logits.detach().numpy(), atol=1e-5)
    assert rows.features is not None
    assert rows.features.shape == (len(rows), 32)


def test_finished_folders_carry_their_pipeline(metadata_only: Path, fused: Path, trained: Path) -> None:
    record = {"image": np.zeros((40, 40, 3), np.uint8), "age": 45, "sex": "male", "localization": "back"}
    for folder in (metadata_only, fused, trained):
        assert (folder / "pipeline_lesion.py").is_file()
        assert list(json.loads((folder / "config.json").read_text())["custom_pipelines"]) == [PIPELINE_TASK]
        model = AutoModelForImageClassification.from_pretrained(folder)
        pipe = pipeline(
            PIPELINE_TASK, model=model, image_processor=AutoImageProcessor.from_pretrained(folder), device=-1
        )
        assert sum(pipe(record)["probabilities"].values()) == pytest.approx(1)


def test_frozen_parts_come_out_of_the_run_as_they_went_in(fused: Path, trained: Path, metadata_only: Path) -> None:
    state, image, metadata = (load_file(f / "model.safetensors") for f in (fused, trained, metadata_only))
    state = {name: value for name, value in state.items() if not name.startswith("trust.")}  # its own gate
    theirs = {**{k: v for k, v in image.items() if k.startswith("backbone.")}}
    theirs |= {k: v for k, v in metadata.items() if k.startswith("metadata_encoder.")}
    assert set(state) - set(theirs) == {"head.logits.weight", "head.logits.bias"}
    for name, value in theirs.items():
        # Stored as fp16 by this recipe; counters of batch normalisation are whole numbers.
        assert (state[name] == value.to(state[name].dtype)).all(), name


def test_a_fusion_says_what_it_was_made_of(fused: Path) -> None:
    assert verify_folder(fused) == []
    report = json.loads((fused / "report.json").read_text())
    assert re.fullmatch(
        r"image: model \(sha256 [0-9a-f]{64}\); metadata: model \(sha256 [0-9a-f]{64}\)",
        report["model"]["initialised_from"],
    )
    assert report["model"]["backbone"] == "test_efficientnet"
    rows = read_predictions(fused / "predictions_test.parquet")
    assert rows.features is not None
    assert rows.features.shape == (len(rows), 256 + 32)


def test_a_fusion_trains_jointly_from_random_parts(phantom_dataset: Path, tmp_path: Path) -> None:
    own = '{"backbone_kwargs": {}, "metadata_fields": ["age"], "head_hidden_sizes": [16]}'
    start = ["--backbone", "test_efficientnet", "--backbone_weights", "none", "--metadata_weights", ""]
    where = ["--dataset", phantom_dataset, "--output_dir", tmp_path / "out", "--image_size", 32]
    train("fusion", FUSION, *start, *where, "--model_config", own, "--num_train_epochs", 1)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert list(config["metadata_fields"]) == ["age"]
    assert config["initialised_from"] == "random"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--backbone_weights", "timm"], "a metadata-only model has no backbone"),
        (["--backbone", "resnet18"], "backbone is 'resnet18'"),
        (["--metadata_weights", "x"], "has no part that takes metadata_weights"),
        (["--model_config", '{"metadata_fields": ["weight"]}'], "metadata_fields has 'weight'"),
        (["--model_config", '{"metadata_fields": ["age", "dx_type"]}'], "metadata_fields has 'dx_type'"),
        (["--model_config", '{"metadata_fields": {"source": {"values": ["a", "b"]}}}'], "source is 'phantom'"),
        (["--model_config", '{"metadata_fields": {"weight": {"values": ["a"]}}}'], "has no column 'weight'"),
    ],
)
def test_bad_options_of_a_metadata_run_are_named(
    phantom_dataset: Path, tmp_path: Path, options: list[str], named: str
) -> None:
    out = tmp_path / "out"
    command = [*TINY, "--dataset", str(phantom_dataset), "--output_dir", str(out), *options]
    with pytest.raises(UserError, match=re.escape(named)):
        run_training(command, "metadata", classifier(MetadataForLesionClassification))
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--image_size", "64"], "was trained with image_size 32, this run has image_size 64"),
        (["--hair_removal", "true"], "trained with do_hair_removal False, this run has True"),
        (
            ["--backbone", "mobilenetv2_050"],
            "model has backbone test_efficientnet, this run has backbone mobilenetv2_050",
        ),
        (["--backbone_weights", "outputs/none"], "'outputs/none' is no trained image model"),
        (["--metadata_weights", "outputs/none"], "'outputs/none' is no trained metadata-only model"),
    ],
)
def test_bad_options_of_a_fusion_run_are_named(
    trained: Path, metadata_only: Path, phantom_dataset: Path, tmp_path: Path, options: list[str], named: str
) -> None:
    out = tmp_path / "out"
    parts = ["--backbone_weights", str(trained), "--metadata_weights", str(metadata_only), "--image_size", "32"]
    command = [*TINY, "--dataset", str(phantom_dataset), "--output_dir", str(out), *parts, *options]
    with pytest.raises(UserError, match=re.escape(named)):
        run_training(command, "fusion", classifier(FusionForLesionClassification))
    assert not out.exists()
