"""A killed training goes on to the same weights, with the recipes' own workers, persistent workers and dropout."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import set_seed

from hub_models import MobileNetForLesionClassification
from trainers.arguments import parse
from trainers.autoencoding.options import AutoencoderArguments
from trainers.autoencoding.runner import build_model as build_autoencoder
from trainers.autoencoding.runner import build_trainer as build_autoencoder_trainer
from trainers.data import load_splits
from trainers.runner import build_model, build_trainer

# What a recipe says of workers and dropout is left as it is.
SMALL = ["--image_size", "32", "--per_device_train_batch_size", "16", "--disable_tqdm", "true", "--precision", "fp32"]
BY_EPOCH = ["--save_total_limit", "9", "--load_best_model_at_end", "false", "--num_train_epochs", "3"]
BY_STEP = [*BY_EPOCH, "--save_strategy", "steps", "--save_steps", "4"]


def classifier(dataset: Path, out: Path, more: list[str]) -> Any:
    words = [
        "--dataset",
        str(dataset),
        "--output_dir",
        str(out),
        "--train_image_size",
        "32",
        "--backbone_weights",
        "none",
    ]
    options, training, _ = parse([*SMALL, *words, "--backbone", "mobilenetv2_035", *more], "mobilenet_cpu")
    assert options.dropout > 0
    assert training.dataloader_num_workers > 0
    assert training.dataloader_persistent_workers
    splits = load_splits(options.dataset, options.config_name)
    set_seed(training.seed)
    model, processor = build_model(options, splits, MobileNetForLesionClassification)
    return build_trainer(model, processor, splits, options, training)


def autoencoder(dataset: Path, out: Path, more: list[str]) -> Any:
    words = ["--dataset", str(dataset), "--output_dir", str(out), "--noise_std", "0.1"]
    options, training, _ = parse([*SMALL, *words, *more], "autoencoder_cpu", AutoencoderArguments)
    training.metric_for_best_model = "psnr"
    assert training.dataloader_num_workers > 0
    assert training.dataloader_persistent_workers
    splits = load_splits(options.dataset, options.config_name)
    set_seed(training.seed)
    model, processor = build_autoencoder(options)
    return build_autoencoder_trainer(model, processor, splits, options, training)


@pytest.mark.parametrize(
    ("make", "options"),
    [(classifier, BY_EPOCH), (classifier, [*BY_STEP, "--gradient_accumulation_steps", "2"]), (autoencoder, BY_STEP)],
)
def test_a_resumed_run_ends_with_the_same_weights(
    make: Any, options: list[str], phantom_dataset: Path, tmp_path: Path
) -> None:
    whole = make(phantom_dataset, tmp_path / "whole", options)
    whole.train()
    expected = {name: value.clone() for name, value in whole.model.state_dict().items()}
    steps = whole.state.max_steps // 3
    checkpoints = sorted((tmp_path / "whole").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    assert len(checkpoints) > 2
    boundary = options is BY_EPOCH
    for checkpoint in checkpoints[:1]:
        assert (int(checkpoint.name[11:]) % steps == 0) == boundary
        # What the process drew before its first step must not matter.
        random.random(), np.random.rand(), torch.rand(3)
        resumed = make(phantom_dataset, tmp_path / f"from-{checkpoint.name}", options)
        resumed.train(resume_from_checkpoint=str(checkpoint))
        assert resumed.state.global_step == whole.state.global_step
        for name, value in resumed.model.state_dict().items():
            assert torch.equal(value, expected[name]), (checkpoint.name, name)
