"""Whether a loaded model computes what it computed when it was saved: stored outputs of one fixed image.

``config.self_check`` holds ``outputs``: the raw logits (C) or (M, C), or the codes (D), of an image that a formula
draws. A model that was loaded wrongly, with weights that are lacking or drawn again, has other ones.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .checks_lesion import brief, is_number
from .infer_lesion import in_eval_mode, in_torch

# The largest difference, as a share of the largest stored output (at least 1). Machines, libraries and layouts of
# memory differ by much less than these, weights that were drawn again by much more.
TOLERANCES = {torch.float64: 0.01, torch.float32: 0.01, torch.float16: 0.02, torch.bfloat16: 0.05}
# Codes of an autoencoder are cut to as many.
MOST_OUTPUTS = 10_000


class SelfCheckError(ValueError):
    """A model that does not compute what it did when it was saved, or whose config does not say what that was."""


def fixed_image(size: int) -> torch.Tensor:
    """An image (1, 3, size, size) of waves in [-2, 2], as if it were normalised; the same on every machine."""
    place = torch.arange(size, dtype=torch.float64) / size
    row, column = place[:, None], place[None, :]
    waves = [
        torch.sin(2 * math.pi * (3 * row + 5 * column + channel / 3))
        + torch.cos(2 * math.pi * (channel + 2) * row * column)
        for channel in range(3)
    ]
    return torch.stack(waves)[None].float()


@torch.no_grad()
def measured(model: Any) -> list[Any]:
    """The outputs of the fixed image in eval mode, as JSON holds them."""
    inputs = {name: value.to(model.device) for name, value in model.fixed_inputs().items()}
    with in_eval_mode(model), in_torch():  # what is checked is the weights
        outputs = model.fixed_outputs(inputs)[0].double().cpu()
    return outputs[..., :MOST_OUTPUTS].tolist()


def self_check(model: Any) -> dict[str, Any]:
    """Compare the outputs of the fixed image with those in the config.

    Returns:
        ``difference``, the largest one, and ``tolerance``, both in units of the outputs.

    Raises:
        SelfCheckError: they differ by more, or the config holds none.
    """
    stored = (model.config.self_check or {}).get("outputs") if isinstance(model.config.self_check, dict) else None
    if stored is None:
        raise SelfCheckError("the config holds no outputs to compare with: the model was saved without them.")
    found = torch.tensor(measured(model), dtype=torch.float64)
    if not _is_like(stored, found):
        raise SelfCheckError(
            f"self_check of the config is {brief(stored)}, but the model has outputs of the shape "
            f"{tuple(found.shape)}: the config is of another model; fetch both again."
        )
    wanted = torch.tensor(stored, dtype=torch.float64)
    dtype = next((weight.dtype for weight in model.parameters()), torch.float32)
    difference = float((found - wanted).abs().max())
    tolerance = TOLERANCES.get(dtype, TOLERANCES[torch.bfloat16]) * max(1.0, float(wanted.abs().max()))
    if not difference <= tolerance:  # also where it is NaN
        raise SelfCheckError(
            f"the model does not compute what it did when it was saved: its outputs differ by up to {difference:.3g}, "
            f"at most {tolerance:.3g} are allowed in {str(dtype).removeprefix('torch.')}. Its weights were changed, or "
            "not loaded as they were stored: fetch the model again, and update transformers and timm."
        )
    return {"difference": difference, "tolerance": tolerance}


def _is_like(stored: Any, found: torch.Tensor) -> bool:
    """Whether nested lists have the shape of a tensor, and hold finite numbers."""
    if found.ndim == 0:
        return is_number(stored)
    fine = isinstance(stored, list) and len(stored) == len(found)
    return fine and all(_is_like(row, part) for row, part in zip(stored, found, strict=True))
