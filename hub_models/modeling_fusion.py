"""Late fusion: an image encoder and a metadata encoder, each trained alone before, under one head."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import cached_file

from .backbone_lesion import BackboneWeightsError, first_line
from .configuration_fusion import FusionLesionConfig
from .modeling_lesion import LesionForImageClassification
from .modeling_metadata import MetadataEncoder
from .output_lesion import LesionFeatures, LesionOutput

if TYPE_CHECKING:
    from typing import Self

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class TrainedModel:
    """A finished model's folder or repo, read as files: no code of it is run.

    Attributes:
        name: the folder's name, or the repo id.
        config: its ``config.json``.
        preprocessor: its ``preprocessor_config.json``.
        state: its tensors by name.
        sha256: of its ``model.safetensors``.
    """

    name: str
    config: dict[str, Any]
    preprocessor: dict[str, Any]
    state: dict[str, torch.Tensor]
    sha256: str

    @property
    def labels(self) -> list[str]:
        """Its short class names in the order of its logits."""
        names = self.config.get("id2label") or {}
        return [names[key] for key in sorted(names, key=int)]

    def fill(self, module: nn.Module, part: str) -> None:
        """Fill a module with the tensors of one part.

        Raises:
            BackboneWeightsError: they do not fit.
        """
        own = {
            name.removeprefix(f"{part}."): value for name, value in self.state.items() if name.startswith(f"{part}.")
        }
        try:
            module.load_state_dict(own)
        except RuntimeError as error:
            raise BackboneWeightsError(
                f"{self.name} is a {self.config.get('model_type')} model, whose {part} does not fit here; give a model "
                "whose backbone is a CNN of timm."
            ) from error


def read_trained(source: Source, kind: str, part: str) -> TrainedModel:
    """Read a finished model from its folder or from the Hub.

    Args:
        source: a folder, or a repo id.
        kind: of model, for the message.
        part: what it must have.

    Raises:
        BackboneWeightsError: it cannot be found or read, or does not have the part.
    """
    from timm.models import load_state_dict

    files = ("config.json", "preprocessor_config.json", "model.safetensors")
    try:
        config, preprocessor, weights = (Path(str(cached_file(os.fspath(source), name))) for name in files)
        model = TrainedModel(
            name=Path(source).resolve().name if Path(source).is_dir() else os.fspath(source),
            config=json.loads(config.read_text(encoding="utf-8")),
            preprocessor=json.loads(preprocessor.read_text(encoding="utf-8")),
            state=load_state_dict(str(weights), device="cpu"),
            sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        )
    except (OSError, ValueError) as error:
        raise BackboneWeightsError(
            f"{os.fspath(source)!r} is no {kind} that can be read ({first_line(error)}) Give the folder of a finished "
            "one, or its repo id on the Hub."
        ) from error
    parts = sorted({name.split(".")[0] for name in model.state})
    if part not in parts:
        raise BackboneWeightsError(
            f"{model.name} is a {model.config.get('model_type')} model with the parts {', '.join(parts)} and no {part};"
            f" give a {kind}."
        )
    return model


class FusionForLesionClassification(LesionForImageClassification):
    """Image (N, 3, S, S) and encoded record (N, M) -> (N, C) logits; without a record, everything in it is unknown.

    The features (N, D) are the image's and the metadata's side by side. A frozen part is fed forward without gradients
    and stays in eval mode.
    """

    config_class = FusionLesionConfig
    config: FusionLesionConfig
    input_names = ("pixel_values", "metadata")

    def build(self) -> None:
        """Make both encoders and the head, at random."""
        config = self.config
        self.backbone, image_width = self.build_backbone()
        self.metadata_encoder = MetadataEncoder(config.metadata_fields, config.metadata_hidden_sizes, config.dropout)
        self.feature_dim = image_width + self.metadata_encoder.feature_dim
        self.dropout = nn.Dropout(config.dropout)
        self.head = self.build_head()

    def frozen_parts(self) -> list[nn.Module]:
        """The backbone when ``freeze_backbone``, the metadata encoder when ``freeze_metadata``."""
        frozen: list[nn.Module] = [self.backbone] if self.config.freeze_backbone else []
        return [*frozen, self.metadata_encoder] if self.config.freeze_metadata else frozen

    def build_head(self) -> nn.Module:
        """Build what maps the joined features (N, D) to raw logits (N, C); the last layer is called ``logits``."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = self.feature_dim
        for number, size in enumerate(self.config.head_hidden_sizes, start=1):
            layers[f"hidden{number}"] = nn.Linear(width, size)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"dropout{number}"] = nn.Dropout(self.config.dropout)
            width = size
        layers["logits"] = nn.Linear(width, len(self.config.labels))
        return nn.Sequential(layers)

    def forward(  # type: ignore[override]
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        metadata: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> LesionOutput | tuple[torch.Tensor, ...]:
        """Classify a batch.

        Args:
            pixel_values: (N, 3, H, W), as the image processor returns them.
            labels: (N,) class indices, or (N, C) class probabilities; adds the loss.
            return_dict: False returns a tuple of the fields that are not None.
            metadata: (N, M), as the image processor returns it; None = everything is unknown.
            output_hidden_states: add ``hidden_states`` of the image; None = as the config says.

        Raises:
            PixelShapeError: ``pixel_values`` is not a batch of three-channel images.
            MetadataShapeError: ``metadata`` does not hold the model's fields.
        """
        seen = self.run_encoder(self.check_pixels(pixel_values), metadata, output_hidden_states=output_hidden_states)
        return self.answer(seen[0], self.classify(seen[0]), labels, return_dict, *seen[1:])

    def encode(self, pixel_values: torch.Tensor, metadata: torch.Tensor | None = None) -> torch.Tensor:
        """Images (N, 3, H, W) and encoded records (N, M) -> features side by side (N, D)."""
        rows = self.metadata_encoder.rows(metadata, pixel_values)
        if self.training and self.config.metadata_dropout:
            rows = self.metadata_encoder.hide(rows, self.config.metadata_dropout)
        # Frozen weights require no gradient, so none is recorded.
        return torch.cat([self.backbone(pixel_values), self.metadata_encoder(rows)], dim=1)

    @classmethod
    def from_backbone(  # type: ignore[override]
        cls,
        config: FusionLesionConfig,
        weights: Source | None = None,
        metadata_weights: Source | None = None,
        **parts: Source,
    ) -> Self:
        """Build a fusion with a new head on encoders that were trained before.

        Args:
            config: labels, image size and head; the encoders' architectures are taken from the models they come from.
            weights: a trained image model (folder or repo id), or as for every classifier: None, ``"timm"``, or the
                path of a safetensors file.
            metadata_weights: a trained metadata-only model (folder or repo id); None = random.
            **parts: none; refused as for every classifier.

        Raises:
            BackboneWeightsError: a model cannot be found or read, or is of another architecture, other labels or
                another image size than ``config``.
        """
        backbone_alone = weights is None or str(weights) == "timm" or str(weights).endswith(".safetensors")
        image = None
        if weights is not None and not backbone_alone:
            image = read_trained(weights, "trained image model", "backbone")
        metadata = None
        if metadata_weights is not None:
            metadata = read_trained(metadata_weights, "trained metadata-only model", "metadata_encoder")
        for trained in filter(None, (image, metadata)):
            # Sorted: the head is new, so that the order of the classes does not matter.
            agree(trained, "labels", sorted(config.labels), sorted(trained.labels))
        if image is not None:
            agree(image, "image_size", config.image_size, image.config.get("image_size"))
            adopt(config, "backbone", image, "backbone")
            adopt(config, "backbone_kwargs", image, "backbone_kwargs")
        if metadata is not None:
            adopt(config, "metadata_fields", metadata, "metadata_fields")
            adopt(config, "metadata_hidden_sizes", metadata, "hidden_sizes")
        model = super().from_backbone(config, weights if backbone_alone else None, **parts)
        sources = [f"image: {model.config.initialised_from}", "metadata: random"]
        if image is not None:
            image.fill(model.backbone, "backbone")
            model.pixel_settings = image.preprocessor
            sources[0] = f"image: {image.name} (sha256 {image.sha256})"
        if metadata is not None:
            metadata.fill(model.metadata_encoder, "metadata_encoder")
            sources[1] = f"metadata: {metadata.name} (sha256 {metadata.sha256})"
        if weights is not None or metadata is not None:
            model.config.initialised_from = "; ".join(sources)
        return model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        self.metadata_encoder.init_weights(module)
        hidden = [layer for name, layer in self.head.named_children() if name.startswith("hidden")]
        if isinstance(module, nn.Linear) and any(module is layer for layer in hidden):
            init.kaiming_normal_(module.weight, nonlinearity="relu")


class FusionLesionModel(LesionFeatures, FusionForLesionClassification):
    """Its features alone, of image and metadata side by side; what ``AutoModel`` loads."""


def agree(model: TrainedModel, name: str, ours: Any, theirs: Any) -> None:
    """Make sure that a trained model and the fusion have the same value.

    Raises:
        BackboneWeightsError: they have not.
    """
    if ours != theirs:
        raise BackboneWeightsError(
            f"{model.name} was trained with {name} {theirs}, this run has {name} {ours}; give the same."
        )


def adopt(config: Any, name: str, model: TrainedModel, their_name: str) -> None:
    """Take a setting over from a trained model's config.

    Raises:
        BackboneWeightsError: it lacks it, or the config was given another value than its default.
    """
    ours, default, theirs = getattr(config, name), getattr(type(config)(), name), model.config.get(their_name)
    if theirs is None or ours not in (default, theirs):
        raise BackboneWeightsError(
            f"{model.name} has {their_name} {theirs}, this run has {name} {ours}; leave {name} out, or give a model of "
            "the same."
        )
    setattr(config, name, theirs)
