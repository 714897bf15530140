"""The image processor: any image becomes the same pixels that a hand-written resize and normalise gives."""

from __future__ import annotations

import importlib
import io
import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lesion_shipping_tester import sample_image
from PIL import Image
from transformers import AutoImageProcessor

from hub_models import (
    LesionImageProcessor,
    MissingOpenCVError,
    PixelValueError,
    RecordError,
    UnreadableImageError,
    to_rgb,
)
from hub_models import preprocess_lesion as preprocess
from hub_models.crop_lesion import lesion_box
from hub_models.hair_lesion import remove_hair
from hub_models.image_processing_pixels import PREPARED, PixelImageProcessor, PixelSettingError, SwitchError
from hub_models.preprocess_lesion import constant_colour

SIZE = 48


def processor(**changes: Any) -> LesionImageProcessor:
    return LesionImageProcessor(**{"size": SIZE, **changes})


def pixels(image: Any, mode: str = "squash", **switches: Any) -> np.ndarray:
    return processor(resize_mode=mode)(image, return_tensors="np", **switches)["pixel_values"]


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# --------------------------------------------------------------- the numbers


def test_values_are_those_of_a_resize_and_normalise_by_hand() -> None:
    image = sample_image(0)
    output = processor()(image, return_tensors="pt")
    assert set(output) == {"pixel_values"}
    assert output.pixel_values.dtype == torch.float32
    resized = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32) / 255
    expected = (resized - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    np.testing.assert_allclose(output.pixel_values[0].numpy(), expected.transpose(2, 0, 1), rtol=0, atol=1e-5)


def test_the_resize_squashes_and_keeps_no_aspect_ratio() -> None:
    wide = np.zeros((10, 100, 3), np.uint8)
    wide[:, 50:] = 255
    got = pixels(wide)[0]
    assert got.shape == (3, SIZE, SIZE)
    assert (got[:, :, : SIZE // 2 - 2] < 0).all()
    assert (got[:, :, SIZE // 2 + 2 :] > 0).all()


def test_crop_keeps_the_centre_in_its_shape() -> None:
    image = sample_image(2, width=90)
    side = image.height
    left = (90 - side) // 2
    expected = pixels(image.crop((left, 0, left + side, side)))
    assert side < 90
    assert np.array_equal(pixels(image, mode="crop"), expected)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    upright = pixels(turned.crop((0, left, side, left + side)))
    assert np.array_equal(pixels(turned, mode="crop"), upright)


def test_pad_shows_all_of_the_image_between_borders_of_the_mean_colour() -> None:
    wide = np.full((40, 80, 3), 255, np.uint8)
    got = pixels(wide, mode="pad")[0]
    border, middle = SIZE // 4, SIZE // 2
    assert np.abs(got[:, : border - 2]).max() < 0.02  # mean colour, rounded to whole grey levels
    assert np.abs(got[:, -border + 2 :]).max() < 0.02
    assert (got[:, middle - border + 2 : middle + border - 2] > 2.0).all()


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
def test_a_square_image_is_the_same_in_every_mode(mode: str) -> None:
    image = sample_image(3, width=64, height=64)
    assert np.array_equal(pixels(image, mode=mode), pixels(image))


def test_seen_is_what_the_pixels_show() -> None:
    image = sample_image(4, width=100)
    cropping = processor(resize_mode="crop")
    seen = cropping.seen(image)
    assert seen.size == (image.height, image.height)
    assert np.array_equal(pixels(image, mode="crop"), pixels(seen))
    assert processor(resize_mode="pad").seen(image).size == (100, 100)
    assert processor().seen(image).size == image.size


def test_a_processor_saved_before_resize_mode_squashes(tmp_path: Path) -> None:
    processor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    saved = json.loads(path.read_text())
    assert saved.pop("resize_mode") == "squash"
    path.write_text(json.dumps(saved))
    old = LesionImageProcessor.from_pretrained(tmp_path)
    assert old.pixel_settings()["resize_mode"] == "squash"
    assert np.array_equal(old(sample_image(6))["pixel_values"], pixels(sample_image(6)))


def test_an_unknown_resize_mode_is_refused() -> None:
    with pytest.raises(PixelSettingError, match="resize_mode is 'stretch'; give squash, crop, pad"):
        processor(resize_mode="stretch")


@pytest.mark.parametrize("number", [1, 3])
def test_lists_of_any_sizes_make_a_batch(number: int) -> None:
    images = [sample_image(seed, width=40 + 10 * seed) for seed in range(number)]
    together = pixels(images)
    assert together.shape == (number, 3, SIZE, SIZE)
    for row, image in zip(together, images, strict=True):
        assert np.array_equal(row, pixels(image)[0])


def test_a_list_of_images_and_batches_is_one_batch() -> None:
    batch = np.stack([np.asarray(sample_image(seed)) for seed in range(3)])
    one_by_one = LesionImageProcessor(size=32)(list(batch), return_tensors="pt")["pixel_values"]
    for mixed in ([batch[:2], batch[2]], [batch[0], batch[1:]], [[batch[0]], (batch[1], batch[2])]):
        found = LesionImageProcessor(size=32)(mixed, return_tensors="pt")["pixel_values"]
        assert torch.equal(found, one_by_one)


def test_every_form_of_the_same_image_gives_the_same_pixels(tmp_path: Path) -> None:
    image = sample_image(1)
    array = np.asarray(image)
    path = tmp_path / "image.png"
    image.save(path)
    chw = np.ascontiguousarray(array.transpose(2, 0, 1))
    expected = pixels(image)
    for same in (array, chw, torch.from_numpy(chw), array.astype(np.uint16) * 257, str(path), path, array[None]):
        np.testing.assert_allclose(pixels(same), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(pixels((array / 255).astype(np.float32)), expected, rtol=0, atol=1e-6)
    assert pixels(array[..., 0]).shape == (1, 3, SIZE, SIZE)


def test_the_channel_axis_can_be_given_where_the_shape_is_ambiguous() -> None:
    array = np.zeros((3, 20, 3), np.uint8)
    array[0] = 255  # channels first: a red image of 20 x 3; channels last: 3 rows of 20, the first white
    first = pixels(array, input_data_format="channels_first")[0]
    last = pixels(array, input_data_format="channels_last")[0]
    assert np.array_equal(pixels(array)[0], last)
    assert first[0].min() > 0 > first[1].max()
    assert last[:, 0].min() > 0 > last[:, -1].max()


# ---------------------------------------------------------------- PIL modes


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "LA", "PA", "RGBa"]
)
def test_every_pil_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("LAB", (30, 20), (120, 130, 140)) if mode == "LAB" else sample_image(2).convert(mode)
    got = to_rgb(image)
    assert got.mode == "RGB"
    assert got.size == image.size
    assert pixels(image).shape == (1, 3, SIZE, SIZE)
    if mode in ("RGB", "RGBA", "RGBX", "CMYK", "RGBa"):
        assert np.array_equal(np.asarray(got), np.asarray(sample_image(2)))
    if mode in ("L", "LA"):
        assert np.array_equal(np.asarray(got)[..., 1], np.asarray(sample_image(2).convert("L")))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(form: str, tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    path = tmp_path / f"deep.{form.lower()}"
    Image.fromarray(ramp).save(path)
    expected = np.round(ramp / 257).astype(np.uint8)
    with Image.open(path) as image:
        assert image.mode.startswith("I;16")
        got = np.asarray(to_rgb(image))
    assert np.array_equal(got, np.repeat(expected[..., None], 3, -1))
    np.testing.assert_array_equal(pixels(str(path)), pixels(expected))


def test_a_dark_16_bit_image_stays_dark_and_wider_modes_take_their_own_range() -> None:
    dark = Image.fromarray(np.full((4, 4), 250, np.uint16))
    assert np.asarray(to_rgb(dark)).max() == 1
    assert np.asarray(to_rgb(Image.fromarray(np.full((4, 4), 250, np.int32)))).max() == 250
    assert np.asarray(to_rgb(Image.fromarray(np.full((4, 4), 25700, np.int32)))).max() == 100
    assert np.asarray(to_rgb(Image.fromarray(np.full((4, 4), 0.5, np.float32)))).max() == 128
    assert np.asarray(to_rgb(Image.fromarray(np.full((4, 4), 200.0, np.float32)))).max() == 200
    with pytest.raises(PixelValueError, match="mode I holds values from -1 to -1"):
        to_rgb(Image.fromarray(np.full((4, 4), -1, np.int32)))


def test_transparency_is_laid_on_white() -> None:
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = (10, 20, 30, 255)
    got = np.asarray(to_rgb(Image.fromarray(clear)))
    assert (got[:2] == (10, 20, 30)).all()
    assert (got[2:] == 255).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    data = encoded(palette, "PNG", transparency=0)
    assert (np.asarray(to_rgb(Image.open(io.BytesIO(data)))) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    upright = sample_image(3, width=40, height=24)
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    got = to_rgb(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(got), np.asarray(upright))
    again = to_rgb(got)
    assert np.array_equal(np.asarray(again), np.asarray(upright)), "turned twice"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "I;16"])
def test_one_pixel_is_an_image(mode: str) -> None:
    got = pixels(Image.new(mode, (1, 1)), do_lesion_crop=True, do_hair_removal=True)
    assert got.shape == (1, 3, SIZE, SIZE)
    assert all(math.isclose(channel.min(), channel.max()) for channel in got[0])


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_is_named(form: str, tmp_path: Path) -> None:
    data = encoded(sample_image(4, 300, 200), form)
    path = tmp_path / f"cut.{form.lower()}"
    path.write_bytes(data[: len(data) // 2])
    lazy = Image.open(path)
    with pytest.raises(UnreadableImageError, match=r"cut\.\w+ cannot be decoded .*truncated"):
        pixels(lazy)
    with pytest.raises(UnreadableImageError, match=r"cut\.\w+ cannot be"):
        pixels(str(path))


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff"])
def test_a_file_that_is_no_image_is_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "none.jpg"
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=r"none\.jpg cannot be opened"):
        pixels(str(path))
    with pytest.raises(UnreadableImageError, match=r"missing\.jpg cannot be opened"):
        pixels(tmp_path / "missing.jpg")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((4, 4, 3), 300), "int64 with values from 300 to 300"),
        (np.full((4, 4, 3), 1.5), "values from 1.5 to 1.5"),
        (np.full((4, 4, 3), np.nan), "values from nan"),
        (np.zeros((5, 5, 5), np.uint8), r"shape \(5, 5, 5\) is no image"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\) is no image"),
    ],
)
def test_an_array_that_is_no_image_is_named(array: np.ndarray, message: str) -> None:
    with pytest.raises(PixelValueError, match=message):
        to_rgb(array)


def test_an_empty_image_is_named() -> None:
    with pytest.raises(PixelValueError, match="0 x 5 pixels is empty"):
        to_rgb(Image.new("RGB", (0, 5)))


def test_an_unknown_switch_is_refused() -> None:
    with pytest.raises(TypeError, match="do_hair"):
        processor()(sample_image(0), do_hair=True)


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("do_hair_removal", "false", "do_hair_removal is 'false'; give true or false, without quotation marks"),
        ("do_resize", 1, "do_resize is 1; give true or false"),
        ("do_hair", True, "do_hair is no setting .* do_hair_removal, do_lesion_crop, do_colour_constancy"),
    ],
)
def test_a_saved_switch_that_is_none_is_refused(name: str, value: Any, named: str, tmp_path: Path) -> None:
    processor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(SwitchError, match=named):
        AutoImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(SwitchError, match=named):
        processor(**{name: value})


@pytest.mark.parametrize("threads", [1, 3])
def test_steps_run_on_as_many_threads_as_torch_does(threads: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    steps = {"do_hair_removal": True, "do_lesion_crop": True, "do_colour_constancy": True}
    built = processor(**steps)
    batch = [haired_lesion(), *(sample_image(number) for number in range(7))]
    used: set[int] = set()
    together = threading.Barrier(threads)

    def prepare(image: Any, **switches: Any) -> Image.Image:
        if threading.get_ident() not in used:
            used.add(threading.get_ident())
            together.wait(timeout=60)  # for the others: they do run at the same time
        return LesionImageProcessor.prepare(built, image, **switches)

    monkeypatch.setattr(built, "prepare", prepare)
    got = built(batch, return_tensors="np")["pixel_values"]
    assert len(used) == threads
    monkeypatch.undo()
    assert np.array_equal(got, np.concatenate([built(one, return_tensors="np")["pixel_values"] for one in batch]))
    assert np.array_equal(got[1:], built(batch[1:], return_tensors="np")["pixel_values"]), "in the order given"


# -------------------------------------------------- saving, and the switches


def test_saved_values_come_back(tmp_path: Path) -> None:
    given = processor(
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
        resample=3,
        do_hair_removal=True,
        do_lesion_crop=True,
        do_colour_constancy=True,
    )
    given.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["size"] == {"height": SIZE, "width": SIZE}
    assert saved["do_hair_removal"] is True
    assert saved["do_lesion_crop"] is True
    assert saved["do_colour_constancy"] is True
    assert saved["auto_map"] == {"AutoImageProcessor": "image_processing_steps.StepsImageProcessor"}
    for loaded in (LesionImageProcessor.from_pretrained(tmp_path), AutoImageProcessor.from_pretrained(tmp_path)):
        assert loaded.to_dict() == {**given.to_dict(), "auto_map": saved["auto_map"]}
        assert np.array_equal(loaded(sample_image(5))["pixel_values"], given(sample_image(5))["pixel_values"])


STEPS, RECORD = {"do_hair_removal": True}, {"metadata_fields": ["age"], "model_input_names": ["metadata"]}
OF_PIXELS = {"checks_lesion.py", "image_processing_pixels.py", "preprocess_lesion.py"}
OF_STEPS = {"crop_lesion.py", "hair_lesion.py", "image_processing_steps.py"}
OF_RECORD = {"image_processing_record.py", "metadata_lesion.py"}


@pytest.mark.parametrize(
    ("settings", "class_name", "more"),
    [
        ({}, "PixelImageProcessor", set()),
        ({"do_colour_constancy": True, "resize_mode": "pad"}, "PixelImageProcessor", set()),
        (STEPS, "StepsImageProcessor", OF_STEPS),
        ({"do_lesion_crop": True}, "StepsImageProcessor", OF_STEPS),
        (RECORD, "RecordImageProcessor", OF_RECORD),
        ({**STEPS, **RECORD}, "LesionImageProcessor", OF_STEPS | OF_RECORD | {"image_processing_lesion.py"}),
    ],
)
def test_the_code_that_is_saved_is_what_the_settings_need(
    settings: dict[str, Any], class_name: str, more: set[str], tmp_path: Path
) -> None:
    given = processor(**settings)
    given.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == OF_PIXELS | more
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    module, name = saved["auto_map"]["AutoImageProcessor"].split(".")
    assert (f"{module}.py" in OF_PIXELS | more, name) == (True, class_name)
    # The saved class, as somebody without this suite has it, has the same settings and pixels.
    loaded = getattr(importlib.import_module(f"hub_models.{module}"), class_name).from_pretrained(tmp_path)
    assert loaded.pixel_settings() == given.pixel_settings()
    one, other = loaded(sample_image(5), return_tensors="np"), given(sample_image(5), return_tensors="np")
    assert list(one) == list(other) == given.model_input_names
    assert all(np.array_equal(one[key], other[key]) for key in other)
    # Saved again by that class.
    loaded.save_pretrained(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").glob("*.py")} == OF_PIXELS | more
    assert json.loads((tmp_path / "again" / "preprocessor_config.json").read_text()) == saved


def test_code_of_images_alone_refuses_what_it_does_not_hold(tmp_path: Path) -> None:
    processor().save_pretrained(tmp_path)
    for settings, error in ((STEPS, SwitchError), (RECORD, PixelSettingError)):
        with pytest.raises(error, match=next(iter(settings))):
            PixelImageProcessor.from_pretrained(tmp_path, **settings)
    alone = PixelImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(SwitchError, match="do_lesion_crop"):
        alone(sample_image(0), do_lesion_crop=True)
    record = {"image": sample_image(0), "age": "not read"}
    assert np.array_equal(alone(record)["pixel_values"], alone(sample_image(0))["pixel_values"])
    with pytest.raises(RecordError, match="'dx_type' is no key of a record; give image, age, sex, localization"):
        alone([record, {**record, "dx_type": "histo"}])
    with pytest.raises(RecordError, match="record 1 has no image"):
        alone([record, {"age": 45}])


@pytest.mark.parametrize("switch", ["do_hair_removal", "do_lesion_crop"])
def test_without_opencv_a_switch_raises_and_never_skips(switch: str, monkeypatch: Any) -> None:
    built_before = processor(**{switch: True})
    monkeypatch.setattr(preprocess, "cv2", None)
    with pytest.raises(MissingOpenCVError, match=f"{switch} is switched on .* pip install opencv-python-headless"):
        processor(**{switch: True})
    with pytest.raises(MissingOpenCVError, match=switch):
        pixels(sample_image(0), **{switch: True})
    with pytest.raises(MissingOpenCVError, match=switch):
        built_before(sample_image(0))
    assert pixels(sample_image(0)).shape == (1, 3, SIZE, SIZE)


def test_prepare_then_switches_off_is_the_whole_processor() -> None:
    """What training does: prepare, (augment,) then the processor without the switches."""
    both = processor(do_hair_removal=True, do_lesion_crop=True)
    image = Image.fromarray(haired_lesion())
    prepared = both.prepare(image)
    assert prepared.mode == "RGB"
    assert prepared.size < image.size
    assert both.prepare(image, do_lesion_crop=False).size == image.size
    in_steps = both(prepared, do_hair_removal=False, do_lesion_crop=False)["pixel_values"]
    assert np.array_equal(in_steps, both(image)["pixel_values"])
    assert not np.array_equal(in_steps, processor()(image)["pixel_values"])


def test_the_order_is_hair_crop_colour() -> None:
    everything = processor(do_hair_removal=True, do_lesion_crop=True, do_colour_constancy=True)
    image = haired_lesion()
    bald = remove_hair(image)
    left, top, right, bottom = lesion_box(bald)
    expected = constant_colour(bald[top:bottom, left:right])
    assert np.array_equal(np.asarray(everything.prepare(image)), expected)
    assert not np.array_equal(constant_colour(bald)[top:bottom, left:right], expected), "the order shows"
    assert np.array_equal(everything(image)["pixel_values"], pixels(expected))
    assert np.array_equal(everything(expected, **PREPARED)["pixel_values"], pixels(expected))


def test_colour_constancy_is_off_by_default_and_needs_no_opencv(monkeypatch: Any) -> None:
    monkeypatch.setattr(preprocess, "cv2", None)
    image = haired_lesion()
    assert processor().do_colour_constancy is False
    assert np.array_equal(np.asarray(processor().prepare(image)), image)
    expected = pixels(constant_colour(image))
    assert not np.array_equal(pixels(image), expected)
    assert np.array_equal(pixels(image, do_colour_constancy=True), expected)
    assert np.array_equal(processor(do_colour_constancy=True)(image)["pixel_values"], expected)


def test_a_processor_saved_before_the_switch_means_off(tmp_path: Path) -> None:
    processor().save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    saved = json.loads(path.read_text())
    assert saved.pop("do_colour_constancy") is False
    path.write_text(json.dumps(saved))
    old = LesionImageProcessor.from_pretrained(tmp_path)
    assert old.do_colour_constancy is False
    assert old.pixel_settings()["do_colour_constancy"] is False
    assert np.array_equal(old(sample_image(6))["pixel_values"], pixels(sample_image(6)))


def haired_lesion() -> np.ndarray:
    """(120, 160, 3): skin, a round brown lesion off the centre, three dark hairs."""
    import cv2

    image = np.full((120, 160, 3), (220, 180, 160), np.uint8)
    cv2.circle(image, (95, 60), 22, (120, 70, 50), -1)
    for start, end in (((5, 10), (70, 110)), ((30, 5), (150, 40)), ((10, 100), (150, 112))):
        cv2.line(image, start, end, (40, 25, 20), 1)
    return image
