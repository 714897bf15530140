"""Backbones by timm, and where their first weights come from: timm's download, or a local safetensors file.

Nothing here runs in a model's constructor except :func:`build_timm_backbone`, which never downloads. A file's keys may
be timm's own, those of a finished model, or those of torchvision (``features.*``): the last are matched to timm's
modules by order, since both write the same layers down in the same sequence, and every shape is compared. A backbone
is loaded whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .checks_lesion import LONGEST_HEADER, what_file_is
from .configuration_lesion import check_backbone

# Counters of batch normalisation: a file may leave them out without harm.
OPTIONAL_LEAF = "num_batches_tracked"
# What the keys of a backbone begin with in the weights of a finished model; an ensemble of several has no one backbone.
FINISHED_MODEL = re.compile(r"(members\.0\.)?backbone\.")
SECOND_MEMBER = "members.1."
EARLY_REDUCTION = 8


class UnknownBackboneError(ValueError):
    """timm cannot build the backbone that the configuration names."""


class BackboneWeightsError(OSError):
    """A backbone's weights cannot be found, read or fitted to the architecture."""


class BackboneDownloadError(BackboneWeightsError):
    """timm's pretrained weights cannot be fetched."""


def build_timm_backbone(name: str, *, image_size: int | None = None, **kwargs: Any) -> tuple[nn.Module, int]:
    """Build a backbone without its classifier and without any download.

    Args:
        name: the architecture's name in timm; a pretrained tag (``name.tag``) is allowed and only matters on download.
        image_size: side of the input in pixels, of a network with one grid of positions; None for all others.
        **kwargs: further arguments of ``timm.create_model``, of those that :func:`check_backbone` allows.

    Returns:
        The module, which maps (N, 3, H, W) to pooled features (N, D), and D.

    Raises:
        LesionConfigError: the name is a repository or a path, or an argument is none that a backbone may have.
        UnknownBackboneError: timm does not know the name or refuses an argument.
    """
    import timm  # imported late: it takes longer than the rest of this package

    check_backbone(name, kwargs)
    try:
        backbone: Any = timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size, **kwargs)
    except ImportError as error:
        raise UnknownBackboneError(
            f"the backbone {name!r} needs a package that is not installed ({first_line(error)}): pip install it, or "
            "choose another one."
        ) from error
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError) as error:
        raise UnknownBackboneError(
            f"timm {timm.__version__} cannot build the backbone {name!r} with {kwargs}: {error}. Choose a name from "
            "timm.list_models() and arguments that it takes."
        ) from error
    # Some networks (MobileNetV3) have a hidden layer after pooling: then that layer's width is what forward returns.
    return backbone, int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)


def load_timm_weights(backbone: nn.Module, name: str, *, image_size: int | None = None, **kwargs: Any) -> str:
    """Fetch timm's pretrained weights (from the Hub, or its cache) into a backbone.

    Args:
        backbone: what :func:`build_timm_backbone` returned for the same name and arguments.
        name: the architecture's name in timm, with or without a pretrained tag.
        image_size: as it was built with.
        **kwargs: the arguments that the backbone was built with.

    Returns:
        A phrase for ``config.initialised_from``, e.g. ``timm/mobilenetv2_100.ra_in1k``.

    Raises:
        BackboneDownloadError: there are none, or they cannot be fetched.
        LesionConfigError: the name is a repository or a path, or an argument is none that a backbone may have.
    """
    import timm

    check_backbone(name, kwargs)
    if not timm.models.is_model_pretrained(name):
        raise BackboneDownloadError(
            f"timm has no pretrained weights for {name!r}. Give a .safetensors file, or None to start at random."
        )
    try:
        pretrained: Any = timm.create_model(name, pretrained=True, num_classes=0, img_size=image_size, **kwargs)
    except (OSError, RuntimeError) as error:
        raise BackboneDownloadError(
            f"the pretrained weights of {name!r} cannot be fetched: {first_line(error)} Go online once so that they "
            "reach the cache, or give a local .safetensors file as weights."
        ) from error
    backbone.load_state_dict(pretrained.state_dict())
    source = pretrained.pretrained_cfg
    return str(source.get("hf_hub_id") or f"timm {source.get('architecture', name)}.{source.get('tag', '')}")


def keep_values(parts: list[nn.Module]) -> None:
    """Mark freshly built modules as initialised, so that transformers does not redraw timm's values.

    On the meta device (inside ``from_pretrained``) there are no values yet: then nothing is marked, and what the
    checkpoint lacks is drawn by ``_init_weights``.
    """
    for module in (module for part in parts for module in part.modules()):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if not any(tensor.is_meta for tensor in own):
            setattr(module, "_is_hf_initialized", True)  # noqa: B010 - not an attribute that nn.Module declares


def early_stages(backbones: list[nn.Module]) -> list[nn.Module]:
    """Of each CNN of timm the stage that works at an eighth of the image's size; none of what names no stages.

    Early enough to know colours and textures, late enough to know more than single pixels: of MobileNetV2's stages the
    one that best separated perturbed calibration images from unperturbed ones, for two models.
    """
    found = []
    for backbone in backbones:
        stages = getattr(backbone, "feature_info", None) or []
        names = [stage["module"] for stage in stages if stage.get("reduction") == EARLY_REDUCTION]
        if names:
            found.append(backbone.get_submodule(names[0]))
    return found


def stages(backbones: list[nn.Module]) -> list[nn.Module]:
    """The stages of each CNN of timm, from the input to the output; none of what names no stages."""
    found = []
    for backbone in backbones:
        names = [stage["module"] for stage in getattr(backbone, "feature_info", None) or []]
        found += [backbone.get_submodule(name) for name in dict.fromkeys(names)]
    return found


def load_backbone_file(backbone: nn.Module, path: str | os.PathLike[str]) -> str:
    """Load a local safetensors file into a backbone.

    Args:
        backbone: a timm model without classifier.
        path: a ``.safetensors`` file with timm's keys, with torchvision's ``features.*``, or of a finished model of
            this suite with one backbone.

    Returns:
        A phrase for ``config.initialised_from``: the file's name and its sha256.

    Raises:
        BackboneWeightsError: the file is missing or damaged, or its tensors are not this architecture's.
    """
    from timm.models import load_state_dict

    path = Path(path)
    check_safetensors(path)
    loaded = load_state_dict(str(path), device="cpu")
    wanted = backbone.state_dict()
    several = any(key.startswith(SECOND_MEMBER) for key in loaded)
    own = "" if several else next((found[0] for key in loaded if (found := FINISHED_MODEL.match(key))), "")
    name = f"{path.parent.name}/{path.name}" if own else path.name
    if own:
        loaded = {key.removeprefix(own): value for key, value in loaded.items() if key.startswith(own)}
    if any(key in wanted for key in loaded):
        matched, keys = (
            match_by_name(wanted, loaded, classifier_prefixes(backbone), path),
            "timm's" if not own else "a finished model's",
        )
    elif any(key.startswith("features.") for key in loaded):
        features = {key: value for key, value in loaded.items() if key.startswith("features.")}
        matched, keys = match_by_order(wanted, features, path), "torchvision's"
    else:
        raise BackboneWeightsError(
            f"{path}: none of its {len(loaded)} keys (first: {next(iter(loaded), 'none')}) belongs to this backbone. "
            "Give a file whose keys are timm's for this architecture, or torchvision's (features.*)."
        )
    backbone.load_state_dict(matched, strict=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name} ({keys} keys, sha256 {digest})"


def match_by_name(
    wanted: dict[str, torch.Tensor], loaded: dict[str, torch.Tensor], ignored: tuple[str, ...], path: Path
) -> dict[str, torch.Tensor]:
    """Select the tensors of a file that carries timm's own keys.

    Raises:
        BackboneWeightsError: a key is missing or does not belong here, or a shape differs.
    """
    missing = [key for key in wanted if key not in loaded and not key.endswith(OPTIONAL_LEAF)]
    unknown = [key for key in loaded if key not in wanted and not key.startswith(ignored)]
    if missing or unknown:
        raise BackboneWeightsError(
            f"{path}: {len(missing)} of the backbone's keys are missing (first: {missing[:1]}) and {len(unknown)} are "
            f"not the backbone's (first: {unknown[:1]}). Give weights of exactly this architecture."
        )
    return {key: same_shape(key, wanted[key], key, loaded[key], path) for key in wanted if key in loaded}


def match_by_order(
    wanted: dict[str, torch.Tensor], loaded: dict[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    """Match a file's modules to the backbone's modules in the order in which both are run through.

    A file's order is that of its numbered keys (``features.2.conv.0.1`` before ``features.10.conv.0.0``), since
    safetensors stores tensors sorted by name.

    Raises:
        BackboneWeightsError: the numbers of modules, their leaves or a shape differ.
    """
    ours, theirs = by_module(wanted), by_module(loaded)
    order = sorted(theirs, key=natural_key)
    if len(ours) != len(theirs):
        raise BackboneWeightsError(
            f"{path}: it has {len(theirs)} layers with weights, the backbone has {len(ours)}. Give weights of exactly "
            "this architecture."
        )
    matched = {}
    for our_module, their_module in zip(ours, order, strict=True):
        leaves, their_leaves = ours[our_module], theirs[their_module]
        if leaves - {OPTIONAL_LEAF} != their_leaves - {OPTIONAL_LEAF}:
            raise BackboneWeightsError(
                f"{path}: {their_module} has {sorted(their_leaves)} where the backbone's {our_module} has "
                f"{sorted(leaves)}. Give weights of exactly this architecture."
            )
        for leaf in leaves & their_leaves:
            key, their_key = f"{our_module}.{leaf}", f"{their_module}.{leaf}"
            matched[key] = same_shape(key, wanted[key], their_key, loaded[their_key], path)
    return matched


def same_shape(key: str, ours: torch.Tensor, their_key: str, theirs: torch.Tensor, path: Path) -> torch.Tensor:
    """Return ``theirs`` if its shape is that of ``ours``.

    Raises:
        BackboneWeightsError: it is not.
    """
    if ours.shape != theirs.shape:
        raise BackboneWeightsError(
            f"{path}: {their_key} has the shape {tuple(theirs.shape)}, the backbone's {key} has {tuple(ours.shape)}. "
            "Give weights of exactly this architecture."
        )
    return theirs


def by_module(state: dict[str, torch.Tensor]) -> dict[str, set[str]]:
    """Group a state dict's keys: module -> names of its own tensors, in the order of the state dict."""
    modules: dict[str, set[str]] = {}
    for key in state:
        module, _, leaf = key.rpartition(".")
        modules.setdefault(module, set()).add(leaf)
    return modules


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``features.2`` before ``features.10``."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"\.", name)]


def classifier_prefixes(backbone: nn.Module) -> tuple[str, ...]:
    """The key prefixes of the classifier that a full checkpoint of this architecture also holds."""
    names = getattr(backbone, "pretrained_cfg", {}).get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def check_safetensors(path: Path) -> None:
    """Check that a file exists and is a whole safetensors file: length, JSON header, as many bytes as it states.

    Raises:
        BackboneWeightsError: names the fault.
    """
    if not path.is_file():
        raise BackboneWeightsError(f'{path}: no such file. Give a .safetensors file, "timm" to download, or None.')
    size = path.stat().st_size
    if instead := what_file_is(path):
        raise BackboneWeightsError(f"{path} holds no weights; {instead}.")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, size, LONGEST_HEADER)))
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise BackboneWeightsError(
            f"{path}: not a safetensors file ({size} bytes). Fetch or export it again."
        ) from error
    if size != 8 + length + end:
        raise BackboneWeightsError(
            f"{path}: {size} bytes where its header promises {8 + length + end}. Fetch it again."
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, as a sentence."""
    lines = str(error).strip().splitlines()
    return (lines[0].strip() if lines else type(error).__name__).rstrip(".") + "."
