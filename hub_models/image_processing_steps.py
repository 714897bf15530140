"""The image processor with hair removal and lesion crop before the resize; both need OpenCV."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from .crop_lesion import lesion_box
from .hair_lesion import remove_hair
from .image_processing_pixels import PixelImageProcessor
from .preprocess_lesion import require_opencv


class StepsImageProcessor(PixelImageProcessor):
    """Image processor of classifiers that were trained with hair removal or lesion crop.

    Raises:
        MissingOpenCVError: one of them is on and OpenCV is not installed (on construction and on each call).
    """

    def take_steps(self, rgb: Image.Image, on: Mapping[str, bool]) -> Image.Image:
        """Hair removal, then the crop: a hair would mislead it."""
        if on["do_hair_removal"]:
            rgb = Image.fromarray(remove_hair(np.asarray(rgb)))
        return rgb.crop(lesion_box(np.asarray(rgb))) if on["do_lesion_crop"] else rgb

    def require(self, switch: str) -> None:
        """Make sure that OpenCV is there."""
        require_opencv(switch)
