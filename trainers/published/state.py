"""Reading other people's checkpoint files without running other people's code.

A file is read as safetensors, or by ``torch.load(weights_only=True)``, which builds tensors, plain containers and
(allowed here) numpy's numbers, and refuses everything else. Inside, the state dict may stand as it is or under one of
``WRAPPERS``, and its keys may carry one of ``PREFIXES`` that data parallelism or compilation put before them.
"""

from __future__ import annotations

import _codecs
import hashlib
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from datasets_scripts.command import UserError, what_file_is
from hub_models.backbone_lesion import BackboneWeightsError, check_safetensors

WRAPPERS = ("model_state_dict", "model_state", "state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.")
# Metrics that training scripts store beside the weights are often numpy's; building one runs no code.
NUMPY_NUMBERS: list[Any] = [
    scalar,
    (scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    np.dtypes.BoolDType,
    _codecs.encode,
]
GLOBAL = re.compile(r"GLOBAL\s+([\w.]+)")
PICKLE = b"\x80"  # what every pickle of protocol 2 and above begins with


@dataclass(frozen=True)
class State:
    """A checkpoint's tensors, and the plain values that stand beside them.

    Attributes:
        path: the file.
        tensors: key -> tensor on the CPU; floating ones float32.
        about: what else the file states (epoch, backbone, ...), tensors left out.
    """

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)


def read_state(path: Path) -> State:
    """Read one checkpoint file.

    Raises:
        UserError: no such file, not a checkpoint, one that holds code, or one without a state dict.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder: give the checkpoint file in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file: give the published checkpoint")
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    about: dict[str, Any] = {}
    while isinstance(content, Mapping) and not _all_tensors(content):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            raise UserError(
                f"{path} holds {_shown(content)} and no state dict: give tensors by name, or under one of "
                f"{', '.join(WRAPPERS)}"
            )
        about |= {key: value for key, value in content.items() if isinstance(value, (str, int, float))}
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path} holds {_shown(content)}: give a state dict, tensors by name")
    return State(path, {key: _float32(value) for key, value in without_prefixes(content).items()}, about)


def without_prefixes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off what stands before every key: ``module.`` (data parallel), ``_orig_mod.`` (compiled), ``model.``."""
    found = dict(state)
    while prefix := next((start for start in PREFIXES if all(key.startswith(start) for key in found)), None):
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def take_head(state: State, names: Iterable[str], wanted: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Part a state dict into backbone and linear head.

    Args:
        state: of a file.
        names: where the head may stand, e.g. ``classifier.1``; tried in this order.
        wanted: what the file should be, for the message.

    Returns:
        The other tensors, the head's weight (C, D) and its bias (C,).

    Raises:
        UserError: there is no such head.
    """
    for name in names:
        weight, bias = (state.tensors.get(f"{name}.{leaf}") for leaf in ("weight", "bias"))
        if weight is not None and bias is not None and weight.ndim == 2 and bias.shape == weight.shape[:1]:
            own = (f"{name}.weight", f"{name}.bias")
            return {key: value for key, value in state.tensors.items() if key not in own}, weight, bias
    raise not_this(state, wanted)


def not_this(state: State, wanted: str, because: str = "") -> UserError:
    """The error for a file of another system; it names what the file looks like."""
    reason = f" ({because})" if because else ""
    return UserError(f"{state.path} is no {wanted}{reason}: it looks like {looks_like(state.tensors)}")


def plain_reason(error: Exception, path: Path) -> str:
    """An error's message without the file's name before it and the full stop behind it."""
    return str(error).removeprefix(f"{path}: ").rstrip(".")


def looks_like(tensors: Mapping[str, Tensor]) -> str:
    """The architecture by a state dict's keys and shapes, e.g. ``torchvision's mobilenet_v2 with 8 classes``."""
    plain = {key.removeprefix("backbone."): tuple(value.shape) for key, value in tensors.items()}
    heads = ("classifier.1", "classifier", "head.1", "head", "fc.1", "fc")
    rows = next((plain[f"{head}.weight"][0] for head in heads if len(plain.get(f"{head}.weight", ())) == 2), None)
    classes = "without a classifier" if rows is None else f"with {rows} classes"
    kinds = (
        ("torchvision's mobilenet_v2", "features.18.0.weight", (1280, 320, 1, 1)),
        ("torchvision's efficientnet_v2_s", "features.7.0.weight", (1280, 256, 1, 1)),
        ("a ResNet-50", "layer4.2.conv3.weight", (2048, 512, 1, 1)),
        ("a MobileNetV2 of timm", "conv_head.weight", (1280, 320, 1, 1)),
        ("an EfficientNetV2-S of timm", "conv_head.weight", (1280, 256, 1, 1)),
    )
    for name, key, shape in kinds:
        if plain.get(key) == shape:
            return f"{name} {classes}"
    if any(key.startswith(("vit.", "embeddings.patch_embeddings")) for key in plain):
        return f"a Vision Transformer of transformers {classes}"
    return f"something else, {len(plain)} tensors beginning with {next(iter(plain), 'none')}"


def sha256(path: Path) -> str:
    """The file's checksum in hex, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        check_safetensors(path)
        return load_file(path)
    except BackboneWeightsError as error:
        raise UserError(str(error)) from error


def _pickle(path: Path) -> Any:
    try:
        with safe_globals(NUMPY_NUMBERS), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of unusual pickle protocols; what counts is the outcome
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found_global = GLOBAL.search(str(error))
        with path.open("rb") as file:
            is_pickle = file.read(1) == PICKLE
        if found_global is None and not is_pickle:
            instead = what_file_is(path) or "fetch it again"
            raise UserError(f"{path} is no checkpoint of PyTorch, nor safetensors: {instead}") from error
        what = f"it asks for {found_global[1].rstrip('.')}" if found_global else "not one of plain tensors"
        raise UserError(
            f"{path} is a pickle with code ({what}) and was not opened: ask its author for a plain state dict or a "
            "safetensors file"
        ) from error
    except (EOFError, RuntimeError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        instead = what_file_is(path) or "fetch it again"
        raise UserError(f"{path} is cut short or no checkpoint of PyTorch: {instead}") from error


def _all_tensors(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())


def _float32(value: Tensor) -> Tensor:
    return value.detach().to(torch.float32) if value.is_floating_point() else value.detach()


def _shown(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = ", ".join(str(key) for key in list(content)[:6])
    return f"a dictionary with {names}{', ...' if len(content) > 6 else ''}" if content else "an empty dictionary"
