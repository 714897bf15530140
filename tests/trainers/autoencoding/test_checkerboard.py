"""The checkerboard's measure: frequencies counted by hand, patterns of known strength, and decoders that leave one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from datasets_scripts.phantom import draw
from hub_models.modeling_autoencoder import doubling
from trainers.autoencoding.checkerboard import (
    grid_frequencies,
    grid_strength,
    measured_periods,
    neighbours,
    power_spectrum,
    rounding_power,
)


def noise(n: int = 40, side: int = 64, deviation: float = 0.05) -> np.ndarray:
    return 0.5 + deviation * np.random.default_rng(0).standard_normal((n, 3, side, side))


def cells(period: int, side: int = 64, seed: int = 0) -> np.ndarray:
    """A random cell of period x period, repeated: (side, side), mean 0, root mean square 1."""
    cell = np.random.default_rng(seed).standard_normal((period, period))
    cell = (cell - cell.mean()) / cell.std()
    return np.tile(cell, (side // period, side // period))


def test_frequencies_by_hand() -> None:
    found = np.argwhere(grid_frequencies(64, 2)).tolist()
    assert found == [[0, 32], [32, 0], [32, 32]]
    # Multiples of 1/4 in both directions, less those of 1/2: 16 - 4; of 1/8, less those of 1/4: 64 - 16.
    assert grid_frequencies(64, 4).sum() == 12
    assert grid_frequencies(64, 8).sum() == 48
    beside = neighbours(grid_frequencies(64, 2))
    assert beside.sum() == 3 * (7 * 7 - 3 * 3)
    assert beside[32, 30]
    assert beside[29, 35]
    assert not beside[32, 31]
    assert not beside[32, 28]
    every = sum(grid_frequencies(64, period) for period in (2, 4, 8))
    assert not any((neighbours(grid_frequencies(64, period)) & (every > 0)).any() for period in (2, 4, 8))


@pytest.mark.parametrize(
    ("side", "periods"), [(224, [2, 4, 8]), (96, [2, 4, 8]), (64, [2, 4, 8]), (32, [2, 4]), (9, [])]
)
def test_small_images_have_no_room_for_long_periods(side: int, periods: list[int]) -> None:
    assert measured_periods(side) == periods


def test_a_wave_stands_at_its_frequency() -> None:
    x = np.arange(64)
    wave = 0.5 + 0.1 * np.cos(2 * np.pi * 16 * x / 64)
    spectrum = power_spectrum(np.broadcast_to(wave, (1, 3, 64, 64)))[0]
    assert spectrum[0, 16] == pytest.approx(0.05**2, rel=1e-9)
    assert spectrum[0, 48] == pytest.approx(0.05**2, rel=1e-9)
    assert spectrum[0, 0] == pytest.approx(0.0, abs=1e-20)
    assert spectrum[0, 20] == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_grid_is_found_at_its_strength(period: int) -> None:
    pattern = cells(period)
    grey_levels = 2.0
    images = noise(deviation=0.02) + grey_levels / 255 * pattern
    plain, marked = grid_strength(noise(deviation=0.02)), grid_strength(images)
    # A cell of 8 holds patterns of 2 and 4 as well: their shares add up to the whole.
    strength = np.sqrt(sum(rms.mean() ** 2 for rms in (marked[p][1] for p in (2, 4, 8) if p <= period)))
    assert strength == pytest.approx(grey_levels, rel=0.15)
    assert marked[period][0].mean() > plain[period][0].mean() + 3
    for other in (p for p in (2, 4, 8) if p > period):
        np.testing.assert_allclose(marked[other][0], plain[other][0], atol=0.05)


def test_noise_has_no_grid() -> None:
    for decibels, _ in grid_strength(noise(200)).values():
        # The mean of a logarithm lies somewhat below the logarithm of the mean, the more so of few frequencies.
        assert -0.8 < decibels.mean() < 0.1


def test_what_rounding_hides_is_no_grid() -> None:
    """A grid of a few thousandths of a grey level on an even image is none that a stored image could hold."""
    images = np.full((1, 3, 64, 64), 0.5) + 0.003 / 255 * cells(2)
    assert grid_strength(images)[2][0][0] < 0.5
    rounded = np.round(255 * noise(200, deviation=0.2)) / 255 - noise(200, deviation=0.2)
    assert power_spectrum(rounded).mean() == pytest.approx(rounding_power(64), rel=0.01)


def drawn_by(kind: str) -> np.ndarray:
    """Images (12, 3, 64, 64) that two random doublings and a sigmoid draw from smooth maps."""
    torch.manual_seed(0)
    maps = torch.nn.functional.interpolate(torch.randn(12, 16, 4, 4), size=(16, 16), mode="bicubic")
    layers = [doubling(kind, 16, 16), torch.nn.ReLU(), doubling(kind, 16, 3), torch.nn.Sigmoid()]
    with torch.no_grad():
        return torch.nn.Sequential(*layers)(maps).numpy()


@pytest.mark.parametrize("period", [2, 4])
def test_only_transpose_convolutions_stand_out(period: int) -> None:
    phantoms = [draw("nv", seed, (96, 72)).image.resize((64, 64), Image.Resampling.BILINEAR) for seed in range(12)]
    originals = np.stack([np.asarray(image) for image in phantoms]).transpose(0, 3, 1, 2) / 255
    photo, resized, transposed = (
        grid_strength(images)[period][0].mean() for images in (originals, drawn_by("resize"), drawn_by("transpose"))
    )
    assert -4 < photo < 1
    assert resized < 5
    assert transposed > resized + 5
    assert grid_strength(drawn_by("transpose"))[period][1].mean() > 1  # grey levels
