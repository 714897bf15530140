"""The grid that a decoder's strides leave in its images, measured in their spectrum.

A decoder that doubles its map by transpose convolutions, k times, makes the pixels of each cell of 2 ** k x 2 ** k by
filters of their own. What these filters do not share stands in every cell alike: a pattern of period 2 ** k, whose
energy lies at the multiples of the frequency 1 / 2 ** k and nowhere between them (Odena, Dumoulin and Olah,
"Deconvolution and Checkerboard Artifacts", Distill 2016). So the power at exactly these frequencies is set against the
power right beside them: a photograph knows no such frequencies, and has about the same power at both.
"""

from __future__ import annotations

import numpy as np

PERIODS = (2, 4, 8)
# A Hann window spreads a single frequency over one bin to each side; the neighbours begin beyond it.
NEAR, FAR = 2, 3
# Frequencies of one period must lie this many bins apart for each to have neighbours of its own.
LEAST_SPACING = 2 * FAR + 2
GREY_LEVELS = 255.0


def measured_periods(side: int) -> list[int]:
    """The periods in pixels that images of this side are large enough for: those of 2, 4 and 8 that fit."""
    return [period for period in PERIODS if side % period == 0 and side // period >= LEAST_SPACING]


def power_spectrum(images: np.ndarray) -> np.ndarray:
    """Power at each frequency, averaged over the colours.

    Args:
        images: (N, C, S, S) in [0, 1].

    Returns:
        (N, S, S) float64. A wave of amplitude a with a whole number of turns gives (a / 2) ** 2 at its frequency and at
        that one's mirror image; the image's mean is taken out first.
    """
    images = np.asarray(images, dtype=np.float64)
    side = images.shape[-1]
    # Periodic, so that its own spectrum is exactly three bins wide.
    window = np.hanning(side + 1)[:side]
    window = window[:, None] * window[None, :]
    mean = (images * window).sum(axis=(-2, -1), keepdims=True) / window.sum()
    spectrum = np.abs(np.fft.fft2((images - mean) * window)) ** 2 / window.sum() ** 2
    return spectrum.mean(axis=1)


def rounding_power(side: int) -> float:
    """Power at each frequency that rounding to 8 bits leaves: next to it, an even image's last digits mean nothing."""
    window = np.hanning(side + 1)[:side]
    share = (window**2).sum() ** 2 / window.sum() ** 4
    return float(share / (12 * GREY_LEVELS**2))


def grid_frequencies(side: int, period: int) -> np.ndarray:
    """(S, S) bool: the frequencies of a pattern that repeats every ``period`` pixels and not sooner."""
    steps = np.arange(side) % (side // period) == 0
    sooner = np.arange(side) % (2 * side // period) == 0
    return np.outer(steps, steps) & ~np.outer(sooner, sooner)


def neighbours(grid: np.ndarray) -> np.ndarray:
    """(S, S) bool: the frequencies 2 to 3 bins from one of the grid's, along the larger of both differences."""
    near, wide = np.zeros_like(grid), np.zeros_like(grid)
    for down in range(-FAR, FAR + 1):
        for right in range(-FAR, FAR + 1):
            moved = np.roll(grid, (down, right), axis=(0, 1))
            wide |= moved
            if max(abs(down), abs(right)) < NEAR:
                near |= moved
    return wide & ~near


def grid_strength(images: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """How strong the grid of each period is in each image.

    Args:
        images: (N, C, S, S) in [0, 1].

    Returns:
        Period in pixels -> two arrays (N,): the mean power at the grid's frequencies over that beside them, in dB
        (about 0 without a grid; what rounding to 8 bits leaves is added to both), and the root mean square of what
        stands at the grid's frequencies beyond what lies beside them, in grey levels of 255, 0 where nothing does.
    """
    spectrum = power_spectrum(images)
    side = spectrum.shape[-1]
    floor = rounding_power(side)
    found = {}
    for period in measured_periods(side):
        grid = grid_frequencies(side, period)
        at, beside = spectrum[:, grid], spectrum[:, neighbours(grid)]
        ratio = (at.mean(axis=1) + floor) / (beside.mean(axis=1) + floor)
        beyond = (at.mean(axis=1) - beside.mean(axis=1)).clip(min=0.0) * grid.sum()
        found[period] = (10 * np.log10(ratio), GREY_LEVELS * np.sqrt(beyond))
    return found
