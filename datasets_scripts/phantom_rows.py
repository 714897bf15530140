"""Phantoms as rows of a dataset: how many of each class, how many views a lesion, and invented patients."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial

import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.phantom import DRAWN, draw
from datasets_scripts.rows import UNKNOWN, Row
from datasets_scripts.taxonomy import TASKS

SOURCE = "phantom"
LICENSE = "CC0-1.0"
ATTRIBUTION = f"Lesion Suite phantom: {DRAWN[0].lower()}{DRAWN[1:]}"

# Share of a class relative to an even spread: a mild imbalance, far milder than a clinic's.
_WEIGHTS = {"nv": 1.45, "mel": 1.1, "bkl": 1.1, "benign": 1.2, "df": 0.85, "vasc": 0.85, "met": 0.9, "clear": 0.9}
_VIEWS = (1, 2, 3)
_VIEWS_SHARE = (0.30, 0.45, 0.25)  # about two images a lesion

_SUN = ("face", "scalp", "ear", "neck", "hand", "upper extremity")
_ANY = ("back", "trunk", "abdomen", "chest", "lower extremity", "upper extremity", "face", "foot")
_LIMBS = ("lower extremity", "upper extremity", "lower extremity", "trunk")
# class -> mean age in years, its standard deviation, sites
_PATIENTS: dict[str, tuple[float, float, tuple[str, ...]]] = {
    "acne": (20, 6, ("face", "face", "back", "chest")),
    "nv": (43, 15, _ANY),
    "mel": (61, 14, _ANY),
    "bkl": (64, 12, ("face", *_ANY)),
    "sk": (66, 12, ("face", *_ANY)),
    "sl": (66, 10, _SUN),
    "df": (50, 13, _LIMBS),
    "akiec": (67, 11, _SUN),
    "ak": (67, 11, _SUN),
    "bcc": (67, 13, ("face", "neck", *_ANY)),
    "scc": (72, 11, _SUN),
    "vasc": (50, 18, ("trunk", "abdomen", "chest", "back", "upper extremity")),
    "met": (64, 13, _LIMBS),
    "benign": (50, 16, _ANY),
    "malignant": (65, 13, _ANY),
}
_ANYBODY = (48.0, 18.0, _ANY)


_IMAGES_PER_PROCESS = 128  # with fewer images a further process takes longer to start than it saves
_pool: ProcessPoolExecutor | None = None


class PhantomRequestError(UserError):
    """A set of phantoms that cannot be drawn."""


def phantom_rows(task: str, n: int, seed: int, size: tuple[int, int] = (200, 150)) -> list[Row]:
    """`n` drawn images of a task's classes as rows, in mixed order; images are drawn when they are read.

    Args:
        task: one of the taxonomy's tasks.
        n: number of images, at least one a class.
        seed: of everything; the same arguments give the same rows and bytes.
        size: width and height in pixels.

    Raises:
        PhantomRequestError: unknown task, fewer images than classes, a negative seed, or a side below 16 pixels.
    """
    if task not in TASKS:
        raise PhantomRequestError(f"unknown task {task!r}; known tasks: {', '.join(TASKS)}")
    labels = TASKS[task]
    if n < len(labels):
        raise PhantomRequestError(f"{n} images for {len(labels)} classes; ask for at least one a class")
    if seed < 0 or min(size) < 16:
        raise PhantomRequestError(f"seed={seed}, size={size[0]}x{size[1]}: give a seed >= 0 and sides of at least 16")
    rng = np.random.default_rng([seed, len(labels)])
    rows: list[Row] = []
    for label, count in zip(labels, _counts(labels, n), strict=True):
        lesion = 0
        while count > 0:
            views = min(count, int(rng.choice(_VIEWS, p=_VIEWS_SHARE)))
            rows += _lesion(label, seed * 1_000_003 + lesion, views, size, rng)
            count, lesion = count - views, lesion + 1
    rows = [rows[i] for i in rng.permutation(len(rows))]
    for number, row in enumerate(rows):
        row.image_id = f"PH_{number:07d}"
    return rows


def _counts(labels: tuple[str, ...], n: int) -> list[int]:
    """Images a class, adding up to `n`: one each, the rest by weight and largest remainder."""
    weights = np.array([_WEIGHTS.get(label, 1.0) for label in labels])
    exact = (n - len(labels)) * weights / weights.sum()
    counts = np.floor(exact).astype(int)
    for i in np.argsort(-(exact - counts), kind="stable")[: n - len(labels) - int(counts.sum())]:
        counts[i] += 1
    return [int(c) + 1 for c in counts]


def _lesion(label: str, lesion_seed: int, views: int, size: tuple[int, int], rng: np.random.Generator) -> list[Row]:
    """All views of one lesion on one invented patient."""
    mean, deviation, sites = _PATIENTS.get(label, _ANYBODY)
    years = float(np.clip(5 * round(rng.normal(mean, deviation) / 5), 5, 85))
    age = None if rng.random() < 0.03 else years
    sex = str(rng.choice(["female", "male", UNKNOWN], p=[0.47, 0.50, 0.03]))
    site = str(rng.choice(sites))
    localization = UNKNOWN if label == "random" or rng.random() < 0.04 else site
    return [
        Row(
            image_id="",
            label=label,
            read=partial(_image, label, lesion_seed, size, view),
            lesion_id=f"PL_{label}_{lesion_seed:010d}",
            age=age,
            sex=sex,
            localization=localization,
            dx_type="drawn",
            source=SOURCE,
            license=LICENSE,
            attribution=ATTRIBUTION,
            read_mask=partial(_mask, label, lesion_seed, size, view),
        )
        for view in range(views)
    ]


@contextmanager
def drawn_in_processes(images: int, processes: int | None = None) -> Iterator[None]:
    """While the block runs, several threads that read rows have them drawn in as many processes; same bytes.

    Args:
        images: how many will be drawn.
        processes: how many processes; None = one a core, fewer where there are few images. 1 = this process.
    """
    global _pool
    if processes is None:
        processes = min(os.cpu_count() or 1, images // _IMAGES_PER_PROCESS)
    if processes < 2:
        yield
        return
    # Threads may be running when the first image is drawn: a fork would copy their locks.
    context = multiprocessing.get_context("spawn")
    pool = _pool = ProcessPoolExecutor(processes, context, _begin_drawing)
    try:
        yield
    finally:
        _pool = None
        pool.shutdown(cancel_futures=True)


def _begin_drawing() -> None:
    """In each process of the pool: leave Ctrl-C to the process that started it, and end when that one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@lru_cache(maxsize=4096)  # curating reads every row several times; 4,096 of the usual size are about 260 MB
def _files(label: str, lesion_seed: int, size: tuple[int, int], view: int) -> tuple[bytes, bytes]:
    if _pool is not None:
        return _pool.submit(_draw, label, lesion_seed, size, view).result()
    return _draw(label, lesion_seed, size, view)


def _draw(label: str, lesion_seed: int, size: tuple[int, int], view: int) -> tuple[bytes, bytes]:
    phantom = draw(label, lesion_seed, size, view)
    return phantom.png(), phantom.mask_png()


def _image(label: str, lesion_seed: int, size: tuple[int, int], view: int) -> bytes:
    return _files(label, lesion_seed, size, view)[0]


def _mask(label: str, lesion_seed: int, size: tuple[int, int], view: int) -> bytes:
    return _files(label, lesion_seed, size, view)[1]
