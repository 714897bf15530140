"""Scoring a folder takes the same memory whatever its size: peaks compared as a ratio, each in a process of its own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
from PIL import Image

from hub_models import LesionImageProcessor, ResNetForLesionClassification, ResNetLesionConfig

SMALL, LARGE = 500, 10_000
FILES = 50
# VmHWM is the peak of this program alone; ru_maxrss would keep that of the test worker that started it.
MEASURED = """
import json, sys
from trainers import score
sys.argv[0] = "trainers/score.py"
score.main()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"bytes": int(peak.split()[1]) * 1024}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = ResNetLesionConfig(id2label={0: "mel", 1: "nv"}, backbone="test_resnet", image_size=32)
    ResNetForLesionClassification(config).save_pretrained(folder)
    LesionImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def folder_of(images: int, tmp_path: Path) -> Path:
    """A folder of so many links to a few small images."""
    first = tmp_path / "images"
    if not first.is_dir():
        first.mkdir()
        rng = np.random.default_rng(0)
        for number in range(FILES):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(first / f"{number}.png")
    folder = tmp_path / f"images{images}"
    for number in range(images):
        place = folder / f"{number // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(first / f"{number % FILES}.png", place / f"{number:06d}.png")
    return folder


def peak(model: Path, images: int, tmp_path: Path) -> int:
    """Bytes at the peak of scoring so many images."""
    out = tmp_path / f"out{images}"
    words = ["--model", str(model), "--images", str(folder_of(images, tmp_path)), "--out", str(out), "--no_trust"]
    done = processes.run([sys.executable, "-c", MEASURED, *words, "--batch_size", "64"], timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((out / "summary.json").read_text())["scored"]["images"] == images
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


@pytest.mark.slow
def test_twenty_times_as_many_images_take_no_more_memory(model: Path, tmp_path: Path) -> None:
    small, large = (peak(model, images, tmp_path) for images in (SMALL, LARGE))
    found = f"{large / small:.3f} ({small / 1e6:.0f} MB, {large / 1e6:.0f} MB)"
    print(f"peak memory, {LARGE} images / {SMALL} images: {found}")
    assert large < 1.07 * small  # of some 600 MB: 4 kB of each further image
