"""From any picture to ``pixel_values``: upright RGB, optional hair removal and lesion crop, resize, normalise.

:meth:`LesionImageProcessor.prepare` is the part before the resize. Training calls it, then augments, then calls the
processor with both switches off, so that a model never sees in use what it did not see in training.
"""

import os
from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension
from transformers.processing_utils import ImagesKwargs

from .preprocess_lesion import lesion_box, open_image, remove_hair, require_opencv, to_rgb

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BILINEAR = 2
# What loading an image by its address looks like.
REMOTE = ("http://", "https://", "data:image/")


class LesionImageProcessorKwargs(ImagesKwargs, total=False):
    """The processor's own switches beside those of transformers.

    Attributes:
        do_hair_removal: paint dark hairs over before the crop and the resize; needs OpenCV.
        do_lesion_crop: crop to the lesion's bounding box with a margin before the resize; needs OpenCV.
    """

    do_hair_removal: bool | None
    do_lesion_crop: bool | None


class LesionImageProcessor(PilBackend):
    """Image processor of all lesion classifiers.

    Takes one image or a list: PIL images of any mode, arrays (see ``to_rgb``), or paths. Returns ``pixel_values``
    (N, 3, height, width) float32, normalised by ``image_mean`` and ``image_std`` after scaling to [0, 1]. The resize
    is a plain squash to ``size``, as published: the aspect ratio is not kept.

    Raises:
        MissingOpenCVError: a switch needs OpenCV and it is not installed (on construction and on each call).
        UnreadableImageError: a file is cut short, damaged or no image.
        PixelValueError: an array is no image.
    """

    valid_kwargs = LesionImageProcessorKwargs

    do_convert_rgb = True
    do_resize = True
    size = {"height": 224, "width": 224}
    resample = BILINEAR
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_MEAN
    image_std = IMAGENET_STD
    do_hair_removal = False
    do_lesion_crop = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._check_switches(self.do_hair_removal, self.do_lesion_crop)

    def prepare(
        self, image: Any, do_hair_removal: bool | None = None, do_lesion_crop: bool | None = None
    ) -> Image.Image:
        """Everything before the resize: upright RGB, hair removal, lesion crop.

        Args:
            image: a PIL image of any mode, or an array.
            do_hair_removal: None = as the processor is set.
            do_lesion_crop: None = as the processor is set.

        Returns:
            An RGB image; of the same size as the upright input unless the crop is on.
        """
        hair = self.do_hair_removal if do_hair_removal is None else do_hair_removal
        crop = self.do_lesion_crop if do_lesion_crop is None else do_lesion_crop
        self._check_switches(hair, crop)
        rgb = to_rgb(image)
        if hair:
            rgb = Image.fromarray(remove_hair(np.asarray(rgb)))
        return rgb.crop(lesion_box(np.asarray(rgb))) if crop else rgb

    def process_image(
        self, image: Any, do_convert_rgb: bool | None = None, input_data_format: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """One image -> (3, H, W) uint8, prepared but not resized; transformers calls it for each image.

        The models know RGB only, so ``do_convert_rgb`` is always taken as true. ``input_data_format`` decides where an
        array's shape leaves open which axis holds the channels.
        """
        if input_data_format == ChannelDimension.FIRST and getattr(image, "ndim", 0) == 3:
            image = np.moveaxis(np.asarray(image), 0, -1)
        prepared = self.prepare(image, kwargs.get("do_hair_removal"), kwargs.get("do_lesion_crop"))
        return np.moveaxis(np.asarray(prepared), -1, 0)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths as they are (transformers' own loader would clip 16-bit images), let grey arrays (H, W) pass."""
        images = image_url_or_urls
        if isinstance(images, (list, tuple)):
            return [self.fetch_images(image) for image in images]
        if isinstance(images, os.PathLike) or (isinstance(images, str) and not images.startswith(REMOTE)):
            return open_image(images)
        if getattr(images, "ndim", 0) == 2:
            return to_rgb(images)
        return super().fetch_images(images)

    @staticmethod
    def _check_switches(do_hair_removal: bool | None, do_lesion_crop: bool | None) -> None:
        for switch, on in (("do_hair_removal", do_hair_removal), ("do_lesion_crop", do_lesion_crop)):
            if on:
                require_opencv(switch)
