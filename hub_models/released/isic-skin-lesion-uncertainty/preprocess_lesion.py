"""What is done to an image before it is resized: upright RGB of any input, hair removal, lesion crop.

:func:`to_rgb` needs Pillow and numpy only. Hair removal and the crop need OpenCV, and raise where it is absent: a
switch that is on is never silently skipped, for then training and use would see different images.
"""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps

try:  # Optional: only the two switches need it, so that nobody else has to install it.
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]

# What Pillow raises on a file that is cut short or damaged, by format.
BROKEN = (OSError, SyntaxError, EOFError, ValueError, struct.error, zlib.error)
WHITE = (255, 255, 255, 255)

# Hair is looked for at this size of the shorter side at most; lengths below are shares of that side.
HAIR_SIDE = 300
HAIR_KERNEL = 17 / 450  # the usual DullRazor kernel of 17 pixels on 600 x 450 images
HAIR_CONTRAST = 12  # of 255, darker than the surroundings
HAIR_LINE = 0.12  # a hair is straight over this length ...
HAIR_LENGTH = 0.25  # ... and at least this long
HAIR_SLENDERNESS = 6.0  # length squared by area
# Thin dark structures on more than this share of a window are a pigment network or a texture, not hair.
HAIR_WINDOW = 0.10
HAIR_DENSITY = 0.26
HAIR_DIRECTIONS = 12
SMALLEST_FOR_HAIR = 24

# The lesion covers this share of the image, or the mask is not believed; the margin is a share of the longer side.
LESION_AREA = (0.01, 0.85)
LESION_MARGIN = 0.10
# A dark region joins the lesion when its area, weighted by nearness to the centre, is this share of the largest one's.
LESION_PART = 0.10
SMALLEST_FOR_CROP = 16


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
    """
    try:
        image = Image.open(path)
    except BROKEN as error:
        raise UnreadableImageError(
            f"{path} cannot be opened as an image ({error}). Give the path of a whole image file."
        ) from error
    with image:
        return to_rgb(image)


def to_rgb(image: Any) -> Image.Image:
    """Any image as upright 8-bit RGB.

    A PIL image of any mode: EXIF rotation is applied, transparency is laid on white, CMYK, palette and grey are
    converted, 16 bits are scaled (not clipped) to 8. An array or tensor: (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4
    channels, as uint8, uint16, bool, or floats in [0, 1].

    Returns:
        A new RGB image; its pixels are in memory.

    Raises:
        UnreadableImageError: the file behind a PIL image is cut short or damaged.
        PixelValueError: an image is empty or of an unknown mode, or an array's shape, type or range is no image's.
    """
    if not isinstance(image, Image.Image):
        image = array_to_pil(np.asarray(image))
    try:
        image.load()
    except BROKEN as error:
        name = getattr(image, "filename", "") or "an image"
        raise UnreadableImageError(
            f"{name} cannot be decoded ({error}). Fetch the file again or leave it out."
        ) from error
    if 0 in image.size:
        raise PixelValueError(f"an image of {image.width} x {image.height} pixels is empty; leave it out.")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = deep_to_grey(image)
    try:
        if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    except ValueError as error:
        raise PixelValueError(f"Pillow knows no way from mode {image.mode} to RGB; save the image as RGB.") from error


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


def hair_mask(rgb: np.ndarray) -> np.ndarray:
    """Find dark hairs: thin, long, straight structures that a black-hat transform brings out.

    After DullRazor (Lee et al. 1997), made wary of pigment networks: a structure must hold a straight line, be long and
    thin, and stand alone; so hairs that lie very close together are left. On the suite's drawn phantoms, on which the
    values above were chosen, it finds 66 % of the hair pixels, and 99 % of what it finds is hair.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W) uint8, 255 on hair and 0 elsewhere; all zero when no hair is found.

    Raises:
        MissingOpenCVError: OpenCV is not installed.
    """
    require_opencv("do_hair_removal")
    height, width = rgb.shape[:2]
    if min(height, width) < SMALLEST_FOR_HAIR:
        return np.zeros((height, width), np.uint8)
    scale = min(1.0, HAIR_SIDE / min(height, width))
    small = rgb if scale == 1.0 else cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    side = min(small.shape[:2])
    size = odd(HAIR_KERNEL * side, 5)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    contrast = cv2.morphologyEx(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), cv2.MORPH_BLACKHAT, kernel)
    thin = (contrast >= HAIR_CONTRAST).astype(np.uint8)
    window = odd(HAIR_WINDOW * side, 9)
    # Widened by a pixel first: a curved hair of one pixel's width follows no drawn line exactly.
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    straight = straight_lines(cv2.dilate(thin, cross), odd(HAIR_LINE * side, 7)) & thin
    straight[cv2.boxFilter(thin.astype(np.float32), -1, (window, window)) > HAIR_DENSITY] = 0
    _, parts, stats, _ = cv2.connectedComponentsWithStats(straight, connectivity=8)
    length = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    hair = (length >= HAIR_LENGTH * side) & (length**2 >= HAIR_SLENDERNESS * stats[:, cv2.CC_STAT_AREA])
    hair[0] = False  # part 0 is the background
    mask = np.where(hair[parts], 255, 0).astype(np.uint8)
    return mask if scale == 1.0 else cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)


def straight_lines(mask: np.ndarray, length: int) -> np.ndarray:
    """What of a mask (H, W) of 0 and 1 lies on a straight line of ``length`` pixels within it, in any direction."""
    found = np.zeros_like(mask)
    middle = length // 2
    for angle in np.arange(HAIR_DIRECTIONS) * np.pi / HAIR_DIRECTIONS:
        step = np.round(middle * np.array([np.cos(angle), np.sin(angle)])).astype(int)
        line = np.zeros((length, length), np.uint8)
        start, end = (middle - step).tolist(), (middle + step).tolist()
        cv2.line(line, start, end, 1)
        found |= cv2.morphologyEx(mask, cv2.MORPH_OPEN, line)
    return found


def remove_hair(rgb: np.ndarray) -> np.ndarray:
    """Paint detected hairs over with their surroundings (Telea 2004 inpainting).

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8; the very same pixels when no hair is found.

    Raises:
        MissingOpenCVError: OpenCV is not installed.
    """
    mask = hair_mask(rgb)
    if not mask.any():
        return rgb
    # The blurred rim of a hair is darker than skin, too.
    rim = odd(HAIR_KERNEL * min(rgb.shape[:2]) / 5, 3)
    mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim)))
    return cv2.inpaint(rgb, mask, float(rim), cv2.INPAINT_TELEA)


def lesion_box(rgb: np.ndarray) -> tuple[int, int, int, int]:
    """The box around the lesion with a margin; the whole image when the mask is implausible.

    Otsu's threshold on the blue channel, where melanin and blood both absorb, within the ellipse that touches the
    image's sides (outside it lies the vignette); then the dark regions that are large and near the centre. The mask is
    implausible when it covers less than 1 % or more than 85 % of the image. On HAM10000 the box holds 99 % of the
    segmented lesion's area on average.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        left, top, right, bottom in pixels, right and bottom exclusive.

    Raises:
        MissingOpenCVError: OpenCV is not installed.
    """
    require_opencv("do_lesion_crop")
    height, width = rgb.shape[:2]
    whole = (0, 0, width, height)
    if min(height, width) < SMALLEST_FOR_CROP:
        return whole
    blur = odd(min(height, width) / 50, 3)
    blue = cv2.GaussianBlur(np.ascontiguousarray(rgb[..., 2]), (blur, blur), 0)
    # Distance from the centre, 1 on the ellipse.
    down, across = np.linspace(-1, 1, height)[:, None] ** 2, np.linspace(-1, 1, width)[None, :] ** 2
    inside = down + across <= 1
    threshold, _ = cv2.threshold(blue[inside].reshape(-1, 1), 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    dark = ((blue <= threshold) & inside).astype(np.uint8)
    _, _, stats, centres = cv2.connectedComponentsWithStats(dark, connectivity=8)
    stats, centres = stats[1:], centres[1:]  # without the background
    offsets = 2 * centres / (width, height) - 1
    weights = stats[:, cv2.CC_STAT_AREA] * np.exp(-2 * (offsets**2).sum(axis=1))
    parts = stats[weights >= LESION_PART * weights.max(initial=0)]
    area = parts[:, cv2.CC_STAT_AREA].sum() / (height * width)
    if not LESION_AREA[0] <= area <= LESION_AREA[1]:
        return whole
    left, top = parts[:, cv2.CC_STAT_LEFT], parts[:, cv2.CC_STAT_TOP]
    right, bottom = left + parts[:, cv2.CC_STAT_WIDTH], top + parts[:, cv2.CC_STAT_HEIGHT]
    margin = round(LESION_MARGIN * max(right.max() - left.min(), bottom.max() - top.min()))
    return (
        max(0, int(left.min()) - margin),
        max(0, int(top.min()) - margin),
        min(width, int(right.max()) + margin),
        min(height, int(bottom.max()) + margin),
    )
