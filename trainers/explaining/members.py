"""The heat map of each member of an ensemble, of which ``explain`` gives the mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hub_models.explain_lesion import GRADIENT_METHODS, explained_pass, gradients_of_logits, in_eval_mode, to_heat


def member_maps(model: Any, inputs: Mapping[str, torch.Tensor], target: torch.Tensor, method: str) -> torch.Tensor:
    """Heat maps of the members one by one: (M, N, H, W) in [0, 1], each reaching 1; their mean is ``explain``'s.

    Args:
        model: an ensemble.
        inputs: what the image processor returns: ``pixel_values`` (N, 3, H, W).
        target: (N,) the class to explain.
        method: one of ``GRADIENT_METHODS``.
    """
    height, width = inputs["pixel_values"].shape[-2:]
    size = (int(height), int(width))
    with torch.no_grad(), in_eval_mode(model):
        output, activations = explained_pass(model, inputs)
        gradients = gradients_of_logits(output.raw_logits, target, activations)
        maps = [
            GRADIENT_METHODS[method](*(model.as_maps(one.detach(), size).float() for one in pair))
            for pair in zip(activations, gradients, strict=True)
        ]
    return torch.stack([to_heat(one, size) for one in maps])
