"""Losses of the suite: pure functions of raw logits, plus the weights that answer class imbalance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.training.arguments import CLASS_WEIGHTS, LOSSES


def balanced_class_weights(counts: Tensor) -> Tensor:
    """Weights n / (C n_c), so that every class carries the same total weight (scikit-learn's "balanced").

    Args:
        counts: (C,) number of training images per class. A class without an image gets weight 0.

    Returns:
        (C,) float32.
    """
    counts = counts.to(torch.float32)
    return torch.where(counts > 0, counts.sum() / (len(counts) * counts.clamp(min=1)), torch.zeros_like(counts))


def focal_loss(logits: Tensor, labels: Tensor, gamma: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Focal loss, mean over the batch: -w_y (1 - p_y)^gamma log p_y.

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, eq. 5. With gamma = 0 it is the (weighted)
    cross-entropy; weights normalise the mean as ``torch.nn.functional.cross_entropy`` does.

    Args:
        logits: (N, C) raw logits.
        labels: (N,) int64.
        gamma: focusing parameter, >= 0.
        weight: (C,) or None.
    """
    log_p = F.log_softmax(logits, dim=-1).gather(1, labels[:, None]).squeeze(1)
    weights = torch.ones_like(log_p) if weight is None else weight.to(log_p.dtype)[labels]
    return -(weights * (1 - log_p.exp()) ** gamma * log_p).sum() / weights.sum().clamp(
        min=torch.finfo(log_p.dtype).tiny
    )


def make_loss(
    kind: str, counts: Tensor, class_weights: str = "none", gamma: float = 2.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a recipe, as ``loss(logits (N, C), labels (N,)) -> scalar``.

    Raises:
        ValueError: an unknown loss or weighting.
    """
    if class_weights not in CLASS_WEIGHTS:
        raise ValueError(f"class_weights {class_weights!r} is unknown: choose one of {', '.join(CLASS_WEIGHTS)}")
    weight = balanced_class_weights(counts) if class_weights == "balanced" else None

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, weight=None if weight is None else weight.to(logits.device))

    def focal(logits: Tensor, labels: Tensor) -> Tensor:
        return focal_loss(logits.float(), labels, gamma, None if weight is None else weight.to(logits.device))

    kinds = {"cross_entropy": cross_entropy, "focal": focal}
    if kind not in kinds:
        raise ValueError(f"loss {kind!r} is unknown: choose one of {', '.join(LOSSES)}")
    return kinds[kind]
