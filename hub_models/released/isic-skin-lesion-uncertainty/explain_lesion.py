"""Heat maps over the image, by gradients or by attention.

A model has three hooks for them, of which a CNN of timm overrides none: ``explained_layers`` (the input of such a
layer is explained), ``as_maps`` (that activation as channels of a small image) and ``attentions`` (the query
and key layers of a transformer). A heat map shows what the model used, not where the lesion is.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .infer_lesion import hooked, in_eval_mode, in_torch

Target = int | str | Sequence[int | str] | torch.Tensor


class ExplanationError(ValueError):
    """An explanation that does not exist, or not for this model, or of an unknown class."""


@dataclass(frozen=True)
class LesionExplanation:
    """What ``explain`` returns; every tensor on the model's device.

    Attributes:
        heat_maps: (N, H, W) float32 in [0, 1] at the size of the pixels given, 1 = the largest weight in this
            image. A map is 0 everywhere where nothing is positive for the class. Of members: the mean of their
            maps, so that it reaches 1 only where all of them peak.
        spread: (N, H, W) float32 in [0, 0.5], the standard deviation of the members' maps (over M, not M - 1); None
            where the model has no members.
        target: (N,) int64 index of the class explained, in the order of ``config.labels``.
        method: one of :func:`explanation_methods`.
    """

    heat_maps: torch.Tensor
    spread: torch.Tensor | None
    target: torch.Tensor
    method: str


def grad_cam(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Channels weighted by their mean gradient: (N, C, h, w) twice -> (N, h, w), before the ReLU.

    Selvaraju et al. 2017, equations 1 and 2.
    """
    return (gradient.mean(dim=(2, 3), keepdim=True) * activation).sum(dim=1)


def hires_cam(activation: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Channels weighted by their gradient, point by point: (N, C, h, w) twice -> (N, h, w), before the ReLU.

    Draelos and Carin 2020, equation 5. Of a CNN with mean pooling and one linear layer it is Grad-CAM.
    """
    return (gradient * activation).sum(dim=1)


def roll_out(so_far: torch.Tensor | None, attention: torch.Tensor) -> torch.Tensor:
    """Roll-out after one more layer: that before it (N, T, T) or None, and attention (N, heads, T, T) -> (N, T, T).

    Abnar and Zuidema 2020, equation 1: the heads' mean, half of it the residual connection; each row sums to 1.
    """
    mean = attention.mean(dim=1)
    mixed = 0.5 * mean + 0.5 * torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
    return mixed if so_far is None else mixed @ so_far


def to_heat(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Raw maps (N, h, w) -> heat maps (N, H, W) in [0, 1]: ReLU, enlarged bilinearly, divided by their own maximum.

    A map without a positive value stays 0 everywhere: there is nothing to scale. Pytorch-grad-cam also subtracts the
    minimum of a map, and is equal otherwise.
    """
    heat = functional.interpolate(maps.clamp(min=0)[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    peak = heat.amax(dim=(1, 2), keepdim=True)
    return heat / torch.where(peak > 0, peak, 1.0)


def pooling_layers(backbones: Sequence[nn.Module]) -> list[nn.Module]:
    """The layer of each CNN of timm that averages over the image: its input is the last map with positions.

    Raises:
        ExplanationError: a backbone has no such layer, or does not put its channels first.
    """
    found = []
    for backbone in backbones:
        pools = [module for name, module in backbone.named_modules() if name.rpartition(".")[2] == "global_pool"]
        if not pools or str(getattr(backbone, "output_fmt", "NCHW")).upper().endswith("NHWC"):
            raise ExplanationError(
                f"the backbone is a {type(backbone).__name__}, which does not pool (N, C, h, w) at its end; explain a "
                "model whose backbone is a CNN of timm."
            )
        found.append(pools[-1])
    return found


GRADIENT_METHODS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "grad_cam": grad_cam,
    "hires_cam": hires_cam,
}
ROLLOUT = "attention_rollout"
# Arguments of ``forward`` that are no input.
NOT_SEEN = ("labels", "return_dict")


def explanation_methods(model: Any) -> list[str]:
    """The methods of a model; none where it reads no image."""
    gradients = list(GRADIENT_METHODS) if model.explained_layers() else []
    return [*gradients, ROLLOUT] if model.attentions() else gradients


@dataclass(frozen=True)
class ExplainedPass:
    """A forward pass from which the heat maps of any class follow without another one.

    Attributes:
        model: the classifier.
        output: of the pass; by gradients with the graph behind the explained layers.
        method: one of :func:`explanation_methods`.
        size: (H, W) of the pixels.
        activations: what each explained layer received; of the roll-out its map (N, h, w).
    """

    model: Any
    output: Any
    method: str
    size: tuple[int, int]
    activations: list[torch.Tensor]

    def explanation(self, target: Target | None) -> LesionExplanation:
        """The heat maps of a class, once; the method of the model describes the argument.

        Raises:
            ExplanationError: no such class.
        """
        classes = resolve_target(target, self.output.logits, self.model.config.labels)
        heat = self.member_maps(classes)
        spread = heat.std(dim=0, correction=0) if self.has_members else None
        return LesionExplanation(heat.mean(dim=0), spread, classes, self.method)

    @property
    def has_members(self) -> bool:
        """Whether the model has members, each with logits of its own."""
        return self.output.raw_logits.ndim == 3

    def member_maps(self, classes: torch.Tensor) -> torch.Tensor:
        """The members' heat maps of one class per image, once: (N,) -> (M, N, H, W); M = 1 without members."""
        maps = self.activations
        with torch.inference_mode(False):
            if self.method != ROLLOUT:
                combine = GRADIENT_METHODS[self.method]
                # A copy: of a tensor that was made in inference mode no gradient is taken.
                gradients = gradients_of_logits(self.output.raw_logits, classes.clone(), maps)
                pairs = zip(maps, gradients, strict=True)
                maps = [combine(*(self.model.as_maps(x.detach(), self.size).float() for x in pair)) for pair in pairs]
            return torch.stack([to_heat(one, self.size) for one in maps])

    def plain_output(self) -> Any:
        """The output without gradients."""
        return type(self.output)(
            **{name: one.detach() if isinstance(one, torch.Tensor) else one for name, one in self.output.items()}
        )

    def added_to(self, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The answers of ``predict`` with ``heat_map`` (H, W) of the class that each names."""
        maps = self.explanation([answer["predicted"] for answer in answers]).heat_maps
        return [answer | {"heat_map": one} for answer, one in zip(answers, maps, strict=True)]


def explained_pass(model: Any, features: Any, inputs: Mapping[str, Any], method: str) -> ExplainedPass:
    """One forward pass of a batch in eval mode; the method ``explain`` of the model describes the arguments.

    By gradients: a graph of the layers after the explained one alone. The roll-out: the product of queries and keys
    once more, with one attention (N, heads, T, T) in memory at a time.

    Raises:
        ExplanationError: no such method, or not for this model; no image, or none of numbers.
        PixelShapeError: ``pixel_values`` is not a batch of three-channel images.
    """
    methods = explanation_methods(model)
    if method not in methods:
        what = f"choose one of {', '.join(methods)}" if methods else "it reads no image and has none"
        raise ExplanationError(f"method is {method!r}, which {type(model).__name__} does not have: {what}.")
    received = check_inputs({**named(features), **inputs})
    # The caller may be in inference mode, which records no gradient, nor takes one of a tensor that was made there.
    with torch.inference_mode(False), torch.no_grad(), in_eval_mode(model), in_torch():
        given = {
            name: (value.clone() if value.is_inference() else value.detach()).to(model.device)
            for name, value in received.items()
        }
        height, width = model.check_pixels(given["pixel_values"]).shape[-2:]
        size = (int(height), int(width))
        output, seen = rolled_out(model, given, size) if method == ROLLOUT else behind_layers(model, given)
    return ExplainedPass(model, output, method, size, seen)


def named(features: Any) -> dict[str, Any]:
    """The positional argument of ``explain`` by name: a mapping as it is, anything else as the pixels."""
    if features is None:
        return {}
    return dict(features) if isinstance(features, Mapping) else {"pixel_values": features}


def check_inputs(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The inputs of ``forward`` without labels: tensors of numbers, at least one image.

    Raises:
        ExplanationError: no image, no tensor, or a value that is no number.
    """
    given = {name: value for name, value in inputs.items() if value is not None and name not in NOT_SEEN}
    if "pixel_values" not in given:
        raise ExplanationError("pixel_values is None; give (N, 3, H, W), as the image processor returns them.")
    for name, value in given.items():
        if not isinstance(value, torch.Tensor):
            raise ExplanationError(
                f"{name} is a {type(value).__name__}, not a tensor; call the image processor with return_tensors='pt'."
            )
        if value.ndim and not len(value):
            raise ExplanationError(f"{name} has no row; give at least one image.")
        if not bool(torch.isfinite(value).all()):
            wrong = int((~torch.isfinite(value)).sum())
            raise ExplanationError(
                f"{name} has {wrong} values that are no finite number; give what the processor does."
            )
    return given


def behind_layers(model: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[Any, list[torch.Tensor]]:
    """A forward pass that records a graph only behind the explained layers.

    Args:
        model: the classifier, in eval mode.
        inputs: ``forward``'s.

    Returns:
        The output, and what each of ``explained_layers`` received: leaves that require a gradient, so that it does not
        matter which weights are frozen.
    """
    layers, thread = model.explained_layers(), threading.get_ident()
    seen: dict[int, torch.Tensor] = {}

    def start(module: nn.Module, received: Any) -> None:
        # The next member's backbone: no graph up to its own explained layer.
        if threading.get_ident() == thread:
            torch.set_grad_enabled(False)

    def keep(number: int) -> Any:
        def hook(module: nn.Module, received: Any, named: Any) -> Any:
            if threading.get_ident() != thread:
                return None  # another thread's image in the same model
            seen[number] = (received[0] if received else named["hidden_states"]).detach().requires_grad_()
            torch.set_grad_enabled(True)
            if received:
                return (seen[number], *received[1:]), named
            return received, {**named, "hidden_states": seen[number]}

        return hook

    backbones = [
        part for part in model.pretrained_parts() if any(m is layer for m in part.modules() for layer in layers)
    ]
    handles = [backbone.register_forward_pre_hook(start) for backbone in backbones]
    handles += [layer.register_forward_pre_hook(keep(number), with_kwargs=True) for number, layer in enumerate(layers)]
    with hooked(handles), torch.no_grad():
        output = model(**inputs, return_dict=True)
    return output, [seen[number] for number in range(len(layers))]


def gradients_of_logits(
    raw_logits: torch.Tensor, classes: torch.Tensor, activations: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """Gradient of the raw logit of a class by each activation, of the activation's shape.

    Args:
        raw_logits: (N, C), or (N, M, C) of M members.
        classes: (N,) the class of each image.
        activations: one, or one a member: (N, ...).
    """
    with torch.enable_grad():
        by_member = raw_logits if raw_logits.ndim == 3 else raw_logits[:, None]
        # One sum for all: each logit reaches its own member's activation of its own image alone.
        total = by_member.gather(2, classes[:, None, None].expand(-1, by_member.shape[1], 1)).sum()
    return torch.autograd.grad(total, list(activations))  # of these alone: no parameter's .grad is touched


def rolled_out(model: Any, inputs: Mapping[str, torch.Tensor], size: tuple[int, int]) -> tuple[Any, list[torch.Tensor]]:
    """A forward pass, and what the class token gathered from each patch through all layers: one map (N, h, w).

    Attention is computed once more from queries and keys, in float32: whichever kernel the model runs with is left
    alone.
    """
    thread = threading.get_ident()
    waiting: dict[str, torch.Tensor] = {}
    rollout: torch.Tensor | None = None

    def keep(name: str, heads: int) -> Any:
        """A hook that waits for the other of a layer's two, and then rolls out its attention."""

        def hook(module: nn.Module, received: Any, given: torch.Tensor) -> None:
            nonlocal rollout
            if threading.get_ident() != thread:
                return
            waiting[name] = given.float().unflatten(-1, (heads, -1)).transpose(1, 2)
            if len(waiting) == 2:
                query, key = waiting.pop("query"), waiting.pop("key")
                with torch.autocast(given.device.type, enabled=False):  # the caller may want half precision
                    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
                    rollout = roll_out(rollout, scores.softmax(dim=-1))

        return hook

    handles = []
    for query, key, heads in model.attentions():
        handles.append(query.register_forward_hook(keep("query", heads)))
        handles.append(key.register_forward_hook(keep("key", heads)))
    with hooked(handles):
        output = model(**inputs, return_dict=True)
    tokens: Any = rollout
    return output, [model.as_maps(tokens[:, 0, :, None], size)[:, 0]]


def resolve_target(target: Target | None, logits: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
    """The class (N,) int64 to explain in each image.

    Args:
        target: an index or a short name for all, or a sequence of N of them; None = the predicted class.
        logits: (N, C).
        labels: C short names.

    Raises:
        ExplanationError: a class that there is not, or not one an image.
    """
    if target is None:
        return logits.argmax(dim=1)
    several: Any = target.tolist() if hasattr(target, "tolist") else target
    if isinstance(several, (list, tuple)):
        if len(several) != len(logits):
            raise ExplanationError(f"target has {len(several)} classes for {len(logits)} images; give one an image.")
    else:
        several = [several] * len(logits)
    return torch.tensor([class_index(one, labels) for one in several], dtype=torch.int64, device=logits.device)


def class_index(target: Any, labels: Sequence[str]) -> int:
    """The index of a class given by index or short name.

    Raises:
        ExplanationError: names the value and the classes.
    """
    if target in labels:
        return list(labels).index(target)
    try:
        index = -1 if isinstance(target, bool) else operator.index(target)
    except TypeError:
        index = -1
    if not 0 <= index < len(labels):
        raise ExplanationError(
            f"target is {target!r}; give an index from 0 to {len(labels) - 1}, or one of {', '.join(labels)}."
        )
    return index
