"""HAM10000 and ISIC 2017 in one dataset: labels, splits by source, restored shapes, splits of another folder."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import datasets
import pytest
from PIL import Image

from datasets_scripts import build_dermoscopy, build_ham10000, build_isic2017
from datasets_scripts.command import UserError
from datasets_scripts.images import stretched_squares

PER_CLASS = {"mel": 12, "nv": 30, "sk": 10}


@pytest.fixture
def challenge(tmp_path, drawn, save_table) -> Path:
    """A part of the challenge in its own layout, squeezed to squares."""
    root = tmp_path / "challenge"
    folder = root / "ISIC-2017_Training_Data"
    folder.mkdir(parents=True)
    truth = []
    for number, label in enumerate([name for name, count in PER_CLASS.items() for _ in range(count)]):
        image_id = f"ISIC_{900 + number:07d}"
        (folder / f"{image_id}.jpg").write_bytes(drawn.jpeg(drawn.draw(5000 + number, (40, 40))))
        flags = {"melanoma": f"{label == 'mel':d}", "seborrheic_keratosis": f"{label == 'sk':d}"}
        truth.append({"image_id": image_id, **flags})
    table = root / "ISIC-2017_Training_Part3_GroundTruth.csv"
    save_table(table, truth, ("image_id", "melanoma", "seborrheic_keratosis"))
    return root


def built(archive: Path, challenge: Path, out: Path, *more: str) -> datasets.DatasetDict:
    build_dermoscopy.main(["--ham10000", str(archive), "--isic2017", str(challenge), "--out", str(out), *more])
    return datasets.load_dataset(str(out), "grouped")


def split_of(splits: datasets.DatasetDict, source: str) -> dict[str, str]:
    return {
        image_id: name
        for name, rows in splits.items()
        for image_id, kept in zip(rows["image_id"], rows["source"], strict=True)
        if kept == source
    }


def test_seven_classes_of_two_sources(archive, challenge, tmp_path, capsys) -> None:
    splits = built(archive, challenge, tmp_path / "out", "--unsqueeze", "4:3")
    assert "168 images written to" in capsys.readouterr().out
    rows = datasets.concatenate_datasets(list(splits.values()))
    names = rows.features["label"].names
    second = rows.filter(lambda source: source == "ISIC 2017 challenge", input_columns="source")
    assert Counter(names[label] for label in second["label"]) == {"mel": 12, "nv": 30, "bkl": 10}
    assert {image.size for image in second["image"]} == {(40, 30)}
    build_ham10000.main(["--source", str(archive), "--out", str(tmp_path / "alone")])
    alone = datasets.load_dataset(str(tmp_path / "alone"), "grouped")
    assert split_of(splits, "HAM10000") == split_of(alone, "HAM10000")


def test_two_classes_in_the_splits_of_another_folder(archive, challenge, tmp_path, capsys) -> None:
    seven = built(archive, challenge, tmp_path / "seven")
    two = built(archive, challenge, tmp_path / "two", "--task", "isic_binary", "--splits_of", str(tmp_path / "seven"))
    assert two["train"].features["label"].names == ["benign", "malignant"]
    for source in ("HAM10000", "ISIC 2017 challenge"):
        assert split_of(two, source).items() <= split_of(seven, source).items()
    rows = datasets.concatenate_datasets(list(two.values()))
    malignant = {name for name, label in zip(rows["diagnosis"], rows["label"], strict=True) if label == 1}
    assert malignant == {"mel", "bcc"}
    assert "akiec" not in rows["diagnosis"][:]


def test_splits_of_a_folder_without_them_are_refused(archive, challenge, tmp_path) -> None:
    with pytest.raises(UserError, match="is no dataset folder of a build command"):
        built(archive, challenge, tmp_path / "out", "--splits_of", str(tmp_path))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ratio", ["4x3", "0:3", "4:", "square"])
def test_a_wrong_ratio_is_refused(ratio, archive, challenge, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        built(archive, challenge, tmp_path / "out", "--unsqueeze", ratio)
    assert f"{ratio!r} is no ratio of width to height" in capsys.readouterr().err


def test_only_squares_are_stretched(drawn) -> None:
    wide = drawn.jpeg(drawn.draw(1, (50, 40)))
    assert stretched_squares(lambda: wide, (4, 3))() == wide
    square = stretched_squares(lambda: drawn.png(drawn.draw(1, (60, 60))), (2, 3))()
    assert Image.open(io.BytesIO(square)).size == (40, 60)


def test_isic2017_alone_in_the_splits_of_both(archive, challenge, tmp_path) -> None:
    both = built(archive, challenge, tmp_path / "both")
    words = ["--source", str(challenge), "--unsqueeze", "3:2", "--splits_of", str(tmp_path / "both")]
    build_isic2017.main([*words, "--out", str(tmp_path / "alone")])
    alone = datasets.load_dataset(str(tmp_path / "alone"), "grouped")
    assert split_of(alone, "ISIC 2017 challenge") == split_of(both, "ISIC 2017 challenge")
    assert {image.size for image in alone["train"]["image"]} == {(40, 27)}
