"""The entries of ``archives.yaml``, and the tables of an archive joined to one record for each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from datasets_scripts.command import UserError, did_you_mean
from datasets_scripts.images import IMAGE_SUFFIXES
from datasets_scripts.sources import tables
from datasets_scripts.sources.archive_files import ArchiveFiles
from datasets_scripts.sources.tables import MetadataError
from datasets_scripts.taxonomy import TASKS

ENTRIES = Path(__file__).with_name("archives.yaml")
OWN = "archive"  # the task of an archive's own classes
_GROUPS = ("lesion", "patient")
Record = dict[str, str]  # column in lower case -> cell
_Table = tuple[list[str], list[Record]]


@dataclass(frozen=True)
class Entry:
    """One archive; the fields are described in ``archives.yaml``."""

    name: str
    title: str
    license: str
    attribution: str
    citation: str
    where: str
    tables: Mapping[str, str | None]
    images: Mapping[str, str | None]
    labels: Mapping[str, Mapping[str, Any]]
    traps: Sequence[str]
    source: Sequence[str]
    columns: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    values: Mapping[str, Mapping[Any, Any]] = field(default_factory=dict)
    more: Sequence[Mapping[str, str]] = ()
    split_rows: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    duplicates: Mapping[str, Any] = field(default_factory=dict)
    skin_tone_scale: str = ""
    separator: str = ""
    mask: str = ""
    ignore: str = "$^"
    hdf5: str = ""
    partial: bool = False
    lesion_of_patient: bool = False

    def tasks(self) -> list[str]:
        """The tasks that the archive can be built for, its default first."""
        return [*self.labels, *(task for task in TASKS if OWN in self.labels and task not in self.labels)]

    def classes(self, task: str) -> tuple[str, ...]:
        """The labels of a task in their order: those of the entry's table, else those of the suite's task."""
        if task in TASKS:
            return TASKS[task]
        return tuple(dict.fromkeys(name for name in self.labels[task]["names"].values() if name is not None))

    def value(self, record: Record, what: str) -> str:
        """A value of a record in our words; empty where it is unknown."""
        columns = self.columns.get(what, ())
        words = {str(word).lower(): str(ours) for word, ours in self.values.get(what, {}).items()}
        for column in [columns] if isinstance(columns, str) else columns:
            cell = record.get(column.lower(), "")
            cell = words.get(cell.removesuffix(".0").lower(), cell)
            if not tables.is_gap(cell):
                return cell
        return ""


@cache
def entries() -> dict[str, Entry]:
    """Every archive of ``archives.yaml`` by its name."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {name: Entry(name, **entry) for name, entry in yaml.load(ENTRIES.read_text("utf-8"), loader).items()}


def entry_of(name: str) -> Entry:
    """The entry of an archive.

    Raises:
        UserError: there is none.
    """
    if name not in entries():
        hint = did_you_mean(name, entries()) or f"; known: {', '.join(entries())}"
        raise UserError(f"unknown archive {name!r}{hint}")
    return entries()[name]


def stem(cell: str) -> str:
    """``NEL/Nel026.jpg`` -> ``Nel026``; an id stays as it is."""
    name = cell.replace("\\", "/").rpartition("/")[2]
    return PurePosixPath(name).stem if name.lower().endswith(IMAGE_SUFFIXES) else name


class ArchiveTables:
    """The tables of an archive; of older exports without the prefix of a column (``metadata.clinical.``).

    Attributes:
        records: the rows, joined.
        splits: the split of each row, None where it is in none.
        read: the paths of the tables.
        warnings: sentences.
    """

    def __init__(self, entry: Entry, files: ArchiveFiles) -> None:
        """Read them.

        Raises:
            UserError: none is there; names the archive that the folder looks like.
            MetadataError: a table lacks a column or has no rows, or two tables do not belong together.
        """
        self.entry, self.files = entry, files
        self.records: list[Record] = []
        self.splits: list[str | None] = []
        self.read: list[PurePosixPath] = []
        main: dict[str, list[str]] = {}  # table -> its columns
        for split in dict.fromkeys(entry.tables.values()):
            named = (name for name, of in entry.tables.items() if of == split)
            first = next(((name, table) for name in named if (table := self.table(name))), None)
            if first is not None:
                self._check(first[1][0], list(entry.images), first[0])
                main[first[0]] = first[1][0]
                self.records += first[1][1]
                self.splits += [split] * len(first[1][1])
        if not self.read:
            raise UserError(self._not_found())
        if not self.records:
            raise MetadataError(f"{self.read[0]} has no rows; {tables.AS_PUBLISHED}")
        more: set[str] = set()
        for other in entry.more:
            if (table := self.table(other["file"])) is not None:
                more.update(table[0])
                self._join(table, other.get("by", next(iter(entry.images))).lower(), other["file"])
        for name, columns in main.items():
            self._check_labels({*columns, *more}, name)
        self._split_by_rows()
        self.warnings = [
            f"No column {wanted} in the tables: images of one {group} may be in two splits."
            for group in _GROUPS
            if (wanted := entry.columns.get(group)) and str(wanted).lower() not in more.union(*main.values())
        ]
        self.warnings += tables.sex_warnings(entry.value(record, "sex") for record in self.records)

    def table(self, name: str) -> _Table | None:
        """The columns and rows of the first file of this name; None where there is none."""
        for path, reader in self.files.entries:
            if path.name.lower() == name.lower():
                self.read.append(path)
                content = _tabbed(reader(), self.entry.separator) if self.entry.separator else reader()
                columns, records = tables.read_table(content, str(path))
                plain = {column: _plain(column) for column in columns}
                return list(plain.values()), [{plain[key]: cell for key, cell in one.items()} for one in records]
        return None

    def _check(self, columns: Collection[str], needed: Sequence[str], where: str) -> None:
        """Refuse a table without some columns; where they fit another archive, name that."""
        lacking = [column for column in needed if column.lower() not in columns]
        if not lacking:
            return
        for other in entries().values():
            same = where.lower() in (name.lower() for name in other.tables)
            if other is not self.entry and same and all(column.lower() in columns for column in other.images):
                raise MetadataError(
                    f"{where} has no column {', '.join(lacking)}, but those of {other.name}; give --name {other.name}"
                )
        tables.check_columns(columns, [column.lower() for column in lacking], where)

    def _check_labels(self, columns: Collection[str], where: str) -> None:
        """Refuse a table that has the columns of no label table."""
        needed: list[str] = []
        for table in self.entry.labels.values():
            needed = list(table["names"]) if table.get("one_hot") else table["columns"]
            there = sum(column.lower() in columns for column in needed)
            if there == len(needed) or (there and not table.get("one_hot")):
                return
        self._check(columns, needed, where)

    def _not_found(self) -> str:
        present = {path.name.lower(): path.name for path, _ in self.files.entries}
        for other in entries().values():
            for name in other.tables:
                if name.lower() in present and name.lower() not in _shared_names():
                    found = present[name.lower()]
                    return f"{self.files.root} holds {found}: that is {other.name}; give --name {other.name}"
        wanted = " or ".join(self.entry.tables)
        own = self.files.own_classes()
        return f"{self.files.root} has no {wanted}; give the folder of the download ({self.entry.where}){own}"

    def _join(self, table: _Table, by: str, where: str) -> None:
        """Add the cells of another table to the records; those that are filled already stay."""
        tables.check_columns(table[0], [by], where)
        found = {stem(record[by]): record for record in table[1]}
        used = 0
        for record in self.records:
            more = found.get(stem(record.get(by, "")), {})
            used += bool(more)
            for column, cell in more.items():
                record[column] = record.get(column) or cell
        if not used:
            raise MetadataError(f"{where} has no {by} of {self.read[0].name}; take both from one archive")

    def _split_by_rows(self) -> None:
        """The splits that files of row numbers name."""
        for split, name in self.entry.split_rows.items():
            _, records = self.table(name) or ([], [])
            for record in records:
                number = record.get("indexes", "")
                if not number.isdecimal() or int(number) >= len(self.records):
                    raise MetadataError(f"{name} names row {number!r} of {len(self.records)}; {tables.AS_PUBLISHED}")
                self.splits[int(number)] = split


@cache
def _shared_names() -> frozenset[str]:
    """Names of tables, in lower case, that several archives use."""
    count = Counter(name.lower() for entry in entries().values() for name in entry.tables)
    return frozenset(name for name, n in count.items() if n > 1)


def _plain(column: str) -> str:
    """``metadata.clinical.diagnosis_1`` -> ``diagnosis_1``, in lower case."""
    return column.rsplit(".", 1)[-1].lower()


def _tabbed(content: bytes, separator: str) -> bytes:
    """The lines of a text that hold a separator, as a table separated by tabs; other lines are left out."""
    lines = content.decode("utf-8", errors="replace").splitlines()
    rows = [line.strip().strip("|").split(separator) for line in lines if separator in line]
    return "\n".join("\t".join(cell.strip() for cell in row) for row in rows).encode()
