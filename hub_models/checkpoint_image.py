"""Where the image classifier's backbone comes from: its description, its image settings and its weights.

Nothing here runs when a finished model is loaded: a config names no repository and no path. A source is written

- ``NAME`` or ``timm/NAME``: an architecture of timm, perhaps with the tag of its weights;
- ``hf-hub:ORG/NAME`` or ``local-dir:DIR``: a repository or a folder with timm's ``config.json`` and weights;
- ``transformers/ORG/NAME`` or ``transformers/DIR``: the vision tower of a checkpoint of transformers.

Weights are read from safetensors alone, and no code of a repository is run.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionModelWithProjection, ImageProcessingMixin, PreTrainedConfig
from transformers.utils import cached_file

from .backbone_lesion import (
    BackboneDownloadError,
    BackboneWeightsError,
    UnknownBackboneError,
    check_safetensors,
    first_line,
    load_backbone_file,
    load_timm_weights,
)
from .checks_lesion import LARGEST_IMAGE, brief, is_number, is_whole
from .configuration_lesion import BACKBONE_KWARGS, TIMM_NAME, LesionConfigError, check_backbone
from .tower_image import DUAL_ENCODERS, MODEL_TYPE, TOWERS, describe_tower, side_of, tower_config, unknown_tower

TRANSFORMERS, TIMM, HUB, FOLDER = "transformers/", "timm/", "hf-hub:", "local-dir:"
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
WEIGHTS, CONFIG = "model.safetensors", "config.json"
# What reading somebody else's files may raise.
READING_FAILS = (OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, RecursionError)


@dataclass(frozen=True)
class Preprocessing:
    """The image settings of a checkpoint: channel mean and deviation of pixels in [0, 1], side of the square input."""

    mean: list[float]
    std: list[float]
    size: int

    @property
    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and deviation."""
        return self.mean, self.std


@dataclass(frozen=True)
class Backbone:
    """A backbone as a source describes it.

    Attributes:
        fields: of ``ImageLesionConfig``: ``backbone`` and ``backbone_kwargs``, or ``tower``.
        weights: what ``from_backbone`` takes as its weights.
        preprocessing: its image settings; None where its files state none.
    """

    fields: dict[str, Any]
    weights: str
    preprocessing: Preprocessing | None


def describe_backbone(source: str) -> Backbone:
    """What a config must hold to build this backbone; of a repository only its small JSON files are fetched.

    Args:
        source: as this file's first lines say.

    Raises:
        UnknownBackboneError: there is no such architecture; the nearest names are given.
        BackboneWeightsError: the repository or folder cannot be read.
        LesionConfigError: its files hold a value that no backbone may have.
    """
    import timm  # imported late: it takes longer than the rest of this package

    if source.startswith(TRANSFORMERS):
        return _of_transformers(source.removeprefix(TRANSFORMERS))
    if source.startswith((HUB, FOLDER)):
        return _of_timm_files(source.partition(":")[2])
    name = source.removeprefix(TIMM)
    if name.startswith("open_clip/"):
        raise UnknownBackboneError(
            f"backbone {source!r}: weights of open_clip are read through timm or transformers alone; give the name of "
            "the same architecture in timm (e.g. vit_base_patch16_clip_224) and the file as backbone_weights."
        )
    if not TIMM_NAME.fullmatch(name):
        hint = f"; did you mean {TRANSFORMERS}{name} or {HUB}{name}?" if "/" in name else "."
        raise UnknownBackboneError(
            f"backbone {source!r} is no name of timm; give NAME, {HUB}ORG/NAME or {TRANSFORMERS}ORG/NAME{hint}"
        )
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them all."
        raise UnknownBackboneError(f"backbone {source!r} is unknown to timm {timm.__version__}: {hint}")
    return Backbone({"backbone": name}, "timm", of_timm_settings(vars(timm.get_pretrained_cfg(name) or object())))


def read_preprocessing(weights: str | os.PathLike[str], side: int = 0) -> Preprocessing:
    """The image settings of a checkpoint of transformers.

    Args:
        weights: repository or folder.
        side: of the input, where the image processor states none.

    Raises:
        BackboneWeightsError: it has no image processor, or one with impossible values.
    """
    reading: Any = ImageProcessingMixin.get_image_processor_dict
    try:
        stored, _ = reading(weights)
    except READING_FAILS as error:
        raise BackboneWeightsError(
            f"{weights}: no preprocessor_config.json can be read there ({first_line(error)}) Copy that of the model "
            "it was trained as beside its config.json, or give image_mean, image_std and image_size yourself."
        ) from error
    if stored.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    else:
        mean, std = (
            [value] * 3 if is_number(value) else value for value in map(stored.get, ("image_mean", "image_std"))
        )
    size = stored.get("crop_size") if stored.get("do_center_crop") and stored.get("crop_size") else stored.get("size")
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    if size is None and is_whole(stored.get("max_num_patches"), 1, LARGEST_IMAGE):
        size = round(stored["max_num_patches"] ** 0.5) * side_of(stored.get("patch_size") or 16)
    return checked_settings(mean, std, size or side, f"{weights}: its preprocessor_config.json")


def of_timm_settings(settings: dict[str, Any]) -> Preprocessing | None:
    """The image settings in a configuration of timm; None where it states none."""
    if not all(settings.get(name) for name in ("mean", "std", "input_size")):
        return None
    size = settings["input_size"]
    return checked_settings(settings["mean"], settings["std"], size[-1], "timm's configuration")


def checked_settings(mean: Any, std: Any, size: Any, whose: str) -> Preprocessing:
    """Mean, deviation and side as the image processor can use them.

    Raises:
        BackboneWeightsError: names the value.
    """
    for name, values, least in (("mean", mean, 0.0), ("deviation", std, 1e-6)):
        fine = isinstance(values, (list, tuple)) and len(values) == 3
        if not fine or not all(is_number(value) and value >= least for value in values):
            raise BackboneWeightsError(f"{whose} says {name} {brief(values)}; give three numbers, one a channel.")
    if not is_whole(size, 1, LARGEST_IMAGE):
        raise BackboneWeightsError(f"{whose} says size {brief(size)}; give 1 to {LARGEST_IMAGE} pixels.")
    return Preprocessing(list(map(float, mean)), list(map(float, std)), size)


# ------------------------------------------------------------------ weights


def load_tower(
    backbone: Any, projection: nn.Linear | None, tower: dict[str, Any], weights: str | os.PathLike[str]
) -> str:
    """Fill a tower, and its projection where there is one, from a checkpoint of transformers.

    Args:
        backbone: what ``build_tower`` returned.
        projection: (D -> P) without bias, or None.
        tower: its description.
        weights: repository or folder; a whole dual encoder will do.

    Returns:
        Where the weights came from, for ``config.initialised_from``.

    Raises:
        BackboneWeightsError: they cannot be fetched or read, or are those of another tower.
    """
    if str(weights) == "timm":
        raise BackboneWeightsError('"timm" has no weights of a tower; give its repository or folder of transformers.')
    stored = Path(weights) / WEIGHTS
    if stored.is_file():
        check_safetensors(stored)
    model_class, config = type(backbone), tower_config(tower)
    options = dict(TOWERS[tower[MODEL_TYPE]].build)
    if projection is not None:
        model_class, config.projection_dim = CLIPVisionModelWithProjection, projection.out_features
    try:
        loaded, report = model_class.from_pretrained(
            weights,
            config=config,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    except READING_FAILS as error:
        raise BackboneWeightsError(
            f"{weights}: its weights cannot be loaded: {first_line(error)} Give a folder or a repository that can be "
            f"reached, with {WEIGHTS}; a gated one needs its terms accepted and `hf auth login`."
        ) from error
    lacking = sorted(report["missing_keys"]) + sorted(str(one[0]) for one in report["mismatched_keys"])
    if lacking:
        raise BackboneWeightsError(
            f"{weights}: {len(lacking)} of the tower's weights are missing or of another shape (first: {lacking[0]}); "
            f"give a whole checkpoint of this {tower[MODEL_TYPE]}."
        )
    backbone.load_state_dict((loaded if projection is None else loaded.vision_model).state_dict())
    if projection is not None:
        projection.load_state_dict(loaded.visual_projection.state_dict())
    return f"{origin_of(weights)}, vision tower {tower[MODEL_TYPE]}"


@dataclass(frozen=True)
class Loaded:
    """Where weights came from, in words, and the image statistics of their own files (None = timm's)."""

    source: str
    statistics: tuple[list[float], list[float]] | None = None


def load_weights_of_timm(backbone: nn.Module, config: Any, weights: str | os.PathLike[str]) -> Loaded:
    """Fill a network of timm: from timm's download, a repository or folder in timm's format, or a file.

    Raises:
        BackboneWeightsError: they cannot be fetched, found or read, or do not fit.
    """
    size = needed_image_size(config.backbone, config.image_size)
    if weights == "timm":
        return Loaded(load_timm_weights(backbone, config.backbone, image_size=size, **config.backbone_kwargs))
    folder = Path(weights).is_dir()
    if not folder and (Path(weights).exists() or not REPOSITORY.fullmatch(str(weights))):
        return Loaded(load_timm_file(backbone, config, weights))
    settings = read_json_of(str(weights))
    preprocessing = of_timm_settings({**settings, **settings.get("pretrained_cfg", {})})
    load_timm_file(backbone, config, fetched(str(weights), WEIGHTS))
    return Loaded(origin_of(weights), preprocessing.statistics if preprocessing else None)


def load_timm_file(backbone: nn.Module, config: Any, path: str | os.PathLike[str]) -> str:
    """Fill a network of timm from a safetensors file; of a transformer also with open_clip's keys or other positions.

    Returns:
        The file's name and its sha256.

    Raises:
        BackboneWeightsError: the file is missing or damaged, or its tensors are not this architecture's.
    """
    if getattr(backbone, "num_prefix_tokens", None) is None:
        return load_backbone_file(backbone, path)
    import timm

    check_safetensors(Path(path))
    size: Any = needed_image_size(config.backbone, config.image_size)
    try:
        # timm's own reading of a file renames keys and resamples position embeddings.
        filled: Any = timm.create_model(
            config.backbone,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(path), "custom_load": False},
            num_classes=0,
            img_size=size,
            **config.backbone_kwargs,
        )
    except READING_FAILS:
        return load_backbone_file(backbone, path)  # a finished model's keys; otherwise it says what is wrong
    backbone.load_state_dict(filled.state_dict())
    return f"{Path(path).name} (sha256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()})"


def needed_image_size(name: str, image_size: int) -> int | None:
    """The image size that timm must know to build a network with one grid of positions; None for all others."""
    import timm

    known = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return image_size if known is not None and known.fixed_input_size else None


def origin_of(weights: str | os.PathLike[str]) -> str:
    """A repository and its commit, or a folder's name and the sha256 of its weights."""
    folder = Path(weights)
    if not folder.is_dir():
        commit = Path(fetched(str(weights), CONFIG)).parent.name
        return f"{weights} (revision {commit})" if COMMIT.fullmatch(commit) else str(weights)
    name, stored = folder.resolve().name, folder / WEIGHTS
    if not stored.is_file():
        return name
    digest = hashlib.sha256()
    with stored.open("rb") as file:  # a ViT-L is 1.2 GB: not all of it at once
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"{name} (sha256 {digest.hexdigest()})"


# ------------------------------------------------------------------ sources


def _of_transformers(location: str) -> Backbone:
    """The vision tower of a checkpoint of transformers."""
    stored = read_json_of(location)
    model_type = stored.get(MODEL_TYPE)
    if model_type not in TOWERS and model_type not in DUAL_ENCODERS:
        raise UnknownBackboneError(
            f"{location}: its model_type is {brief(model_type)}, no vision tower of this suite: "
            f"{unknown_tower(model_type)}"
        )
    try:
        tower = describe_tower(stored)
    except LesionConfigError as error:
        raise BackboneWeightsError(f"{location}: {error}") from error
    side = side_of(tower.get("image_size") or 0) or 224
    try:
        preprocessing = read_preprocessing(location, side)
    except BackboneWeightsError:
        preprocessing = None  # the user may give the values; whoever loads weights without them is told
    return Backbone({"tower": tower}, location, preprocessing)


def _of_timm_files(location: str) -> Backbone:
    """A network of timm whose files lie in a repository or a folder."""
    stored = read_json_of(location)
    settings = {**stored, **(stored.get("pretrained_cfg") or {})}
    name, arguments = settings.get("architecture"), settings.get("model_args") or {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UnknownBackboneError(
            f"{location}: its {CONFIG} names no architecture of timm; give a repository in timm's format."
        )
    known = {key: value for key, value in arguments.items() if key in BACKBONE_KWARGS}
    known.pop("global_pool", None)  # of a transformer it is a class token, which is its default
    check_backbone(name, known, f"{location}: ")
    return Backbone({"backbone": name, "backbone_kwargs": known}, location, of_timm_settings(settings))


def read_json_of(location: str) -> dict[str, Any]:
    """The ``config.json`` of a folder or repository.

    Raises:
        BackboneWeightsError: it cannot be fetched or read.
    """
    reading: Any = PreTrainedConfig.get_config_dict
    try:
        if Path(location).is_dir():
            stored = json.loads((Path(location) / CONFIG).read_text(encoding="utf-8"))
        else:
            stored, _ = reading(location)
        return dict(stored)
    except READING_FAILS as error:
        raise BackboneWeightsError(
            f"{location}: no {CONFIG} can be read there: {first_line(error)} Give a folder, or a repository ORG/NAME "
            "that can be reached; a gated one needs its terms accepted and `hf auth login`."
        ) from error


def fetched(location: str, name: str) -> str:
    """The path of a file of a folder or repository.

    Raises:
        BackboneDownloadError: there is none, or it cannot be fetched.
    """
    try:
        path = cached_file(location, name)
    except READING_FAILS as error:
        raise BackboneDownloadError(
            f"{location}: {name} cannot be fetched: {first_line(error)} Weights are read from safetensors alone."
        ) from error
    return str(path)
