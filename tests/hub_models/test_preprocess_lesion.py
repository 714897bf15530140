"""Hair removal, lesion crop and colour constancy on drawings whose hairs, lesions and light are known."""

from __future__ import annotations

import base64
import io
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets_scripts.phantom import draw
from hub_models import LesionImageProcessor, preprocess_lesion
from hub_models.crop_lesion import lesion_box
from hub_models.hair_lesion import hair_mask, remove_hair
from hub_models.preprocess_lesion import (
    PixelValueError,
    UnreadableImageError,
    constant_colour,
    fetch_image,
    open_image,
    to_rgb,
)

Colour = tuple[int, int, int]


def skin(height: int = 150, width: int = 200, seed: int = 0) -> np.ndarray:
    """Skin with a soft gradient, a little noise and a round lesion in the middle; no hair."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([215 + 15 * x / width, 170 + 10 * y / height, 150 + 0 * x], -1)
    reach = np.hypot((y - height / 2) / (0.22 * height), (x - width / 2) / (0.18 * width))
    inside = 1 / (1 + np.exp(12 * (reach - 1)))[..., None]
    image = inside * np.array([115, 70, 55]) + (1 - inside) * image
    return np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)


def add_hairs(image: np.ndarray, number: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw gently curved dark hairs; return the image and the mask of changed pixels."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    haired = image.copy()
    thickness = max(1, round(min(height, width) / 150))
    for _ in range(number):
        start, end = rng.uniform((0, 0), (0.2 * width, height)), rng.uniform((0.8 * width, 0), (width, height))
        bend = (start + end) / 2 + rng.normal(0, 0.06 * width, 2)
        t = np.linspace(0, 1, 40)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        cv2.polylines(haired, [np.round(curve).astype(np.int32)], False, (45, 30, 25), thickness)
    return haired, (haired != image).any(-1)


@pytest.mark.parametrize("size", [(150, 200), (450, 600), (96, 96)])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_hair_means_the_very_same_pixels(size: tuple[int, int], seed: int) -> None:
    image = skin(*size, seed=seed)
    assert not hair_mask(image).any()
    assert np.array_equal(remove_hair(image), image)


@pytest.mark.parametrize("size", [(150, 200), (450, 600), (700, 900)])
def test_hair_is_found_and_painted_over_at_any_size(size: tuple[int, int]) -> None:
    clean = skin(*size)
    haired, truth = add_hairs(clean)
    mask = hair_mask(haired) > 0
    near = cv2.dilate(truth.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    found = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert (truth & found).sum() > 0.75 * truth.sum(), "recall; hairs that cross are partly left"
    assert (mask & near).sum() > 0.85 * mask.sum(), "precision"
    before = np.abs(haired.astype(float) - clean)[truth].mean()
    painted = remove_hair(haired)
    after = np.abs(painted.astype(float) - clean)[truth].mean()
    assert after < 0.4 * before
    far = cv2.dilate(found.astype(np.uint8), np.ones((15, 15), np.uint8)) == 0
    assert np.array_equal(painted[far], haired[far])


def test_a_pigment_network_is_left_alone() -> None:
    image = skin()
    for row in range(7):
        for column in range(9):
            centre = (72 + 7 * column + 3 * (row % 2), 54 + 7 * row)
            cv2.circle(image, centre, 4, (80, 45, 35), 1)
    assert np.array_equal(remove_hair(image), image)


@pytest.mark.parametrize(("what", "colour"), [("a vessel", (190, 60, 70)), ("a pen mark", (95, 65, 150))])
def test_what_is_as_thin_and_straight_but_not_of_hairs_colour_is_left_alone(what: str, colour: Colour) -> None:
    image = skin()
    brown = image.copy()
    cv2.line(image, (30, 20), (150, 110), colour, 2)
    assert np.array_equal(remove_hair(image), image), what
    cv2.line(brown, (30, 20), (150, 110), (60, 40, 30), 2)
    assert hair_mask(brown).any(), "the same line, brown"


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (23, 23), (2, 3)])
def test_tiny_images_pass_unchanged(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert np.array_equal(remove_hair(image), image)
    box = lesion_box(image)
    assert 0 <= box[0] < box[2] <= size[1]
    assert 0 <= box[1] < box[3] <= size[0]


@pytest.mark.parametrize("centre", [(100, 75), (70, 60), (130, 90)])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_box_is_the_lesion_with_a_margin(centre: tuple[int, int], scale: int) -> None:
    image = np.full((150 * scale, 200 * scale, 3), (220, 180, 160), np.uint8)
    x, y = centre[0] * scale, centre[1] * scale
    cv2.circle(image, (x, y), 24 * scale, (110, 70, 50), -1)
    reach = 24 * 1.2 * scale  # radius, and a margin of 10 % of the diameter
    assert lesion_box(image) == pytest.approx((x - reach, y - reach, x + reach, y + reach), abs=2 * scale + 1)


def test_a_vignette_is_not_the_lesion() -> None:
    y, x = np.mgrid[:150, :200]
    image = np.full((150, 200, 3), (220, 180, 160), np.uint8)
    image[np.hypot((y - 75) / 75, (x - 100) / 100) > 1.02] = 5
    cv2.circle(image, (95, 80), 20, (110, 70, 50), -1)
    assert lesion_box(image) == pytest.approx((71, 56, 119, 104), abs=4)


@pytest.mark.parametrize(
    "image",
    [
        np.full((80, 100, 3), 200, np.uint8),
        np.zeros((80, 100, 3), np.uint8),
        np.pad(np.zeros((2, 2, 3), np.uint8), ((39, 39), (49, 49), (0, 0)), constant_values=220),
    ],
    ids=["bright", "black", "a dot"],
)
def test_an_implausible_mask_keeps_the_whole_image(image: np.ndarray) -> None:
    assert lesion_box(image) == (0, 0, 100, 80)


# ---------------------------------------------------------------- phantoms, whose hairs are known to the pixel


def lesions(size: tuple[int, int] = (200, 150)) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Phantoms with hair, without, and the mask of their hairs; of each class those that have dark hair to find."""
    drawn = []
    for label in ("nv", "mel", "bkl", "bcc", "df", "vasc"):
        for seed in range(3):
            haired, bare = draw(label, seed, size), draw(label, seed, size, with_hairs=False)
            drawn.append((np.asarray(haired.image), np.asarray(bare.image), haired.hair_mask))
    return drawn


def test_hair_on_phantoms_is_found_and_bare_phantoms_stay_as_they_are() -> None:
    hit = found = there = untouched = 0
    gains = []
    for haired, bare, truth in (cases := lesions()):
        untouched += remove_hair(bare) is bare
        if not truth.any():
            continue
        mask = hair_mask(haired) > 0
        hit, found, there = hit + (mask & truth).sum(), found + mask.sum(), there + truth.sum()
        before, after = (np.square(x[truth].astype(float) - bare[truth]).mean() for x in (haired, remove_hair(haired)))
        gains.append(10 * np.log10(before / after))
    assert hit / found > 0.8, "precision"
    assert 2 * hit / (found + there) > 0.65, "F1"
    assert np.mean(gains) > 4, "dB of PSNR inside the hairs"
    assert untouched > 0.93 * len(cases), "the very same array, not an equal one"


def test_twice_the_size_is_the_same_mask_up_to_resampling() -> None:
    agreed = total = 0
    for haired, _, _ in lesions():
        mask = hair_mask(haired)
        twice = cv2.resize(haired, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        large = np.where(cv2.resize(hair_mask(twice), (200, 150), interpolation=cv2.INTER_AREA) > 127, 255, 0)
        for one, other in ((mask, large.astype(np.uint8)), (large.astype(np.uint8), mask)):
            within_a_pixel = cv2.dilate(other, np.ones((3, 3), np.uint8)) > 0
            agreed, total = agreed + ((one > 0) & within_a_pixel).sum(), total + (one > 0).sum()
    assert total > 5000
    assert agreed / total > 0.9


def test_light_hairs_stay() -> None:
    haired = 255 - add_hairs(255 - skin() // 2)[0]
    assert np.array_equal(remove_hair(haired), haired)


def test_threads_give_what_one_after_the_other_gives() -> None:
    images = [haired for haired, _, _ in lesions()]

    def work(image: np.ndarray) -> tuple[bytes, tuple[int, int, int, int], bytes]:
        return remove_hair(image).tobytes(), lesion_box(image), constant_colour(image).tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, images * 2)) == [work(image) for image in images] * 2


# ---------------------------------------------------------------- bad input


def test_a_grey_and_an_all_black_image_stay_as_they_are() -> None:
    ramp = np.asarray(to_rgb(np.tile(np.arange(200, dtype=np.uint8), (150, 1))))
    for image in (np.full((150, 200, 3), 128, np.uint8), np.zeros((150, 200, 3), np.uint8), ramp):
        assert np.array_equal(remove_hair(image), image)
        assert np.array_equal(constant_colour(image), image)
    assert lesion_box(np.full((150, 200, 3), 128, np.uint8)) == (0, 0, 200, 150)


def test_hair_everywhere_is_survived() -> None:
    image, truth = skin(), np.zeros((150, 200), bool)
    for seed in range(30):
        image, drawn = add_hairs(image, number=6, seed=seed)
        truth |= drawn
    assert truth.mean() > 0.5
    painted = remove_hair(image)
    assert painted.shape == image.shape
    assert painted.dtype == np.uint8
    lines = np.full((150, 200, 3), 220, np.uint8)
    lines[::2] = 20
    assert remove_hair(lines).shape == lines.shape


def test_a_lesion_larger_than_the_image_is_kept_whole() -> None:
    y, x = np.mgrid[:150, :200]
    reach = np.hypot((y - 75) / 150, (x - 100) / 200)
    image = np.clip(np.stack([90 + 60 * reach, 60 + 50 * reach, 50 + 60 * reach], -1), 0, 255).astype(np.uint8)
    left, top, right, bottom = lesion_box(image)  # lighter towards the corners: no rim to tell it from a smaller one
    assert (right - left) * (bottom - top) > 0.5 * image[..., 0].size
    image = np.full((150, 200, 3), (110, 70, 50), np.uint8)
    image[:6, :6] = 220  # a corner of skin, outside the ellipse
    assert lesion_box(image) == (0, 0, 200, 150)
    image = np.full((150, 200, 3), (220, 180, 160), np.uint8)
    image[:, 60:] = (110, 70, 50)
    assert lesion_box(image) == (0, 0, 200, 150), "it reaches three sides"


@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
@pytest.mark.parametrize("size", [(150, 200), (450, 600)])
def test_skin_without_a_lesion_is_not_cut(direction: str, size: tuple[int, int]) -> None:
    """The light falls off by 15 grey levels, or by one only: Otsu parts it all the same, in halves."""
    ramp = np.linspace(0, 1, size[1] if direction in ("left", "right") else size[0])
    shade = np.broadcast_to(ramp[None, :] if direction in ("left", "right") else ramp[:, None], size)
    shade = shade[::-1, ::-1] if direction in ("left", "up") else shade
    for depth in (15 * shade, (shade > 0.55).astype(float)):
        image = (np.array((220, 180, 160)) - depth[..., None]).round().astype(np.uint8)
        assert lesion_box(image) == (0, 0, size[1], size[0])


@pytest.mark.parametrize("radius", [15, 25, 45])
@pytest.mark.parametrize("y", [0, 20, 75, 130, 149])
@pytest.mark.parametrize("x", [0, 20, 100, 180, 199])
def test_a_lesion_at_the_border_stays_in_the_box(x: int, y: int, radius: int) -> None:
    image = np.full((150, 200, 3), (220, 180, 160), np.uint8)
    cv2.circle(image, (x, y), radius, (110, 70, 50), -1)
    left, top, right, bottom = lesion_box(image)
    lesion = image[..., 2] < 100
    assert 0 <= left < right <= 200
    assert 0 <= top < bottom <= 150
    assert lesion[top:bottom, left:right].sum() >= 0.98 * lesion.sum()
    if (x, y, radius) == (100, 75, 25):
        assert (left, top, right, bottom) == pytest.approx((70, 45, 131, 106), abs=2), "a tight one in the middle"
    if (x, y, radius) == (20, 20, 25):
        assert (left, top) == (0, 0)
        assert right < 60 > bottom, "to the corner that it lies in, not further"


@pytest.mark.parametrize("size", [(32, 32), (4000, 6000)])
def test_very_small_and_very_large_images_pass(size: tuple[int, int]) -> None:
    small = add_hairs(skin(*((32, 32) if size[0] == 32 else (500, 750))))[0]
    image = small if size[0] == 32 else cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)
    painted = remove_hair(image)
    assert painted.shape == image.shape
    left, top, right, bottom = lesion_box(image)
    centre = (size[1] / 2, size[0] / 2)
    assert left < centre[0] < right
    assert top < centre[1] < bottom
    assert constant_colour(image).shape == image.shape
    if size[0] > 32:
        changed = (painted != image).any(axis=-1)
        assert 0.005 < changed.mean() < 0.3, "hairs alone, at a size that is painted reduced"
        expected = np.array(lesion_box(small)) * 8
        assert np.abs(np.array([left, top, right, bottom]) - expected).max() <= 0.02 * size[1]


# ---------------------------------------------------------------- colour constancy by hand


def test_grey_light_changes_nothing_and_a_cast_goes() -> None:
    """Four pixels; the third channel is halved by the light. With e = (a, a, a/2) the gains are s/a, s/a and 2 s/a,
    s = a sqrt((1 + 1 + 1/4) / 3) = 0.8660 a: 0.8660, 0.8660 and 1.7321.
    """
    fair = np.array([[[200, 100, 40], [40, 200, 100]], [[100, 40, 200], [60, 60, 60]]], np.uint8)
    assert np.array_equal(constant_colour(fair), fair)
    cast = fair.copy()
    cast[..., 2] //= 2
    gains = np.array([0.8660254, 0.8660254, 1.7320508])
    assert np.array_equal(constant_colour(cast), np.round(cast * gains).astype(np.uint8))
    np.testing.assert_allclose(constant_colour(cast)[1, 1], [52, 52, 52], atol=0)


def test_the_norm_is_of_order_six() -> None:
    """Red: one pixel of 255 among three of 0, norm 255 (1/4)^(1/6) = 202.39; green and blue: 100 everywhere."""
    image = np.full((2, 2, 3), 100, np.uint8)
    image[..., 0] = [[255, 0], [0, 0]]
    red = 255 * 0.25 ** (1 / 6)
    white = np.sqrt((red**2 + 100**2 + 100**2) / 3)
    got = constant_colour(image)
    assert got[0, 0, 0] == round(255 * white / red)
    assert got[0, 0, 1] == got[1, 1, 2] == round(white)
    assert got[1, 1, 0] == 0


def test_the_same_skin_under_two_lights_comes_closer() -> None:
    image = skin()
    one, other = (np.round(image * np.array(cast)).astype(np.uint8) for cast in ((1, 0.9, 0.8), (0.85, 0.95, 1)))
    apart = np.abs(one.astype(float) - other).mean()
    assert np.abs(constant_colour(one).astype(float) - constant_colour(other)).mean() < 0.15 * apart


def test_gains_are_bounded_where_a_channel_is_all_but_absent() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0], image[..., 1] = 240, 2
    got = constant_colour(image)
    assert (got[..., 1] == 6).all(), "three times"
    assert (got[..., 2] == 0).all()


@pytest.mark.real
def test_the_box_holds_the_segmented_lesion_of_real_images(data_dir: Path) -> None:
    masks = sorted((data_dir / "ham10000" / "HAM10000_segmentations_lesion_tschandl").glob("*.png"))[::100]
    kept, area = [], []
    for path in masks:
        name = path.name.replace("_segmentation.png", ".jpg")
        (photo,) = (data_dir / "ham10000").glob(f"HAM10000_images_part_*/{name}")
        with Image.open(photo) as image, Image.open(path) as segmentation:
            rgb, lesion = np.asarray(image.convert("RGB")), np.asarray(segmentation.convert("L")) > 0
        left, top, right, bottom = lesion_box(rgb)
        kept.append(lesion[top:bottom, left:right].sum() / lesion.sum())
        area.append((right - left) * (bottom - top) / lesion.size)
    assert len(kept) > 90
    assert np.mean(kept) >= 0.98
    assert np.mean(np.array(kept) > 0.9) > 0.9
    assert np.mean(area) < 0.65, "a box that is always the whole image holds every lesion, too"


def test_no_program_is_started_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("Ghostscript")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    path = tmp_path / "lesion.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UnreadableImageError, match=r"lesion\.jpg"):
        open_image(path)


def test_a_very_large_jpeg_is_decoded_smaller_and_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.new("RGB", (80, 40), "red")
    for name in ("a.jpg", "a.png"):
        image.save(tmp_path / name)
    monkeypatch.setattr(preprocess_lesion, "MOST_PIXELS", 80 * 40)
    assert open_image(tmp_path / "a.jpg").size == (80, 40)
    monkeypatch.setattr(preprocess_lesion, "MOST_PIXELS", 80 * 40 - 1)
    assert open_image(tmp_path / "a.jpg").size == (40, 20)
    monkeypatch.setattr(preprocess_lesion, "MOST_PIXELS", 250)
    assert open_image(tmp_path / "a.jpg").size == (20, 10)
    with pytest.raises(PixelValueError, match=r"a\.png has 80 x 40 pixels"):
        open_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match="decompression bomb"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["PNG", "PCX"])
def test_an_address_is_read_in_the_same_formats_as_a_path(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, kind)
    address = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    processor = LesionImageProcessor(size={"height": 8, "width": 8}, do_normalize=False, do_rescale=False)
    if kind == "PNG":
        assert fetch_image(address).getpixel((0, 0)) == (255, 0, 0)
        assert processor(address, return_tensors="np")["pixel_values"][0, :, 0, 0].tolist() == [255, 0, 0]
        return
    with pytest.raises(UnreadableImageError, match=r"^data:image/png;base64,.{0,95}\.\.\. cannot be opened"):
        processor(address, return_tensors="np")


def test_an_address_at_which_nothing_answers_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/a.png"
        with pytest.raises(UnreadableImageError, match=f"{address} cannot be opened"):
            fetch_image(address)


def test_an_exif_block_that_cannot_be_decoded_harms_no_pixel() -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(file, "PNG", exif=b"Exif\0\0M)\0*\0\0\0\x08\0\x01")
    image = to_rgb(Image.open(file))
    assert (image.size, image.getpixel((0, 0))) == ((30, 20), (255, 0, 0))


def test_a_pointer_in_place_of_an_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234567\n")
    with pytest.raises(UnreadableImageError, match=r"Git LFS pointer .* 1,234,567 bytes"):
        open_image(path)
