"""PSNR, SSIM and the losses made of them, against values worked out by hand and against torchmetrics."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from datasets_scripts.command import UserError
from hub_models.backbone_lesion import build_timm_backbone
from trainers.autoencoding.losses import PerceptualDistance, ReconstructionLoss, gaussian_window, psnr, ssim


def smooth(n: int, side: int = 40, seed: int = 0) -> torch.Tensor:
    """Smooth random images (n, 3, side, side) in [0, 1]."""
    coarse = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


def noisy(images: torch.Tensor, deviation: float = 0.1) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    return (images + deviation * noise).clamp(0, 1)


def test_psnr_by_hand() -> None:
    target = torch.full((3, 3, 16, 16), 0.5)
    images = target.clone()
    images[0] += 0.1  # mean squared error 0.01: 20 dB
    images[1, 0] += 0.1  # a third of it
    found = psnr(images, target)
    assert found[0].item() == pytest.approx(20.0, abs=1e-4)
    assert found[1].item() == pytest.approx(20.0 + 10 * math.log10(3), abs=1e-4)
    assert found[2].item() == 100.0  # the same image


def test_psnr_is_that_of_torchmetrics() -> None:
    target = smooth(4)
    images = noisy(target)
    for row, value in enumerate(psnr(images, target)):
        theirs = peak_signal_noise_ratio(images[row : row + 1], target[row : row + 1], data_range=1.0)
        assert value.item() == pytest.approx(theirs.item(), abs=1e-4)


@pytest.mark.parametrize("side", [11, 40, 64])
def test_ssim_is_that_of_torchmetrics(side: int) -> None:
    """Window by window; only theirs also takes windows of a mirrored border into its mean."""
    target = smooth(4, side)
    images = torch.cat([noisy(target[:2]), 1 - target[2:]])
    if side == 11:  # a single window: the weighted moments of the whole image, once more in double precision
        weights = torch.outer(gaussian_window(target)[0, 0], gaussian_window(target)[0, 0]).double()
        x, y = images.double(), target.double()
        mean_x, mean_y = (x * weights).sum((2, 3)), (y * weights).sum((2, 3))
        var_x = (x.square() * weights).sum((2, 3)) - mean_x.square()
        var_y = (y.square() * weights).sum((2, 3)) - mean_y.square()
        cov = (x * y * weights).sum((2, 3)) - mean_x * mean_y
        theirs = (2 * mean_x * mean_y + 1e-4) * (2 * cov + 9e-4)
        theirs = theirs / ((mean_x.square() + mean_y.square() + 1e-4) * (var_x + var_y + 9e-4))
        expected = theirs.mean(dim=1).float()
    else:
        found = structural_similarity_index_measure(
            images, target, data_range=1.0, reduction="none", return_full_image=True
        )
        expected = found[1][..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    torch.testing.assert_close(ssim(images, target), expected, rtol=0, atol=1e-4)


def test_ssim_knows_the_same_and_the_opposite() -> None:
    images = smooth(3)
    torch.testing.assert_close(ssim(images, images), torch.ones(3))
    assert ssim(1 - images, images).max() < 0.2
    # Of flat images only the means count: (2 ab + C1) / (a^2 + b^2 + C1).
    flat = ssim(torch.full((1, 3, 16, 16), 0.4), torch.full((1, 3, 16, 16), 0.6))
    assert flat.item() == pytest.approx((2 * 0.24 + 1e-4) / (0.16 + 0.36 + 1e-4), abs=1e-4)


def test_ssim_keeps_its_digits_under_autocast() -> None:
    target = smooth(2)
    images = noisy(target, 0.02)
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssim(images, target)
    torch.testing.assert_close(inside, ssim(images, target), rtol=0, atol=1e-6)


def test_an_image_smaller_than_a_window_is_refused() -> None:
    with pytest.raises(UserError, match="at least 11 x 11 pixels"):
        ssim(torch.zeros(1, 3, 10, 32), torch.zeros(1, 3, 10, 32))


def test_the_loss_is_the_sum_of_its_parts() -> None:
    target = smooth(2)
    images = noisy(target)
    error = (images - target).square().mean()
    torch.testing.assert_close(ReconstructionLoss()(images, target), error)
    torch.testing.assert_close(ReconstructionLoss("l1")(images, target), (images - target).abs().mean())
    both = ReconstructionLoss("mse", ssim_weight=0.25)(images, target)
    torch.testing.assert_close(both, error + 0.25 * (1 - ssim(images, target).mean()))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_following_the_loss_brings_an_image_nearer(weight: float) -> None:
    target = smooth(1)
    images = torch.full_like(target, 0.5).requires_grad_(True)
    loss = ReconstructionLoss("l1", ssim_weight=weight)
    optimizer = torch.optim.Adam([images], lr=0.02)
    before = psnr(images.detach(), target)
    for _ in range(30):
        optimizer.zero_grad()
        loss(images, target).backward()
        optimizer.step()
    assert (psnr(images.detach(), target) > before + 6).all()


@pytest.mark.parametrize(("pixel", "perceptual"), [("hinge", 0.0), ("mse", 0.1)])
def test_a_loss_that_cannot_be_is_refused(pixel: str, perceptual: float) -> None:
    with pytest.raises(UserError, match=r"'hinge'|perceptual_weight 0\.1"):
        ReconstructionLoss(pixel, perceptual_weight=perceptual)


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small backbone, stored as timm's are."""
    torch.manual_seed(0)
    network, _ = build_timm_backbone("mobilenetv2_035")
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(network.state_dict(), path)
    return path


def test_the_perceptual_distance_grows_with_the_damage(backbone_file: Path) -> None:
    distance = PerceptualDistance("mobilenetv2_035", str(backbone_file))
    target = smooth(2, 64)
    assert distance(target, target).item() == 0.0
    slight, heavy = distance(noisy(target, 0.02), target).item(), distance(noisy(target, 0.2), target).item()
    assert 0 < slight < heavy <= 4  # unit vectors lie at most 2 apart
    images = noisy(target).requires_grad_(True)
    ReconstructionLoss("mse", perceptual_weight=1.0, perceptual=distance)(images, target).backward()
    plain = 2 * (images.detach() - target) / target.numel()
    assert images.grad is not None
    assert (images.grad - plain).abs().max() > 1e-6  # the backbone has its say ...
    assert all(weight.grad is None for weight in distance.network.parameters())  # ... and does not learn


def test_a_perceptual_backbone_that_is_not_there_is_one_line(backbone_file: Path) -> None:
    with pytest.raises(UserError, match=r"perceptual loss: .*no_such_net"):
        PerceptualDistance("no_such_net", "timm")
    with pytest.raises(UserError, match=r"perceptual loss: .*nowhere\.safetensors"):
        PerceptualDistance("mobilenetv2_035", "nowhere.safetensors")
    with pytest.raises(UserError, match="perceptual loss: "):
        PerceptualDistance("mobilenetv2_050", str(backbone_file))
