"""The words of dermoscopy, each as one function: border, network, globules, streaks, vessels, scale and more.

Every function takes the view, the lesion's generator and sizes in millimetres, and returns fields (H, W) in 0..1, or
adds itself to the :class:`Layers`. The number of random draws never depends on the view, so all views show one lesion.
"""

from __future__ import annotations

import math

import numpy as np

from datasets_scripts.phantom_plane import Field, Plane, bell, curve, smoothstep
from datasets_scripts.phantom_skin import Layers

BONE = (0.93, 0.88, 0.80)
WAX = (0.72, 0.58, 0.40)
PEARL = (0.95, 0.84, 0.84)
VEIL = (0.55, 0.56, 0.65)


def outline(
    plane: Plane,
    rng: np.random.Generator,
    radius: float,
    aspect: float = 1.0,
    lobes: float = 0.05,
    rough: float = 0.1,
    centre: tuple[float, float] = (0.0, 0.0),
) -> Field:
    """Signed distance to a lesion's border in millimetres (about; positive inside), (H, W).

    Args:
        plane: the view.
        rng: the lesion's generator.
        radius: mean radius in millimetres.
        aspect: long axis over short axis, >= 1.
        lobes: size of slow bulges as a share of the radius; 0.05 is round, 0.3 is asymmetric.
        rough: size of fine raggedness in millimetres.
        centre: of the lesion, in millimetres.
    """
    turn, waves = rng.uniform(0, math.pi), rng.normal(0, 1, (5, 2))
    u, v = plane.u - np.float32(centre[0]), plane.v - np.float32(centre[1])
    x = (u * math.cos(turn) + v * math.sin(turn)) / math.sqrt(aspect)
    y = (v * math.cos(turn) - u * math.sin(turn)) * math.sqrt(aspect)
    theta = np.arctan2(y, x)
    bulge = np.zeros_like(theta)
    for k, (a, b) in enumerate(waves, start=2):
        bulge += (a * np.cos(k * theta) + b * np.sin(k * theta)) / np.float32(k**0.9)
    edge = radius * np.maximum(1 + lobes * bulge, 0.35)
    ragged = rough * plane.noise(rng, max(0.6, radius * 0.36), octaves=2)
    return (edge - np.hypot(x, y) + ragged).astype(np.float32)


def network(plane: Plane, rng: np.random.Generator, pitch: float, line: float = 0.11, warp: float = 0.12) -> Field:
    """A pigment network: brown lines around pale holes, `pitch` mm from hole to hole, (H, W) in 0..1.

    `line` is the lines' half width as a share of the pitch; `warp` in millimetres bends them (more is atypical).
    """
    bend = warp * plane.noise(rng, 0.9), warp * plane.noise(rng, 0.9)
    _, gap = plane.cells(rng, pitch, jitter=0.7, warp=bend)
    # Lines narrower than a pixel would alias: never let them get thinner than that.
    return bell(gap, max(line, 0.55 * plane.mm / pitch))


def scatter(rng: np.random.Generator, n: int, radius: float, centre: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """`n` points (n, 2) in millimetres, even over a disc of `radius`."""
    r, t = radius * np.sqrt(rng.random(n)), rng.uniform(0, 2 * math.pi, n)
    return np.stack([centre[0] + r * np.cos(t), centre[1] + r * np.sin(t)], axis=1)


def globules(plane: Plane, rng: np.random.Generator, level: Field, radius: float, pitch: float, jitter: float) -> Field:
    """Round to cobblestone globules filling the lesion, `pitch` mm apart, (H, W) in 0..1."""
    near, _ = plane.cells(rng, pitch, jitter=jitter)
    return smoothstep(0.62, 0.30, near) * smoothstep(-0.1, 0.35, level) * (0.85 + 0.15 * bell(near, 0.2))


def dots(plane: Plane, rng: np.random.Generator, n: int, spread: float, size: tuple[float, float]) -> Field:
    """`n` dots or globules of radius `size` (mm, low and high) strewn over a disc of radius `spread`, (H, W)."""
    points, radii = scatter(rng, n, spread), rng.uniform(*size, n)
    return plane.blobs(points, radii, rng.uniform(0.6, 1.0, n), edge=0.6)


def streaks(plane: Plane, rng: np.random.Generator, level: Field, radius: float, n: int, arc: float) -> Field:
    """`n` radial streaks across the border over an arc of `arc` radians, ending at uneven lengths, (H, W) in 0..1."""
    start, lines = rng.uniform(0, 2 * math.pi), []
    for angle in start + np.sort(rng.uniform(0, arc, n)):
        way = np.array([math.cos(angle), math.sin(angle)]) * 0.35 * radius
        path = curve(rng, way, angle + rng.normal(0, 0.1), radius * rng.uniform(1.1, 1.5), 0.25, n=10)
        lines.append((path, float(rng.uniform(0.10, 0.20)), float(rng.uniform(0.5, 1.0))))
    return plane.strokes(lines) * smoothstep(-0.7, -0.1, level) * smoothstep(0.7, 0.1, level)


Stroke = tuple[np.ndarray, float, float]  # points (N, 2) in mm, width in mm, strength 0..1


def tree(
    rng: np.random.Generator, start: np.ndarray, angle: float, length: float, width: float, depth: int = 3
) -> list[Stroke]:
    """An arborising vessel: a stem that branches `depth` times, as strokes (points in mm, width in mm, strength)."""
    path = curve(rng, start, angle, length, 0.7, n=9)
    lines = [(path, width, float(rng.uniform(0.75, 1.0)))]
    if depth > 0:
        for _ in range(int(rng.integers(2, 4))):
            at = int(rng.integers(3, 9))
            side = angle + rng.choice([-1, 1]) * rng.uniform(0.4, 1.0)
            lines += tree(rng, path[at], side, length * rng.uniform(0.45, 0.75), width * 0.68, depth - 1)
    return lines


def glomeruli(plane: Plane, rng: np.random.Generator, n: int, spread: float) -> Field:
    """Coiled and dotted vessels in clusters (Bowen's disease), (H, W) in 0..1."""
    hubs = scatter(rng, 5, spread * 0.75)
    points = hubs[rng.integers(0, len(hubs), n)] + rng.normal(0, spread * 0.24, (n, 2))
    return plane.blobs(points, rng.uniform(0.07, 0.15, n), rng.uniform(0.5, 1.0, n), edge=0.8)


def scale(plane: Plane, rng: np.random.Generator, where: Field, share: float, grain: float = 0.5) -> Field:
    """Flaking keratin: ragged plates with fine cracks over about `share` of `where`, opacity (H, W) in 0..1."""
    plates = plane.noise(rng, grain * 1.8, octaves=3)
    flakes = plane.noise(rng, grain * 0.5, octaves=2, stretch=1.5)
    threshold = 1.3 - 2.6 * share
    opacity = smoothstep(threshold - 0.5, threshold + 1.9, plates + 0.9 * flakes)
    return opacity * np.clip(0.62 + 0.34 * flakes, 0, 1) * where


def crust(plane: Plane, rng: np.random.Generator, layers: Layers, where: Field) -> None:
    """An ulcer's crust over `where` (H, W) in 0..1: dark red-brown to orange, uneven, a little raised."""
    lumps = plane.noise(rng, 0.55, octaves=3)
    fresh = plane.noise(rng, 0.9)
    layers.blood += where * (1.3 + 0.5 * fresh + 0.3 * lumps)
    layers.melanin += where * np.clip(0.55 + 0.45 * lumps, 0, None)
    layers.paint.append(((0.80, 0.48, 0.16), where * smoothstep(0.3, 1.6, lumps) * 0.55))
    layers.relief += 0.10 * where * np.clip(lumps, -1, 2)


def milia(plane: Plane, rng: np.random.Generator, layers: Layers, level: Field, n: int, spread: float) -> None:
    """Milia-like cysts: `n` small, cloudy to starry, white-yellow points inside the lesion."""
    size = rng.choice([0.5, 1.0, 1.5], n, p=[0.4, 0.42, 0.18])
    spots = plane.blobs(scatter(rng, n, spread), 0.15 * size, rng.uniform(0.45, 0.9, n), edge=0.85)
    layers.paint.append(((0.95, 0.91, 0.80), spots * smoothstep(0.0, 0.3, level)))


def plugs(plane: Plane, rng: np.random.Generator, layers: Layers, level: Field, n: int, spread: float) -> None:
    """Comedo-like openings: `n` round to oval brown-black plugs."""
    spots = plane.blobs(scatter(rng, n, spread), rng.uniform(0.12, 0.30, n), rng.uniform(0.6, 1.0, n), edge=0.45)
    spots *= smoothstep(0.0, 0.25, level)
    layers.melanin += 1.5 * spots
    layers.paint.append(((0.24, 0.17, 0.11), 0.35 * spots))


def shiny_streaks(plane: Plane, rng: np.random.Generator, n: int, spread: float) -> Field:
    """Short bright white lines, mostly at right angles to each other (seen in polarised light), (H, W) in 0..1."""
    turn, lines = rng.uniform(0, math.pi), []
    for start in scatter(rng, n, spread):
        angle = turn + rng.choice([0.0, math.pi / 2]) + rng.normal(0, 0.15)
        lines.append((curve(rng, start, angle, rng.uniform(0.5, 1.2), 0.15, n=5), 0.09, float(rng.uniform(0.3, 0.75))))
    return plane.strokes(lines)


def follicles(plane: Plane, rng: np.random.Generator, pitch: float) -> tuple[Field, Field]:
    """Hair follicles of a face inside a lesion: pale discs and the yellowish plug in their middle, both (H, W)."""
    near, _ = plane.cells(rng, pitch, jitter=0.6)
    return smoothstep(0.42, 0.22, near), bell(near, 0.1)
