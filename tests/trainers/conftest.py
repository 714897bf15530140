"""A small drawn dataset in the suite's own format, and a training command on it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets_scripts.build_phantom import main as build_phantom
from trainers.metrics.predictions import Predictions

TINY = [
    "--recipe",
    "demo",
    "--backbone",
    "mobilenetv2_035",
    "--image_size",
    "32",
    "--num_train_epochs",
    "2",
    "--per_device_train_batch_size",
    "16",
    "--bootstrap_replicates",
    "50",
    "--dataloader_num_workers",
    "0",
    "--disable_tqdm",
    "true",
    "--precision",
    "fp32",
    "--ema_decay",
    "0.9",
]


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 drawn images, 8 classes, every config."""
    out = tmp_path_factory.mktemp("data") / "phantoms"
    build_phantom(["--task", "dermx", "--images", "160", "--seed", "3", "--size", "48x36", "--out", str(out)])
    return out


@pytest.fixture(scope="session")
def train_command(phantom_dataset: Path, repo_root: Path) -> Callable[..., list[str]]:
    """The command line of a tiny training run into ``out``; further options are appended."""

    def command(out: Path, *more: str) -> list[str]:
        script = str(repo_root / "trainers" / "train_mobilenet.py")
        return [sys.executable, script, *TINY, "--dataset", str(phantom_dataset), "--output_dir", str(out), *more]

    return command


@pytest.fixture(scope="session")
def quiet_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An offline environment whose caches are this session's own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path_factory.mktemp("hf")), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def trained(
    train_command: Callable[..., list[str]], quiet_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished model folder made by the real Trainer."""
    out = tmp_path_factory.mktemp("trained") / "model"
    done = subprocess.run(train_command(out), env=quiet_env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


PREDICTED_LABELS = ["akiec", "bcc", "df", "mel", "nv", "acne"]
GROUPS = {
    "akiec": "premalignant",
    "bcc": "malignant",
    "mel": "malignant",
    "df": "benign",
    "nv": "benign",
    "acne": "benign",
}


def _make(
    lesions: int = 120, *, labels: list[str] | None = None, members: int = 1, seed: int = 0, strength: float = 2.0
) -> Predictions:
    """One to three images a lesion; ``df`` never occurs, so its support is 0."""
    names = PREDICTED_LABELS if labels is None else labels
    rng = np.random.default_rng(seed)
    possible = [index for index, name in enumerate(names) if name != "df"]
    of_lesion = rng.choice(possible, lesions)
    lesion = np.repeat(np.arange(lesions), rng.integers(1, 4, lesions))
    label, n = of_lesion[lesion], len(lesion)
    noise = rng.normal(size=(lesions, 1, len(names)))[lesion] + rng.normal(size=(n, members, len(names)))
    logits = strength * np.eye(len(names))[label][:, None] + noise
    age = rng.uniform(0, 90, n)
    age[rng.random(n) < 0.1] = np.nan
    source = np.array(["DermNet" if names[index] == "acne" else "HAM10000" for index in label], dtype=object)
    ids = np.array([f"L{index}" for index in lesion], dtype=object)
    return Predictions(
        image_id=np.array([f"I{index}" for index in range(n)], dtype=object),
        lesion_id=ids,
        group_id=ids,
        label=label.astype(np.int64),
        logits=logits,
        labels=list(names),
        label_names={name: name.upper() for name in names},
        label_groups={name: GROUPS.get(name, "benign") for name in names},
        split="test",
        config_name="grouped",
        dataset="drawn",
        columns={
            "age": age,
            "sex": rng.choice(np.array(["female", "male", "unknown"], dtype=object), n),
            "source": source,
        },
    )


@pytest.fixture(scope="session")
def make_predictions() -> Callable[..., Predictions]:
    """A factory: ``make_predictions(lesions, labels=, members=, seed=, strength=)``."""
    return _make
