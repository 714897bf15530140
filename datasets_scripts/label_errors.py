"""Likely label errors by confident learning, from held-out or out-of-fold predictions. Pure functions.

Northcutt, Jiang, Chuang: Confident Learning: Estimating Uncertainty in Dataset Labels. JAIR 70 (2021), section 3.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets_scripts.command import UserError

METHOD = (
    "confident learning (Northcutt et al. 2021): of the classes that are at least as probable as they are on average "
    "for the images labelled so, the most probable is suggested; an image counts where that is not its label. The "
    "list is sorted by the margin between label and suggestion. These are images to look at again, not proven errors: "
    "a model errs too."
)


@dataclass(frozen=True)
class Held:
    """Predictions of images that the model was not trained on.

    Attributes:
        image_ids: N ids.
        given: (N,) the label of each, a place in ``labels``.
        probs: (N, C), rows sum to 1: the mean over members of the softmax of the raw logits.
        labels: the C classes.
        gate: (N,) scores of the gate, higher = more out of distribution; None where the files have none.
    """

    image_ids: list[str]
    given: np.ndarray
    probs: np.ndarray
    labels: list[str]
    gate: np.ndarray | None


def read_predictions(files: Sequence[Path]) -> Held:
    """Read prediction files of one model, or of the folds of one cross-validation.

    Raises:
        UserError: a file cannot be read, is of a train split, has other classes, or repeats an image.
    """
    parts = [_read_one(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part.labels != parts[0].labels:
            raise UserError(f"{file} has the classes {', '.join(part.labels)}, {files[0]} {', '.join(parts[0].labels)}")
    ids = [image_id for part in parts for image_id in part.image_ids]
    twice = [image_id for image_id, n in Counter(ids).items() if n > 1]
    if twice:
        raise UserError(f"{len(twice)} images are in two of the predictions, the first is {twice[0]!r}: give each once")
    gates = [part.gate for part in parts if part.gate is not None]
    return Held(
        ids,
        np.concatenate([part.given for part in parts]),
        np.concatenate([part.probs for part in parts]),
        parts[0].labels,
        np.concatenate(gates) if len(gates) == len(parts) else None,
    )


def _read_one(file: Path) -> Held:
    try:
        table = pq.read_table(file)
        about = json.loads((table.schema.metadata or {})[b"lesion_suite"])
        labels, split = list(about["labels"]), about["split"]
        logits = np.array(table["logits"].to_pylist(), dtype=np.float64)
    except (OSError, KeyError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{file} is no predictions file of this suite ({' '.join(str(error).split())[:200]})"
        ) from error
    if split == "train":
        raise UserError(
            f"{file} holds predictions of the train split: a model agrees with the labels that it was fitted on; give "
            "those of held-out splits, or of cross_validate"
        )
    if logits.ndim != 3 or logits.shape[2] != len(labels):
        raise UserError(f"{file} has logits of shape {logits.shape} for {len(labels)} classes: write it again")
    exp = np.exp(logits - logits.max(axis=2, keepdims=True))
    gate = table["ood_score"].to_numpy() if "ood_score" in table.column_names else None
    probs = (exp / exp.sum(axis=2, keepdims=True)).mean(axis=1)
    return Held(table["image_id"].to_pylist(), table["label"].to_numpy(), probs, labels, gate)


def thresholds(given: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Mean probability (C,) of each class over the images labelled so, eq. 2; infinite where there is none."""
    classes = range(probs.shape[1])
    return np.array([probs[given == j, j].mean() if (given == j).any() else np.inf for j in classes])


def suggested(given: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """The most probable of the classes that reach their threshold (N,), eq. 1; the given label where none does."""
    reached = np.where(probs >= thresholds(given, probs), probs, -1.0)
    return np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), given)


def error_share(given: np.ndarray, probs: np.ndarray) -> float:
    """Estimated share of wrong labels: what is off the diagonal of the confident joint, scaled to the counts of the
    given labels (eq. 3)."""
    n_classes, best = probs.shape[1], suggested(given, probs)
    reached = (probs >= thresholds(given, probs)).any(axis=1)
    joint = np.zeros((n_classes, n_classes))
    np.add.at(joint, (given[reached], best[reached]), 1)
    sums = joint.sum(axis=1, keepdims=True)
    counts = np.bincount(given, minlength=n_classes)[:, None]
    scaled = np.where(sums > 0, joint / np.maximum(sums, 1) * counts, np.diag(counts[:, 0]))
    return float(1 - np.trace(scaled) / len(given))


def report(held: Held, rows: Sequence[int]) -> dict[str, Any]:
    """Likely label errors of some rows, the least plausible label first, and their counts by pair of classes.

    Args:
        held: the predictions.
        rows: row numbers, at least one with a label.
    """
    given, probs = held.given[rows], held.probs[rows]
    best = suggested(given, probs)
    wrong = np.flatnonzero(best != given)
    margin = probs[wrong, given[wrong]] - probs[wrong, best[wrong]]
    order = wrong[np.argsort(margin, kind="stable")]
    pairs = Counter((held.labels[given[i]], held.labels[best[i]]) for i in order)
    return {
        "method": METHOD,
        "images": len(given),
        "likely_errors": len(order),
        "share": len(order) / len(given),
        "estimated_error_share": error_share(given, probs),
        "thresholds": dict(zip(held.labels, _finite(thresholds(given, probs)), strict=True)),
        "pairs": [{"label": a, "suggested": b, "images": n} for (a, b), n in pairs.most_common()],
        "listed": [
            {
                "image_id": held.image_ids[rows[i]],
                "label": held.labels[given[i]],
                "suggested": held.labels[best[i]],
                "p_label": round(float(probs[i, given[i]]), 4),
                "p_suggested": round(float(probs[i, best[i]]), 4),
            }
            for i in order
        ],
    }


def _finite(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
