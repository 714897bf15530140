"""`lesion score` as ratios within one run: ``python tests/benchmarks/score_speed.py --images FOLDER [--model DIR]``.

Three tables: the bare forward pass as a share of scoring (batches in turn, in one process, by CPU time and by wall
time); the peak memory of folders of different sizes (links to the images of FOLDER, repeated); two processes against
one (wall time of the whole command and of scoring alone, so this part needs two idle cores). No number here is a test.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]

from trainers.model_folder.source import Source  # noqa: E402
from trainers.scoring.files import Listed, walk_images, write_listing  # noqa: E402
from trainers.scoring.scorer import AnswerSettings, Scorer  # noqa: E402
from trainers.scoring.workers import Work, part_size, score_parts  # noqa: E402

# The peak of the program alone, and the seconds that it scored: the rest is imports, loading and writing.
MEASURED = """
import json, sys, time
from trainers import score
from trainers.scoring import folder
inner, spent = folder.score_missing, []
def timed(*given, **named):
    started = time.perf_counter()
    done = inner(*given, **named)
    spent.append(time.perf_counter() - started)
    return done
folder.score_missing = timed
score.main()
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"bytes": int(peak.split()[1]) * 1024, "scoring": spent[0]}))
"""


def listed_images(images: Path, number: int) -> list[Listed]:
    """The first images of a folder."""
    return [Listed(name, size, None, None) for name, size in itertools.islice(walk_images(images), number)]


def against_forward(model: str, images: Path, backend: str, parts: int, size: int, place: Path) -> str:
    """A row: the forward pass on the tensors of a part of the images, as a share of scoring the files of the part."""
    scorer = Scorer(Source(model), AnswerSettings(backend=backend))
    listed = listed_images(images, (parts + 1) * part_size(size))
    work = Work(Source(model), scorer.settings, images, place / "listing", place, len(listed), size, part_size(size))
    with work.listing.open("w") as file:
        write_listing(((one.image, one.size) for one in listed), images, file, None, None)
    spent = {"forward": [0.0, 0.0], "score": [0.0, 0.0]}
    for number in range(work.count):
        of_part = listed[number * work.part_size :][: work.part_size]
        batches = [of_part[start : start + size] for start in range(0, len(of_part), size)]
        pixels = [torch.cat([one["pixel_values"] for one in scorer.read(images, batch).inputs]) for batch in batches]

        def forward(pixels: list[torch.Tensor] = pixels) -> None:
            with torch.inference_mode():
                for batch in pixels:
                    scorer.model(pixel_values=batch)

        def score(number: int = number) -> None:
            list(score_parts(scorer, work, [number]))

        for name, measured in (("forward", forward), ("score", score)):
            cpu, wall = time.process_time(), time.perf_counter()
            measured()
            if number:  # the first part warms up
                spent[name][0] += time.process_time() - cpu
                spent[name][1] += time.perf_counter() - wall
    cpu, wall = (forward / score for forward, score in zip(spent["forward"], spent["score"], strict=True))
    return f"| {scorer.title} | {scorer.backend} | {size} | {cpu:.3f} | {wall:.3f} |"


def run_score(model: str, images: Path, folder: Path, *more: str) -> dict[str, float]:
    """Seconds of the whole command and of its scoring, and its peak memory in bytes."""
    words = ["--model", model, "--images", str(images), "--out", str(folder), *more]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return {**json.loads(done.stdout.splitlines()[-1]), "command": time.perf_counter() - started}


def repeated(images: Path, number: int, folder: Path) -> Path:
    """A folder of so many links to the first thousand images."""
    first = listed_images(images, 1000)
    for place in range(number):
        path = folder / f"{place // 1000:03d}" / f"{place:06d}_{Path(first[place % len(first)].image).name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to((images / first[place % len(first)].image).resolve())
    return folder


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--model", default=str(ROOT / "hub_models" / "released" / "derm-x-mobilenetv2-ham7"))
    parser.add_argument("--parts", nargs="+", default=["forward", "memory", "processes"])
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10, help="of 128 images (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000], help="images, for the memory")
    parser.add_argument("--number", type=int, default=2000, help="images, for the processes (default: %(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if not listed_images(given.images, 1):
        sys.exit(f"--images {given.images} has no image")
    if "forward" in given.parts:
        print("| Model | Runtime | Batch | Forward / score, CPU time | the same, wall time |\n|---|---|---:|---:|---:|")
        for backend in ("torch", "folded"):
            with tempfile.TemporaryDirectory() as name:
                row = against_forward(given.model, given.images, backend, given.rounds, given.batch_size, Path(name))
            print(row, flush=True)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        if "memory" in given.parts:
            print("\n| Images | Peak memory | / the first |\n|---:|---:|---:|")
            peaks = []
            for number in given.sizes:
                folder = repeated(given.images, number, place / f"images{number}")
                peaks.append(run_score(given.model, folder, place / f"out{number}")["bytes"])
                print(f"| {number:,} | {peaks[-1] / 1e6:.0f} MB | {peaks[-1] / peaks[0]:.3f} |", flush=True)
        if "processes" in given.parts:
            folder = repeated(given.images, given.number, place / "same")
            one, two = (run_score(given.model, folder, place / f"by{n}", "--processes", f"{n}") for n in (1, 2))
            print("\n| Two processes against one | times as fast |\n|---|---:|")
            print(f"| scoring {given.number:,} images | {one['scoring'] / two['scoring']:.2f} |")
            print(f"| the whole command | {one['command'] / two['command']:.2f} |")


if __name__ == "__main__":
    main()
