"""Metadata tables: text with a header, and the meaning of ages, sexes and gaps. Pure functions."""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from datasets_scripts.command import UserError
from datasets_scripts.rows import UNKNOWN

_NOT_KNOWN = {"", "na", "n/a", "nan", "none", "null", "unknown"}
# A row takes about 1 kB in memory. The whole ISIC Archive has less than a tenth of these lines.
MOST_BYTES = 400_000_000
MOST_LINES = 5_000_000
_HEADER_BYTES = 1 << 20
_LINE_END = re.compile(r"\r\n?|\n")  # no others: a cell may hold U+2028, NEL, VT or FS
_SEX = {"female": "female", "f": "female", "male": "male", "m": "male"}
AS_PUBLISHED = "take the metadata as published"
# A spreadsheet reads a cell that begins with one of these as a formula; the last four are the full-width forms.
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"
# Line and paragraph separators, and characters that change the direction of the text around them.
_INVISIBLE = re.compile("[\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class MetadataError(UserError):
    """A table that lacks something, contradicts itself, or names an image that is not there."""


def read_file(path: Path) -> bytes:
    """A table's bytes.

    Raises:
        MetadataError: it is too large to be a table of this kind.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise MetadataError(_too_large(path.name, size))
    return path.read_bytes()


def _too_large(where: str, size: int) -> str:
    return f"{where} has {size / 1e6:,.0f} MB, at most {MOST_BYTES / 1e6:.0f} MB are read: split it"


def read_table(content: bytes, where: str, *, advice: str = AS_PUBLISHED) -> tuple[list[str], list[dict[str, str]]]:
    """Read a table with a header, separated by commas, tabs, or semicolons.

    Columns without a name behind the last named one, as spreadsheets write them, must be empty and are left out.

    Args:
        content: the file's bytes, UTF-8, with or without a byte order mark.
        where: the file's name for messages.
        advice: what to do about a row that is no row of a table.

    Returns:
        The columns, and the rows, their values stripped; a value that a short row lacks is empty.

    Raises:
        MetadataError: too large, not UTF-8 text, or no table: a column twice (whatever its capitals), a row with more
            cells than the header, a quote that does not close, a line break within a cell.
    """
    if len(content) > MOST_BYTES:
        raise MetadataError(_too_large(where, len(content)))
    lines = max(content.count(b"\n"), content.count(b"\r"))
    if lines > MOST_LINES:
        raise MetadataError(
            f"{where} has {lines:,} lines, at most {MOST_LINES:,} are read: remove empty lines, or split it"
        )
    if b"\0" in content:
        raise MetadataError(_not_text(where, "it holds the byte 0"))
    delimiter = delimiter_of(_head(content, where))
    # A stream, so that the text is not held a second time. newline="" leaves line ends to the csv module.
    stream = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    table = csv.reader(stream, delimiter=delimiter, strict=True)
    rows: list[dict[str, str]] = []
    columns: list[str] = []
    before = 0
    try:
        for cells in table:
            line, first, before = table.line_num, before + 1, table.line_num
            if first != line:
                raise MetadataError(
                    f"{where}, line {line}: a cell goes on from line {first}: take out the line break within it, or "
                    f"the stray quote in line {first}"
                )
            cells = [_unescaped(cell.strip()) for cell in cells]
            if columns and any(cells[len(columns) :]):
                raise MetadataError(f"{where}, line {line} {_too_long(cells, columns, delimiter)}")
            if not columns:
                columns = _checked_header(cells, where)
            elif cells:
                filled = cells + [""] * (len(columns) - len(cells))
                rows.append(dict(zip(columns, filled, strict=False)))
    except UnicodeDecodeError as error:
        raise MetadataError(_not_text(where, error.reason)) from error
    except csv.Error as error:
        if before + 1 < table.line_num:  # noticed at the file's end, or lines behind the quote that opened
            raise MetadataError(
                f"{where}, line {before + 1}: a quote opens a cell and closes nowhere in the line: take the quote out"
            ) from error
        raise MetadataError(f"{where}, line {table.line_num}: {error}; {advice}") from error
    return columns, rows


class TableWriter:
    """Writes rows as CSV, every text through :func:`csv_text`; lines end with ``\\n``."""

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file, lineterminator="\n")

    def writerow(self, cells: Iterable[Any]) -> None:
        """Write one row."""
        self._writer.writerow([csv_text(cell) if isinstance(cell, str) else cell for cell in cells])

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write several rows."""
        for cells in rows:
            self.writerow(cells)


def csv_text(text: str) -> str:
    """A text that a spreadsheet shows and never runs as a formula.

    Control characters become backslash escapes. A text that begins like a formula and is not a number gets a leading
    apostrophe (OWASP, "CSV Injection"); :func:`read_table` removes it.
    """
    plain = text.isascii() and text.isprintable()  # most texts: no look at each of their letters
    visible = text if plain else "".join(map(_visible, text))
    start = visible.lstrip()
    return f"'{visible}" if start.startswith(tuple(_FORMULA)) and not _is_number(start) else visible


def _visible(char: str) -> str:
    """A character; as an escape where it is a control character or cannot be seen."""
    hidden = unicodedata.category(char) == "Cc" or _INVISIBLE.match(char)
    return char.encode("unicode_escape").decode() if hidden else char


def spaced(names: Sequence[str]) -> str:
    """Names separated by spaces; a name that holds a space or a quote is in double quotes."""
    out = io.StringIO()
    csv.writer(out, delimiter=" ", lineterminator="").writerow(names)
    return out.getvalue()


def _unescaped(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].lstrip().startswith(tuple(_FORMULA)) else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def delimiter_of(text: str) -> str:
    """The separator of a table: the most frequent of tab, semicolon and comma in its header."""
    header = _LINE_END.split(text, maxsplit=1)[0]
    return max((",", "\t", ";"), key=header.count)  # the comma where none is there


def columns_of(content: bytes, where: str) -> list[str]:
    """The columns of a table, without reading its rows.

    Raises:
        MetadataError: not UTF-8 text, or a header that is none.
    """
    header = _LINE_END.split(_head(content, where), maxsplit=1)[0]
    if "\0" in header:
        raise MetadataError(_not_text(where, "it holds the byte 0"))
    try:
        cells = next(csv.reader([header], delimiter=delimiter_of(header)), [])
    except csv.Error as error:
        raise MetadataError(f"{where}, line 1: {error}; {AS_PUBLISHED}") from error
    return [cell.strip() for cell in cells]


def _head(content: bytes, where: str) -> str:
    """The beginning of a table, with its whole first line unless that is absurdly long."""
    try:
        return content[:_HEADER_BYTES].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start > _HEADER_BYTES - 4:  # the last character was cut
            return content[: error.start].decode("utf-8-sig")
        raise MetadataError(_not_text(where, error.reason)) from error


def _not_text(where: str, reason: str) -> str:
    return f"{where} is not UTF-8 text ({reason}): save it as CSV UTF-8"


def _checked_header(cells: list[str], where: str) -> list[str]:
    while cells and not cells[-1]:
        cells = cells[:-1]
    seen: dict[str, str] = {}
    for name in filter(None, cells):
        if name.casefold() in seen:
            both = dict.fromkeys((seen[name.casefold()], name))
            raise MetadataError(
                f"{where} has the column {' and '.join(map(shortly, both))} twice: give each column once"
            )
        seen[name.casefold()] = name
    return cells


def _too_long(cells: list[str], columns: list[str], delimiter: str) -> str:
    """Why a row has more cells than the header, and what to do."""
    counts = f"has {len(cells)} cells, the header {len(columns)} columns"
    if delimiter == "," and len(cells) == len(columns) + 1:
        # The last such pair: days come before the measured value.
        pairs = [pair for pair in pairwise(cells) if all(re.fullmatch(r"-?[0-9]+", cell) for cell in pair)]
        if pairs:
            left, right = pairs[-1]
            return f"{counts}: write a decimal point, {left}.{right} instead of {left},{right}"
    return f"{counts}: take out what is too much, or put a cell that holds the separator in quotes"


def is_gap(value: str) -> bool:
    """Whether a cell means an unknown value: empty, NA, NaN, none, null, unknown."""
    return value.lower() in _NOT_KNOWN


def class_name(value: Any) -> str | None:
    """A label as the name of its class: text with single spaces in Unicode's composed form (NFC), a number as written.

    None where there is no label (None, NaN, or a gap).
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = unicodedata.normalize("NFC", " ".join(str(value).split()))
    return None if value is None or is_gap(text) else text


def sorted_classes(names: Iterable[str]) -> list[str]:
    """The names of classes in their usual order: sorted, whole numbers by their size."""
    known = sorted(names)
    return sorted(known, key=int) if all(re.fullmatch("-?[0-9]+", name) for name in known) else known


def clipped(value: str, most: int) -> str:
    """A text for a message, the middle left out of what is longer than ``most`` characters."""
    return value if len(value) <= most else f"{value[: most // 2]}...{value[-(most // 4) :]}"


def shortly(value: str) -> str:
    """A value for a message: quoted, clipped to 40 characters, on one line."""
    return repr(clipped(value, 40))


def with_nearest(unknown: Counter[str], known: Iterable[str], most: int = 12) -> str:
    """``'Nevis' (2 rows, nearest 'nevus'), ...``: each unknown name once, with its number of rows and the nearest name.

    Args:
        unknown: name -> rows.
        known: the names that are known, at least one.
        most: names that are listed; the others are counted.
    """
    spelt = {name.lower(): name for name in known}
    listed = []
    for word, n in unknown.most_common(most):
        nearest = spelt[difflib.get_close_matches(word.lower(), spelt, n=1, cutoff=0)[0]]
        listed.append(f"{shortly(word)} ({n} row{'s' if n > 1 else ''}, nearest {nearest!r})")
    return ", ".join(listed) + (f" and {len(unknown) - most} more" if len(unknown) > most else "")


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


# The ISIC 2019 challenge added this to the names of images that it made smaller.
REDUCED = "_downsampled"


def check_present(image_ids: Sequence[str], present: Collection[str], source: str, advice: str) -> None:
    """Refuse a table with ids that the folder has no image of.

    Raises:
        MetadataError: counts them and names the first.
    """
    without = [image_id for image_id in image_ids if image_id not in present]
    other = {one: name for one in without for name in (one + REDUCED, one.removesuffix(REDUCED)) if name in present}
    if other:
        first, there = next(iter(other.items()))
        raise MetadataError(
            f"{len(other)} of {len(image_ids)} ids name an image that {source} has under another name, the first is "
            f"{first!r}, there as {there!r}: ISIC 2019 added {REDUCED!r} to images that it made smaller; give ids "
            "and files the same names, with or without it"
        )
    if without:
        raise MetadataError(
            f"{len(without)} of {len(image_ids)} ids have no image in {source}, the first is {without[0]!r}; {advice}"
        )


def known(value: str) -> str:
    """The value in lower case; ``unknown`` for every spelling of a gap."""
    return UNKNOWN if is_gap(value) else value.lower()


def sex(value: str) -> str:
    """``female``, ``male`` or ``unknown``."""
    return _SEX.get(value.lower(), UNKNOWN)


def sex_warnings(values: Iterable[str]) -> list[str]:
    """A sentence that counts values that :func:`sex` reads as unknown although they are no gap; empty where none."""
    other = Counter(value for value in values if not is_gap(value) and value.lower() not in _SEX)
    if not other:
        return []
    listed = ", ".join(f"{shortly(value)} {count}" for value, count in other.most_common(5))
    return [f"{sum(other.values())} values of sex are neither female nor male and count as unknown ({listed})."]


def unread_warnings(columns: Iterable[str], read: Collection[str], where: str) -> list[str]:
    """A sentence that names the columns of a table that are not read; empty where there is none."""
    unread = [column for column in columns if column and column not in read]
    listed = ", ".join(shortly(column)[1:-1] for column in unread[:12]) + (", ..." if len(unread) > 12 else "")
    return [f"{len(unread)} columns of {where} were not read: {listed}."] if unread else []


def age(value: str, image_id: str) -> float | None:
    """Years, ``None`` = unknown.

    Raises:
        MetadataError: neither a gap nor a number of years from 0 to 120.
    """
    if is_gap(value):
        return None
    try:
        years = float(value)
    except ValueError:
        years = math.nan
    if not 0 <= years <= 120:
        raise MetadataError(f"image {image_id} has age {value!r}; give years from 0 to 120, or nothing")
    return years
