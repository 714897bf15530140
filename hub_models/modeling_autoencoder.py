"""The autoencoder: image -> D codes -> image.

``model.encode(pixel_values)`` gives the codes (N, D), ``model.decode(codes)`` draws the images (N, 3, S, S), and
``model.to_images`` turns what the network works with into pixels in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_autoencoder import GROUPS, AutoencoderLesionConfig
from .storage_lesion import LesionPreTrainedModel

# The layers whose first values are drawn here.
Drawn = nn.Conv2d | nn.Linear | nn.ConvTranspose2d


class AutoencoderInputError(ValueError):
    """Images or codes that are not what the network was built for, or that hold NaN or infinity."""


@dataclass
class AutoencoderOutput(ModelOutput):
    """What an autoencoder returns.

    Attributes:
        loss: () mean squared error of pixels in [0, 1]; only with a target.
        codes: (N, D). The first field without a target, so that the pipeline ``image-feature-extraction`` gives them.
        reconstruction: (N, 3, S, S) in the units of ``pixel_values``; ``to_images`` makes pixels in [0, 1] of it.
    """

    loss: torch.Tensor | None = None
    codes: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None


class ResidualBlock(nn.Module):
    """(N, C, H, W) -> the same shape: two 3 x 3 convolutions on the normalised map, added to it.

    Pre-activation (He et al. 2016, "Identity Mappings in Deep Residual Networks"), group norm (Wu and He 2018), SiLU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, channels)
        self.conv2 = scaled(nn.Conv2d(channels, channels, 3, padding=1), 0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        inner = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(inner)))


def encoder_stage(block: str, narrow: int, wide: int) -> nn.Module:
    """One stage of the encoder: (N, narrow, 2h, 2w) -> (N, wide, h, w)."""
    if block == "plain":
        return nn.Sequential(nn.Conv2d(narrow, wide, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    return nn.Sequential(nn.Conv2d(narrow, wide, 3, stride=2, padding=1), ResidualBlock(wide))


def doubling(upsampling: str, channels: int, out: int) -> nn.Module:
    """Twice the side: (N, channels, h, w) -> (N, out, 2h, 2w).

    Every pixel of a resize-convolution is made by the same filter. A transpose convolution makes the pixels of a cell
    by filters of their own, and what these do not share stands in the image as a grid of the stride's period.
    """
    if upsampling == "transpose":
        return nn.ConvTranspose2d(channels, out, 2, stride=2)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels, out, 3, padding=1))


def decoder_stage(block: str, upsampling: str, channels: int, out: int) -> nn.Module:
    """One stage of the decoder: (N, channels, h, w) -> (N, out, 2h, 2w)."""
    doubled = doubling(upsampling, channels, out)
    return nn.Sequential(doubled, nn.ReLU() if block == "plain" else ResidualBlock(out))


def colours(block: str, upsampling: str, channels: int) -> nn.Module:
    """The decoder's end: (N, channels, h, w) -> (N, 3, 2h, 2w), before the sigmoid."""
    if block == "plain":
        return doubling(upsampling, channels, 3)
    # No norm here: it would take each image's own brightness and contrast away just before they are drawn.
    # Half the width: at the image's own size a channel costs most and adds least.
    last = scaled(nn.Conv2d(channels // 2, 3, 3, padding=1), 0.1)
    return nn.Sequential(doubling(upsampling, channels, channels // 2), nn.SiLU(), last)


def scaled(layer: Drawn, gain: float) -> Drawn:
    """Note by what factor a layer's first values are smaller than those that keep the signal's size."""
    layer.first_gain = gain  # type: ignore[assignment]
    return layer


class LinearBottleneck(nn.Module):
    """A map (N, C, g, g) -> codes (N, D), and back: a 1 x 1 convolution to few channels, then one linear layer.

    Args:
        channels: C, of the map it is given.
        squeezed: channels between convolution and linear layer.
        grid: g.
        code_size: D.
        out: channels of the map that it gives back.
    """

    def __init__(self, channels: int, squeezed: int, grid: int, code_size: int, out: int) -> None:
        super().__init__()
        self.shape = (squeezed, grid, grid)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.to_codes = nn.Linear(squeezed * grid**2, code_size)
        self.from_codes = nn.Linear(code_size, squeezed * grid**2)
        self.widen = nn.Conv2d(squeezed, out, 1)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, g, g) -> (N, D)."""
        return self.to_codes(self.squeeze(x).flatten(1))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N, out, g, g)."""
        return self.widen(self.from_codes(codes).unflatten(1, self.shape))


class MapBottleneck(nn.Module):
    """The map itself, flattened: (N, C, g, g) <-> (N, C g g); no parameters."""

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        self.shape = (channels, grid, grid)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, g, g) -> (N, C g g)."""
        return x.flatten(1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(N, C g g) -> (N, C, g, g)."""
        return codes.unflatten(1, self.shape)


class AutoencoderLesionModel(LesionPreTrainedModel):
    """A convolutional autoencoder of lesion images: (N, 3, S, S) -> codes (N, D) -> (N, 3, S, S).

    Args:
        config: an :class:`AutoencoderLesionConfig`; it names the shape.
    """

    config_class = AutoencoderLesionConfig
    config: AutoencoderLesionConfig
    main_input_name = "pixel_values"
    input_names: tuple[str, ...] = ("pixel_values",)

    def __init__(self, config: AutoencoderLesionConfig) -> None:
        super().__init__(config)
        config.check()
        widths, grid, block = list(config.encoder_channels), config.grid, config.block
        drawn = list(config.decoder_channels or [])
        self.encoder = nn.Sequential(
            *(encoder_stage(block, a, b) for a, b in zip([3, *widths], widths, strict=False))  # one stage a width
        )
        if config.bottleneck == "linear":
            self.bottleneck: nn.Module = LinearBottleneck(
                widths[-1], config.squeeze_channels, grid, int(config.code_size or 0), widths[-1]
            )
        else:
            self.bottleneck = MapBottleneck(widths[-1], grid)
        stages = [
            decoder_stage(block, config.upsampling, a, b) for a, b in zip([widths[-1], *drawn], drawn, strict=False)
        ]
        self.decoder = nn.Sequential(*stages, colours(block, config.upsampling, [widths[-1], *drawn][-1]))
        self.post_init()

    def fixed_outputs(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The codes (1, D)."""
        return self(**inputs, return_dict=True).codes

    def forward(
        self, pixel_values: torch.Tensor, target: torch.Tensor | None = None, return_dict: bool | None = None
    ) -> AutoencoderOutput | tuple[torch.Tensor, ...]:
        """Encode a batch and decode it.

        Args:
            pixel_values: (N, 3, S, S), as the image processor returns them.
            target: (N, 3, S, S), what should have been drawn, in the same units; adds the loss. The clean images,
                where ``pixel_values`` are noisy ones.
            return_dict: False returns a tuple of the fields that are not None.

        Raises:
            AutoencoderInputError: another shape, or pixels that are no numbers.
        """
        codes = self.encode(pixel_values)
        reconstruction = self.decode(codes)
        loss = None
        if target is not None:
            self.check_pixels(target)
            loss = functional.mse_loss(self.to_images(reconstruction), self.to_images(target))
        output = AutoencoderOutput(loss=loss, codes=codes, reconstruction=reconstruction)
        use_dict = self.config.return_dict if return_dict is None else return_dict
        return output if use_dict else output.to_tuple()

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, S, S), as the image processor returns them -> codes (N, D).

        Raises:
            AutoencoderInputError: another shape, or pixels that are no numbers.
        """
        return self.bottleneck.encode(self.encoder(self.check_pixels(pixel_values)))  # type: ignore[operator]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (N, D) -> images (N, 3, S, S) in the units of ``pixel_values``.

        Raises:
            AutoencoderInputError: another shape, or codes that are no numbers.
        """
        if codes.ndim != 2 or codes.shape[1] != self.config.code_size:
            raise AutoencoderInputError(
                f"codes have the shape {tuple(codes.shape)}; give (N, {self.config.code_size}), as encode returns them."
            )
        drawn = torch.sigmoid(self.decoder(self.bottleneck.decode(finite("codes", self._typed(codes)))))  # type: ignore[operator]
        mean, std = self._statistics(drawn)
        return (drawn - mean) / std

    def to_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Undo the image processor's normalisation: (N, 3, H, W) in its units -> float32 pixels in [0, 1].

        What rounding puts outside is clipped; a reconstruction lies inside by its sigmoid.
        """
        mean, std = self._statistics(pixels.float())
        return (pixels.float() * std + mean).clamp(0.0, 1.0)

    def check_pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Check shape (N, 3, S, S) and values, and bring the pixels to the weights' floating type.

        Raises:
            AutoencoderInputError: names the shape received, or that there are NaN or infinite pixels.
        """
        side = self.config.image_size
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != (3, side, side):
            raise AutoencoderInputError(
                f"pixel_values has the shape {tuple(pixel_values.shape)}; give (N, 3, {side}, {side}), as the model's "
                "own image processor returns them."
            )
        return finite("pixel_values", self._typed(pixel_values))

    def _typed(self, values: torch.Tensor) -> torch.Tensor:
        # The replicas of DataParallel have no parameters to list: they take the values as they are.
        return values.to(next((weight.dtype for weight in self.parameters()), values.dtype))

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation (3, 1, 1), of the config: a buffer that no checkpoint holds comes back as garbage."""
        mean, std = like.new_tensor(self.config.image_mean), like.new_tensor(self.config.image_std)
        return mean[:, None, None], std[:, None, None]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw first values: transformers' 0.02 would let the signal die out over several stages.

        Plain shapes as PyTorch draws them, as published; residual ones so that they begin as a linear network.
        """
        if isinstance(module, Drawn):
            if self.config.block == "plain":
                draw_as_pytorch(module)
            else:
                draw_linear(module)
        elif isinstance(module, nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)


def draw_as_pytorch(module: Drawn) -> None:
    """What ``reset_parameters`` of a convolution or linear layer does: uniform, deviation sqrt(1 / (3 fan-in))."""
    init.kaiming_uniform_(module.weight, a=math.sqrt(5))
    bound = 1 / math.sqrt(module.weight[0].numel())
    if module.bias is not None:
        init.uniform_(module.bias, -bound, bound)


def draw_linear(module: Drawn) -> None:
    """Normal values of variance g ** 2 / n, where n values feed one output; the bias is 0.

    With gains g = 1 the signal keeps its size. A residual block's last convolution has 0, the decoder's last one 0.1:
    at first the blocks do nothing (Zhang, Dauphin and Ma 2019, "Fixup Initialization"), the network is almost linear
    from the image to the codes and back, and it draws an even grey.
    """
    # Of a transpose convolution whose kernel is its stride, one tap a channel feeds each pixel.
    fed = module.in_channels if isinstance(module, nn.ConvTranspose2d) else module.weight[0].numel()
    init.normal_(module.weight, std=float(getattr(module, "first_gain", 1.0)) / math.sqrt(fed))
    if module.bias is not None:
        init.zeros_(module.bias)


def finite(name: str, values: torch.Tensor) -> torch.Tensor:
    """``values`` themselves, if every one is a finite number.

    Raises:
        AutoencoderInputError: names how many are not.
    """
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(values).all()):
        wrong = int((~torch.isfinite(values)).sum())
        raise AutoencoderInputError(
            f"{name}: {wrong} of {values.numel()} values are NaN or infinite; give finite numbers (was an image "
            "damaged, or divided by 0?)."
        )
    return values
