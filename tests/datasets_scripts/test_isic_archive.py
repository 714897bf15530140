"""An isic-cli download, and HAM10000 mapped to it: the reader and `build_isic_binary`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import datasets
import pytest

from datasets_scripts import build_isic_binary
from datasets_scripts.command import UserError, run
from datasets_scripts.rows import Row
from datasets_scripts.sources import ham10000, isic_archive
from datasets_scripts.sources.tables import MetadataError
from datasets_scripts.taxonomy import UnknownLabelError

COLUMNS = (
    "isic_id",
    "attribution",
    "copyright_license",
    "age_approx",
    "anatom_site_general",
    "sex",
    "diagnosis_1",
    "diagnosis_3",
    "diagnosis_confirm_type",
    "image_type",
    "lesion_id",
    "patient_id",
)


def download_records() -> list[dict[str, str]]:
    """60 benign, 40 malignant, 5 Indeterminate and 3 without a diagnosis; every fourth is a second view of a lesion."""
    records: list[dict[str, str]] = []
    for label, count in (("Benign", 60), ("Malignant", 40), ("Indeterminate", 5), ("", 3)):
        for number in range(count):
            n = len(records)
            records.append(
                {
                    "isic_id": f"ISIC_{2000 + (n * 41) % 997:07d}",
                    "attribution": "Hospital A, with a comma" if n % 2 else "Hospital B",
                    "copyright_license": ("CC-0", "CC-BY", "CC-BY-NC")[n % 3],
                    "age_approx": "" if number == 0 else str(20 + n % 60),
                    "anatom_site_general": "" if number == 1 else "Head/Neck",
                    "sex": "male" if n % 2 else "",
                    "diagnosis_1": label,
                    "diagnosis_3": {"Benign": "Nevus", "Malignant": "Melanoma, NOS"}.get(label, ""),
                    "diagnosis_confirm_type": "histopathology",
                    "image_type": "dermoscopic",
                    "lesion_id": records[-1]["lesion_id"] if number % 4 == 3 else f"IL_{n:07d}",
                    "patient_id": f"IP_{number // 2:07d}" if label == "Malignant" and number < 6 else "",
                }
            )
    return records


def write_download(folder: Path, records, drawn, save_table, columns=COLUMNS) -> Path:
    folder.mkdir(exist_ok=True)
    for record in records:
        image = drawn.draw(int(record["isic_id"].removeprefix("ISIC_")))
        (folder / f"{record['isic_id']}.jpg").write_bytes(drawn.jpeg(image))
    save_table(folder / "metadata.csv", records, columns)
    (folder / "attribution.txt").write_text("Hospital A\nHospital B\n")
    return folder


@pytest.fixture
def records() -> list[dict[str, str]]:
    return download_records()


@pytest.fixture
def download(tmp_path, records, drawn, save_table) -> Path:
    return write_download(tmp_path / "isic", records, drawn, save_table)


def test_the_download_of_isic_cli(download, records):
    read = isic_archive.read(str(download))
    assert [row.image_id for row in read.rows] == sorted(
        r["isic_id"] for r in records if r["diagnosis_1"][:1] in "BM" and r["diagnosis_1"]
    )
    assert Counter(row.label for row in read.rows) == {"benign": 60, "malignant": 40}
    by_id = {row.image_id: row for row in read.rows}
    first, second = by_id[records[0]["isic_id"]], by_id[records[61]["isic_id"]]
    assert (first.label, first.age, first.sex, first.localization) == ("benign", None, "unknown", "head/neck")
    assert (first.license, first.attribution, first.diagnosis, first.patient_id) == (
        "cc0-1.0",
        "Hospital B",
        "Nevus",
        None,
    )
    assert (second.label, second.age, second.sex, second.localization) == ("malignant", 21.0, "male", "unknown")
    assert (second.license, second.diagnosis) == ("cc-by-4.0", "Melanoma, NOS")
    assert (second.attribution, second.source) == ("Hospital A, with a comma", "ISIC Archive")
    assert (second.patient_id, second.dx_type) == ("IP_0000000", "histopathology")
    assert first.read()[:2] == b"\xff\xd8"
    assert read.warnings == [
        "8 of 108 images are neither benign nor malignant and were dropped: 5 Indeterminate, 3 without a diagnosis_1.",
        "Files that are no images were passed over: 1 (.txt 1).",
    ]


def test_older_exports_prefix_their_columns(tmp_path, download, records, drawn, save_table):
    expected = isic_archive.read(str(download)).rows
    old = {c: f"metadata.{'acquisition' if c == 'image_type' else 'clinical'}.{c}" for c in COLUMNS[3:]}
    old_records = [{old.get(c, c): value for c, value in record.items()} for record in records]
    other = write_download(tmp_path / "old", old_records, drawn, save_table, [old.get(c, c) for c in COLUMNS])
    assert isic_archive.is_download(str(other))
    keys = ("image_id", "label", "lesion_id", "patient_id", "age", "sex", "localization", "diagnosis", "license")
    rows = isic_archive.read(str(other)).rows
    assert [[getattr(row, k) for k in keys] for row in rows] == [[getattr(row, k) for k in keys] for row in expected]


def test_an_image_without_a_lesion_is_its_own_and_the_finest_diagnosis_counts(tmp_path, records, drawn, save_table):
    records = [{**records[0], "lesion_id": "", "diagnosis_2": "Melanocytic", "diagnosis_4": "Nevus, Spitz"}, records[1]]
    folder = write_download(tmp_path / "isic", records, drawn, save_table, (*COLUMNS, "diagnosis_2", "diagnosis_4"))
    row = next(row for row in isic_archive.read(str(folder)).rows if row.image_id == records[0]["isic_id"])
    assert (row.lesion_id, row.diagnosis) == (row.image_id, "Nevus, Spitz")


def test_what_is_left_out_or_odd_is_counted(download, records, save_table):
    for record in records[:4]:
        record["image_type"] = "clinical: close-up"
    save_table(download / "metadata.csv", records[:-8], COLUMNS)
    assert isic_archive.read(str(download)).warnings == [
        "Files that are no images were passed over: 1 (.txt 1).",
        "8 images without a row in the metadata were left out.",
        "4 of 100 images are not dermoscopic (clinical: close-up 4); they were not dropped.",
    ]


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda r: r[0].update(diagnosis_1="Bening"), UnknownLabelError, "unknown diagnosis 'Bening' for isic_binary"),
        (lambda r: r[0].update(age_approx="900"), MetadataError, "has age '900'; give years from 0 to 120"),
        (
            lambda r: r[0].update(isic_id="ISIC_7"),
            MetadataError,
            "1 of 108 ids have no image in .*, the first is 'ISIC_7'",
        ),
    ],
)
def test_a_bad_row_is_named(download, records, save_table, spoil, error, message):
    spoil(records)
    save_table(download / "metadata.csv", records, COLUMNS)
    with pytest.raises(error, match=message):
        isic_archive.read(str(download))


@pytest.mark.parametrize("column", ["isic_id", "diagnosis_1"])
def test_a_missing_column_is_named(download, records, save_table, column):
    save_table(download / "metadata.csv", records, [c for c in COLUMNS if c not in (column, "lesion_id")])
    assert isic_archive.is_download(str(download))
    with pytest.raises(MetadataError, match=f"metadata.csv has no column {column} "):
        isic_archive.read(str(download))


def test_two_tables_are_refused(download, records, save_table):
    save_table(download / "metadata_2.csv", records, COLUMNS)
    with pytest.raises(UserError, match=r"has 2 metadata tables \(metadata.csv, metadata_2.csv\); leave one"):
        isic_archive.read(str(download))


def test_ham10000_is_mapped_and_akiec_dropped(archive):
    assert not isic_archive.is_download(str(archive))
    mapped = isic_archive.from_ham10000(ham10000.read(str(archive)))
    pairs = Counter((row.diagnosis, row.label) for row in mapped.rows)
    assert pairs == {
        ("bcc", "malignant"): 12,
        ("mel", "malignant"): 14,
        ("bkl", "benign"): 14,
        ("df", "benign"): 12,
        ("nv", "benign"): 40,
        ("vasc", "benign"): 12,
    }
    assert mapped.warnings == ["12 images of akiec were dropped: the ISIC Archive calls it Indeterminate."]


def test_the_licence_of_the_whole():
    def row(license: str) -> Row:
        return Row("x", "benign", bytes, "x", license=license)

    assert isic_archive.license_of([row("cc-by-4.0")] * 2) == "cc-by-4.0"
    assert isic_archive.license_of([row("cc-by-4.0"), row("cc0-1.0")]) == "other"
    assert isic_archive.license_of([row("unknown")]) == "other"


def binary_rows(benign: int, malignant: int) -> list[Row]:
    labels = ["benign"] * benign + ["malignant"] * malignant
    return [Row(f"I{(i * 7) % len(labels):05d}", label, bytes, str(i)) for i, label in enumerate(labels)]


def test_the_published_draw_is_balanced_and_70_15_15():
    rows = binary_rows(4001, 1999)
    split = build_isic_binary.published_split(rows, 1500, 42)
    count = Counter(zip(split, [row.label for row in rows], strict=True))
    assert {key: n for key, n in count.items() if key[0] is not None} == {
        ("train", "benign"): 1050,
        ("train", "malignant"): 1050,
        ("validation", "benign"): 225,
        ("validation", "malignant"): 225,
        ("test", "benign"): 225,
        ("test", "malignant"): 225,
    }
    by_id = {row.image_id: part for row, part in zip(rows, split, strict=True)}
    turned = build_isic_binary.published_split(rows[::-1], 1500, 42)
    assert {row.image_id: part for row, part in zip(rows[::-1], turned, strict=True)} == by_id
    assert build_isic_binary.published_split(rows, 1500, 43) != split


def test_too_few_images_of_a_class_name_the_count_and_what_to_do():
    with pytest.raises(UserError, match="--per-class 50, but class 'malignant' has 30 images; give --per-class 30 or"):
        build_isic_binary.published_split(binary_rows(90, 30), 50, 42)
    with pytest.raises(UserError, match="class 'benign' has 9 images; give a larger archive"):
        build_isic_binary.published_split(binary_rows(9, 30), 10, 42)


@pytest.mark.real
def test_the_whole_of_ham10000_is_enough_for_the_published_draw(data_dir):
    mapped = isic_archive.from_ham10000(ham10000.read(str(data_dir / "ham10000")))
    assert Counter(row.label for row in mapped.rows) == {"benign": 8061, "malignant": 1627}
    assert mapped.warnings == ["327 images of akiec were dropped: the ISIC Archive calls it Indeterminate."]
    split = build_isic_binary.published_split(mapped.rows, 1500, 42)
    assert Counter(split) == {None: 6688, "train": 2100, "validation": 450, "test": 450}
    lesions = {row.lesion_id for row, part in zip(mapped.rows, split, strict=True) if part == "train"}
    test = [row for row, part in zip(mapped.rows, split, strict=True) if part == "test"]
    # Of 225 malignant test images 138 have their lesion in train: the published way to split is optimistic.
    leaking = Counter(row.label for row in test if row.lesion_id in lesions)
    assert leaking == {"malignant": 138, "benign": 15}


def test_build_from_a_download(download, records, tmp_path, capsys):
    out = tmp_path / "out"
    build_isic_binary.main(["--source", str(download), "--out", str(out), "--per-class", "20"])
    captured = capsys.readouterr()
    assert "100 images written to" in captured.out
    assert "warning: 8 of 108 images are neither benign nor malignant" in captured.err
    grouped, published = (datasets.load_dataset(str(out), config) for config in ("grouped", "published"))
    assert {split: Counter(of["label"]) for split, of in published.items()} == {
        "train": {0: 14, 1: 14},
        "validation": {0: 3, 1: 3},
        "test": {0: 3, 1: 3},
    }
    assert grouped["train"].features["label"].names == ["benign", "malignant"]
    assert list(grouped["train"].features)[-2:] == ["diagnosis", "patient_id"]
    rows = datasets.concatenate_datasets(list(grouped.values()))
    assert rows.num_rows == 100
    assert Counter(zip(rows["label"], rows["diagnosis"], strict=True)) == {(0, "Nevus"): 60, (1, "Melanoma, NOS"): 40}
    # Malignant 0 and 1 are one patient with two lesions, 2 and 3 another one; 3 is a second view of 2's lesion.
    group_of = dict(zip(rows["image_id"], rows["group_id"], strict=True))
    malignant = [record["isic_id"] for record in records if record["diagnosis_1"] == "Malignant"]
    assert group_of[malignant[0]] == group_of[malignant[1]] == records[60]["lesion_id"]
    assert group_of[malignant[2]] == group_of[malignant[3]] != group_of[malignant[0]]
    audit = json.loads((out / "audit.json").read_text())
    # 100 images less 25 second views are 75 lesions; the three patients of two images join two pairs of lesions.
    assert (audit["duplicates"]["lesions"], audit["duplicates"]["groups"]) == (75, 73)
    card = (out / "README.md").read_text()
    assert "license: other" in card
    assert "20 benign and 20 malignant images, drawn with the seed" in card
    assert "| ISIC Archive | 16 | cc-by-4.0 | Hospital B |" in card


def test_build_from_ham10000_says_what_was_dropped(archive, tmp_path, capsys):
    out = tmp_path / "out"
    build_isic_binary.main(["--source", str(archive), "--out", str(out), "--per-class", "20"])
    captured = capsys.readouterr()
    assert "104 images written to" in captured.out
    assert "warning: 12 images of akiec were dropped" in captured.err
    card = (out / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card
    assert "akiec (actinic keratosis and intraepithelial carcinoma) is Indeterminate in the archive" in card
    assert "left out (12 images)" in card
    published = datasets.load_dataset(str(out), "published")
    assert [published[s].num_rows for s in ("train", "validation", "test")] == [28, 6, 6]
    grouped = datasets.concatenate_datasets(list(datasets.load_dataset(str(out), "grouped").values()))
    assert Counter(grouped["diagnosis"])["nv"] == 40
    assert "patient_id" not in grouped.features


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "nowhere"], "archive folder nowhere does not exist; give the folder of the download"),
        (["--source", "{empty}"], "has neither metadata.csv of isic-cli nor HAM10000_metadata.csv; give the folder"),
        (
            ["--source", "{download}"],
            "--per-class 1500, but class 'malignant' has 40 images; give --per-class 40 or less",
        ),
        (["--source", "{download}", "--per-class", "9"], "'9' is no number of images; give 10 or more"),
        (["--source", "{download}", "--per-class", "many"], "'many' is no number of images"),
    ],
)
def test_bad_input_is_one_line(download, tmp_path, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "photo.jpg").write_bytes(b"x")
    given = [word.format(download=download, empty=tmp_path / "empty") for word in arguments]
    with pytest.raises(SystemExit) as caught:
        run(lambda: build_isic_binary.main([*given, "--out", str(tmp_path / "out")]))
    assert caught.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.glob("out*")) == []
