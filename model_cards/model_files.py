"""Checks of a model folder by other people, on its files alone, before anything is built from them.

transformers and timm do what ``config.json`` says: open files and other repositories, and build as many layers as it
names. Here the config is a JSON object and nothing more; whatever reaches further than its own folder is named.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.command import UserError, read_json, what_file_is
from model_cards.manifest import MANIFEST, parse_manifest

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
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
# Bytes a number, and how numpy reads it; of bfloat16 the exponent alone is looked at.
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
BYTES_AT_ONCE = 1 << 26
LONGEST_HEADER = 100_000_000  # of the format itself


class ModelFileError(UserError):
    """A file of a model folder that refers to what it must not, or is not of the type of its name."""


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
    """A config, or an image processor's, that refers to nothing outside the folder.

    Raises:
        FileNotFoundError: there is none.
        ModelFileError: it cannot be read, or refers to what it must not.
    """
    try:
        content = read_json(path, finite=False)
    except UserError as error:
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


def check_unchanged(paths: Mapping[str, Path], manifest: Path | None) -> None:
    """Compare the files that decide what a model answers with its manifest, where there is one.

    Args:
        paths: name -> file; those that the manifest does not list are not compared.
        manifest: ``manifest.json``, or None.

    Raises:
        ModelFileError: names the file that differs.
        UserError: the manifest cannot be used.
    """
    if manifest is None:
        return
    try:
        listed = parse_manifest(read_json(manifest), manifest.name)
    except UserError as error:
        raise ModelFileError(f"{MANIFEST}: {error}") from error
    for name, path in paths.items():
        if name in listed:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != listed[name].get("sha256"):
                raise ModelFileError(
                    f"{name} is not the file that {MANIFEST} lists (sha256 {digest[:12]}, listed "
                    f"{str(listed[name].get('sha256'))[:12]}): it was damaged or changed; fetch it again, or build the "
                    "folder again if you changed it"
                )
