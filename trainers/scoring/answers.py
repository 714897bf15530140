"""Answers as rows: their columns, the part files of an unfinished run, and the finished ``answers`` in two formats."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets_scripts.sources.tables import TableWriter, spaced

CSV_NAME, PARQUET_NAME = "answers.csv", "answers.parquet"
NUMBERS = ("p_malignant", "predictive_entropy", "aleatoric", "epistemic")
# Rows that are held before they are written to the finished Parquet file.
ROWS_AT_ONCE = 8192
NOT_OUR_MODEL = "not_our_model"
# No key of an answer begins with it, so no class name can make a column that an answer has already.
PROBABILITY = "prob_"


def answer_columns(labels: Sequence[str]) -> pa.Schema:
    """The columns of the answers of a model with these classes, in their order."""
    return pa.schema(
        [
            ("image", pa.string()),
            ("predicted", pa.string()),
            *((f"{PROBABILITY}{label}", pa.float64()) for label in labels),
            *((name, pa.float64()) for name in NUMBERS),
            ("band", pa.string()),
            ("prediction_set", pa.list_(pa.string())),
            ("ood_score", pa.float64()),
            ("is_ood", pa.bool_()),
            ("abstain", pa.bool_()),
            ("reason", pa.string()),
            ("message", pa.string()),
            ("decision", pa.string()),
            ("malignancy", pa.string()),
            ("error", pa.string()),
        ]
    )


def flat(image: str, answer: dict[str, Any] | None, labels: Sequence[str], error: str | None = None) -> dict[str, Any]:
    """An answer as one row: ``probabilities`` becomes a column per class; without an answer only image and error stand.

    Args:
        image: its path.
        answer: with the keys of ``model.predict``, or None.
        labels: the model's classes.
        error: why there is no answer.
    """
    if answer is None:
        return {"image": image, "error": error}
    shares = {f"{PROBABILITY}{label}": answer["probabilities"][label] for label in labels}
    rest = {name: value for name, value in answer.items() if name != "probabilities"}
    return {"image": image, **shares, **rest, "error": error}


def part_columns(labels: Sequence[str]) -> pa.Schema:
    """The columns of a part file: the answer's, the file's sha256, and raw logits and features where they are kept."""
    kept = [
        ("sha256", pa.string()),
        ("logits", pa.list_(pa.float32())),
        ("features", pa.list_(pa.float16())),
    ]
    return pa.schema([*answer_columns(labels), *(pa.field(*column) for column in kept)])


def part_file(folder: Path, number: int) -> Path:
    """Where a part of an unfinished run stands."""
    return folder / f"part-{number:06d}.parquet"


def write_part(rows: Sequence[dict[str, Any]], labels: Sequence[str], path: Path) -> None:
    """Write a part's rows; the file appears whole or not at all, so that what is there is done."""
    # One name per process: a run that was killed may have left a part of a file behind.
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    pq.write_table(pa.Table.from_pylist(list(rows), part_columns(labels)), partial, compression="zstd")
    os.replace(partial, path)


def read_part(folder: Path, number: int, columns: Sequence[str] | None = None) -> pa.Table:
    """A part's rows; None = with all columns."""
    return pq.read_table(part_file(folder, number), columns=None if columns is None else list(columns))


class Merged:
    """What is counted while parts become the finished files.

    Attributes:
        images: how many rows.
        errors: how many of them without an answer.
        manifest: sha256 of ``<sha256 of the file>  <image>`` lines in order, as ``sha256sum`` prints them.
        counts: predicted, band, reason, is_ood, abstain, malignancy -> value -> how many rows.
    """

    def __init__(self) -> None:
        self.images = 0
        self.errors = 0
        self.counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("predicted", "reason", "band", "is_ood", "abstain", "malignancy")
        }
        self._digest = hashlib.sha256()

    @property
    def manifest(self) -> str:
        """See the class."""
        return f"sha256:{self._digest.hexdigest()}"

    def add(self, rows: Sequence[dict[str, Any]], digests: Sequence[str]) -> None:
        """Count some rows."""
        self.images += len(rows)
        for row, digest in zip(rows, digests, strict=True):
            self._digest.update(f"{digest}  {row['image']}\n".encode())
            if row["error"] is not None:
                self.errors += 1
                continue
            for name, counter in self.counts.items():
                counter[as_text(row[name]) or "none"] += 1


def merge(parts: Path, count: int, labels: Sequence[str], out: Path) -> Merged:
    """Write ``answers.csv`` and ``answers.parquet`` from all parts, a few at a time.

    Args:
        parts: folder of the part files.
        count: how many there are.
        labels: the model's classes.
        out: the folder to write into.
    """
    columns = answer_columns(labels)
    merged = Merged()
    with (
        (out / CSV_NAME).open("w", encoding="utf-8", newline="") as file,
        pq.ParquetWriter(out / PARQUET_NAME, columns, compression="zstd") as whole,
    ):
        writer = TableWriter(file)
        writer.writerow(columns.names)
        for table in _gathered(parts, count, [*columns.names, "sha256"]):
            digests = table["sha256"].to_pylist()
            table = table.select(columns.names)
            whole.write_table(table)
            rows = table.to_pylist()
            writer.writerows([as_text(row[name]) for name in columns.names] for row in rows)
            merged.add(rows, digests)
    return merged


def _gathered(parts: Path, count: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The parts in order, several together."""
    held: list[pa.Table] = []
    for number in range(count):
        held.append(read_part(parts, number, columns))
        if sum(map(len, held)) >= ROWS_AT_ONCE or number == count - 1:
            yield pa.concat_tables(held)
            held = []


def probabilities(parts: Path, count: int, labels: Sequence[str]) -> np.ndarray:
    """Probabilities (K, C) of the images that could be read and that the gate did not turn away."""
    names = [f"{PROBABILITY}{label}" for label in labels]
    found = []
    for number in range(count):
        table = read_part(parts, number, [*names, "error", "is_ood"])
        verdicts = zip(table["error"].to_pylist(), table["is_ood"].to_pylist(), strict=True)
        usable = np.array([error is None and not ood for error, ood in verdicts], dtype=bool)
        found.append(np.stack([table[name].to_numpy() for name in names], axis=1)[usable])
    return np.concatenate(found)


def as_text(value: Any) -> str:
    """A value as the CSV file shows it: nothing for None, every digit of a number, a set's names as :func:`spaced`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return spaced(value) if isinstance(value, list) else str(value)
