"""Lesion masks beside the images of a split: from the dataset itself or from a folder, brought to the model's view.

A mask goes through the same geometry as its image: the crop of the image processor, if it is on, then the resize.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from datasets_scripts.command import UserError
from hub_models.crop_lesion import lesion_box
from hub_models.preprocess_lesion import UnreadableImageError, open_image, to_rgb
from trainers.evaluation.explanation_table import MASKS
from trainers.model_folder.data import LesionImages

SUFFIX = "_segmentation.png"
THERE, EMPTY, NONE = MASKS


class Masks:
    """The masks of a split's images.

    Args:
        rows: the split; its column ``mask``, if there is one, holds masks of the images' size.
        folder: holds ``<image_id>_segmentation.png``; None = the column.

    Raises:
        UserError: the folder does not exist, or holds no mask of these images.
    """

    def __init__(self, rows: datasets.Dataset, folder: Path | None = None) -> None:
        known = "image_id" in rows.column_names
        self.ids = [str(name) for name in rows["image_id"][:]] if known else [str(i) for i in range(len(rows))]
        self.folder, self.stored = folder, None
        if folder is not None:
            if not folder.is_dir():
                raise UserError(f"--masks {str(folder)!r} is no folder: give one that holds <image_id>{SUFFIX}")
            if not any((folder / f"{name}{SUFFIX}").is_file() for name in self.ids):
                raise UserError(
                    f"--masks {str(folder)!r} holds no mask of any of the {len(self.ids)} images (the first would be "
                    f"{self.ids[0]}{SUFFIX}): give the folder of this dataset's masks"
                )
        elif "mask" in rows.column_names:
            self.stored = rows.select_columns(["mask"]).cast_column("mask", datasets.Image(decode=False))

    def read(self, index: int, size: tuple[int, int]) -> np.ndarray | None:
        """The mask of an image: (H, W) bool, or None where there is none.

        Args:
            index: of the image in the split.
            size: width and height of the upright image.

        Raises:
            UserError: it cannot be read, or has another size than its image.
        """
        source = self._source(index)
        if source is None:
            return None
        try:
            found = open_image(source)  # type: ignore[arg-type]
        except UnreadableImageError as error:
            raise UserError(
                f"the mask of image {self.ids[index]} cannot be read as an image: write it again, as PNG"
            ) from error
        if found.size != size:
            raise UserError(
                f"the mask of image {self.ids[index]} has {found.width} x {found.height} pixels, its image "
                f"{size[0]} x {size[1]}: give masks of the images' size"
            )
        return np.asarray(found)[..., 0] > 127

    def _source(self, index: int) -> Path | io.BytesIO | str | None:
        if self.folder is not None:
            path = self.folder / f"{self.ids[index]}{SUFFIX}"
            return path if path.is_file() else None
        kept = None if self.stored is None else self.stored[int(index)]["mask"]
        if kept is None:
            return None
        return io.BytesIO(kept["bytes"]) if kept["bytes"] else kept["path"]


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
