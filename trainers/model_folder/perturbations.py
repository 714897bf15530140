"""Perturbed images, to choose the out-of-distribution gate by, and corrupted images, for the report on robustness.

``PERTURBATIONS`` leave an image that a lesion classifier should decline: blurred until nothing is left, cut into tiles,
other colours. The gate is chosen by how well it separates them from the images as they are (``trainers.trust.gate``);
no set of ood images is needed for that, so none is used up. They are not a test set: the gate is evaluated on ood
images separately.

``CORRUPTIONS`` are what a camera and a practice do to an image that stays one of a lesion, in severities 1 to 3. After
Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019, and
Maron et al., "A benchmark for neural network robustness in skin cancer classification", European Journal of Cancer 155,
2021, who add hairs; milder than the first, whose images are of objects that are recognised easily.

All take an RGB image of any size from 32 pixels on and give one of the same size. The same (seed, index) gives the
same pixels. Lengths are shares of the shorter side, and noise has grains of that scale: a perturbation is
still visible after the processor has resized the image.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, ImageDraw

from datasets_scripts.command import UserError

SMALLEST = 32
SEVERITIES = (1, 2, 3)
GRAINS = 150  # of noise, along the shorter side
TILES = 5  # a side
LEAVES = 160

Perturbation = Callable[[Image.Image, np.random.Generator], Image.Image]
Corruption = Callable[[Image.Image, int, np.random.Generator], Image.Image]


def perturbed(image: Image.Image, kind: str, *, seed: int, index: int) -> Image.Image:
    """Perturb one image.

    Args:
        image: of any mode; both sides at least 32 pixels.
        kind: one of ``PERTURBATIONS``.
        seed: of the whole set.
        index: the image's number in it; each gets other tiles, other noise.

    Returns:
        RGB, of the same size.

    Raises:
        UserError: there is no such kind, or a side is below 32 pixels.
    """
    if kind not in PERTURBATIONS:
        raise UserError(f"no perturbation is called {kind!r}: choose one of {', '.join(PERTURBATIONS)}")
    return PERTURBATIONS[kind](_rgb(image), _generator(kind, seed, index))


def corrupted(image: Image.Image, kind: str, severity: int, *, seed: int, index: int) -> Image.Image:
    """Corrupt one image as a camera or a practice may do.

    Args:
        image: of any mode; both sides at least 32 pixels.
        kind: one of ``CORRUPTIONS``.
        severity: 1 (hardly seen), 2 or 3 (plain to see; a dermatologist would still look at the lesion).
        seed: of the whole set.
        index: the image's number in it.

    Returns:
        RGB, of the same size. Directions (of the motion, of the light's colour) are those of (seed, index), the same
        at every severity.

    Raises:
        UserError: there is no such kind or severity, or a side is below 32 pixels.
    """
    if kind not in CORRUPTIONS:
        raise UserError(f"no corruption is called {kind!r}: choose one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity!r}: choose 1, 2 or 3")
    return CORRUPTIONS[kind](_rgb(image), severity, _generator(kind, seed, index))


# -------------------------------------------------------------------------------------------------------- perturbations


def defocused(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Far out of focus: a disc of 20 to 30 % of the shorter side in diameter; a spot of the same colours is left."""
    return _as_image(_disc_blur(_floats(image), float(rng.uniform(0.10, 0.15)) * min(image.size)))


def noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Under coloured noise of 0.35 to 0.5 of the full range: the lesion can only be guessed."""
    return _as_image(_floats(image) + float(rng.uniform(0.35, 0.5)) * _grains(image.size, rng))


def tiled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut into 5 x 5 tiles that are put together at random, each turned by 0 or 180 degrees."""
    width, height = (math.ceil(side / TILES) for side in image.size)
    large = np.asarray(image.resize((width * TILES, height * TILES), Image.Resampling.BILINEAR))
    tiles = large.reshape(TILES, height, TILES, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    tiles = tiles[rng.permutation(len(tiles))]
    turned = rng.random(len(tiles)) < 0.5
    tiles = np.where(turned[:, None, None, None], tiles[:, ::-1, ::-1], tiles)
    mixed = tiles.reshape(TILES, TILES, height, width, 3).swapaxes(1, 2).reshape(large.shape)
    return Image.fromarray(mixed).resize(image.size, Image.Resampling.BILINEAR)


def phase_scrambled(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """With the same amplitudes at other phases in Fourier space: clouds of the same colours, no lesion.

    One random phase is added to all three channels, so that the colours stay related as they were.
    """
    spectrum = np.fft.fft2(_floats(image), axes=(0, 1))
    turn = np.angle(np.fft.fft2(rng.standard_normal((image.height, image.width))))
    turn[0, 0] = 0.0  # the mean stays
    return _as_image(np.fft.ifft2(spectrum * np.exp(1j * turn)[..., None], axes=(0, 1)).real)


def inverted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A negative: each channel is 255 minus itself."""
    return Image.fromarray(255 - np.asarray(image))


def hue_turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """With every hue turned by the same 90 to 270 degrees: green, blue or violet skin of the same brightness."""
    hue, saturation, value = image.convert("HSV").split()
    turn = int(rng.integers(64, 193))  # of 256
    turned = Image.fromarray(np.asarray(hue) + np.uint8(turn))  # wraps round at 256, as hues do
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def static(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Nothing but noise whose colours have the image's mean and covariance."""
    pixels = _floats(image).reshape(-1, 3).astype(np.float64)
    values, axes = np.linalg.eigh(np.cov(pixels.T))
    mixing = axes * np.sqrt(values.clip(min=0.0))
    return _as_image(pixels.mean(axis=0) + _grains(image.size, rng) @ mixing.T)


def faded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """With 4 to 10 % of its contrast left, around its mean brightness in grey."""
    pixels = _floats(image)
    return _as_image(pixels.mean() + float(rng.uniform(0.04, 0.10)) * (pixels - pixels.mean()))


def dead_leaves(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Covered with shapes of any colour that fell over one another as leaves do, many small and few large ones.

    The dead-leaves model has edges and sizes as photographs of things have them (Lee, Mumford, Huang, IJCV 41, 2001),
    and is to a network more like one than any noise is (Baradad et al., "Learning to See by Looking at Noise", NeurIPS
    2021). It stands for images of something else; nothing of the lesion is left.
    """
    side = min(image.size)
    # The density of radii falls as their cube, between 4 % and 60 % of the side; some large ones lie at the bottom.
    radii = 0.04 * side / np.sqrt(1 - rng.random(LEAVES) * (1 - (0.04 / 0.6) ** 2))
    radii[:10] = rng.uniform(0.4, 0.6, 10) * side
    centres = rng.random((LEAVES, 2)) * image.size
    colours = rng.integers(0, 256, (LEAVES, 3))
    corners, turns = rng.choice([3, 4, 5, 60], LEAVES), rng.uniform(0, 2 * math.pi, LEAVES)
    covered = Image.new("RGB", image.size, tuple(int(c) for c in rng.integers(0, 256, 3)))
    pen = ImageDraw.Draw(covered)
    for radius, (x, y), colour, n, turn in zip(radii, centres, colours, corners, turns, strict=True):
        angles = turn + 2 * math.pi * np.arange(n) / n
        outline = [(float(x + radius * math.cos(a)), float(y + radius * math.sin(a))) for a in angles]
        pen.polygon(outline, fill=tuple(int(c) for c in colour))
    return covered


PERTURBATIONS: dict[str, Perturbation] = {
    "defocused": defocused,
    "noisy": noisy,
    "tiled": tiled,
    "phase_scrambled": phase_scrambled,
    "inverted": inverted,
    "hue_turned": hue_turned,
    "static": static,
    "faded": faded,
    "dead_leaves": dead_leaves,
}

# -------------------------------------------------------------------------------------------------------- corruptions


def defocus_blur(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """A disc of 1.5, 3 or 5 % of the shorter side in diameter."""
    return _as_image(_disc_blur(_floats(image), (0.0075, 0.015, 0.025)[severity - 1] * min(image.size)))


def motion_blur(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """A straight shake over 3, 6 or 10 % of the shorter side, in any direction."""
    length = (0.03, 0.06, 0.10)[severity - 1] * min(image.size)
    angle = float(rng.uniform(0, math.pi))
    reach = math.ceil(length / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.float32)
    for t in np.linspace(-length / 2, length / 2, 8 * reach):
        x, y = reach + t * math.cos(angle), reach + t * math.sin(angle)
        left, top = int(x), int(y)
        for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            kernel[top + dy, left + dx] += (1 - abs(x - left - dx)) * (1 - abs(y - top - dy))
    return _as_image(cv2.filter2D(_floats(image), -1, kernel / kernel.sum()))


def gaussian_noise(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Coloured noise with a standard deviation of 3, 6 or 10 % of the full range."""
    return _as_image(_floats(image) + (0.03, 0.06, 0.10)[severity - 1] * _grains(image.size, rng))


def brightness(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Exposed 0.4, 0.8 or 1.3 stops too much or too little; pixels are taken as light to the power of 1 / 2.2."""
    stops = (0.4, 0.8, 1.3)[severity - 1] * float(rng.choice([-1, 1]))
    return _as_image(_floats(image) * 2 ** (stops / 2.2))


def contrast(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """With 75, 55 or 40 % of its contrast, around each channel's mean."""
    pixels = _floats(image)
    mean = pixels.mean(axis=(0, 1))
    return _as_image(mean + (0.75, 0.55, 0.40)[severity - 1] * (pixels - mean))


def jpeg(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Stored as JPEG of quality 40, 20 or 10. Blocks are 8 pixels wide: a large image suffers less."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=(40, 20, 10)[severity - 1])
    buffer.seek(0)
    return Image.open(buffer, formats=["JPEG"]).convert("RGB")


def white_balance(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Under a light that is too warm or too cold: red up and blue down by 5, 10 or 16 %, or the other way round."""
    cast = (0.05, 0.10, 0.16)[severity - 1] * float(rng.choice([-1, 1]))
    return _as_image(_floats(image) * np.array([1 + cast, 1.0, 1 - cast], dtype=np.float32))


def hairs(image: Image.Image, severity: int, rng: np.random.Generator) -> Image.Image:
    """Under 6, 14 or 28 dark bent hairs that lie roughly one way; those of a lower severity are among them."""
    side, scale = min(image.size), max(1, math.ceil(600 / min(image.size)))
    veil = Image.new("L", (image.width * scale, image.height * scale))
    pen = ImageDraw.Draw(veil)
    flow = float(rng.uniform(0, math.pi))
    colour = np.array([0.12, 0.08, 0.06], dtype=np.float32)
    t = np.linspace(-0.5, 0.5, 24)
    for centre, length, bend, turn, width in zip(
        rng.random((28, 2))[: (6, 14, 28)[severity - 1]] * image.size,
        rng.uniform(0.4, 1.0, 28),
        rng.uniform(-0.12, 0.12, 28),
        rng.normal(flow, 0.4, 28),
        rng.uniform(0.006, 0.011, 28),
        strict=False,
    ):
        along, across = side * length * t, side * length * bend * (4 * t**2 - 0.5)
        x = centre[0] + along * math.cos(turn) - across * math.sin(turn)
        y = centre[1] + along * math.sin(turn) + across * math.cos(turn)
        points = [(float(a) * scale, float(b) * scale) for a, b in zip(x, y, strict=True)]
        pen.line(points, fill=235, width=max(1, round(width * side * scale)), joint="curve")
    opacity = np.asarray(veil.reduce(scale), dtype=np.float32)[..., None] / 255
    pixels = _floats(image)
    return _as_image(pixels + (colour - pixels) * opacity)


CORRUPTIONS: dict[str, Corruption] = {
    "defocus_blur": defocus_blur,
    "motion_blur": motion_blur,
    "gaussian_noise": gaussian_noise,
    "brightness": brightness,
    "contrast": contrast,
    "jpeg": jpeg,
    "white_balance": white_balance,
    "hairs": hairs,
}

# ------------------------------------------------------------------------------------------------------------- pixels


def _generator(kind: str, seed: int, index: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, zlib.crc32(kind.encode())])


def _rgb(image: Image.Image) -> Image.Image:
    if min(image.size) < SMALLEST:
        raise UserError(f"an image of {image.width} x {image.height} pixels: give at least {SMALLEST} a side")
    return image.convert("RGB")


def _floats(image: Image.Image) -> np.ndarray:
    """RGB -> (H, W, 3) float32 in 0..1."""
    return np.asarray(image, dtype=np.float32) / 255


def _as_image(pixels: np.ndarray) -> Image.Image:
    """(H, W, 3) in 0..1 -> RGB; what lies outside is cut off."""
    return Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))


def _grains(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Independent standard normal noise of each colour, (H, W, 3), in square grains of a 150th of the shorter side."""
    grain = max(1, round(min(size) / GRAINS))
    width, height = (math.ceil(side / grain) for side in size)
    noise = rng.standard_normal((height, width, 3), dtype=np.float32)
    return noise.repeat(grain, axis=0).repeat(grain, axis=1)[: size[1], : size[0]]


def _disc_blur(pixels: np.ndarray, radius: float) -> np.ndarray:
    """Mean over a disc of that radius in pixels with a soft rim, (H, W, 3); below half a pixel nothing changes."""
    reach = math.ceil(radius) + 1
    offset = np.arange(-reach, reach + 1)
    disc = (radius + 0.5 - np.hypot(offset[:, None], offset[None, :])).clip(0, 1).astype(np.float32)
    return cv2.filter2D(pixels, -1, disc / disc.sum())
