"""Lesion masks beside the images of a split: from the dataset itself or from a folder."""

from __future__ import annotations

import io
from pathlib import Path

import datasets
import numpy as np

from datasets_scripts.command import UserError
from hub_models.preprocess_lesion import UnreadableImageError, open_image

SUFFIX = "_segmentation.png"


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
