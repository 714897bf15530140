"""Training against its peers, as ratios within one run: transformers' Trainer and timm, same model, batch and size.

    python -m tests.benchmarks.training_speed --images FOLDER [--size 224] [--batch 32] [--steps 4] [--rounds 3]

FOLDER holds JPEGs. The peers are their released packages, called as their example scripts call them:
``run_image_classification.py`` of transformers 5 (``RandomResizedCrop``, ``RandomHorizontalFlip``, ``ToTensor``,
``Normalize`` on a dataset of ``datasets``, ``Trainer`` with its defaults) and ``train.py`` of timm
(``create_dataset``, ``create_loader`` with its defaults, SGD, label smoothing). Measured is CPU time on one thread and
without workers, so that other programs of the machine count little; the least of all rounds, which take turns.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import timm
import torch
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader
from torchvision import transforms
from transformers import AutoModelForImageClassification, TimmWrapperConfig, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from hub_models import LesionImageProcessor, MobileNetForLesionClassification
from trainers.model_folder.data import EpochSampler, Splits, collate
from trainers.training.arguments import parse
from trainers.training.batches import AugmentedImages, to_pixel_values
from trainers.training.train import build_model, build_trainer

CLASSES = ["a", "b"]
BACKBONE = "mobilenetv2_100"
EXAMPLE, TIMM, OURS = "transformers' example", "timm", "ours"


class Clock(TrainerCallback):
    """CPU seconds between the ends of steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append(time.process_time())

    def least(self) -> float:
        """The least time of a step, the first left out."""
        return float(np.diff(self.ends).min())


class Bench:
    """The same images for all three."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.size, self.batch, self.steps, self.folder = options.size, options.batch, options.steps, folder
        self.compile = options.compile
        files = sorted(Path(options.images).rglob("*.jpg"))[: options.number]
        for number, file in enumerate(files):
            place = folder / "classes" / CLASSES[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / file.name)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
        stored = [{"bytes": file.read_bytes(), "path": None} for file in files]
        labels = [number % 2 for number in range(len(files))]
        self.rows = datasets.Dataset.from_dict({"image": stored, "label": labels}, features=features)
        self.undecoded = self.rows.cast_column("image", datasets.Image(decode=False))

    # transformers' example

    def example_rows(self) -> Any:
        """The dataset with the transforms of the example."""
        normalise = transforms.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        steps = [transforms.RandomResizedCrop(self.size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        train = transforms.Compose([*steps, normalise])

        def transform(batch: dict[str, Any]) -> dict[str, Any]:
            batch["pixel_values"] = [train(image.convert("RGB")) for image in batch["image"]]
            return batch

        return self.rows.with_transform(transform)

    @staticmethod
    def example_collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        """As in the example."""
        pixels = torch.stack([item["pixel_values"] for item in items])
        return {"pixel_values": pixels, "labels": torch.tensor([item["label"] for item in items])}

    def example_batches(self) -> Iterator[Any]:
        """Batches of the example."""
        return iter(DataLoader(self.example_rows(), self.batch, shuffle=True, collate_fn=self.example_collate))

    def example_step(self) -> float:
        """CPU seconds of a step of the example."""
        model = AutoModelForImageClassification.from_config(TimmWrapperConfig(architecture=BACKBONE, num_labels=2))
        words: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
        arguments = TrainingArguments(
            str(self.folder / "example"),
            max_steps=self.steps,
            per_device_train_batch_size=self.batch,
            remove_unused_columns=False,
            **words,
        )
        clock = Clock()
        rows = self.example_rows()
        Trainer(model, arguments, train_dataset=rows, data_collator=self.example_collate, callbacks=[clock]).train()
        return clock.least()

    # timm

    def timm_batches(self) -> Iterator[Any]:
        """Batches of timm's train.py."""
        dataset = create_dataset("", root=str(self.folder / "classes"), split="train", is_training=True)
        return iter(
            create_loader(
                dataset,
                input_size=(3, self.size, self.size),
                batch_size=self.batch,
                is_training=True,
                use_prefetcher=False,
                interpolation="random",
                num_workers=0,
                persistent_workers=False,
                device=torch.device("cpu"),
            )
        )

    def timm_step(self) -> float:
        """CPU seconds of a step of timm's train.py."""
        model: Any = timm.create_model(BACKBONE, num_classes=2)
        optimizer = create_optimizer_v2(model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=2e-5)
        loss_of, clock = LabelSmoothingCrossEntropy(0.1), Clock()
        model.train()
        batches = self.timm_batches()
        for _ in range(self.steps):
            images, labels = next(batches)
            loss = loss_of(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clock.on_step_end()
        return clock.least()

    # ours

    def our_batches(self) -> Iterator[Any]:
        """Our batches, ready for the model."""
        processor = LesionImageProcessor(size={"height": self.size, "width": self.size})
        images = AugmentedImages(self.undecoded, processor, "crops_colour", str(self.folder / "cache"))
        sampler = EpochSampler(images.labels, "uniform", 0)
        loader = DataLoader(images, self.batch, sampler=sampler, collate_fn=collate)
        return map(to_pixel_values, loader)

    def our_step(self) -> float:
        """CPU seconds of a step of ours."""
        words = ["--backbone", BACKBONE, "--backbone_weights", "none", "--image_size", str(self.size)]
        words += ["--train_image_size", str(self.size), "--output_dir", str(self.folder / "ours"), "--use_cpu", "true"]
        words += ["--max_steps", str(self.steps), "--per_device_train_batch_size", str(self.batch)]
        words += ["--disable_tqdm", "true"]
        words += ["--dataloader_num_workers", "0", "--image_cache", str(self.folder / "cache")]
        words += ["--torch_compile", "true"] if self.compile else []
        options, training, _ = parse(words, "mobilenet_cpu")
        training.eval_strategy, training.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
        rows = {"train": self.undecoded, "validation": self.undecoded.select(range(2))}
        splits = Splits(rows, CLASSES, "benchmark", "grouped")
        model, processor = build_model(options, splits, MobileNetForLesionClassification)
        trainer = build_trainer(model, processor, splits, options, training)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        return clock.least()


def least(rounds: int, arms: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The least time of each arm; the arms take turns."""
    found = {name: float("inf") for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            found[name] = min(found[name], arm())
    return found


def seconds_of(batches: Callable[[], Iterator[Any]], count: int) -> Callable[[], float]:
    """A function that returns the least CPU seconds of one of ``count`` batches."""

    def measure() -> float:
        found, made = [], batches()
        for _ in range(count):
            started = time.process_time()
            next(made)
            found.append(time.process_time() - started)
        return min(found[1:])

    return measure


def table(title: str, found: dict[str, float], images: int) -> None:
    """Print images per CPU second, and ours over each."""
    for name, seconds in found.items():
        ratio = seconds / found[OURS]
        print(f"| {title} | {name} | {images / seconds:,.0f} | {ratio:.2f} |", flush=True)


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="Folder of JPEGs.")
    parser.add_argument("--number", type=int, default=256, help="Images that are used.")
    parser.add_argument("--size", type=int, default=224, help="Side of the network's input, pixels.")
    parser.add_argument("--batch", type=int, default=32, help="Images a step.")
    parser.add_argument("--steps", type=int, default=4, help="Steps a round; the first is not counted.")
    parser.add_argument("--rounds", type=int, default=3, help="Rounds; the least time counts.")
    parser.add_argument("--compile", action="store_true", help="Ours with torch.compile.")
    parser.add_argument("--input_only", action="store_true", help="Leave the training out.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        print("| measured | who | images per CPU second | ours is so many times as fast |\n|---|---|---:|---:|")
        batches = {EXAMPLE: bench.example_batches, TIMM: bench.timm_batches, OURS: bench.our_batches}
        arms = {name: seconds_of(make, options.steps) for name, make in batches.items()}
        table("input alone", least(options.rounds, arms), bench.batch)
        if not options.input_only:
            steps = {EXAMPLE: bench.example_step, TIMM: bench.timm_step, OURS: bench.our_step}
            table("training", least(options.rounds, steps), bench.batch)


if __name__ == "__main__":
    main()
