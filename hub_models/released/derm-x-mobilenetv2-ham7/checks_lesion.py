"""Checks of what comes from elsewhere: numbers of a config, keys of a record, files that are not what they should be.

A config can come from anywhere, so every number that decides how much is built has a limit.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import transformers

# Of the suite that this file is of.
SUITE_VERSION = "0.1.0"
# Older ones lack what the files beside this one import. Versions 5.0 to 5.12 were seen to load the code of other
# repositories with weights that they had drawn again, and to say nothing.
LEAST_TRANSFORMERS = (5, 17)
LARGEST_IMAGE = 4096  # side in pixels
MOST_CLASSES = 10_000
MOST_MEMBERS = 100
MOST_LAYERS = 100
LARGEST_LAYER = 65_536
MOST_PARAMETERS = 1_000_000_000
LARGEST_BUFFER = 100_000_000
# A whole number of JSON may be too large for a float.
LARGEST_NUMBER = 1e300
LONGEST_HEADER = 100_000_000  # of safetensors, by the format itself
# Names of types in the header of a safetensors file.
HEADER_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
# Types that weights are stored in.
DTYPES = ("float16", "bfloat16", "float32", "float64")

SEMANTIC_VERSION = re.compile(r"(0|[1-9]\d{0,5})(\.(0|[1-9]\d{0,5})){2}")

# The keys of a record: an image, and what may be known of the patient.
IMAGE = "image"
PATIENT = ("age", "sex", "localization")

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_SIZE = re.compile(rb"^size (\d+)$", re.MULTILINE)


class RecordError(ValueError):
    """A record that no lesion model understands. The message names the value and what to do."""


class HeaderError(OSError):
    """Weights that are not those of the model that the config describes."""


class TransformersVersionError(ImportError):
    """A version of transformers that is too old for these files."""


def check_transformers(found: str) -> None:
    """Refuse a version of transformers that would load these files wrongly.

    Raises:
        TransformersVersionError: names the version found and the one that is needed.
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:2])
    if numbers < LEAST_TRANSFORMERS:
        least = ".".join(map(str, LEAST_TRANSFORMERS))
        raise TransformersVersionError(
            f"this model needs transformers {least} or newer, {found} is installed: pip install -U transformers"
        )


# When a model is loaded this file is the first of those beside it that runs.
check_transformers(transformers.__version__)


def check_header(path: str | os.PathLike[str], shapes: dict[str, tuple[int, ...]], lenient: bool = False) -> None:
    """Compare the header of a safetensors file with the model, before memory is taken for a tensor.

    Args:
        path: the file.
        shapes: tensor of the model -> its shape.
        lenient: other shapes are allowed, as fine-tuning on other classes has them.

    Raises:
        HeaderError: names the tensor.
    """
    if instead := what_file_is(path):
        raise HeaderError(f"{os.path.basename(path)} holds no weights; {instead}.")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= LONGEST_HEADER else b""
    try:
        header = {name: entry for name, entry in json.loads(text).items() if name != "__metadata__"}
        found = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HeaderError(f"{os.path.basename(path)} is no safetensors file: fetch it again.") from error
    for name, (dtype, shape) in found.items():
        if dtype not in HEADER_DTYPES:
            raise HeaderError(
                f"the tensor {brief(name)} is of the type {brief(dtype)}, not of numbers: fetch it again."
            )
        if name in shapes and shape != shapes[name] and not lenient:
            raise HeaderError(
                f"the tensor {brief(name)} has the shape {brief(shape)}, and the config gives {shapes[name]}: the "
                "weights are of another model; fetch both again."
            )


def is_number(value: Any) -> bool:
    """Whether a value is a number that is neither infinite nor enormous; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and abs(value) <= LARGEST_NUMBER


def is_whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is a whole number in [least, most]; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, int) and least <= value <= most


def is_dtype(value: Any) -> bool:
    """Whether a value is a floating type of torch, by its name or itself, or None (as the weights are stored)."""
    return value is None or str(value).removeprefix("torch.") in DTYPES


def about_problem(config: Any) -> str | None:
    """What is wrong with the versions and the self-check of a config, in words; None where nothing is."""
    for name in ("suite_version", "model_version"):
        value = getattr(config, name)
        if value is not None and not (isinstance(value, str) and SEMANTIC_VERSION.fullmatch(value)):
            return f"{name} is {brief(value)}; give a semantic version such as 1.0.0, or null."
    if not isinstance(config.self_check, dict):
        return f"self_check is {brief(config.self_check)}; give a dictionary, empty where nothing was stored."
    return None


def brief(value: Any) -> str:
    """A value as a message can hold it."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def what_file_is(path: str | os.PathLike[str]) -> str | None:
    """What stands in place of a file that cannot be read, with its size and what to do; None for anything else.

    The causes have nothing in common but the error that a reader makes of them: a Git LFS pointer (cloned without LFS),
    an empty file, a web page that a download saved.
    """
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError:
        return None
    if not head:
        return "it is empty (0 bytes): fetch it again"
    if head.startswith(LFS_POINTER):
        whole = LFS_SIZE.search(head)
        of = f" to a file of {int(whole[1]):,} bytes" if whole else ""
        return f"it is a Git LFS pointer ({size} bytes){of}: run git lfs pull where it was cloned"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return f"it is a web page ({size} bytes), perhaps an error message of the server: fetch it again"
    if start.startswith((b'{"error', b"access to ", b"entry not found", b"invalid username", b"repository not found")):
        return f"it is an error message of the server ({size} bytes): fetch it again"
    return None


class PixelShapeError(ValueError):
    """Images that are not a batch (N, 3, H, W)."""


def check_image_batch(shape: tuple[int, ...]) -> None:
    """Raise PixelShapeError unless a shape is (N, 3, H, W)."""
    if len(shape) != 4 or shape[1] != 3:
        raise PixelShapeError(
            f"pixel_values has the shape {shape}; give (N, 3, H, W), as the image processor returns them."
        )
