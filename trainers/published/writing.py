"""What the writers of published formats share: the right architecture, the published order of classes, whole files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets_scripts.command import UserError
from datasets_scripts.output import whole_file
from datasets_scripts.taxonomy import class_order
from trainers.published.system import System


def require_backbone(model: Any, model_class: Any, backbone: str | None, system: str) -> None:
    """Check that a model is of the class, and has the backbone, of the published system.

    Raises:
        UserError: names both.
    """
    if not isinstance(model, model_class):
        raise UserError(
            f"the model is a {type(model).__name__}, {system} is written from a {model_class.__name__}: give another "
            "--system or model"
        )
    if backbone is not None and model.config.backbone != backbone:
        raise UserError(
            f"the model's backbone is {model.config.backbone}, {system}'s is {backbone}: only that one fits its format"
        )


def in_published_order(model: Any, head: nn.Module, system: System) -> tuple[Tensor, Tensor, list[str]]:
    """A linear head's weight (C, D) and bias (C,) with the rows in the order that the published code expects.

    Where the classes are others than the published ones, they stay in the model's own order.

    Returns:
        Weight, bias, and what a user should know of their order.
    """
    weight, bias = head.get_parameter("weight").detach(), head.get_parameter("bias").detach()
    labels = model.config.labels
    if labels == list(system.labels):
        return weight, bias, []
    rows = class_order(system.labels, labels)
    if rows is None:
        return weight, bias, [f"its classes are its own, in this order: {', '.join(labels)}"]
    return weight[rows], bias[rows], [f"classes were put into the published order: {', '.join(system.labels)}"]


def save_tensors(content: Mapping[str, Any], path: Path) -> None:
    """``torch.save`` on the CPU, every floating tensor float32; the file appears whole or not at all."""
    with whole_file(path) as partial:
        torch.save({key: _plain(value) for key, value in content.items()}, partial)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() else value).clone(memory_format=torch.contiguous_format)
