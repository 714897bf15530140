"""Reading a study of daily severity: one row per patient and day, checked before anything is fitted."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.sources.tables import MetadataError, clipped, delimiter_of, read_file, read_table, shortly
from trainers.longitudinal.rows import (
    COLUMNS,
    Day,
    check_duplicates,
    check_measured,
    check_pairs,
    check_spelling,
    find_name,
    parse_day,
    with_points,
)

MEANING = "severity_is"  # an optional column with what the severity was made from
BASELINE = "Baseline"


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
        left_out: rows of treatments that are not compared.
        meaning: what the severity was made from, as the table states; empty where it does not.
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

    An empty severity (or NA, NaN and the like) is a missed day. Days need not be complete, phases not equally long.

    Args:
        path: separated by commas, tabs, or semicolons (then decimal commas are read, too), UTF-8, with a header.
        baseline: the treatment that the others are compared with; capitals do not matter.
        treatments: the others to compare, in this order, as the baseline; None = all, in order of their first days.

    Raises:
        UserError: the file cannot be read, lacks a column, or holds what cannot be analysed.
    """
    try:
        content = read_file(path)
        columns, rows = read_table(content, path.name, advice="take it out, or give a table of one row per line")
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error.strerror}): give a CSV file") from error
    except MetadataError as error:
        raise UserError(str(error)) from error
    named = {column.lower(): column for column in columns}
    missing = [name for name in COLUMNS if name not in named]
    if missing:
        present = clipped(", ".join(columns), 120) or "none"
        raise UserError(
            f"{path.name} has no column {', '.join(missing)} (it has: {present}): give {','.join(COLUMNS)}, separated "
            "by commas, tabs or semicolons"
        )
    cells = [[row[named[name]] for row in rows] for name in COLUMNS]
    if delimiter_of(content.decode("utf-8-sig")) == ";":
        cells[-1] = with_points(cells[-1], path.name)
    days = [parse_day(row, path.name) for row in zip(*cells, strict=True)]
    meanings = {row[named[MEANING]] for row in rows} if MEANING in named else {""}
    if len(meanings) > 1:
        raise UserError(f"{path.name} holds {len(meanings)} kinds of severity in {MEANING}: give one kind a file")
    study = assemble(days, path.name, baseline, treatments)
    return replace(study, meaning="".join(meanings), sha256=hashlib.sha256(content).hexdigest())


def assemble(days: Sequence[Day], where: str, baseline: str, treatments: Sequence[str] | None = None) -> Study:
    """Check rows and lay them out as arrays.

    Raises:
        UserError: see the module; one line that names the value and what to do.
    """
    if not days:
        raise UserError(f"{where} holds no day: give one row per patient and day")
    names = list(dict.fromkeys(row.treatment for row in sorted(days, key=lambda row: row.day)))
    check_spelling(days, where)
    base = _named(names, baseline, "to compare with", "--baseline", where)
    wanted = (
        names
        if treatments is None
        else [_named(names, name, "to analyse", "--treatments", where) for name in treatments]
    )
    wanted = [name for name in dict.fromkeys(wanted) if name != base]
    kept = [row for row in days if row.treatment in {base, *wanted}]
    check_duplicates(kept, where)
    measured = [row for row in kept if row.severity is not None]
    order = (base, *wanted)
    check_measured(order, measured, where)
    patients = tuple(dict.fromkeys(row.patient for row in measured))
    if len(patients) == 1:
        raise UserError(
            f"{where} holds one patient, {shortly(patients[0])}: how far patients differ needs at least two, better ten"
        )
    place = {name: index for index, name in enumerate(patients)}
    measured.sort(key=lambda row: (place[row.patient], row.day))
    check_pairs(order, measured, where)
    severity = np.array([row.severity for row in measured], dtype=float)
    if np.ptp(severity) == 0:
        raise UserError(f"{where}: severity is {severity[0]:g} on all {len(severity)} days, which shows no effect")
    study = Study(
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
    _check_varies(study, where)
    return study


def _named(names: Sequence[str], wanted: str, what: str, option: str, where: str) -> str:
    found = find_name(names, wanted)
    if found is None:
        listed = clipped(", ".join(names), 200)
        raise UserError(
            f"{where} has no treatment {shortly(wanted)} {what} (it has: {listed}): name one of these by {option}"
        )
    return found


def _check_varies(study: Study, where: str) -> None:
    """Refuse numbers whose uncertainty no method can estimate: no day and no patient differs from another.

    Raises:
        UserError: severity is constant within each patient, or each treatment moves all patients by one number.
    """
    least = 1e-9 * float(np.abs(study.severity).max())
    if np.any(np.abs(study.residuals()) > least):
        return
    means = study.cell_means()
    found = means[:, 1:] - means[:, :1]
    columns = [column[np.isfinite(column)] for column in found.T]
    if any(np.ptp(column) > least for column in columns if len(column) > 1):
        return
    if all(np.all(np.abs(column) <= least) for column in columns):
        raise UserError(
            f"{where}: severity never changes within a patient, which shows no effect: give what was measured each day"
        )
    raise UserError(
        f"{where}: severity is constant under each treatment and differs by the same number in all patients, so "
        "nothing says how sure an effect is: give what was measured each day, not a summary"
    )
