"""A mask sees what its image sees: the same crop, the same resize, and it is refused where it does not fit."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from datasets_scripts.command import UserError
from datasets_scripts.phantom import draw
from hub_models import LesionImageProcessor
from hub_models.hair_lesion import remove_hair
from trainers.evaluation.explanation_table import MASKS
from trainers.explaining.masks import MaskedImages, as_the_model_sees, crop_box
from trainers.model_folder.masks import Masks

SIZE = {"height": 40, "width": 40}


def png(image: Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **how)
    return buffer.getvalue()


def mask_of(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array.astype(np.uint8) * 255)


def split(images: list[bytes], masks: list[bytes | None] | None = None) -> datasets.Dataset:
    columns = {
        "image": [{"bytes": one, "path": None} for one in images],
        "label": [0] * len(images),
        "image_id": [f"I{n}" for n in range(len(images))],
    }
    kinds = {
        "image": datasets.Image(decode=False),
        "label": datasets.Value("int32"),
        "image_id": datasets.Value("string"),
    }
    if masks is not None:
        columns["mask"] = [None if one is None else {"bytes": one, "path": None} for one in masks]
        kinds["mask"] = datasets.Image()
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def plain(width: int = 30, height: int = 20) -> bytes:
    return png(Image.new("RGB", (width, height), (200, 150, 140)))


def test_the_resize_squashes_the_mask_as_the_image() -> None:
    left = np.zeros((20, 30), dtype=bool)
    left[:, :15] = True
    photo = Image.new("RGB", (30, 20))
    seen, state = as_the_model_sees(left, LesionImageProcessor(size=SIZE), photo, (40, 40))
    assert state == "there"
    expected = np.zeros((40, 40), dtype=bool)
    expected[:, :20] = True
    assert np.array_equal(seen, expected)
    # Half of a pixel is enough: 3 x 3 pixels a pixel, 5 of 9 lesion and 4 of 9.
    fine = np.zeros((6, 6), dtype=bool)
    fine[:3, :3].flat[:5] = True
    fine[3:, 3:].flat[:4] = True
    seen, _ = as_the_model_sees(fine, LesionImageProcessor(size=SIZE), Image.new("RGB", (6, 6)), (2, 2))
    assert seen.tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("hair", [False, True])
def test_the_crop_is_the_one_of_the_image(hair: bool) -> None:
    cropped = 0
    for seed in range(6):
        phantom = draw("nv", seed, (200, 150))
        processor = LesionImageProcessor(
            size=SIZE, do_lesion_crop=True, do_hair_removal=hair, do_colour_constancy=False
        )
        left, top, right, bottom = crop_box(processor, phantom.image)
        rgb = np.asarray(phantom.image)
        rgb = remove_hair(rgb) if hair else rgb
        assert np.array_equal(np.asarray(processor.prepare(phantom.image)), rgb[top:bottom, left:right])
        seen, _ = as_the_model_sees(phantom.lesion_mask, processor, phantom.image, (bottom - top, right - left))
        assert np.array_equal(seen, phantom.lesion_mask[top:bottom, left:right])
        cropped += (right - left) * (bottom - top) < 200 * 150
    assert cropped >= 3, "no crop was tried"
    processor = LesionImageProcessor(size=SIZE, do_lesion_crop=True, do_colour_constancy=True)
    assert crop_box(processor, phantom.image) == crop_box(LesionImageProcessor(do_lesion_crop=True), phantom.image)
    assert crop_box(LesionImageProcessor(size=SIZE), phantom.image) == (0, 0, 200, 150)


def test_images_come_with_their_masks_or_without() -> None:
    lesion = np.zeros((20, 30), dtype=bool)
    lesion[5:15, 6:24] = True
    rows = split([plain()] * 3, [png(mask_of(lesion).convert("1")), None, png(mask_of(np.zeros((20, 30))))])
    images = MaskedImages(rows, LesionImageProcessor(size=SIZE), Masks(rows))
    assert [MASKS[images[n]["mask_state"]] for n in range(3)] == ["there", "none", "empty"]
    assert images[0]["mask"].float().mean() == pytest.approx(lesion.mean())
    assert images[0]["pixel_values"].shape == (3, 40, 40)
    assert not images[1]["mask"].any()
    without = split([plain()])
    assert MASKS[MaskedImages(without, LesionImageProcessor(size=SIZE), Masks(without))[0]["mask_state"]] == "none"


def test_an_image_that_lies_on_its_side_is_turned_as_the_processor_turns_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = split([png(Image.new("RGB", (30, 20)), exif=exif)], [png(mask_of(np.ones((30, 20))))])
    assert MaskedImages(rows, LesionImageProcessor(size=SIZE), Masks(rows))[0]["mask"].all()


def test_a_folder_of_masks_is_read_by_image_id(tmp_path: Path) -> None:
    rows = split([plain()] * 2, [png(mask_of(np.zeros((20, 30))))] * 2)
    mask_of(np.ones((20, 30))).save(tmp_path / "I1_segmentation.png")
    masks = Masks(rows, tmp_path)
    assert masks.read(0, (30, 20)) is None, "the folder stands in the place of the dataset's own"
    assert masks.read(1, (30, 20)).all()


def test_masks_that_are_absent_or_do_not_fit_are_named(tmp_path: Path) -> None:
    rows = split([plain()] * 2)
    with pytest.raises(UserError, match=r"'.*nowhere' is no folder: give one that holds <image_id>_segmentation.png"):
        Masks(rows, tmp_path / "nowhere")
    (tmp_path / "other_segmentation.png").write_bytes(plain())
    with pytest.raises(UserError, match=r"no mask of any of the 2 images \(the first would be I0_segmentation.png\)"):
        Masks(rows, tmp_path)
    mask_of(np.ones((450, 600))).save(tmp_path / "I0_segmentation.png")
    with pytest.raises(UserError, match="image I0 has 600 x 450 pixels, its image 30 x 20: give masks of"):
        Masks(rows, tmp_path).read(0, (30, 20))
    (tmp_path / "I1_segmentation.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="the mask of image I1 cannot be read as an image"):
        Masks(rows, tmp_path).read(1, (30, 20))
