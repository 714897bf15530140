"""Reading a study: what a row means, in which order, and what is refused with which words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datasets_scripts.command import UserError
from trainers.longitudinal.study import read_study

GOOD = [
    ("b", 3, "Cream", 41.5),
    ("a", 1, "Baseline", 50),
    ("a", 2, "Baseline", ""),
    ("a", 4, "Cream", 44),
    ("b", 1, "Baseline", 60),
    ("b", 2, "Baseline", 62),
    ("a", 3, "Cream", 45),
    ("b", -1, "Washout", 63),
]


def test_rows_are_ordered_and_gaps_left_out(tmp_path: Path, write: Callable[..., Path]) -> None:
    study = read_study(write(tmp_path / "s.csv", GOOD), treatments=["Cream"])
    assert study.patients == ("b", "a")
    assert study.treatments == ("Baseline", "Cream")
    assert study.patient.tolist() == [0, 0, 0, 1, 1, 1]
    assert study.day.tolist() == [1, 2, 3, 1, 3, 4]
    assert study.severity.tolist() == [60, 62, 41.5, 50, 45, 44]
    assert (study.missed, study.left_out) == (1, 1)
    assert study.cell_counts().tolist() == [[2, 1], [1, 2]]
    assert study.cell_means().tolist() == [[61, 41.5], [50, 44.5]]
    assert study.residuals().tolist() == [-1, 1, 0, 0, 0.5, -0.5]
    assert len(study.sha256) == 64


def test_treatments_stand_in_order_of_their_first_days_and_a_lacking_cell_is_nan(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    study = read_study(write(tmp_path / "s.csv", GOOD))
    assert study.treatments == ("Baseline", "Washout", "Cream")
    assert np.isnan(study.cell_means()[1, 1])


def test_tabs_capitals_a_byte_order_mark_and_other_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    lines = ["\ufeffDay\tPatient\tNote\tSeverity\tTREATMENT"]
    lines += [f"{day}.0\t{who}\tx\t{day * ord(who)}\t{what}" for who in "ab" for day, what in ((1, "none"), (2, "Gel"))]
    path.write_text("\n".join(lines), encoding="utf-8")
    study = read_study(path, baseline="None")
    assert study.treatments == ("none", "Gel")
    assert study.severity.tolist() == [97, 194, 98, 196]


def test_excels_table_with_semicolons_and_decimal_commas_is_read(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    lines = ["patient;day;treatment;severity;;"]
    lines += [f"{who};{day};{what};{ord(who)},{day};;" for who in "ab" for day, what in ((1, "Baseline"), (2, "Gel"))]
    path.write_text("\n".join([*lines, "a;3;Gel;50"]), encoding="utf-8-sig")
    assert read_study(path).severity.tolist() == [97.1, 97.2, 50, 98.1, 98.2]
    path.write_text("\n".join([*lines, "a;3;Gel;50.5"]), encoding="utf-8")
    with pytest.raises(UserError, match=r"has severity '97,1' and '50\.5': write a decimal point in all of them"):
        read_study(path)


def test_the_many_words_for_a_missed_day(tmp_path: Path, write: Callable[..., Path]) -> None:
    rows = [*BASE, *(("a", 3 + place, "Cream", word) for place, word in enumerate(("NA", "NaN", "n/a", "", "null")))]
    study = read_study(write(tmp_path / "s.csv", rows))
    assert (study.missed, len(study.severity)) == (5, 4)


def test_treatments_are_found_whatever_their_capitals(tmp_path: Path, write: Callable[..., Path]) -> None:
    study = read_study(write(tmp_path / "s.csv", BASE), baseline="BASELINE", treatments=["cream"])
    assert study.treatments == ("Baseline", "Cream")
    assert len(study.severity) == 4


def test_doses_are_no_spellings(tmp_path: Path, write: Callable[..., Path]) -> None:
    rows = [*BASE, ("a", 3, "Cream 0.1", 3), ("a", 4, "Cream 0.01", 3), ("a", 5, "Cream 1", 3), ("a", 6, "Cream 01", 3)]
    assert len(read_study(write(tmp_path / "s.csv", rows)).treatments) == 6


def test_what_severity_is_goes_with_the_table(tmp_path: Path, write: Callable[..., Path]) -> None:
    header = "patient,day,treatment,severity,severity_is"
    rows = [(*row, "a guess") for row in GOOD]
    assert read_study(write(tmp_path / "s.csv", rows, header)).meaning == "a guess"
    with pytest.raises(UserError, match="holds 2 kinds of severity in severity_is"):
        read_study(write(tmp_path / "s.csv", [*rows, ("b", 9, "Cream", 3, "a measurement")], header))


BASE = [("a", 1, "Baseline", 5), ("a", 2, "Cream", 4), ("b", 1, "Baseline", 6), ("b", 2, "Cream", 3)]
REFUSED = {
    "a single patient": ([row for row in BASE if row[0] == "a"], {}, "holds one patient, 'a': how far patients differ"),
    "a treatment of missed days alone": ([*BASE, ("a", 3, "Laser", "")], {}, "treatment 'Laser' was given to nobody"),
    "a treatment that is not there": (
        BASE,
        {"treatments": ["Cream", "Laser"]},
        "no treatment 'Laser' to analyse (it has: Baseline, Cream): name one of these by --treatments",
    ),
    "a missed baseline": (
        [(who, day, name, "" if name == "Baseline" else x) for who, day, name, x in BASE],
        {},
        "treatment 'Baseline' was given to nobody",
    ),
    "one treatment": ([row for row in BASE if row[2] == "Baseline"], {}, "has the treatment 'Baseline' alone"),
    "no such baseline": (
        BASE,
        {"baseline": "Placebo"},
        "no treatment 'Placebo' to compare with (it has: Baseline, Cream)",
    ),
    "constant severity": ([(*row[:3], 5) for row in BASE], {}, "severity is 5 on all 4 days, which shows no effect"),
    "severity constant within each patient": (
        [(who, day, name, 5 if who == "a" else 6) for who, day, name, _ in BASE],
        {},
        "severity never changes within a patient, which shows no effect",
    ),
    "severity constant under each treatment": (
        [(who, day + 9 * more, name, 50 - day * 5 + (who == "b")) for more in (0, 1) for who, day, name, _ in BASE],
        {},
        "constant under each treatment and differs by the same number in all patients",
    ),
    "a day as text": ([*BASE, ("a", "Monday", "Cream", 4)], {}, "patient 'a' has day 'Monday': give whole numbers"),
    "a date": (
        [*BASE, ("a", "2024-05-01", "Cream", 4)],
        {},
        "has day '2024-05-01': give whole numbers that count days",
    ),
    "half a day": ([*BASE, ("a", "2.5", "Cream", 4)], {}, "has day '2.5'"),
    "a day beyond reason": ([*BASE, ("a", "99999999", "Cream", 4)], {}, "has day '99999999'"),
    "no day": ([*BASE, ("a", "", "Cream", 4)], {}, "has day ''"),
    "a day twice": ([*BASE, ("a", 2, "Cream", 4)], {}, "has day 2 of patient 'a' twice"),
    "a day under two treatments": ([*BASE, ("a", 2, "Baseline", "")], {}, "has day 2 of patient 'a' twice"),
    "infinite severity": (
        [*BASE, ("a", 3, "Cream", "inf")],
        {},
        "patient 'a', day 3 has severity 'inf': give a finite",
    ),
    "severity with an underline": ([*BASE, ("a", 3, "Cream", "1_0")], {}, "has severity '1_0': give a finite number"),
    "severity in other digits": ([*BASE, ("a", 3, "Cream", "\u0664")], {}, "give a finite number"),
    "a decimal comma": (
        [*BASE, ("a", 3, "Cream", '"40,3"')],
        {},
        "patient 'a', day 3 has severity '40,3': write a decimal point, 40.3",
    ),
    "a decimal comma without quotes": (
        [*BASE, ("a", 3, "Cream", 40, 3)],
        {},
        "s.csv, line 6 has 5 cells, the header 4 columns: write a decimal point, 40.3 instead of 40,3",
    ),
    "a long value": ([*BASE, ("a", 3, "Cream", "x" * 999)], {}, "has severity 'xxxxxxxxxxxxxxxxxxxx...xxxxxxxxxx': "),
    "a patient in capitals": ([*BASE, ("A", 3, "Cream", 4)], {}, "has the patients 'a' and 'A': spell a patient in"),
    "a patient's spaces": (
        [*BASE, ("Anna M", 3, "Cream", 4), ("Anna  M", 4, "Cream", 4)],
        {},
        "has the patient 'Anna M' with different spaces in it: spell a patient in one way",
    ),
    "a patient's zeros": ([*BASE, ("1", 3, "Cream", 4), ("01", 4, "Cream", 4)], {}, "has the patients '1' and '01'"),
    "a patient as a float": (
        [*BASE, ("1", 3, "Cream", 4), ("1.0", 4, "Cream", 4)],
        {},
        "has the patients '1' and '1.0'",
    ),
    "severity as text": ([*BASE, ("a", 3, "Cream", "mild")], {}, "has severity 'mild'"),
    "severity beyond reason": ([*BASE, ("a", 3, "Cream", "1e300")], {}, "has severity '1e300'"),
    "no patient's name": ([*BASE, ("", 3, "Cream", 4)], {}, "has an empty patient: fill it in"),
    "no treatment's name": ([*BASE, ("a", 3, "", 4)], {}, "has an empty treatment: fill it in"),
    "two spellings": ([*BASE, ("a", 3, "cream", 4)], {}, "has the treatments 'Cream' and 'cream': spell a treatment"),
    "one treatment each": (
        [("a", 1, "Baseline", 5), ("b", 1, "Baseline", 6), ("c", 1, "Cream", 3), ("d", 1, "Cream", 2)],
        {},
        "no treatment has two patients with days under it and under 'Baseline'",
    ),
    "nothing": ([], {}, "holds no day"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_study_that_cannot_be_analysed_is_one_clear_line(
    case: str, tmp_path: Path, write: Callable[..., Path], run: Callable[..., tuple[int, str, str]]
) -> None:
    rows, options, message = REFUSED[case]
    path = write(tmp_path / "s.csv", rows)
    with pytest.raises(UserError) as raised:
        read_study(path, **options)
    assert message in str(raised.value)
    words = [
        word
        for name, value in options.items()
        for word in (f"--{name}", *([value] if isinstance(value, str) else value))
    ]
    code, out, error = run("--data", path, "--out", tmp_path / "out", *words)
    assert (code, out) == (2, "")
    lines = error.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"patient,day,severity\na,1,2\n", "has no column treatment (it has: patient, day, severity)"),
        (b"patient|day|treatment|severity\na|1|Cream|2\n", "separated by commas, tabs or semicolons"),
        ("patient,day,treatment,severity\na,1,x,2\n".encode("utf-16"), "save it as CSV UTF-8"),
        ("patient,day,treatment,severity\na,1,x,2\n".encode("utf-16-le"), "save it as CSV UTF-8"),
        (b"", "has no column patient, day, treatment, severity (it has: none)"),
        ("patient,day,treatment,severity\nä,1,x,2\n".encode("latin-1"), "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_study(path)
    assert message in str(raised.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path / "none.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path)
