from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import datasets
import pytest

from datasets_scripts.command import UserError
from datasets_scripts.sources import ham10000
from datasets_scripts.sources.ham10000_table import COLUMNS, without_repeats
from datasets_scripts.sources.tables import MetadataError
from datasets_scripts.taxonomy import UnknownLabelError

TABLE = "HAM10000_metadata.csv"


def zipped(folder: Path) -> None:
    """Put a folder into a zip file of its name beside it, and remove it."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    shutil.rmtree(folder)


def content(rows):
    return [(row.image_id, row.label, row.lesion_id, row.age, row.sex, row.localization, row.read()) for row in rows]


def test_the_public_layout(archive, ham_records):
    read = ham10000.read(str(archive))
    assert read.warnings == []
    assert [row.image_id for row in read.rows] == [record["image_id"] for record in ham_records]
    first = read.rows[0]
    assert (first.label, first.lesion_id, first.source, first.license) == (
        "akiec",
        ham_records[0]["lesion_id"],
        "HAM10000",
        "cc-by-nc-4.0",
    )
    assert first.age == float(ham_records[0]["age"])
    assert first.read()[:2] == b"\xff\xd8"
    assert "Tschandl" in first.attribution
    assert sum(row.read_mask is not None for row in read.rows) == 5
    assert first.read_mask is not None
    assert first.read_mask()[:4] == b"\x89PNG"
    assert all(row.read_mask is None for row in ham10000.read(str(archive), with_masks=False).rows)


def test_unknown_values_become_none_or_unknown(archive):
    rows = ham10000.read(str(archive)).rows
    assert [row.image_id for row in rows if row.age is None] != []
    assert {row.sex for row in rows} == {"female", "male", "unknown"}
    assert {row.localization for row in rows} == {"unknown", "back"}


def test_zipped_parts_and_one_folder_give_the_same_rows(make_archive):
    unpacked = make_archive(name="unpacked")
    expected = content(ham10000.read(str(unpacked)).rows)
    parts = make_archive(name="zipped")
    for folder in [path for path in parts.iterdir() if path.is_dir()]:
        zipped(folder)
    assert sorted(path.suffix for path in parts.iterdir()) == [".csv", ".zip", ".zip", ".zip"]
    read = ham10000.read(str(parts))
    assert content(read.rows) == expected
    assert sum(row.read_mask is not None for row in read.rows) == 5
    flat = make_archive(name="flat")
    for folder in [path for path in flat.iterdir() if path.is_dir()]:
        for path in folder.iterdir():
            path.rename(flat / path.name)
        folder.rmdir()
    assert content(ham10000.read(str(flat)).rows) == expected


def test_the_whole_archive_in_one_zip_file(make_archive, tmp_path):
    folder = make_archive()
    packed = Path(shutil.make_archive(str(tmp_path / "all"), "zip", folder))
    assert content(ham10000.read(str(packed)).rows) == content(ham10000.read(str(folder)).rows)


def test_tab_separated_metadata_with_byte_order_mark_and_no_suffix(make_archive, ham_records):
    folder = make_archive()
    (folder / TABLE).unlink()
    lines = ["\t".join((*COLUMNS, "dataset"))]
    lines += ["\t".join([*(record[c] for c in COLUMNS), "vidir_modern"]) for record in ham_records]
    (folder / "HAM10000_metadata").write_text("\r\n".join(lines), encoding="utf-8-sig")
    assert len(ham10000.read(str(folder)).rows) == len(ham_records)


def test_files_that_desktops_leave_behind_are_no_images(archive, ham_records):
    (archive / "HAM10000_images_part_1" / f"._{ham_records[0]['image_id']}.jpg").write_bytes(b"junk")
    (archive / "__MACOSX").mkdir()
    (archive / "__MACOSX" / "x.jpg").write_bytes(b"junk")
    (archive / "notes.txt").write_text("x")
    assert ham10000.read(str(archive)).warnings == ["Files that are no images were passed over: 3 (hidden 2, .txt 1)."]


def test_what_is_not_read_of_the_archive_is_counted(archive, ham_records, save_table):
    for number, record in enumerate(ham_records):
        record["sex"] = "w" if number < 3 else "female"
        record["dataset"] = "vidir_modern"
    save_table(archive / TABLE, ham_records, (*COLUMNS, "dataset"))
    part = archive / "HAM10000_images_part_1"
    image = part / f"{ham_records[0]['image_id']}.jpg"
    shutil.copy(image, archive / image.name)  # the same name again
    shutil.copy(image, part / "ISIC_9999999")  # an image without an ending, and without a row
    masks = archive / "HAM10000_segmentations_lesion_tschandl"
    shutil.copy(next(masks.iterdir()), masks / "ISIC_8888888_segmentation.png")
    zipped(masks)
    with zipfile.ZipFile(masks.with_suffix(".zip"), "a") as outer:
        outer.writestr("inner.zip", b"PK")
    read = ham10000.read(str(archive))
    assert sum(row.read_mask is not None for row in read.rows) == 5
    assert read.warnings == [
        "1 images without a row in the metadata were left out.",
        "1 masks without an image were left out.",
        "3 values of sex are neither female nor male and count as unknown ('w' 3).",
        f"1 columns of {TABLE} were not read: dataset.",
        "Files that are no images were passed over: 1 (.zip 1).",
        "1 images have the name of another one and were left out; the first counts.",
    ]


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_a_damaged_member_of_a_zip_file_is_named(archive, packing):
    folder = archive / "HAM10000_images_part_1"
    name = sorted(path.name for path in folder.iterdir())[0]
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", packing) as packed:
        for image in sorted(folder.iterdir()):
            packed.write(image, image.name)
        start = packed.infolist()[0].header_offset + 30 + len(name)
    shutil.rmtree(folder)
    data = bytearray(path.read_bytes())
    data[start : start + 60] = bytes(range(60, 120))
    path.write_bytes(data)
    row = next(row for row in ham10000.read(str(archive)).rows if f"{row.image_id}.jpg" == name)
    with pytest.raises(UserError, match=f"{name} cannot be unpacked"):
        row.read()


def test_a_file_that_is_absurdly_large_is_not_read(archive, monkeypatch):
    monkeypatch.setattr("datasets_scripts.sources.archive_files.LARGEST_FILE", 1000)
    with pytest.raises(UserError, match=rf"{TABLE} has .* MB, at most"):
        ham10000.read(str(archive))


def test_an_oversampled_table_is_reduced_with_one_warning(make_archive, ham_records, save_table):
    folder = make_archive()
    expected = content(ham10000.read(str(folder)).rows)
    oversampled = ham_records + [r for r in ham_records if r["dx"] != "nv"] * 3
    save_table(folder / TABLE, oversampled)
    read = ham10000.read(str(folder))
    assert content(read.rows) == expected
    repeats = len(oversampled) - len(ham_records)
    assert read.warnings == [
        f"{repeats} repeated rows of {len(oversampled)} were dropped; {len(ham_records)} images remain."
    ]


@pytest.mark.parametrize(("column", "value"), [("dx", "mel"), ("lesion_id", "HAM_9999999")])
def test_contradicting_repeats_are_refused(archive, ham_records, save_table, column, value):
    save_table(archive / TABLE, [*ham_records, {**ham_records[0], column: value}])
    with pytest.raises(MetadataError, match=f"{ham_records[0]['image_id']} occurs with {column} .* and with '{value}'"):
        ham10000.read(str(archive))


def test_repeats_that_differ_in_age_alone_keep_the_first_and_are_counted(ham_records):
    kept, warnings = without_repeats([*ham_records, {**ham_records[0], "age": "99.0"}])
    assert kept == ham_records
    assert "1 repeated rows" in warnings[0]
    assert "1 of them differ in age" in warnings[0]


def test_a_mirror_is_read_whatever_its_splits_and_spellings(make_mirror, archive, ham_records):
    mirror = make_mirror(ham_records)
    read = ham10000.read(str(mirror))
    repeats = len(ham_records[::3]) + len(ham_records[::7])
    total = len(ham_records) + repeats
    assert read.warnings == [f"{repeats} repeated rows of {total} were dropped; {len(ham_records)} images remain."]
    by_id = {row[0]: row for row in content(read.rows)}
    assert by_id == {row[0]: row for row in content(ham10000.read(str(archive)).rows)}


def test_contradicting_rows_of_a_mirror_are_refused(make_mirror, ham_records):
    mirror = make_mirror([*ham_records, {**ham_records[0], "dx": "nv"}])
    with pytest.raises(MetadataError, match=r"occurs with dx 'actinic_keratoses' and with 'melanocytic_Nevi'"):
        ham10000.read(str(mirror))


@pytest.mark.parametrize("missing", [-1, None])
def test_images_of_a_mirror_without_a_diagnosis_name_their_split_and_count(make_mirror, ham_records, missing):
    mirror = make_mirror(ham_records)
    path = next(mirror.rglob("test*.parquet"))
    table = datasets.Dataset.from_parquet(str(path))
    kind = datasets.ClassLabel(names=sorted(set(table["dx"][:])))
    coded = [missing if row < 3 else kind.str2int(name) for row, name in enumerate(table["dx"][:])]
    table.remove_columns("dx").add_column("dx", coded, feature=kind).to_parquet(str(path))
    text = rf"{path.name} .* 3 of {len(coded)} images without a diagnosis .* first is '{table['image_id'][0]}'"
    with pytest.raises(MetadataError, match=text):
        ham10000.read(str(mirror))


def test_a_coded_column_of_a_mirror_without_a_value_is_unknown(make_mirror, ham_records):
    mirror = make_mirror(ham_records)
    for path in mirror.rglob("*.parquet"):
        table = datasets.Dataset.from_parquet(str(path))
        kind = datasets.ClassLabel(names=["female", "male"])
        coded = [-1 if sex == "unknown" else kind.str2int(sex) for sex in table["sex"][:]]
        table.remove_columns("sex").add_column("sex", coded, feature=kind).to_parquet(str(path))
    expected = {record["image_id"]: record["sex"] for record in ham_records}
    assert {row.image_id: row.sex for row in ham10000.read(str(mirror)).rows} == expected


def test_one_spelling_or_another_of_a_diagnosis_is_no_contradiction(ham_records):
    kept, _ = without_repeats([ham_records[0], {**ham_records[0], "dx": "actinic_keratoses"}])
    assert kept == ham_records[:1]


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda folder: shutil.rmtree(folder), UserError, "does not exist"),
        (lambda folder: (shutil.rmtree(folder), folder.mkdir()), UserError, "is empty"),
        (lambda folder: (folder / TABLE).unlink(), UserError, "has no HAM10000_metadata"),
        (lambda folder: (folder / TABLE).write_text(""), MetadataError, r"has no column lesion_id, .*it has: none"),
        (lambda folder: (folder / TABLE).write_text(",".join(COLUMNS)), MetadataError, "has no rows"),
        (lambda folder: (folder / TABLE).write_bytes(b"\xff\xfe\x00\x81" * 9), MetadataError, "not UTF-8"),
        (lambda folder: shutil.rmtree(folder / "HAM10000_images_part_2"), MetadataError, "58 of 116 ids have no image"),
        (
            lambda folder: (folder / "HAM10000_images_part_1.zip").write_bytes(b"PK\x03\x04 cut off"),
            UserError,
            "no readable zip file.*download it again",
        ),
        (
            lambda folder: (folder / "b").mkdir() or shutil.copy(folder / TABLE, folder / "b" / TABLE),
            UserError,
            "2 metadata tables",
        ),
    ],
)
def test_spoilt_archives(archive, spoil, error, message):
    spoil(archive)
    with pytest.raises(error, match=message):
        ham10000.read(str(archive))


def test_a_file_is_no_archive(archive):
    with pytest.raises(UserError, match="is a file; give the folder"):
        ham10000.read(str(archive / TABLE))


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(archive, ham_records, save_table, column):
    save_table(archive / TABLE, ham_records, tuple(c for c in COLUMNS if c != column))
    with pytest.raises(MetadataError, match=f"has no column {column} "):
        ham10000.read(str(archive))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dx": "psoriasis"}, UnknownLabelError, "unknown diagnosis 'psoriasis'"),
        ({"dx": ""}, UnknownLabelError, "unknown diagnosis ''"),
        ({"age": "old"}, MetadataError, "has age 'old'; give years from 0 to 120"),
        ({"age": "-5"}, MetadataError, "has age '-5'"),
        ({"image_id": "ISIC_7777777"}, MetadataError, r"1 of 116 ids have no image in .*'ISIC_7777777'"),
        ({"lesion_id": ""}, MetadataError, "a row has no lesion_id"),
    ],
)
def test_a_bad_row_is_named(archive, ham_records, save_table, change, error, message):
    save_table(archive / TABLE, [*ham_records[:-1], {**ham_records[-1], **change}])
    with pytest.raises(error, match=message):
        ham10000.read(str(archive))


def test_images_without_a_row_are_left_out_with_a_warning(archive, ham_records, save_table):
    save_table(archive / TABLE, ham_records[:-3])
    read = ham10000.read(str(archive))
    assert len(read.rows) == len(ham_records) - 3
    assert read.warnings == ["3 images without a row in the metadata were left out."]


def test_a_damaged_zip_member_is_named_when_read(make_archive, ham_records):
    folder = make_archive()
    zipped(folder / "HAM10000_images_part_1")
    packed = folder / "HAM10000_images_part_1.zip"
    data = bytearray(packed.read_bytes())
    data[200:260] = bytes(60)  # inside the first image's stored bytes
    packed.write_bytes(data)
    rows = {row.image_id: row for row in ham10000.read(str(folder)).rows}
    damaged = min(record["image_id"] for record in ham_records[:58])
    with pytest.raises(UserError, match=rf"HAM10000_images_part_1\.zip: {damaged}\.jpg cannot be unpacked.*CRC"):
        rows[damaged].read()


def test_parquet_without_the_columns_or_no_parquet_at_all(tmp_path, make_mirror, ham_records):
    folder = tmp_path / "other"
    folder.mkdir()
    datasets.Dataset.from_dict({"image_id": ["a"], "dx": ["nv"]}).to_parquet(folder / "a.parquet")
    with pytest.raises(MetadataError, match="has no column lesion_id, dx_type, age, sex, localization"):
        ham10000.read(str(folder))
    (folder / "a.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match=r"Parquet files of .* cannot be read"):
        ham10000.read(str(folder))
    mirror = make_mirror(ham_records)
    for path in mirror.rglob("*.parquet"):
        datasets.Dataset.from_parquet(str(path)).remove_columns("image").to_parquet(path)
    with pytest.raises(UserError, match="has no column image"):
        ham10000.read(str(mirror))


def test_a_name_that_is_neither_folder_nor_reachable_dataset():
    with pytest.raises(UserError, match="'nobody/nothing' is neither a folder here nor a dataset"):
        ham10000.read("nobody/nothing")
