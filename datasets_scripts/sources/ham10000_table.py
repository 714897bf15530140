"""HAM10000's metadata table: its columns, its oversampled copies, and the meaning of its values. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from datasets_scripts.sources import tables
from datasets_scripts.sources.tables import MetadataError
from datasets_scripts.taxonomy import canonical

COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
Record = Mapping[str, str]


def parse(content: bytes, where: str) -> tuple[list[Record], list[str]]:
    """Read a comma- or tab-separated table with a header: its rows, and the warnings about what was not read.

    Args:
        content: the file's bytes, UTF-8, with or without a byte order mark.
        where: the file's name for messages.

    Raises:
        MetadataError: not text, a column is missing, or there are no rows.
    """
    columns, read = tables.read_table(content, where)
    check_columns(columns, where)
    records: list[Record] = [{column: record[column] for column in COLUMNS} for record in read]
    if not records:
        raise MetadataError(f"{where} has no rows; {tables.AS_PUBLISHED}")
    return records, tables.unread_warnings(columns, COLUMNS, where)


def check_columns(columns: Collection[str], where: str) -> None:
    """Refuse a table without HAM10000's columns.

    Raises:
        MetadataError: names the missing ones.
    """
    tables.check_columns(columns, COLUMNS, where)


def without_repeats(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """Keep the first row of each image id; oversampled copies of the table repeat rows.

    Returns:
        The rows that remain, in their order, and at most one warning, which counts the repeats.

    Raises:
        MetadataError: an id is missing, or two rows of one image id differ in diagnosis or lesion.
        UnknownLabelError: the diagnosis of a repeated row is not HAM10000's.
    """
    first: dict[str, Record] = {}
    repeats = differing = 0
    for record in records:
        for column in ("image_id", "lesion_id"):
            if not record[column]:
                raise MetadataError(f"a row has no {column} ({dict(record)}); fill it in or remove the row")
        known = first.setdefault(record["image_id"], record)
        if known is record:
            continue
        repeats += 1
        for column in ("dx", "lesion_id"):
            if _meaning(known, column) != _meaning(record, column):
                raise MetadataError(
                    f"image {record['image_id']} occurs with {column} {known[column]!r} and with {record[column]!r}; "
                    "remove the wrong row or take the metadata as published"
                )
        differing += any(known[column] != record[column] for column in ("age", "sex", "localization", "dx_type"))
    if not repeats:
        return list(first.values()), []
    also = f" ({differing} of them differ in age, sex, site or dx_type: the first row was kept)" if differing else ""
    return list(first.values()), [
        f"{repeats} repeated rows of {repeats + len(first)} were dropped{also}; {len(first)} images remain."
    ]


def _meaning(record: Record, column: str) -> str:
    """A value; of a diagnosis the suite's short name, so that two spellings are no contradiction."""
    return canonical("ham10000", record[column]) if column == "dx" else record[column]


def row_values(record: Record) -> dict[str, str | float | None]:
    """One record as the fields of a :class:`datasets_scripts.rows.Row`, without images.

    Raises:
        UnknownLabelError: the diagnosis is not HAM10000's.
        MetadataError: the age is no number of years from 0 to 120.
    """
    return {
        "image_id": record["image_id"],
        "label": canonical("ham10000", record["dx"]),
        "lesion_id": record["lesion_id"],
        "age": tables.age(record["age"], record["image_id"]),
        "sex": tables.sex(record["sex"]),
        "localization": tables.known(record["localization"]),
        "dx_type": tables.known(record["dx_type"]),
    }
