"""The predictions file: the seam between a model and everything that evaluates it.

One Parquet file per split, one row per image. Trust, metrics, figures and cards are pure functions of it, so each can
be rebuilt in seconds without a model or an accelerator.

Columns: ``image_id``, ``lesion_id``, ``group_id`` (string), ``label`` (int32), ``logits`` (list<list<float>>, members
M x classes C, raw: before any temperature), optional ``features`` and ``early`` (list<halffloat>, lengths D and E) and
``ood_score`` (double), and the subgroup columns ``age`` (float, null = unknown), ``sex``, ``localization``,
``dx_type``, ``source``, ``diagnosis``, ``provenance``, ``skin_tone``, ``image_type`` (string); ``corruption`` where
images were corrupted; ``view``, ``framed_by`` and ``lesion_seen`` where they were cut or turned.
Label names, split and dataset are JSON in the file's metadata under ``lesion_suite``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.special import logsumexp

from datasets_scripts.command import UserError, what_file_is
from datasets_scripts.output import whole_file

SCHEMA_VERSION = 1
METADATA_KEY = b"lesion_suite"
# The label of an image that is of none of the classes.
NO_LABEL = -1
# The two classes that all models with malignancy groups share.
MALIGNANCY = ("benign", "malignant")
# The groups that p_malignant sums.
MALIGNANT_GROUPS = ("malignant", "premalignant")
# The last three are there only where the dataset has them: few record the skin tone, or have two kinds of images.
ESTIMATED_TONE = "skin_tone_estimate"
RECORDED_COLUMNS = ("skin_tone", "image_type", ESTIMATED_TONE)
TEXT_COLUMNS = ("sex", "localization", "dx_type", "source", "diagnosis", "provenance", *RECORDED_COLUMNS)
# The corruption of the image as ``kind severity``, its view as ``kind setting``, how the lesion was found that the view
# is around, whether it is whole in view, and what was hidden or drawn: no dataset has such columns.
ALTERED_COLUMNS = ("corruption", "view", "framed_by", "lesion_seen", "shortcut")
CORRUPTION, VIEW, FRAMING, SEEN, SHORTCUT = ALTERED_COLUMNS
FRAMED_BY = ("mask", "box", "centre")

# The fields of predictions with a row per image, beside the subgroup columns.
ROWS = ("image_id", "lesion_id", "group_id", "label", "logits", "features", "early", "ood_score")

# What the metadata of a file holds.
ABOUT = ("schema_version", "labels", "label_names", "label_groups", "split", "config_name", "dataset")


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model on one split.

    Attributes:
        image_id: (N,) str.
        lesion_id: (N,) str.
        group_id: (N,) str; rows of one group (one lesion, or its near-duplicates) are never independent.
        label: (N,) int64 in [0, C); ``NO_LABEL`` for an image of none of the classes, in splits named ``ood_...``.
        logits: (N, M, C) float64, raw member logits before temperature.
        labels: the C short class names, in the order of the logits.
        label_names: short name -> long name.
        label_groups: short name -> ``benign`` | ``premalignant`` | ``malignant``.
        split: ``train`` | ``validation`` | ``calibration`` | ``test`` or a name of the caller's.
        config_name: the dataset's config, e.g. ``grouped``.
        dataset: the dataset's name.
        columns: subgroup columns, each (N,): ``age`` in years as float64 with NaN = unknown; the others str.
        features: (N, D) float32 pooled features, or None when they were left out.
        early: (N, E) float32, what an early layer sees, or None when it was left out.
        ood_score: (N,) score of the model's gate, higher = more OOD; None where none was fitted.
    """

    image_id: np.ndarray
    lesion_id: np.ndarray
    group_id: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    labels: list[str]
    label_names: dict[str, str]
    label_groups: dict[str, str]
    split: str
    config_name: str = ""
    dataset: str = ""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    features: np.ndarray | None = None
    early: np.ndarray | None = None
    ood_score: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, c = len(self.image_id), len(self.labels)
        if self.logits.ndim != 3 or self.logits.shape[0] != n or self.logits.shape[2] != c:
            raise UserError(
                f"logits have shape {self.logits.shape}; expected (N={n}, members, C={c}): "
                "give one row per image and one column per class"
            )
        parts = {"lesion_id": self.lesion_id, "group_id": self.group_id, "label": self.label, **self.columns}
        wide = {"features": self.features, "early": self.early, "ood_score": self.ood_score}
        for name, values in (parts | wide).items():
            if values is not None and len(values) != n:
                raise UserError(f"{name} holds {len(values)} values for {n} images: give one per image")
        if not np.isfinite(self.logits).all():
            row = int(np.argwhere(~np.isfinite(self.logits))[0][0])
            raise UserError(
                f"image {self.image_id[row]!r} has a logit that is NaN or infinite: the training diverged; "
                "lower the learning rate or train in fp32"
            )
        least = NO_LABEL if self.split.startswith("ood_") else 0
        if n and (self.label.min() < least or self.label.max() >= c):
            raise UserError(f"labels span {self.label.min()}..{self.label.max()}; expected {least}..{c - 1}")

    def __len__(self) -> int:
        return len(self.image_id)

    def probs(self, temperature: float = 1.0) -> np.ndarray:
        """Mean over members of softmax(logits / temperature): (N, C), rows sum to 1."""
        scaled = self.logits / temperature
        scaled = scaled - scaled.max(axis=2, keepdims=True)
        exp = np.exp(scaled)
        return (exp / exp.sum(axis=2, keepdims=True)).mean(axis=1)

    def p_malignant(self, temperature: float = 1.0) -> np.ndarray:
        """Summed probability of the malignant and premalignant classes: (N,) in [0, 1]."""
        return self.probs(temperature)[:, self.malignant_columns()].sum(axis=1)

    def malignant_columns(self) -> np.ndarray:
        """Column indices of the malignant and premalignant classes."""
        groups = [self.label_groups.get(name) for name in self.labels]
        return np.array([i for i, group in enumerate(groups) if group in MALIGNANT_GROUPS], dtype=int)

    def has_malignancy(self) -> bool:
        """Whether every class has a malignancy group, with at least one benign and one malignant or premalignant."""
        known = all(name in self.label_groups for name in self.labels)
        return known and 0 < len(self.malignant_columns()) < len(self.labels)

    def on_malignancy(self) -> Predictions:
        """The same rows with the two classes of ``MALIGNANCY``: each member's probabilities are summed by group.

        Only for logits that are calibrated: a temperature of the original classes is not one of the two. Features stay,
        and so does the gate's score.

        Returns:
            ``logits`` (N, M, 2), the logs of the summed probabilities; premalignant classes count as malignant.

        Raises:
            UserError: :meth:`has_malignancy` is false.
        """
        if not self.has_malignancy():
            raise UserError(f"the classes {', '.join(self.labels)} are not known as benign and malignant ones")
        malignant = np.isin(np.arange(len(self.labels)), self.malignant_columns())
        log_probs = self.logits - logsumexp(self.logits, axis=2, keepdims=True)
        summed = [logsumexp(log_probs[:, :, columns], axis=2) for columns in (~malignant, malignant)]
        label = np.where(self.label == NO_LABEL, NO_LABEL, malignant[self.label])
        return replace(
            self,
            label=label.astype(np.int64),
            logits=np.stack(summed, axis=2),
            labels=list(MALIGNANCY),
            label_names={"benign": "Benign lesion", "malignant": "Malignant or premalignant lesion"},
            label_groups={name: name for name in MALIGNANCY},
        )

    def select(self, rows: np.ndarray) -> Predictions:
        """The same predictions for a subset of rows (boolean mask or integer indices of shape (K,))."""
        return replace(
            self,
            image_id=self.image_id[rows],
            lesion_id=self.lesion_id[rows],
            group_id=self.group_id[rows],
            label=self.label[rows],
            logits=self.logits[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
            features=None if self.features is None else self.features[rows],
            early=None if self.early is None else self.early[rows],
            ood_score=None if self.ood_score is None else self.ood_score[rows],
        )


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Predictions of one model, one after another; what not all parts have is left out."""

    def both(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values)

    shared = set.intersection(*(set(part.columns) for part in parts))
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in sorted(shared)}
    wide: Any = {name: both(name) for name in ROWS}
    return replace(parts[0], **wide, columns=columns)


def write_predictions(predictions: Predictions, path: Path, *, with_features: bool = True) -> None:
    """Write one split's predictions; the file appears whole or not at all.

    Args:
        predictions: what to write.
        path: the file, usually ``predictions_<split>.parquet``.
        with_features: leave the features out (a release does: they are most of the bytes).
    """
    n, members, classes = predictions.logits.shape
    rows = pa.array(predictions.logits.reshape(-1).astype(np.float32))
    member_list = pa.ListArray.from_arrays(pa.array(np.arange(0, rows.__len__() + 1, classes, dtype=np.int32)), rows)
    logits = pa.ListArray.from_arrays(pa.array(np.arange(0, n * members + 1, members, dtype=np.int32)), member_list)
    arrays: dict[str, pa.Array] = {
        "image_id": pa.array(predictions.image_id.tolist(), pa.string()),
        "lesion_id": pa.array(predictions.lesion_id.tolist(), pa.string()),
        "group_id": pa.array(predictions.group_id.tolist(), pa.string()),
        "label": pa.array(predictions.label.astype(np.int32)),
        "logits": logits,
    }
    for name, values in (("features", predictions.features), ("early", predictions.early)):
        if with_features and values is not None:
            width = values.shape[1]
            flat = pa.array(values.astype(np.float16).reshape(-1))
            arrays[name] = pa.ListArray.from_arrays(pa.array(np.arange(0, n * width + 1, width, dtype=np.int32)), flat)
    if predictions.ood_score is not None:
        arrays["ood_score"] = pa.array(predictions.ood_score.astype(np.float64))
    if "age" in predictions.columns:
        age = predictions.columns["age"].astype(np.float32)
        arrays["age"] = pa.array(age, mask=np.isnan(age))
    for name in (*TEXT_COLUMNS, *ALTERED_COLUMNS):
        if name in predictions.columns:
            arrays[name] = pa.array(predictions.columns[name].tolist(), pa.string())
    about = {
        "schema_version": SCHEMA_VERSION,
        "labels": predictions.labels,
        "label_names": predictions.label_names,
        "label_groups": predictions.label_groups,
        "split": predictions.split,
        "config_name": predictions.config_name,
        "dataset": predictions.dataset,
    }
    table = pa.table(arrays).replace_schema_metadata({METADATA_KEY: json.dumps(about, sort_keys=True).encode()})
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_predictions(path: Path) -> Predictions:
    """Read a predictions file.

    Raises:
        UserError: not a predictions file of this suite, of a newer layout, or with impossible values.
    """
    path = Path(path)
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({what_file_is(path) or error}): give a predictions_<split>.parquet"
        ) from error
    about = _about(path, table.schema.metadata or {})
    missing = [name for name in ("image_id", "group_id", "label", "logits") if name not in table.column_names]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}: give a predictions_<split>.parquet of this suite")
    n, classes = table.num_rows, len(about["labels"])
    flat = _flat(table["logits"], f"{path}: logits", classes)
    for name in ("image_id", "label"):
        if table[name].null_count:
            raise UserError(f"{path} has {table[name].null_count} rows without {name}: predict them again")
    logits = np.asarray(flat, dtype=np.float64).reshape(n, -1, classes) if n else np.zeros((0, 1, classes))
    wide = {
        name: np.asarray(_flat(table[name], f"{path}: {name}"), dtype=np.float32).reshape(n, -1)
        for name in ("features", "early")
        if name in table.column_names
    }
    columns: dict[str, np.ndarray] = {}
    if "age" in table.column_names:
        columns["age"] = np.array([np.nan if v is None else v for v in table["age"].to_pylist()], dtype=np.float64)
    for name in (*TEXT_COLUMNS, *ALTERED_COLUMNS):
        if name in table.column_names:
            columns[name] = np.array([v if v is not None else "unknown" for v in table[name].to_pylist()], dtype=object)
    ids = {name: np.array(table[name].to_pylist(), dtype=object) for name in ("image_id", "group_id")}
    # A row without a group is its own: two unknowns are not the same lesion.
    groups = [own if group is None else group for group, own in zip(ids["group_id"], ids["image_id"], strict=True)]
    ids["group_id"] = np.array(groups, dtype=object)
    lesion = table["lesion_id"].to_pylist() if "lesion_id" in table.column_names else ids["group_id"].tolist()
    return Predictions(
        image_id=ids["image_id"],
        lesion_id=np.array(lesion, dtype=object),
        group_id=ids["group_id"],
        label=np.asarray(table["label"].to_numpy(), dtype=np.int64),
        logits=logits,
        labels=list(about["labels"]),
        label_names=dict(about["label_names"]),
        label_groups=dict(about["label_groups"]),
        split=about["split"],
        config_name=about["config_name"],
        dataset=about["dataset"],
        columns=columns,
        features=wide.get("features"),
        early=wide.get("early"),
        ood_score=np.asarray(table["ood_score"].to_numpy()) if "ood_score" in table.column_names else None,
    )


def _about(path: Path, metadata: dict[bytes, bytes]) -> dict[str, Any]:
    if METADATA_KEY not in metadata:
        raise UserError(f"{path} carries no {METADATA_KEY.decode()!r} metadata: it was not written by this suite")
    try:
        about = dict(json.loads(metadata[METADATA_KEY]))
        lacking = [key for key in ABOUT if key not in about]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its {METADATA_KEY.decode()!r} metadata is no JSON object ({error})") from error
    if lacking:
        raise UserError(f"{path}: its metadata lacks {', '.join(lacking)}: predict again")
    if about["schema_version"] > SCHEMA_VERSION:
        raise UserError(
            f"{path} has layout {about['schema_version']}, "
            f"but {SCHEMA_VERSION} is the newest known here: update lesion-suite"
        )
    return about


def _flat(column: pa.ChunkedArray, where: str, width: int | None = None) -> np.ndarray:
    """All leaf values of a (nested) list column, in row order.

    Raises:
        UserError: rows of different lengths, of another one than ``width``, or without values.
    """
    values = column.combine_chunks()
    while pa.types.is_list(values.type):
        lengths = set(pc.list_value_length(values).to_pylist())
        values = values.flatten()
        if len(lengths) > 1 or (width and not pa.types.is_list(values.type) and lengths - {width}):
            raise UserError(f"{where} are not of one length in all rows: predict them again")
    return values.to_numpy(zero_copy_only=False)
