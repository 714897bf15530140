"""Reading a study of daily severity: one row a patient and day, checked before anything is fitted."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets_scripts.sources.tables import MetadataError, read_table
from trainers.errors import UserError

COLUMNS = ("patient", "day", "treatment", "severity")
MEANING = "severity_is"  # an optional column that says what the severity was made from
BASELINE = "Baseline"
LARGEST = 1e6  # of a day or a severity; beyond it sums of squares lose digits
_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")


class StudyError(UserError):
    """A study that cannot be analysed."""


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


@dataclass(frozen=True)
class Study:
    """The measured days as arrays of N rows, in order of patient and day.

    Attributes:
        patients: names, in order of appearance.
        treatments: names, the baseline first.
        patient: (N,) index into ``patients``.
        day: (N,) whole numbers.
        treatment: (N,) index into ``treatments``; 0 is the baseline.
        severity: (N,) finite, in points.
        missed: rows without a severity, which are left out.
        left_out: rows of treatments that were not asked for.
        meaning: what the severity was made from, as the table says; empty where it does not.
        name: of the file.
        sha256: of the file.
    """

    patients: tuple[str, ...]
    treatments: tuple[str, ...]
    patient: np.ndarray
    day: np.ndarray
    treatment: np.ndarray
    severity: np.ndarray
    missed: int = 0
    left_out: int = 0
    meaning: str = ""
    name: str = ""
    sha256: str = ""

    def cell_means(self) -> np.ndarray:
        """(P, K) mean severity of each patient under each treatment, NaN where there is no day."""
        counts, sums = self.cell_counts(), np.zeros((len(self.patients), len(self.treatments)))
        np.add.at(sums, (self.patient, self.treatment), self.severity)
        return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)

    def cell_counts(self) -> np.ndarray:
        """(P, K) measured days of each patient under each treatment."""
        counts = np.zeros((len(self.patients), len(self.treatments)), dtype=int)
        np.add.at(counts, (self.patient, self.treatment), 1)
        return counts

    def residuals(self) -> np.ndarray:
        """(N,) severity minus the mean of its patient and treatment, in points."""
        return self.severity - self.cell_means()[self.patient, self.treatment]


def read_study(path: Path, baseline: str = BASELINE, treatments: Sequence[str] | None = None) -> Study:
    """Read a table with the columns patient, day, treatment, severity; other columns are passed over.

    An empty severity is a missed day. Days need not be complete, phases not equally long.

    Args:
        path: comma- or tab-separated, UTF-8, with a header.
        baseline: the treatment that the others are compared with; capitals do not matter.
        treatments: the others to compare, in this order; None = all, in order of their first days.

    Raises:
        StudyError: the file cannot be read, lacks a column, or holds what cannot be analysed.
    """
    try:
        content = path.read_bytes()
        columns, rows = read_table(content, path.name)
    except OSError as error:
        raise StudyError(f"{str(path)!r} cannot be read ({error.strerror}): give a CSV file") from error
    except MetadataError as error:
        raise StudyError(str(error)) from error
    named = {column.lower(): column for column in columns}
    missing = [name for name in COLUMNS if name not in named]
    if missing:
        raise StudyError(
            f"{path.name} has no column {', '.join(missing)} (it has: {', '.join(columns) or 'none'}): give "
            f"{','.join(COLUMNS)}, separated by commas or tabs"
        )
    days = [parse_day([row[named[name]] for name in COLUMNS], path.name) for row in rows]
    meanings = {row[named[MEANING]] for row in rows} if MEANING in named else {""}
    if len(meanings) > 1:
        raise StudyError(f"{path.name} holds {len(meanings)} kinds of severity in {MEANING}: give one kind a file")
    study = assemble(days, path.name, baseline, treatments)
    return replace(study, meaning="".join(meanings), sha256=hashlib.sha256(content).hexdigest())


def parse_day(cells: Sequence[str], where: str) -> Day:
    """One row of text as numbers.

    Args:
        cells: patient, day, treatment, severity; the last may be empty.
        where: the file's name for messages.

    Raises:
        StudyError: an empty name, a day that is no whole number, a severity that is no finite number.
    """
    patient, day, treatment, severity = cells
    if not patient or not treatment:
        what = "patient" if not patient else "treatment"
        raise StudyError(f"{where}, day {day!r} of patient {patient!r} has an empty {what}: fill it in")
    if not _WHOLE.fullmatch(day) or abs(float(day)) > LARGEST:
        raise StudyError(f"{where}, patient {patient!r} has day {day!r}: give whole numbers that count days, 1, 2, 3")
    value: float | None = None
    if severity:
        try:
            value = float(severity)
        except ValueError:
            value = math.nan
        if not abs(value) <= LARGEST:
            raise StudyError(
                f"{where}, patient {patient!r}, day {day} has severity {severity!r}: give a finite number up to "
                f"{LARGEST:,.0f}, or leave a missed day empty"
            )
    return Day(patient, int(float(day)), treatment, value)


def assemble(days: Sequence[Day], where: str, baseline: str, treatments: Sequence[str] | None = None) -> Study:
    """Check rows and lay them out as arrays.

    Raises:
        StudyError: see the module; one line that names the value and the mend.
    """
    if not days:
        raise StudyError(f"{where} holds no day: give one row a patient and day")
    names = list(dict.fromkeys(row.treatment for row in sorted(days, key=lambda row: row.day)))
    _check_spelling(names, where)
    base = _baseline_name(names, baseline, where)
    asked = [name for name in names if name != base] if treatments is None else list(dict.fromkeys(treatments))
    asked = [name for name in asked if name != base]
    kept = [row for row in days if row.treatment in {base, *asked}]
    _check_duplicates(kept, where)
    measured = [row for row in kept if row.severity is not None]
    order = (base, *asked)
    _check_measured(order, measured, where)
    patients = tuple(dict.fromkeys(row.patient for row in measured))
    if len(patients) == 1:
        raise StudyError(
            f"{where} holds one patient, {patients[0]!r}: how far patients differ needs at least two, better ten"
        )
    place = {name: index for index, name in enumerate(patients)}
    measured.sort(key=lambda row: (place[row.patient], row.day))
    _check_pairs(order, measured, where)
    severity = np.array([row.severity for row in measured], dtype=float)
    if np.ptp(severity) == 0:
        raise StudyError(f"{where}: severity is {severity[0]:g} on all {len(severity)} days, which shows no effect")
    return Study(
        patients=patients,
        treatments=order,
        patient=np.array([place[row.patient] for row in measured]),
        day=np.array([row.day for row in measured]),
        treatment=np.array([order.index(row.treatment) for row in measured]),
        severity=severity,
        missed=len(kept) - len(measured),
        left_out=len(days) - len(kept),
        name=where,
    )


def _check_spelling(names: Sequence[str], where: str) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise StudyError(f"{where} has the treatments {other!r} and {name!r}: spell a treatment in one way")


def _baseline_name(names: Sequence[str], baseline: str, where: str) -> str:
    for name in names:
        if name.casefold() == baseline.casefold():
            return name
    raise StudyError(
        f"{where} has no treatment {baseline!r} to compare with (it has: {', '.join(names)}): name one by --baseline"
    )


def _check_duplicates(rows: Sequence[Day], where: str) -> None:
    seen: set[tuple[str, int]] = set()
    for row in rows:
        if (row.patient, row.day) in seen:
            raise StudyError(f"{where} has day {row.day} of patient {row.patient!r} twice: give one row a day")
        seen.add((row.patient, row.day))


def _check_measured(order: Sequence[str], measured: Sequence[Day], where: str) -> None:
    given = {row.treatment for row in measured}
    for name in order:
        if name not in given:
            raise StudyError(
                f"{where}: treatment {name!r} was given to nobody (it has no day with a severity): leave it out, or "
                "fill in its days"
            )
    if len(order) < 2:
        raise StudyError(
            f"{where} has the treatment {order[0]!r} alone: an effect needs days under a second treatment to compare"
        )


def _check_pairs(order: Sequence[str], measured: Sequence[Day], where: str) -> None:
    who = {name: {row.patient for row in measured if row.treatment == name} for name in order}
    if all(len(who[name] & who[order[0]]) < 2 for name in order[1:]):
        raise StudyError(
            f"{where}: no treatment has two patients with days under it and under {order[0]!r}: a study that gives "
            "each patient one treatment alone needs another analysis"
        )
