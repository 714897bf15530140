"""Decoded training images, stored once in a memory-mapped file that all workers and processes share.

What is stored is uint8 RGB after the processor's ``prepare``: no training step decodes a file again. The folder is
named by a fingerprint of the images and of everything that decides their pixels. A folder that is half-written, damaged
or of other images is built again; each image is compared with its hash when it is read, and decoded where it differs.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL
import xxhash
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from datasets_scripts.command import UserError
from hub_models.image_processing_pixels import PREPARED
from hub_models.preprocess_lesion import BROKEN
from trainers.model_folder.data import LesionImages, note

FORMAT = 1  # raise it when the same settings give other pixels
NO_CACHE = "none"
CHUNK = 256  # images in memory while the cache is built
LEAST_FREE = 2**30  # bytes of the disk that are left to others
# A JPEG is decoded at 1/2, 1/4 or 1/8 of its sides where that leaves at least so many times the stored side.
MARGIN = 2
ABOUT, INDEX, IMAGES = "cache.json", "index.npy", "images.bin"
# Settings of the processor that act after what is stored.
AFTER = ("do_normalize", "do_rescale", "image_std", "rescale_factor")


class DecodedImages:
    """Row number -> the stored form of an image, (H, W, 3) uint8, decoded from the dataset.

    Args:
        rows: the dataset's rows.
        processor: its ``prepare`` comes first; its ``size`` is the side of a training image.
        short_side: 0: the processor resizes as in use, to exactly ``size``. Otherwise the image keeps its shape, and
            its shorter side is at most this, in pixels.
    """

    def __init__(self, rows: datasets.Dataset, processor: Any, short_side: int = 0) -> None:
        self.source = LesionImages(rows, processor)
        self.processor, self.short_side = processor, short_side

    def __len__(self) -> int:
        return len(self.source)

    def settings(self) -> dict[str, Any]:
        """Everything beside the images that decides the pixels."""
        pixels = {name: value for name, value in self.processor.pixel_settings().items() if name not in AFTER}
        ours = {"format": FORMAT, "short_side": self.short_side, "margin": MARGIN, "pillow": PIL.__version__}
        return {**pixels, **ours}

    def fingerprint(self) -> str:
        """A hash of settings and images, in their order; of an image outside the dataset's files, of its path, size
        and time."""
        digest = xxhash.xxh3_128(json.dumps(self.settings(), sort_keys=True, default=str).encode())
        for table in self.source.images.with_format("arrow").iter(batch_size=1000):
            column = table.column("image").combine_chunks()
            for data, path in zip(column.field("bytes"), column.field("path").to_pylist(), strict=True):
                if data.is_valid:
                    digest.update(xxhash.xxh3_128_digest(memoryview(data.as_buffer())))
                else:
                    digest.update(identity_of(path).encode())
        return digest.hexdigest()

    def __getitem__(self, index: int) -> np.ndarray:
        """Decode one image.

        Raises:
            UserError: it is damaged, or no image; names its row.
        """
        image = self.source.read(index)
        side = MARGIN * (self.short_side or max(self.processor.size["height"], self.processor.size["width"]))
        try:
            if not any(getattr(self.processor, name) for name in PREPARED):  # these see the image at full size
                image.draft(None, (side, side))  # does nothing where it would become smaller, or to other formats
            prepared = self.processor.prepare(image)
        except (*BROKEN, MemoryError) as error:
            raise UserError(f"image {int(index)} of the dataset cannot be decoded ({error}): leave it out") from error
        if not self.short_side:
            raw = self.processor(images=prepared, **PREPARED, do_rescale=False, do_normalize=False)
            return np.ascontiguousarray(np.moveaxis(np.asarray(raw["pixel_values"][0]), 0, -1).astype(np.uint8))
        factor = self.short_side / min(prepared.size)
        if factor < 1:
            width, height = (max(1, round(length * factor)) for length in prepared.size)
            prepared = prepared.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(prepared)


def identity_of(path: str) -> str:
    """What tells one state of a file from another without reading it.

    Raises:
        UserError: there is no such file.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise UserError(f"the image file {path!r} of the dataset cannot be read ({error.strerror})") from error
    return f"{os.path.realpath(path)}\n{found.st_size}\n{found.st_mtime_ns}\n"


class ImageCache:
    """The same as :class:`DecodedImages`, read from a finished cache folder.

    Raises:
        OSError, ValueError, KeyError: the folder is no finished cache of this fingerprint.
    """

    def __init__(self, folder: Path, fingerprint: str, decoded: DecodedImages) -> None:
        self.folder, self.decoded = folder, decoded
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        self.index = np.load(folder / INDEX, allow_pickle=False)
        if about["fingerprint"] != fingerprint or about["index"] != xxhash.xxh3_128_hexdigest(self.index.tobytes()):
            raise ValueError("other images")
        if len(self.index) != len(decoded) or about["bytes"] != (folder / IMAGES).stat().st_size:
            raise ValueError("not complete")
        self.memory: np.ndarray | None = None
        self.told = False

    def __getstate__(self) -> dict[str, Any]:
        """Without the map: a worker that is not forked would get a copy of all images."""
        return {**self.__dict__, "memory": None}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> np.ndarray:
        """One image, (H, W, 3) uint8, without a copy; decoded from the dataset where the file does not hold it."""
        if self.memory is None:
            self.memory = np.memmap(self.folder / IMAGES, np.uint8, "r")
        start, height, width, digest = (int(value) for value in self.index[index])
        image = self.memory[start : start + 3 * height * width]
        if xxhash.xxh3_64_intdigest(image.data) == digest:
            return image.reshape(height, width, 3)
        if not self.told:
            note(f"image cache {str(self.folder)!r} is damaged: image {index} was decoded again; delete the folder")
            self.told = True
        return self.decoded[index]


def cached_images(decoded: DecodedImages, where: str) -> DecodedImages | ImageCache:
    """The images from a cache, which is built where it is not there; from the dataset where there can be none.

    Args:
        decoded: the images.
        where: a folder for caches; empty = ``lesion_suite/images`` in the cache folder of ``datasets``; ``none`` = no
            cache.

    Raises:
        UserError: a cache cannot be written to a folder that was named, or an image is damaged.
    """
    if where == NO_CACHE:
        return decoded
    folder = Path(where or Path(datasets.config.HF_DATASETS_CACHE) / "lesion_suite" / "images")
    try:
        name = decoded.fingerprint()
        found = finished(folder / name, name, decoded)
        if found is not None:
            return found
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"):  # the other processes of a run wait for the first
            found = finished(folder / name, name, decoded)
            return found or build(folder / name, name, decoded)
    except UserError:
        raise
    except OSError as error:
        why = f"no image cache can be written to {str(folder)!r} ({error.strerror or error})"
        if where:
            raise UserError(f"{why}: give --image_cache another folder, or none") from error
        note(f"{why}: each image is decoded again in each epoch; give --image_cache a folder")
        return decoded


def finished(folder: Path, fingerprint: str, decoded: DecodedImages) -> ImageCache | None:
    """The cache in a folder; None where there is no complete one of these images."""
    try:
        return ImageCache(folder, fingerprint, decoded)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def build(folder: Path, fingerprint: str, decoded: DecodedImages) -> ImageCache:
    """Decode all images into a folder that appears when it is complete; a few hundred are in memory at a time.

    Raises:
        UserError: an image is damaged.
        OSError: the folder cannot be written, or the disk is full; nothing is left behind.
    """
    with replaced(folder) as partial:
        index, start = np.zeros((len(decoded), 4), np.uint64), 0
        with (partial / IMAGES).open("wb") as file:
            for number, image in enumerate(in_threads(decoded, partial)):
                file.write(image.data)
                index[number] = (start, *image.shape[:2], xxhash.xxh3_64_intdigest(image.data))
                start += image.nbytes
        np.save(partial / INDEX, index)
        about = {
            "fingerprint": fingerprint,
            "bytes": start,
            "index": xxhash.xxh3_128_hexdigest(index.tobytes()),
            "settings": decoded.settings(),
        }
        (partial / ABOUT).write_text(json.dumps(about, indent=1, default=str) + "\n", encoding="utf-8")
    return ImageCache(folder, fingerprint, decoded)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``folder`` when the block ends; after an error nothing is left.

    The caller holds a lock.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def in_threads(decoded: DecodedImages, place: Path) -> Iterator[np.ndarray]:
    """Every image in order, decoded in threads (Pillow releases the interpreter's lock).

    Raises:
        OSError: little of the disk is free.
    """
    bar = tqdm(total=len(decoded), desc="image cache", unit="image", mininterval=1.0, disable=None)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, bar:
        for start in range(0, len(decoded), CHUNK):
            if shutil.disk_usage(place).free < LEAST_FREE:
                raise OSError(errno.ENOSPC, "less than 1 GiB of the disk is free")
            for image in pool.map(decoded.__getitem__, range(start, min(start + CHUNK, len(decoded)))):
                yield image
                bar.update()
