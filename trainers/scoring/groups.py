"""Answers per group (the images of one lesion, visit or patient) from the answers to its images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from datasets_scripts.command import UserError
from datasets_scripts.sources.tables import TableWriter, is_gap
from hub_models.answer_lesion import class_in_words
from hub_models.decision_lesion import named_class, p_malignant
from trainers.metrics.intervals import exact_by_lesion
from trainers.metrics.number import measured, undefined
from trainers.scoring.answers import PROBABILITY, answer_columns, as_text, read_part
from trainers.scoring.files import Table, read_listing
from trainers.scoring.labels import LABEL, Classes
from trainers.scoring.scorer import Scorer
from trainers.scoring.workers import Work

NAME = "groups"
SEVERAL_IMAGES, NOTHING_USABLE = "several_images", "no_usable_image"
OF_ONE_IMAGE = ("band", "prediction_set", "ood_score", "is_ood", "abstain", "malignancy", "aleatoric", "epistemic")
METHOD = (
    "the mean of the log-probabilities of the images of a group that could be read and that the gate accepts, "
    "renormalised; band and set hold for one image, so a group of several has none"
)


def check_group_column(column: str, tables: Sequence[Table | None]) -> None:
    """Refuse a column of groups that no table has.

    Raises:
        UserError: names it and the columns that there are.
    """
    known = [name for table in tables if table is not None for name in table.columns]
    if column not in known:
        raise UserError(
            f"--group_column {column!r} is no column of --labels or --metadata (there are: "
            f"{', '.join(dict.fromkeys(known)) or 'none'}): give a table with image and that column"
        )


def pooled(probs: np.ndarray) -> np.ndarray:
    """The renormalised geometric mean of K distributions, (K, C) -> (C,): the logarithmic opinion pool.

    Genest & Zidek 1986, "Combining probability distributions", Statistical Science 1, with equal weights.
    """
    logs = np.log(np.maximum(probs, 1e-300)).mean(axis=0)
    shares = np.exp(logs - logs.max())
    return np.asarray(shares / shares.sum())


def group_answers(work: Work, column: str, labels: Sequence[str], config: Any) -> Iterator[dict[str, Any]]:
    """One answer per group, in the order of their first images; an image without a group is one of its own.

    Args:
        work: a run whose parts are all there.
        column: of ``--labels`` or ``--metadata``.
        labels: the model's classes.
        config: the model's.

    Yields:
        ``group``, ``images``, ``used`` (of these, behind the answer), ``label`` (that of all its images that have one;
        None where they differ), and the columns of an answer. A group of one image has the answer to that image. One of
        several has neither band nor set: ``reason`` says why.
    """
    members: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    names = answer_columns(labels).names
    listed = read_listing(work.listing)
    for part in range(work.count):
        for answer, one in zip(read_part(work.parts, part, names).to_pylist(), listed, strict=False):
            row = {**(one.metadata or {}), **(one.labels or {})}
            value = row.get(column, "")
            members[f"image {one.image}" if is_gap(value) else value].append({**answer, "label": row.get(LABEL)})
    for group, answers in members.items():
        stated = {answer["label"] for answer in answers if answer["label"]}
        usable = [answer for answer in answers if answer["error"] is None and not answer["is_ood"]]
        found = {"group": group, "images": len(answers), "used": len(usable)}
        found["label"] = stated.pop() if len(stated) == 1 else None
        if len(answers) == 1:
            yield found | {name: answers[0][name] for name in names if name != "image"}
        else:
            yield found | _of_several(usable, len(answers), labels, config)


def _of_several(usable: Sequence[Mapping[str, Any]], n: int, labels: Sequence[str], config: Any) -> dict[str, Any]:
    """The answer of a group of several images."""
    if not usable:
        message = f"None of its {n} images can be used: each could not be read, or is unlike those of the calibration."
        return {"abstain": True, "reason": NOTHING_USABLE, "message": message}
    probs = pooled(np.array([[answer[f"{PROBABILITY}{label}"] for label in labels] for answer in usable]))
    rule = usable[0]["decision"]
    shares = torch.from_numpy(probs)[None]
    named = int(named_class(shares, rule or "most_probable", getattr(config, "trust", None) or {})[0])
    groups = dict(getattr(config, "label_groups", None) or {})
    at_risk = p_malignant(shares, labels, groups)
    words = class_in_words(labels[named], getattr(config, "label_names", None), groups)
    return {
        "predicted": labels[named],
        **{f"{PROBABILITY}{label}": float(share) for label, share in zip(labels, probs, strict=True)},
        "p_malignant": None if at_risk is None else float(at_risk[0]),
        "predictive_entropy": float(-(probs * np.log(np.maximum(probs, 1e-300))).sum()),
        **dict.fromkeys(OF_ONE_IMAGE),
        "reason": SEVERAL_IMAGES,
        "message": f"{words}, from {len(usable)} of {n} images together, without a tested error rate: bands and sets "
        "were calibrated on one image of each lesion.",
        "decision": rule,
    }


def write_groups(work: Work, column: str, scorer: Scorer, truth: Classes, out: Path) -> dict[str, Any]:
    """Write ``groups.csv`` and ``groups.parquet``; returns the section ``groups`` of the summary.

    Args:
        work, column: as in :func:`group_answers`.
        scorer: the model that answered.
        truth: the classes that labels name.
        out: the folder to write into.
    """
    labels = scorer.labels
    rows = list(group_answers(work, column, labels, scorer.model.config))
    whole = answer_columns(labels)
    front = [("group", pa.string()), ("images", pa.int64()), ("used", pa.int64()), ("label", pa.string())]
    schema = pa.schema([*front, *(field for field in whole if field.name != "image")])
    pq.write_table(pa.Table.from_pylist(rows, schema), out / f"{NAME}.parquet", compression="zstd")
    with (out / f"{NAME}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = TableWriter(file)
        writer.writerow(schema.names)
        writer.writerows([as_text(row.get(name)) for name in schema.names] for row in rows)
    several = [row for row in rows if row["images"] > 1]
    found: dict[str, Any] = {
        "column": column,
        "groups": len(rows),
        "of_several_images": len(several),
        "largest": max(row["images"] for row in rows),
        "without_usable_image": sum(row.get("predicted") is None for row in rows),
        "method": METHOD,
    }
    evaluated = [row for row in rows if row["label"] and row.get("predicted") is not None]
    if any(row["label"] for row in rows) and not truth.on_malignancy:
        found["accuracy"] = _accuracy(evaluated, truth)
    return found


def _accuracy(rows: Sequence[Mapping[str, Any]], truth: Classes) -> dict[str, Any]:
    """The share of groups with one label whose class is named, with its exact interval."""
    if not rows:
        return undefined("no group with a label has an answer")
    right = np.array([truth.index(row["label"]) == truth.labels.index(row["predicted"]) for row in rows])
    low, high = exact_by_lesion(right, np.arange(len(right)))
    return {**measured(float(right.mean()), low, high, "exact 95 % by group"), "n": len(right)}
