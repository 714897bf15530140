"""Severity from images: the scores of ``trainers.score`` and a table of visits become the table of a study.

``python -m trainers.score --model M --images PHOTOS --out SCORES`` answers each image; ``python -m
trainers.longitudinal.severity --scores SCORES --visits visits.csv --class acne --out study.csv`` makes 100 times the
probability of one class the severity; ``--grades clear=0,mild=1,severe=3`` makes it the expected grade. Visits hold
image, patient, day, treatment. Several images of a day are averaged; a day without one that could be scored is missed.

A class probability says how sure a model is that an image shows a class. It is no validated severity score: it
saturates near 0 and 100, moves with light and focus, and a change of it need not be a change of the skin. Where a
treatment makes the model's gate decline more images, what is left is no fair sample of its days.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_scripts.command import OneLineParser, UserError, read_json, run
from model_cards.manifest import write_text
from trainers.model_folder.output import check_writable

if TYPE_CHECKING:
    from trainers.longitudinal.rows import Day


ANSWERS, SUMMARY = "answers.parquet", "summary.json"
CAVEAT = "no validated severity score; a change of it need not be a change of the skin"


@dataclass(frozen=True)
class Scored:
    """The severity of the images.

    Attributes:
        severity: image -> points; an image that could not be read, or that the gate declined, is None.
        meaning: what the points are, in words.
        unreadable: images without an answer.
        declined: images that the model's gate took for something else, left out.
    """

    severity: dict[str, float | None]
    meaning: str
    unreadable: int
    declined: int


def parse_grades(text: str) -> dict[str, float]:
    """``clear=0,mild=1`` -> class -> grade.

    Raises:
        UserError: not of this form, or a class twice.
    """
    grades: dict[str, float] = {}
    for entry in text.split(","):
        name, equals, value = (part.strip() for part in entry.rpartition("="))
        try:
            grade = float(value)
        except ValueError:
            grade = math.nan
        if not equals or not name or not math.isfinite(grade):
            raise UserError(f"--grades has {entry.strip()!r}: give NAME=GRADE for each class, e.g. clear=0,mild=1")
        if name in grades:
            raise UserError(f"--grades names {name!r} twice: give each class once")
        grades[name] = grade
    return grades


def read_scores(folder: Path, grades: dict[str, float], keep_declined: bool = False) -> Scored:
    """Read the answers of ``trainers.score``.

    Args:
        folder: its ``--out``.
        grades: class -> points at a probability of 1; severity is their sum weighted by the probabilities.
        keep_declined: score images, too, that the model's gate declined as unlike those it knows.

    Raises:
        UserError: no answers there, or a class that the model does not know.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from trainers.scoring.answers import PROBABILITY

    if not (folder / ANSWERS).is_file():
        raise UserError(f"--scores {str(folder)!r} holds no {ANSWERS}: give the --out of python -m trainers.score")
    try:
        table = pq.read_table(folder / ANSWERS)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{ANSWERS} of --scores {str(folder)!r} cannot be read ({error}): score again") from error
    # Folders of version 0.1 name the columns p_CLASS.
    prefix = PROBABILITY if any(name.startswith(PROBABILITY) for name in table.column_names) else "p_"
    known = [name for name in table.column_names if name.startswith(prefix) and name != "p_malignant"]
    for name in grades:
        if f"{prefix}{name}" not in known:
            classes = ", ".join(column.removeprefix(prefix) for column in known)
            raise UserError(f"class {name!r} is none of the model's ({classes}): name one of these")
    severity: dict[str, float | None] = {}
    unreadable = declined = 0
    for row in table.select(["image", "is_ood", "error", *(f"{prefix}{name}" for name in grades)]).to_pylist():
        answered = row["error"] is None
        taken = answered and (keep_declined or not row["is_ood"])
        unreadable += not answered
        declined += answered and not taken
        points = sum(grade * row[f"{prefix}{name}"] for name, grade in grades.items()) if taken else None
        severity[row["image"]] = points
    return Scored(severity, _meaning(folder, grades), unreadable, declined)


def _meaning(folder: Path, grades: dict[str, float]) -> str:
    """What the severity is, in words that go with the table.

    Raises:
        UserError: the summary beside the answers is damaged.
    """
    try:
        model = read_json(folder / SUMMARY)["model"]["name"]
    except (FileNotFoundError, KeyError, TypeError):
        model = "a model"
    except UserError as error:
        raise UserError(f"{SUMMARY} of --scores {str(folder)!r}: {error}; score again") from error
    if list(grades.values()) == [100.0]:
        what = f"100 x the probability of {next(iter(grades))!r}"
    else:
        what = "the expected grade (" + ", ".join(f"{name} = {grade:g}" for name, grade in grades.items()) + ")"
    return f"{what} by {model} in images, {CAVEAT}"


def join(scored: Scored, visits: Path) -> tuple[list[Day], dict[tuple[str, int], int], int]:
    """The days of a study: the mean over the images of a patient's day.

    Returns:
        The days in the order of the visits; (patient, day) -> number of images that were scored; the number of scored
        images without a visit.

    Raises:
        UserError: a visit whose image was not scored, or one day under two treatments.
    """
    from trainers.longitudinal.rows import COLUMNS, Day, parse_day
    from trainers.scoring.files import Table

    table = Table(visits, "--visits", COLUMNS[:3])
    cells = {
        name: parse_day([*(row[column] for column in COLUMNS[:3]), ""], table.where) for name, row in table.rows.items()
    }
    points: dict[tuple[str, int], list[float]] = {}
    treatment: dict[tuple[str, int], str] = {}
    found = {id(row): image for image in scored.severity if (row := table.take(image)) is not None}
    for name, row in table.rows.items():
        if id(row) not in found:
            raise UserError(f"{table.where}: image {name!r} was not scored: score the folder that holds it")
        visit, value = cells[name], scored.severity[found[id(row)]]
        key = (visit.patient, visit.day)
        if treatment.setdefault(key, visit.treatment) != visit.treatment:
            raise UserError(
                f"{table.where} has day {visit.day} of patient {visit.patient!r} under {treatment[key]!r} and "
                f"{visit.treatment!r}: give one treatment a day"
            )
        points.setdefault(key, []).extend([] if value is None else [value])
    days = [
        Day(*key, treatment[key], math.fsum(values) / len(values) if values else None) for key, values in points.items()
    ]
    return days, {key: len(values) for key, values in points.items()}, len(scored.severity) - len(found)


def write_days(days: Sequence[Day], images: dict[tuple[str, int], int], meaning: str, out: Path) -> None:
    """Write the table that ``fit_acne_longitudinal`` reads; it appears whole or not at all."""
    text = io.StringIO()
    from datasets_scripts.sources.tables import TableWriter
    from trainers.longitudinal.rows import COLUMNS
    from trainers.longitudinal.study import MEANING

    writer = TableWriter(text)
    writer.writerow([*COLUMNS, "images", MEANING])
    for day in days:
        severity = "" if day.severity is None else repr(day.severity)
        writer.writerow([day.patient, day.day, day.treatment, severity, images[day.patient, day.day], meaning])
    write_text(out, text.getvalue())


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.longitudinal.severity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--scores", required=True, type=Path, metavar="DIR", help="the --out of python -m trainers.score")
    add("--visits", required=True, type=Path, metavar="CSV", help="image,patient,day,treatment; days are whole numbers")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--class", dest="label", metavar="NAME", help="severity = 100 x the probability of this class")
    what.add_argument("--grades", metavar="NAME=GRADE,...", help="severity = the sum of grade x probability")
    add("--keep_declined", action="store_true", help="score images, too, that the model's gate declined (default: not)")
    add("--out", required=True, type=Path, metavar="FILE.csv", help="table to write; must not exist yet")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, join scores and visits, and write the table.

    Raises:
        UserError: scores or visits that cannot be used, or a file that exists.
    """
    given = make_parser().parse_args(arguments)
    if given.out.exists():
        raise UserError(f"--out {str(given.out)!r} exists already: choose another or delete it")
    if not given.out.absolute().parent.is_dir():
        raise UserError(f"--out {str(given.out)!r}: its folder does not exist, create it first")
    check_writable(given.out, "--out")
    grades = {given.label: 100.0} if given.label is not None else parse_grades(given.grades)
    scored = read_scores(given.scores, grades, given.keep_declined)
    days, images, without_visit = join(scored, given.visits)
    write_days(days, images, scored.meaning, given.out)
    missed = sum(day.severity is None for day in days)
    print(f"{len(days)} days of {len({day.patient for day in days})} patients written to {given.out}")
    for count, why in (
        (scored.unreadable, "could not be read"),
        (scored.declined, "were declined by the model's gate"),
    ):
        if count:
            print(f"note: {count} scored images {why}; a day that has no other is missed ({missed} days)")
    if without_visit:
        print(f"note: {without_visit} scored images have no visit and were left out")
    print(f"severity is {scored.meaning}")


if __name__ == "__main__":
    run(main)
