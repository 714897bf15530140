"""The explanations file: the seam between a model's heat maps and everything that evaluates them.

One Parquet file per split, one row per image: ``image_id``, ``group_id`` (string), ``label``, ``predicted`` (int32; the
predicted class is the one that is explained), ``abstain`` (bool, null where no trust was fitted), ``mask`` (string, one
of ``MASKS``), the columns of ``NUMBERS`` (double, null where not measured) and of ``CURVES`` (list<double>, K + 1
values from 0 % to 100 % of the pixels, null where not measured). Settings and label names stand as JSON in the file's
metadata under ``lesion_suite_explanations``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets_scripts.command import UserError
from datasets_scripts.output import whole_file

SCHEMA_VERSION = 1
METADATA_KEY = b"lesion_suite_explanations"
# there: as the model sees the image, some of it is lesion. empty: nothing of it is. none: no mask was to be had.
MASKS = ("there", "empty", "none")
# What a heat map is compared with: noise, a blob in the middle, the heat map of another lesion's image.
BASELINES = ("random", "blob", "other")
# How much of a model was given random weights: the layers behind the backbone, then the backbone from its end.
STAGES = ("head", "third", "two_thirds", "all")
NUMBERS = (
    "area",  # share of the lesion in what the model sees
    "spread",  # share of the image that the heat map takes up; NaN: the map is 0 everywhere
    "energy",
    *(f"energy_{name}" for name in BASELINES),
    "pointing",
    *(f"pointing_{name}" for name in BASELINES),
    "likeness_other",  # rank correlation with the heat map of another lesion's image
    "members",  # mean rank correlation between the maps of two members
    "repeat_difference",  # largest difference when explained a second time
    *(f"likeness_{name}" for name in STAGES),  # rank correlation with the map of the partly random model
)
ORDERS = ("heat_map", "random", "blob")
CURVES = tuple(f"{game}_{order}" for game in ("deletion", "insertion") for order in ORDERS)


@dataclass(frozen=True)
class ExplanationTable:
    """What was measured of N images; C classes.

    Attributes:
        image_id: (N,) str.
        group_id: (N,) str; images of one group are never independent.
        label: (N,) int64 in [0, C).
        predicted: (N,) int64 in [0, C), the class that the heat maps explain.
        abstain: (N,) bool, the model declines to answer; None where no trust was fitted.
        mask: (N,) str, of ``MASKS``.
        numbers: name of ``NUMBERS`` -> (N,) float64, NaN = not measured, or no such number.
        curves: name of ``CURVES`` -> (N, K + 1) float64, rows of NaN = not measured.
        labels: the C short class names.
        about: ``split``, ``method``, and whatever else a reader has to know: JSON-ready.
    """

    image_id: np.ndarray
    group_id: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    abstain: np.ndarray | None
    mask: np.ndarray
    numbers: dict[str, np.ndarray]
    curves: dict[str, np.ndarray]
    labels: list[str]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.image_id)


def explanations_file(folder: Path, split: str) -> Path:
    """Where the explanations of a split are stored."""
    return folder / f"explanations_{split}.parquet"


def write_table(table: ExplanationTable, path: Path) -> None:
    """Write the file; it appears whole or not at all."""
    abstain = [None] * len(table) if table.abstain is None else table.abstain.tolist()
    arrays: dict[str, pa.Array] = {
        "image_id": pa.array(table.image_id.tolist(), pa.string()),
        "group_id": pa.array(table.group_id.tolist(), pa.string()),
        "label": pa.array(table.label, pa.int32()),
        "predicted": pa.array(table.predicted, pa.int32()),
        "abstain": pa.array(abstain, pa.bool_()),
        "mask": pa.array(table.mask.tolist(), pa.string()),
        **{name: pa.array(table.numbers[name], mask=np.isnan(table.numbers[name])) for name in NUMBERS},
    }
    for name in CURVES:
        rows = [None if np.isnan(row).any() else row.tolist() for row in table.curves[name]]
        arrays[name] = pa.array(rows, pa.list_(pa.float64()))
    about = {"schema_version": SCHEMA_VERSION, "labels": table.labels, "about": table.about}
    whole = pa.table(arrays).replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()})
    with whole_file(path) as partial:
        pq.write_table(whole, partial, compression="zstd")


def read_table(path: Path) -> ExplanationTable:
    """Read an explanations file.

    Raises:
        UserError: it is missing, not of this suite, or of a newer layout.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read as Parquet ({error}): measure the explanations again") from error
    stored = (table.schema.metadata or {}).get(METADATA_KEY)
    found = json.loads(stored) if stored else {}
    if not 1 <= found.get("schema_version", 0) <= SCHEMA_VERSION:
        raise UserError(
            f"{path} has layout {found.get('schema_version')}, {SCHEMA_VERSION} is known here: measure the "
            "explanations again"
        )
    abstain = table["abstain"].to_pylist()
    return ExplanationTable(
        image_id=np.array(table["image_id"].to_pylist(), dtype=object),
        group_id=np.array(table["group_id"].to_pylist(), dtype=object),
        label=np.asarray(table["label"].to_numpy(), dtype=np.int64),
        predicted=np.asarray(table["predicted"].to_numpy(), dtype=np.int64),
        abstain=None if None in abstain else np.array(abstain, dtype=bool),
        mask=np.array(table["mask"].to_pylist(), dtype=object),
        numbers={name: np.asarray(table[name].to_numpy(), dtype=np.float64) for name in NUMBERS},
        curves={name: _curves(table[name].to_pylist()) for name in CURVES},
        labels=list(found["labels"]),
        about=dict(found["about"]),
    )


def _curves(rows: list[list[float] | None]) -> np.ndarray:
    points = max((len(row) for row in rows if row is not None), default=0)
    found = np.full((len(rows), points), np.nan)
    for place, row in enumerate(rows):
        if row is not None:
            found[place] = row
    return found
