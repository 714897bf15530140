"""Tables: which separators are read, and which rows are no rows of a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from datasets_scripts.sources import tables
from datasets_scripts.sources.tables import (
    MetadataError,
    TableWriter,
    columns_of,
    csv_text,
    is_gap,
    read_table,
    shortly,
    spaced,
)


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_a_table_is_read_with_each_separator(separator: str) -> None:
    text = '\ufeffa, b ,c\n1,2\n\n x ,"y", z ,,\n'.replace(",", separator)
    columns, rows = read_table(text.encode(), "t.csv")
    assert columns == ["a", "b", "c"]
    assert rows == [{"a": "1", "b": "2", "c": ""}, {"a": "x", "b": "y", "c": "z"}]
    assert columns_of(text.encode(), "t.csv") == columns


def test_a_quoted_separator_and_a_quote_within_a_cell_stay_text() -> None:
    _, rows = read_table(b'a,b\n"1,5",5" wide\n"say ""x""",2\n', "t.csv")
    assert rows == [{"a": "1,5", "b": '5" wide'}, {"a": 'say "x"', "b": "2"}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_row_ends_at_a_line_end_alone(end: str) -> None:
    cells = [f"x{char}y" for char in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"]
    text = end.join(["a,b", *(f"{cell},1" for cell in cells)])
    columns, rows = read_table(text.encode(), "t.csv")
    assert columns == ["a", "b"] == columns_of(text.encode(), "t.csv")
    assert [row["a"] for row in rows] == cells


def test_a_table_too_large_to_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_LINES", 10)
    assert len(read_table(b"a\n" + b"1\n" * 9, "t.csv")[1]) == 9
    with pytest.raises(MetadataError, match=r"t\.csv has 11 lines, at most 10 are read"):
        read_table(b"a\n" + b"\n" * 10, "t.csv")
    monkeypatch.setattr(tables, "MOST_BYTES", 10)
    (tmp_path / "t.csv").write_bytes(b"a\n1234567890")
    with pytest.raises(MetadataError, match=r"t\.csv has"):
        tables.read_file(tmp_path / "t.csv")
    with pytest.raises(MetadataError, match=r"t\.csv has"):
        read_table(b"a\n1234567890", "t.csv")


def test_a_sex_that_is_not_known_is_counted() -> None:
    values = ["f", "Male", "", "unknown", "w", "w", "2"]
    assert [tables.sex(value) for value in values] == ["female", "male", *["unknown"] * 5]
    assert tables.sex_warnings(values) == [
        "3 values of sex are neither female nor male and count as unknown ('w' 2, '2' 1)."
    ]
    assert tables.sex_warnings(["f", "NA"]) == []


def test_columns_without_a_name_are_left_out_where_they_are_empty() -> None:
    assert read_table(b"a,b,,\n1,2,,\n", "t.csv") == (["a", "b"], [{"a": "1", "b": "2"}])
    # An index, as pandas writes it.
    assert read_table(b",a\n0,5\n", "t.csv")[1] == [{"": "0", "a": "5"}]
    with pytest.raises(MetadataError, match="line 2 has 4 cells, the header 2 columns: take out"):
        read_table(b"a,b,,\n1,2,x,\n", "t.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"p,d,s\nP1,1,2\nP1,40,3,5\n", "t.csv, line 3 has 4 cells, the header 3 columns: write a decimal point, 3.5"),
        (b"p,s\nP1,40,3\n", "write a decimal point, 40.3 instead of 40,3"),
        (b"p,s\nP1,40,good, really\n", "put a cell that holds the separator in quotes"),
        (b'a,b\n1,"open\n2,3\n4,5\n', "line 2: a quote opens a cell and closes nowhere in"),
        (b'a,b\n1,"open\n2,"closed\n', "line 2: a quote opens a cell and closes nowhere in"),
        (b'a,b\n1,"x"y\n', "line 2: ',' expected after '\"'; take the metadata as published"),
        (b'a,b\n1,"two\nlines"\n', "line 3: a cell goes on from line 2: take out the line break"),
        (b"a,b,a\n1,2,3\n", "t.csv has the column 'a' twice: give each column once"),
        (b"Day,b,day\n1,2,3\n", "t.csv has the column 'Day' and 'day' twice"),
        (
            "a,b\n\xe4,1\n".encode("latin-1"),
            "t.csv is not UTF-8 text (invalid continuation byte): save it as CSV UTF-8",
        ),
        ("a,b\n1,2\n".encode("utf-16"), "save it as CSV UTF-8"),
        ("a,b\n1,2\n".encode("utf-16-le"), "is not UTF-8 text (it holds the byte 0): save it as CSV UTF-8"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(MetadataError) as raised:
        read_table(content, "t.csv")
    assert message in str(raised.value)


def test_gaps_and_values_in_messages() -> None:
    assert all(map(is_gap, ("", "NA", "n/a", "NaN", "null", "None", "unknown")))
    assert not is_gap("0")
    assert shortly("x\ny") == r"'x\ny'"
    assert len(shortly("x" * 10_000)) < 50


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("=cmd|' C calc'!A0.jpg", "'=cmd|' C calc'!A0.jpg"),
        ("@SUM(1).jpg", "'@SUM(1).jpg"),
        ("+1.jpg", "'+1.jpg"),
        ("-2+3.jpg", "'-2+3.jpg"),
        (" =1", "' =1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\t=1", "\\t=1"),
        ("a\x07b\x1b[31mc", "a\\x07b\\x1b[31mc"),
        ("a\u202egpj.exe", "a\\u202egpj.exe"),
        ("a\u2028b", "a\\u2028b"),
        ("-0.25", "-0.25"),
        ("+inf", "+inf"),
        ("Leberfleck \u00e4\u00f6", "Leberfleck \u00e4\u00f6"),
        ("", ""),
    ],
)
def test_no_text_in_a_csv_is_a_formula_or_a_control_character(text: str, written: str) -> None:
    out = io.StringIO()
    TableWriter(out).writerows([["a", text], [1.5, None]])
    assert csv_text(text) == written
    assert list(csv.reader(io.StringIO(out.getvalue()))) == [["a", written], ["1.5", ""]]


def test_the_apostrophe_is_taken_away_when_the_table_is_read() -> None:
    out = io.StringIO()
    TableWriter(out).writerows([["image", "n"], ["=1+1.jpg", "-3"], ["'quoted'", "@x"]])
    assert [row["image"] for row in read_table(out.getvalue().encode(), "t.csv")[1]] == ["=1+1.jpg", "'quoted'"]
    assert read_table(out.getvalue().encode(), "t.csv")[1][1]["n"] == "@x"


def test_names_separated_by_spaces_can_be_split_again() -> None:
    assert spaced(["mel", "nv"]) == "mel nv"
    names = ["basal cell carcinoma", 'say "x"', "nv"]
    assert next(csv.reader([spaced(names)], delimiter=" ")) == names


@pytest.mark.parametrize(("row", "file"), [("ISIC_1", "ISIC_1_downsampled"), ("ISIC_1_downsampled", "ISIC_1")])
def test_names_of_reduced_images_get_their_own_advice(row: str, file: str) -> None:
    with pytest.raises(MetadataError, match=f"the first is '{row}', there as '{file}'"):
        tables.check_present(["ISIC_2", row], {"ISIC_2", file}, "folder", "download them")
