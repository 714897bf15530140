"""Applying trust: what a model's raw logits say once a temperature was fitted. Pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def member_log_probs(raw_logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Raw logits (..., C) -> log probabilities (..., C) at temperature T > 0 (Guo et al. 2017, equation 9)."""
    return functional.log_softmax(raw_logits / temperature, dim=-1)


def mean_log_probs(log_probs: torch.Tensor) -> torch.Tensor:
    """Members' log probabilities (N, M, C) -> log of their mean probability (N, C).

    A uniformly weighted mixture (Lakshminarayanan et al. 2017, section 2.4). Its softmax is itself.
    """
    return torch.logsumexp(log_probs, dim=1) - math.log(log_probs.shape[1])


def joint_logits(raw_logits: torch.Tensor) -> torch.Tensor:
    """Raw logits (N, C) as they are, or of M members (N, M, C) -> log of their mean probability (N, C) at T = 1."""
    return raw_logits if raw_logits.ndim == 2 else mean_log_probs(member_log_probs(raw_logits))


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Log probabilities (..., C) -> entropy (...) in nats, in [0, log C]; a class of probability 0 adds nothing."""
    return torch.special.entr(log_probs.exp()).sum(dim=-1)


def uncertainty_parts(log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Members' log probabilities (N, M, C) -> total, aleatoric and epistemic uncertainty, each (N,) in nats.

    Total is the entropy of the mean probability, aleatoric the mean of the members' entropies, epistemic their
    difference, the mutual information between the answer and the member (Depeweg et al. 2018, equation 9): total =
    aleatoric + epistemic exactly, and epistemic >= 0 (rounding below 0 is cut off, and taken from aleatoric).
    """
    total = entropy(mean_log_probs(log_probs))
    epistemic = (total - entropy(log_probs).mean(dim=1)).clamp(min=0.0)
    return total, total - epistemic, epistemic
