"""Small drawn photographs, as a dataset of their files and with an image processor of their size."""

from __future__ import annotations

import io
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageFilter

from hub_models import LesionImageProcessor

Rows = datasets.Dataset
SIDE = 32


def photograph(number: int, size: tuple[int, int]) -> Image.Image:
    """A smooth image of random colours, like a photograph and unlike noise."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(size[0] / 60))


def encoded(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def rows_of(files: list[bytes]) -> Rows:
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    stored = [{"bytes": data, "path": None} for data in files]
    return Rows.from_dict({"image": stored, "label": [number % 2 for number in range(len(files))]}, features=features)


def processor(**more: Any) -> LesionImageProcessor:
    return LesionImageProcessor(size={"height": SIDE, "width": SIDE}, **more)
