"""Costly folders that several test files read: each is made once in a run, also where the run has several workers.

A test that changes such a folder works on a copy.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import processes
import pytest
from filelock import FileLock
from matplotlib.figure import Figure
from PIL import Image

# Options of every tiny training.
SHORT = [
    *("--num_train_epochs", "2", "--per_device_train_batch_size", "16"),
    *("--dataloader_num_workers", "0", "--disable_tqdm", "true", "--precision", "fp32"),
]
TINY = [
    *("--recipe", "demo", "--backbone", "mobilenetv2_035", "--image_size", "32", "--ema_decay", "0.9"),
    *("--bootstrap_replicates", "50", *SHORT),
]
Make = Callable[[Path], object]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Make], Path]:
    """A factory: ``made_once(name, make)`` is the folder that ``make(folder)`` wrote, in whichever worker was first."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name: str, make: Make) -> Path:
        place = root / "shared" / name
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(place / "lock"):
            if not (place / "done").exists():
                make(place / name)
                (place / "done").touch()
        return place / name

    return folder_of


@pytest.fixture(scope="session")
def phantom_dataset(made_once: Callable[[str, Make], Path]) -> Path:
    """160 drawn images, 8 classes, every config."""
    from datasets_scripts.build_phantom import main

    words = ["--task", "dermx", "--images", "160", "--seed", "3", "--size", "48x36"]
    return made_once("phantoms", lambda out: main([*words, "--out", str(out)]))


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


def run_training(command: list[str], env: dict[str, str]) -> None:
    """Run a training command, which must succeed."""
    done = processes.run(command, env=env)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def unpainted() -> Iterator[None]:
    """The charts of this process are built, but written as an image of one pixel: most of their time is the drawing."""
    pixel = io.BytesIO()
    Image.new("RGB", (1, 1)).save(pixel, "PNG")

    def savefig(self: Figure, file: Path, **_: object) -> None:
        Path(file).write_bytes(pixel.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield


@pytest.fixture(scope="session")
def trained(
    train_command: Callable[..., list[str]], quiet_env: dict[str, str], made_once: Callable[[str, Make], Path]
) -> Path:
    """A finished model folder made by the real Trainer."""
    return made_once("model", lambda out: run_training(train_command(out), quiet_env))
