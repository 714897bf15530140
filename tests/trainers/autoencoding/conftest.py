"""A tiny autoencoder, trained by the real command on drawn images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import UNPAINTED
from shared_fixtures import SHORT, Make, run_training

SHAPE = '{"code_size": 8, "encoder_channels": [8, 16, 16]}'
TINY = [
    *("--recipe", "autoencoder_demo", "--image_size", "32", "--model_config", SHAPE),
    *("--bootstrap_replicates", "50", *SHORT),
]


@pytest.fixture(scope="session")
def train_autoencoder(phantom_dataset: Path, repo_root: Path) -> Callable[..., list[str]]:
    """The command line of a tiny training run into ``out``; further options are appended."""

    def command(out: Path, *more: str) -> list[str]:
        script = str(repo_root / "trainers" / "train_autoencoder.py")
        return [sys.executable, script, *TINY, "--dataset", str(phantom_dataset), "--output_dir", str(out), *more]

    return command


@pytest.fixture(scope="session")
def trained_autoencoder(
    train_autoencoder: Callable[..., list[str]], quiet_env: dict[str, str], made_once: Callable[[str, Make], Path]
) -> Path:
    """A finished folder, with its charts, made by the real Trainer: noise taken off, SSIM in its loss, in fp16."""
    more = ("--noise_std", "0.1", "--ssim_weight", "0.01", "--weights_dtype", "float16")
    env = {**quiet_env, UNPAINTED: ""}
    return made_once("autoencoder", lambda out: run_training(train_autoencoder(out, *more), env))
