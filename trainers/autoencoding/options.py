"""The options of an autoencoder's training: those of the suite that apply to it, and its own."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from typing import Any

from datasets_scripts.command import UserError
from trainers.training.arguments import AUGMENTATIONS, LesionArguments

PIXEL_LOSSES = ("mse", "l1")
TURNS = "turns"


def _of_classifiers(default: Any) -> Any:
    """An option that only a classifier has: not in --help, and refused when it is given."""
    return field(default=default, metadata={"help": argparse.SUPPRESS})


@dataclass
class AutoencoderArguments(LesionArguments):
    """The suite's options for an autoencoder; everything else is a field of ``transformers.TrainingArguments``."""

    model_config: str = field(
        default="",
        metadata={
            "help": "Fields of the autoencoder's configuration as JSON (in a recipe: as a mapping), e.g. "
            "'{\"code_size\": 128}': its shape, bottleneck and way of upsampling."
        },
    )
    augmentation: str = field(
        default="turns",
        metadata={
            "help": "Training augmentation: turns (flips and quarter turns, every pixel kept), none, flips_rotation, "
            "crops_colour or wide_crops."
        },
    )
    loss: str = field(
        default="mse", metadata={"help": f"Loss a pixel, of colours in [0, 1]: {' or '.join(PIXEL_LOSSES)}."}
    )
    ssim_weight: float = field(
        default=0.0, metadata={"help": "Weight of 1 - SSIM, added to the loss per pixel; 0 leaves it out."}
    )
    perceptual_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the distance between a backbone's features of both images; 0 = off."},
    )
    perceptual_backbone: str = field(
        default="mobilenetv2_100", metadata={"help": "timm name of the backbone of the perceptual loss."}
    )
    perceptual_weights: str = field(
        default="timm", metadata={"help": "Its weights: timm (the Hub), or a local .safetensors file."}
    )
    noise_std: float = field(
        default=0.0,
        metadata={
            "help": "Denoising: deviation of the Gaussian noise added to what the encoder sees in training, of colours "
            "in [0, 1]; the clean image stays the target. 0 = off."
        },
    )
    linear_reference: bool = field(
        default=True,
        metadata={
            "help": "Also evaluate a linear code of the same size (principal components of the training images)."
        },
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Epochs without a better validation value before stopping; 0 never stops."}
    )

    leave_out: str = _of_classifiers("")
    backbone: str = _of_classifiers("")
    backbone_weights: str = _of_classifiers("timm")
    metadata_weights: str = _of_classifiers("")
    dropout: float = _of_classifiers(0.2)
    train_image_size: int = _of_classifiers(0)
    class_weights: str = _of_classifiers("none")
    focal_gamma: float = _of_classifiers(2.0)
    keep_features: bool = _of_classifiers(True)

    def __post_init__(self) -> None:
        """Refuse values that no run could mean, and options that only a classifier has.

        Raises:
            UserError: names the option, its value and what it may be.
        """
        for option in fields(self):
            value = getattr(self, option.name)
            if option.metadata.get("help") == argparse.SUPPRESS and value != option.default:
                raise UserError(f"{option.name} {value!r}: an autoencoder has no such option; leave it out")
        super().__post_init__()
        for name in ("ssim_weight", "perceptual_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} {getattr(self, name)!r}: give a number of at least 0; 0 leaves it out")
        if not 0.0 <= self.noise_std <= 1.0:
            raise UserError(f"noise_std {self.noise_std!r}: give a deviation in [0, 1] of colours in [0, 1]")

    def choices(self) -> dict[str, tuple[str, ...]]:
        """Option -> the values that it may have."""
        return super().choices() | {"augmentation": (TURNS, *AUGMENTATIONS), "loss": PIXEL_LOSSES}
