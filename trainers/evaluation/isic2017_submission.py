"""Any submission to part 3 of the ISIC 2017 challenge: two tables, their curves, matrices and three AUCs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.output import locked
from datasets_scripts.sources.tables import MetadataError, read_file, read_table
from trainers.evaluation.isic2017 import AUCS, measure
from trainers.evaluation.isic2017_files import draw_decisions, draw_roc, png, two_by_two, write_whole
from trainers.metrics.intervals import bootstrap_weights, can_resample

ID_COLUMNS = ("id", "image_id", "image")
TASK_COLUMNS = (("task_1", "melanoma"), ("task_2", "seborrheic_keratosis"))
NAMES = ("melanoma", "seborrheic keratosis")
TITLES = dict(zip(AUCS, (*(f"{name} against the rest" for name in NAMES), "mean of the two"), strict=True))
SUFFIX = re.compile(r"\.(jpe?g|png|bmp|tiff?)$", re.IGNORECASE)


def read_tasks(path: Path) -> dict[str, tuple[float, float]]:
    """Read a table: image id -> values of task 1 and task 2, each in [0, 1], in the table's order.

    Raises:
        UserError: no such table or column, an id that stands twice, or a value outside [0, 1].
    """
    try:
        columns, rows = read_table(read_file(path), path.name)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a CSV file") from error
    except MetadataError as error:
        raise UserError(str(error)) from error
    lowered = {column.lower(): column for column in columns}
    names = [next((lowered[name] for name in known if name in lowered), None) for known in (ID_COLUMNS, *TASK_COLUMNS)]
    if None in names:
        raise UserError(
            f"{path} has the columns {', '.join(columns) or 'none'}: give Id, task_1, task_2, or image_id, melanoma, "
            "seborrheic_keratosis"
        )
    found: dict[str, tuple[float, float]] = {}
    for row in rows:
        image_id = plain_id(row[str(names[0])])
        if image_id in found:
            raise UserError(f"{path} names image {image_id!r} twice: give one line an image")
        one, two = (_share(row[str(name)], f"{path}, image {image_id!r}, {name}") for name in names[1:])
        found[image_id] = (one, two)
    if not found:
        raise UserError(f"{path} holds no image: give one line an image")
    return found


def plain_id(text: str) -> str:
    """``data/test/melanoma/ISIC_0012258.jpg`` -> ``ISIC_0012258``."""
    return SUFFIX.sub("", text.replace("\\", "/").rpartition("/")[2])


def pair(predictions: Path, truth: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Both tables side by side, in the truth's order.

    Returns:
        Truth (N, 2) bool, scores (N, 2), and the N ids.

    Raises:
        UserError: ids that are in one table only, a truth that is not 0 or 1, or a task with one kind of image.
    """
    predicted, true = read_tasks(predictions), read_tasks(truth)
    for name, other, these, those in ((predictions, truth, predicted, true), (truth, predictions, true, predicted)):
        missing = [image_id for image_id in those if image_id not in these]
        if missing:
            raise UserError(
                f"{name} lacks {len(missing)} of the {len(those)} images of {other}, the first is {missing[0]!r}: give "
                "the same images in both"
            )
    ids = list(true)
    for image_id in ids:
        if true[image_id] not in ((0, 0), (1, 0), (0, 1)):
            raise UserError(
                f"{truth}, image {image_id!r}, says {true[image_id][0]:g} and {true[image_id][1]:g}: the truth is "
                "0 or 1 each, and not 1 for both"
            )
    positive = np.array([true[image_id] for image_id in ids], dtype=bool)
    for task, title in enumerate(NAMES):
        count = int(positive[:, task].sum())
        if count in (0, len(ids)):
            raise UserError(f"{truth} holds {count} {title} among {len(ids)} images: an AUC needs images of both kinds")
    return positive, np.array([predicted[image_id] for image_id in ids]), ids


def score(
    positive: np.ndarray, scores: np.ndarray, ids: list[str], threshold: float, replicates: int
) -> dict[str, Any]:
    """The challenge's numbers of a pair, with intervals that take images for independent."""
    groups, strata = np.array(ids), positive @ np.array([1, 2])
    resamples = bootstrap_weights(groups, strata, replicates) if can_resample(groups, strata) else None
    numbers = measure(positive, scores, groups, resamples, threshold)
    counts = {
        f"task_{task + 1}": two_by_two(positive[:, task], scores[:, task] >= threshold).tolist() for task in (0, 1)
    }
    whole = {"images": len(ids), **numbers, "confusion_at_threshold": counts}
    return json.loads(json.dumps(whole).replace("by lesion", "by image"))


def results(predictions: Path, truth: Path, out: Path, threshold: float, replicates: int) -> dict[str, Any]:
    """Score a pair and write ``roc.png``, ``confusion_matrix.png`` and ``scores.json`` into ``out``.

    Raises:
        UserError: as :func:`pair`.
        UserError: ``out`` cannot be a folder.
    """
    positive, scores, ids = pair(predictions, truth)
    numbers = score(positive, scores, ids, threshold, replicates)
    files = {
        "roc.png": png(draw_roc(positive, scores, numbers, NAMES)),
        "confusion_matrix.png": png(draw_decisions(positive, scores, threshold, NAMES)),
        "scores.json": (json.dumps(numbers, indent=1, allow_nan=False) + "\n").encode(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made a folder ({error.strerror}): choose another --out") from error
    with locked(out):  # the files of one run belong together
        for name, content in files.items():
            write_whole(out / name, content)
    return numbers


def _share(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{where} is {text!r}: give a number from 0 to 1")
    return value
