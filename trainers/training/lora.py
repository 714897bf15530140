"""Low-rank adapters of the attention layers (LoRA; Hu et al., ICLR 2022) through the optional package `peft`.

The backbone's own weights stay fixed. For each chosen linear layer W a product B A of rank r is trained beside it, and
(2 r / r) B A is added to W when the run is finished: the finished model is the plain one, and needs no `peft`.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from datasets_scripts.command import UserError

ATTENTION = re.compile("attn|attention", re.IGNORECASE)


def attention_layers(model: Any) -> list[str]:
    """Names of the linear layers of attention in the layers of ``model.backbone``, relative to it.

    Queries, keys, values and their output, under whatever names the architecture has; a pooling after the layers is
    left out.

    Raises:
        UserError: there are none.
    """
    inside = {id(part) for layer in model.hidden_layers() for part in layer.modules()}
    names = [
        name
        for name, part in model.backbone.named_modules()
        if type(part) is nn.Linear and id(part) in inside and ATTENTION.search(name)
    ]
    if not names:
        what = (model.config.tower or {}).get("model_type") or model.config.backbone
        raise UserError(
            f"lora_rank: {what} has no linear layers of attention; give a transformer, or --trainable_blocks N instead"
        )
    return names


def add_lora(model: Any, rank: int) -> Any:
    """The same model with adapters of this rank in its backbone; they and the head alone are trained.

    An adapter starts at zero, so that the answers are those of the backbone's own weights.

    Raises:
        UserError: the backbone has no attention layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = attention_layers(model)
    # Scaled by alpha / rank = 2, so that one learning rate suits every rank.
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), model.backbone)
    for name, value in model.named_parameters():
        if not name.startswith("head."):
            value.requires_grad_("lora_" in name)
    return model


def merge_lora(model: Any) -> Any:
    """The same model without adapters: each is added to the weights that it stands beside.

    Raises:
        UserError: a merged weight is not finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, part in list(model.backbone.named_modules()):
        if isinstance(part, BaseTunerLayer):
            try:
                part.merge(safe_merge=True)
            except ValueError as error:
                raise UserError(f"the adapter of {name} cannot be merged ({error}): lower --learning_rate") from error
            parent, _, last = name.rpartition(".")
            setattr(model.backbone.get_submodule(parent), last, part.get_base_layer())
    if hasattr(model.backbone, "peft_config"):
        del model.backbone.peft_config
    return model.requires_grad_(True)
