"""The base of classifiers and autoencoder: what is stored, what is read, and whether it is still the same.

Weights may be stored as fp16, while everything fitted keeps float32. Only safetensors are read.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import PreTrainedModel

from .checks_lesion import HeaderError, check_header
from .self_check_lesion import SelfCheckError, fixed_image, measured, self_check


class WeightsDtypeError(ValueError):
    """Weights that cannot be stored in the requested type."""


class LesionPreTrainedModel(PreTrainedModel):
    """A model of transformers that can be stored at half the bytes."""

    # Trainer would otherwise pass num_items_in_batch to forward.
    accepts_loss_kwargs = False
    # Tensors under these names keep float32 when the weights are stored in fp16, as every buffer does.
    float32_prefixes: tuple[str, ...] = ("trust",)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model from safetensors, the one format that holds no programs; the base class describes the arguments.

        Raises:
            HeaderError: a tensor of the file is not of the shape that the config gives it, or of no type of numbers.
        """
        if kwargs.setdefault("use_safetensors", True) is not True:
            raise HeaderError("use_safetensors=False was given; leave it out: no other weights are read.")
        return super().from_pretrained(*args, **kwargs)

    @staticmethod
    def _load_pretrained_model(model: Any, state_dict: Any, checkpoint_files: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers does, after a look at the headers of the files, before memory is taken for their tensors."""
        lenient = bool(getattr(args[0] if args else kwargs.get("load_config"), "ignore_mismatched_sizes", False))
        for path in checkpoint_files or []:
            check_header(path, {name: tuple(value.shape) for name, value in model.state_dict().items()}, lenient)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, *args, **kwargs)

    def fixed_inputs(self) -> dict[str, torch.Tensor]:
        """The inputs of the self-check: one image that a formula draws."""
        return {"pixel_values": fixed_image(self.config.image_size)}

    def fixed_outputs(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The outputs that the self-check compares, (1, ...): raw logits."""
        return self(**inputs, return_dict=True).raw_logits

    def store_self_check(self) -> None:
        """Write the outputs of the fixed image into the config, for whoever loads the model."""
        self.config.self_check = {"outputs": measured(self)}

    def self_check(self) -> dict[str, float]:
        """Compare this model with what it was when it was saved, on one fixed image.

        Returns:
            ``difference``, the largest one of a raw logit, and ``tolerance``, the largest one that is allowed.

        Raises:
            SelfCheckError: it computes something else, or was saved without what to compare with.
        """
        return self_check(self)

    def _drop_stale_self_check(self, state_dict: Any) -> None:
        """Drop the stored outputs of weights that were trained further since."""
        if not getattr(self.config, "self_check", None):
            return
        try:
            if state_dict is None:
                self.self_check()
                return
        except SelfCheckError:
            pass
        self.config.self_check = {}

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
        self._drop_stale_self_check(kwargs.get("state_dict"))
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
