"""A user's own images: class folders, a table that names image files, or a dataset that `datasets` loads.

Columns with the names of :data:`STANDARD` are read without being asked for; every other column is left out unless it is
named.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import datasets

from datasets_scripts.command import UserError, did_you_mean
from datasets_scripts.rows import GROUPED_BY, UNKNOWN, Archive, Columns, Row
from datasets_scripts.sources import class_folders, tables
from datasets_scripts.sources.archive_files import ArchiveFiles, Reader
from datasets_scripts.sources.class_folders import PROVENANCE_TABLE, unique_names
from datasets_scripts.sources.columns import check_column, is_saved, load, usual_image
from datasets_scripts.sources.tables import MetadataError, class_name, is_gap
from datasets_scripts.splits import split_named

STANDARD = (
    *("image_id", "lesion_id", "patient_id", "age", "sex", "localization", "dx_type", "diagnosis"),
    *("license", "attribution", "skin_tone", "image_type"),
)
TABLES = (".csv", ".tsv", ".jsonl")
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "file_name"), ("label",)
ADVICE = "fix the table"


@dataclass
class Own:
    """What was read.

    Attributes:
        archive: its rows, warnings, and its own splits (None: it has none).
        labels: the classes in the order of their numbers.
        grouped_by: the columns whose images are never split; empty: each image is a group of its own.
    """

    archive: Archive
    labels: tuple[str, ...]
    grouped_by: tuple[str, ...] = ()


@dataclass
class _Table:
    """Rows of a table: their values by column, the reader of each image, and what it is called.

    ``image_ids`` is unique; ``splits`` has None where no split is named; ``order`` are the classes of a ``ClassLabel``.
    """

    where: str
    columns: list[str]
    image: str
    label: str
    records: list[dict[str, Any]] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    image_ids: list[str] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read(source: str, columns: Columns, name: str, config_name: str = "") -> Own:
    """Read every image with its class.

    Args:
        source: a folder, a zip file of class folders, a table, or a dataset's id on the Hub.
        columns: which column means what.
        name: what the images are called as a source.
        config_name: of a dataset that has several.

    Raises:
        UserError: no image, one class, a class of one image, a missing image, an image without a class, a column that
            is not there, or an image in two rows.
    """
    path = Path(source)
    if path.is_file() and path.suffix.lower() in TABLES:
        table = _text_tables(path.parent, [path], columns)
    elif path.is_file() and path.suffix.lower() == ".parquet":
        table = _loaded(datasets.load_dataset("parquet", data_files=str(path)), source, columns, path.parent)
    elif not path.exists() or is_dataset(path):
        table = _loaded(load(source, config_name), source, columns, path if path.is_dir() else None)
    elif found := _metadata_tables(path, columns):
        table = _text_tables(path, found, columns)
    else:
        return _of_folders(source, columns, name)
    return _own(table, columns, name)


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds what ``datasets`` wrote: Parquet files, or ``save_to_disk``'s."""
    return is_saved(folder) or any(folder.rglob("*.parquet"))


def _of_folders(source: str, columns: Columns, name: str) -> Own:
    asked = [word for word in (columns.image, columns.label, columns.group, *columns.keep) if word]
    if asked:
        raise UserError(f"{source} has no table with a column {asked[0]!r}; give --source the table, or leave it out")
    archive = class_folders.read(source, None)
    for row in archive.rows:
        row.source = name
    return Own(archive, _classes([row.label for row in archive.rows], [], source))


def _metadata_tables(folder: Path, columns: Columns) -> list[Path]:
    """The tables that name the images of a folder: ``metadata.*`` with file names, or the only one there is.

    Raises:
        UserError: a table lies beside the images and nobody says which of its columns are meant; several tables.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in TABLES and path.is_file())
    found = [path for path in found if path.name.lower() != PROVENANCE_TABLE and not path.name.startswith(".")]
    usual = [path for path in found if path.stem.lower() == "metadata" and "file_name" in _columns_of(path)]
    if usual and not columns.image:
        return usual
    if not (columns.image or columns.label):
        beside = [path for path in found if path.parent == folder]
        if beside:
            raise UserError(
                f"{folder} has the table {beside[0].name}: name its columns with --image_column and --label_column (it "
                f"has: {', '.join(_columns_of(beside[0]))}), or give a folder of class folders without a table"
            )
        return []
    if len(found) > 1:
        raise UserError(f"{folder} has {len(found)} tables, such as {found[0].name}; give --source the one to read")
    if not found:
        raise UserError(
            f"{folder} has no table ({', '.join(TABLES)} or .parquet) with a column "
            f"{(columns.image or columns.label)!r}; give --source the table"
        )
    return found


def _columns_of(path: Path) -> list[str]:
    content = tables.read_file(path)
    return _read(path, content)[0] if path.suffix.lower() == ".jsonl" else tables.columns_of(content, path.name)


def _read(path: Path, content: bytes) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns and rows of a text table."""
    if path.suffix.lower() != ".jsonl":
        columns, rows = tables.read_table(content, path.name, advice=ADVICE)
        return [column for column in columns if column], rows
    records = []
    for number, line in enumerate(content.decode("utf-8-sig", errors="replace").splitlines(), 1):
        try:
            record = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            raise MetadataError(f"{path.name}, line {number} is not JSON ({error}): {ADVICE}") from error
        if not isinstance(record, dict):
            raise MetadataError(f"{path.name}, line {number} is no JSON object: give one for each image")
        if record:
            records.append(record)
    return list(dict.fromkeys(key for record in records for key in record)), records


def _text_tables(root: Path, paths: Sequence[Path], columns: Columns) -> _Table:
    """The rows of tables that name image files, relative to the table, or by their names somewhere under ``root``.

    Raises:
        UserError: an image is missing, may be one of several, or is in two rows.
    """
    root = root.resolve()
    parts = [(path, *_read(path, tables.read_file(path))) for path in paths]
    first = paths[0].name
    names = list(dict.fromkeys(name for _, of_table, _ in parts for name in of_table))
    table = _Table(
        first,
        names,
        check_column(names, columns.image, IMAGE_COLUMNS, first, "--image_column"),
        label="" if not columns.label and "label" not in names else columns.label or "label",
    )
    if table.label:
        check_column(names, table.label, (), first, "--label_column")
    files = _Files(root)
    found: list[Path] = []
    missing: list[str] = []
    for path, _, records in parts:
        for record in records:
            text = str(record.get(table.image) or "").strip()
            file = files.find(path.parent, text, first)
            if file is None:
                missing.append(text)
                continue
            found.append(file)
            table.records.append(record)
            if not table.label:
                placed = class_folders.place(PurePosixPath(file.relative_to(root).as_posix()), file.read_bytes, None)
                record["label"] = placed.label
    if missing:
        raise UserError(
            f"{len(missing)} of {len(missing) + len(found)} rows of {first} have no image in {root}, the first is "
            f"{tables.shortly(missing[0])}; add the images, or take their rows out"
        )
    table.label = table.label or "label"
    _check_twice(found, table)
    table.readers = [file.read_bytes for file in found]
    inside = [PurePosixPath(file.relative_to(root).as_posix() if file.is_relative_to(root) else file) for file in found]
    table.image_ids = _given_ids(table.records, unique_names(inside))
    of_files = [class_folders.split_of(path) for path in inside]
    table.splits = _splits(table, columns, of_files if len({path.parent for path in paths}) > 1 else [])
    return table


def _check_twice(files: Sequence[Path], table: _Table) -> None:
    """Refuse an image in two rows.

    Raises:
        UserError: names the image and its labels.
    """
    labels: defaultdict[Path, list[str | None]] = defaultdict(list)
    for file, record in zip(files, table.records, strict=True):
        labels[file].append(class_name(record.get(table.label)))
    twice = {file: of for file, of in labels.items() if len(of) > 1}
    if not twice:
        return
    different = {file: of for file, of in twice.items() if len(set(of)) > 1}
    file, of = next(iter((different or twice).items()))
    what = f"under two labels, {of[0]} and {of[1]}" if different else "in two rows"
    raise UserError(
        f"{len(different or twice)} images of {table.where} are there {what}, the first is {file.name!r}: leave one "
        "row for each image"
    )


class _Files:
    """The image files under a folder, listed where a table's own words do not lead to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, base: Path, text: str, where: str) -> Path | None:
        """The file of this path, name or stem; None where there is none.

        Raises:
            UserError: there are several.
        """
        if not text:
            return None
        if (base / text).is_file():
            return (base / text).resolve()
        if self._by_name is None:
            self._by_name = defaultdict(list)
            files = ArchiveFiles(self.root)
            for path in (self.root / inside for inside, _ in files.image_entries):
                for name in {path.name, path.stem}:
                    self._by_name[name].append(path)
        wanted = PurePosixPath(text.replace("\\", "/"))
        found = [
            path
            for path in self._by_name.get(wanted.name, [])
            if path.is_file() and path.parts[-len(wanted.parts) :][:-1] == wanted.parts[:-1]
        ]
        if len(found) > 1:
            shown = " and ".join(path.relative_to(self.root).as_posix() for path in found[:2])
            raise UserError(f"{where} names the image {text!r}, which may be {shown}: write its path in the table")
        return found[0].resolve() if found else None


def _loaded(splits: Mapping[str, datasets.Dataset], where: str, columns: Columns, folder: Path | None) -> _Table:
    """The rows of a dataset that ``datasets`` loaded.

    Raises:
        UserError: splits of different columns, or a column that is not there.
    """
    first = next(iter(splits.values()))
    names = list(first.column_names)
    table = _Table(
        where,
        names,
        check_column(names, columns.image, IMAGE_COLUMNS, where, "--image_column"),
        check_column(names, columns.label, LABEL_COLUMNS, where, "--label_column"),
    )
    own: list[str | None] = []
    paths: list[str] = []
    for split, rows in splits.items():
        if set(rows.column_names) != set(names):
            raise UserError(f"split {split} of {where} has other columns than the first: give splits of the same ones")
        images = usual_image(rows, table.image, folder, where)
        kinds = {name: kind for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
        if table.label in kinds:
            table.order += [name for name in kinds[table.label].names if name not in table.order]
        for number, record in enumerate(rows.remove_columns(table.image).with_format(None)):
            for name, kind in kinds.items():
                value = record[name]
                record[name] = kind.int2str(value) if value is not None and 0 <= value < kind.num_classes else None
            table.records.append(record)
            table.readers.append(partial(_bytes, images, number))
            own.append(split)
        paths += [
            str(path or "") for path in images.data.column(table.image).combine_chunks().field("path").to_pylist()
        ]
    files = [Path(path).name for path in paths]
    count = Counter(Path(file).stem for file in files)
    names_of = [Path(file).stem if count[Path(file).stem] == 1 else "" for file in files]
    table.image_ids = _given_ids(table.records, [name or f"row-{row:06d}" for row, name in enumerate(names_of)])
    table.splits = _splits(table, columns, own)
    return table


def _bytes(images: datasets.Dataset, number: int) -> bytes:
    image = images[number][images.column_names[0]]
    if image is None:
        return b""
    return image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()


def _given_ids(records: Sequence[Mapping[str, Any]], names: list[str]) -> list[str]:
    """The ``image_id`` of each row, its file's name where it has none."""
    given = [record.get("image_id") for record in records]
    return [name if _gap(value) else str(value) for value, name in zip(given, names, strict=True)]


def _splits(table: _Table, columns: Columns, otherwise: Sequence[str | None]) -> list[str | None]:
    """The split of each row; all None unless one is train.

    Args:
        table: its records; those of other splits than ours are warned of.
        columns: names the column of splits.
        otherwise: split of each row where no column names one.

    Raises:
        UserError: the named column is not there.
    """
    column = columns.split or ("split" if "split" in table.columns else "")
    if column:
        check_column(table.columns, column, (), table.where, "--split_column")
        otherwise = [None if _gap(record.get(column)) else str(record[column]) for record in table.records]
    named = [split_named(word) if word else None for word in otherwise] or [None] * len(table.records)
    if "train" not in named or len(set(named)) == 1:
        return [None] * len(table.records)
    if outside := named.count(None):
        words = sorted({str(word) for word, split in zip(otherwise, named, strict=True) if split is None})
        table.warnings.append(
            f"{outside} images are in no split of config given: theirs ({', '.join(words[:5])}) is none of train, "
            "validation, calibration and test."
        )
    return named


def _own(table: _Table, columns: Columns, name: str) -> Own:
    """Rows of a table's records.

    Raises:
        UserError: an image without a class; as :func:`_classes`.
    """
    if not table.records:
        raise UserError(f"{table.where} has 0 images; give a table that has some")
    for column in (columns.group, *columns.keep):
        if column:
            check_column(table.columns, column, (), table.where, "--group_column or --keep_columns")
    labels = [class_name(record.get(table.label)) for record in table.records]
    if None in labels:
        first = table.image_ids[labels.index(None)]
        raise UserError(
            f"{labels.count(None)} of {len(labels)} images of {table.where} have no label in column {table.label!r}, "
            f"the first is {first!r}: label them, or take them out"
        )
    names = [str(label) for label in labels]
    group = columns.group or ("group_id" if "group_id" in table.columns else "")
    by = tuple(dict.fromkeys(word for word in (group, "patient_id", "lesion_id") if word and word in table.columns))
    taken = {table.image, table.label, *STANDARD, columns.split, "split"}
    extra = dict.fromkeys([*columns.keep, *([group] if group and group != "group_id" else [])])
    kept = [column for column in extra if column not in STANDARD]
    if reserved := [column for column in kept if column in (*_RESERVED, table.image, table.label)]:
        raise UserError(f"column {reserved[0]!r} cannot be kept: the dataset has one of that name; rename it")
    rows = [
        _row(record, image_id, label, read, group, kept, name)
        for record, image_id, label, read in zip(table.records, table.image_ids, names, table.readers, strict=True)
    ]
    warnings = [
        *table.warnings,
        *tables.sex_warnings(_text(record.get("sex")) for record in table.records if "sex" in table.columns),
        *tables.unread_warnings(table.columns, {*taken, *kept, group}, table.where),
    ]
    splits = table.splits if any(table.splits) else None
    return Own(Archive(rows, warnings, splits), _classes(names, table.order, table.where), by)


_RESERVED = ("image", "label", "group_id", "mask", "source", "provenance", "malignancy", GROUPED_BY)


def _row(
    record: Mapping[str, Any], image_id: str, label: str, read: Reader, group: str, kept: Sequence[str], name: str
) -> Row:
    def text(column: str) -> str:
        return UNKNOWN if _gap(record.get(column)) else _text(record[column])

    def given(column: str) -> str | None:
        return None if not column or _gap(record.get(column)) else _text(record[column])

    return Row(
        image_id,
        label,
        read,
        lesion_id=given("lesion_id") or image_id,
        age=tables.age(_text(record.get("age")), image_id),
        sex=tables.sex(_text(record.get("sex"))),
        localization=tables.known(text("localization")),
        dx_type=text("dx_type"),
        source=name,
        license=text("license"),
        attribution=text("attribution"),
        diagnosis=given("diagnosis"),
        patient_id=given("patient_id"),
        skin_tone=given("skin_tone"),
        image_type=given("image_type"),
        group=given(group),
        extra={column: None if _gap(record.get(column)) else record[column] for column in kept},
    )


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _gap(value: Any) -> bool:
    return value is None or is_gap(_text(value))


def _classes(labels: Sequence[str], order: Sequence[str], where: str) -> tuple[str, ...]:
    """The classes: in the order of ``order``, else sorted, numbers by their size.

    Raises:
        UserError: one class alone, or a class of one image.
    """
    count = Counter(labels)
    if len(count) < 2:
        raise UserError(f"{where} has one class, {next(iter(count))!r}: give images of two classes or more")
    single = sorted(name for name, number in count.items() if number == 1)
    if single:
        raise UserError(
            f"{len(single)} classes of {where} have one image each, such as {single[0]!r}: it can be learnt from or "
            "tested with, not both; add images, or take the class out"
        )
    return tuple([name for name in order if name in count] or tables.sorted_classes(count))


def malignancy(labels: Iterable[str], malignant: Sequence[str]) -> dict[str, str]:
    """Class -> ``malignant`` or ``benign``; empty where none is named.

    Raises:
        UserError: a name that is no class, or every class.
    """
    known = list(labels)
    for name in malignant:
        if name not in known:
            raise UserError(
                f"--malignant {name!r} is no class{did_you_mean(name, known)} (the classes: {', '.join(known[:20])})"
            )
    if malignant and not set(known) - set(malignant):
        raise UserError(f"--malignant names every class ({', '.join(known[:20])}): leave the benign ones out")
    return {name: "malignant" if name in malignant else "benign" for name in known} if malignant else {}
