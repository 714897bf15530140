"""The Parquet files of a dataset folder: their typed columns, which row goes to which file, and the checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, Value
from tqdm import tqdm

from datasets_scripts.command import UserError
from datasets_scripts.images import Scan, normalised
from datasets_scripts.rows import SYNTHETIC, Row

# Small row groups let a viewer or a stream read a few images without the whole file.
ROWS_PER_GROUP = 100
NOT_PUBLISHED = "none"
MANIFEST = "manifest.json"
_AS_IN_ROW = ("image_id", "lesion_id", "age", "sex", "localization", "dx_type", "source", "license", "attribution")
OPTIONAL = ("diagnosis", "patient_id", "provenance", "skin_tone", "image_type", "malignancy")


def features(
    labels: Sequence[str], with_mask: bool, optional: Sequence[str] = (), extra: Mapping[str, Any] | None = None
) -> Features:
    """The typed columns of a dataset folder, with those of :data:`OPTIONAL` it has; `age` in years, null = unknown.

    ``extra``: further columns and their types.
    """
    text = {key: Value("string") for key in ("sex", "localization", "dx_type", "source", "license", "attribution")}
    columns = {
        "image": Image(),
        "label": ClassLabel(names=list(labels)),
        "image_id": Value("string"),
        "lesion_id": Value("string"),
        "group_id": Value("string"),
        "age": Value("float32"),
        **text,
        **{key: Value("string") for key in optional},
        **(extra or {}),
    }
    return Features({**columns, "mask": Image()} if with_mask else columns)


def types_of_extra(rows: Sequence[Row]) -> dict[str, Any]:
    """The type of each further column of some rows: that of its values, text where they are of several kinds."""
    types: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row.extra):
        try:
            kind = pa.array([row.extra.get(name) for row in rows]).type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            kind = pa.string()
        types[name] = Value("string" if pa.types.is_null(kind) else str(kind))
    return types


def cells(rows: Sequence[Row], folds: np.ndarray, published: Sequence[str | None] | None) -> list[str]:
    """The file of each row: one for each cell of published split, base fold and provenance. A config lists files."""
    splits = published if published is not None else [None] * len(folds)
    return [
        f"data/{split or NOT_PUBLISHED}-base{fold:02d}{'-synthetic' if row.provenance == SYNTHETIC else ''}.parquet"
        for row, split, fold in zip(rows, splits, folds, strict=True)
    ]


def folds_of(folder: Path) -> dict[str, int]:
    """Image id -> base fold of a dataset folder that :func:`write_shards` wrote.

    Raises:
        UserError: it holds no such file.
    """
    found: dict[str, int] = {}
    for file in sorted((folder / "data").glob("*-base[0-9][0-9]*.parquet")):
        fold = int(file.stem.split("-base")[1][:2])
        found |= dict.fromkeys(pq.read_table(file, columns=["image_id"])["image_id"].to_pylist(), fold)
    if not found:
        raise UserError(f"{folder} is no dataset folder of a build command; give one whose splits are to be used")
    return found


def write_shards(
    folder: Path,
    rows: Sequence[Row],
    scans: Sequence[Scan],
    groups: Sequence[str],
    labels: Sequence[str],
    files: Sequence[str],
) -> None:
    """Write every row, image embedded, to its file of ``folder``; rows keep their order within a file.

    Args:
        folder: exists.
        rows: N rows.
        scans: N scans of their images.
        groups: N group ids.
        labels: the classes, in the order of their numbers.
        files: N paths relative to ``folder``.
    """
    (folder / "data").mkdir()
    optional = [key for key in OPTIONAL if any(getattr(row, key) is not None for row in rows)]
    extra = types_of_extra(rows)
    columns = features(labels, any(row.read_mask is not None for row in rows), optional, extra)
    members: dict[str, list[int]] = {}
    for number, file in enumerate(files):
        members.setdefault(file, []).append(number)
    with tqdm(total=len(rows), desc="writing Parquet", unit="image", mininterval=1.0, disable=None) as progress:
        for file in sorted(members):
            with pq.ParquetWriter(folder / file, columns.arrow_schema) as writer:
                for start in range(0, len(members[file]), ROWS_PER_GROUP):
                    batch = members[file][start : start + ROWS_PER_GROUP]
                    records = [_record(rows[i], scans[i], groups[i], columns) for i in batch]
                    writer.write_table(pa.Table.from_pylist(records, schema=columns.arrow_schema))
                    progress.update(len(batch))


def _record(row: Row, scan: Scan, group: str, columns: Features) -> dict[str, Any]:
    data = row.read()
    if not scan.verbatim:
        data = normalised(data)
    suffix = "jpg" if data[:2] == b"\xff\xd8" else "png"
    record: dict[str, Any] = {key: getattr(row, key) for key in (*_AS_IN_ROW, *OPTIONAL) if key in columns}
    record["image"] = {"bytes": data, "path": f"{row.image_id}.{suffix}"}
    record["label"] = columns["label"].str2int(row.label)
    record["group_id"] = group
    for name, value in row.extra.items():
        record[name] = str(value) if value is not None and columns[name].dtype == "string" else value
    if "mask" in columns:
        mask = row.read_mask
        record["mask"] = None if mask is None else {"bytes": mask(), "path": f"{row.image_id}_mask.png"}
    return record


def content_version(rows: Sequence[Row], scans: Sequence[Scan], groups: Sequence[str], files: Sequence[str]) -> str:
    """A version ``1.0.N`` whose N is a hash of the content of every row and of its shard.

    `datasets` uses its cache for a folder that was rebuilt in the same place, unless the version differs: training
    would silently use the old split.
    """
    digest = hashlib.sha256()
    for row, scan, group, file in zip(rows, scans, groups, files, strict=True):
        values = (row.image_id, row.label, row.lesion_id, group, row.age, row.sex, row.localization, row.dx_type, file)
        also = [(key, getattr(row, key)) for key in OPTIONAL if getattr(row, key) is not None]
        also += sorted(row.extra.items())
        digest.update(repr((*values, *also, scan.pixels_sha256, row.read_mask is not None)).encode())
    return f"1.0.{int(digest.hexdigest()[:8], 16)}"


def manifest(folder: Path) -> dict[str, Any]:
    """SHA-256 and size in bytes of every file in ``folder`` except the manifest, by relative POSIX path."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name == MANIFEST:
            continue
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files[name] = {"sha256": digest, "size": path.stat().st_size}
    return {"schema_version": 1, "files": files}
