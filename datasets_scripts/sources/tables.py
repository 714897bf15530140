"""Metadata tables as archives give them: text with a header, and what ages, sexes and gaps mean. Pure functions."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Sequence

from datasets_scripts.command import UserError
from datasets_scripts.rows import UNKNOWN

_NOT_KNOWN = {"", "na", "n/a", "nan", "none", "null", "unknown"}
_SEX = {"female": "female", "f": "female", "male": "male", "m": "male"}
AS_PUBLISHED = "take the metadata as published"


class MetadataError(UserError):
    """A table that lacks something, contradicts itself, or names an image that is not there."""


def read_table(content: bytes, where: str) -> tuple[list[str], list[dict[str, str]]]:
    """Read a comma- or tab-separated table with a header.

    Args:
        content: the file's bytes, UTF-8, with or without a byte order mark.
        where: the file's name for messages.

    Returns:
        The columns, and the rows, their values stripped; a value that a short row lacks is empty.

    Raises:
        MetadataError: not text, or no table.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise MetadataError(f"{where} is not UTF-8 text ({error.reason}); {AS_PUBLISHED}") from error
    header = lines[0] if lines else ""
    table = csv.DictReader(lines, delimiter="\t" if header.count("\t") > header.count(",") else ",")
    try:
        columns = [column.strip() for column in table.fieldnames or []]
        table.fieldnames = columns
        return columns, [{column: (record[column] or "").strip() for column in columns} for record in table]
    except csv.Error as error:
        raise MetadataError(f"{where}, line {table.line_num}: {error}; {AS_PUBLISHED}") from error


def columns_of(content: bytes, where: str) -> list[str]:
    """The columns of a table, without reading on; raises as :func:`read_table`."""
    return read_table(content.split(b"\n", 1)[0], where)[0]


def check_columns(columns: Collection[str], required: Sequence[str], where: str) -> None:
    """Refuse a table without the required columns.

    Raises:
        MetadataError: names the missing ones.
    """
    missing = [column for column in required if column not in columns]
    if missing:
        raise MetadataError(
            f"{where} has no column {', '.join(missing)} (it has: {', '.join(columns) or 'none'}); "
            f"{AS_PUBLISHED}, with {', '.join(required)}"
        )


def check_present(image_ids: Sequence[str], present: Collection[str], source: str, mend: str) -> None:
    """Refuse a table with ids that the folder has no image of.

    Raises:
        MetadataError: counts them and names the first.
    """
    without = [image_id for image_id in image_ids if image_id not in present]
    if without:
        raise MetadataError(
            f"{len(without)} of {len(image_ids)} ids have no image in {source}, the first is {without[0]!r}; {mend}"
        )


def known(value: str) -> str:
    """The value in lower case; ``unknown`` for the many spellings of a gap."""
    return UNKNOWN if value.lower() in _NOT_KNOWN else value.lower()


def sex(value: str) -> str:
    """``female``, ``male`` or ``unknown``."""
    return _SEX.get(value.lower(), UNKNOWN)


def age(value: str, image_id: str) -> float | None:
    """Years, ``None`` = unknown.

    Raises:
        MetadataError: neither a gap nor a number of years from 0 to 120.
    """
    if value.lower() in _NOT_KNOWN:
        return None
    try:
        years = float(value)
    except ValueError:
        years = math.nan
    if not 0 <= years <= 120:
        raise MetadataError(f"image {image_id} has age {value!r}; give years from 0 to 120, or nothing")
    return years
