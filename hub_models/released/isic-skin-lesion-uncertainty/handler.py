"""Inference Endpoints: the answers of the model to the images of a request. Nothing else of this repository imports it.

The platform calls ``EndpointHandler(path)`` once and the result with the body of each request: ``{"inputs": ...,
"parameters": {...}}``. An input is an image (sent as such, or as base64 text), a record ``{"image": ..., "age": ...,
"sex": ..., "localization": ...}``, or a list of these. Parameters are those of ``predict``: ``trust``, ``inference``,
``prior``, ``decision``, ``group``. Paths and addresses are not opened: no request chooses what the machine reads.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from transformers import pipeline

TASK: Any = "lesion-classification"
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
PARAMETERS = ("trust", "inference", "prior", "decision", "group")
MOST_IMAGES = 64
MOST_BYTES = 32_000_000
BROKEN = (OSError, SyntaxError, EOFError, ValueError, Image.DecompressionBombError)


class RequestError(ValueError):
    """A request that cannot be answered; the message says why."""


class EndpointHandler:
    """The model of a folder behind HTTP.

    Args:
        path: the folder of this repository.
    """

    def __init__(self, path: str = "") -> None:
        device = 0 if torch.cuda.is_available() else -1
        self.answer: Any = pipeline(TASK, path or ".", trust_remote_code=True, device=device)

    def __call__(self, data: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The answers to the images of a request, in their order.

        Raises:
            RequestError: there is no image, too many, one that cannot be read, or an unknown parameter.
        """
        if not isinstance(data, Mapping) or data.get("inputs") is None:
            raise RequestError('the request has no "inputs": give an image, a record, or a list of them.')
        parameters = data.get("parameters") or {}
        unknown = sorted(set(parameters) - set(PARAMETERS)) if isinstance(parameters, Mapping) else [parameters]
        if unknown:
            raise RequestError(f"unknown parameters {unknown!r:.80}; give some of {', '.join(PARAMETERS)}.")
        inputs = data["inputs"] if isinstance(data["inputs"], (list, tuple)) else [data["inputs"]]
        if not 0 < len(inputs) <= MOST_IMAGES:
            raise RequestError(f"{len(inputs)} inputs; give from 1 to {MOST_IMAGES}.")
        opened = [opened_input(value, number) for number, value in enumerate(inputs)]
        return list(self.answer(opened, **parameters))


def opened_input(value: Any, number: int) -> Any:
    """An input with its image opened.

    Raises:
        RequestError: it holds none that can be read.
    """
    if not isinstance(value, Mapping):
        return opened_image(value, number)
    # A model that reads metadata alone needs no image.
    return {**value, "image": opened_image(value["image"], number)} if value.get("image") is not None else dict(value)


def opened_image(value: Any, number: int) -> Image.Image:
    """An image from a PIL image, the bytes of a file, or their base64 text.

    Raises:
        RequestError: it is none of them, too large, or no image.
    """
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, str):
        text = value.partition(",")[2] if value.startswith("data:image/") else value
        try:
            value = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise RequestError(f"input {number} is a text that is no base64; give the content of an image.") from error
    if not isinstance(value, (bytes, bytearray)):
        raise RequestError(f"input {number} is a {type(value).__name__}; give an image, or its content as base64.")
    if len(value) > MOST_BYTES:
        raise RequestError(f"input {number} has {len(value):,} bytes; give at most {MOST_BYTES:,}.")
    try:
        return Image.open(io.BytesIO(value), formats=FORMATS)
    except BROKEN as error:
        raise RequestError(f"input {number} is no image that can be opened ({error}).") from error
