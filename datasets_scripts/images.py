"""From a file's bytes to an upright 8-bit image: check it, normalise it where needed, take its thumbnail."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from datasets_scripts.command import UserError
from datasets_scripts.rows import Row

MIN_SIDE = 16
THUMB = 32
_EXIF_ORIENTATION = 0x0112
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)


class ImageError(UserError):
    """An image that cannot be used: truncated, empty, no image at all, or too small."""


@dataclass(frozen=True)
class Scan:
    """What one decoding of an image gives.

    Attributes:
        size: (width, height) in pixels, upright.
        verbatim: the file's own bytes can be stored (8-bit RGB or grey JPEG/PNG without EXIF rotation).
        pixels_sha256: hash of size and decoded RGB pixels; equal for exact duplicates.
        thumb: (32, 32) uint8 grey, area-averaged.
    """

    size: tuple[int, int]
    verbatim: bool
    pixels_sha256: str
    thumb: np.ndarray


def _is_16_bit_png(data: bytes) -> bool:
    # Pillow opens a 16-bit RGB PNG as plain "RGB": only the IHDR chunk's bit depth tells.
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[24] == 16


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to 8-bit RGB: 16-bit scaled (not clipped, as ``convert`` does), transparency laid on white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        # 32-bit modes do not say their range; what exceeds 8 bits is taken for 16.
        if image.mode.startswith("I;16") or values.max() > 255:
            values = values / 257.0
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, layered).convert("RGB")
    return image.convert("RGB")


def decode(data: bytes) -> tuple[Image.Image, bool]:
    """Decode to an upright 8-bit RGB image.

    Returns:
        The image, and whether ``data`` itself may be stored as it is.

    Raises:
        ImageError: ``data`` is empty, truncated, no image, or less than 16 pixels on a side.
    """
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
        rotated = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
        plain = image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L") and "transparency" not in image.info
        upright = ImageOps.exif_transpose(image) if rotated else image
        rgb = _to_rgb(upright)
    except _BROKEN as error:
        raise ImageError(f"it cannot be decoded ({_one_line(error)})") from error
    if min(rgb.size) < MIN_SIDE:
        raise ImageError(f"it is {rgb.size[0]}x{rgb.size[1]} pixels, at least {MIN_SIDE}x{MIN_SIDE} are needed")
    return rgb, plain and not rotated and not _is_16_bit_png(data)


def normalised(data: bytes) -> bytes:
    """The image of ``data`` as upright 8-bit RGB PNG bytes (lossless).

    Raises:
        ImageError: as :func:`decode`.
    """
    buffer = io.BytesIO()
    decode(data)[0].save(buffer, format="PNG")
    return buffer.getvalue()


def _check_mask(data: bytes, size: tuple[int, int]) -> None:
    if not data:
        raise ImageError("its mask is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as mask:
            mask.load()
    except _BROKEN as error:
        raise ImageError(f"its mask cannot be decoded ({_one_line(error)})") from error
    if mask.size != size:
        raise ImageError(f"its mask has {mask.size[0]}x{mask.size[1]} pixels, the image {size[0]}x{size[1]}")


def _one_line(error: BaseException) -> str:
    # Pillow names the buffer it was given by its address, which says nothing and differs from run to run.
    text = re.sub(r"\s*<_io\.BytesIO[^>]*>", "", " ".join(str(error).split()))
    return text or type(error).__name__


def scan(row: Row) -> Scan | ImageError:
    """Decode a row's image, and check its mask, once; a fault is returned, so that all can be counted."""
    try:
        rgb, verbatim = decode(row.read())
        if row.read_mask is not None:
            _check_mask(row.read_mask(), rgb.size)
    except _BROKEN as error:
        return ImageError(f"image {row.image_id}: {_one_line(error)}; download it again or remove it and its row")
    digest = hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()
    thumb = np.asarray(rgb.convert("L").resize((THUMB, THUMB), Image.Resampling.BOX))
    return Scan(rgb.size, verbatim, digest, thumb)


def scan_all(rows: Sequence[Row]) -> list[Scan]:
    """Decode every image once, in threads (Pillow releases the interpreter's lock).

    Raises:
        ImageError: at least one image cannot be used; names the first and counts the rest.
    """
    workers = min(8, (os.cpu_count() or 1) + 1)
    with ThreadPoolExecutor(workers) as pool:
        results = list(
            tqdm(pool.map(scan, rows), total=len(rows), desc="checking images", unit="image", mininterval=1.0)
        )
    faults = [r for r in results if isinstance(r, ImageError)]
    if faults:
        more = f" ({len(faults)} of {len(rows)} images are unusable)" if len(faults) > 1 else ""
        raise ImageError(f"{faults[0]}{more}")
    return [r for r in results if isinstance(r, Scan)]
