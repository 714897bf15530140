"""The ISIC 2017 challenge in both layouts, HAM10000 in its shape, and `build_isic2017`."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from PIL import Image

from datasets_scripts import build_isic2017
from datasets_scripts.command import UserError, run
from datasets_scripts.sources import ham10000, isic2017
from datasets_scripts.sources.tables import MetadataError
from datasets_scripts.taxonomy import UnknownLabelError

# split -> class -> images; the challenge's names for both
COUNTS = {
    "Training": {"mel": 12, "nv": 40, "sk": 10},
    "Validation": {"mel": 2, "nv": 6, "sk": 3},
    "Test_v2": {"mel": 4, "nv": 8, "sk": 5},
}
SPLITS = {"Training": "train", "Validation": "validation", "Test_v2": "test"}
FLAGS = {"mel": ("1.0", "0.0"), "nv": ("0.0", "0.0"), "sk": ("0.0", "1.0")}
TRUTH = ("image_id", "melanoma", "seborrheic_keratosis")


def records(part: str) -> list[dict[str, str]]:
    start = 100 * list(COUNTS).index(part)
    labels = [label for label, count in COUNTS[part].items() for _ in range(count)]
    return [
        {
            "image_id": f"ISIC_{start + n:07d}",
            "melanoma": FLAGS[label][0],
            "seborrheic_keratosis": FLAGS[label][1],
            "is": label,
        }
        for n, label in enumerate(labels)
    ]


@pytest.fixture
def challenge(tmp_path, drawn, save_table) -> Path:
    """The challenge's own layout: images, superpixels and metadata in one folder, the ground truth beside it."""
    root = tmp_path / "challenge"
    for part in COUNTS:
        folder = root / f"ISIC-2017_{part}_Data"
        folder.mkdir(parents=True)
        for record in records(part):
            image_id = record["image_id"]
            image = drawn.draw(int(image_id.removeprefix("ISIC_")))
            (folder / f"{image_id}.jpg").write_bytes(drawn.jpeg(image))
            (folder / f"{image_id}_superpixels.png").write_bytes(drawn.png(image))
        save_table(root / f"ISIC-2017_{part}_Part3_GroundTruth.csv", records(part), TRUTH)
    people = [
        {
            "image_id": r["image_id"],
            "age_approximate": "unknown" if n == 0 else "55",
            "sex": "unknown" if n == 1 else "female",
        }
        for n, r in enumerate(records("Training"))
    ]
    table = root / "ISIC-2017_Training_Data" / "ISIC-2017_Training_Data_metadata.csv"
    save_table(table, people, ("image_id", "age_approximate", "sex"))
    masks = root / "ISIC-2017_Training_Part1_GroundTruth"
    masks.mkdir()
    Image.new("L", (40, 30), 255).save(masks / "ISIC_0000000_segmentation.png")
    return root


@pytest.fixture
def folders(tmp_path, drawn) -> Callable[..., Path]:
    names = {"mel": "melanoma", "nv": "nevus", "sk": "seborrheic_keratosis"}

    def make(splits=("train", "valid", "test")) -> Path:
        root = tmp_path / "data"
        for part, split in zip(COUNTS, ("train", "valid", "test"), strict=True):
            for record in records(part) if split in splits else []:
                path = root / split / names[record["is"]] / f"{record['image_id']}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(drawn.jpeg(drawn.draw(int(record["image_id"].removeprefix("ISIC_")))))
        return root

    return make


def content(archive) -> list[tuple]:
    assert archive.splits is not None
    return [(r.image_id, r.label, r.lesion_id, r.read(), s) for r, s in zip(archive.rows, archive.splits, strict=True)]


def test_the_challenges_own_layout(challenge):
    read = isic2017.read(str(challenge))
    assert read.warnings == [f"{len(read.rows)} superpixel images were left out."]
    expected = {r["image_id"]: (r["is"], SPLITS[part]) for part in COUNTS for r in records(part)}
    found = {row.image_id: (row.label, split) for row, split in zip(read.rows, read.splits, strict=True)}
    assert found == expected
    first, second = read.rows[:2]
    assert (first.age, first.sex, second.age, second.sex) == (None, "female", 55.0, "unknown")
    assert (read.rows[-1].age, read.rows[-1].sex) == (None, "unknown")
    assert (first.lesion_id, first.source, first.license) == (first.image_id, "ISIC 2017 challenge", "cc0-1.0")
    assert [row.image_id for row in read.rows if row.read_mask is not None] == ["ISIC_0000000"]


def test_folders_and_zip_files_give_the_same_rows(challenge, folders):
    expected = content(isic2017.read(str(challenge)))
    assert content(isic2017.read(str(folders()))) == expected
    assert content(isic2017.read(str(folders().parent / "data"))) == expected
    for folder in [path for path in challenge.iterdir() if path.name.endswith("_Data")]:
        shutil.make_archive(str(folder), "zip", challenge, folder.name)
        shutil.rmtree(folder)
    read = isic2017.read(str(challenge))
    assert content(read) == expected
    assert read.rows[1].age == 55.0


def test_without_one_of_the_three_sets_there_is_no_published_split(folders, challenge):
    read = isic2017.read(str(folders(("train", "valid"))))
    assert read.splits is None
    assert read.warnings == ["The source has no test images, so its own splits are not followed."]
    (challenge / "ISIC-2017_Test_v2_Part3_GroundTruth.csv").unlink()
    read = isic2017.read(str(challenge))
    assert read.splits is None
    assert "17 images without a row in the ground truth were left out." in read.warnings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"melanoma": "1.0", "seborrheic_keratosis": "1.0"},
            "melanoma '1.0' and seborrheic_keratosis '1.0'; give 0 or 1",
        ),
        ({"melanoma": "0.5"}, "ISIC_0000000 has melanoma '0.5'"),
        ({"melanoma": "yes"}, "ISIC_0000000 has melanoma 'yes'"),
        (
            {"image_id": "ISIC_9999999"},
            "1 of 62 ids have no image in .*'ISIC_9999999'; put ISIC-2017_Training_Data .* beside",
        ),
    ],
)
def test_a_bad_row_is_named(challenge, save_table, change, message):
    own = records("Training")
    own[0].update(change)
    save_table(challenge / "ISIC-2017_Training_Part3_GroundTruth.csv", own, TRUTH)
    with pytest.raises(MetadataError, match=message):
        isic2017.read(str(challenge))


def test_a_missing_column_or_an_impossible_age_is_named(challenge, save_table):
    table = challenge / "ISIC-2017_Training_Part3_GroundTruth.csv"
    save_table(table, records("Training"), TRUTH[:2])
    with pytest.raises(MetadataError, match=r"Part3_GroundTruth\.csv has no column seborrheic_keratosis "):
        isic2017.read(str(challenge))
    save_table(table, records("Training"), TRUTH)
    people = challenge / "ISIC-2017_Training_Data" / "ISIC-2017_Training_Data_metadata.csv"
    people.write_text("image_id,age_approximate,sex\nISIC_0000000,-3,male\n")
    with pytest.raises(MetadataError, match="ISIC_0000000 has age '-3'"):
        isic2017.read(str(challenge))


def test_an_unknown_class_folder_is_named(folders):
    root = folders()
    (root / "valid" / "nevus").rename(root / "valid" / "psoriasis")
    with pytest.raises(UnknownLabelError, match=r"folder of valid/psoriasis/ISIC_.*'psoriasis'.*known: mel, nv, sk"):
        isic2017.read(str(root))


def test_ham10000_in_the_same_shape_keeps_the_name_bkl(archive):
    mapped = isic2017.from_ham10000(ham10000.read(str(archive)))
    assert Counter(row.label for row in mapped.rows) == {"mel": 14, "nv": 40, "bkl": 14}
    assert mapped.warnings == ["48 images of other classes were dropped (akiec 12, bcc 12, df 12, vasc 12)."]


@pytest.mark.real
def test_the_whole_of_ham10000_in_the_same_shape(data_dir):
    mapped = isic2017.from_ham10000(ham10000.read(str(data_dir / "ham10000")))
    assert Counter(row.label for row in mapped.rows) == {"mel": 1113, "nv": 6705, "bkl": 1099}
    assert mapped.warnings == ["1098 images of other classes were dropped (akiec 327, bcc 514, df 115, vasc 142)."]


def test_build_from_the_challenge(challenge, tmp_path, capsys):
    out = tmp_path / "out"
    build_isic2017.main(["--source", str(challenge), "--out", str(out)])
    assert "90 images written to" in capsys.readouterr().out
    published = datasets.load_dataset(str(out), "published")
    assert published["train"].features["label"].names == ["mel", "nv", "sk"]
    assert {split: Counter(of["label"]) for split, of in published.items()} == {
        "train": {0: 12, 1: 40, 2: 10},
        "validation": {0: 2, 1: 6, 2: 3},
        "test": {0: 4, 1: 8, 2: 5},
    }
    assert sum(split.num_rows for split in datasets.load_dataset(str(out), "grouped").values()) == 90
    card = (out / "README.md").read_text()
    assert "`published`, where there is one, is the challenge's own split" in card
    assert "names neither lesions nor patients" in card
    assert "license: cc0-1.0" in card


def test_build_from_ham10000_has_no_published_config(archive, tmp_path, capsys):
    out = tmp_path / "out"
    build_isic2017.main(["--source", str(archive), "--out", str(out)])
    captured = capsys.readouterr()
    assert "68 images written to" in captured.out
    assert "warning: 48 images of other classes were dropped" in captured.err
    assert "published" not in datasets.get_dataset_config_names(str(out))
    grouped = datasets.load_dataset(str(out), "grouped")
    assert grouped["train"].features["label"].names == ["mel", "nv", "bkl"]
    card = (out / "README.md").read_text()
    assert "in place of seborrheic keratosis" in card
    assert "A score here is no score on the challenge" in card


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "archive folder nowhere does not exist"),
        ("{other}", "has neither ISIC-2017_*_Part3_GroundTruth.csv, nor images under train, valid and test, nor"),
        ("{challenge}", "62 of 62 ids have no image in"),
    ],
)
def test_bad_input_is_one_line(challenge, tmp_path, capsys, source, message):
    shutil.rmtree(challenge / "ISIC-2017_Training_Data")
    (tmp_path / "other" / "Nevus").mkdir(parents=True)
    (tmp_path / "other" / "Nevus" / "a.jpg").write_bytes(b"x")
    given = source.format(challenge=challenge, other=tmp_path / "other")
    with pytest.raises(SystemExit) as caught:
        run(lambda: build_isic2017.main(["--source", given, "--out", str(tmp_path / "out")]))
    assert caught.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert list(tmp_path.glob("out*")) == []


def test_a_folder_with_split_folders_but_no_image_is_refused(tmp_path):
    root = tmp_path / "data" / "train" / "nevus"
    root.mkdir(parents=True)
    (root / "ISIC_1_superpixels.png").write_bytes(b"x")
    with pytest.raises(UserError, match="has no image in train, valid or test"):
        isic2017.read(str(tmp_path / "data"))
