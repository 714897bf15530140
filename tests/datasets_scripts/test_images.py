from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from datasets_scripts.images import (
    HEAD,
    ImageError,
    decode,
    file_warnings,
    images_in,
    is_image,
    normalised,
    passed_over_text,
    scan,
    scan_all,
)
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
def test_other_modes_and_formats_become_rgb_png_of_the_same_image(mode, form):
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
        (b"<html>not found</html>" * 20, r"web page \(440 bytes\)"),
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


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
BAD_EXIF = b"Exif\0\0M)\0*\0\0\0\x08\0\x01"


def test_no_program_is_started_for_an_image(monkeypatch):
    def started(*args, **kwargs):
        raise AssertionError("Ghostscript")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", started)
    with pytest.raises(ImageError, match=r"cannot be decoded.*cannot identify"):
        decode(EPS)
    data = saved(half_black_half_white("RGB"), "PNG")
    found = scan(Row("i", "nv", lambda: data, "l", read_mask=lambda: EPS))
    assert isinstance(found, ImageError)
    assert "its mask cannot be decoded" in str(found)


def test_too_many_pixels_are_refused_by_the_header():
    size = struct.pack(">2I5B", 13000, 13000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    with pytest.raises(ImageError, match=r"^it has 13000x13000 pixels, at most 64 million"):
        decode(b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 0) + b"IDAT" + b"\0" * 40)


def test_an_exif_block_that_cannot_be_decoded_harms_no_pixel():
    data = saved(half_black_half_white("RGB"), "PNG", exif=BAD_EXIF)
    rgb, verbatim = decode(data)
    assert (rgb.size, verbatim) == ((30, 20), False)  # stored without the block, which other readers would refuse
    with Image.open(io.BytesIO(normalised(data))) as again:
        assert dict(again.getexif()) == {}


def test_of_several_frames_the_first_is_taken_and_the_files_are_counted():
    black, white = Image.new("RGB", (20, 20)), Image.new("RGB", (20, 20), "white")
    rows = []
    for number, form in enumerate(("TIFF", "GIF", "WEBP", "PNG")):
        data = saved(black, form, save_all=True, append_images=[white])
        assert np.asarray(decode(data)[0]).max() <= 3
        rows.append(Row(f"i{number}", "nv", lambda data=data: data, "l"))
    rows.append(Row("single", "nv", lambda: saved(black, "TIFF"), "l"))
    scans = scan_all(rows)
    assert [one.frames for one in scans] == [2, 2, 2, 2, 1]
    assert not any(one.verbatim for one in scans)
    assert file_warnings(scans) == ["4 files hold several images (pages or frames): the first of each was taken."]


def test_images_are_recognised_by_name_or_content(tmp_path):
    image = half_black_half_white("RGB")
    for form in ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000"):
        assert is_image("x", saved(image, form)[:HEAD]), form
    assert is_image("x.JFIF", b"")
    assert not is_image("x.txt", b"BM is no bitmap.")
    assert not is_image("x.jpg.txt", EPS[:HEAD])
    (tmp_path / ".hidden").mkdir()
    for name in ("b.jpg", "a", "notes.txt", ".hidden/c.jpg", "Thumbs.db"):
        (tmp_path / name).write_bytes(saved(image, "PNG") if name == "a" else b"x")
    images, passed_over = images_in(tmp_path)
    assert [path.name for path in images] == ["a", "b.jpg"]
    assert passed_over == {".txt": 1, ".db": 1, "hidden": 1}
    assert passed_over_text({".txt": 1, "hidden": 2}) == "3 (hidden 2, .txt 1)"


def test_a_pointer_in_place_of_an_image_is_named() -> None:
    with pytest.raises(ImageError, match="Git LFS pointer"):
        decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n")
