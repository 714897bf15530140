"""The measurement of the preprocessing: its numbers by hand, its command on a tiny folder in HAM10000's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datasets_scripts.command import run as run_command
from datasets_scripts.phantom import draw
from trainers import measure_preprocessing as command
from trainers.evaluation import preprocessing


@pytest.fixture
def ham10000(tmp_path: Path) -> Path:
    """Six phantoms as images and masks; one mask is empty."""
    folder = tmp_path / "ham"
    (folder / "HAM10000_images_part_1").mkdir(parents=True)
    (folder / preprocessing.MASKS).mkdir()
    for number in range(6):
        phantom = draw("nv", number, with_hairs=False)
        name = f"ISIC_{number:07d}"
        phantom.image.save(folder / "HAM10000_images_part_1" / f"{name}.jpg", quality=95)
        mask = phantom.lesion_mask & (number != 5)
        Image.fromarray(mask).save(folder / preprocessing.MASKS / f"{name}_segmentation.png")
    return folder


def run(monkeypatch: Any, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["measure", "--phantoms", "1", "--repeats", "1", *map(str, words)])
    run_command(command.main)


def test_boxes_and_their_overlap_by_hand() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2, 3] = mask[6, 9] = True
    assert preprocessing.box_of(mask) == (3, 2, 10, 7)
    assert preprocessing.overlap((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(8 / 24)
    assert preprocessing.overlap((0, 0, 4, 4), (4, 0, 6, 4)) == 0
    assert preprocessing.overlap((1, 1, 3, 3), (1, 1, 3, 3)) == 1


def test_psnr_by_hand() -> None:
    reference = np.full((2, 2, 3), 100, np.uint8)
    image = reference.copy()
    image[0] = 110
    mask = np.array([[True, True], [False, False]])
    assert preprocessing.psnr(image, reference, mask) == pytest.approx(10 * np.log10(255**2 / 100))
    assert preprocessing.psnr(image, reference, np.ones((2, 2), bool)) == pytest.approx(10 * np.log10(255**2 / 50))
    assert preprocessing.psnr(image, reference, ~mask) == 100


def test_f1_counts_pixels_of_all_images(monkeypatch: Any) -> None:
    """3 pixels found of which 2 are hair, of 4 that are: precision 2/3, recall 1/2, F1 4/7."""
    found = np.zeros((2, 3), np.uint8)
    found[0] = 255
    truth = np.array([[True, True, False], [True, True, False]])
    monkeypatch.setattr("trainers.evaluation.preprocessing.hair_mask", lambda image: found)
    score = preprocessing.HairScore()
    bare = np.zeros((2, 3, 3), np.uint8)
    score.add(bare + np.uint8(40), bare, truth, found_on_bare=np.zeros((2, 3), np.uint8))
    score.add(bare, bare, np.zeros((2, 3), bool), found_on_bare=found)
    measured = score.described()
    assert measured["precision"] == pytest.approx(2 / 3)
    assert measured["recall"] == pytest.approx(1 / 2)
    assert measured["f1"] == pytest.approx(4 / 7)
    assert (measured["pictures"], measured["bare_pictures"], measured["bare_pictures_touched"]) == (1, 2, 1)
    assert measured["psnr_with_hair_db"]["mean"] == pytest.approx(10 * np.log10(255**2 / 1600))


def test_drawn_hair_is_where_the_mask_says() -> None:
    image = np.asarray(draw("nv", 1, with_hairs=False).image)
    haired, truth = preprocessing.with_drawn_hair(image, 0)
    assert truth.any()
    assert np.array_equal(truth, (haired != image).any(axis=-1))
    assert np.array_equal(haired, preprocessing.with_drawn_hair(image, 0)[0])
    assert not np.array_equal(haired, preprocessing.with_drawn_hair(image, 4)[0])


def test_the_command_writes_every_number(ham10000: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(preprocessing, "PHANTOM_SIZES", ((64, 48),))
    monkeypatch.setattr(preprocessing, "TIMED_SIZES", ((64, 48), (96, 72)))
    out = tmp_path / "numbers.json"
    run(monkeypatch, "--ham10000", ham10000, "--out", out)
    measured = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == measured
    crop = measured["lesion_crop"]
    assert (crop["images"], crop["empty_masks"]) == (5, 1)
    assert set(crop["lesion_kept"]) == {"mean", "q05", "q25", "q50", "q75", "q95"}
    assert crop["lesion_kept"]["mean"] > 0.9
    assert 0 < crop["box_iou"]["q50"] <= crop["box_iou_without_margin"]["q95"] <= 1
    assert measured["hair_on_phantoms"]["64x48"]["bare_pictures"] == 8
    assert measured["hair_drawn_on_real_images"]["images_looked_at"] == 6
    assert 0 <= measured["hair_drawn_on_real_images"]["on_those_with_hair_of_their_own"]["pictures"] < 6
    assert set(measured["milliseconds_median"]) == {"64x48", "96x72"}
    assert all(ms > 0 for row in measured["milliseconds_median"].values() for ms in row.values())
    assert not list(tmp_path.glob(".*"))


def test_limit_spreads_over_the_whole(ham10000: Path) -> None:
    names = [photo.stem[-1] for photo, _ in preprocessing.ham10000_pairs(ham10000, 3)]
    assert names == ["0", "2", "5"]
    assert len(preprocessing.ham10000_pairs(ham10000, 99)) == 6


@pytest.mark.parametrize("fault", ["no masks", "no image", "sizes", "broken", "there", "nowhere"])
def test_a_mistake_is_one_line(fault: str, ham10000: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    out, photo = tmp_path / "numbers.json", ham10000 / "HAM10000_images_part_1" / "ISIC_0000000.jpg"
    monkeypatch.setattr(preprocessing, "PHANTOM_SIZES", ((64, 48),))
    expected = {
        "no masks": "holds no HAM10000_segmentations_lesion_tschandl",
        "no image": "holds no image ISIC_0000000.jpg",
        "sizes": "have the sizes (20, 30) and (150, 200)",
        "broken": "cannot be opened as an image",
        "there": "is there already",
        "nowhere": "cannot be written (No such file or directory): choose another --out",
    }[fault]
    if fault == "no masks":
        (ham10000 / preprocessing.MASKS).rename(tmp_path / "elsewhere")
    elif fault == "no image":
        photo.unlink()
    elif fault == "sizes":
        Image.new("RGB", (30, 20)).save(photo)
    elif fault == "broken":
        photo.write_bytes(b"nothing")
    elif fault == "nowhere":
        out = Path("/proc/nowhere.json")
    else:
        out.write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "--ham10000", ham10000, "--out", out)
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert not out.exists() or out.read_text() == "mine"
