"""Fixtures every test may use: where the real data lies, and an environment that never reaches a network."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import pytest

# One thread a process: many small tests run side by side on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Caches of this run's own, the same ones for its workers and the commands that they start.
if "LESION_TEST_CACHES" not in os.environ:
    os.environ["LESION_TEST_CACHES"] = os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="lesion-tests-")
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)

from hub_fixture import hub  # noqa: F401  (for every test; after the variables, which are read at import)
from shared_fixtures import made_once, painted, phantom_dataset, quiet_env, train_command, trained  # noqa: F401

# The files that take longest: they come first, so that no worker is left alone with one of them at the end.
LONG = (
    "trainers/test_two_processes.py",
    "trainers/training/test_train.py",
    "test_released_commands.py",
    "trainers/test_cross_validate.py",
    "trainers/test_measure_explanations.py",
    "trainers/training/test_resume.py",
    "trainers/training/test_ensemble.py",
    "trainers/test_vit.py",
    "trainers/autoencoding/test_training.py",
    "trainers/longitudinal/test_fit_acne_longitudinal.py",
    "spaces/test_page.py",
    "spaces/test_endpoints.py",
    "trainers/test_notebooks.py",
    "datasets_scripts/test_real_ham10000.py",
    "benchmarks/test_score_memory.py",
    "trainers/test_fit_trust.py",
    "test_released.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the long files first; within a file they stay in order."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at the imported libraries and the tests again: there are very many of them."""
    gc.collect()
    gc.freeze()


def absent(what: str) -> None:
    """Skip a test whose outside need is absent; in CI nothing may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and in CI no test may be skipped")
    pytest.skip(what)


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        absent(f"{variable} is not set")
    path = Path(str(value))
    if not path.is_dir():
        pytest.fail(f"{variable}={value} is not a folder")
    return path


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data (`ham10000/`, `dermnet/`, `ood/`)."""
    return _folder("LESION_DATA_DIR")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """The folder of ImageNet-trained backbones."""
    return _folder("LESION_WEIGHTS_DIR")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout the tests run in."""
    return Path(__file__).resolve().parents[1]
