"""Hair removal: find thin, long, straight dark structures, and paint them over with their surroundings.

Needs OpenCV. Every length is a share of the image's shorter side, so an image and its enlargement lose the same hairs.
No state is kept between calls: threads may share these functions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .preprocess_lesion import odd, require_opencv

try:  # Optional, as in preprocess_lesion.py; ``require_opencv`` speaks first where it is absent.
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]

# Hair is searched at this size of the shorter side at most, and painted over at this one; larger images are reduced.
DETECT_SIDE = 150
PAINT_SIDE = 450
# Below this there is no telling a hair from anything else.
SMALLEST_FOR_HAIR = 24
# Hair is black or brown and a vessel red: red light shows the one and hardly the other. Share of red, the rest is grey.
RED_SHARE = 0.7
KERNEL = 17 / 450  # the usual DullRazor kernel of 17 pixels on 600 x 450 images: wider than any hair
CONTRAST = 15  # of 255, darker than what the black-hat transform closes it to ...
BELOW_MEDIAN = 4  # ... and darker than the median around, or lines between bright spots would be hair
MEDIAN_WINDOW = 0.10
LINE = 0.13  # a hair is straight over this length ...
LINE_GAP = 0.022  # ... and darker than the parallel lines at this distance on both sides,
LINE_CONTRAST = 5.0  # by this much of 255 in each pixel
HAIR_CONTRAST = 12.0  # and by this much over the whole hair
DIRECTIONS = 16
RUN = 0.17  # a run in one direction is this long, and no wider than this share of the side
RUN_WIDTH = 0.035
HAIR_LENGTH = 0.18
# Of the thin dark structures around a hair, this share are such runs; in a pigment network or a texture, fewer are.
RUN_SHARE = 0.50
RUN_WINDOW = 0.15
# A dark hair takes all colours from the skin. A vessel keeps red, and a surgeon's pen blue: neither is hair.
RED_OF_GREEN = 0.75  # of what a hair takes from green, it takes this share at least from red,
BLUE_OF_RED = 0.45  # and of what it takes from red, this share from blue


def hair_mask(rgb: np.ndarray) -> np.ndarray:
    """Find hairs: thin, long, straight structures, darker than the lines that run beside them.

    A black-hat transform brings out what is thin and dark (DullRazor: Lee et al. 1997, Comput Biol Med 27). Of it stays
    what lies on a straight line darker than its parallels on both sides (an edge has one bright side only; a pigment
    network is dark beside its lines, too), runs on in one direction, and is not lost among thin structures that do not.
    Dark ones that are red or blue are vessels and pen marks, and are left.

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
    small = reduced(rgb, DETECT_SIDE)
    side = min(small.shape[:2])
    colours = small.astype(np.float32)
    tone = RED_SHARE * colours[..., 0] + (1 - RED_SHARE) * cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)
    # The image is continued beyond its border, so that the dark rim of a dermatoscope is no thin structure there.
    pad = odd(KERNEL * side, 5) + odd(LINE_GAP * side, 3)
    tone = cv2.copyMakeBorder(tone, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    thin = thin_and_dark(np.round(tone).astype(np.uint8), side)[pad:-pad, pad:-pad]
    contrast, direction = line_contrast(tone, side, pad)
    runs = straight_runs(thin & (contrast >= LINE_CONTRAST), direction, side)
    window = (odd(RUN_WINDOW * side, 9),) * 2
    around = cv2.boxFilter(thin.astype(np.float32), -1, window)
    share = cv2.boxFilter(runs.astype(np.float32), -1, window) / np.maximum(around, 1e-6)
    number, parts, stats, _ = cv2.connectedComponentsWithStats(runs, connectivity=8)
    area = np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    hair = (
        (diagonals(stats) >= HAIR_LENGTH * side)
        & (np.bincount(parts.ravel(), contrast.ravel(), number) / area >= HAIR_CONTRAST)
        & (np.bincount(parts.ravel(), share.ravel(), number) / area >= RUN_SHARE)
        & takes_all_colours(small, parts, number)
    )
    hair[0] = False  # part 0 is the background
    mask = np.where(hair[parts], 255, 0).astype(np.uint8)
    return mask if mask.shape == (height, width) else refined(mask, rgb)


def takes_all_colours(rgb: np.ndarray, parts: np.ndarray, number: int) -> np.ndarray:
    """Which of the parts (H, W), numbered below ``number``, are as dark in red and blue as hair is; (number,) bool."""
    window = odd(MEDIAN_WINDOW * min(rgb.shape[:2]), 5)
    red, green, blue = (
        np.bincount(parts.ravel(), cv2.subtract(cv2.medianBlur(channel, window), channel).ravel(), number)
        for channel in cv2.split(rgb)
    )
    return (red >= RED_OF_GREEN * green) & (blue >= BLUE_OF_RED * red)


def reduced(image: np.ndarray, side: int) -> np.ndarray:
    """An image whose shorter side is ``side`` pixels at most, by the mean over areas."""
    scale = side / min(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def refined(mask: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """A mask of 0 and 255 found on a reduced image, at the size of ``rgb``: what is thin and dark there, too."""
    fine = reduced(rgb, PAINT_SIDE)
    size = odd(KERNEL * min(fine.shape[:2]), 5)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    contrast = cv2.morphologyEx(cv2.cvtColor(fine, cv2.COLOR_RGB2GRAY), cv2.MORPH_BLACKHAT, kernel)
    near = cv2.resize(mask, fine.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0
    mask = np.where(near & (contrast >= CONTRAST), 255, 0).astype(np.uint8)
    return cv2.resize(mask, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def thin_and_dark(tone: np.ndarray, side: int) -> np.ndarray:
    """Where an image (H, W) uint8 is darker than its morphological closing and than the median around it, bool."""
    size = odd(KERNEL * side, 5)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    median = cv2.medianBlur(tone, odd(MEDIAN_WINDOW * side, 5))
    return (cv2.morphologyEx(tone, cv2.MORPH_BLACKHAT, kernel) >= CONTRAST) & (
        cv2.subtract(median, tone) >= BELOW_MEDIAN
    )


def drawn_lines(length: int) -> Iterator[tuple[float, np.ndarray]]:
    """Each direction's angle in radians, and a line (length, length) through the middle that sums to 1."""
    middle = length // 2
    for angle in np.arange(DIRECTIONS) * np.pi / DIRECTIONS:
        step = np.round(middle * np.array([np.cos(angle), np.sin(angle)])).astype(int)
        line = np.zeros((length, length), np.float32)
        cv2.line(line, (middle - step).tolist(), (middle + step).tolist(), 1.0)
        yield float(angle), line / line.sum()


def line_contrast(tone: np.ndarray, side: int, pad: int) -> tuple[np.ndarray, np.ndarray]:
    """How much darker the line through each pixel is than the brighter-by-less of its two parallels.

    Args:
        tone: (H + 2 pad, W + 2 pad) float32.
        side: the shorter side that lengths are shares of.
        pad: pixels on each side that are not part of the image.

    Returns:
        Contrast (H, W) float32 in the best direction, and the number of that direction (H, W).
    """
    height, width = tone.shape[0] - 2 * pad, tone.shape[1] - 2 * pad
    best = np.full((height, width), -np.inf, np.float32)
    direction = np.zeros((height, width), np.int16)
    gap = max(2.0, LINE_GAP * side)
    for number, (angle, line) in enumerate(drawn_lines(odd(LINE * side, 9))):
        mean = cv2.filter2D(tone, -1, line, borderType=cv2.BORDER_REPLICATE)
        x, y = round(-np.sin(angle) * gap), round(np.cos(angle) * gap)
        here, one, other = (
            mean[pad + k * y : pad + k * y + height, pad + k * x : pad + k * x + width] for k in (0, 1, -1)
        )
        contrast = np.minimum(one, other) - here
        better = contrast > best
        best[better] = contrast[better]
        direction[better] = number
    return best, direction


def straight_runs(mask: np.ndarray, direction: np.ndarray, side: int) -> np.ndarray:
    """What of a mask (H, W) runs on in one direction, give or take the next; (H, W) uint8 of 0 and 1."""
    found = np.zeros(mask.shape, np.uint8)
    for number in range(DIRECTIONS):
        turn = (direction - number + 1) % DIRECTIONS
        _, parts, stats, _ = cv2.connectedComponentsWithStats((mask & (turn <= 2)).astype(np.uint8), connectivity=8)
        length = diagonals(stats)
        run = (length >= RUN * side) & (stats[:, cv2.CC_STAT_AREA] <= RUN_WIDTH * side * length)
        run[0] = False
        found |= run[parts].astype(np.uint8)
    return found


def diagonals(stats: np.ndarray) -> np.ndarray:
    """Diagonal of each component's box, in pixels."""
    return np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])


def remove_hair(rgb: np.ndarray) -> np.ndarray:
    """Paint dark hairs over with their surroundings (Telea 2004, J Graph Tools 9, inpainting).

    Large images are painted at a shorter side of 450 pixels and only the hairs are taken from there; every other pixel
    stays as it was.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8; the very same pixels when no hair is found.

    Raises:
        MissingOpenCVError: OpenCV is not installed.
    """
    return painted_over(rgb, hair_mask(rgb))


def painted_over(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image (H, W, 3) uint8 with a mask (H, W) of 0 and 255, a little widened, filled from around."""
    if not mask.any():
        return rgb
    # The blurred rim of a hair is darker than skin, too.
    rim = odd(KERNEL * min(mask.shape) / 5, 3)
    mask = cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (rim, rim)))
    small = reduced(rgb, PAINT_SIDE)
    if small.shape == rgb.shape:
        return cv2.inpaint(rgb, mask, float(rim), cv2.INPAINT_TELEA)
    # Any reduced pixel that a hair touches is filled, or the hair would shine through.
    touched = (cv2.resize(mask, small.shape[1::-1], interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    filled = cv2.inpaint(small, touched, float(odd(KERNEL * PAINT_SIDE / 5, 3)), cv2.INPAINT_TELEA)
    filled = cv2.resize(filled, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return np.where(mask[..., None] > 0, filled, rgb)
