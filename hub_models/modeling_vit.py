"""The 12-class classifier: transformers' ViT, the class token after the last layer norm, one linear layer."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from transformers import ImageProcessingMixin, PreTrainedConfig, ViTForImageClassification, ViTModel

from .backbone_lesion import BackboneWeightsError, check_safetensors, first_line
from .checks_lesion import LARGEST_IMAGE, MOST_CLASSES, PixelShapeError, brief, is_whole
from .configuration_lesion import LesionConfig, LesionConfigError
from .configuration_vit import LARGEST, ViTLesionConfig
from .modeling_lesion import LesionForImageClassification
from .output_lesion import LesionFeatures

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; whoever loads a model may have 3.10

EXAMPLE = "google/vit-large-patch32-384"
HALF = [0.5, 0.5, 0.5]  # what the published ViTs normalise with, mean and deviation alike


class ViTForLesionClassification(LesionForImageClassification):
    """A Vision Transformer: (N, 3, S, S) -> (N, C) logits, the arithmetic of transformers' ViTForImageClassification.

    The features are the class token after the last layer norm, (N, hidden_size). Attention runs by SDPA; ``explain``
    rolls it out with any kernel. For single attention maps load with ``attn_implementation="eager"`` and call
    ``model.backbone(pixels, output_attentions=True)``.
    Images of another size than the config's are answered with interpolated position embeddings.
    """

    config_class = ViTLesionConfig
    config: ViTLesionConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["ViTEmbeddings", "ViTLayer"]
    _statistics = (HALF, HALF)

    # ---------------------------------------------------------------- hooks

    def build_backbone(self) -> tuple[nn.Module, int]:
        """Build the ViT that the config describes, at random, without pooler: tokens (N, 1 + G^2, D).

        Raises:
            LesionConfigError: the patches do not tile the image.
        """
        self.config.check_grid()
        # Our own constructor has checked the attention implementation; the backbone computes with the same one.
        vit = ViTModel(
            self.config.vit_config(attn_implementation=self.config._attn_implementation), add_pooling_layer=False
        )
        add_stochastic_depth(vit, self.config.drop_path_rate)
        return vit, self.config.hidden_size

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) -> the class token after the last layer norm (N, D).

        Raises:
            PixelShapeError: the image is smaller than a patch.
        """
        height, width = pixel_values.shape[-2:]
        if min(height, width) < self.config.patch_size:
            raise PixelShapeError(
                f"pixel_values has the shape {tuple(pixel_values.shape)}, smaller than a patch of "
                f"{self.config.patch_size} pixels; give images of {self.config.image_size} x {self.config.image_size}."
            )
        other_size = (height, width) != (self.config.image_size, self.config.image_size)
        return self.backbone(pixel_values, interpolate_pos_encoding=other_size).last_hidden_state[:, 0]

    def early_layers(self) -> list[nn.Module]:
        """The transformer layer a quarter of the way up."""
        layers: Any = self.backbone.layers
        return [layers[len(layers) // 4]]

    def hidden_layers(self) -> list[nn.Module]:
        """The embeddings and each transformer layer."""
        backbone: Any = self.backbone
        return [backbone.embeddings, *backbone.layers]

    def last_layer(self) -> tuple[nn.Module, str]:
        """The last layer norm."""
        backbone: Any = self.backbone
        return backbone.layernorm, "output"

    def explained_layers(self) -> list[nn.Module]:
        """The last attention: behind it, only the class token counts, and no patch."""
        layers: Any = self.backbone.layers
        return [layers[-1].attention]

    def as_maps(self, activation: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Tokens (N, 1 + hw, C) of images of ``size`` -> (N, C, h, w), without the class token."""
        grid = [side // self.config.patch_size for side in size]
        return activation[:, 1:].transpose(1, 2).unflatten(2, grid)

    def attentions(self) -> list[tuple[nn.Module, nn.Module, int]]:
        """Query layer, key layer and number of heads of each transformer layer."""
        layers: Any = self.backbone.layers
        return [(layer.attention.q_proj, layer.attention.k_proj, self.config.num_attention_heads) for layer in layers]

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Channel mean and standard deviation of the checkpoint that it started from; 0.5 where there was none."""
        mean, std = self._statistics
        return list(mean), list(std)

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the input to the output: embeddings, each layer, then the last layer norm and the head.

        The groups of layer-wise learning-rate decay as in BEiT (Bao et al. 2022, appendix) and timm.
        """
        names = [name for name, _ in self.named_parameters()]
        layers = [f"backbone.layers.{index}." for index in range(self.config.num_hidden_layers)]
        groups = [[name for name in names if name.startswith(part)] for part in ("backbone.embeddings.", *layers)]
        grouped = {name for group in groups for name in group}
        return [*groups, [name for name in names if name not in grouped]]

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection; FSDP calls it to split a model among GPUs."""
        backbone: Any = self.backbone
        return backbone.get_input_embeddings()

    # -------------------------------------------------- weights: first, saved

    @classmethod
    def from_backbone(
        cls, config: LesionConfig, weights: str | os.PathLike[str] | None = None, **parts: str | os.PathLike[str]
    ) -> Self:
        """Build a classifier with a new head on a ViT of transformers.

        Args:
            config: its architecture fields are set to the checkpoint's, and its ``initialised_from`` to what was
                loaded. Its ``image_size`` stays: position embeddings are interpolated where the checkpoint's differs.
            weights: None = random; a Hub repo or a folder with any ViT checkpoint, whatever its head.
            **parts: weights of further parts; a ViT has none.

        Raises:
            BackboneWeightsError: the checkpoint cannot be fetched, found or read, or is no ViT.
            LesionConfigError: its patches do not tile ``image_size``.
        """
        if weights is None or parts:
            return super().from_backbone(config, None, **parts)
        vit = read_vit(weights)
        model = cls.from_vit(vit, config, source=describe_source(weights, vit))
        model._statistics = read_pixel_statistics(weights)
        return model

    @classmethod
    def from_vit(
        cls, vit: ViTForImageClassification, config: LesionConfig, *, keep_head: bool = False, source: str = "a ViT"
    ) -> Self:
        """Build a classifier from a ViT in memory.

        Args:
            vit: any ViTForImageClassification.
            config: as in :meth:`from_backbone`.
            keep_head: take over its classifier too, row by row: ``config.labels`` must then be its classes in its
                order. Otherwise the head is new.
            source: where the ViT came from, in words.

        Raises:
            LesionConfigError: ``keep_head`` with another number of classes; its patches do not tile ``image_size``.
        """
        ours: Any = config
        theirs, wanted = vit.config.num_labels, len(config.labels)
        if keep_head and theirs != wanted:
            raise LesionConfigError(
                f"the ViT's head has {theirs} classes and the labels are {wanted} ({', '.join(config.labels)}); give "
                "its own classes in its own order."
            )
        ours.adopt(vit.config)
        model = cls(ours)
        state = vit.vit.state_dict()
        positions = state["embeddings.position_embeddings"]
        grid = ours.image_size // ours.patch_size
        state["embeddings.position_embeddings"] = resample_positions(positions, grid)
        model.backbone.load_state_dict(state)
        notes = [source]
        if keep_head:
            model.head.load_state_dict(vit.classifier.state_dict())
        elif theirs:
            notes.append(f"its {theirs}-class head replaced by {wanted} classes")
        if positions.shape[1] != 1 + grid * grid:
            was = round((positions.shape[1] - 1) ** 0.5) * ours.patch_size
            notes.append(f"position embeddings interpolated from {was} to {ours.image_size} px")
        ours.initialised_from = ", ".join(notes)
        return model

    def to_vit(self) -> ViTForImageClassification:
        """The same weights as a ViTForImageClassification of transformers, whose logits are our raw logits."""
        labels = dict(enumerate(self.config.labels))
        vit = ViTForImageClassification(
            self.config.vit_config(id2label=labels, label2id={name: index for index, name in labels.items()})
        )
        vit.vit.load_state_dict(self.backbone.state_dict())
        vit.classifier.load_state_dict(self.head.state_dict())
        return vit.eval()

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save as the shared base does, under the parameter names of memory.

        transformers would write its own older names and translate them on loading. The Trainer does not translate when
        it resumes or takes back the best epoch: it would silently load nothing.
        """
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)


class ViTLesionModel(LesionFeatures, ViTForLesionClassification):
    """Its features alone; what ``AutoModel`` loads."""


def add_stochastic_depth(vit: nn.Module, rate: float) -> None:
    """Let a ViT's layers skip their attention and their MLP, an image at a time, while training.

    transformers' ViT has no stochastic depth; but each of its layers sends both branches through one dropout before
    adding them, so the drop goes there: no parameter, no other name, identity in eval mode. The rate rises linearly
    from 0 in the first layer to ``rate`` in the last, as in timm.
    """
    if not rate:
        return
    from timm.layers import DropPath

    layers: Any = vit.layers
    for layer, value in zip(layers, torch.linspace(0, rate, len(layers), device="cpu").tolist(), strict=True):
        layer.dropout = nn.Sequential(layer.dropout, DropPath(value))


def resample_positions(positions: torch.Tensor, grid: int) -> torch.Tensor:
    """Position embeddings (1, 1 + G^2, D) -> (1, 1 + grid^2, D); the class token's stays, the patches' are bicubic.

    As transformers and Dosovitskiy et al. 2021 (section 3.2) do it for another resolution.
    """
    was = round((positions.shape[1] - 1) ** 0.5)
    if was == grid:
        return positions
    square = positions[:, 1:].reshape(1, was, was, -1).permute(0, 3, 1, 2)
    square = functional.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], square.permute(0, 2, 3, 1).reshape(1, grid * grid, -1)], dim=1)


def read_vit(weights: str | os.PathLike[str]) -> ViTForImageClassification:
    """Load a ViT checkpoint of transformers in float32, from a folder or from the Hub (or its cache).

    Args:
        weights: the folder, or the repo id. A checkpoint without a head, or with any, will do.

    Raises:
        BackboneWeightsError: it cannot be found, fetched or read, it is no ViT, or weights are missing.
    """
    if str(weights) == "timm":
        raise BackboneWeightsError(
            f'"timm" has no ViT for this classifier: give a Hub repo or folder of transformers, e.g. {EXAMPLE}.'
        )
    try:
        stored_config, _ = PreTrainedConfig.get_config_dict(weights)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BackboneWeightsError(
            f"{weights}: no ViT checkpoint can be read there: {first_line(error)} Give a folder with config.json and "
            f"model.safetensors, or a Hub repo that can be reached, e.g. {EXAMPLE}."
        ) from error
    if stored_config.get("model_type") != "vit":
        raise BackboneWeightsError(
            f"{weights}: its model_type is {stored_config.get('model_type')!r}, not 'vit'; give a ViT checkpoint of "
            f"transformers, e.g. {EXAMPLE}."
        )
    limits = {**LARGEST, "num_labels": MOST_CLASSES, "image_size": LARGEST_IMAGE, "num_channels": MOST_CLASSES}
    for name, most in limits.items():
        value = stored_config.get(name, 1)
        if isinstance(value, (list, tuple)) and name in ("patch_size", "image_size"):
            value = max(value, default=0)
        if not is_whole(value, 1, most):
            raise BackboneWeightsError(f"{weights}: its {name} is {brief(value)}; give a ViT of at most {most}.")
    if stored_config.get("transformers_weights") or "/" in str(stored_config.get("_attn_implementation")):
        raise BackboneWeightsError(f"{weights}: its config names files or code of another place; give another ViT.")
    stored = Path(weights) / "model.safetensors"
    if stored.is_file():
        check_safetensors(stored)
    loading: Any = ViTForImageClassification.from_pretrained
    try:
        vit, report = loading(weights, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        raise BackboneWeightsError(
            f"{weights}: its weights cannot be loaded: {first_line(error)} Fetch them again, or give another ViT."
        ) from error
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("classifier."))
    if missing:
        raise BackboneWeightsError(
            f"{weights}: {len(missing)} of the ViT's weights are missing (first: {missing[0]}); give a whole one."
        )
    return vit


def describe_source(weights: str | os.PathLike[str], vit: ViTForImageClassification) -> str:
    """Where a ViT came from, for ``config.initialised_from``: the repo and its revision, or the folder and a sha256."""
    folder = Path(weights)
    stored = folder / "model.safetensors"
    if stored.is_file():
        digest = hashlib.sha256()
        with stored.open("rb") as file:  # a ViT-L is 1.2 GB: not all of it at once
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        return f"{folder.resolve().name} (sha256 {digest.hexdigest()})"
    if folder.is_dir():
        return folder.resolve().name
    revision = getattr(vit.config, "_commit_hash", None)
    return f"{weights} (revision {revision})" if revision else str(weights)


def read_pixel_statistics(weights: str | os.PathLike[str]) -> tuple[list[float], list[float]]:
    """Channel mean and standard deviation of a checkpoint's own image processor; 0.5 where it has none.

    Raises:
        BackboneWeightsError: they are not three numbers, or a deviation is not positive.
    """
    try:
        stored_config, _ = ImageProcessingMixin.get_image_processor_dict(weights)
    except (OSError, ValueError):
        return HALF, HALF
    if stored_config.get("do_normalize") is False:
        return [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    mean, std = (stored_config.get(name, HALF) for name in ("image_mean", "image_std"))
    mean, std = ([value] * 3 if isinstance(value, float) else value for value in (mean, std))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise BackboneWeightsError(
            f"{weights}: its preprocessor_config.json says mean {mean} and deviation {std}; give three of each."
        )
    return list(mean), list(std)
