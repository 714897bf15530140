"""Other views of the same image: cut to another shape or scale around the lesion, or turned. No pixel is invented.

Boxes are left, top, right, bottom in pixels of the upright image, right and bottom exclusive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from hub_models.crop_lesion import lesion_box
from hub_models.preprocess_lesion import to_rgb
from trainers.evaluation.robustness import AS_STORED, VIEWS
from trainers.metrics.predictions import FRAMED_BY
from trainers.model_folder.perturbations import SMALLEST

Box = tuple[int, int, int, int]
MASK, BOX, CENTRE = FRAMED_BY
TURNS = {
    "90": Image.Transpose.ROTATE_90,
    "180": Image.Transpose.ROTATE_180,
    "270": Image.Transpose.ROTATE_270,
}


@dataclass(frozen=True)
class Lesion:
    """Where the lesion lies in an image.

    Attributes:
        size: width and height of the upright image.
        box: of the lesion without a margin; None where it was not found.
        by: how it was found, one of ``FRAMED_BY``.
    """

    size: tuple[int, int]
    box: Box | None
    by: str


def find_lesion(image: Image.Image, mask: np.ndarray | None) -> Lesion:
    """The lesion of an image: the box of its mask, otherwise that of ``lesion_box``, otherwise none.

    Args:
        image: of any mode.
        mask: (H, W) bool of the upright image; None, or without a lesion, where there is none.
    """
    upright = to_rgb(image)
    if mask is not None and mask.any():
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        return Lesion(upright.size, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), MASK)
    found = lesion_box(np.asarray(upright), margin=0.0)
    if found == (0, 0, *upright.size):
        return Lesion(upright.size, None, CENTRE)
    return Lesion(upright.size, found, BOX)


def frame_of(lesion: Lesion, kind: str, setting: str) -> Box | None:
    """What of an image a view shows; None where the image cannot show it.

    ``aspect W:H``: the largest frame of that shape. ``scale S``: a frame of the image's own shape whose shorter side is
    the lesion's longer side divided by S %; the image cannot show it where it is smaller than that, the lesion was not
    found, or the frame has a side below 32 pixels. Both are centred on the lesion, or moved as far as the image's sides
    require. ``turn`` shows all.
    """
    width, height = lesion.size
    if kind == "turn":
        return 0, 0, width, height
    if kind == "aspect":
        across, down = map(int, setting.split(":"))
        frame = min(width, round(height * across / down)), min(height, round(width * down / across))
        return placed(lesion, frame)
    if lesion.box is None:
        return None
    left, top, right, bottom = lesion.box
    shorter = round(max(right - left, bottom - top) * 100 / int(setting))
    if not SMALLEST <= shorter <= min(width, height):
        return None
    times = shorter / min(width, height)
    return placed(lesion, (round(width * times), round(height * times)))


def placed(lesion: Lesion, frame: tuple[int, int]) -> Box:
    """A frame of (width, height) around the centre of the lesion, or of the image, moved to lie within the image."""
    left, top, right, bottom = lesion.box or (0, 0, *lesion.size)
    x, y = (
        min(max((low + high - side) // 2, 0), whole - side)
        for low, high, side, whole in zip((left, top), (right, bottom), frame, lesion.size, strict=True)
    )
    return x, y, x + frame[0], y + frame[1]


def lesion_seen(lesion: Lesion, frame: Box) -> str:
    """``whole`` or ``cut``; ``unknown`` where the lesion was not found."""
    if lesion.box is None:
        return "unknown"
    left, top, right, bottom = lesion.box
    inside = left >= frame[0] and top >= frame[1] and right <= frame[2] and bottom <= frame[3]
    return "whole" if inside else "cut"


def viewed(image: Image.Image, frame: Box, kind: str, setting: str) -> Image.Image:
    """One view of an image of any mode: RGB."""
    upright = to_rgb(image)
    return upright.transpose(TURNS[setting]) if kind == "turn" else upright.crop(frame)


def settings_of(kinds: list[str]) -> list[tuple[str, str]]:
    """(kind, setting) of every view that must be predicted: the image as it is stored is among the clean ones."""
    return [(kind, setting) for kind in kinds for setting in VIEWS[kind] if (kind, setting) != AS_STORED]
