"""Images as text that a page can hold: no file is written, and nothing but pixels is in them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from answering import Prediction
from classifier import Classifier
from PIL import Image

THUMBNAIL = 72
VIEW = 640  # longest side of what is shown, pixels
# A single hue from dark to light keeps its order for readers who see no colours (after "inferno", by hand).
_HEAT = np.array([[66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]], dtype=np.float64)


def data_uri(image: Image.Image, kind: str = "JPEG", **options: Any) -> str:
    """An image as ``data:image/...;base64,...``."""
    buffer = io.BytesIO()
    # The first level of PNG takes a quarter of the time of the usual one, for a third more bytes.
    image.save(buffer, kind, **({"quality": 88} if kind == "JPEG" else {"compress_level": 1}), **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def shown(image: Image.Image, side: int = VIEW) -> Image.Image:
    """A copy whose longest side has at most so many pixels."""
    copy = image.copy()
    copy.thumbnail((side, side), Image.Resampling.BICUBIC)
    return copy


def thumbnail(image: Image.Image) -> str:
    """A small square cut from the middle, as a data URI."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.resize(
        (THUMBNAIL * 2, THUMBNAIL * 2), Image.Resampling.LANCZOS, (left, top, left + side, top + side), reducing_gap=2.0
    )
    return data_uri(square)


def prepared(image: Image.Image, classifier: Classifier) -> Image.Image:
    """What the model sees of the image, before the resize: hairs, crop and colours done where on."""
    for name in ("seen", "prepare"):  # releases of before ``resize_mode`` have the second only
        if hasattr(classifier.processor, name):
            seen: Image.Image = getattr(classifier.processor, name)(image)
            return seen
    return image


def seen_size(image: Image.Image, classifier: Classifier) -> tuple[int, int]:
    """Width and height of :func:`prepared` where no lesion crop is on, without preparing the image."""
    if not hasattr(classifier.processor, "seen_box"):
        return image.size
    left, top, right, bottom = classifier.processor.seen_box(*image.size)
    return right - left, bottom - top


def as_seen(inputs: dict[str, torch.Tensor], classifier: Classifier) -> Image.Image | None:
    """The pixels that went into the model, back as an image; None where it takes none, or they cannot be turned back.

    Args:
        inputs: with ``pixel_values`` (1, 3, H, W), normalised by the processor's mean and deviation.
        classifier: whose inputs they are.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None or pixels.ndim != 4 or pixels.shape[1] != 3:
        return None
    values = pixels[0].detach().float().cpu().permute(1, 2, 0).numpy()
    if getattr(classifier.processor, "do_normalize", False):
        mean, std = (np.asarray(getattr(classifier.processor, name), dtype=np.float64) for name in _STATISTICS)
        values = values * std + mean
    if getattr(classifier.processor, "do_rescale", True):
        values = values * 255.0
    return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))


_STATISTICS = ("image_mean", "image_std")


def heat_layer(heat: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A heat map (H, W) in [0, 1] as RGBA of ``size`` (width, height): colour by heat, and see-through where cold."""
    field = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
    stops = np.linspace(0, 1, len(_HEAT))
    colour = np.stack([np.interp(field, stops, _HEAT[:, channel]) for channel in range(3)], axis=-1)
    opacity = np.sqrt(field) * 235
    return Image.fromarray(np.concatenate([colour, opacity[..., None]], axis=-1).round().astype(np.uint8), "RGBA")


def heat_map(prediction: Prediction, classifier: Classifier) -> np.ndarray | None:
    """The heat map of the class that was named, (H, W) in [0, 1]; None where the model has none."""
    if not classifier.can_explain or prediction.inputs.get("pixel_values") is None:
        return None
    heat = prediction.heat
    if heat is None:
        target, method = named_class(prediction), classifier.heat_method
        heat = classifier.model.explain(target=target, method=method, **prediction.inputs).heat_maps[0]
    return heat.detach().float().cpu().numpy()


def named_class(prediction: Prediction) -> str:
    """The class that the map is about: at another prevalence still the one named without that assumption."""
    return str((prediction.answer.get("at_calibration") or prediction.answer)["predicted"])
