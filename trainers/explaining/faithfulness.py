"""Deletion and insertion: whether the pixels that a heat map marks are those that the probability hangs on.

Petsiuk et al. 2018 (RISE), section 4.1. Deletion takes the most important pixels out of the image first: the sooner
the probability falls, the better, so a small area under the curve is good. Insertion puts them into an empty image
first: a large area is good. Empty means blurred here, in both: a patch of one colour would be a thing of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

# The blur that stands for "nothing to see", as standard deviation in shares of the image's shorter side.
BLUR = 0.1
# Small parts with the channels last are twice as fast on a CPU as large ones with the channels first.
AT_ONCE = 16


def blurred(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (..., H, W) under a Gaussian blur of ``BLUR``."""
    width = BLUR * min(pixels.shape[-2:])
    soft = gaussian_filter(pixels.cpu().numpy(), width, axes=(-2, -1), mode="nearest", truncate=3.0)
    return torch.from_numpy(soft).to(pixels.device)


def places(heat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The place of each pixel in a heat map's order, 0 = the most important; equal ones in an order of chance: (H, W).

    Args:
        heat: (H, W).
        rng: decides between equal pixels.
    """
    order = np.lexsort((rng.random(heat.size), -heat.ravel()))
    found = np.empty(heat.size, dtype=np.int64)
    found[order] = np.arange(heat.size)
    return found.reshape(heat.shape)


def curves(
    model: Any, inputs: Mapping[str, torch.Tensor], target: int, orders: Sequence[np.ndarray], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of a class while pixels are taken away, and while they are put in.

    Args:
        model: a classifier, in eval mode.
        inputs: of one image: ``pixel_values`` (1, 3, H, W), and whatever else the model takes.
        target: the class.
        orders: K orders, each (H, W) of :func:`places`.
        steps: after each of so many equal shares of the pixels the model is asked.

    Returns:
        Deletion and insertion: (K, steps + 1) each, calibrated probability of the class after 0, 1, ..., all shares.
    """
    pixels = inputs["pixel_values"]
    empty = blurred(pixels)
    size = pixels.shape[-2] * pixels.shape[-1]
    limits = torch.tensor([round(size * step / steps) for step in range(1, steps)], device=pixels.device)
    # The ends are the same in every order: the whole image, and nothing of it.
    pictures = [pixels, empty]
    for order in orders:
        gone = torch.from_numpy(order).to(pixels.device)[None] < limits[:, None, None]
        pictures += [torch.where(gone[:, None], empty, pixels), torch.where(gone[:, None], pixels, empty)]
    probs = _probabilities(model, inputs, torch.cat(pictures), target)
    between = probs[2:].reshape(len(orders), 2, steps - 1)
    whole, nothing = (np.full((len(orders), 1), probs[end]) for end in (0, 1))
    deletion = np.concatenate([whole, between[:, 0], nothing], axis=1)
    insertion = np.concatenate([nothing, between[:, 1], whole], axis=1)
    return deletion, insertion


@torch.inference_mode()
def _probabilities(model: Any, inputs: Mapping[str, torch.Tensor], pictures: torch.Tensor, target: int) -> np.ndarray:
    """Calibrated probability (K,) of a class for images (K, 3, H, W), all else as in the inputs."""
    found = []
    for part in pictures.contiguous(memory_format=torch.channels_last).split(AT_ONCE):
        same = {name: value.expand(len(part), *value.shape[1:]) for name, value in inputs.items()}
        logits = model(**{**same, "pixel_values": part}, return_dict=True).logits
        found.append(logits.double().softmax(dim=-1)[:, target].cpu().numpy())
    return np.concatenate(found)
