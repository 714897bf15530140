"""Reconstructions of a split by a finished autoencoder: its codes, and how near each reconstruction is to its image.

The reconstructions file is the seam, as the predictions file is for classifiers: ``reconstructions_<split>.parquet``,
one row per image, from which every number of the report follows. Columns: ``image_id``, ``lesion_id``, ``group_id``
(string), ``label`` (int32), one double for each score, and ``codes`` (list<float>, length D).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets_scripts.command import UserError
from datasets_scripts.output import whole_file
from trainers.autoencoding.checkerboard import grid_strength
from trainers.autoencoding.losses import psnr, ssim
from trainers.autoencoding.trainer import with_noise
from trainers.model_folder.data import LesionImages, Splits, collate

SCHEMA_VERSION = 1
METADATA_KEY = b"lesion_suite"
IDS = ("image_id", "lesion_id", "group_id")
LEVELS = 256
GRID = re.compile(r"grid_\d+_db")


@dataclass(frozen=True)
class Reconstructions:
    """What one autoencoder made of one split.

    Attributes:
        image_id: (N,) str.
        lesion_id: (N,) str.
        group_id: (N,) str; rows of one group are never independent.
        label: (N,) int64 in [0, C).
        codes: (N, D) float32.
        scores: name -> (N,) float64. ``psnr`` (dB) and ``ssim`` of the reconstruction; ``psnr_8bit`` with codes that
            were rounded to 8 bits; ``grid_<p>_db`` and ``grid_<p>_rms`` of the grid of period p in the reconstruction,
            with ``_original`` in the image (see ``checkerboard``); ``psnr_noisy`` and ``psnr_denoised`` of a
            denoising model; ``psnr_linear`` and ``ssim_linear`` of a linear code of the same size.
        labels: the C short class names.
        split: ``validation``, ``test``, ...
        config_name: the dataset's config.
        dataset: the dataset's name.
    """

    image_id: np.ndarray
    lesion_id: np.ndarray
    group_id: np.ndarray
    label: np.ndarray
    codes: np.ndarray
    scores: dict[str, np.ndarray]
    labels: list[str]
    split: str
    config_name: str = ""
    dataset: str = ""

    def __post_init__(self) -> None:
        for name, values in {**self.scores, "codes": self.codes}.items():
            if not np.isfinite(values).all():
                raise UserError(
                    f"{name} of the {self.split} split holds NaN or infinity: the training diverged; lower the "
                    "learning rate or train in fp32"
                )

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def periods(self) -> list[int]:
        """The periods in pixels whose grid was measured."""
        return sorted(int(name.split("_")[1]) for name in self.scores if GRID.fullmatch(name))


def reconstruct_split(
    model: Any,
    processor: Any,
    splits: Splits,
    split: str,
    *,
    code_range: np.ndarray | None = None,
    noise_std: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
) -> Reconstructions:
    """Encode and draw again one split, in plain float32.

    Args:
        model: an autoencoder of the suite; put in eval mode and left so.
        processor: its image processor.
        splits: the dataset.
        split: which of its splits.
        code_range: (2, D) least and greatest value of each code, for rounding them to 8 bits; None = this split's own.
        noise_std: deviation of the noise that a denoising model is also evaluated with, of pixels in [0, 1]; 0 = none.
        seed: of that noise.
        batch_size: images per forward pass.
        progress: show a progress bar.

    Raises:
        UserError: there is no image.
        UserError: a reconstruction holds NaN or infinity.
    """
    rows = LesionImages(splits.splits[split], processor)
    if not len(rows):
        raise UserError(f"the {split} split of {splits.name!r} holds no image: fill it, or leave it out of the dataset")
    loader = DataLoader(rows, batch_size=batch_size, collate_fn=collate)
    model.eval()
    codes: list[np.ndarray] = []
    scores: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in tqdm(loader, desc=f"reconstruct {split}", disable=None if progress else True, unit="batch"):
            pixels = batch["pixel_values"].to(model.device)
            found, values = score_batch(model, pixels, noise_std)
            codes.append(found.float().cpu().numpy())
            for name, value in values.items():
                scores.setdefault(name, []).append(value)
        whole = {name: np.concatenate(parts).astype(np.float64) for name, parts in scores.items()}
        every = np.concatenate(codes)
        whole["psnr_8bit"] = psnr_of_rounded(model, loader, every, code_range)
    return Reconstructions(
        **identities(splits, split),
        label=rows.labels,
        codes=every,
        scores=whole,
        labels=list(splits.labels),
        split=split,
        config_name=splits.config_name,
        dataset=splits.name,
    )


def identities(splits: Splits, split: str) -> dict[str, Any]:
    """``image_id``, ``lesion_id`` and ``group_id`` (N,) of a split; a row without a lesion counts as its own."""
    image_id = np.array([f"{split}-{number:06d}" for number in range(len(splits.splits[split]))], dtype=object)
    if "image_id" in splits.splits[split].column_names:
        image_id = splits.column(split, "image_id")
    others = {name: _or(splits.column(split, name), image_id) for name in ("lesion_id", "group_id")}
    return {"image_id": image_id, **others}


def score_batch(model: Any, pixels: torch.Tensor, noise_std: float) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Codes (N, D) of a batch (N, 3, S, S), and the scores (N,) of its reconstructions by name."""
    codes = model.encode(pixels)
    target, images = model.to_images(pixels), model.to_images(model.decode(codes))
    scores = {"psnr": psnr(images, target), "ssim": ssim(images, target)}
    if noise_std:
        noisy = with_noise(pixels, noise_std, model.config.image_std)
        scores["psnr_noisy"] = psnr(model.to_images(noisy), target)
        scores["psnr_denoised"] = psnr(model.to_images(model.decode(model.encode(noisy))), target)
    values = {name: value.cpu().numpy() for name, value in scores.items()}
    for suffix, shown in (("", images), ("_original", target)):
        for period, (decibels, rms) in grid_strength(shown.cpu().numpy()).items():
            values[f"grid_{period}_db{suffix}"], values[f"grid_{period}_rms{suffix}"] = decibels, rms
    return codes, values


def psnr_of_rounded(model: Any, loader: DataLoader, codes: np.ndarray, code_range: np.ndarray | None) -> np.ndarray:
    """PSNR (N,) of what is drawn from codes that were rounded to 8 bits each.

    Args:
        model: the autoencoder.
        loader: of the images, in order.
        codes: (N, D).
        code_range: (2, D) least and greatest value of each code; values outside are cut off.
    """
    low, high = range_of(codes) if code_range is None else code_range
    step = np.where(high > low, high - low, 1.0) / (LEVELS - 1)
    rounded = low + step * np.round((np.clip(codes, low, high) - low) / step)
    rows, found = torch.from_numpy(rounded.astype(np.float32)), []
    start = 0
    for batch in loader:
        target = model.to_images(batch["pixel_values"].to(model.device))
        part = rows[start : start + len(target)].to(model.device)
        found.append(psnr(model.to_images(model.decode(part)), target).cpu().numpy())
        start += len(target)
    return np.concatenate(found).astype(np.float64)


def range_of(codes: np.ndarray) -> np.ndarray:
    """Least and greatest value of each code: (N, D) -> (2, D)."""
    return np.stack([codes.min(axis=0), codes.max(axis=0)])


def draw_rows(
    model: Any, processor: Any, splits: Splits, split: str, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Some images of a split and their reconstructions: (K, S, S, 3) in [0, 1] each."""
    images = LesionImages(splits.splits[split], processor)
    pixels = torch.stack([images[int(row)]["pixel_values"] for row in rows]).to(model.device)
    with torch.inference_mode():
        drawn = model.to_images(model.decode(model.encode(pixels)))
    originals, again = (part.permute(0, 2, 3, 1).cpu().numpy() for part in (model.to_images(pixels), drawn))
    return originals, again


def write_reconstructions(found: Reconstructions, path: Path) -> None:
    """Write one split's reconstructions; the file appears whole or not at all."""
    n, width = found.codes.shape
    flat = pa.array(found.codes.astype(np.float32).reshape(-1))
    arrays: dict[str, pa.Array] = {name: pa.array(getattr(found, name).tolist(), pa.string()) for name in IDS}
    arrays["label"] = pa.array(found.label.astype(np.int32))
    arrays.update({name: pa.array(values.astype(np.float64)) for name, values in found.scores.items()})
    arrays["codes"] = pa.ListArray.from_arrays(pa.array(np.arange(0, n * width + 1, width, dtype=np.int32)), flat)
    about = {
        "schema_version": SCHEMA_VERSION,
        "kind": "reconstructions",
        "labels": found.labels,
        "split": found.split,
        "config_name": found.config_name,
        "dataset": found.dataset,
        "scores": list(found.scores),
    }
    table = pa.table(arrays).replace_schema_metadata({METADATA_KEY: json.dumps(about, sort_keys=True).encode()})
    with whole_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def read_reconstructions(path: Path) -> Reconstructions:
    """Read a reconstructions file.

    Raises:
        UserError: not one of this suite, of a newer layout, or with impossible values.
    """
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise UserError(
            f"{path} cannot be read as Parquet ({error}): give a reconstructions_<split>.parquet"
        ) from error
    if about.get("kind") != "reconstructions":
        raise UserError(f"{path} holds no reconstructions: give a reconstructions_<split>.parquet")
    if about["schema_version"] > SCHEMA_VERSION:
        raise UserError(
            f"{path} has layout {about['schema_version']}, {SCHEMA_VERSION} is the newest known: update lesion-suite"
        )
    codes = table["codes"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    ids = {name: np.array(table[name].to_pylist(), dtype=object) for name in IDS}
    return Reconstructions(
        image_id=ids["image_id"],
        lesion_id=ids["lesion_id"],
        group_id=ids["group_id"],
        label=np.asarray(table["label"].to_numpy(), dtype=np.int64),
        codes=np.asarray(codes, dtype=np.float32).reshape(table.num_rows, -1),
        scores={name: np.asarray(table[name].to_numpy(), dtype=np.float64) for name in about["scores"]},
        labels=list(about["labels"]),
        split=about["split"],
        config_name=about["config_name"],
        dataset=about["dataset"],
    )


def _or(values: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """A row without a lesion or group is its own: two unknowns are not the same lesion."""
    known = zip(values, fallback, strict=True)
    return np.array([own if value in (None, "", "unknown") else value for value, own in known], dtype=object)
