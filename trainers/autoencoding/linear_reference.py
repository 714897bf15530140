"""A linear code of the same size: the principal components of the training images.

Of all codes of D numbers that are linear both ways, this one has the least squared error on the images it was fitted
to (Eckart and Young 1936; Baldi and Hornik 1989). An autoencoder that does no better has learned nothing beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.extmath import randomized_svd
from torch.utils.data import DataLoader
from tqdm import tqdm

from trainers.autoencoding.losses import psnr, ssim
from trainers.model_folder.data import LesionImages, Splits, collate

# Values of float32 that are held at once: 2 GB of images, and as much again while they are decomposed.
MOST_VALUES = 500_000_000


@dataclass(frozen=True)
class LinearCode:
    """Mean image and orthonormal components.

    Attributes:
        mean: (P,) of the training images' P = 3 S S values.
        components: (D, P), rows of length 1, orthogonal to each other.
        n: how many images it was fitted on.
    """

    mean: np.ndarray
    components: np.ndarray
    n: int

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Images (N, 3, S, S) in [0, 1] -> what D numbers keep of them, of the same shape, clipped to [0, 1]."""
        flat = images.reshape(len(images), -1) - self.mean
        drawn = (flat @ self.components.T) @ self.components + self.mean
        return np.clip(drawn, 0.0, 1.0).reshape(images.shape)


def fit_linear_code(
    model: Any, processor: Any, splits: Splits, *, seed: int = 0, progress: bool = True
) -> LinearCode | None:
    """Fit a linear code of the model's size on the training images; None where there are too few of them.

    Args:
        model: its configuration has D and how pixels are normalised.
        processor: its image processor.
        splits: the dataset.
        seed: of the randomised decomposition (Halko, Martinsson and Tropp 2011), and of which images are taken where
            all of them would not fit into memory.
        progress: show a progress bar.
    """
    rows = LesionImages(splits.splits["train"], processor)
    values = 3 * model.config.image_size**2
    taken = min(len(rows), max(MOST_VALUES // values, 1))
    if taken <= model.config.code_size:
        return None
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:taken])
    images = np.empty((taken, values), dtype=np.float32)
    subset = torch.utils.data.Subset(rows, chosen.tolist())
    start = 0
    for batch in tqdm(
        DataLoader(subset, batch_size=64, collate_fn=collate),
        desc="linear code",
        disable=None if progress else True,
        unit="batch",
    ):
        part = model.to_images(batch["pixel_values"].to(model.device)).cpu().numpy()
        images[start : start + len(part)] = part.reshape(len(part), -1)
        start += len(part)
    mean = images.mean(axis=0)
    images -= mean
    _, _, components = randomized_svd(images, model.config.code_size, n_iter=4, random_state=seed)
    return LinearCode(mean, components.astype(np.float32), taken)


def linear_scores(
    code: LinearCode, model: Any, processor: Any, splits: Splits, split: str, *, progress: bool = True
) -> dict[str, np.ndarray]:
    """``psnr_linear`` and ``ssim_linear`` (N,) of a split, after the same resize as the model's."""
    loader = DataLoader(LesionImages(splits.splits[split], processor), batch_size=64, collate_fn=collate)
    found: dict[str, list[np.ndarray]] = {"psnr_linear": [], "ssim_linear": []}
    for batch in tqdm(loader, desc=f"linear code, {split}", disable=None if progress else True, unit="batch"):
        target = model.to_images(batch["pixel_values"].to(model.device)).cpu()
        drawn = torch.from_numpy(code.reconstruct(target.numpy()))
        found["psnr_linear"].append(psnr(drawn, target).numpy())
        found["ssim_linear"].append(ssim(drawn, target).numpy())
    return {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}
