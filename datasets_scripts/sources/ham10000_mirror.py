"""HAM10000 of a public mirror: Parquet with its columns, in a folder or on the Hub, read by ``datasets``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from huggingface_hub.errors import HTTPError

from datasets_scripts.command import UserError
from datasets_scripts.sources.archive_files import Reader
from datasets_scripts.sources.ham10000_table import COLUMNS, Record, check_columns
from datasets_scripts.sources.tables import MetadataError, is_gap, unread_warnings

_UNREADABLE = (ValueError, OSError, pa.ArrowException, HTTPError, datasets.exceptions.DatasetsError)


def read_hub(repo_id: str) -> tuple[list[Record], dict[str, Reader], list[str]]:
    """Read every row of every split of a Hub dataset; the splits of a mirror share images and are not used.

    Returns:
        The table's rows as text, by image id the function that reads the image's bytes, undecoded, and warnings.

    Raises:
        UserError: there is no such dataset, or it cannot be read.
        MetadataError: a column is missing.
    """
    try:
        splits = datasets.load_dataset(repo_id)
    except _UNREADABLE as error:
        raise UserError(
            f"{repo_id!r} is neither a folder here nor a dataset that can be read from the Hub "
            f"({type(error).__name__}: {error}); check the path, or the id and the network"
        ) from error
    for name in sorted(splits):
        _check_diagnosed(splits[name], f"split {name} of {repo_id}")
    try:
        table = datasets.concatenate_datasets([splits[name] for name in sorted(splits)])
    except _UNREADABLE as error:
        raise UserError(f"the splits of {repo_id!r} have different columns ({error}); take another mirror") from error
    return _take(table, repo_id)


def read_files(files: Sequence[Path], where: str) -> tuple[list[Record], dict[str, Reader], list[str]]:
    """Read every row of some Parquet files; returns and raises as :func:`read_hub`."""
    try:
        table = datasets.load_dataset("parquet", data_files=[str(path) for path in files], split="train")
    except _UNREADABLE as error:
        cause = error.__cause__ or error
        raise UserError(
            f"the Parquet files of {where} cannot be read ({type(cause).__name__}: {cause}); download them again"
        ) from error
    for path in files:
        rows = datasets.load_dataset("parquet", data_files=str(path), split="train") if len(files) > 1 else table
        _check_diagnosed(rows, f"file {path.name} of {where}")
    return _take(table, where)


def _check_diagnosed(table: datasets.Dataset, where: str) -> None:
    """Refuse images without a diagnosis.

    Raises:
        MetadataError: counts them, and names the split or file and the first image.
    """
    if not {"dx", "image_id"} <= set(table.column_names):
        return  # _take says what is missing
    kind = table.features["dx"]
    classes = kind.num_classes if isinstance(kind, datasets.ClassLabel) else None
    values = table["dx"][:]
    without = [
        row
        for row, value in enumerate(values)
        if value is None or (not 0 <= value < classes if classes is not None else is_gap(str(value).strip()))
    ]
    if without:
        raise MetadataError(
            f"{where} has {len(without)} of {len(table)} images without a diagnosis (dx is -1, null or empty), the "
            f"first is {str(table['image_id'][without[0]])!r}; fill them in, or leave them out of the copy"
        )


def _take(table: datasets.Dataset, where: str) -> tuple[list[Record], dict[str, Reader], list[str]]:
    check_columns(table.column_names, where)
    if "image" not in table.column_names:
        raise UserError(f"{where} has no column image (it has: {', '.join(table.column_names)}); take another mirror")
    classes = {name: kind for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)}
    images = table.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    records: list[Record] = []
    readers: dict[str, Reader] = {}
    for number, values in enumerate(table.select_columns(list(COLUMNS))):
        for name, kind in classes.items():
            if values.get(name) is not None:
                # -1 is the usual "no value" of such a column.
                known = 0 <= values[name] < kind.num_classes
                values[name] = kind.int2str(values[name]) if known else None
        record = {column: _text(values[column]) for column in COLUMNS}
        records.append(record)
        readers.setdefault(record["image_id"], partial(_bytes, images, number))
    return records, readers, unread_warnings(table.column_names, (*COLUMNS, "image"), where)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _bytes(images: datasets.Dataset, number: int) -> bytes:
    image = images[number]["image"]
    if image is None:
        return b""
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
