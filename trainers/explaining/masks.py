"""Lesion masks as the model sees them.

A mask goes through the same geometry as its image: the crop of the image processor, if it is on, then the resize.
"""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from hub_models.crop_lesion import lesion_box
from hub_models.preprocess_lesion import to_rgb
from trainers.evaluation.explanation_table import MASKS
from trainers.model_folder.data import LesionImages
from trainers.model_folder.masks import Masks

THERE, EMPTY, NONE = MASKS


def crop_box(processor: Any, image: Image.Image) -> tuple[int, int, int, int]:
    """What of an image the model sees: left, top, right, bottom in pixels of the upright image.

    Outside the image where the processor adds a border.
    """
    if processor.do_lesion_crop:
        before = processor.prepare(image, do_lesion_crop=False, do_colour_constancy=False)
        left, top, right, bottom = lesion_box(np.asarray(before))
    else:
        upright = to_rgb(image)
        left, top, right, bottom = 0, 0, upright.width, upright.height
    seen = processor.seen_box(right - left, bottom - top)
    return left + seen[0], top + seen[1], left + seen[2], top + seen[3]


def as_the_model_sees(
    mask: np.ndarray, processor: Any, image: Image.Image, size: tuple[int, int]
) -> tuple[np.ndarray, str]:
    """A mask through the geometry of its image.

    Args:
        mask: (H, W) bool of the upright image.
        processor: the image processor.
        image: as it is stored.
        size: height and width of the pixels that the model receives.

    Returns:
        (height, width) bool, a pixel counting as lesion when half of it is, and its state: ``there`` or ``empty``.
    """
    whole = Image.fromarray(mask.astype(np.uint8) * 255).crop(crop_box(processor, image))
    seen = np.asarray(whole.resize((size[1], size[0]), Image.Resampling.BOX)) >= 128
    return seen, THERE if seen.any() else EMPTY


class MaskedImages(LesionImages):
    """A split as the model receives it, each image with its mask.

    Beside what ``LesionImages`` gives: ``mask`` (H, W) bool, and ``mask_state``, the place in ``MASKS``.
    """

    def __init__(self, rows: datasets.Dataset, processor: Any, masks: Masks) -> None:
        super().__init__(rows, processor)
        self.masks = masks

    def __getitem__(self, key: Any) -> dict[str, Any]:
        item = super().__getitem__(key)
        image = self.read(key)
        size = tuple(item["pixel_values"].shape[-2:])
        mask = self.masks.read(key, to_rgb(image).size)
        seen, state = (
            (np.zeros(size, dtype=bool), NONE) if mask is None else as_the_model_sees(mask, self.processor, image, size)
        )
        return {**item, "mask": torch.from_numpy(seen), "mask_state": MASKS.index(state)}
