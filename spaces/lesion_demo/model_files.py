"""Checks of a model folder's files before anything is built from them: are they whole, and what would they load.

transformers and timm follow what ``config.json`` says: into files, other repositories, and as many layers as it asks
for. The suite's own commands check the same by ``model_cards/model_files.py``; this page imports none of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from transformers.utils import cached_file

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
MANIFEST = "manifest.json"
# These decide what a model answers; what else a folder holds does not.
DECIDING = (CONFIG, PROCESSOR, WEIGHTS)

DEEPEST = 40
LARGEST_IMAGE, MOST_CLASSES, MOST_MEMBERS, LARGEST_NUMBER = 4096, 10_000, 100, 10**7
TIMM_NAME = re.compile(r"[\w-]{0,100}(\.[\w-]{1,100})?")
# Keys whose value timm.create_model takes as a name: a scheme or a path would open a folder or another repository.
BACKBONE_NAMES = ("backbone", "architecture")
# Keys whose value goes to timm.create_model as further arguments.
BACKBONE_ARGUMENTS = ("backbone_kwargs", "model_args")
# Arguments among them that name a file, an address or a repository.
OPENING = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only")
# Keys that make transformers read another file, or fetch code, than lies in the repository.
READ_ELSEWHERE = ("transformers_weights", "quantization_config", "use_pretrained_backbone")
ATTENTION = ("attn_implementation", "_attn_implementation")
SIZES = ("image_size", "size", "crop_size", "pad_size", "height", "width", "shortest_edge", "longest_edge")
COUNTS = ("num_labels", "num_classes")
# Bytes a number, and how numpy reads it; of bfloat16 the exponent alone is read.
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
BYTES_AT_ONCE = 1 << 26
LONGEST_HEADER = 100_000_000  # of the format itself
LARGEST_JSON = 64 * 1024 * 1024
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_SIZE = re.compile(rb"^size (\d+)$", re.MULTILINE)


class ModelFileError(ValueError):
    """A file of a model folder that asks for more than it may, or is not what its name says."""


def check_files(location: str, revision: str | None) -> None:
    """Look at the files that decide what a model answers, and compare them with its manifest where there is one.

    Args:
        location: a folder, or a repository of the Hub.
        revision: of the repository.

    Raises:
        ModelFileError: names the file, and what is wrong with it.
    """

    def fetched(name: str) -> Path | None:
        try:
            path = cached_file(location, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            return None  # transformers says it, where it needs the file
        return None if path is None else Path(path)

    paths = {name: path for name in DECIDING if (path := fetched(name)) is not None}
    for name in (CONFIG, PROCESSOR):
        if name in paths:
            check_json(paths[name])
    if WEIGHTS in paths:
        check_weights(paths[WEIGHTS])
    manifest = fetched(MANIFEST)
    if manifest is not None:
        check_unchanged(paths, manifest)


def check_config(config: Mapping[str, Any], name: str = CONFIG) -> Iterator[str]:
    """Everything in a config, or in an image processor's, that reaches outside its folder or out of all bounds.

    Yields:
        One sentence each, with the path of the value.
    """
    waiting: list[tuple[str, Any, int]] = [("", config, 0)]
    while waiting:
        path, value, depth = waiting.pop()
        if depth > DEEPEST:
            yield f"{name} is nested more than {DEEPEST} deep at {path[:80]}: do not trust this folder"
            return
        if isinstance(value, Mapping):
            yield from (f"{name}: {problem}" for problem in check_values(value, path))
            waiting += [(f"{path}.{key}".lstrip("."), inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [
                (f"{path}[{i}]", inner, depth + 1) for i, inner in enumerate(value) if isinstance(inner, (dict, list))
            ]


def check_values(values: Mapping[str, Any], path: str) -> Iterator[str]:
    """The problems of one object of a config."""

    def at(key: str) -> str:
        return f"{path}.{key}".lstrip(".")[:120]

    for key, value in values.items():
        shown = brief(value)
        if key in BACKBONE_NAMES and isinstance(value, str) and not TIMM_NAME.fullmatch(value):
            yield f"{at(key)} is {shown}, which is a repository or a path: give an architecture of timm"
        if key in BACKBONE_ARGUMENTS and isinstance(value, Mapping):
            for argument in sorted(set(value) & set(OPENING)):
                if value[argument]:
                    yield f"{at(key)}.{argument} is {brief(value[argument])}, which opens a file: leave it out"
        if key in READ_ELSEWHERE and value:
            yield f"{at(key)} is {shown}, which reads what is not in this folder: leave it out"
        if key in ATTENTION and "/" in str(value):
            yield f"{at(key)} is {shown}, which is code of another repository: leave it out"
        if key in ("auto_map", "custom_pipelines") and "--" in json.dumps(value):
            yield f"{at(key)} is {shown}, which takes code from another repository: keep the code beside the weights"
        if key in SIZES and _too_large(value, LARGEST_IMAGE):
            yield f"{at(key)} is {shown}: give at most {LARGEST_IMAGE} pixels"
        if key in COUNTS and value is not None and not _whole(value, 0, MOST_CLASSES):
            yield f"{at(key)} is {shown}: give a whole number of classes, at most {MOST_CLASSES}"
        if key == "id2label" and (not isinstance(value, (dict, type(None))) or len(value or ()) > MOST_CLASSES):
            yield f"{at(key)} is {shown}: give a map of at most {MOST_CLASSES} classes"
        if key == "members" and isinstance(value, list) and len(value) > MOST_MEMBERS:
            yield f"{at(key)} has {len(value)} entries: give at most {MOST_MEMBERS}"
        if key.startswith(("num_", "hidden_", "intermediate_")) and _too_large(value, LARGEST_NUMBER):
            yield f"{at(key)} is {shown}: give at most {LARGEST_NUMBER}"


def brief(value: Any) -> str:
    """A value as a message can hold it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _whole(value: Any, least: int, most: int) -> bool:
    return not isinstance(value, bool) and isinstance(value, int) and least <= value <= most


def _too_large(value: Any, most: float) -> bool:
    """Whether a number, or one of a list of them, is above a limit, or no finite number."""
    values = value if isinstance(value, list) else [value]
    return any(isinstance(one, (int, float)) and not abs(one) <= most for one in values)


def check_json(path: Path) -> dict[str, Any]:
    """A config, or an image processor's, that reaches nowhere.

    Raises:
        FileNotFoundError: there is none.
        ModelFileError: it cannot be read, or asks for more than it may.
    """
    try:
        content = read_json(path, finite=False)
    except ModelFileError as error:
        raise ModelFileError(f"{path.name}: {error}") from error
    for problem in check_config(content, path.name):
        raise ModelFileError(problem)
    return content


def check_weights(path: Path) -> None:
    """A whole safetensors file, all of whose numbers are finite.

    Raises:
        ModelFileError: says what it is instead, or names the first tensor with NaN or infinite values.
    """
    size = path.stat().st_size
    instead = what_file_is(path)
    if instead:
        raise ModelFileError(f"{path.name} holds no weights; {instead}")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            text = file.read(min(length, size, LONGEST_HEADER))
        if text.startswith(b"{") and len(text) < length <= LONGEST_HEADER:
            raise ModelFileError(
                f"{path.name} has {size:,} bytes where its header promises more than {length:,}: it was cut short; "
                "fetch it again"
            )
        header = json.loads(text)
        tensors = [
            (str(name), str(entry["dtype"]), int(entry["data_offsets"][0]), int(entry["data_offsets"][1]))
            for name, entry in header.items()
            if name != "__metadata__"
        ]
        end = max(stop for _, _, _, stop in tensors)
        if not all(0 <= start <= stop for _, _, start, stop in tensors):
            raise ValueError("offsets")
    except ModelFileError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelFileError(f"{path.name} is no safetensors file ({size:,} bytes): fetch it again") from error
    if size != 8 + length + end:
        raise ModelFileError(
            f"{path.name} has {size:,} bytes where its header promises {8 + length + end:,}: it was cut short or grew; "
            "fetch it again"
        )
    for name, kind, start, stop in tensors:
        if kind in FLOATS and not _finite(path, 8 + length + start, stop - start, kind):
            raise ModelFileError(
                f"{path.name}: the tensor {name!r} holds NaN or infinite values, so that no answer follows: the "
                "training diverged or the file is damaged; give other weights"
            )


def _finite(path: Path, offset: int, size: int, kind: str) -> bool:
    """Whether all numbers in a part of a file are finite; read piece by piece."""
    dtype = np.dtype(FLOATS[kind])
    with path.open("rb") as file:
        file.seek(offset)
        while size >= dtype.itemsize:
            part = file.read(min(size, BYTES_AT_ONCE))
            numbers = np.frombuffer(part, dtype=dtype, count=len(part) // dtype.itemsize)
            finite = (numbers & 0x7F80) != 0x7F80 if kind == "BF16" else np.isfinite(numbers)
            if not finite.all():
                return False
            size -= len(part)
    return True


def check_unchanged(paths: Mapping[str, Path], manifest: Path) -> None:
    """Compare files with what a manifest lists.

    Raises:
        ModelFileError: names the file that differs.
    """
    try:
        listed = read_json(manifest).get("files")
    except ModelFileError as error:
        raise ModelFileError(f"{MANIFEST}: {error}") from error
    for name, path in paths.items():
        facts = listed.get(name) if isinstance(listed, dict) else None
        if isinstance(facts, dict):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != facts.get("sha256"):
                raise ModelFileError(f"{name} is not the file that {MANIFEST} lists: it was damaged or changed")


def read_json(path: Path, *, finite: bool = True) -> dict[str, Any]:
    """The JSON object in a file that somebody else may have written.

    Args:
        path: the file.
        finite: refuse NaN and Infinity, which are no JSON.

    Raises:
        FileNotFoundError: there is none.
        ModelFileError: it is too large, no text, not JSON, nested too deeply, or no object; without the file's name.
    """
    size = path.stat().st_size
    if size > LARGEST_JSON:
        raise ModelFileError(f"it has {size:,} bytes, more than any report or config ({LARGEST_JSON:,})")
    try:
        content = json.loads(path.read_text("utf-8"), parse_constant=_refuse_constant if finite else None)
    except RecursionError as error:
        raise ModelFileError("it is not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:  # also of bytes that are no UTF-8
        raise ModelFileError(what_file_is(path) or f"it is not JSON ({str(error)[:200]})") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"it holds {'null' if content is None else type(content).__name__} and no JSON object")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def what_file_is(path: Path) -> str | None:
    """What stands in place of a file that cannot be read, with its size and what to do; None for anything else.

    The causes have nothing in common but the error that a reader makes of them: a Git LFS pointer (cloned without LFS),
    an empty file, a web page that a download saved.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
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
