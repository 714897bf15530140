"""The outputs of a classifier: :class:`LesionOutput`, or the features alone, as ``AutoModel`` loads them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .infer_lesion import in_torch, recorded
from .trust_lesion import calibrate, joint_logits, mean_log_probs, uncertainty_parts


@dataclass
class LesionOutput(ModelOutput):
    """The output of a lesion classifier.

    Attributes:
        loss: () mean cross-entropy at temperature 1 in nats; only with labels.
        logits: (N, C) float32. In eval mode calibrated, so that a plain softmax is; in train mode at temperature 1. Of
            several members: the log of their mean probability.
        raw_logits: (N, C) float32 before temperature; (N, M, C) of M members.
        features: (N, D) pooled features, the input of the head before its dropout.
        predictive_entropy: (N,) entropy of the probabilities in nats = aleatoric + epistemic; None without members.
        aleatoric: (N,) expected entropy of the members in nats; None without members.
        epistemic: (N,) mutual information in nats, >= 0; None without members.
        early: (N, E) channel statistics of an early layer, to fit a gate; only where ``give_early`` is set.
        ood_score: (N,) higher = less like the calibration images; only in eval mode, once a gate was fitted.
        hidden_states: output of each stage of a CNN (N, C, h, w) or each layer of a transformer (N, 1 + L, D), in
            order; only with ``output_hidden_states``.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    raw_logits: torch.Tensor | None = None
    features: torch.Tensor | None = None
    predictive_entropy: torch.Tensor | None = None
    aleatoric: torch.Tensor | None = None
    epistemic: torch.Tensor | None = None
    early: torch.Tensor | None = None
    ood_score: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


def make_output(
    features: torch.Tensor,
    raw_logits: torch.Tensor,
    labels: torch.Tensor | None = None,
    temperature: Mapping[str, Any] | None = None,
    **others: Any,
) -> LesionOutput:
    """The output from features and raw logits.

    Args:
        features: (N, D).
        raw_logits: (N, C), or (N, M, C) of M members.
        labels: (N,) class indices, or (N, C) class probabilities; adds the loss.
        temperature: ``config.trust["temperature"]``; None = temperature 1.
        **others: ``early``, ``ood_score`` and ``hidden_states``.
    """
    if raw_logits.dtype in (torch.float16, torch.bfloat16):
        # Temperature, entropy and loss would lose digits in half precision.
        raw_logits = raw_logits.float()
    logits = calibrate(raw_logits, temperature)
    log_probs = functional.log_softmax(logits, dim=-1) if logits.ndim == 3 else None
    total, aleatoric, epistemic = (None, None, None) if log_probs is None else uncertainty_parts(log_probs)
    return LesionOutput(
        loss=None if labels is None else functional.cross_entropy(joint_logits(raw_logits), labels),
        logits=logits if log_probs is None else mean_log_probs(log_probs),
        raw_logits=raw_logits,
        features=features,
        predictive_entropy=total,
        aleatoric=aleatoric,
        epistemic=epistemic,
        **others,
    )


class LesionFeatures:
    """The part of a classifier before the head, as ``AutoModel`` loads it; the first of two bases.

    The head is kept: saving the model again loses nothing.
    """

    config: Any
    last_layer: Any

    def forward(
        self, *inputs: Any, return_dict: bool | None = None, output_hidden_states: bool | None = None, **named: Any
    ) -> Any:
        """Encode a batch.

        Args:
            *inputs: the classifier's, such as ``pixel_values`` (N, 3, H, W), as the image processor returns them.
            **named: the same by name.
            return_dict: False returns a tuple of the fields that are not None.
            output_hidden_states: add ``hidden_states``; None = as the config says.

        Returns:
            ``pooler_output`` (N, D), the input of the head; ``last_hidden_state``, the last map (N, C, h, w) of a CNN
            or the tokens (N, 1 + L, D) of a transformer, None with several members and in a model that reads no image;
            ``hidden_states`` as in :class:`LesionOutput`.
        """
        last = self.last_layer()
        with nullcontext() if last is None else in_torch(), recorded([] if last is None else [(*last, None)]) as seen:
            output = super().forward(  # type: ignore[misc]
                *inputs, return_dict=True, output_hidden_states=output_hidden_states, **named
            )
        found = BaseModelOutputWithPooling(
            last_hidden_state=seen.get(0), pooler_output=output.features, hidden_states=output.hidden_states
        )
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return found if use_dict else found.to_tuple()

    def fixed_outputs(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The raw logits (1, ...) of the self-check, of the head that is kept."""
        return super().forward(**inputs, return_dict=True).raw_logits  # type: ignore[misc]
