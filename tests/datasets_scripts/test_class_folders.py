"""Class folders in any nesting with splits and provenance, and `build_lesions12`."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import datasets
import pytest

from datasets_scripts import build_dermx, build_ham10000, build_isic2017, build_isic_binary, build_lesions12
from datasets_scripts.command import UserError, run
from datasets_scripts.rows import Archive, Row
from datasets_scripts.sources import class_folders
from datasets_scripts.sources.tables import MetadataError
from datasets_scripts.taxonomy import TASKS, UnknownLabelError

CLASSES = {
    "Actinic Keratosis": "ak",
    "basal_cell_carcinoma": "bcc",
    "Clear Skin": "clear",
    "DERMATOFIBROMA": "df",
    "Melanoma": "mel",
    "Melanoma Metastasis": "met",
    "Nevus": "nv",
    "Random": "random",
    "seborrheic-keratosis": "sk",
    "Solar Lentigo": "sl",
    "Squamous Cell Carcinoma": "scc",
    "Vascular Lesion": "vasc",
}


def put(root: Path, *names: str) -> Path:
    """Write files whose bytes are their own path: the reader does not look at pixels."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def summary(archive: Archive) -> dict[str, tuple[str, str, str | None]]:
    return {row.image_id: (row.label, row.lesion_id, row.provenance) for row in archive.rows}


def test_every_published_class_name_in_any_case(tmp_path):
    root = put(tmp_path / "a", *(f"{folder}/{short}1.jpg" for folder, short in CLASSES.items()))
    read = class_folders.read(str(root), "lesions12")
    assert summary(read) == {f"{short}1": (short, f"{short}1", "real") for short in TASKS["lesions12"]}
    assert read.splits is None
    assert read.warnings == [
        "No image is marked as synthetic (folder synthetic, file name <parent>_syn<k>, provenance.csv): "
        "all count as real."
    ]


def test_images_are_recognised_by_content_and_the_rest_is_counted(tmp_path):
    root = put(tmp_path / "a", "Melanoma/a.jfif", "Melanoma/b.JPE", "Nevus/Thumbs.db", "Nevus/notes", "Nevus/x.tar.gz")
    (root / "Nevus" / "c").write_bytes(b"\xff\xd8\xff\xe0 the first bytes of a JPEG")
    (root / "Nevus" / "d.image").write_bytes(b"\x89PNG\r\n\x1a\n the first bytes of a PNG")
    read = class_folders.read(str(root), "lesions12")
    assert {row.image_id: row.label for row in read.rows} == {"a": "mel", "b": "mel", "c": "nv", "d": "nv"}
    assert read.warnings[-1] == "Files that are no images were passed over: 3 (.db 1, no ending 1, .gz 1)."


@pytest.mark.parametrize(
    "layout",
    [
        "{split}/{kind}/{label}/{name}",
        "{kind}/{split}/{label}/{name}",
        "download/{kind}/{label}/{split}/{name}",
        "{label}/{split}/{kind}/{name}",
    ],
)
@pytest.mark.parametrize(
    "splits",
    [
        ("train", "validation", "TEST"),
        ("train", "valid", "test"),
        ("Training", "val", "testing"),
        ("TRAIN", "Val", "Test"),
    ],
)
def test_splits_and_provenance_in_any_nesting(tmp_path, layout, splits):
    names = [
        layout.format(split=split, kind=kind, label=label, name=f"{label}{number}.png".lower())
        for number, split in enumerate(splits)
        for kind, label in (("real", "Nevus"), ("Synthetic", "Melanoma"))
    ]
    read = class_folders.read(str(put(tmp_path / "a", *names)), "lesions12")
    assert summary(read) == {
        **{f"melanoma{n}": ("mel", f"melanoma{n}", "synthetic") for n in range(3)},
        **{f"nevus{n}": ("nv", f"nevus{n}", "real") for n in range(3)},
    }
    assert read.splits == ["train", "validation", "test"] * 2
    assert "3 of 3 synthetic images have no known parent" in read.warnings[0]


def test_zip_files_named_as_folders(tmp_path):
    root = put(tmp_path / "a", "real/Nevus/a.jpg", "synthetic/Nevus/b.jpg")
    expected = summary(class_folders.read(str(root), "lesions12"))
    for kind in ("real", "synthetic"):
        shutil.make_archive(str(root / kind), "zip", root / kind)
        shutil.rmtree(root / kind)
    assert summary(class_folders.read(str(root), "lesions12")) == expected
    assert expected == {"a": ("nv", "a", "real"), "b": ("nv", "b", "synthetic")}


def test_files_of_one_name_get_ids_with_their_folders(tmp_path):
    root = put(tmp_path / "a", "Clear Skin/1.jpg", "Nevus/1.jpg", "Nevus/2.jpg")
    assert list(summary(class_folders.read(str(root), "lesions12"))) == ["2", "Clear_Skin_1", "Nevus_1"]


def test_file_names_name_the_parent_and_the_parents_parent(tmp_path):
    root = put(
        tmp_path / "a",
        "Nevus/n.jpg",
        "Nevus/n_syn1.png",
        "Nevus/n_syn1_syn2.png",
        "synthetic/Nevus/n-synthetic-12.jpg",
        "Melanoma/n.jpg",
        "Melanoma/m_synopsis.jpg",
    )
    read = class_folders.read(str(root), "lesions12")
    assert summary(read) == {
        "Melanoma_n": ("mel", "Melanoma_n", "real"),
        "Nevus_n": ("nv", "Nevus_n", "real"),
        "m_synopsis": ("mel", "m_synopsis", "real"),
        "n-synthetic-12": ("nv", "Nevus_n", "synthetic"),
        "n_syn1": ("nv", "Nevus_n", "synthetic"),
        "n_syn1_syn2": ("nv", "Nevus_n", "synthetic"),
    }
    assert read.warnings == []


def test_the_table_goes_before_file_names(tmp_path):
    root = put(
        tmp_path / "a",
        "Nevus/a.jpg",
        "Nevus/b_syn1.jpg",
        "Nevus/c.jpg",
        "synthetic/Nevus/d.jpg",
        "synthetic/Nevus/a.jpg",
        "Nevus/gone_syn3.jpg",
    )
    (root / "provenance.csv").write_text(
        "file,provenance,parent\n"
        "Nevus/b_syn1.jpg,real,\n"
        "c,Synthetic,b_syn1.jpg\n"
        "synthetic\\Nevus\\d.jpg,synthetic,./Nevus/b_syn1.jpg\n"
        "synthetic/Nevus/a.jpg,synthetic,a\n"
        "gone_syn3,synthetic,\n"
    )
    read = class_folders.read(str(root), "lesions12")
    assert summary(read) == {
        "Nevus_a": ("nv", "Nevus_a", "real"),
        "b_syn1": ("nv", "b_syn1", "real"),
        "c": ("nv", "b_syn1", "synthetic"),
        "d": ("nv", "b_syn1", "synthetic"),
        "gone_syn3": ("nv", "gone_syn3", "synthetic"),
        "synthetic_Nevus_a": ("nv", "Nevus_a", "synthetic"),
    }
    assert read.warnings == [
        "1 of 4 synthetic images have no known parent; each is its own group unless it looks like another image, so "
        "images made from one lesion may be in two splits."
    ]


@pytest.mark.parametrize(
    ("names", "table", "error", "message"),
    [
        (
            ["Nevus/a.jpg", "Psoriasis/b.jpg"],
            "",
            UnknownLabelError,
            r"folder of Psoriasis/b.jpg: .*'Psoriasis'.*ak, bcc",
        ),
        (["Nevus/a.jpg", "train/b.jpg"], "", UserError, "image train/b.jpg lies in no class folder"),
        (["notes.txt"], "", UserError, "has no image"),
        (
            ["Nevus/a_syn1.jpg"],
            "",
            UserError,
            "'a', the parent of Nevus/a_syn1.jpg, is not in the folder; add it",
        ),
        (
            ["real/Nevus/a.jpg", "real/Nevus/a_syn1.jpg"],
            "",
            UserError,
            "is in a folder for real images and is named",
        ),
        (["Nevus/a.jpg"], "b.jpg,real,", UserError, "'b.jpg', listed in provenance.csv, is not in the folder"),
        (["Nevus/a.jpg"], "a.jpg,synthetic,z", UserError, "'z', the parent of Nevus/a.jpg, is not in the folder"),
        (["Nevus/a.jpg"], "a.jpg,fake,", UserError, "says 'fake' of Nevus/a.jpg; give real or synthetic"),
        (["Nevus/a.jpg"], "a.jpg,real,\na,real,", UserError, "lists a file twice"),
        (
            ["real/Nevus/a.jpg"],
            "a,synthetic,",
            UserError,
            "is synthetic in provenance.csv and lies in a folder real",
        ),
        (["Nevus/a.jpg"], "a,synthetic,a", UserError, "'a', the parent of Nevus/a.jpg, is not in the folder"),
        (
            ["Nevus/a.jpg", "Nevus/b.jpg"],
            "a,synthetic,b\nb,synthetic,a",
            UserError,
            "Nevus/a.jpg is its own parent; fix provenance.csv",
        ),
        (
            ["train/Nevus/a.jpg", "test/Nevus/a.jpg", "train/Nevus/a_syn1.jpg"],
            "",
            UserError,
            "'a', the parent of train/Nevus/a_syn1.jpg, may be test/Nevus/a.jpg and train/Nevus/a.jpg; name it by its",
        ),
    ],
)
def test_what_cannot_be_determined_is_refused(tmp_path, names, table, error, message):
    root = put(tmp_path / "a", *names)
    if table:
        (root / "provenance.csv").write_text(f"file,provenance,parent\n{table}\n")
    with pytest.raises(error, match=message):
        class_folders.read(str(root), "lesions12")


def test_a_table_without_its_columns_or_two_of_them(tmp_path):
    root = put(tmp_path / "a", "Nevus/a.jpg")
    (root / "provenance.csv").write_text("file,parent\na,\n")
    with pytest.raises(MetadataError, match=r"provenance\.csv has no column provenance "):
        class_folders.read(str(root), "lesions12")
    shutil.copy(root / "provenance.csv", root / "Nevus" / "provenance.csv")
    with pytest.raises(UserError, match=r"has 2 files provenance\.csv"):
        class_folders.read(str(root), "lesions12")


def test_own_splits_are_followed_only_when_all_three_have_images():
    assert class_folders.own_splits([None, None]) == (None, [])
    splits, warnings = class_folders.own_splits(["train", "test"])
    assert splits is None
    assert warnings == ["The source has no validation images, so its own splits are not followed."]
    whole = ["train", None, "validation", "test"]
    assert class_folders.own_splits(whole) == (whole, ["1 images lie outside train, validation and test."])


def test_a_random_split_leaves_rare_classes_in_train():
    labels = ["nv"] * 40 + ["mel"] * 20 + ["sl"] * 9
    rows = [Row(str(i), label, bytes, str(i)) for i, label in enumerate(labels)]
    split, warnings = build_lesions12.published_split(Archive(rows), 42)
    assert Counter(zip(labels, split, strict=True)) == {
        ("nv", "train"): 32,
        ("nv", "validation"): 4,
        ("nv", "test"): 4,
        ("mel", "train"): 16,
        ("mel", "validation"): 2,
        ("mel", "test"): 2,
        ("sl", "train"): 9,
    }
    assert warnings == ["Config published: sl have fewer than 10 images each and are in train only."]
    with pytest.raises(UserError, match="class 'mel' has 5 images"):
        build_lesions12.published_split(Archive(rows[35:45]), 42)


@pytest.fixture
def lesions12(tmp_path, drawn) -> Path:
    """24 real images of each class and, of the first 12, a synthetic child; split folders.

    Clear skin and images of other things train and validate only, as in the published test table.
    """
    root = tmp_path / "lesions"
    for place, (folder, label) in enumerate(CLASSES.items()):
        for number in range(24):
            split = ("train", "train", "validation", "test")[number % 4]
            if label in ("clear", "random") and split == "test":
                split = "train"
            for kind in ("real", "synthetic") if number < 12 else ("real",):
                name = f"{label}{number:02d}" if kind == "real" else f"{label}{number:02d}_syn1"
                # A child is another drawing here: that it is kept beside its parent must come from its name.
                seed = 100 * place + number + (5000 if kind == "synthetic" else 0)
                path = root / split / kind / folder / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(drawn.png(drawn.draw(seed)))
    return root


def test_build_with_synthetic_images(lesions12, tmp_path, capsys):
    out = tmp_path / "out"
    build_lesions12.main(["--source", str(lesions12), "--out", str(out)])
    captured = capsys.readouterr()
    assert "432 images written to" in captured.out
    assert "leaking" in captured.out
    audit = json.loads((out / "audit.json").read_text())
    assert audit["rows"] == 432
    assert audit["synthetic"]["images"] == 144
    assert audit["synthetic"]["per_class"] == dict.fromkeys(sorted(TASKS["lesions12"]), 12)
    for config in ("grouped", "release", "fold0", "fold1", "fold2", "fold3", "fold4"):
        loaded = datasets.load_dataset(str(out), config)
        for split in ("validation", "calibration", "test"):
            assert set(loaded[split]["provenance"]) == {"real"}
        real = [i for split in loaded.values() for i in split.filter(lambda r: r["provenance"] == "real")["image_id"]]
        assert len(real) == len(set(real)) == 288
        train = loaded["train"]
        held_out = {group for split in ("validation", "calibration", "test") for group in loaded[split]["group_id"]}
        assert not held_out & set(train["group_id"])
        synthetic = [r for r in train.remove_columns("image") if r["provenance"] == "synthetic"]
        assert all(r["lesion_id"] == r["image_id"].removesuffix("_syn1") for r in synthetic)
        # Every child of a training image trains, and no other.
        parents = {i.removesuffix("_syn1") for i in (r["image_id"] for r in synthetic)}
        assert parents == {i for i in train["image_id"] if not i.endswith("_syn1") and int(i[-2:]) < 12}
        count = audit["synthetic"]["configs"][config]
        assert count == {"train": len(synthetic), "elsewhere": 0, "left_out": 144 - len(synthetic)}
        assert count["left_out"] > 30
    published = datasets.load_dataset(str(out), "published")
    assert Counter(published["test"]["provenance"]) == {"real": 60, "synthetic": 30}
    assert audit["synthetic"]["configs"]["published"] == {"train": 78, "elsewhere": 66, "left_out": 0}
    assert "Config published, split test has no image of clear, random." in audit["warnings"]
    assert audit["leak"]["published"]["test"]["per_class"].get("clear") is None
    card = (out / "README.md").read_text()
    assert "144 of 432 images are synthetic (column `provenance`)" in card
    assert "| published | 78 | 66 | 0 |" in card
    assert "is the source's own train, validation and test folders" in card
    assert "license: unknown" in card
    assert "bibtex" not in card


def test_build_without_split_folders_draws_a_random_split(lesions12, tmp_path, capsys):
    flat = tmp_path / "flat"
    for path in lesions12.rglob("*.png"):
        target = flat / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.stem not in ("vasc11", "vasc11_syn1"):
            shutil.copy(path, target)
    build_lesions12.main(["--source", str(flat), "--out", str(tmp_path / "out"), "--seed", "7"])
    assert "430 images written to" in capsys.readouterr().out
    published = datasets.load_dataset(str(tmp_path / "out"), "published")
    assert [published[s].num_rows for s in ("train", "validation", "test")] == [344, 43, 43]
    assert "is a random image-level 80/10/10 split" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "archive folder {root} is empty"),
        (["Nevus/a.jpg", "Eczema/b.jpg"], "unknown diagnosis 'Eczema' for lesions12; known: ak, bcc, clear,"),
        (
            ["Nevus/a.jpg", "Nevus/b_syn1.jpg"],
            "'b', the parent of Nevus/b_syn1.jpg, is not in the folder; add it, or list",
        ),
        (["Nevus/a.jpg"], "class 'nv' has 1 images"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, names, message):
    root = tmp_path / "source"
    root.mkdir()
    put(root, *names)
    with pytest.raises(SystemExit) as caught:
        run(lambda: build_lesions12.main(["--source", str(root), "--out", str(tmp_path / "out")]))
    assert caught.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message.format(root=root) in errors[0]
    assert list(tmp_path.glob("out*")) == []


BUILDERS = {
    "ham10000": (build_ham10000.main, ("--source",)),
    "isic_binary": (build_isic_binary.main, ("--source",)),
    "isic2017": (build_isic2017.main, ("--source",)),
    "lesions12": (build_lesions12.main, ("--source",)),
    "dermx": (build_dermx.main, ("--ham10000", "--dermnet")),
}


@pytest.mark.parametrize("layout", ["", "train/", "test/"])
@pytest.mark.parametrize("builder", BUILDERS)
def test_every_builder_names_the_way_on_for_classes_of_ones_own(tmp_path, capsys, builder, layout):
    root = put(tmp_path / "a", *(f"{layout}{name}/1.jpg" for name in ("keratosis", "mole", "suspicious")))
    main, options = BUILDERS[builder]
    words = [word for option in options for word in (option, str(root))]
    with pytest.raises(SystemExit) as left:
        run(lambda: main([*words, "--out", str(tmp_path / "out")]))
    assert left.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "keratosis" in lines[0]
    assert "trainers/train_mobilenet.py --dataset DIR" in lines[0]
    assert not (tmp_path / "out").exists()
