"""Archives as researchers download them, each read as its entry in ``archives.yaml`` says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.duplicates import group_ids
from datasets_scripts.rows import Archive, Row
from datasets_scripts.sources import tables
from datasets_scripts.sources.archive_files import ArchiveFiles, Reader
from datasets_scripts.sources.archive_tables import OWN, ArchiveTables, Entry, Record, entry_of, stem
from datasets_scripts.sources.class_folders import own_splits
from datasets_scripts.sources.isic_archive import LICENSES
from datasets_scripts.sources.tables import MetadataError
from datasets_scripts.taxonomy import UnknownLabelError, in_task

TYPES = ("dermoscopic", "clinical")
_SHOWN = 12  # names in a message


def read(name: str, source: str, task: str | None = None, image_type: str | None = None, some: bool = False) -> Archive:
    """Read the images of an archive that have a class in the task; the others are left out and counted.

    Args:
        name: of the entry.
        source: folder (or zip file) of the download.
        task: one of ``Entry.tasks``; None: the first.
        image_type: ``dermoscopic`` or ``clinical`` images only; None: all.
        some: take the images that are there, and name the missing ones in ``Archive.missing``.

    Returns:
        Rows sorted by image id, with the archive's own splits where it has all three. ``diagnosis`` is the archive's
        own word. An image without a lesion id is its own lesion; images of listed duplicates are one lesion.

    Raises:
        UserError: no table of the entry is there (names the archive that it looks like), or no image is left.
        MetadataError: a table is incomplete, a one-hot row has not one 1, or it names images that are not there.
        UnknownLabelError: names of diagnoses that the entry lacks; lists each once with the nearest known one.
    """
    entry = entry_of(name)
    task = task or entry.tasks()[0]
    if task not in entry.tasks():
        raise UserError(f"{name} has no labels for task {task!r}; it has: {', '.join(entry.tasks())}")
    files = ArchiveFiles(Path(source))
    found = ArchiveTables(entry, files)
    photos = _photos(entry, files)
    labels, left_out = _labels(entry, task, found.records)
    as_filed = {one.lower(): one for one in photos}
    ids, missing = [], []
    rows: list[tuple[Row, str | None]] = []
    for record, split, (label, word) in zip(found.records, found.splits, labels, strict=True):
        for column, kind in entry.images.items():
            given = stem(record.get(column.lower(), ""))
            image_id = as_filed.get(given.lower(), given)
            ids.append(image_id)
            if image_id not in photos:
                missing.append(" ".join(filter(None, (image_id, entry.value(record, "url")))))
            elif label is not None:
                row = _row(entry, record, image_id, photos, label, word, kind)
                if image_type is None or (row.image_type or kind or "").lower().startswith(image_type):
                    rows.append((row, split))
    if missing and not (some or entry.partial):
        advice = f"finish the download ({entry.where}), or give --partial to use the images that are there"
        tables.check_present(ids, photos, source, advice)
    if not rows:
        kind = f"{image_type} " if image_type else ""
        raise UserError(
            f"{source} has no {kind}image of {name} with a class of task {task!r}: {len(missing)} of {len(ids)} "
            "images are missing; give the whole download"
        )
    rows.sort(key=lambda one: one[0].image_id)
    splits, of_splits = own_splits([split for _, split in rows])
    ordered = _as_one_lesion(entry, found, [row for row, _ in rows])
    warnings = [*found.warnings, *left_out, *of_splits, *_unmatched(entry, ids, missing, photos)]
    return Archive(ordered, [*warnings, *files.warnings(found.read)], splits, missing)


def _photos(entry: Entry, files: ArchiveFiles) -> dict[str, Reader]:
    """Image files by stem, those of an HDF5 file too."""
    found = files.images()
    if entry.hdf5 and files.root.is_dir():
        for path in sorted(files.root.rglob(entry.hdf5)):
            found = {**_hdf5_images(path), **found}
    return found


def _unmatched(entry: Entry, ids: Sequence[str], missing: Sequence[str], photos: Collection[str]) -> list[str]:
    """Sentences that count images without a row, and rows without an image."""
    known, ignored = set(ids), re.compile(entry.ignore, re.IGNORECASE)
    extra = sum(name not in known and not ignored.search(name) for name in photos)
    sentences = [f"{extra} images without a row in the tables were left out."] if extra else []
    if missing:
        first = missing[0].split(" ")[0]
        sentences.append(f"{len(missing)} of {len(ids)} images are missing, the first is {first}.")
    return sentences


def _labels(
    entry: Entry, task: str, records: Sequence[Record]
) -> tuple[list[tuple[str | None, str | None]], list[str]]:
    """The class (None: left out) and the archive's own word of each record; sentences about those left out.

    Raises:
        MetadataError: a one-hot row has not one 1.
        UnknownLabelError: names outside the table.
    """
    table = entry.labels.get(task, entry.labels.get(OWN, {}))
    class_of = {str(name).lower(): label for name, label in table["names"].items()}
    if table.get("one_hot"):
        words = [_one_hot(entry, table["names"], record) for record in records]
    else:
        words = [_word(table["columns"], class_of, record) for record in records]
    unknown = Counter(word for word in words if word is not None and word.lower() not in class_of)
    if unknown:
        raise UnknownLabelError(
            f"{len(unknown)} names of diagnoses are not known for {entry.name}: "
            f"{tables.with_nearest(unknown, class_of)}; correct them, or add them to archives.yaml"
        )
    labels: list[tuple[str | None, str | None]] = []
    out: Counter[str] = Counter()
    for word in words:
        label = None if word is None else class_of[word.lower()]
        if label is not None and task not in entry.labels:
            label = in_task(label, task)
        out[word or ""] += label is None
        labels.append((label, word))
    sentences = [f"{out['']} rows without a label were left out."] if out[""] else []
    named = Counter({word: n for word, n in out.items() if word and n})
    if named:
        listed = ", ".join(f"{word} {n}" for word, n in named.most_common(_SHOWN))
        more = ", ..." if len(named) > _SHOWN else ""
        sentences.append(f"{named.total()} rows have no equivalent in task {task} and were left out ({listed}{more}).")
    return labels, sentences


def _one_hot(entry: Entry, names: Collection[str], record: Record) -> str | None:
    """The column that is 1; None where all cells are empty."""
    cells = {name: record.get(name.lower(), "") for name in names}
    if all(tables.is_gap(cell) for cell in cells.values()):
        return None
    ones = [name for name, cell in cells.items() if cell in ("1", "1.0")]
    wrong = [name for name, cell in cells.items() if cell not in ("0", "0.0", "1", "1.0")]
    if wrong or len(ones) != 1:
        row = next(iter(record.values()))
        what = f"{cells[wrong[0]]!r} for {wrong[0]}" if wrong else f"1 for {' and '.join(ones) or 'no class'}"
        raise MetadataError(f"row {row!r} of {entry.name} has {what}; give 1 for one class and 0 for the others")
    return ones[0]


def _word(columns: Sequence[str], known: Collection[str], record: Record) -> str | None:
    """The first cell that is known; else the first that is filled; None where none is."""
    cells = [record.get(column.lower(), "").removesuffix(".0") for column in columns]
    filled = [cell for cell in cells if not tables.is_gap(cell)]
    return next((cell for cell in filled if cell.lower() in known), next(iter(filled), None))


def _row(
    entry: Entry,
    record: Record,
    image_id: str,
    photos: Mapping[str, Reader],
    label: str,
    word: str | None,
    kind: str | None,
) -> Row:
    """One image; ``word`` is the archive's own name of its label, ``kind`` the type by the column that names it."""
    license = tables.known(entry.value(record, "license"))
    named = entry.values.get("diagnosis", {}).get(word, word)
    lesion, patient = entry.value(record, "lesion").removesuffix(".0"), entry.value(record, "patient")
    if lesion and patient and entry.lesion_of_patient:
        lesion = f"{patient}_{lesion}"
    tone = entry.value(record, "skin_tone").removesuffix(".0")
    part, name = record.get(entry.parts.get("column", ""), ""), entry.title.split(":")[0]
    return Row(
        image_id=image_id,
        label=label,
        read=photos[image_id],
        lesion_id=lesion or image_id,
        age=tables.age(entry.value(record, "age"), image_id),
        sex=tables.sex(entry.value(record, "sex")),
        localization=tables.known(entry.value(record, "localization")),
        dx_type=tables.known(entry.value(record, "dx_type")),
        source=next((of for start, of in entry.parts.get("names", {}).items() if part.startswith(start)), name),
        license=entry.license if tables.is_gap(license) else LICENSES.get(license, license),
        attribution=entry.value(record, "attribution") or entry.attribution,
        read_mask=photos.get(entry.mask.format(image=image_id)) if entry.mask else None,
        diagnosis=entry.value(record, "diagnosis") or named,
        patient_id=patient or None,
        skin_tone=f"{entry.skin_tone_scale} {tone}" if tone else None,
        image_type=entry.value(record, "image_type") or (kind if len(entry.images) > 1 else None),
    )


def _as_one_lesion(entry: Entry, found: ArchiveTables, rows: list[Row]) -> list[Row]:
    """The rows; the images of a listed pair of duplicates get one lesion id."""
    table = found.table(entry.duplicates["file"]) if entry.duplicates else None
    if table is None:
        return rows
    first, second = (column.lower() for column in entry.duplicates["columns"])
    tables.check_columns(table[0], (first, second), entry.duplicates["file"])
    place = {row.image_id: number for number, row in enumerate(rows)}
    listed = [(place.get(stem(record[first])), place.get(stem(record[second]))) for record in table[1]]
    pairs = [(i, j) for i, j in listed if i is not None and j is not None]
    for row, lesion in zip(rows, group_ids([row.lesion_id for row in rows], pairs), strict=True):
        row.lesion_id = lesion
    return rows


def _hdf5_images(path: Path) -> dict[str, Reader]:
    """Key -> reader of each image of an HDF5 file that holds encoded images.

    Raises:
        UserError: h5py is not installed, or the file cannot be read.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"{path.name} holds the images; h5py reads it: pip install 'lesion-suite[hdf5]'") from error
    try:
        file = h5py.File(path)
        return {key: partial(_hdf5_image, file, key) for key in file}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); download it again") from error


def _hdf5_image(file: Any, key: str) -> bytes:
    value = file[key][()]
    return value if isinstance(value, bytes) else np.asarray(value).tobytes()
