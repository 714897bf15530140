"""The options of a classifier on any backbone; importing this file imports neither torch nor transformers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any, ClassVar

from datasets_scripts.command import UserError
from trainers.training.arguments import LesionArguments


@dataclass
class ImageArguments(LesionArguments):
    """The options of every classifier, and those of a classifier on any backbone."""

    backbone: str = field(
        default="mobilenetv2_100",
        metadata={
            "help": "NAME or timm/NAME, hf-hub:ORG/NAME or local-dir:DIR (timm's format), or transformers/ORG/NAME or "
            "transformers/DIR: the vision tower of CLIP, SigLIP, DINOv2, DINOv3, ViT, ConvNeXt, Swin or BiT."
        },
    )
    backbone_weights: str = field(
        default="pretrained",
        metadata={
            "help": "Where the backbone starts: pretrained (what --backbone names), none (random), a local "
            ".safetensors file, or another repository or folder of the same architecture."
        },
    )
    image_size: int = field(
        default=0, metadata={"help": "Side of the finished model's square input, pixels; 0 = the backbone's own."}
    )
    image_mean: str = field(
        default="",
        metadata={"help": "Channel means of pixels in [0, 1], e.g. 0.5,0.5,0.5; empty = the backbone's own."},
    )
    image_std: str = field(default="", metadata={"help": "Channel deviations likewise; empty = the backbone's own."})
    trainable_blocks: int = field(
        default=-1,
        metadata={
            "help": "How many of the last layers or stages of the backbone are trained; 0 = the head alone, -1 = all."
        },
    )
    lora_rank: int = field(
        default=0,
        metadata={
            "help": "Train low-rank adapters of this rank in the attention layers, and the head; the backbone's own "
            "weights stay fixed, and the adapters are merged into the finished model. 0 = off. Needs `pip install "
            "peft`."
        },
    )
    pretraining_data: str = field(
        default="",
        metadata={
            "help": "For the card: whether the images that the backbone was pretrained on may hold the test images, in "
            "your words; empty = what is known of it, else unknown."
        },
    )
    own_size: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Refuse values that no run could mean.

        Raises:
            UserError: names the option, its value and what it may be.
        """
        self.found: Any = None  # what describe_backbone found; no option, and not among the settings of a run
        super().__post_init__()
        if self.trainable_blocks < -1:
            raise UserError(f"trainable_blocks {self.trainable_blocks}: give 0 or more, or -1 for all")
        self.check_lora()
        self.pixel_statistics()

    def check_lora(self) -> None:
        """Refuse a rank that no adapter could have, or adapters that cannot be made here.

        Raises:
            UserError: names the option and what to do.
        """
        if self.lora_rank < 0:
            raise UserError(f"lora_rank {self.lora_rank}: give 1 or more, e.g. 8; 0 switches it off")
        if self.lora_rank and self.trainable_blocks >= 0:
            raise UserError(
                f"lora_rank {self.lora_rank}, trainable_blocks {self.trainable_blocks}: both choose what is trained; "
                "give one of them"
            )
        if self.lora_rank and importlib.util.find_spec("peft") is None:
            raise UserError(f"lora_rank {self.lora_rank} needs the package peft: pip install peft")

    def backbone_fields(self) -> dict[str, Any]:
        """The fields of the configuration that build this backbone without any download; sets what it itself decides.

        Raises:
            UserError: as :meth:`settle_backbone`.
        """
        self.settle_backbone()
        fields = dict(self.described().fields)
        return fields if self.trainable_blocks < 0 else {**fields, "trainable_blocks": self.trainable_blocks}

    def described(self) -> Any:
        """The backbone as its files describe it (``hub_models.checkpoint_image.Backbone``), read once.

        Raises:
            UserError: there is no such backbone, or its files cannot be read.
        """
        if self.found is None:
            from hub_models import describe_backbone

            try:
                self.found = describe_backbone(self.backbone)
            except (ValueError, OSError) as error:
                raise UserError(f"{error}") from error
        return self.found

    def settle_backbone(self) -> None:
        """Put the backbone's own weights and image size where the options leave them to it.

        Raises:
            UserError: as :meth:`described`; its files state no image size.
        """
        found = self.described()
        if self.backbone_weights == "pretrained":
            self.backbone_weights = found.weights
        if self.image_size == 0:
            if found.preprocessing is None:
                raise UserError(f"image_size 0: {self.backbone!r} states no image size of its own; give --image_size")
            self.image_size = found.preprocessing.size

    def pixel_statistics(self) -> tuple[list[float], list[float]] | None:
        """Channel mean and deviation that were given; None = those of the first weights.

        Raises:
            UserError: one without the other, or not three numbers.
        """
        if not self.image_mean and not self.image_std:
            return None
        mean, std = three_numbers("image_mean", self.image_mean), three_numbers("image_std", self.image_std)
        if min(std) <= 0:
            raise UserError(f"image_std {self.image_std!r}: give three numbers above 0")
        return mean, std


def three_numbers(name: str, text: str) -> list[float]:
    """Three numbers separated by commas.

    Raises:
        UserError: other text.
    """
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3:
        raise UserError(f"{name} {text!r}: give three numbers separated by commas, e.g. 0.5,0.5,0.5")
    return values
