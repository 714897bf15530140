"""Lesion crop: Otsu's threshold and a box with a margin; the whole image where the mask is implausible. Needs OpenCV.

No state is kept between calls: threads may share these functions.
"""

from __future__ import annotations

import numpy as np

from .preprocess_lesion import odd, require_opencv

try:  # Optional, as in preprocess_lesion.py; ``require_opencv`` speaks first where it is absent.
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]

# The lesion is searched at this size of the shorter side at most.
DETECT_SIDE = 300
# The lesion covers this share of the image, or the mask is not believed; the margin is a share of the longer side.
LESION_AREA = (0.01, 0.85)
LESION_MARGIN = 0.10
# Otsu's two classes are this many grey levels apart at least, or there is no lesion to see: of HAM10000's 10,015 images
# one is below.
LESION_CONTRAST = 12.0
# A dark region joins the lesion when its area, weighted by nearness to the centre, is this share of the largest one's.
LESION_PART = 0.10
# On the ellipse (-1 to 1 in both directions) a side begins here; a corner, at 0.7, belongs to both of its sides.
SIDEWAYS = 0.4
SMALLEST_FOR_CROP = 16


def lesion_box(rgb: np.ndarray, margin: float = LESION_MARGIN) -> tuple[int, int, int, int]:
    """The box around the lesion with a margin; the whole image when the mask is implausible.

    Otsu's threshold on the blue channel, where melanin and blood both absorb, within the ellipse that touches the
    image's sides (outside it lies the vignette); then the dark regions that are large and near the centre. What reaches
    the ellipse goes on behind it, so the box goes to the image's sides there. The mask is implausible when it is hardly
    darker than the rest, covers less than 1 % or more than 85 % of the image, or reaches three of its sides. On
    HAM10000 the box holds 99 % of the segmented lesion's area on average.

    Args:
        rgb: (H, W, 3) uint8.
        margin: added on each side, as a share of the longer side of the box.

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
    scale = max(1.0, min(height, width) / DETECT_SIDE)
    blue = np.ascontiguousarray(rgb[..., 2])
    if scale > 1:
        blue = cv2.resize(blue, (round(width / scale), round(height / scale)), interpolation=cv2.INTER_AREA)
    mask, ellipse = lesion_mask(blue)
    to_left, to_top, to_right, to_bottom = reached = sides_reached(mask, ellipse)
    if not LESION_AREA[0] <= mask.mean() <= LESION_AREA[1] or sum(reached) >= 3:
        return whole
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    wider = round(margin * max(right - left, bottom - top))
    across, down = width / blue.shape[1], height / blue.shape[0]
    return (
        0 if to_left else max(0, round((left - wider) * across)),
        0 if to_top else max(0, round((top - wider) * down)),
        width if to_right else min(width, round((right + wider) * across)),
        height if to_bottom else min(height, round((bottom + wider) * down)),
    )


def lesion_mask(blue: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The dark regions of a channel (H, W) uint8 that may be the lesion, and the ellipse searched: (H, W) bool each.

    Nothing is marked where the dark is hardly darker than the rest.
    """
    height, width = blue.shape
    blur = odd(min(height, width) / 50, 3)
    blue = cv2.GaussianBlur(blue, (blur, blur), 0)
    # Distance from the centre, 1 on the ellipse.
    down, across = np.linspace(-1, 1, height)[:, None] ** 2, np.linspace(-1, 1, width)[None, :] ** 2
    ellipse = down + across <= 1
    seen = blue[ellipse]
    threshold, _ = cv2.threshold(seen.reshape(-1, 1), 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    below = seen <= threshold
    if below.all() or not below.any() or seen[~below].mean() - seen[below].mean() < LESION_CONTRAST:
        return np.zeros_like(ellipse), ellipse
    dark = ((blue <= threshold) & ellipse).astype(np.uint8)
    _, labels, stats, centres = cv2.connectedComponentsWithStats(dark, connectivity=8)
    offsets = 2 * centres / (width, height) - 1
    weights = stats[:, cv2.CC_STAT_AREA] * np.exp(-2 * (offsets**2).sum(axis=1))
    weights[0] = 0  # the background
    return (weights >= LESION_PART * weights.max())[labels] & (dark > 0), ellipse


def sides_reached(mask: np.ndarray, ellipse: np.ndarray) -> tuple[bool, bool, bool, bool]:
    """Whether a mask within an ellipse, (H, W) bool each, meets its rim towards the left, top, right and bottom."""
    shrunk = cv2.erode(
        ellipse.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0
    )
    rows, columns = np.nonzero(mask & (shrunk == 0))
    y, x = 2 * rows / (mask.shape[0] - 1) - 1, 2 * columns / (mask.shape[1] - 1) - 1
    left, top, right, bottom = (along.any() for along in (x < -SIDEWAYS, y < -SIDEWAYS, x > SIDEWAYS, y > SIDEWAYS))
    return bool(left), bool(top), bool(right), bool(bottom)
