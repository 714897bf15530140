"""Vision towers of transformers as backbones: which ones there are, how a config describes one, where its hooks sit.

A tower is described by its own configuration (numbers, switches and short names), never by a repository or a path, and
built from it without any download. What differs between towers stands in :data:`TOWERS`; nothing else asks which one
it is.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel
from transformers.activations import ACT2FN
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .checks_lesion import LARGEST_IMAGE, LARGEST_LAYER, MOST_LAYERS, MOST_PARAMETERS, brief, is_number, is_whole
from .configuration_lesion import LesionConfigError

try:
    from huggingface_hub.errors import StrictDataclassError
except ImportError:  # an older client, whose configurations raise the built-in classes
    StrictDataclassError = ValueError  # type: ignore[assignment, misc]

MODEL_TYPE = "model_type"
# Fields of a tower's configuration with a limit of their own: least and most.
LIMITS = {
    "num_channels": (3, 3),
    "num_hidden_layers": (1, MOST_LAYERS),
    "image_size": (1, LARGEST_IMAGE),
    "patch_size": (1, 512),
    "num_register_tokens": (0, 1000),
    "window_size": (1, 64),  # the table of relative positions grows with its fourth power
}
SHORT_NAME = re.compile(r"[A-Za-z0-9_]{1,40}")
MOST_STAGES = 16
# What impossible numbers make transformers or torch raise.
BUILDING_FAILS = (
    StrictDataclassError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    RuntimeError,
    ArithmeticError,
    AssertionError,
)


@dataclass(frozen=True)
class Tower:
    """Where the parts of a vision tower are, by the names of its modules (a number counts children).

    Attributes:
        layers: its transformer layers, or the stages of a CNN.
        explained: what receives the last tokens or the last map on the way to the features.
        attention: of a transformer layer, the module with ``q_proj`` and ``k_proj``; empty where no class token gathers
            from the patches, or where queries and keys are rotated afterwards, so that there is no roll-out.
        tokens: whether the layers give tokens, the patches last; otherwise maps.
        early: the stage at an eighth of the image's size; a transformer's early layer is a quarter of the way up.
        resizes: whether other image sizes must be announced (``interpolate_pos_encoding``).
        patches: whether it reads a list of patches instead of an image.
        build: arguments of its constructor.
    """

    layers: str
    explained: str
    attention: str = ""
    tokens: bool = True
    early: int = 1
    resizes: bool = False
    patches: bool = False
    build: tuple[tuple[str, Any], ...] = ()


_DINO = Tower("encoder.layer", "encoder.layer.-1.attention", "attention")
_CONVNEXT = Tower("encoder.stages", "encoder.stages.-1.layers.-1", tokens=False)
TOWERS = {
    "bit": Tower("encoder.stages", "pooler", tokens=False),
    "clip_vision_model": Tower("encoder.layers", "encoder.layers.-1.self_attn", "self_attn", resizes=True),
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "dinov2": _DINO,
    "dinov2_with_registers": _DINO,
    "dinov3_convnext": Tower("model.stages", "pool", tokens=False),
    "dinov3_vit": Tower("model.layer", "model.layer.-1.attention"),
    "siglip_vision_model": Tower("encoder.layers", "post_layernorm", resizes=True),
    "siglip2_vision_model": Tower("encoder.layers", "post_layernorm", patches=True),
    # Its stages shrink at their ends: the first one gives an eighth.
    "swin": Tower("encoder.layers", "layernorm", tokens=False, early=0, resizes=True),
    "vit": Tower("layers", "layers.-1.attention", "attention", resizes=True, build=(("add_pooling_layer", False),)),
}
# Encoders of image and text -> their vision tower.
DUAL_ENCODERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}


def tower_fields(model_type: str) -> list[str]:
    """The fields that describe a tower: those that its configuration adds to the ones of every model."""
    config_class: Any = CONFIG_MAPPING[model_type]
    return [name for name in config_class.__annotations__ if not name.startswith("_") and name != MODEL_TYPE]


def unknown_tower(model_type: Any) -> str:
    """What there is in place of an unknown tower, the nearest names first."""
    known = sorted({*TOWERS, *DUAL_ENCODERS})
    near = difflib.get_close_matches(str(model_type), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}."


def check_tower(tower: Any) -> None:
    """Check that a tower is one of ours, with nothing but numbers, switches and short names within limits.

    Raises:
        LesionConfigError: names the field, its value and what it may be.
    """
    if not isinstance(tower, dict) or tower.get(MODEL_TYPE) not in TOWERS:
        given = tower.get(MODEL_TYPE) if isinstance(tower, dict) else tower
        raise LesionConfigError(f"tower has the model_type {brief(given)}: {unknown_tower(given)}")
    known = tower_fields(tower[MODEL_TYPE])
    for name, value in tower.items():
        if name == MODEL_TYPE:
            continue
        if name not in known:
            raise LesionConfigError(f"tower has {brief(name)}; leave it out, or choose from {', '.join(known)}.")
        values = value if isinstance(value, (list, tuple)) else [value]
        least, most = LIMITS.get(name, (0, LARGEST_LAYER))
        whole = name in LIMITS
        fine = len(values) <= MOST_STAGES and all(_plain(one, least, most, whole) for one in values)
        if not fine or (name == "hidden_act" and value not in ACT2FN):
            wanted = f"whole numbers from {least} to {most}" if whole else f"numbers from 0 to {most}, or short names"
            raise LesionConfigError(f"tower has {name} {brief(value)}; give {wanted}.")
    if tower.get("vision_use_head") is False:
        raise LesionConfigError("tower has vision_use_head False; give one that pools its tokens by attention.")
    depths = tower.get("depths") or []
    if not isinstance(depths, (list, tuple)) or not all(is_whole(depth, 1, MOST_LAYERS) for depth in depths):
        raise LesionConfigError(f"tower has depths {brief(depths)}; give whole numbers from 1 to {MOST_LAYERS}.")


def _plain(value: Any, least: float, most: float, whole: bool) -> bool:
    if whole:
        return is_whole(value, int(least), int(most))
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return SHORT_NAME.fullmatch(value) is not None
    return is_number(value) and least <= value <= most


def tower_config(tower: dict[str, Any]) -> Any:
    """transformers' own configuration of a tower.

    Raises:
        LesionConfigError: it refuses the values.
    """
    check_tower(tower)
    values = {name: value for name, value in tower.items() if name != MODEL_TYPE}
    try:
        return CONFIG_MAPPING[tower[MODEL_TYPE]](**values)
    except BUILDING_FAILS as error:
        raise LesionConfigError(f"tower cannot be read by transformers: {_line(error)}") from error


def describe_tower(stored: dict[str, Any]) -> dict[str, Any]:
    """The description of a tower, every field of it, from the ``config.json`` of it or of a dual encoder.

    Raises:
        LesionConfigError: there is no such tower here, or a value is out of its range.
    """
    model_type = stored.get(MODEL_TYPE)
    if model_type in DUAL_ENCODERS:
        model_type, stored = DUAL_ENCODERS[model_type], stored.get("vision_config") or {}
    if model_type not in TOWERS:
        raise LesionConfigError(f"model_type is {brief(model_type)}: {unknown_tower(model_type)}")
    known = tower_fields(model_type)
    config = tower_config({MODEL_TYPE: model_type, **{name: stored[name] for name in known if name in stored}})
    values = {name: getattr(config, name) for name in known}
    tower = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    check_tower({MODEL_TYPE: model_type, **tower})
    return {MODEL_TYPE: model_type, **tower}


def build_tower(tower: dict[str, Any], attention: str | None = None) -> tuple[nn.Module, int]:
    """Build a tower at random, and the width D of its pooled features; nothing is downloaded.

    Args:
        tower: its description.
        attention: ``eager`` = with attention weights that can be read; None = the tower's usual kernel.

    Raises:
        LesionConfigError: transformers cannot build it, or it has too many parameters.
    """
    config = tower_config(tower)
    options = dict(TOWERS[tower[MODEL_TYPE]].build)
    if attention == "eager":
        options["attn_implementation"] = attention
    building: Any = AutoModel.from_config
    try:
        with torch.device("meta"):  # counted before memory is taken
            parameters = sum(weight.numel() for weight in building(config, **options).parameters())
        if parameters > MOST_PARAMETERS:
            raise LesionConfigError(f"tower has {parameters:,} parameters; give one of at most {MOST_PARAMETERS:,}.")
        built = building(tower_config(tower), **options)
    except LesionConfigError:
        raise
    except BUILDING_FAILS as error:
        raise LesionConfigError(f"tower cannot be built by transformers: {_line(error)}") from error
    widths = getattr(config, "hidden_sizes", None)
    return built, int(widths[-1] if widths else config.hidden_size)


def run_tower(backbone: Any, facts: Tower, pixel_values: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) -> features (N, D), pooled as the tower does: class token, attention or mean."""
    config = backbone.config
    if facts.patches:
        side = side_of(config.patch_size)
        grid = [length // side for length in pixel_values.shape[-2:]]
        cut = pixel_values[..., : grid[0] * side, : grid[1] * side]
        patches = functional.unfold(cut, side, stride=side).transpose(1, 2)
        # unfold gives (channel, row, column) per patch; the tower was trained on (row, column, channel).
        patches = patches.unflatten(2, (-1, side * side)).transpose(2, 3).flatten(2)
        shapes = torch.tensor([grid] * len(pixel_values), device=pixel_values.device)
        mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=pixel_values.device)
        output = backbone(patches, mask, shapes)
    else:
        usual = side_of(getattr(config, "image_size", None) or 0)
        other = facts.resizes and tuple(pixel_values.shape[-2:]) != (usual, usual)
        output = backbone(pixel_values, **({"interpolate_pos_encoding": True} if other else {}))
    pooled = output.pooler_output
    return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)


def grid_of(tower: dict[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns (h, w) of the last tokens of an image of ``size`` (H, W)."""
    side = side_of(tower_config(tower).patch_size)
    if TOWERS[tower[MODEL_TYPE]].tokens:
        return size[0] // side, size[1] // side
    stride = side * 2 ** (len(tower_config(tower).depths) - 1)  # padded at the borders
    return math.ceil(size[0] / stride), math.ceil(size[1] / stride)


def smallest_image(config: Any) -> int:
    """The side in pixels of the smallest image that a tower reads: one patch, or one window in its last stage."""
    side = side_of(getattr(config, "patch_size", None) or 1)
    window = getattr(config, "window_size", None)
    return side if window is None else side * 2 ** (len(config.depths) - 1) * (window - 1) + 1


def side_of(size: Any) -> int:
    """The side of a square that a configuration gives by one number or two."""
    return int(max(size)) if isinstance(size, (list, tuple)) else int(size)


def part_of(module: nn.Module, path: str) -> nn.Module:
    """A submodule by its path; a number counts children, from the end where it is negative."""
    for name in path.split("."):
        module = list(module.children())[int(name)] if name.lstrip("-").isdigit() else getattr(module, name)
    return module


def _line(error: BaseException) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
