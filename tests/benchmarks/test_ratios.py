"""Speed and size as ratios within one run, since machines are noisy: no test here knows a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datasets_scripts.build_phantom import main as build_phantom
from hub_models import LesionImageProcessor, MobileNetForLesionClassification, MobileNetLesionConfig
from trainers.evaluation.report import evaluate
from trainers.metrics.predictions import Predictions
from trainers.model_folder.data import load_splits
from trainers.training.batches import AugmentedImages, to_pixel_values

SIZE = 144


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "phantoms"
    build_phantom(["--task", "dermx", "--images", "96", "--seed", "5", "--size", "200x150", "--out", str(out)])
    return out


def seconds(work: Callable[[int], object], times: int) -> float:
    """CPU seconds of this process for one call, the least of three rounds."""
    rounds = []
    for _ in range(3):
        started = time.process_time()
        for number in range(times):
            work(number)
        rounds.append((time.process_time() - started) / times)
    return min(rounds)


def test_feeding_an_image_costs_a_fraction_of_learning_from_it(folder: Path) -> None:
    processor = LesionImageProcessor(size={"height": SIZE, "width": SIZE})
    rows = load_splits(str(folder), "grouped").splits["train"]
    images = AugmentedImages(rows, processor, "crops_colour", "none")
    labels = {i: str(i) for i in range(8)}
    names = {str(i): str(i) for i in range(8)}
    model = MobileNetForLesionClassification(MobileNetLesionConfig(id2label=labels, label_names=names, image_size=SIZE))
    batch, target = torch.randn(8, 3, SIZE, SIZE), torch.arange(8)

    def learn(_: int) -> None:
        model(pixel_values=batch, labels=target).loss.backward()

    keys = [(index % len(images), index) for index in range(16)]
    feed = seconds(lambda _: to_pixel_values(images.__getitems__(keys)), 1) / 16
    step = seconds(learn, 2) / 8
    print(f"feeding / learning, CPU time an image at {SIZE} px: {feed / step:.3f}")
    assert feed < 0.5 * step


def test_images_are_stored_once_whatever_the_number_of_configs(folder: Path) -> None:
    shards = list((folder / "data").glob("*.parquet"))
    tables = [pq.read_table(shard, columns=["image", "mask"]) for shard in shards]
    inside = sum(len(row[name]["bytes"]) for t in tables for row in t.to_pylist() for name in ("image", "mask"))
    on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"bytes on disk / bytes of images: {on_disk / inside:.3f}")
    assert on_disk < 1.25 * inside


def test_half_precision_storage_is_about_half_the_file(tmp_path: Path) -> None:
    names = {"a": "a", "b": "b"}
    config = MobileNetLesionConfig(id2label={0: "a", 1: "b"}, label_names=names)
    model = MobileNetForLesionClassification(config)
    model.save_pretrained(tmp_path / "full")
    model.save_pretrained(tmp_path / "half", weights_dtype="float16")
    full, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half"))
    print(f"fp16 file / fp32 file: {half / full:.3f}")
    assert half < 0.55 * full


def test_a_thousand_resamples_cost_less_than_a_thousand_evaluations() -> None:
    rng = np.random.default_rng(0)
    n, labels = 400, ["nv", "mel", "bkl"]
    rows = Predictions(
        image_id=np.array([f"i{k}" for k in range(n)], dtype=object),
        lesion_id=np.array([f"l{k // 2}" for k in range(n)], dtype=object),
        group_id=np.array([f"l{k // 2}" for k in range(n)], dtype=object),
        label=np.repeat(np.arange(n // 2) % 3, 2),
        logits=rng.normal(size=(n, 1, 3)),
        labels=labels,
        label_names={name: name for name in labels},
        label_groups={"nv": "benign", "mel": "malignant", "bkl": "benign"},
        split="test",
    )
    few = seconds(lambda _: evaluate(rows, replicates=10), 1)
    many = seconds(lambda _: evaluate(rows, replicates=1000), 1)
    print(f"1,000 resamples / 10 resamples: {many / few:.1f}")
    assert many < 50 * few
