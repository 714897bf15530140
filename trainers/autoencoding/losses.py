"""How far a reconstruction is from its image: a pixel, by structure (SSIM), and by what a backbone sees of both.

All take batches (N, 3, H, W) of pixels in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn import functional

from datasets_scripts.command import UserError
from hub_models.backbone_lesion import build_timm_backbone, load_backbone_file, load_timm_weights
from trainers.autoencoding.options import PIXEL_LOSSES

# Wang, Bovik, Sheikh and Simoncelli 2004: a Gaussian window of 11 x 11 pixels, and the constants that keep the ratios
# of flat windows defined, for values in [0, 1].
WINDOW, SIGMA, C1, C2 = 11, 1.5, 0.01**2, 0.03**2
LEAST_MSE = 1e-10


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, higher = closer: ``-10 log10(mse)``; at most 100.

    Args:
        images: (N, 3, H, W) in [0, 1].
        target: of the same shape.

    Returns:
        (N,) float32.
    """
    mse = (images.float() - target.float()).square().mean(dim=(1, 2, 3))
    return -10.0 * torch.log10(mse.clamp(min=LEAST_MSE))


def ssim(images: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image, in [-1, 1], higher = closer; 1 = the same.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 13, 2004, equation
    13, in Gaussian windows that lie wholly inside the image, averaged over windows and colours.

    Args:
        images: (N, 3, H, W) in [0, 1]; sides of at least 11 pixels.
        target: of the same shape.

    Returns:
        (N,) float32.

    Raises:
        UserError: the images are smaller than a window.
    """
    if min(images.shape[-2:]) < WINDOW:
        raise UserError(f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels, these have {tuple(images.shape)}")
    n, channels = images.shape[:2]
    # In half precision the variances, small differences of large numbers, would be lost.
    with torch.autocast(images.device.type, enabled=False):
        x, y = images.float(), target.float()
        kernel = gaussian_window(x)

        def blurred(values: Tensor) -> Tensor:
            rows = functional.conv2d(values, kernel[:, :, None, :].expand(values.shape[1], 1, 1, -1), groups=channels)
            return functional.conv2d(rows, kernel[:, :, :, None].expand(values.shape[1], 1, -1, 1), groups=channels)

        mean_x, mean_y = blurred(x), blurred(y)
        var_x = blurred(x * x) - mean_x.square()
        var_y = blurred(y * y) - mean_y.square()
        cov = blurred(x * y) - mean_x * mean_y
        alike = (2 * mean_x * mean_y + C1) * (2 * cov + C2)
        apart = (mean_x.square() + mean_y.square() + C1) * (var_x + var_y + C2)
        return (alike / apart).reshape(n, -1).mean(dim=1)


def gaussian_window(like: Tensor) -> Tensor:
    """The window along one axis, (1, 1, 11), adding up to 1."""
    places = torch.arange(WINDOW, dtype=torch.float32, device=like.device) - WINDOW // 2
    weights = torch.exp(-places.square() / (2 * SIGMA**2))
    return (weights / weights.sum())[None, None]


class PerceptualDistance:
    """Mean squared distance between a backbone's features of two images, at several depths; 0 = no difference.

    Each place's features are brought to unit length over the channels first, as LPIPS does (Zhang et al. 2018, "The
    Unreasonable Effectiveness of Deep Features as a Perceptual Metric"), without its learned weights.

    Args:
        backbone: timm's name of a CNN.
        weights: ``timm``, or a local safetensors file.

    Raises:
        UserError: no such backbone, no such weights, or a backbone that names no stages.
    """

    def __init__(self, backbone: str, weights: str) -> None:
        try:
            self.network, _ = build_timm_backbone(backbone)
            if weights == "timm":
                load_timm_weights(self.network, backbone)
            else:
                load_backbone_file(self.network, weights)
        except (ValueError, OSError) as error:
            raise UserError(f"perceptual loss: {error}") from error
        stages: Any = getattr(self.network, "feature_info", None) or []
        # The last stages know classes and hardly places.
        names = [stage["module"] for stage in stages if stage.get("reduction", 64) <= 16]
        if not names:
            raise UserError(f"perceptual_backbone {backbone!r} names no stages to compare: give a CNN of timm")
        self.network.eval().requires_grad_(False)
        self.seen: dict[str, Tensor] = {}
        for name in names:
            self.network.get_submodule(name).register_forward_hook(self._keep(name))

    def __call__(self, images: Tensor, target: Tensor) -> Tensor:
        """(N, 3, H, W) twice -> ()."""
        self.network.to(images.device)
        ours = self._features(images)
        with torch.no_grad():
            theirs = self._features(target)
        parts = [(ours[name] - theirs[name]).square().sum(dim=1).mean() for name in ours]
        return torch.stack(parts).mean()

    def _features(self, images: Tensor) -> dict[str, Tensor]:
        mean, std = images.new_tensor(IMAGENET_DEFAULT_MEAN), images.new_tensor(IMAGENET_DEFAULT_STD)
        self.seen = {}
        self.network((images - mean[:, None, None]) / std[:, None, None])
        return {name: functional.normalize(values.float(), dim=1, eps=1e-6) for name, values in self.seen.items()}

    def _keep(self, name: str) -> Callable[..., None]:
        return lambda module, inputs, output: self.seen.__setitem__(name, output)


class ReconstructionLoss:
    """``pixel + ssim_weight (1 - SSIM) + perceptual_weight perceptual``, of pixels in [0, 1].

    Args:
        pixel: ``mse`` (what PSNR measures) or ``l1``.
        ssim_weight: at least 0.
        perceptual_weight: at least 0.
        perceptual: the distance; needed where its weight is above 0.
    """

    def __init__(
        self,
        pixel: str = "mse",
        ssim_weight: float = 0.0,
        perceptual_weight: float = 0.0,
        perceptual: PerceptualDistance | None = None,
    ) -> None:
        if pixel not in PIXEL_LOSSES:
            raise UserError(f"loss {pixel!r} is unknown: choose one of {', '.join(PIXEL_LOSSES)}")
        if perceptual_weight and perceptual is None:
            raise UserError(f"perceptual_weight {perceptual_weight!r} without a backbone: give perceptual_backbone")
        self.pixel = functional.mse_loss if pixel == "mse" else functional.l1_loss
        self.ssim_weight, self.perceptual_weight, self.perceptual = ssim_weight, perceptual_weight, perceptual

    def __call__(self, images: Tensor, target: Tensor) -> Tensor:
        """Reconstructions and images (N, 3, H, W) -> ()."""
        loss = self.pixel(images.float(), target.float())
        if self.ssim_weight:
            loss = loss + self.ssim_weight * (1.0 - ssim(images, target)).mean()
        if self.perceptual_weight and self.perceptual is not None:
            loss = loss + self.perceptual_weight * self.perceptual(images, target)
        return loss
