"""Scoring the parts of a listing, in this process or in several.

A part is always cut into the same batches, so whoever scores it, and whenever, runs the model on the same tensors: what
is stored is the same bit for bit on the same number of threads, and to the last digits of float32 otherwise. A run that
was killed left whole parts behind; the next one scores those that are missing.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from datasets_scripts.command import UserError
from trainers.model_folder.source import Source
from trainers.scoring.answers import part_file, write_part
from trainers.scoring.files import Listed, read_parts
from trainers.scoring.scorer import AnswerSettings, Scorer

# Images of a part, rounded to whole batches: what a killed process may have to do again.
PART_IMAGES = 128
# Seconds after which the process that waits looks whether its workers still live.
PATIENCE = 1.0
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Work:
    """What a worker needs to know; small, since it is sent to each.

    Attributes:
        source: the model, at one commit.
        settings: how it answers.
        root: folder of the images.
        listing: the file that lists them.
        parts: folder of the part files.
        images: how many are listed.
        batch_size: images per forward pass.
        part_size: images per part.
    """

    source: Source
    settings: AnswerSettings
    root: Path
    listing: Path
    parts: Path
    images: int
    batch_size: int
    part_size: int

    @property
    def count(self) -> int:
        """How many parts there are."""
        return -(-self.images // self.part_size)

    def missing(self) -> list[int]:
        """Numbers of the parts that are still to be scored."""
        return [number for number in range(self.count) if not part_file(self.parts, number).is_file()]

    def length(self, number: int) -> int:
        """Images of one part."""
        return min(self.part_size, self.images - number * self.part_size)


def part_size(batch_size: int) -> int:
    """Images of a part: whole batches, about ``PART_IMAGES``."""
    return batch_size * max(1, PART_IMAGES // batch_size)


def score_parts(scorer: Scorer, work: Work, numbers: Sequence[int]) -> Iterator[int]:
    """Score parts in order and store each; yields the number of images after every batch.

    A thread reads the next batch while the model runs.

    Raises:
        UserError: a batch does not fit into the GPU's memory.
    """

    def batches() -> Iterator[tuple[int, list[Listed], bool]]:
        for number, listed in read_parts(work.listing, work.part_size, set(numbers)):
            for start in range(0, len(listed), work.batch_size):
                end = start + work.batch_size
                yield number, listed[start:end], end >= len(listed)

    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max_workers=1) as reader:
        for (number, batch, last), read in ahead(reader, lambda item: scorer.read(work.root, item[1]), batches()):
            try:
                rows += scorer.score_read(read)
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"--batch_size {work.batch_size} does not fit into the GPU's memory: give a smaller one"
                ) from error
            yield len(batch)
            if last:
                write_part(rows, scorer.labels, part_file(work.parts, number))
                rows = []


def ahead(pool: Executor, work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Each item and what became of it, in order; the next one is worked on meanwhile."""
    waiting: tuple[T, Future[R]] | None = None
    for item in items:
        started = item, pool.submit(work, item)
        if waiting is not None:
            yield waiting[0], waiting[1].result()
        waiting = started
    if waiting is not None:
        yield waiting[0], waiting[1].result()


def score_in_processes(work: Work, numbers: Sequence[int], processes: int) -> Iterator[int]:
    """Score parts in several processes, part i in process i mod N; yields numbers of images as they are done.

    Raises:
        UserError: a worker was refused something, or killed.
    """
    context = worker_context()
    news: Any = context.Queue()
    shards = [shard for index in range(processes) if (shard := list(numbers[index::processes]))]
    workers = [
        context.Process(target=work_through, args=(work, shard, index, len(shards), news), daemon=True)
        for index, shard in enumerate(shards)
    ]
    for worker in workers:
        worker.start()
    try:
        running = len(workers)
        while running:
            try:
                kind, content = news.get(timeout=PATIENCE)
            except queue.Empty:
                check_alive(workers)
                continue
            if kind == "done":
                yield content
            elif kind == "end":
                running -= 1
            else:
                raise UserError(content)
    finally:
        # A worker that sent "end" has stored everything: nothing need wait for it to unload its libraries.
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def worker_context() -> Any:
    """How workers are started: forked from a process that has imported the libraries once and never used a GPU."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "transformers.modeling_utils", "timm"])
    return context


def check_alive(workers: Sequence[Any]) -> None:
    """Look for workers that ended before they reported it.

    Raises:
        UserError: one was killed.
        RuntimeError: one failed by a fault of ours; its traceback stands on stderr.
    """
    for code in (worker.exitcode for worker in workers):
        if code is not None and code < 0:
            raise UserError(
                f"a worker was killed by {signal.Signals(-code).name}, perhaps for want of memory: the same command "
                "goes on from there; give fewer --processes or a smaller --batch_size if need be"
            )
        if code:
            raise RuntimeError(f"a worker ended with exit code {code}; why stands above")


def work_through(work: Work, shard: list[int], index: int, workers: int, news: Any) -> None:
    """Score the parts of a worker process, report every batch, and end with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it handles an interrupt
    parent = multiprocessing.parent_process()
    try:
        device = None
        if torch.cuda.is_available():
            device = f"cuda:{index % torch.cuda.device_count()}"
        elif "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
        for images in score_parts(Scorer(work.source, work.settings, device), work, shard):
            if parent is not None and not parent.is_alive():
                return
            news.put(("done", images))
        news.put(("end", index))
    except UserError as error:
        news.put(("user", str(error)))
    except MemoryError as error:
        news.put(("user", f"the memory does not suffice ({error}): give fewer --processes or a smaller --batch_size"))
