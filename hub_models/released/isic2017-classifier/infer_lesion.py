"""Ways to run a classifier: one pass, test-time augmentation, MC dropout. Functions of a model, in eval mode.

The context managers here also serve ``explain``: they leave the model as it was, whatever happens inside.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

# plain: one forward pass. tta: the mean over flips and quarter turns. mc_dropout: one pass of the backbone, many of the
# head, with dropout on. mc_dropout_full: many passes of everything, for models with dropout inside.
INFERENCES = ("plain", "tta", "mc_dropout", "mc_dropout_full")
VIEWS_AT_ONCE = 64


class InferenceError(ValueError):
    """A way of running the model that does not exist, or that this model does not have."""


@torch.inference_mode()
def infer(model: Any, inputs: Mapping[str, torch.Tensor], inference: str, samples: int, seed: int) -> Any:
    """The model's output in one of the ways of ``INFERENCES``; views and samples become members.

    Args:
        model: the classifier.
        inputs: of ``forward``, on the model's device.
        inference: which way.
        samples: passes of MC dropout.
        seed: of the dropout masks.

    Returns:
        The output; raw logits (N, M', C) where there are several views or samples. Features are those of the plain
        image, and so is the gate's score where its threshold was fitted on plain images.

    Raises:
        InferenceError: the way does not exist, or is not possible for this model.
    """
    with in_eval_mode(model):
        if inference == "plain":
            return model(**inputs, return_dict=True)
        give_early, model.give_early = model.give_early, True
        try:
            output = model(**inputs, return_dict=True)
            raw = several_logits(model, inputs, output, inference, samples, seed)
            several = model.answer(output.features, raw, None, True, output.early)
        finally:
            model.give_early = give_early
        if model.config.trust.get("fitted_for", {}).get("inference", "plain") == "plain":
            several["ood_score"] = output.ood_score
        return several


def several_logits(
    model: Any, inputs: Mapping[str, torch.Tensor], plain: Any, inference: str, samples: int, seed: int
) -> torch.Tensor:
    """Raw logits (N, M', C) of all views or samples; ``plain`` is the output of one pass.

    Raises:
        InferenceError: as :func:`infer`.
    """
    inside, after = dropout_layers(model)
    if inference == "tta":
        return views(model, inputs, plain.raw_logits)
    if inference == "mc_dropout":
        if inside:
            raise InferenceError(
                f"inference is 'mc_dropout', but this model has {len(inside)} dropout layers inside its backbone, "
                "which one pass of it cannot sample; choose 'mc_dropout_full'."
            )
        return sample_head(model, plain.features, samples, seed).flatten(1, 2)
    if inference == "mc_dropout_full":
        passes = with_dropout(
            model, lambda: model(**inputs, return_dict=True).raw_logits, inside + after, samples, seed
        )
        return passes.flatten(1, 2)
    raise InferenceError(f"inference is {inference!r}; choose one of {', '.join(INFERENCES)}.")


def sample_head(model: Any, features: torch.Tensor, samples: int, seed: int) -> torch.Tensor:
    """MC dropout on the head alone: one pass of the backbone, many of the layers after it.

    Gal and Ghahramani 2016, equation 6.

    Args:
        model: the classifier.
        features: (N, D) of ``encode``.
        samples: S.
        seed: of the dropout masks; the caller's random numbers are left alone.

    Returns:
        (N, M, S, C) float32 raw logits; M = 1 for a single model.

    Raises:
        InferenceError: there is no dropout before the head, or no sample.
    """
    return with_dropout(model, lambda: model.classify(features), dropout_layers(model)[1], samples, seed)


def dropout_layers(model: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The dropout layers inside the pretrained parts, and those after them."""
    inside = {id(module) for part in model.pretrained_parts() for module in part.modules()}
    dropouts = [module for module in model.modules() if is_dropout(module)]
    return [m for m in dropouts if id(m) in inside], [m for m in dropouts if id(m) not in inside]


def is_dropout(module: nn.Module) -> bool:
    """Whether a layer drops values at random in train mode: dropout of any shape, or stochastic depth."""
    rate = (
        getattr(module, "p", None)
        if isinstance(module, nn.modules.dropout._DropoutNd)
        else getattr(module, "drop_prob", None)
    )
    return isinstance(rate, (int, float)) and rate > 0


def with_dropout(
    model: Any, forward: Callable[[], torch.Tensor], dropouts: list[nn.Module], samples: int, seed: int
) -> torch.Tensor:
    """Raw logits (N, M, S, C) of S passes with these dropout layers on and all else in eval mode.

    The caller's random numbers are left alone.

    Raises:
        InferenceError: there is no sample or no dropout layer.
    """
    if samples < 1 or not dropouts:
        raise InferenceError(
            f"{samples} samples of a model that has {len(dropouts)} layers of dropout to sample; give at least 1 "
            "of each."
        )
    devices = [model.device] if model.device.type == "cuda" else []
    with in_eval_mode(model), in_torch(), torch.random.fork_rng(devices=devices), torch.inference_mode():
        torch.manual_seed(seed)
        try:
            for module in dropouts:
                module.train()
            passes = [forward().float() for _ in range(samples)]
        finally:
            for module in dropouts:
                module.eval()
    return torch.stack([logits[:, None] if logits.ndim == 2 else logits for logits in passes], dim=2)


def views(model: Any, inputs: Mapping[str, torch.Tensor], plain: torch.Tensor) -> torch.Tensor:
    """Raw logits (N, views x M, C) of all flips and quarter turns (of an oblong image: half turns).

    Args:
        model: the classifier, in eval mode.
        inputs: of ``forward``.
        plain: raw logits of the image as it is, the first of the views.

    Raises:
        InferenceError: the model reads no image.
    """
    pixels = inputs.get("pixel_values")
    if pixels is None or "pixel_values" not in model.input_names:
        raise InferenceError("inference is 'tta', but this model reads no image; choose 'plain'.")
    square = pixels.shape[-1] == pixels.shape[-2]
    turned = [torch.rot90(pixels, turns, (2, 3)) for turns in ((0, 1, 2, 3) if square else (0, 2))]
    images = [view for image in turned for view in (image, image.flip(3))]
    at_once = max(1, VIEWS_AT_ONCE // len(pixels))
    rows = [plain]
    for start in range(1, len(images), at_once):
        part = images[start : start + at_once]
        repeated = {name: value.repeat(len(part), *[1] * (value.ndim - 1)) for name, value in inputs.items()}
        logits = model(**{**repeated, "pixel_values": torch.cat(part)}, return_dict=True).raw_logits
        rows.extend(logits.chunk(len(part)))
    return torch.cat([logits[:, None] if logits.ndim == 2 else logits for logits in rows], dim=1)


# Models in eval mode for a while: the number of callers, and the modules to put back into train mode.
BORROWED: weakref.WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = weakref.WeakKeyDictionary()
BORROWING = threading.Lock()


def in_train_mode(model: nn.Module) -> list[nn.Module]:
    """The modules that are in train mode. In a tenth of the time of ``modules()``, which also builds all names."""
    found, waiting = [], [model]
    while waiting:
        module = waiting.pop()
        if module.training:
            found.append(module)
        waiting.extend(part for part in module._modules.values() if part is not None)
    return found


_TORCH_ALONE: ContextVar[bool] = ContextVar("torch_alone", default=False)


@contextmanager
def in_torch() -> Iterator[None]:
    """Run the network with torch in this thread: what reads layers, gradients or dropout needs its modules."""
    token = _TORCH_ALONE.set(True)
    try:
        yield
    finally:
        _TORCH_ALONE.reset(token)


def torch_alone() -> bool:
    """Whether this thread is within :func:`in_torch`."""
    return _TORCH_ALONE.get()


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and afterwards each as it was, also where they were not all the same.

    For several threads at once: the last one out restores what the first one found.
    """
    with BORROWING:
        callers, training = BORROWED.get(model) or (0, in_train_mode(model))
        for module in training:
            module.training = False
        BORROWED[model] = callers + 1, training
    try:
        yield
    finally:
        with BORROWING:
            callers, training = BORROWED.pop(model)
            if callers > 1:
                BORROWED[model] = callers - 1, training
            else:
                for module in training:
                    module.training = True


@contextmanager
def hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Hooks that are removed afterwards, also after an exception."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recorded(watched: Sequence[tuple[nn.Module, str, Any]]) -> Iterator[dict[int, torch.Tensor]]:
    """Record what layers receive or give while the context is open, by their numbers in ``watched``.

    Args:
        watched: for each the layer, ``input`` or ``output``, and a function of the tensor (None = the tensor itself).
    """
    seen: dict[int, torch.Tensor] = {}

    def record(number: int, which: str, what: Any) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            value = inputs[0] if which == "input" else output
            value = value[0] if isinstance(value, tuple) else value
            seen[number] = value if what is None else what(value)

        return hook

    numbered = enumerate(watched)
    with hooked(
        [layer.register_forward_hook(record(number, which, what)) for number, (layer, which, what) in numbered]
    ):
        yield seen
