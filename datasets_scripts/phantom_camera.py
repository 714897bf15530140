"""What stands between skin and image, alike for every class: hairs, ruler, ink, gel bubbles, light, lens, sensor.

All of it is drawn again for each view. None of it depends on the class: who learns a class from a ruler learns noise.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from datasets_scripts.phantom_plane import Field, Plane, curve, smoothstep

_HAIR_COLOURS = ((0.10, 0.07, 0.06), (0.20, 0.12, 0.08), (0.33, 0.22, 0.14), (0.62, 0.50, 0.36), (0.80, 0.78, 0.76))


def light(plane: Plane, rng: np.random.Generator, contact: bool) -> np.ndarray:
    """Brightness and colour of the light on each pixel, (H, W, 3); a dermatoscope's black tube is 0.

    `contact` is True for a dermatoscope, False for a clinical photo taken from a distance.
    """
    width, height = plane.size
    x = (np.arange(width, dtype=np.float32)[None, :] + 0.5) / height - width / height / 2
    y = (np.arange(height, dtype=np.float32)[:, None] + 0.5) / height - 0.5
    offset, strength = rng.normal(0, 0.09, 2), float(rng.uniform(0.05, 0.55))
    distance = np.hypot(x - offset[0], y - offset[1])
    level = 1.06 - strength * np.square(distance) * 0.75
    slope, tilt = rng.uniform(0, 2 * math.pi), float(rng.uniform(0, 0.14))
    level = level * (1 + tilt * (x * math.cos(slope) + y * math.sin(slope)))
    tube, radius, blur = rng.random() < 0.17, float(rng.uniform(0.60, 0.80)), float(rng.uniform(0.01, 0.05))
    if tube and contact:
        level = level * smoothstep(radius + blur, radius - blur, np.hypot(x - 0.3 * offset[0], y - 0.3 * offset[1]))
    cast = np.array([1.0, 0.985, 1.03]) * (1 + rng.normal(0, 1, 3) * np.array([0.020, 0.025, 0.055]))
    exposure = float(np.clip(rng.normal(0.97, 0.075), 0.78, 1.10))
    return (level[..., None] * (cast * exposure).astype(np.float32)).astype(np.float32)


def bubbles(plane: Plane, rng: np.random.Generator, image: np.ndarray, n: int | None = None) -> None:
    """Air in the contact gel: `n` thin bright rings with a glint, by chance few or none; into `image` (H, W, 3)."""
    n = int(rng.choice([0, 0, 0, 0, 0, 3, 9, 20])) if n is None else n
    for _ in range(n):
        x, y = rng.uniform(0, plane.size[0]), rng.uniform(0, plane.size[1])
        radius = rng.uniform(0.06, 0.42) ** 1.3 / plane.mm
        left, right = max(0, int(x - radius - 2)), min(plane.size[0], int(x + radius + 3))
        top, bottom = max(0, int(y - radius - 2)), min(plane.size[1], int(y + radius + 3))
        dx = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - x)
        dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
        distance = np.hypot(dx, dy)
        rim = np.exp(-0.5 * np.square((distance - radius) / 0.7))
        glint = np.exp(
            -0.5 * (np.square(dx + 0.4 * radius) + np.square(dy + 0.4 * radius)) / max(0.16 * radius, 0.5) ** 2
        )
        patch = image[top:bottom, left:right]
        patch *= (1 - 0.12 * rim)[..., None]
        patch += (0.10 * rim * (dx + dy < 0) + 0.32 * glint)[..., None]


def marks(plane: Plane, rng: np.random.Generator, image: np.ndarray) -> list[str]:
    """A millimetre ruler along an edge or a stroke of surgical ink, at times; drawn into `image` (H, W, 3)."""
    drawn = []
    with_ruler, bottom, strength = rng.random() < 0.10, rng.random() < 0.5, float(rng.uniform(0.5, 0.9))
    offset, turn = rng.uniform(0.4, 0.9), rng.normal(0, 0.04)
    if with_ruler:
        drawn.append("ruler")
        ruler(plane, image, bottom=bottom, strength=strength, offset=offset, turn=turn)
    inked, side = rng.random() < 0.06, rng.uniform(0, 2 * math.pi)
    path = stroke_beside(rng, side, 6.2)
    shift = rng.normal(0, 0.4, 2)
    if inked:
        drawn.append("ink")
        ink(plane, image, path + shift)
    return drawn


def ruler(plane: Plane, image: np.ndarray, *, bottom: bool, strength: float, offset: float, turn: float) -> None:
    """A millimetre ruler along the upper or lower edge, drawn into `image` (H, W, 3).

    Args:
        plane: the view.
        image: RGB in 0..1.
        bottom: along the lower edge.
        strength: opacity of its marks, 0..1.
        offset: from the edge, in millimetres.
        turn: against the edge, in radians.
    """
    sheet = Image.new("L", (plane.size[0] * 3, plane.size[1] * 3))
    pen = ImageDraw.Draw(sheet)
    for k in range(-2, round(plane.size[0] * plane.mm) + 2):
        x = (k + 0.37) / plane.mm * 3
        y = (offset / plane.mm) * 3 + turn * x
        tall = (0.95 if k % 5 == 0 else 0.5) / plane.mm * 3
        edge, end = (sheet.height - y, sheet.height - y - tall) if bottom else (y, y + tall)
        pen.line([(x, edge), (x + turn * tall, end)], fill=255, width=max(1, round(0.09 / plane.mm * 3)))
    alpha = np.asarray(sheet.reduce(3), dtype=np.float32)[..., None] / 255 * strength
    image += (np.array([0.10, 0.10, 0.11], dtype=np.float32) - image) * alpha


def stroke_beside(rng: np.random.Generator, side: float, distance: float) -> np.ndarray:
    """The path (14, 2) of a pen that passes the centre at `distance` mm, in the direction `side` in radians."""
    return curve(rng, np.array([math.cos(side), math.sin(side)]) * distance, side + math.pi / 2, 7.0, 0.6)


def ink(plane: Plane, image: np.ndarray, path: np.ndarray) -> None:
    """A stroke of surgical ink along `path` (N, 2), in mm from the centre, drawn into `image` (H, W, 3)."""
    centre = np.array([plane.u.mean(), plane.v.mean()])
    alpha = ndimage.gaussian_filter(plane.strokes([(path + centre, 0.55, 0.85)]), 0.05 / plane.mm)[..., None]
    image *= 1 - alpha * (1 - np.array([0.36, 0.25, 0.66], dtype=np.float32))


def lens(plane: Plane, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Contrast and a slight loss of focus; returns (H, W, 3)."""
    focus = float(rng.gamma(2.0, 0.018)) / plane.mm
    contrast = float(rng.uniform(0.90, 1.12))
    image = (image - 0.55) * contrast + 0.55
    if focus > 0.25:
        image = ndimage.gaussian_filter(image, (focus, focus, 0), truncate=2.5)
    return image


def sensor(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Sensor noise, partly shared by the colours, more in the dark; returns (H, W, 3)."""
    amount = float(rng.uniform(0.003, 0.012))
    grain = rng.standard_normal(image.shape, dtype=np.float32) * 0.6
    grain += rng.standard_normal((*image.shape[:2], 1), dtype=np.float32) * 0.8
    return image + amount * grain * (1.25 - 0.5 * np.clip(image, 0, 1))


def hairs(plane: Plane, rng: np.random.Generator, share: float) -> tuple[Field, np.ndarray, int]:
    """Hairs lying over the skin.

    Args:
        plane: the view.
        rng: the view's generator: another photograph has other hairs.
        share: probability that there are any.

    Returns:
        Opacity (H, W) in 0..1, exactly 0 where there is no hair; their colour (3,) in 0..1; how many there are.
    """
    amount = str(rng.choice(["few", "many", "stubble"], p=[0.62, 0.25, 0.13]))
    n = {"few": rng.integers(1, 8), "many": rng.integers(9, 24), "stubble": rng.integers(20, 60)}[amount]
    colour = np.array(_HAIR_COLOURS[int(rng.choice(5, p=[0.34, 0.30, 0.18, 0.10, 0.08]))], dtype=np.float32)
    if rng.random() >= share:
        return plane.zeros(), colour, 0
    flow, spread = rng.uniform(0, 2 * math.pi), float(rng.uniform(0.15, 1.0))
    centre = np.array([plane.u.mean(), plane.v.mean()])
    lines = []
    for _ in range(int(n)):
        start = centre + rng.uniform(-9, 9, 2)
        length = rng.uniform(0.35, 1.1) if amount == "stubble" else rng.uniform(4, 14)
        width = float(rng.uniform(0.045, 0.10))
        bend = 0.1 if amount == "stubble" else float(rng.uniform(0.1, 0.8))
        path = curve(rng, start, flow + rng.normal(0, spread), length, bend, n=16, wander=0.25)
        strength = float(rng.uniform(0.5, 0.92))
        # Three pieces, each thinner than the one before: a hair tapers.
        for piece, share_of_width in ((slice(0, 7), 1.0), (slice(6, 12), 0.8), (slice(11, 16), 0.55)):
            lines.append((path[piece], width * share_of_width, strength))
    opacity = plane.strokes(lines, scale=4)
    # A veil fainter than this cannot be seen, and would make the mask wider than the hair.
    return np.where(opacity < 0.08, np.float32(0), opacity), colour, int(n)
