"""Checks of what comes from elsewhere: numbers of a config, keys of a record, files that are not what they should be.

A config can come from anywhere, so every number that decides how much is built has a limit.
"""

from __future__ import annotations

import os
import re
from typing import Any

LARGEST_IMAGE = 4096  # side in pixels
MOST_CLASSES = 10_000
MOST_MEMBERS = 100
MOST_LAYERS = 100
LARGEST_LAYER = 65_536
MOST_PARAMETERS = 1_000_000_000
LARGEST_BUFFER = 100_000_000
# A whole number of JSON may be too large for a float.
LARGEST_NUMBER = 1e300
# Types that weights are stored in.
DTYPES = ("float16", "bfloat16", "float32", "float64")

# The keys of a record: an image, and what may be known of the patient.
IMAGE = "image"
PATIENT = ("age", "sex", "localization")

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_SIZE = re.compile(rb"^size (\d+)$", re.MULTILINE)


class RecordError(ValueError):
    """A record that no lesion model understands. The message names the value and what to do."""


def is_number(value: Any) -> bool:
    """Whether a value is a number that is neither infinite nor enormous; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, (int, float)) and abs(value) <= LARGEST_NUMBER


def is_whole(value: Any, least: int, most: int) -> bool:
    """Whether a value is a whole number in [least, most]; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, int) and least <= value <= most


def is_dtype(value: Any) -> bool:
    """Whether a value is a floating type of torch, by its name or itself, or None (as the weights are stored)."""
    return value is None or str(value).removeprefix("torch.") in DTYPES


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
