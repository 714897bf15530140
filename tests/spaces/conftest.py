"""What the page's tests share: a tiny model folder, a drawn photo, and the page itself, started as a user starts it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datasets_scripts.phantom import draw
from datasets_scripts.taxonomy import TASKS, long_names, malignancy_groups
from hub_models import LesionImageProcessor, MobileNetForLesionClassification, MobileNetLesionConfig

LABELS = TASKS["dermx"]
START_TIMEOUT_S = 240.0  # importing torch, transformers and gradio on a busy machine


@dataclass
class Page:
    """A running page: where it is, and what it has printed."""

    url: str
    log: Path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random MobileNet of the suite as a Hub folder, with a temperature and clearly unequal probabilities."""
    folder = tmp_path_factory.mktemp("models") / "tiny-derm-x"
    torch.manual_seed(0)
    config = MobileNetLesionConfig(
        id2label=dict(enumerate(LABELS)),
        label_names=long_names(LABELS),
        label_groups=malignancy_groups(LABELS),
        image_size=64,
        backbone="mobilenetv2_050",
        trust={"temperature": {"value": 1.7, "split": "calibration", "n": 10, "method": "test"}},
    )
    model = MobileNetForLesionClassification(config).eval()
    with torch.no_grad():
        model.head.weight.mul_(6)
    model.save_pretrained(folder)
    LesionImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn lesion, not a photograph."""
    path = tmp_path_factory.mktemp("photos") / "phantom.png"
    path.write_bytes(draw("mel", 2).png())
    return path


@pytest.fixture(scope="session")
def expected(model_folder: Path, photo: Path) -> dict[str, Any]:
    """What the model says of the drawn lesion in plain Python."""
    model = MobileNetForLesionClassification.from_pretrained(model_folder).eval()
    processor = LesionImageProcessor.from_pretrained(model_folder)
    with Image.open(photo) as image:
        return model.predict(**processor(images=image, return_tensors="pt"), trust=False)[0]


@pytest.fixture(scope="session")
def start_page(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Start spaces/lesion_demo/app.py from the repository's root as a process of its own; a context manager."""

    @contextlib.contextmanager
    def start(models: str, **environment: str) -> Iterator[Page]:
        folder = tmp_path_factory.mktemp("page")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = {
            "LESION_MODELS": models,
            "GRADIO_SERVER_PORT": str(port),
            "GRADIO_TEMP_DIR": str(folder / "uploads"),
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("GRADIO_SERVER", "SPACE", "SYSTEM", "HF_"))
        }
        page = Page(f"http://127.0.0.1:{port}", folder / "log.txt")
        with page.log.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "spaces/lesion_demo/app.py"],
                cwd=repo_root,
                env={**inherited, **own, **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            _wait(page, process)
            yield page
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    return start


def _wait(page: Page, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(page.url, timeout=10):
            return
        time.sleep(0.3)
    pytest.fail(f"the page did not start; it printed:\n{page.log.read_text(errors='replace')}")
