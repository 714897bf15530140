"""Costly folders that several test files read: each is made once in a run, also where the run has several workers.

A test that changes such a folder works on a copy.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import processes
import pytest
import yaml
from filelock import FileLock
from matplotlib.figure import Figure

from datasets_scripts.command import run as run_command

# Options of every tiny training.
SHORT = [
    *("--num_train_epochs", "2", "--per_device_train_batch_size", "16"),
    *("--dataloader_num_workers", "0", "--disable_tqdm", "true", "--precision", "fp32"),
]
TINY = [
    *("--recipe", "demo", "--backbone", "test_efficientnet", "--image_size", "32", "--ema_decay", "0.9"),
    *("--bootstrap_replicates", "50", *SHORT),
]
Make = Callable[[Path], object]
os.environ[processes.UNPAINTED] = "1"
DRAWN = processes.unpaint()
# libyaml gives the same; datasets reads the card of a dataset each time it loads it (45 ms, so 6 ms).
yaml.safe_load = partial(yaml.load, Loader=yaml.CSafeLoader)


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
def quiet_env() -> dict[str, str]:
    """An offline environment whose caches are this run's own."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", processes.UNPAINTED: "1"}


def run_training(command: list[str], env: dict[str, str]) -> None:
    """Run a training command, which must succeed."""
    done = processes.run(command, env=env)
    assert done.returncode == 0, done.stderr[-3000:]


def stopped_at_checkpoint(trainer: Any, train: Callable[[], object]) -> None:
    """Call ``train`` in this process, and break it off when the first checkpoint of ``trainer``, a class, is complete.

    Raises:
        KeyboardInterrupt: it came that far.
    """
    original = trainer._save_checkpoint

    def save_and_stop(self: Any, *args: Any) -> None:
        original(self, *args)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "_save_checkpoint", save_and_stop)
        train()


def called(main: Callable[[], object], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that is run in this process as its command line runs it."""
    out, error = io.StringIO(), io.StringIO()
    argv = [f"{main.__module__.replace('.', '/')}.py", *map(str, words)]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        patch.setattr(sys, "argv", argv)
        try:
            run_command(main)
            code = 0
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return code, out.getvalue(), error.getvalue()


def call(main: Callable[[], object], *words: object) -> str:
    """The stdout of a command that is run in this process; it must succeed."""
    code, out, error = called(main, *words)
    assert code == 0, error[-3000:]
    return out


def refused(main: Callable[[], object], *words: object) -> str:
    """The one ``error:`` line, beside bars and warnings, of a command that ends with exit code 2."""
    code, _, error = called(main, *words)
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (2, 1), error[-3000:]
    assert "Traceback" not in error
    return lines[0]


@contextlib.contextmanager
def drawn_charts() -> Iterator[None]:
    """The charts of this process, and of those it starts, are drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", DRAWN)
        patch.setenv(processes.UNPAINTED, "")
        yield


@pytest.fixture
def painted() -> Iterator[None]:
    """The charts of a test are drawn; elsewhere they are written as one pixel, which takes a tenth of the time."""
    with drawn_charts():
        yield


@pytest.fixture(scope="session")
def trained(
    train_command: Callable[..., list[str]], quiet_env: dict[str, str], made_once: Callable[[str, Make], Path]
) -> Path:
    """A finished model folder made by the real Trainer, with its charts."""
    env = {**quiet_env, processes.UNPAINTED: ""}
    return made_once("model", lambda out: run_training(train_command(out), env))
