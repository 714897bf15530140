"""Listing images and tables: what counts as an image, which row is whose, and that odd names come through."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from datasets_scripts.command import UserError
from trainers.model_folder.source import printable
from trainers.scoring.answers import answer_columns, flat, merge, part_file, probabilities, write_part
from trainers.scoring.files import Listed, Table, one_image, read_listing, read_parts, walk_images, write_listing
from trainers.scoring.folder import file_notes
from trainers.scoring.workers import part_size

LABELS = ["mel", "nv"]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode("utf-8", "surrogateescape"))


def listed(folder: Path, **tables: Table | None) -> tuple[list[Listed], str]:
    out = io.StringIO()
    found = write_listing(walk_images(folder), folder, out, tables.get("metadata"), tables.get("labels"))
    (folder.parent / "listing").write_text(out.getvalue(), encoding="ascii")
    rows = list(read_listing(folder.parent / "listing"))
    assert found.images == len(rows)
    return rows, found.sha256


def test_images_are_found_in_all_folders_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    touch(folder, "b.JPG", "a.png", "z/1.webp", "c/d/2.tiff", "c/0.bmp")
    touch(folder, "notes.txt", ".hidden.png", ".cache/3.png", "archive.zip", "png", "out/figures/chart.png")
    (folder / "link.png").symlink_to(folder / "nowhere")
    (folder / "round").symlink_to(folder)
    found = list(walk_images(folder, without=(folder / "out",)))
    names = ["a.png", "b.JPG", "link.png", "c/0.bmp", "c/d/2.tiff", "z/1.webp"]
    assert found == [(name, -1 if name == "link.png" else len(name)) for name in names]
    assert list(one_image(folder / "c" / "0.bmp")) == [("0.bmp", 7)]


def test_an_image_is_recognised_by_content_and_the_rest_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    touch(folder, "a.jfif", "b.jpe", "notes.txt", ".hidden.png", ".cache/3.png", "archive.zip", "__MACOSX/a.jpg")
    black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "white")
    black.save(folder / "c", "JPEG")
    for name in ("d", "e.tif"):
        black.save(folder / name, "TIFF", save_all=True, append_images=[white])
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    passed_over: Counter[str] = Counter()
    out = io.StringIO()
    found = write_listing(walk_images(folder, (), passed_over), folder, out, None, None)
    assert [json.loads(line)[0] for line in out.getvalue().splitlines()] == ["a.jfif", "b.jpe", "c", "d", "e.tif"]
    assert found.several == 2
    assert +passed_over == {
        ".txt": 1, ".zip": 1, "hidden": 1, "no ending": 1, "hidden folders": 2, "links to folders": 1,
    }  # fmt: skip
    assert [note.rpartition(": ")[2][:1] for note in file_notes(found.several, passed_over)] == ["2", "7"]


def test_the_fingerprint_is_of_names_sizes_and_metadata_not_of_labels(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    touch(folder, "a.png", "b.png")
    table = tmp_path / "table.csv"
    table.write_text("image,age,label\na,40,mel\n")
    _, plain = listed(folder)
    assert listed(folder)[1] == plain
    labels = tmp_path / "labels.csv"
    labels.write_text("image,label\na,mel\n")
    assert listed(folder, labels=Table(labels, "--labels"))[1] == plain
    # The age can choose the thresholds of a model that has them by group.
    assert listed(folder, labels=Table(table, "--labels"))[1] != plain
    _, with_age = listed(folder, metadata=Table(table, "--metadata"))
    table.write_text("image,age,label\na,41,mel\n")
    seen = {plain, with_age, listed(folder, metadata=Table(table, "--metadata"))[1]}
    (folder / "b.png").write_bytes(b"longer than it was")
    seen.add(listed(folder)[1])
    touch(folder, "c.png")
    seen.add(listed(folder)[1])
    assert len(seen) == 5


def test_a_row_is_found_by_path_name_or_stem(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    touch(folder, "a.png", "s/a.png", "s/b.jpg", "s/c.v2.png", "d.png", "e.png")
    table = tmp_path / "table.csv"
    table.write_text("image\tage\n./a.png\t1\ns\\a.png\t2\nb\t3\nc.v2\t4\nd.png\t5\n")
    rows, _ = listed(folder, metadata=Table(table, "--metadata"))
    ages = {one.image: one.metadata and one.metadata["age"] for one in rows}
    assert ages == {"a.png": "1", "s/a.png": "2", "s/b.jpg": "3", "s/c.v2.png": "4", "d.png": "5", "e.png": None}


def test_a_name_of_several_images_is_refused_unless_one_is_it_in_full(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    touch(folder, "p/a.png", "q/a.png")
    table = tmp_path / "table.csv"
    table.write_text("image,age\na.png,1\n")
    with pytest.raises(UserError, match=r"'a.png' may be 'p/a.png' or 'q/a.png': give the path below"):
        listed(folder, metadata=Table(table, "--metadata"))
    touch(folder, "a.png")
    rows, _ = listed(folder, metadata=Table(table, "--metadata"))
    assert [one.image for one in rows if one.metadata] == ["a.png"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no image"):
        write_listing(walk_images(tmp_path), tmp_path, io.StringIO(), None, None)


def test_names_that_are_no_utf8_come_through(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    names = ['é, "quoted"\n.png', os.fsdecode(b"\xff.png")]
    touch(folder, *names)
    found, _ = listed(folder)
    assert sorted(one.image for one in found) == sorted(names)
    assert all((folder / one.image).is_file() for one in found)
    assert printable(names[1]) == "\\udcff.png"
    write_part(
        [{**flat(printable(n), None, LABELS, "odd"), "sha256": "0"} for n in names], LABELS, part_file(tmp_path, 0)
    )
    merged = merge(tmp_path, 1, LABELS, tmp_path)
    assert merged.errors == 2
    assert pq.read_table(tmp_path / "answers.parquet")["image"].to_pylist() == [names[0], "\\udcff.png"]


def test_parts_are_cut_alike_whichever_are_wanted(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    touch(folder, *(f"{number:02d}.png" for number in range(10)))
    listed(folder)
    parts = dict(read_parts(tmp_path / "listing", 4, {0, 2}))
    assert {number: [one.image[:2] for one in part] for number, part in parts.items()} == {
        0: ["00", "01", "02", "03"],
        2: ["08", "09"],
    }
    assert [part_size(size) for size in (1, 32, 48, 128, 500)] == [128, 128, 96, 128, 500]


def answer(mel: float, is_ood: bool | None) -> dict:
    rest = dict.fromkeys(("p_malignant", "predictive_entropy", "aleatoric", "epistemic", "band", "ood_score"))
    verdict = {
        "prediction_set": ["mel", "nv"],
        "is_ood": is_ood,
        "abstain": is_ood,
        "reason": "answered",
        "message": ".",
    }
    return {"predicted": "mel", "probabilities": {"mel": mel, "nv": 1 - mel}, **rest, **verdict, "message": "."}


def test_merging_keeps_order_counts_and_digits(tmp_path: Path) -> None:
    rows = [
        flat("a", answer(1 / 3, False), LABELS),
        flat("b", None, LABELS, "broken"),
        flat("c", answer(0.1, True), LABELS),
    ]
    for number, row in enumerate(rows):
        write_part([{**row, "sha256": f"sum{number}"}], LABELS, part_file(tmp_path, number))
    merged = merge(tmp_path, 3, LABELS, tmp_path)
    assert (merged.images, merged.errors) == (3, 1)
    assert merged.counts["is_ood"] == {"false": 1, "true": 1}
    assert merged.counts["band"] == {"none": 2}
    lines = (tmp_path / "answers.csv").read_text().splitlines()
    assert lines[1] == f"a,mel,{1 / 3!r},{1 - 1 / 3!r},,,,,,mel nv,,false,false,answered,.,,,"
    assert lines[2] == "b,,,,,,,,,,,,,,,,,broken"
    assert probabilities(tmp_path, 3, LABELS).tolist() == [[1 / 3, 1 - 1 / 3]]


# Names that are keys of an answer, or parts of one, or no plain words.
AWKWARD = [
    "malignant",
    "image",
    "ood_score",
    "band",
    "error",
    "p_malignant",
    "a.b",
    "a",
    "Leberfleck ä",
    "=1+1",
    "",
    "ß\n",
]


def test_no_class_name_makes_a_column_twice(tmp_path: Path) -> None:
    shares = {name: (number + 1) / 78 for number, name in enumerate(AWKWARD)}
    row = {**answer(0.5, False), "predicted": "malignant", "probabilities": shares, "p_malignant": 0.25}
    row["prediction_set"] = ["Leberfleck ä", "malignant"]
    write_part([{**flat("a.png", row, AWKWARD), "sha256": "0"}], AWKWARD, part_file(tmp_path, 0))
    merge(tmp_path, 1, AWKWARD, tmp_path)
    names = answer_columns(AWKWARD).names
    assert len(set(names)) == len(names)
    stored = pq.read_table(tmp_path / "answers.parquet").to_pylist()[0]
    assert stored["p_malignant"] == 0.25
    assert [stored[f"prob_{name}"] for name in AWKWARD] == list(shares.values())
    assert probabilities(tmp_path, 1, AWKWARD).tolist() == [list(shares.values())]
    written = next(csv.DictReader((tmp_path / "answers.csv").open(encoding="utf-8", newline="")))
    assert (float(written["p_malignant"]), float(written["prob_malignant"])) == (0.25, 1 / 78)
    assert written["prediction_set"] == '"Leberfleck ä" malignant'


def test_no_cell_of_the_csv_is_a_formula(tmp_path: Path) -> None:
    names = ["=cmd|' C calc'!A0.jpg", "@SUM(1).jpg", "+1.jpg", "-2+3.jpg", "bell\x07\r\n.jpg"]
    write_part(
        [{**flat(name, answer(0.5, False), LABELS), "sha256": "0"} for name in names], LABELS, part_file(tmp_path, 0)
    )
    merge(tmp_path, 1, LABELS, tmp_path)
    rows = list(csv.reader((tmp_path / "answers.csv").open(encoding="utf-8", newline="")))
    assert [row[0] for row in rows[1:]] == [*(f"'{name}" for name in names[:4]), "bell\\x07\\r\\n.jpg"]
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row)
    assert pq.read_table(tmp_path / "answers.parquet")["image"].to_pylist() == names
