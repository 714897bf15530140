"""The metadata-only classifier: age, sex and site without the image."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .backbone_lesion import BackboneWeightsError
from .configuration_metadata import MetadataLesionConfig
from .metadata_lesion import encode_record, metadata_width
from .modeling_lesion import LesionForImageClassification
from .output_lesion import LesionFeatures, LesionOutput
from .trust_lesion import check_finite


class MetadataShapeError(ValueError):
    """Metadata that is not a batch (N, M) of the model's fields."""


class MetadataEncoder(nn.Module):
    """Encoded records (N, M) -> features (N, D): linear layers with ReLU, and dropout between them.

    Args:
        fields: the metadata fields, written out in full; they fix M.
        hidden_sizes: widths of the layers; the last is D.
        dropout: probability of dropping a value between layers.
    """

    def __init__(self, fields: Mapping[str, Any], hidden_sizes: list[int], dropout: float) -> None:
        super().__init__()
        # Constants, not buffers: they follow from the config, and stand in no checkpoint.
        self.widths = [metadata_width({name: vocabulary}) for name, vocabulary in fields.items()]
        self.unknown = encode_record({}, fields)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = len(self.unknown)
        for number, size in enumerate(hidden_sizes, start=1):
            layers[f"hidden{number}"] = nn.Linear(width, size)
            layers[f"relu{number}"] = nn.ReLU()
            if number < len(hidden_sizes):
                layers[f"dropout{number}"] = nn.Dropout(dropout)
            width = size
        self.layers = nn.Sequential(layers)
        self.feature_dim = width

    def forward(self, metadata: torch.Tensor) -> torch.Tensor:
        """(N, M) -> (N, D)."""
        return self.layers(metadata)

    def rows(self, metadata: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """Check encoded records (N, M); None = N rows in which everything is unknown.

        Args:
            metadata: as the image processor returns it, or None.
            like: the other input (N, ...), for N and the device where there is no metadata.

        Raises:
            MetadataShapeError: names the shape received.
            NotFiniteError: a value is NaN or infinite.
        """
        # The replicas of DataParallel have no parameters to list: they take the values as they are.
        dtype = next((weight.dtype for weight in self.parameters()), torch.float32)
        if metadata is None:
            return torch.tensor(self.unknown, dtype=dtype, device=like.device).expand(len(like), -1)
        if metadata.ndim != 2 or metadata.shape[1] != len(self.unknown) or len(metadata) != len(like):
            raise MetadataShapeError(
                f"metadata has the shape {tuple(metadata.shape)}; give ({len(like)}, {len(self.unknown)}), as the "
                "model's own image processor returns it."
            )
        check_finite("the metadata", metadata, "give finite numbers, as the image processor returns them.")
        return metadata.to(dtype)

    def hide(self, metadata: torch.Tensor, probability: float) -> torch.Tensor:
        """Take each field of each row (N, M) for unknown with a probability, independently of the others."""
        unknown = metadata.new_tensor(self.unknown)
        drawn = torch.rand(len(metadata), len(self.widths), device=metadata.device) < probability
        widths = torch.tensor(self.widths, device=metadata.device)
        return torch.where(drawn.repeat_interleave(widths, dim=1), unknown, metadata)

    def init_weights(self, module: nn.Module) -> None:
        """Draw the values of one of its linear layers (He et al. 2015); any other module is left alone."""
        if isinstance(module, nn.Linear) and any(module is layer for layer in self.layers):
            # transformers' 0.02 would let the signal die out over several layers.
            init.kaiming_normal_(module.weight, nonlinearity="relu")


class MetadataForLesionClassification(LesionForImageClassification):
    """An MLP on encoded records: (N, M) -> (N, C) logits; its features (N, D) are the last hidden layer."""

    config_class = MetadataLesionConfig
    config: MetadataLesionConfig
    main_input_name = "metadata"
    input_names = ("metadata",)

    def build(self) -> None:
        """Make the layers, at random."""
        config = self.config
        self.metadata_encoder = MetadataEncoder(config.metadata_fields, config.hidden_sizes, config.dropout)
        self.feature_dim = self.metadata_encoder.feature_dim
        self.dropout = nn.Dropout(config.dropout)
        self.head = self.build_head()

    def pretrained_parts(self) -> list[nn.Module]:
        """None: every layer starts at random."""
        return []

    def early_layers(self) -> list[nn.Module]:
        """None: it reads no image."""
        return []

    def hidden_layers(self) -> list[nn.Module]:
        """What follows each linear layer of the encoder: its ReLU."""
        return [layer for name, layer in self.metadata_encoder.layers.named_children() if name.startswith("relu")]

    def last_layer(self) -> None:
        """None: there is no map."""
        return

    def explained_layers(self) -> list[nn.Module]:
        """None: it reads no image."""
        return []

    def frozen_parts(self) -> list[nn.Module]:
        """None: there is no backbone."""
        return []

    def load_backbone(self, weights: str | os.PathLike[str]) -> str:
        """Refuse: there is no backbone to fill.

        Raises:
            BackboneWeightsError: always.
        """
        raise BackboneWeightsError(
            f"backbone weights {os.fspath(weights)!r} were given, but a metadata-only model has no backbone: give none."
        )

    def fixed_inputs(self) -> dict[str, torch.Tensor]:
        """A record (1, M) of which nothing is known."""
        return {"metadata": torch.tensor([self.metadata_encoder.unknown])}

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """ImageNet's; nothing reads pixels."""
        return list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD)

    def forward(  # type: ignore[override]
        self,
        metadata: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> LesionOutput | tuple[torch.Tensor, ...]:
        """Classify a batch.

        Args:
            metadata: (N, M), as the image processor returns it.
            labels: (N,) class indices, or (N, C) class probabilities; adds the loss.
            return_dict: False returns a tuple of the fields that are not None.
            pixel_values: (N, ...), not read; without metadata, their N is the number of unknown rows.
            output_hidden_states: add ``hidden_states``; None = as the config says.

        Raises:
            MetadataShapeError: ``metadata`` does not hold the model's fields, or there is no input at all.
        """
        like = metadata if metadata is not None else pixel_values
        if like is None:
            raise MetadataShapeError("metadata is None; give (N, M), as the model's own image processor returns it.")
        seen = self.run_encoder(self.metadata_encoder.rows(metadata, like), output_hidden_states=output_hidden_states)
        return self.answer(seen[0], self.classify(seen[0]), labels, return_dict, *seen[1:])

    def encode(self, metadata: torch.Tensor) -> torch.Tensor:
        """Encoded records (N, M) -> features (N, D)."""
        if self.training and self.config.metadata_dropout:
            metadata = self.metadata_encoder.hide(metadata, self.config.metadata_dropout)
        return self.metadata_encoder(metadata)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        self.metadata_encoder.init_weights(module)


class MetadataLesionModel(LesionFeatures, MetadataForLesionClassification):
    """Its features alone; what ``AutoModel`` loads."""
