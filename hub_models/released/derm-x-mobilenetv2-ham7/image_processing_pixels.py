"""From any image to ``pixel_values``: upright RGB; colour constancy if on; resize; normalise.

A record ``{"image": ..., "age": ..., "sex": ..., "localization": ...}`` may stand wherever an image may; here its image
alone is read. Hair removal and crop are in ``image_processing_steps``, metadata is in ``image_processing_record``,
``image_processing_lesion`` has both: a model is saved with the least of them that it needs.

:meth:`PixelImageProcessor.prepare` is the part before the resize. Training calls it, then augments, then calls the
processor with these switches off (:data:`PREPARED`), so that a model never sees in use what it did not see in training.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

# Before transformers, whose version it checks.
from .checks_lesion import IMAGE, LARGEST_IMAGE, PATIENT, RecordError, brief, is_number, is_whole

# isort: split
import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension
from transformers.processing_utils import ImagesKwargs

from .preprocess_lesion import SWITCHES, constant_colour, fetch_image, open_image, to_rgb

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
BILINEAR = 2
# What decides how an image becomes pixels: what was trained or calibrated with one value is not with another.
PIXEL_SETTINGS = (
    "do_colour_constancy",
    "do_hair_removal",
    "do_lesion_crop",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "resize_mode",
    "size",
)
# How an image of another shape comes to ``size``: ``squash`` changes its shape, ``crop`` keeps its centre, ``pad`` adds
# a border of the colour ``image_mean``, which is 0 after normalisation.
RESIZE_MODES = ("squash", "crop", "pad")
# The switches of ``prepare``, all off: what to call the processor with on an image that is prepared already.
PREPARED = dict.fromkeys(SWITCHES, False)
# Those of them that need OpenCV.
NEED_OPENCV = ("do_hair_removal", "do_lesion_crop")
# The type that every saved processor has: this suite finds its own class by it, other code goes by ``auto_map``.
FAMILY = "LesionImageProcessor"
# The beginnings of an image's address.
REMOTE = ("http://", "https://", "data:image/")


class SwitchError(ValueError):
    """A switch of the image processor that is neither on nor off, or unknown."""


class PixelSettingError(ValueError):
    """A setting of the image processor, such as its size, that no image can be prepared with."""


class ImageCountError(ValueError):
    """No image, or several, where one is needed."""


class LesionImageProcessorKwargs(ImagesKwargs, total=False):
    """The processor's own switches beside those of transformers.

    Attributes:
        do_hair_removal: paint dark hairs over before the crop and the resize, light ones stay; needs OpenCV.
        do_lesion_crop: crop to the lesion's bounding box with a margin before the resize; needs OpenCV.
        resize_mode: ``squash``, ``crop`` or ``pad``, see ``RESIZE_MODES``. Set on construction, not in a call.
        do_colour_constancy: take the cast of the light off, by shades of grey, after the two; needs no OpenCV.
        metadata_fields: the fields of a record that become ``metadata``, with their vocabulary; None = none do. Set on
            construction, not in a call.
        model_input_names: what is returned: ``pixel_values``, ``metadata`` or both. Set on construction, not in a call.
    """

    do_hair_removal: bool | None
    do_lesion_crop: bool | None
    do_colour_constancy: bool | None
    resize_mode: str | None
    metadata_fields: dict[str, Any] | list[str] | None
    model_input_names: list[str] | None


class PixelImageProcessor(PilBackend):
    """Image processor of classifiers that read an image alone.

    Takes one image or a list: PIL images of any mode, arrays (see ``to_rgb``), or paths; or one record or a list of
    them, dictionaries with such an image under ``image``, whose age, sex and localization are not read. Returns
    ``pixel_values`` (N, 3, height, width) float32, normalised by ``image_mean`` and ``image_std`` after scaling to
    [0, 1]. ``resize_mode`` says how an image of another shape comes to ``size``; a saved processor without it squashes,
    as published.

    Raises:
        RecordError: a record has an unknown key, or lacks the image that the model needs.
        ImageCountError: a record holds several images.
        UnreadableImageError: a file is cut short, damaged or no image.
        PixelValueError: an array is no image.
        PixelSettingError: a saved size, mean, deviation, factor or filter that no image can be prepared with.
        SwitchError: a switch, as saved or as given, is neither true nor false, or is none that there is here.
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
    # A saved processor of before this switch lacks it, which means off.
    do_colour_constancy = False
    # Likewise: one that lacks it squashes.
    resize_mode = "squash"
    metadata_fields: dict[str, Any] | None = None
    model_input_names = ["pixel_values"]

    def __init__(self, **kwargs: Any) -> None:
        check_switches(kwargs)
        super().__init__(**kwargs)
        self._switches()
        self._check_inputs()
        self._check_pixel_settings()

    def _check_inputs(self) -> None:
        """Refuse a processor of other inputs than images.

        Raises:
            PixelSettingError: it is to return metadata.
        """
        if list(self.model_input_names) != ["pixel_values"] or self.metadata_fields is not None:
            raise PixelSettingError(
                f"model_input_names is {brief(self.model_input_names)} and metadata_fields "
                f"{brief(self.metadata_fields)}; this image processor returns pixel_values alone: save the model again "
                "with the suite that made it."
            )

    def _check_pixel_settings(self) -> None:
        """Refuse saved settings that no image can be prepared with, or that make an enormous one.

        Raises:
            PixelSettingError: names the setting and its value.
        """
        for name in ("size", "crop_size", "pad_size"):
            sides: Any = getattr(self, name, None)
            if sides is None and name != "size":
                continue
            try:
                known = dict(sides)
            except (TypeError, ValueError):
                known = {}
            if not known or not all(is_whole(side, 1, LARGEST_IMAGE) for side in known.values()):
                raise PixelSettingError(
                    f"the image processor's {name} is {brief(known or sides)}; give pixels from 1 to {LARGEST_IMAGE}."
                )
        for name, above in (("image_mean", -math.inf), ("image_std", 0.0)):
            values = getattr(self, name)
            fine = isinstance(values, (list, tuple)) and len(values) == 3 and all(map(is_number, values))
            if not fine or min(values) <= above:
                raise PixelSettingError(
                    f"the image processor's {name} is {brief(values)}; give three finite numbers, one a channel"
                    f"{' above 0' if above == 0 else ''}."
                )
        if not is_number(self.rescale_factor) or not 0 < self.rescale_factor <= 1e6:
            raise PixelSettingError(
                f"the image processor's rescale_factor is {brief(self.rescale_factor)}; give a number above 0."
            )
        if self.resize_mode not in RESIZE_MODES:
            raise PixelSettingError(
                f"the image processor's resize_mode is {brief(self.resize_mode)}; give {', '.join(RESIZE_MODES)}."
            )
        if not is_whole(getattr(self.resample, "value", self.resample), 0, 5):
            raise PixelSettingError(
                f"the image processor's resample is {brief(self.resample)}; give a filter of Pillow, from 0 to 5."
            )

    def prepare(
        self,
        image: Any,
        do_hair_removal: bool | None = None,
        do_lesion_crop: bool | None = None,
        do_colour_constancy: bool | None = None,
    ) -> Image.Image:
        """Everything before the resize: upright RGB, hair removal, lesion crop, colour constancy, in this order.

        Args:
            image: a PIL image of any mode, or an array.
            do_hair_removal: None = as the processor is set.
            do_lesion_crop: None = as the processor is set.
            do_colour_constancy: None = as the processor is set.

        Returns:
            An RGB image; of the same size as the upright input unless the crop is on.
        """
        on = self._switches(
            do_hair_removal=do_hair_removal, do_lesion_crop=do_lesion_crop, do_colour_constancy=do_colour_constancy
        )
        rgb = self.take_steps(to_rgb(image), on)
        return Image.fromarray(constant_colour(np.asarray(rgb))) if on["do_colour_constancy"] else rgb

    def take_steps(self, rgb: Image.Image, on: Mapping[str, bool]) -> Image.Image:
        """The steps between the upright RGB image and colour constancy; none here."""
        return rgb

    def seen_box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """What the model sees of a prepared image: left, top, right, bottom in its pixels.

        Outside the image where ``pad`` adds a border.
        """
        if self.resize_mode == "squash":
            return 0, 0, width, height
        sides: Any = self.size
        ratio = sides["width"] / sides["height"]
        wider = width > height * ratio
        if wider == (self.resize_mode == "crop"):
            across, down = max(round(height * ratio), 1), height
        else:
            across, down = width, max(round(width / ratio), 1)
        left, top = (width - across) // 2, (height - down) // 2
        return left, top, left + across, top + down

    def seen(self, image: Any) -> Image.Image:
        """What the model sees of an image, prepared but not resized; black where ``pad`` adds a border."""
        prepared = self.prepare(image)
        return prepared.crop(self.seen_box(*prepared.size))

    def resize(self, image: np.ndarray, *args: Any, **kwargs: Any) -> np.ndarray:
        """(3, H, W) to ``size``, as ``resize_mode`` says; transformers calls it for each image."""
        _, height, width = image.shape
        left, top, right, bottom = self.seen_box(width, height)
        if left >= 0 and top >= 0:
            seen = image[:, top:bottom, left:right]
        else:
            colour = np.round(255 * np.asarray(self.image_mean)).clip(0, 255).astype(image.dtype)
            seen = np.empty((3, bottom - top, right - left), dtype=image.dtype)
            seen[:] = colour[:, None, None]
            seen[:, -top : height - top, -left : width - left] = image
        resized: np.ndarray = super().resize(seen, *args, **kwargs)
        return resized

    def _preprocess_image_like_inputs(  # type: ignore[override]
        self, images: Any, *args: Any, **kwargs: Any
    ) -> BatchFeature:
        """Images or records, with every setting filled in -> ``pixel_values``; transformers calls it."""
        records = as_records(images)
        if records is not None:
            check_keys(records)
            images = [self._image(records, number) for number in range(len(records))]
        return super()._preprocess_image_like_inputs(images, *args, **kwargs)

    def _prepare_image_like_inputs(self, images: Any, *args: Any, expected_ndims: int = 3, **kwargs: Any) -> list[Any]:
        """As transformers does, but on as many threads as torch has where a step is on: OpenCV lets others run.

        Workers of a DataLoader have one.
        """
        if not any(self._switches(**{name: kwargs.get(name) for name in PREPARED}).values()):
            return super()._prepare_image_like_inputs(images, *args, expected_ndims=expected_ndims, **kwargs)
        prepared: Any = self._prepare_images_structure(images, expected_ndims=expected_ndims)
        process = partial(self.process_image, **kwargs)
        threads = min(len(prepared), torch.get_num_threads())
        if threads < 2:
            return list(map(process, prepared))
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(process, prepared))

    @staticmethod
    def _image(records: list[Mapping[str, Any]], number: int) -> Any:
        image = records[number].get(IMAGE)
        if image is None:
            raise RecordError(f"record {number} has no image; this model reads one: give it under {IMAGE!r}.")
        return single_image(image, f"record {number}")

    def to_dict(self) -> dict[str, Any]:
        """The settings, with the type of the family."""
        return {**super().to_dict(), "image_processor_type": FAMILY}

    def pixel_settings(self) -> dict[str, Any]:
        """The settings that decide how an image becomes pixels, as JSON holds them."""
        known = json.loads(self.to_json_string())
        return {name: known.get(name) for name in PIXEL_SETTINGS}

    def process_image(
        self, image: Any, do_convert_rgb: bool | None = None, input_data_format: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """One image -> (3, H, W) uint8, prepared but not resized; transformers calls it for each image.

        The models know RGB only, so ``do_convert_rgb`` is always taken as true. ``input_data_format`` decides where an
        array's shape leaves open which axis holds the channels.
        """
        if input_data_format == ChannelDimension.FIRST and getattr(image, "ndim", 0) == 3:
            image = np.moveaxis(np.asarray(image), 0, -1)
        prepared = self.prepare(image, **{name: kwargs.get(name) for name in PREPARED})
        return np.moveaxis(np.asarray(prepared), -1, 0)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths and addresses (transformers' loader clips 16 bits, takes any format); keep grey arrays (H, W)."""
        images = image_url_or_urls
        if isinstance(images, (list, tuple)):
            # One flat list: transformers tells images from batches by the first item alone.
            flat: list[Any] = []
            for found in map(self.fetch_images, images):
                flat.extend(found if isinstance(found, list) or getattr(found, "ndim", 0) == 4 else [found])
            return flat
        if isinstance(images, (str, os.PathLike)):
            return fetch_image(str(images)) if str(images).startswith(REMOTE) else open_image(images)
        if getattr(images, "ndim", 0) == 2:
            return to_rgb(images)
        return super().fetch_images(images)

    def _switches(self, **given: bool | None) -> dict[str, bool]:
        """The switches of ``prepare`` by name, as given or (None) as set; raises where one is on that cannot be."""
        on = {name: bool(getattr(self, name) if given.get(name) is None else given[name]) for name in PREPARED}
        for name in NEED_OPENCV:
            if on[name]:
                self.require(name)
        return on

    def require(self, switch: str) -> None:
        """Refuse a step whose code this model was saved without.

        Raises:
            SwitchError: always.
        """
        raise SwitchError(
            f"{switch} is switched on, but this model was trained and saved without that step and its code: leave it "
            "out, or train with it."
        )


def check_switches(settings: Mapping[str, Any]) -> None:
    """Check that ``do_...`` settings of a processor are true or false (None = the default), and known.

    Raises:
        SwitchError: names the setting, its value and what to do. ``"false"`` in a file would otherwise mean on.
    """
    for name, value in settings.items():
        if not name.startswith("do_"):
            continue
        if name not in LesionImageProcessorKwargs.__annotations__:
            raise SwitchError(f"{name} is no setting of this image processor; its own are {', '.join(PREPARED)}.")
        if not (value is None or isinstance(value, bool)):
            raise SwitchError(f"{name} is {value!r}; give true or false, without quotation marks.")


def as_records(images: Any) -> list[Mapping[str, Any]] | None:
    """A record, or a list of records and images, as a list of records; None when there is no record in it."""
    if isinstance(images, Mapping):
        return [images]
    if isinstance(images, (list, tuple)) and any(isinstance(item, Mapping) for item in images):
        return [item if isinstance(item, Mapping) else {IMAGE: item} for item in images]
    return None


def single_image(image: Any, where: str) -> Any:
    """The image itself, or the only one of an array (1, H, W, C).

    Args:
        image: a PIL image, an array or tensor, a path or an address.
        where: where it was given, for the message.

    Raises:
        ImageCountError: it is none or several.
    """
    if isinstance(image, (bytes, bytearray)) or (hasattr(image, "read") and isinstance(image, Iterable)):
        raise ImageCountError(
            f"{where} is the content of a file ({type(image).__name__}); give its path, or open it with PIL.Image.open."
        )
    dimensions = getattr(image, "ndim", None)
    if dimensions is None:
        if isinstance(image, (str, os.PathLike)) or not isinstance(image, Iterable):
            return image
        found = f"{len(image)} items" if isinstance(image, Sized) else "any number of items"
    elif dimensions < 4 or (dimensions == 4 and len(image) == 1):
        return image if dimensions < 4 else image[0]
    else:
        found = f"the shape {tuple(image.shape)}"
    raise ImageCountError(
        f"{where} is a {type(image).__name__} of {found}, one image is needed: give each image as an input of its own, "
        "in a flat list."
    )


def count_images(images: Any) -> int:
    """How many images there are: rows of an array (N, H, W, C), the sum over the items of a list, otherwise one."""
    if isinstance(images, (list, tuple)):
        return sum(map(count_images, images))
    return len(images) if getattr(images, "ndim", 0) == 4 else 1


def check_keys(records: list[Mapping[str, Any]]) -> None:
    """Check that records hold an image and what is known of a patient, and nothing else.

    Raises:
        RecordError: names the key.
    """
    for key in (key for record in records for key in record):
        if key != IMAGE and key not in PATIENT:
            raise RecordError(f"{brief(key)} is no key of a record; give {', '.join([IMAGE, *PATIENT])}.")
