"""A user's own images: class folders, tables, datasets; their own splits; and what is refused, in one line each."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from datasets_scripts import build_images
from datasets_scripts.command import run
from datasets_scripts.splits import SPLITS, base_folds, dealt_splits
from trainers.model_folder.data import load_splits

CLASSES = ("Muttermal", "keratosis à voir", "黒色腫")
EACH = 24


@pytest.fixture
def folders(tmp_path, drawn) -> Path:
    """Three classes of 24 images each; the files of two classes have the same names."""
    root = tmp_path / "mine"
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for image in range(EACH):
            (root / name / f"IMG_{image:03d}.jpg").write_bytes(drawn.jpeg(drawn.draw(100 * number + image)))
    return root


def records(root: Path) -> list[dict[str, Any]]:
    """A row for each image: two images a patient, an age, a site of the user's own."""
    return [
        {"file": f"{name}/IMG_{image:03d}", "dx": name, "patient": f"p{number}-{image // 2}", "age": 30 + image}
        | {"ward": f"w{image % 2}", "weight": 60.5 + image}
        for number, name in enumerate(CLASSES)
        for image in range(EACH)
    ]


OF_TABLE = ("--image_column", "file", "--label_column", "dx", "--group_column", "patient")


def build(source: Path, out: Path, *more: str) -> dict[str, Any]:
    build_images.main(["--source", str(source), "--out", str(out), *more])
    return dict(json.loads((out / "audit.json").read_text()))


def table(root: Path, save_table: Any, rows: list[dict[str, Any]]) -> Path:
    save_table(root / "list.csv", rows, tuple(rows[0]))
    return root / "list.csv"


def refused(capsys: pytest.CaptureFixture[str], source: Path, *more: str) -> str:
    out = source.parent / "refused"
    with pytest.raises(SystemExit) as left:
        run(lambda: build(source, out, *more))
    assert left.value.code == 2
    assert not out.exists()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_class_folders_of_any_names(folders, tmp_path) -> None:
    audit = build(folders, tmp_path / "out")
    assert audit["labels"] == sorted(CLASSES)
    assert audit["per_class"] == dict.fromkeys(sorted(CLASSES), EACH)
    splits = load_splits(str(tmp_path / "out"), "grouped")
    assert splits.labels == sorted(CLASSES)
    assert splits.label_groups == {}
    assert splits.made is None
    sizes = {split: len(rows) for split, rows in splits.splits.items()}
    assert sum(sizes.values()) == 72
    assert abs(sizes["train"] - 0.6 * 72) <= 3
    assert "malignancy" not in splits.splits["train"].column_names
    card = (tmp_path / "out" / "README.md").read_text()
    assert "p_malignant" not in card
    assert "Melanoma" not in card
    assert not [word for word in ("lesions form", "dermatology", "published") if word in card]


def test_malignant_classes_are_those_that_are_named(folders, tmp_path, capsys) -> None:
    build(folders, tmp_path / "out", "--malignant", "黒色腫")
    splits = load_splits(str(tmp_path / "out"), "grouped")
    assert splits.label_groups == {"Muttermal": "benign", "keratosis à voir": "benign", "黒色腫": "malignant"}
    assert "'Mutermal' is no class: did you mean Muttermal?" in refused(capsys, folders, "--malignant", "Mutermal")


def test_a_table_with_patients_and_further_columns(folders, tmp_path, save_table, capsys) -> None:
    listed = table(folders, save_table, records(folders))
    audit = build(listed, tmp_path / "out", *OF_TABLE, "--keep_columns", "ward", "--license", "cc-by-4.0")
    assert audit["duplicates"]["groups"] == 36
    assert audit["missing"]["age"] == 0
    rows = datasets.concatenate_datasets(list(datasets.load_dataset(str(tmp_path / "out"), "grouped").values()))
    assert set(rows["ward"]) == {"w0", "w1"}
    assert len(set(rows["patient"])) == len(set(rows["group_id"])) == 36
    assert "weight" not in rows.column_names
    assert set(rows["license"]) == {"cc-by-4.0"}
    assert "1 columns of list.csv were not read: weight" in capsys.readouterr().err
    splits = load_splits(str(tmp_path / "out"), "grouped")
    of = [set(splits.column(split, "group_id")) for split in SPLITS]
    assert sum(map(len, of)) == 36
    assert splits.ids == {"column": "patient", "alone": frozenset(), "duplicates": True}


def test_a_table_of_json_lines_and_the_folder_that_holds_it(folders, tmp_path) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in records(folders)]
    (folders / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    words = (*OF_TABLE, "--keep_columns", "weight,ward")
    first = build(folders / "list.jsonl", tmp_path / "a", *words)
    second = build(folders, tmp_path / "b", *words)
    assert first["version"] == second["version"]
    loaded = datasets.load_dataset(str(tmp_path / "b"), "grouped", split="train")
    assert loaded.features["weight"] == datasets.Value("double")
    assert min(loaded["weight"]) >= 60.5


def test_own_splits_are_kept_and_the_missing_one_is_made_of_train(folders, tmp_path, capsys) -> None:
    for name in CLASSES:
        for image in range(EACH):
            split = "Test" if image < 6 else "dev" if image < 9 else "training"
            (tmp_path / "split" / split / name).mkdir(parents=True, exist_ok=True)
            file = f"IMG_{image:03d}.jpg"
            (tmp_path / "split" / split / name / file).write_bytes((folders / name / file).read_bytes())
    audit = build(tmp_path / "split", tmp_path / "out")
    assert list(audit["leak"]) == ["given", "fold0", "fold1", "fold2", "fold3", "fold4"]
    splits = load_splits(str(tmp_path / "out"), "grouped")
    assert splits.config_name == "given"
    assert "'given'" in capsys.readouterr().err
    assert Counter(splits.column("test", "image_id")) == Counter(
        f"Test_{name}_IMG_{image:03d}".replace(" ", "_") for name in CLASSES for image in range(6)
    )
    assert len(splits.splits["validation"]) == 9
    assert len(splits.splits["train"]) + len(splits.splits["calibration"]) == 45
    assert len(splits.splits["calibration"]) >= 6


def test_an_imagefolder_with_metadata_and_own_splits(folders, tmp_path, save_table) -> None:
    root = tmp_path / "imagefolder"
    for split, numbers in (("train", range(16)), ("validation", range(16, 20)), ("test", range(20, 24))):
        rows = []
        for name in CLASSES:
            for image in numbers:
                file = f"{name}_{image}.jpg"
                (root / split).mkdir(parents=True, exist_ok=True)
                (root / split / file).write_bytes((folders / name / f"IMG_{image:03d}.jpg").read_bytes())
                rows.append({"file_name": file, "label": name, "patient_id": f"{name} {image % 8}", "sex": "F"})
        save_table(root / split / "metadata.csv", rows, tuple(rows[0]))
    audit = build(root, tmp_path / "out")
    assert audit["missing"]["sex"] == 0
    # Patients are on both sides: these splits are the user's, so the leak is counted and not refused.
    assert audit["leak"]["given"]["test"]["leaking"] >= 6
    assert audit["leak"]["given"]["calibration"]["leaking"] == 0
    assert len(load_splits(str(tmp_path / "out"), "given").splits["test"]) == 12


def as_dataset(folders: Path) -> datasets.Dataset:
    """The images as a dataset with columns of its own."""
    found = [(str(folders / f"{row['file']}.jpg"), row) for row in records(folders)]
    columns = {"photo": [path for path, _ in found], "diagnosis_code": [CLASSES.index(row["dx"]) for _, row in found]}
    columns["case"] = [row["patient"] for _, row in found]
    return datasets.Dataset.from_dict(columns).cast_column("photo", datasets.Image())


COLUMNS = ("--image_column", "photo", "--label_column", "diagnosis_code", "--group_column", "case")


def test_a_dataset_of_other_columns_whose_labels_are_numbers(folders, tmp_path) -> None:
    whole = as_dataset(folders)
    train = np.arange(72) % 4 > 0
    parts = datasets.DatasetDict(train=whole.select(np.flatnonzero(train)), val=whole.select(np.flatnonzero(~train)))
    parts.save_to_disk(str(tmp_path / "saved"))
    audit = build(tmp_path / "saved", tmp_path / "out", *COLUMNS)
    assert audit["labels"] == ["0", "1", "2"]
    given = load_splits(str(tmp_path / "out"), "grouped")
    assert len(given.splits["validation"]) == 18
    assert set(given.splits) == set(SPLITS)
    file = tmp_path / "one.parquet"
    whole.to_parquet(str(file))
    assert build(file, tmp_path / "other", *COLUMNS)["duplicates"]["groups"] == 36


def test_the_same_image_under_two_labels_and_groups_of_two_labels_are_named(folders, tmp_path, capsys) -> None:
    (folders / CLASSES[1] / "again.jpg").write_bytes((folders / CLASSES[0] / "IMG_003.jpg").read_bytes())
    audit = build(folders, tmp_path / "out")
    said = capsys.readouterr().err
    assert "'again' (keratosis à voir)" in said
    assert "1 of 72 groups have images of two or more classes" in said
    assert audit["duplicates"]["contradicting_labels"] == [["Muttermal_IMG_003", "again"]]


def changed(rows: list[dict[str, Any]], row: int, **values: Any) -> list[dict[str, Any]]:
    return [{**record, **values} if number == row else record for number, record in enumerate(rows)]


@pytest.mark.parametrize(
    ("values", "words", "named"),
    [
        ({}, ("--label_column", "diagnosis"), "no column 'diagnosis'"),
        ({}, ("--label_column", "dxx"), "did you mean dx?"),
        ({}, ("--group_column", "patients"), "no column 'patients': did you mean patient?"),
        ({}, ("--keep_columns", "wards"), "no column 'wards': did you mean ward?"),
        ({"file": "Muttermal/IMG_999"}, (), "1 of 72 rows of list.csv have no image in"),
        ({"file": "IMG_004"}, (), "which may be"),
        ({"file": "Muttermal/IMG_000"}, (), "'IMG_000.jpg': leave one row for each image"),
        ({"file": "Muttermal/IMG_000", "dx": "黒色腫"}, (), "under two labels, Muttermal and 黒色腫"),
        ({"dx": "unknown"}, (), "1 of 72 images of list.csv have no label in column 'dx'"),
        ({"dx": "rare"}, (), "1 classes of list.csv have one image each, such as 'rare'"),
        ({"age": "old"}, (), "has age 'old'"),
    ],
)
def test_a_bad_table_ends_in_one_line(folders, save_table, capsys, values, words, named) -> None:
    listed = table(folders, save_table, changed(records(folders), 5, **values))
    assert named in refused(capsys, listed, *OF_TABLE, *words)


def test_one_class_is_refused(folders, tmp_path, capsys) -> None:
    root = tmp_path / "one"
    (root / "Muttermal").mkdir(parents=True)
    for image in range(3):
        file = f"IMG_{image:03d}.jpg"
        (root / "Muttermal" / file).write_bytes((folders / "Muttermal" / file).read_bytes())
    assert "has one class, 'Muttermal'" in refused(capsys, root)


def test_a_table_beside_class_folders_must_be_explained(folders, save_table, capsys) -> None:
    table(folders, save_table, records(folders))
    line = refused(capsys, folders)
    assert "name its columns with --image_column and --label_column" in line
    assert "file, dx, patient" in line


def test_a_class_may_be_called_as_a_split_is(folders, tmp_path) -> None:
    (folders / CLASSES[0]).rename(folders / "Test")
    assert build(folders, tmp_path / "out")["labels"] == sorted(["Test", *CLASSES[1:]])


def test_a_thousand_classes_of_three_images_each_have_an_image_to_learn_from() -> None:
    labels = [f"class {number // 3}" for number in range(3000)]
    groups = [f"g{number}" for number in range(3000)]
    folds = base_folds(labels, groups, 42)
    assert set(np.array(labels)[folds < 12]) == set(labels)
    assert np.bincount(folds, minlength=20).max() <= 170
    splits = dealt_splits(groups, labels, groups, SPLITS[1:], 42)
    assert Counter(splits)["test"] == pytest.approx(450, abs=30)
    assert {label for label, split in zip(labels, splits, strict=True) if split == "train"} == set(labels)


def test_a_rare_class_beside_large_ones_has_an_image_to_learn_from() -> None:
    labels = ["a"] * 100 + ["b"] * 100 + [f"rare {number // 2}" for number in range(40)]
    groups = [str(number) for number in range(240)]
    for seed in range(5):
        folds = base_folds(labels, groups, seed)
        assert set(np.array(labels)[folds < 12]) == set(labels)
