"""The base of classifiers and autoencoder: weights may be stored as fp16, while everything fitted keeps float32."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PreTrainedModel


class WeightsDtypeError(ValueError):
    """Weights that cannot be stored in the requested type."""


class LesionPreTrainedModel(PreTrainedModel):
    """A model of transformers that can be stored at half the bytes."""

    # Trainer would otherwise pass num_items_in_batch to forward.
    accepts_loss_kwargs = False
    # Tensors under these names keep float32 when the weights are stored in fp16, as every buffer does.
    float32_prefixes: tuple[str, ...] = ("trust",)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, weights_dtype: str | None = None, **kwargs: Any
    ) -> None:
        """Save weights, configuration and the code beside them.

        Args:
            save_directory: the folder.
            *args: of transformers.
            weights_dtype: None = as they are; ``"float16"`` rounds the parameters, while buffers (statistics of batch
                normalisation, trust) and ``float32_prefixes`` keep float32. The config names float32 all the same, so
                that the model loads and runs as float32: half the file, the same code path.
            **kwargs: of transformers.

        Raises:
            WeightsDtypeError: another type, or a weight that is too large for fp16.
        """
        if weights_dtype is None:
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        if weights_dtype != "float16":
            raise WeightsDtypeError(f'weights_dtype is {weights_dtype!r}; give None or "float16".')
        state = kwargs.pop("state_dict", None)
        kwargs["state_dict"] = self._half_state(self.state_dict() if state is None else state)
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.config.dtype != "float32":
            # transformers wrote the type in memory; a model that was halved in memory must load as float32 too.
            self.config.dtype = "float32"
            self.config.save_pretrained(save_directory)

    def _half_state(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A state dict with its parameters rounded to fp16; every other floating tensor becomes float32."""
        parameters = {name for name, _ in self.named_parameters()}
        stored = {}
        for name, tensor in state.items():
            if not tensor.is_floating_point():
                stored[name] = tensor
                continue
            half = name in parameters and not name.startswith(self.float32_prefixes)
            stored[name] = tensor.to(torch.float16 if half else torch.float32)
            if half and not torch.equal(torch.isfinite(stored[name]), torch.isfinite(tensor)):
                raise WeightsDtypeError(
                    f"{name} holds {tensor.abs().max().item():.3g}, more than fp16 can (65504): save without "
                    "weights_dtype, or add its name to float32_prefixes."
                )
        return stored
