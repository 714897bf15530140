"""Time to the first step of a training: ``python tests/benchmarks/first_step.py --dataset DIR [OPTION ...]``.

CPU seconds of a process from its start to the end of each stage, as shares of importing torch and transformers' Trainer
alone: each in a process of its own, rounds in turn, the least of them. The cache of decoded images is made in the
first table and found in the second. Further options go to ``trainers/train_mobilenet.py``. No number here is a test.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BASE = "import time, torch; from transformers import Trainer, TrainingArguments; Trainer; print(time.process_time())"
MEASURED = """
import json, os, sys, time
from trainers.training import train
from trainers.training.arguments import LesionArguments
from trainers.training.trainer import LesionTrainer

ends = {"imports": time.process_time()}

def timed(inner, name):
    def outer(*given, **named):
        if name == "first step":
            ends["all that comes before the step"] = time.process_time()
        done = inner(*given, **named)
        ends[name] = time.process_time()
        if name == "first step":
            print("ENDS", json.dumps(ends), flush=True)
            os._exit(0)
        return done
    return outer

train.load_splits = timed(train.load_splits, "dataset")
train.training_images = timed(train.training_images, "cache of images")
task = train.classifier(train.hub_models.MobileNetForLesionClassification)
LesionTrainer.training_step = timed(LesionTrainer.training_step, "first step")
train.run(sys.argv[1:], "mobilenet", task)
"""


def cpu_of_imports() -> float:
    """CPU seconds of importing torch and the Trainer."""
    done = subprocess.run([sys.executable, "-c", BASE], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def stages(words: list[str]) -> dict[str, float]:
    """CPU seconds from the start of a training to the end of each stage, by its name."""
    with tempfile.TemporaryDirectory() as folder:
        more = ["--output_dir", f"{folder}/out", *words]
        done = subprocess.run([sys.executable, "-c", MEASURED, *more], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.split("ENDS ")[1])


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    given, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as kept:
        words = [
            "--dataset",
            str(Path(given.dataset).resolve()),
            "--recipe",
            "mobilenet_cpu",
            "--backbone_weights",
            "none",
            *options,
        ]
        least: dict[str, dict[str, float]] = {}
        imports = cpu_of_imports()
        for number in range(given.rounds):
            imports = min(imports, cpu_of_imports())
            for title, cache in (("made", f"{kept}/{number}"), ("found", f"{kept}/0")):
                found = stages([*words, "--image_cache", cache])
                best = least.setdefault(title, found)
                least[title] = {name: min(best[name], seconds) for name, seconds in found.items()}
    print(f"importing torch and transformers' Trainer: {imports:.1f} s of CPU time = 1")
    for title, ends in least.items():
        print(
            f"\n| cache {title}: until the end of | CPU seconds | / importing torch and the Trainer |\n|---|---:|---:|"
        )
        for name, seconds in ends.items():
            print(f"| {name} | {seconds:.1f} | {seconds / imports:.2f} |")


if __name__ == "__main__":
    main()
