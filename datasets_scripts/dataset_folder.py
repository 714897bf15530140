"""An existing dataset as the audit needs it: a folder of Parquet files with its configs, or of images in class folders.

Each image is decoded once and not kept: an image takes about 3 kB of memory, 1 kB of it its thumbnail.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from tqdm import tqdm

from datasets_scripts.command import UserError
from datasets_scripts.images import THUMB, ImageError, Scan, scan
from datasets_scripts.rows import REAL, SYNTHETIC, UNKNOWN, Row
from datasets_scripts.sources.archive_files import ArchiveFiles
from datasets_scripts.sources.class_folders import split_of

UNSPLIT = "all"  # the split of a dataset without splits, and of images outside them
ONLY = "default"  # the config of a dataset without configs
_AT_ONCE = 64
_SPLIT_NAME = re.compile(r"(train(?:ing)?|validation|valid|val|calibration|test(?:ing)?)(?![a-z])", re.IGNORECASE)
_TEXTS = ("sex", "localization", "dx_type", "source", "license", "attribution")
_OPTIONAL = ("diagnosis", "patient_id", "provenance", "skin_tone", "image_type")


@dataclass
class Dataset:
    """A dataset without its pixels.

    Attributes:
        name: the folder's.
        rows: N rows, whose images can no longer be read.
        labels: the classes.
        configs: config -> split -> row numbers.
        hashes: N hashes of decoded pixels.
        thumbs: (N, 32, 32) uint8 grey; zeros for an image that cannot be decoded.
        unusable: what is wrong with each image that cannot be decoded.
        sizes: (width, height) -> images.
    """

    name: str
    rows: list[Row]
    labels: list[str]
    configs: dict[str, dict[str, list[int]]]
    hashes: list[str]
    thumbs: np.ndarray
    unusable: list[str]
    sizes: Counter[tuple[int, int]]


def read(folder: Path) -> Dataset:
    """Read a dataset and decode each image once.

    Args:
        folder: Parquet files with the columns image and label, as a build command writes; or images in class folders.

    Raises:
        UserError: it is neither, or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"dataset {str(folder)!r} is no folder: give one that a build command wrote, or class folders")
    files = sorted(folder.rglob("*.parquet"))
    found = _scanned(_parquet_rows(folder, files) if files else _folder_rows(folder), str(folder))
    labels = _class_names(files[0]) if files else []
    return Dataset(
        folder.resolve().name,
        found.rows,
        labels or sorted({row.label for row in found.rows}),
        _configs(folder, found.places) if files else _by_place(found.places),
        found.hashes,
        np.frombuffer(found.thumbs, np.uint8).reshape(-1, THUMB, THUMB),
        found.unusable,
        found.sizes,
    )


@dataclass
class _Found:
    rows: list[Row]
    places: list[str]
    hashes: list[str]
    thumbs: bytearray
    unusable: list[str]
    sizes: Counter[tuple[int, int]]


def _scanned(rows: Iterator[tuple[Row, str]], where: str) -> _Found:
    """Decode the images a few at a time; the place of each is its file or split."""
    found = _Found([], [], [], bytearray(), [], Counter())
    with (
        ThreadPoolExecutor(min(8, (os.cpu_count() or 1) + 1)) as pool,
        tqdm(desc=f"reading {where}", unit="image", mininterval=1.0, disable=None) as progress,
    ):
        while batch := list(islice(rows, _AT_ONCE)):
            for (row, place), result in zip(batch, pool.map(lambda one: scan(one[0]), batch), strict=True):
                _add(found, row, place, result)
            progress.update(len(batch))
    if not found.rows:
        raise UserError(f"{where} has no image: give a dataset folder with Parquet files, or images in class folders")
    return found


def _add(found: _Found, row: Row, place: str, result: Scan | ImageError) -> None:
    row.read = _not_kept
    found.rows.append(row)
    found.places.append(place)
    if isinstance(result, ImageError):
        found.unusable.append(str(result))
        found.hashes.append(f"unusable {len(found.rows)}")
        found.thumbs += bytes(THUMB * THUMB)
        return
    found.hashes.append(result.pixels_sha256)
    found.thumbs += result.thumb.tobytes()
    found.sizes[result.size] += 1


def _not_kept() -> bytes:
    raise UserError("the image was read and is not kept")


def _class_names(file: Path) -> list[str]:
    from datasets import Features

    label = Features.from_arrow_schema(pq.read_schema(file)).get("label")
    return list(getattr(label, "names", None) or [])


def _parquet_rows(folder: Path, files: Sequence[Path]) -> Iterator[tuple[Row, str]]:
    """Each row of the files and the path of its file relative to the folder."""
    for file in files:
        names, columns = _class_names(file), pq.read_schema(file).names
        lacking = [column for column in ("image", "label") if column not in columns]
        if lacking:
            raise UserError(f"{file} has no column {', '.join(lacking)}; give a dataset of images with their labels")
        place, number = file.relative_to(folder).as_posix(), 0
        wanted = [column for column in columns if column != "mask"]
        for batch in pq.ParquetFile(file).iter_batches(_AT_ONCE, columns=wanted):
            for record in batch.to_pylist():
                yield _row(record, names, f"{place}:{number}"), place
                number += 1


def _row(record: Mapping[str, Any], names: Sequence[str], where: str) -> Row:
    image, label = record["image"] or {}, record["label"]
    if not isinstance(image, dict):
        raise UserError(f"{where}: the column image holds no image file; give a dataset as `datasets` writes it")
    data = image.get("bytes") or b""
    image_id = str(record.get("image_id") or Path(image.get("path") or where).stem)
    named = isinstance(label, int) and 0 <= label < len(names)
    texts: dict[str, Any] = {key: record.get(key) or UNKNOWN for key in _TEXTS}
    optional: dict[str, Any] = {key: record.get(key) for key in _OPTIONAL}
    return Row(
        image_id,
        names[label] if named else UNKNOWN if label in (None, -1) else str(label),
        lambda: data,
        str(record.get("lesion_id") or record.get("group_id") or image_id),
        age=record.get("age"),
        **texts,
        **optional,
    )


def _folder_rows(folder: Path) -> Iterator[tuple[Row, str]]:
    """Each image in class folders, and the split that a folder names."""
    for path, reader in ArchiveFiles(folder).image_entries:
        split = split_of(path)
        folders = [part for part in path.parts[:-1] if part.lower() not in (REAL, SYNTHETIC)]
        named = [part for part in folders if not _SPLIT_NAME.fullmatch(part)]
        yield Row(str(path.with_suffix("")), named[-1] if named else UNKNOWN, reader, str(path)), split or UNSPLIT


def _by_place(places: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """One config whose splits are the places, those that begin with ``train`` first."""
    splits: dict[str, list[int]] = {}
    for number, place in enumerate(places):
        splits.setdefault(place, []).append(number)
    return {ONLY: dict(sorted(splits.items(), key=lambda one: not one[0].startswith("train")))}


def _configs(folder: Path, places: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """The configs that the card states; without any, the splits that file names begin with."""
    stated = _stated_configs(folder / "README.md")
    if not stated:
        names = [_SPLIT_NAME.match(Path(place).name) for place in places]
        return _by_place([match[1].lower() if match else UNSPLIT for match in names])
    of_file: dict[str, list[int]] = {}
    for number, place in enumerate(places):
        of_file.setdefault(place, []).append(number)
    return {
        config: {
            split: sorted(
                number
                for file, numbers in of_file.items()
                if any(fnmatch.fnmatch(file, pattern) for pattern in patterns)
                for number in numbers
            )
            for split, patterns in splits.items()
        }
        for config, splits in stated.items()
    }


def _stated_configs(card: Path) -> dict[str, dict[str, list[str]]]:
    """Config -> split -> patterns of files, of the front matter of a card; empty where it states none."""
    if not card.is_file():
        return {}
    text = card.read_text("utf-8")
    if not text.startswith("---\n"):
        return {}
    try:
        front = yaml.safe_load(text[4:].partition("\n---")[0]) or {}
        return {
            str(config.get("config_name", ONLY)): {
                str(part["split"]): [part["path"]] if isinstance(part["path"], str) else list(part["path"])
                for part in config["data_files"]
            }
            for config in front.get("configs", [])
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{card}: the configs of its front matter cannot be read ({error}); write it again") from error
