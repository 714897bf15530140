"""Configuration of the autoencoder: images of lesions encoded as a few numbers, and decoded from them.

Its defaults are the larger shape that the published one's author proposed: deeper filters, a linear bottleneck, ten
times the parameters, upsampling in place of transpose convolutions. :data:`PUBLISHED_SHAPE` are the published values.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

# Before transformers, whose version it checks.
from .checks_lesion import DTYPES, LARGEST_IMAGE, about_problem, brief, is_dtype, is_number, is_whole

# isort: split
from transformers import PreTrainedConfig

BLOCKS = ("residual", "plain")
BOTTLENECKS = ("linear", "map")
UPSAMPLINGS = ("resize", "transpose")
# Limits of a config from elsewhere: the model must fit into time and memory.
MOST_STAGES = 12
LARGEST_WIDTH = 8192
LARGEST_CODE = 1_000_000
# Of the largest linear layer of the bottleneck.
MOST_WEIGHTS = 500_000_000
# A group norm's groups; the widths of a residual shape are multiples of it.
GROUPS = 8
# Sagardia 2022: five convolutions with ReLU and max-pooling, five transpose convolutions of kernel 2 and stride 2,
# 8 x 7 x 7 = 392 codes of an image of 224 x 224 pixels, 755,659 parameters.
PUBLISHED_SHAPE: dict[str, Any] = {
    "encoder_channels": [64, 128, 256, 64, 8],
    "decoder_channels": [64, 256, 128, 64],
    "block": "plain",
    "bottleneck": "map",
    "code_size": None,
    "upsampling": "transpose",
}


class AutoencoderConfigError(ValueError):
    """A configuration value that no autoencoder can work with. The message names the value and what to do."""


class AutoencoderLesionConfig(PreTrainedConfig):
    """A convolutional autoencoder of L stages, each halving the image's side.

    Args:
        image_size: side S of the square input in pixels; a multiple of 2 ** L.
        encoder_channels: width of each of the L stages, from the input on.
        decoder_channels: width after each of the first L - 1 doublings of the decoder; the last one gives three
            colours. None = the encoder's widths backwards.
        block: ``residual`` (a convolution of stride 2 and a residual block, group norms, SiLU) or ``plain`` (a
            convolution, ReLU and max-pooling, as published).
        bottleneck: ``linear`` (squeezed by a 1 x 1 convolution, then one linear layer each way) or ``map`` (the codes
            are the last stage's map itself, as published).
        code_size: D, how many numbers an image is pressed into. With ``map`` it follows from the shape; None there.
        squeeze_channels: width of the map on either side of the linear layers.
        upsampling: ``resize`` (nearest neighbour, then a convolution: Odena, Dumoulin and Olah, "Deconvolution and
            Checkerboard Artifacts", Distill 2016) or ``transpose`` (transpose convolutions of kernel 2 and stride 2, as
            published).
        image_mean: channel mean that the image processor subtracts, of pixels in [0, 1].
        image_std: channel deviation that it divides by, > 0.
        self_check: ``outputs``: the codes of a fixed image when the model was saved (``self_check_lesion``).
        suite_version: of the suite that saved it.
        model_version: of the model, as its publisher counts (semantic versions).

    Raises:
        AutoencoderConfigError: a value is out of its range, or values do not go together.
    """

    model_type = "lesion_autoencoder"

    image_size: int = 224
    encoder_channels: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 256])
    decoder_channels: list[int] | None = None
    block: str = "residual"
    bottleneck: str = "linear"
    code_size: int | None = 392
    squeeze_channels: int = 32
    upsampling: str = "resize"
    image_mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    image_std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    self_check: dict[str, Any] = field(default_factory=dict)
    suite_version: str | None = None
    model_version: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # transformers ends in an error that does not name them.
        for name, dtype in (("dtype", self.dtype), ("torch_dtype", kwargs.get("torch_dtype"))):
            if not is_dtype(dtype):
                raise AutoencoderConfigError(
                    f"{name} is {brief(dtype)}; give one of {', '.join(DTYPES)}, or leave it out."
                )
        if not isinstance(self.id2label, (dict, type(None))):
            raise AutoencoderConfigError(f"id2label is {brief(self.id2label)}; leave it out: an autoencoder has none.")
        super().__post_init__(**kwargs)
        if self.decoder_channels is None and _are_widths(self.encoder_channels):
            self.decoder_channels = list(self.encoder_channels[-2::-1])
        self.check()
        if self.bottleneck == "map":
            self.code_size = self.encoder_channels[-1] * self.grid**2

    @property
    def reduction(self) -> int:
        """How many pixels of the image's side stand behind one of the bottleneck's: 2 ** L."""
        return 2 ** len(self.encoder_channels)

    @property
    def grid(self) -> int:
        """Side of the map at the bottleneck, S / 2 ** L."""
        return self.image_size // self.reduction

    def check(self) -> None:
        """Check every value; called on construction, by the model's constructor and before saving.

        Raises:
            AutoencoderConfigError: names the value received and what to do.
        """
        if problem := about_problem(self):
            raise AutoencoderConfigError(problem)
        for name, allowed in (("block", BLOCKS), ("bottleneck", BOTTLENECKS), ("upsampling", UPSAMPLINGS)):
            if getattr(self, name) not in allowed:
                raise AutoencoderConfigError(
                    f"{name} is {brief(getattr(self, name))}; choose one of {', '.join(allowed)}."
                )
        self._check_widths()
        size = self.image_size
        if not is_whole(size, 1, LARGEST_IMAGE) or size % self.reduction:
            raise AutoencoderConfigError(
                f"image_size is {brief(size)}; {len(self.encoder_channels)} stages halve the image as often: give a "
                f"multiple of {self.reduction} pixels, at most {LARGEST_IMAGE}."
            )
        self._check_codes()
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            fine = isinstance(values, (list, tuple)) and len(values) == 3 and all(map(is_number, values))
            if not fine or (name == "image_std" and min(values) <= 0):
                above = " above 0" if name == "image_std" else ""
                raise AutoencoderConfigError(
                    f"{name} is {brief(values)}; give three finite numbers{above}, one a channel."
                )

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Check the values once more, since they may have changed since construction, then write ``config.json``."""
        self.check()
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _check_widths(self) -> None:
        for name, least in (("encoder_channels", 2), ("decoder_channels", 1)):
            widths = getattr(self, name)
            if not _are_widths(widths, least):
                raise AutoencoderConfigError(
                    f"{name} is {brief(widths)}; give a list of {least} to {MOST_STAGES} whole numbers from 1 to "
                    f"{LARGEST_WIDTH}."
                )
            odd = [width for width in widths if width % GROUPS]
            if self.block == "residual" and odd:
                raise AutoencoderConfigError(
                    f"{name} is {widths!r}; residual blocks are normalised in {GROUPS} groups: give multiples of that."
                )
        decoder = self.decoder_channels or []
        if len(decoder) != len(self.encoder_channels) - 1:
            raise AutoencoderConfigError(
                f"decoder_channels is {decoder!r} for {len(self.encoder_channels)} stages of the encoder; give "
                f"{len(self.encoder_channels) - 1} widths (the last doubling gives the three colours), or leave it out."
            )

    def _check_codes(self) -> None:
        size = self.code_size
        if self.bottleneck == "linear":
            if not is_whole(size, 1, LARGEST_CODE):
                raise AutoencoderConfigError(
                    f"code_size is {brief(size)}; give a whole number of codes from 1 to {LARGEST_CODE}."
                )
            squeezed = self.squeeze_channels
            if not is_whole(squeezed, 1, LARGEST_WIDTH):
                raise AutoencoderConfigError(
                    f"squeeze_channels is {brief(squeezed)}; give a whole number of channels from 1 to {LARGEST_WIDTH}."
                )
            weights = int(size or 0) * squeezed * self.grid**2
            if weights > MOST_WEIGHTS:
                raise AutoencoderConfigError(
                    f"code_size {size} and squeeze_channels {squeezed} of {self.grid} x {self.grid} places make a "
                    f"layer of {weights:,} weights; give smaller ones (at most {MOST_WEIGHTS:,})."
                )
            return
        follows = self.encoder_channels[-1] * self.grid**2
        if size not in (None, follows):
            raise AutoencoderConfigError(
                f"code_size is {size!r}, but a bottleneck that is a map of {self.encoder_channels[-1]} channels and "
                f"{self.grid} x {self.grid} places has {follows} codes; leave code_size out, or make it linear."
            )


def _are_widths(values: Any, least: int = 2) -> bool:
    fine = isinstance(values, (list, tuple)) and least <= len(values) <= MOST_STAGES
    return fine and all(is_whole(value, 1, LARGEST_WIDTH) for value in values)
