"""From uploaded bytes to pixels: recognised by content, bounded before decoding, nothing but pixels kept.

A file's name says nothing here. What it is follows from its first bytes; whatever lies in it beside the pixels (EXIF,
comments, a second file behind the first) is dropped with the file, because only the decoded pixels go on.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

try:
    from pillow_heif import register_heif_opener
except ImportError:  # optional; without it a phone's HEIC is refused with a line that says what to do
    OPENS_HEIC = False
else:
    register_heif_opener(thumbnails=False)
    OPENS_HEIC = True

LARGEST_FILE = 20_000_000  # bytes
MOST_PIXELS = 40_000_000
LONGEST_SIDE = 16_000
SHORTEST_SIDE = 32
ALLOWED = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", *(("HEIF",) if OPENS_HEIC else ()))
GIVE = f"Give a JPEG, PNG, WebP, BMP{', TIFF or HEIC' if OPENS_HEIC else ' or TIFF'} image."
NO_HEIC = (
    "This is a HEIC image, which is not opened here. Send it as JPEG: on an iPhone choose Settings, Camera, Formats, "
    "Most Compatible, or export the photo as JPEG."
)
WHITE = (255, 255, 255, 255)
# Modes of photographs; the others (floats, 32-bit numbers, CIE Lab) hold measurements.
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr")
# What Pillow raises for files that are no image, or only the beginning of one.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, MemoryError, LookupError, TypeError,
           ArithmeticError, RuntimeError)  # fmt: skip
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# First bytes of what people send by mistake or on purpose, and what to call it.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"GIF8", "a GIF"),
    (b"version https://git-lfs", "a Git LFS pointer in place of the image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive or an office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\x00\x00\x01\x00", "an icon"),
)
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"mif1")
_AVIF = (b"avif", b"avis")


class ImageUnusableError(ValueError):
    """An upload that the model cannot use; the message is fit for the page, and names no file."""


def kind_of(head: bytes) -> str | None:
    """Which of ``ALLOWED`` a file is by its first 16 bytes; None for anything else."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in (b"II*\x00", b"MM\x00*"):
        return "TIFF"
    if _is_heic(head) and OPENS_HEIC:
        return "HEIF"
    # Two letters are a weak sign: the size of the header that follows distinguishes a bitmap from a text.
    if (
        head[:2] == b"BM"
        and len(head) >= 16
        and head[6:10] == b"\0\0\0\0"
        and head[14] in (12, 40, 52, 56, 64, 108, 124)
    ):
        return "BMP"
    return None


def _is_heic(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC


def what_else(head: bytes) -> str:
    """What to call a file that is no image of ours, by its first bytes."""
    for start, name in _OTHERS:
        if head.startswith(start):
            return name
    if head[4:8] == b"ftyp":
        return "an AVIF image" if head[8:12] in _AVIF else "a film or another kind of image container"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG or XML file, which can hold programs"
    if text.startswith((b"<!doctype", b"<html", b"<script", b"<")):
        return "a web page"
    return "no image that is known here"


def read_image(source: str | os.PathLike[str] | bytes, most: float = LARGEST_FILE) -> Image.Image:
    """Decode an image into upright 8-bit RGB that carries nothing else with it.

    Args:
        source: path of a file, or its bytes.
        most: bytes that are taken; infinite for what :func:`keep_only_pixels` wrote, whose pixels are counted already.

    Returns:
        A fresh RGB image: EXIF rotation applied, transparency laid on white, 16 bits scaled to 8.

    Raises:
        ImageUnusableError: empty, too large, of another kind, damaged, animated, or beyond the pixel limits.
    """
    data = source if isinstance(source, bytes) else _bytes_of(source, most)
    if not data:
        raise ImageUnusableError("This file is empty. " + GIVE)
    if len(data) > most:
        raise ImageUnusableError(too_large(len(data)))
    kind = kind_of(data[:16])
    if kind is None and _is_heic(data[:16]):
        raise ImageUnusableError(NO_HEIC)
    if kind is None:
        raise ImageUnusableError(f"This file cannot be read as an image: it is {what_else(data[:64])}. {GIVE}")
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            _check_size(image)
            image.load()
            return _pixels_only(image)
    except ImageUnusableError:
        raise
    except _BOMBS as error:
        raise ImageUnusableError(_too_many()) from error
    except _BROKEN as error:
        raise ImageUnusableError(
            "This file cannot be read as an image. It may be damaged or only partly uploaded. " + GIVE
        ) from error


def too_large(size: int) -> str:
    """The size of a file in words, never rounded down to the limit itself."""
    return (
        f"This file has {math.ceil(size / 1e5) / 10:.1f} MB; at most {LARGEST_FILE / 1e6:.0f} MB are taken. "
        "Make it smaller."
    )


def _bytes_of(path: str | os.PathLike[str], most: float) -> bytes:
    """The file's bytes; none of a file that has too many."""
    try:
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise ImageUnusableError(too_large(size))
            return file.read()
    except OSError as error:
        raise ImageUnusableError("This file is no longer there. Upload it again.") from error


def _check_size(image: Image.Image) -> None:
    """Refuse by what the header says, before a pixel is decoded."""
    width, height = image.size
    if width * height > MOST_PIXELS or max(width, height) > LONGEST_SIDE:
        raise ImageUnusableError(f"This image has {width} x {height} pixels. {_too_many()}")
    if min(width, height) < SHORTEST_SIDE:
        raise ImageUnusableError(
            f"This image has {width} x {height} pixels; at least {SHORTEST_SIDE} on each side are needed to see "
            "anything."
        )
    # A camera's MPO is a JPEG, with a preview or a gain map behind the image itself, which is the first. A phone's HEIC
    # can hold a series; it opens at the one that the phone marked as the main image.
    if image.format not in ("MPO", "HEIF") and getattr(image, "n_frames", 1) > 1:
        raise ImageUnusableError("This file holds several images (an animation or pages). Give one image per file.")
    if image.mode not in MODES and not image.mode.startswith("I;16"):
        raise ImageUnusableError(f"This file holds measurements rather than an image (mode {image.mode}). {GIVE}")


def _too_many() -> str:
    return (
        f"At most {MOST_PIXELS / 1e6:.0f} million pixels and {LONGEST_SIDE} on a side are taken: "
        "make the image smaller."
    )


def _pixels_only(image: Image.Image) -> Image.Image:
    """Upright RGB, made from the pixels alone."""
    with suppress(*_BROKEN):  # an EXIF block that cannot be decoded: the pixels are whole
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.round(np.asarray(image).astype(np.float64) / 257.0).astype(np.uint8))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    rgb = image.convert("RGB")
    clean = Image.new("RGB", rgb.size)
    clean.paste(rgb)
    return clean


def keep_only_pixels(path: str | os.PathLike[str], image: Image.Image) -> str:
    """Replace an upload by its own pixels as PNG, in place: position, camera, comments and the rest are gone.

    Returns:
        The SHA-256 of the file that was written, to know it again.

    Raises:
        OSError: it cannot be written; what was there is left, and nothing beside it.
    """
    target = Path(path)
    beside = target.with_name(f"{os.urandom(8).hex()}.clean")
    try:
        image.save(beside, "PNG", compress_level=1)
        with beside.open("rb") as file:
            written = hashlib.file_digest(file, "sha256").hexdigest()
        os.replace(beside, target)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    return written
