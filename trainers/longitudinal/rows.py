"""The rows of a study before they are arrays: text as numbers, and what is refused of names, days and their number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datasets_scripts.command import UserError
from datasets_scripts.sources.tables import is_gap, shortly

COLUMNS = ("patient", "day", "treatment", "severity")
LARGEST = 1e6  # of a day or a severity; beyond it sums of squares lose digits
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_LEADING_ZEROS = re.compile(r"(?<![0-9.])0+(?=[0-9])")


@dataclass(frozen=True)
class Day:
    """One row of the table: a patient's severity on a day.

    Attributes:
        patient: its name.
        day: a whole number; differences count days.
        treatment: what was given on that day.
        severity: points, None where the day was missed.
    """

    patient: str
    day: int
    treatment: str
    severity: float | None


def with_points(numbers: Sequence[str], where: str) -> list[str]:
    """Severities of a table separated by semicolons, whose numbers may have a decimal comma, as Excel writes them.

    Args:
        numbers: cells of one column.
        where: the file's name for messages.

    Raises:
        UserError: some have a decimal comma and some a point, so neither can be distinguished from a mark of thousands.
    """
    commas = [cell for cell in numbers if _DECIMAL_COMMA.fullmatch(cell)]
    points = [cell for cell in numbers if "." in cell]
    if commas and points:
        raise UserError(
            f"{where} has severity {shortly(commas[0])} and {shortly(points[0])}: write a decimal point in all of them"
        )
    return [cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in numbers]


def parse_day(cells: Sequence[str], where: str) -> Day:
    """One row of text as numbers.

    Args:
        cells: patient, day, treatment, severity; the last may be empty, NA, NaN and the like: a missed day.
        where: the file's name for messages.

    Raises:
        UserError: an empty name, a day that is no whole number, a severity that is no finite number.
    """
    patient, day, treatment, severity = cells
    who, when = shortly(patient), shortly(day)
    if not patient or not treatment:
        what = "patient" if not patient else "treatment"
        raise UserError(f"{where}, day {when} of patient {who} has an empty {what}: fill it in")
    if not _WHOLE.fullmatch(day) or abs(float(day)) > LARGEST:
        raise UserError(f"{where}, patient {who} has day {when}: give whole numbers that count days, 1, 2, 3")
    value: float | None = None
    if not is_gap(severity):
        cell = f"{where}, patient {who}, day {int(float(day))} has severity {shortly(severity)}"
        if _DECIMAL_COMMA.fullmatch(severity):
            raise UserError(f"{cell}: write a decimal point, {severity.replace(',', '.')[:20]}")
        if not _NUMBER.fullmatch(severity) or not abs(float(severity)) <= LARGEST:
            raise UserError(f"{cell}: give a finite number up to {LARGEST:,.0f}, or leave a missed day empty")
        value = float(severity)
    return Day(patient, int(float(day)), treatment, value)


def check_spelling(days: Iterable[Day], where: str) -> None:
    """Refuse a name in two spellings: a patient taken for two makes intervals too narrow.

    Spellings differ in capitals, spaces or the width of characters; a patient's also in leading zeros (``1``, ``01``)
    and ``.0`` (``1.0``), which a treatment's dose may mean.

    Raises:
        UserError: names both.
    """
    seen: dict[tuple[str, str], str] = {}
    for row in days:
        for kind, name in (("patient", row.patient), ("treatment", row.treatment)):
            other = seen.setdefault((kind, _plain(name, kind)), name)
            if other.split() == name.split() and other != name:
                raise UserError(
                    f"{where} has the {kind} {shortly(' '.join(name.split()))} with different spaces in it: spell a "
                    f"{kind} in one way"
                )
            if other != name:
                raise UserError(
                    f"{where} has the {kind}s {shortly(other)} and {shortly(name)}: spell a {kind} in one way"
                )


def _plain(name: str, kind: str) -> str:
    name = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    return _LEADING_ZEROS.sub("", re.sub(r"(?<=[0-9])\.0+$", "", name)) if kind == "patient" else name


def find_name(names: Sequence[str], wanted: str) -> str | None:
    """The name of the table that is meant, whatever its capitals and spaces; None where there is none."""
    return next((name for name in names if _plain(name, "treatment") == _plain(wanted, "treatment")), None)


def check_duplicates(rows: Sequence[Day], where: str) -> None:
    """Refuse a patient's day that is there twice.

    Raises:
        UserError: names it.
    """
    seen: set[tuple[str, int]] = set()
    for row in rows:
        if (row.patient, row.day) in seen:
            raise UserError(f"{where} has day {row.day} of patient {shortly(row.patient)} twice: give one row per day")
        seen.add((row.patient, row.day))


def check_measured(order: Sequence[str], measured: Sequence[Day], where: str) -> None:
    """Refuse treatments without days, and a study of one treatment.

    Raises:
        UserError: names the treatment.
    """
    given = {row.treatment for row in measured}
    for name in order:
        if name not in given:
            raise UserError(
                f"{where}: treatment {shortly(name)} was given to nobody (it has no day with a severity): leave it "
                "out, or fill in its days"
            )
    if len(order) < 2:
        raise UserError(
            f"{where} has the treatment {shortly(order[0])} alone: an effect needs days under a second treatment to "
            "compare"
        )


def check_pairs(order: Sequence[str], measured: Sequence[Day], where: str) -> None:
    """Refuse a study in which no treatment can be compared within two patients.

    Raises:
        UserError: no treatment can be compared.
    """
    who = {name: {row.patient for row in measured if row.treatment == name} for name in order}
    if all(len(who[name] & who[order[0]]) < 2 for name in order[1:]):
        raise UserError(
            f"{where}: no treatment has two patients with days under it and under {shortly(order[0])}: a study that "
            "gives each patient one treatment alone needs another analysis"
        )
