"""Configuration of the ISIC 2017 classifier: ResNet-50 under a classifier of several fully connected layers."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from .configuration_lesion import LesionConfig, LesionConfigError


class ResNetLesionConfig(LesionConfig):
    """ResNet-50 at 224 px with a head of several layers, each but the last with ReLU and dropout, as published.

    The published system froze the backbone (``freeze_backbone``) and did not print its layers' widths: 512 and 256 are
    ours. Any CNN of timm may take the backbone's place.
    Paper: He et al. 2016, Deep Residual Learning for Image Recognition.

    Args:
        hidden_sizes: widths of the head's hidden layers, each at least 1; empty = one linear layer.

    Raises:
        LesionConfigError: a width is not a positive whole number, or a shared value is wrong.
    """

    model_type = "lesion_resnet"

    backbone: str = "resnet50"
    hidden_sizes: list[int] = field(default_factory=lambda: [512, 256])

    def check(self) -> None:
        """Check every value, the head's widths included."""
        super().check()
        self._check_hidden_sizes()

    def _check_hidden_sizes(self) -> None:
        sizes: Any = self.hidden_sizes
        fine = isinstance(sizes, (list, tuple))
        if not fine or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
            raise LesionConfigError(
                f"hidden_sizes is {sizes!r}; give a list of whole numbers of at least 1, e.g. [512, 256], or []."
            )
