"""Numbers of single heat maps: how much lies on the lesion, how spread out it is, how like two of them are."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.stats import rankdata

from hub_models.explain_lesion import to_heat

# Noise has one value a square of so many pixels: what the last layer of most backbones knows apart.
CELL = 32
# Standard deviations of the blobs that are tried, as shares of the image's sides.
WIDTHS = np.geomspace(0.01, 3.0, 120)


def energy_inside(heat: np.ndarray, mask: np.ndarray) -> float:
    """Share of a heat map's sum that lies on the lesion, in [0, 1]; NaN where the map is 0 everywhere.

    The energy-based pointing game (Wang et al. 2020, Score-CAM, section 4.2).

    Args:
        heat: (H, W), not negative.
        mask: (H, W) bool, True on the lesion.
    """
    total = float(heat.sum(dtype=np.float64))
    return float(heat[mask].sum(dtype=np.float64)) / total if total > 0 else float("nan")


def pointing_hit(heat: np.ndarray, mask: np.ndarray) -> float:
    """Whether a heat map's highest point lies on the lesion: 1 or 0, no tolerance around the lesion.

    The pointing game (Zhang et al. 2018, section 4.3). Of several highest points the share of those on the lesion; NaN
    where the map is 0 everywhere.

    Args:
        heat: (H, W), not negative.
        mask: (H, W) bool, True on the lesion.
    """
    highest = heat.max()
    return float(mask[heat == highest].mean()) if highest > 0 else float("nan")


def spread_of(heat: np.ndarray) -> float:
    """Share of the image that a heat map takes up: the square of its mean over the mean of its square, in (0, 1].

    1 for a map that is the same everywhere, k / P for one that is the same on k of P pixels and 0 elsewhere; NaN where
    it is 0 everywhere.
    """
    square = float(np.square(heat, dtype=np.float64).mean())
    return float(heat.mean(dtype=np.float64)) ** 2 / square if square > 0 else float("nan")


def rank_rows(maps: np.ndarray) -> np.ndarray:
    """Maps (N, H, W) -> ranks of each one's pixels (N, H W), equal pixels sharing their mean rank."""
    return rankdata(maps.reshape(len(maps), -1), axis=1)


def likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of maps with their partners, in [-1, 1]; NaN where one is the same everywhere.

    Args:
        one: (N, P) ranks as :func:`rank_rows` gives them.
        other: (N, P).
    """
    a = one - one.mean(axis=1, keepdims=True)
    b = other - other.mean(axis=1, keepdims=True)
    below = np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, (a * b).sum(axis=1) / below, np.nan)


def agreement(members: np.ndarray) -> np.ndarray:
    """Mean rank correlation of each two members' maps of one image: (M, N, H, W) -> (N,); NaN where there is none."""
    ranks = [rank_rows(maps) for maps in members]
    found = [likeness(ranks[i], ranks[j]) for i in range(len(ranks)) for j in range(i)]
    if not found:
        return np.full(members.shape[1], np.nan)
    pairs = np.stack(found)
    known = ~np.isnan(pairs)
    with np.errstate(invalid="ignore"):
        return np.where(known, pairs, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)


def random_map(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Noise as coarse as a heat map: one value a square of ``CELL`` pixels, enlarged as heat maps are: (H, W)."""
    grid = rng.random((-(-size[0] // CELL), -(-size[1] // CELL)), dtype=np.float32)
    return to_heat(torch.from_numpy(grid)[None], size)[0].numpy()


def centred_blob(size: tuple[int, int], width: float) -> np.ndarray:
    """A Gaussian in the middle of the image: (H, W), 1 in the middle.

    Args:
        size: H and W.
        width: its standard deviation as a share of either side.
    """
    down, across = ((2 * np.arange(side) + 1 - side) / (2 * side) for side in size)  # exactly symmetric
    return np.exp(-(down[:, None] ** 2 + across[None, :] ** 2) / (2 * width**2))


def blob_as_spread_as(spread: float, size: tuple[int, int]) -> np.ndarray:
    """The blob in the middle that takes up the same share of the image as a heat map does: (H, W).

    With it only the place is compared: a narrow blob would win against any heat map that is as coarse as the last layer
    of a network, wherever it lies.
    """
    return centred_blob(size, float(np.exp(np.interp(spread, _spreads(size), np.log(WIDTHS)))))


@lru_cache(maxsize=8)
def _spreads(size: tuple[int, int]) -> np.ndarray:
    return np.array([spread_of(centred_blob(size, float(width))) for width in WIDTHS])
