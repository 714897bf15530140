"""The ISIC 2017 classifier: ResNet-50, often frozen, under fully connected layers with ReLU and dropout."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from transformers import initialization as init

from .configuration_resnet import ResNetLesionConfig
from .modeling_lesion import LesionForImageClassification
from .output_lesion import LesionFeatures


class ResNetForLesionClassification(LesionForImageClassification):
    """ResNet-50 (or any other CNN of timm named in the config) and a head of several layers: (N, 3, S, S) -> (N, C).

    The head runs dropout, then a linear layer, ReLU and dropout for each of ``hidden_sizes``, then the layer of logits.
    """

    config_class = ResNetLesionConfig
    config: ResNetLesionConfig

    def build_head(self) -> nn.Module:
        """Build the layers that map features (N, D) to raw logits (N, C); the last one is called ``logits``."""
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = self.feature_dim
        for number, size in enumerate(self.config.hidden_sizes, start=1):
            layers[f"hidden{number}"] = nn.Linear(width, size)
            layers[f"relu{number}"] = nn.ReLU()
            layers[f"dropout{number}"] = nn.Dropout(self.config.dropout)
            width = size
        layers["logits"] = nn.Linear(width, len(self.config.labels))
        return nn.Sequential(layers)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        hidden = [layer for name, layer in self.head.named_children() if name.startswith("hidden")]
        for layer in hidden:
            if module is layer:
                # transformers' 0.02 would let the signal die out over several layers (He et al. 2015).
                init.kaiming_normal_(layer.get_parameter("weight"), nonlinearity="relu")


class ResNetLesionModel(LesionFeatures, ResNetForLesionClassification):
    """Its features alone; what ``AutoModel`` loads."""
