"""The Parquet files of a dataset folder: their typed columns, which row goes to which file, and the checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

# Small row groups let a viewer or a stream read a few images without the whole file; the Hub's viewer reads none above
# 300 MB. A group ends at the first of these limits.
ROWS_PER_GROUP = 100
BYTES_PER_GROUP = 64 * 1024 * 1024
# The page index lets a reader find single rows; chunks that are cut by content let the Hub store only what changed.
PARQUET = {"write_page_index": True, "use_content_defined_chunking": True}
NOT_PUBLISHED = "none"
MANIFEST = "manifest.json"
_AS_IN_ROW = ("image_id", "lesion_id", "age", "sex", "localization", "dx_type", "source", "license", "attribution")
OPTIONAL = ("diagnosis", "patient_id", "provenance", "skin_tone", "image_type", "malignancy")
# Of a list of ids, which holds no image.
HASHES = ("file_sha256", "pixels_sha256")
OF_A_LIST = ("label", "image_id", "lesion_id", "group_id", "source", "license", "attribution", *HASHES)


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


def list_features(labels: Sequence[str]) -> Features:
    """The typed columns of a list of ids; `label` is null where the licence of the image does not allow to share it."""
    kinds = {"label": ClassLabel(names=list(labels))}
    return Features({name: kinds.get(name, Value("string")) for name in OF_A_LIST})


def may_share_label(license: str) -> bool:
    """Whether a licence, as an archive writes it, allows others to share what is derived from the image."""
    text = license.lower().replace("_", "-").replace(" ", "-")
    return text.startswith(("cc0", "cc-0", "cc-by", "pdm", "public-domain")) and "-nd" not in text


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
    *,
    ids_only: bool = False,
) -> tuple[Features, dict[str, ShardSize]]:
    """Write every row, image embedded, to its file of ``folder``; rows keep their order within a file.

    Args:
        folder: exists.
        rows: N rows.
        scans: N scans of their images.
        groups: N group ids.
        labels: the classes, in the order of their numbers.
        files: N paths relative to ``folder``.
        ids_only: write the columns of :data:`OF_A_LIST`, and no image.

    Returns:
        The columns, and the size of each file.
    """
    (folder / "data").mkdir()
    optional = [key for key in OPTIONAL if any(getattr(row, key) is not None for row in rows)]
    with_mask = any(row.read_mask is not None for row in rows)
    columns = list_features(labels) if ids_only else features(labels, with_mask, optional, types_of_extra(rows))
    members: dict[str, list[int]] = {}
    for number, file in enumerate(files):
        members.setdefault(file, []).append(number)
    sizes: dict[str, ShardSize] = {}
    with tqdm(total=len(rows), desc="writing Parquet", unit="image", mininterval=1.0, disable=None) as progress:

        def records(numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
            for i in numbers:
                yield (_listed if ids_only else _record)(rows[i], scans[i], groups[i], columns)
                progress.update()

        for file in sorted(members):
            sizes[file] = _write_shard(folder / file, columns, records(members[file]))
    return columns, sizes


@dataclass(frozen=True)
class ShardSize:
    """Of a Parquet file: its rows, the bytes of its columns in memory, and those of the file."""

    rows: int
    memory: int
    file: int


def _write_shard(path: Path, columns: Features, records: Iterable[dict[str, Any]]) -> ShardSize:
    """Write the records in row groups of at most :data:`ROWS_PER_GROUP` rows and about :data:`BYTES_PER_GROUP`."""
    rows = memory = held = 0
    batch: list[dict[str, Any]] = []

    def write() -> None:
        nonlocal rows, memory, held
        table = pa.Table.from_pylist(batch, schema=columns.arrow_schema)
        writer.write_table(table, row_group_size=len(batch))
        rows, memory, held = rows + len(batch), memory + table.nbytes, 0
        batch.clear()

    with pq.ParquetWriter(path, columns.arrow_schema, **PARQUET) as writer:
        for record in records:
            batch.append(record)
            held += len((record.get("image") or {}).get("bytes") or b"")
            if len(batch) == ROWS_PER_GROUP or held >= BYTES_PER_GROUP:
                write()
        if batch:
            write()
    return ShardSize(rows, memory, path.stat().st_size)


def _listed(row: Row, scan: Scan, group: str, columns: Features) -> dict[str, Any]:
    shared = columns["label"].str2int(row.label) if may_share_label(row.license) else None
    own = {"label": shared, "group_id": group, "file_sha256": scan.file_sha256, "pixels_sha256": scan.pixels_sha256}
    return {key: own[key] if key in own else getattr(row, key) for key in OF_A_LIST}


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
