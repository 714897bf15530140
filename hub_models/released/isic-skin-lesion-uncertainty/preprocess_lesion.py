"""What is done to an image before it is resized: upright RGB of any input, and colour constancy.

Both need Pillow and numpy only. Hair removal (``hair_lesion.py``) and the crop (``crop_lesion.py``) need OpenCV, and
raise where it is absent: a switch that is on is never silently skipped, for then training and use would see different
images. The order is hair removal, crop, colour constancy: a hair would mislead the crop, and the light is evaluated on
what the model sees.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image

from .checks_lesion import what_file_is

try:  # Only the two switches need it.
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]

# What Pillow raises on a file that is cut short or damaged, by format, or that would take too much memory.
BROKEN = (OSError, SyntaxError, EOFError, ValueError, struct.error, zlib.error, Image.DecompressionBombError)
# Pillow's names of what is opened. Formats that start other programs (EPS, WMF) are not among them.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "AVIF", "HEIF")
FETCH_TIMEOUT_S = 60
# Decoding takes about 20 bytes a pixel.
MOST_PIXELS = 64_000_000
ORIENTATION = 0x0112
# Where Pillow finds an orientation.
EXIF_KEYS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What may be done, by the name that switches it on; all are off unless a processor says so.
SWITCHES = ("do_hair_removal", "do_lesion_crop", "do_colour_constancy")
# What a processor saved before a setting was known does.
FIRST_SETTINGS: dict[str, Any] = {**dict.fromkeys(SWITCHES, False), "resize_mode": "squash"}
WHITE = (255, 255, 255, 255)

# Shades of grey: the Minkowski norm that Finlayson and Trezzi found best, and how far a channel is turned up or down.
MINKOWSKI = 6
LARGEST_GAIN = 3.0


class UnreadableImageError(OSError):
    """An image whose pixels cannot be decoded."""


class PixelValueError(ValueError):
    """An array that is not an image, or whose values have no known range."""


class MissingOpenCVError(ImportError, ValueError):
    """Hair removal or lesion crop is switched on, and OpenCV is not installed."""


def require_opencv(switch: str) -> None:
    """Make sure that OpenCV is there.

    Args:
        switch: the switch that needs it, for the message.

    Raises:
        MissingOpenCVError: it is not; the message holds the line that installs it.
    """
    if cv2 is None:
        raise MissingOpenCVError(
            f"{switch} is switched on and needs OpenCV, which is not installed: pip install opencv-python-headless "
            f"(or switch {switch} off, if the model was trained without it)."
        )


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open an image file as upright 8-bit RGB; see :func:`to_rgb`.

    Raises:
        UnreadableImageError: there is no such file, or it is cut short, damaged or no image.
        PixelValueError: it has too many pixels.
    """
    try:
        image = Image.open(path, formats=known_formats())
    except BROKEN as error:
        raise UnreadableImageError(
            f"{path} cannot be opened as an image ({what_file_is(path) or error}). Give the path of a whole image file."
        ) from error
    with image:
        return to_rgb(image)


def fetch_image(address: str) -> Image.Image:
    """Open an image at an address (``http``, ``https`` or ``data``), in the formats of :func:`open_image`.

    Raises:
        UnreadableImageError: nothing is there, or it is no image.
        PixelValueError: it has too many pixels.
    """
    short = address if len(address) <= 120 else f"{address[:117]}..."
    try:
        request = Request(address, headers={"User-Agent": "lesion-suite"})  # some servers refuse Python's own name
        with urlopen(request, timeout=FETCH_TIMEOUT_S) as response:
            image = Image.open(io.BytesIO(response.read()), formats=known_formats())
    except BROKEN as error:
        raise UnreadableImageError(
            f"{short} cannot be opened as an image ({error}). Give the address of a whole image file."
        ) from error
    return to_rgb(image)


def known_formats() -> list[str]:
    """Those of ``FORMATS`` that this Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def to_rgb(image: Any) -> Image.Image:
    """Any image as upright 8-bit RGB.

    A PIL image of any mode: EXIF rotation is applied, transparency is laid on white, CMYK, palette and grey are
    converted, 16 bits are scaled (not clipped) to 8. Of several frames the first is taken. A JPEG of more than
    64 million pixels is decoded at half its width and height or less; another format of so many is refused. An array or
    tensor: (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels, as uint8, uint16, bool, or floats in [0, 1].

    Returns:
        A new RGB image; its pixels are in memory.

    Raises:
        UnreadableImageError: the file behind a PIL image is cut short or damaged.
        PixelValueError: an image is empty or of an unknown mode, or an array's shape, type or range is no image's.
    """
    if not isinstance(image, Image.Image):
        image = array_to_pil(np.asarray(image))
    limit_pixels(image)
    try:
        image.load()
    except BROKEN as error:
        name = getattr(image, "filename", "") or "an image"
        raise UnreadableImageError(
            f"{name} cannot be decoded ({error}). Fetch the file again or leave it out."
        ) from error
    if 0 in image.size:
        raise PixelValueError(f"an image of {image.width} x {image.height} pixels is empty; leave it out.")
    image = upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = deep_to_grey(image)
    try:
        if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    except ValueError as error:
        raise PixelValueError(f"Pillow knows no way from mode {image.mode} to RGB; save the image as RGB.") from error


def limit_pixels(image: Image.Image) -> None:
    """Have a very large JPEG decoded at a lower resolution; refuse another very large image before it takes memory.

    Raises:
        PixelValueError: more than ``MOST_PIXELS``.
    """
    width, height = image.size
    if width * height <= MOST_PIXELS:
        return
    factor = next((factor for factor in (2, 4, 8) if width * height <= MOST_PIXELS * factor**2), 8)
    image.draft(None, (width // factor, height // factor))  # does nothing to other formats, or to decoded images
    if image.width * image.height > MOST_PIXELS:
        raise PixelValueError(
            f"{getattr(image, 'filename', '') or 'an image'} has {width} x {height} pixels, at most "
            f"{MOST_PIXELS // 10**6} million are taken; make it smaller."
        )


def upright(image: Image.Image) -> Image.Image:
    """The image turned and flipped as its EXIF orientation says; as it is where its EXIF block cannot be decoded."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except (*BROKEN, LookupError, TypeError, ArithmeticError):
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    for key in EXIF_KEYS:  # otherwise the next reader would turn it once more
        turned.info.pop(key, None)
    return turned


def deep_to_grey(image: Image.Image) -> Image.Image:
    """A PIL image of more than 8 bits a pixel (modes I, I;16*, F) -> mode L, scaled by the range that its type has.

    Mode I holds 8-bit values when none is above 255, otherwise 16-bit ones; mode F holds [0, 1], otherwise [0, 255].

    Raises:
        PixelValueError: the values fit none of these.
    """
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16"):
        limit = 65535.0
    elif image.mode == "I":
        limit = 255.0 if high <= 255 else 65535.0
    else:
        limit = 1.0 if high <= 1 else 255.0
    if not (low >= 0 and high <= limit):
        raise PixelValueError(
            f"an image of mode {image.mode} holds values from {low:g} to {high:g}; scale them to 0..{limit:g} first."
        )
    return Image.fromarray(np.round(values * (255.0 / limit)).astype(np.uint8))


def array_to_pil(array: np.ndarray) -> Image.Image:
    """An image array -> an 8-bit PIL image of mode L, RGB or RGBA; see :func:`to_rgb` for what is understood.

    Raises:
        PixelValueError: its shape, type or range is not an image's.
    """
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))):
        raise PixelValueError(
            f"an array of shape {array.shape} is no image; give (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels."
        )
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if array.dtype == np.bool_:
        scaled = array * 255.0
    elif array.dtype == np.uint16:
        scaled = array / 257.0
    elif np.issubdtype(array.dtype, np.floating) and array.min() >= 0.0 and array.max() <= 1.0:
        scaled = array * 255.0
    else:
        raise PixelValueError(
            f"an array of type {array.dtype} with values from {array.min()} to {array.max()} has no known range; give "
            "uint8, uint16, bool, or floats in [0, 1]."
        )
    return Image.fromarray(np.round(np.ascontiguousarray(scaled)).astype(np.uint8))


def odd(length: float, smallest: int) -> int:
    """The odd whole number nearest above ``length``, at least ``smallest``."""
    return max(smallest, int(np.ceil(length)) | 1)


def constant_colour(rgb: np.ndarray) -> np.ndarray:
    """Take the cast of the light off an image: shades of grey (Finlayson and Trezzi 2004, Color Imaging Conference 12).

    The light's colour is the Minkowski norm e_c = (mean of f_c ** p) ** (1 / p) of each channel c, p = 6, on the stored
    (gamma-encoded) values. Each channel is divided by sqrt(3) * e_c / |e|, so that light of no colour changes nothing.
    A gain is 1/3 at least and 3 at most: what goes beyond is a coloured thing, not a coloured light. Values above 255
    are cut off.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8; the very same pixels when the light has no colour, or there is none.
    """
    levels = np.arange(256, dtype=np.float64)
    counts = np.stack([np.bincount(rgb[..., c].ravel(), minlength=256) for c in range(3)])
    light = (counts @ (levels / 255) ** MINKOWSKI / counts.sum(axis=1)) ** (1 / MINKOWSKI)
    if not light.any():
        return rgb
    white = np.sqrt((light**2).mean())
    gains = np.clip(white / np.maximum(light, 1e-12), 1 / LARGEST_GAIN, LARGEST_GAIN)
    tables = np.clip(np.round(gains[:, None] * levels), 0, 255).astype(np.uint8)
    return np.stack([tables[c][rgb[..., c]] for c in range(3)], axis=-1)
