from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from datasets_scripts.images import ImageError, decode, normalised, scan, scan_all
from datasets_scripts.rows import Row

EXIF_ORIENTATION = 0x0112


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def half_black_half_white(mode: str) -> Image.Image:
    grey = np.zeros((20, 30), np.uint8)
    grey[:, 15:] = 255
    return Image.fromarray(grey).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_plain_images_are_kept_as_they_are(mode, form):
    rgb, verbatim = decode(saved(half_black_half_white(mode), form))
    assert (rgb.mode, rgb.size, verbatim) == ("RGB", (30, 20), True)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("LA", "PNG"), ("1", "PNG"), ("RGB", "BMP"), ("RGB", "TIFF")],
)
def test_other_modes_and_formats_become_rgb_png_of_the_same_picture(mode, form):
    data = saved(half_black_half_white(mode), form)
    assert decode(data)[1] is False
    result = pixels(normalised(data))
    assert result.shape == (20, 30, 3)
    assert result[:, :12].max() <= 3
    assert result[:, 18:].min() >= 252


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.linspace(0, 65535, 40 * 20).reshape(20, 40).astype(np.uint16)
    result = pixels(normalised(saved(Image.fromarray(values), "PNG")))
    assert result[0, 0, 0] == 0
    assert result[-1, -1, 0] == 255
    assert result[10, 20, 0] == pytest.approx(values[10, 20] / 257, abs=1)


def test_16_bit_rgb_is_stored_with_8_bits(repo_png_16):
    rgb, verbatim = decode(repo_png_16)
    assert verbatim is False
    assert np.asarray(rgb)[0, 0].tolist() == [255, 128, 0]
    assert normalised(repo_png_16)[24] == 8  # bit depth in the PNG's header


@pytest.fixture
def repo_png_16() -> bytes:
    """A 16-bit RGB PNG of one colour, put together by hand, for Pillow does not write them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\x00" + struct.pack(">3H", 65535, 32896, 0) * 16
    header = struct.pack(">2I5B", 16, 16, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 16)) + chunk(b"IEND", b"")


def test_transparency_is_laid_on_white():
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert (pixels(normalised(saved(image, "PNG"))) == 255).all()


def test_exif_rotation_is_applied_and_then_gone():
    image = half_black_half_white("RGB")
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # shown turned by 90 degrees clockwise
    data = saved(image, "JPEG", exif=exif.tobytes(), quality=95)
    rgb, verbatim = decode(data)
    assert (rgb.size, verbatim) == ((20, 30), False)
    upright = normalised(data)
    assert pixels(upright)[:12].max() <= 5  # the left half, black, is on top now
    with Image.open(io.BytesIO(upright)) as again:
        assert again.getexif().get(EXIF_ORIENTATION, 1) == 1


def test_unusable_images_say_why():
    whole = saved(Image.effect_noise((200, 150), 60).convert("RGB"), "JPEG")
    for data, why in (
        (b"", r"empty \(0 bytes\)"),
        (whole[: len(whole) // 2], "cannot be decoded.*truncated"),
        (b"<html>not found</html>" * 20, "cannot be decoded.*cannot identify"),
        (saved(Image.new("RGB", (1, 1)), "PNG"), "1x1 pixels, at least 16x16"),
        (saved(Image.new("RGB", (200, 15)), "PNG"), "200x15 pixels"),
        (saved(Image.new("RGB", (64, 64)), "PNG")[:60], "cannot be decoded"),
    ):
        with pytest.raises(ImageError, match=why):
            decode(data)


def test_all_faults_are_counted_and_the_first_is_named():
    good = saved(half_black_half_white("RGB"), "PNG")
    rows = [Row(f"i{n}", "nv", lambda data=data: data, "l") for n, data in enumerate((good, b"", good, b"junk"))]
    with pytest.raises(ImageError, match=r"image i1: the file is empty.*\(2 of 4 images are unusable\)"):
        scan_all(rows)


def test_a_file_that_vanished_is_an_image_fault(tmp_path):
    result = scan(Row("gone", "nv", (tmp_path / "gone.jpg").read_bytes, "l"))
    assert isinstance(result, ImageError)
    assert "image gone: " in str(result)
    assert "No such file" in str(result)


@pytest.mark.parametrize(
    ("mask", "why"),
    [
        (b"", r"its mask is empty"),
        (b"junk", "its mask cannot be decoded"),
        (saved(Image.new("1", (60, 40)), "PNG"), "its mask has 60x40 pixels, the image 30x20"),
    ],
)
def test_a_mask_must_be_an_image_of_the_same_size(mask, why):
    data = saved(half_black_half_white("RGB"), "PNG")
    result = scan(Row("i", "nv", lambda: data, "l", read_mask=lambda: mask))
    assert isinstance(result, ImageError)
    assert why in str(result)


def test_equal_pixels_have_equal_hashes_whatever_the_file():
    image = half_black_half_white("RGB")
    first, second, other = (
        scan(Row("i", "nv", lambda data=data: data, "l"))
        for data in (saved(image, "PNG"), saved(image, "BMP"), saved(image.rotate(180), "PNG"))
    )
    assert first.pixels_sha256 == second.pixels_sha256 != other.pixels_sha256
    assert first.thumb.shape == (32, 32)
