"""The image classifier on any backbone: timm's or transformers' features, dropout, one linear head."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .backbone_lesion import BackboneWeightsError, build_timm_backbone
from .checkpoint_image import load_tower, load_weights_of_timm, needed_image_size, read_preprocessing
from .checks_lesion import PixelShapeError
from .configuration_image import ImageLesionConfig
from .configuration_lesion import LesionConfigError
from .explain_lesion import ExplanationError
from .modeling_lesion import LesionForImageClassification
from .output_lesion import LesionFeatures
from .tower_image import MODEL_TYPE, TOWERS, build_tower, grid_of, part_of, run_tower, smallest_image


class ImageForLesionClassification(LesionForImageClassification):
    """Any backbone of timm, or any vision tower of ``TOWERS``: (N, 3, S, S) -> (N, C) logits.

    The features are those that the backbone pools itself, (N, D): a mean, a class token or a pooling by attention;
    projected and normalised where the config says so.
    """

    config_class = ImageLesionConfig
    config: ImageLesionConfig
    _supports_sdpa = True
    # Mean and deviation of the checkpoint's own image processor, or the error of reading them.
    _statistics: tuple[list[float], list[float]] | None = None
    _unread: BackboneWeightsError | None = None

    # ---------------------------------------------------------------- hooks

    def build(self) -> None:
        """Create backbone, projection, dropout and head from the config, at random."""
        self.backbone, width = self.build_backbone()
        self.feature_dim = self.config.projection_dim or width
        # Without a projection there is no module of its name, and no key in the weights.
        self.projection = nn.Linear(width, self.feature_dim, bias=False) if self.config.projection_dim else None
        self.dropout = nn.Dropout(self.config.dropout)
        self.head = self.build_head()
        layers, wanted = len(self.hidden_layers()), self.config.trainable_blocks or 0
        if wanted > layers:
            raise LesionConfigError(
                f"trainable_blocks is {wanted}, but {self.config.backbone} has {layers} layers or stages; give at most "
                "that, or null for all."
            )
        self.supports_gradient_checkpointing = any(
            hasattr(m, "gradient_checkpointing") for m in self.backbone.modules()
        )

    def build_backbone(self) -> tuple[nn.Module, int]:
        """The backbone that the config describes, at random, and the width of its features."""
        if self.config.tower:
            return build_tower(self.config.tower, self.config._attn_implementation)
        size = needed_image_size(self.config.backbone, self.config.image_size)
        return build_timm_backbone(self.config.backbone, image_size=size, **self.config.backbone_kwargs)

    def pretrained_parts(self) -> list[nn.Module]:
        """The backbone, and the projection where there is one."""
        return [self.backbone] if self.projection is None else [self.backbone, self.projection]

    def frozen_parts(self) -> list[nn.Module]:
        """What ``freeze_backbone`` and ``trainable_blocks`` keep as it is."""
        count = self.config.trainable_blocks
        if self.config.freeze_backbone or count == 0:
            return self.pretrained_parts()
        if count is None:
            return []
        return self._parts_before(self.hidden_layers()[-count])

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) -> features (N, D).

        Raises:
            PixelShapeError: the image is smaller than a patch, or than a window of shifted windows.
        """
        if self.config.tower:
            least = smallest_image(self.backbone.config)
            if min(pixel_values.shape[-2:]) < least:
                raise PixelShapeError(
                    f"pixel_values has the shape {tuple(pixel_values.shape)}; this backbone reads images of at least "
                    f"{least} x {least}: give images of {self.config.image_size} x {self.config.image_size}."
                )
            features = run_tower(self.backbone, TOWERS[self.config.tower[MODEL_TYPE]], pixel_values)
        else:
            features = self.backbone(pixel_values)
        if self.projection is not None:
            features = self.projection(features)
        return functional.normalize(features, dim=-1) if self.config.normalise_features else features

    def early_layers(self) -> list[nn.Module]:
        """The stage at an eighth of the image's size, or the transformer layer a quarter of the way up."""
        layers = self._layers()
        if not layers:
            channels_last = str(getattr(self.backbone, "output_fmt", "NCHW")).upper().endswith("NHWC")
            return [] if channels_last else super().early_layers()
        facts = TOWERS.get(self.config.tower.get(MODEL_TYPE, ""))
        return [layers[len(layers) // 4 if facts is None or facts.tokens else min(facts.early, len(layers) - 1)]]

    def hidden_layers(self) -> list[nn.Module]:
        """Each transformer layer or stage, from the input to the output."""
        return self._layers() or super().hidden_layers()

    def last_layer(self) -> tuple[nn.Module, str] | None:
        """The last transformer layer or stage; of a CNN of timm what is pooled."""
        layers = self._layers()
        return (layers[-1], "output") if layers else super().last_layer()

    def explained_layers(self) -> list[nn.Module]:
        """What receives the last map or the last tokens on the way to the features; none where it is not known."""
        if self.config.tower:
            return [part_of(self.backbone, TOWERS[self.config.tower[MODEL_TYPE]].explained)]
        if layers := self._layers():
            return [part_of(layers[-1], "attn")]
        try:
            return super().explained_layers()
        except ExplanationError:  # timm's network has channels last, or does not pool a map
            return []

    def as_maps(self, activation: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """A map as it is; tokens (N, P + hw, C) of images of ``size`` -> (N, C, h, w), without the P before patches."""
        if activation.ndim == 4:
            return activation
        if self.config.tower:
            height, width = grid_of(self.config.tower, size)
        else:
            patch: Any = self.backbone.patch_embed
            height, width = (length // side for length, side in zip(size, patch.patch_size, strict=True))
        return activation[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))

    def attentions(self) -> list[tuple[nn.Module, nn.Module, int]]:
        """Query layer, key layer and heads of each layer, where the class token gathers from patches."""
        facts = TOWERS.get(self.config.tower.get(MODEL_TYPE, ""))
        if facts is None or not facts.attention:
            return []
        config: Any = self.backbone.config
        found = [part_of(layer, facts.attention) for layer in self._layers()]
        return [(part_of(one, "q_proj"), part_of(one, "k_proj"), config.num_attention_heads) for one in found]

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Channel mean and standard deviation of the checkpoint that it started from, or of timm's network.

        Raises:
            BackboneWeightsError: it started from a tower without an image processor.
        """
        if self._unread is not None:
            raise self._unread
        if self._statistics is None:
            return super().pixel_statistics()
        return list(self._statistics[0]), list(self._statistics[1])

    def layer_groups(self) -> list[list[str]]:
        """Parameter names from the input to the output: what comes before the layers, each layer, the rest."""
        layers = self._layers()
        if not layers:
            return super().layer_groups()
        number = {id(value): i for i, layer in enumerate(layers, 1) for value in layer.parameters()}
        groups: list[list[str]] = [[] for _ in range(len(layers) + 2)]
        seen = 0
        for name, value in self.named_parameters():
            # What is listed before the first layer is computed before it; what comes after them, after.
            seen = number.get(id(value), 0 if not seen else len(layers) + 1)
            groups[seen].append(name)
        return [group for group in groups if group]

    # -------------------------------------------------- weights: first, saved

    def load_backbone(self, weights: str | os.PathLike[str]) -> str:
        """Fill the backbone with pretrained weights.

        Args:
            weights: of a tower a Hub repository or a folder of transformers; of timm's network ``"timm"``, a
                repository ``ORG/NAME`` with timm's ``model.safetensors``, or the path of a safetensors file.

        Raises:
            BackboneWeightsError: they cannot be fetched, found or read, or do not fit.
        """
        if self.config.tower:
            self._statistics, self._unread = None, None
            try:
                self._statistics = read_preprocessing(weights, self.config.image_size).statistics
            except BackboneWeightsError as error:
                self._unread = error
            return load_tower(self.backbone, self.projection, self.config.tower, weights)
        loaded = load_weights_of_timm(self.backbone, self.config, weights)
        self._statistics = loaded.statistics
        return loaded.source

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save as the shared base does, under the parameter names of memory (as the ViT classifier does)."""
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    # -------------------------------------------------------------- the parts

    def _layers(self) -> list[nn.Module]:
        """The transformer layers of a tower or of a ViT of timm, the stages of a CNN of transformers; else none."""
        if self.config.tower:
            return list(part_of(self.backbone, TOWERS[self.config.tower[MODEL_TYPE]].layers).children())
        blocks = getattr(self.backbone, "blocks", None)
        tokens = blocks is not None and hasattr(self.backbone, "num_prefix_tokens") and len(blocks) > 0
        return list(blocks) if tokens and hasattr(blocks[-1], "attn") else []  # type: ignore[arg-type, index]

    def _parts_before(self, first: nn.Module) -> list[nn.Module]:
        """The modules and single parameters of the backbone that come before its layer ``first``."""
        found: list[nn.Module] = []
        inside = {id(part) for part in first.modules()}
        for module in self.backbone.modules():
            if module is first:
                break
            if not any(id(part) in inside for part in module.modules()):
                found.append(module)
            elif own := list(module.parameters(recurse=False)):
                found.append(nn.ParameterList(own))
        return found


class ImageLesionModel(LesionFeatures, ImageForLesionClassification):
    """Its features alone; what ``AutoModel`` loads."""
