"""Unlabelled images of another place against the calibration images of a model: streamed, tested, drawn."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers.utils import cached_file

from datasets_scripts.command import UserError, read_json
from datasets_scripts.output import written_whole
from model_cards.manifest import write_text
from trainers.evaluation.decisions import calibrated_probs
from trainers.evaluation.figures.charts import DPI
from trainers.evaluation.figures.shift import draw_shift
from trainers.metrics.predictions import Predictions, read_predictions
from trainers.model_folder.output import check_empty
from trainers.model_folder.provenance import origin
from trainers.model_folder.source import ModelError, Source, fetch
from trainers.scoring.answers import PROBABILITY
from trainers.scoring.external import own
from trainers.scoring.files import Listing, Table, read_listing, walk_images, write_listing
from trainers.scoring.scorer import AnswerSettings, Scorer
from trainers.scoring.workers import ahead
from trainers.trust.halves import halve, one_per_group
from trainers.trust.shift import Answers, find_shift

RESULT, FIGURE = "shift.json", "shift.png"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ShiftJob:
    """What to compare, and where to write it.

    Attributes:
        source: the model.
        images: a folder of images.
        output_dir: the folder to write.
        metadata: ``--metadata``, or None.
        group_column: its column of lesions or patients; "" = each image is one.
        alpha: chance of a false alarm.
        batch_size: images per forward pass.
        seed: of the image drawn for each group, and of the relabelling.
        name: of the images, for the result; "" = the folder's.
    """

    source: Source
    images: Path
    output_dir: Path
    metadata: Path | None = None
    group_column: str = ""
    alpha: float = 0.05
    batch_size: int = 32
    seed: int = 0
    name: str = ""


@dataclass
class Drawn:
    """One image of each group, drawn while they are streamed: what is held does not grow with the images of a group.

    Attributes:
        rows: group -> images seen, gate score, largest probability, its class.
    """

    rows: dict[str, tuple[int, float, float, int]] = field(default_factory=dict)

    def add(self, group: str, gate: float, largest: float, predicted: int, rng: np.random.Generator) -> None:
        """Take the k-th image of a group with a chance of 1 / k, so that each has the same (Vitter 1985)."""
        seen = self.rows[group][0] + 1 if group in self.rows else 1
        if seen == 1 or rng.random() < 1 / seen:
            self.rows[group] = (seen, gate, largest, predicted)
        else:
            self.rows[group] = (seen, *self.rows[group][1:])

    def answers(self) -> Answers:
        """The drawn images."""
        _, gate, largest, predicted = (np.array(column) for column in zip(*self.rows.values(), strict=True))
        return Answers(None if np.isnan(gate).any() else gate, largest, predicted.astype(int))


def check_shift(job: ShiftJob) -> dict[str, Any]:
    """Compare, write ``shift.json`` and ``shift.png`` into ``output_dir``, which appears whole; returns the result.

    Raises:
        UserError: there is no image that can be read; the model has no fitted trust or no stored predictions.
    """
    check_empty(job.output_dir)
    scorer = Scorer(job.source, _settings(fetch(job.source)[0]))
    if not scorer.ours:
        raise ModelError(f"{scorer.title} is not of this suite: no calibration images are known of it")
    scorer.check()
    trust = dict(scorer.model.config.trust or {})
    split = trust["temperature"].get("split", "calibration")
    calibration, about = calibration_answers(
        read_predictions(_stored(job.source, scorer.commit, split)), trust, job.seed
    )
    table = None if job.metadata is None else Table(job.metadata, "--metadata")
    if table is not None and job.group_column and job.group_column not in table.columns:
        raise UserError(f"--group_column {job.group_column!r} is no column of {table.where}: it has {table.columns}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "listing.jsonl"
        with path.open("w", encoding="ascii") as file:
            listing = write_listing(walk_images(job.images, (job.output_dir,)), job.images, file, table, None)
        drawn, errors = _drawn(scorer, job, path, listing)
    if not drawn.rows:
        raise UserError(f"none of the {listing.images} images in --images {job.images.name!r} can be read")
    new = drawn.answers()
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": scorer.title,
        "images": {
            "name": job.name or job.images.resolve().name,
            "listed": listing.images,
            "unreadable": errors,
            "groups": len(new),
            "group_column": job.group_column or None,
        },
        "calibration": about,
        **find_shift(calibration, new, scorer.labels, job.alpha, job.seed),
        "provenance": origin(),
    }
    with written_whole(job.output_dir) as out:
        write_text(out / RESULT, json.dumps(result, indent=1, allow_nan=False) + "\n")
        figure = draw_shift(result, calibration, new, scorer.labels)
        figure.savefig(out / FIGURE, dpi=DPI, metadata={"Software": None})
    return result


def calibration_answers(rows: Predictions, trust: Mapping[str, Any], seed: int) -> tuple[Answers, dict[str, Any]]:
    """The calibration images that neither temperature nor gate was fitted on, an image of each lesion.

    Args:
        rows: of the split that trust was fitted on.
        trust: the model's ``config.trust``.
        seed: of the image drawn.

    Returns:
        Their answers, and what to state of them.
    """
    half, halved = "all", trust["temperature"].get("seed")
    if halved is not None:
        rows, half = rows.select(halve(rows.label, rows.group_id, halved)[1]), "second"
    rows = rows.select(one_per_group(rows.group_id, seed))
    about = {"dataset": rows.dataset, "split": rows.split, "half": half, "lesions": len(rows)}
    return Answers.of(calibrated_probs(rows, trust).numpy(), rows.ood_score), about


def _settings(folder: Path) -> AnswerSettings:
    """The way of answering that trust was fitted for; nothing is kept of a forward pass but the answer."""
    trust = read_json(folder / "config.json", finite=False).get("trust") or {}
    return AnswerSettings(inference=(trust.get("fitted_for") or {}).get("inference", "plain"))


def _stored(source: Source, commit: str | None, split: str) -> Path:
    """The stored predictions of a split, fetched where the model is a repository.

    Raises:
        UserError: there are none.
    """
    name = f"predictions_{split}.parquet"
    try:
        path = cached_file(
            source.location, name, revision=commit or source.revision, _raise_exceptions_for_missing_entries=False
        )
    except (OSError, ValueError):
        path = None
    if path is None:
        raise UserError(
            f"{source.title} holds no {name}, which the images are compared with: give a finished folder or repository"
        )
    return Path(path)


def _drawn(scorer: Scorer, job: ShiftJob, listing_file: Path, listing: Listing) -> tuple[Drawn, int]:
    """One answer of each group, and the number of images that cannot be read."""
    drawn, errors, rng = Drawn(), 0, np.random.default_rng(job.seed)
    names = [f"{PROBABILITY}{label}" for label in scorer.labels]
    batches = _batches(read_listing(listing_file), job.batch_size)
    with (
        tqdm(total=listing.images, desc="score", unit="image", disable=None) as bar,
        ThreadPoolExecutor(max_workers=1) as reader,
    ):
        for batch, read in ahead(reader, partial(scorer.read, job.images), batches):
            for one, row in zip(batch, scorer.score_read(read), strict=True):
                if row["error"] is not None:
                    errors += 1
                    continue
                group = own(one.metadata or {}, job.group_column, one.image)
                probs = [row[name] for name in names]
                score = np.nan if row["ood_score"] is None else row["ood_score"]
                drawn.add(group, score, max(probs), int(np.argmax(probs)), rng)
            bar.update(len(batch))
    return drawn, errors


def _batches(listed: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(islice(listed, size)):
        yield batch
