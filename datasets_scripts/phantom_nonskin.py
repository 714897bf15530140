"""Images without any skin, for the class "random" of the twelve-class task: cloth, shapes, print, a landscape."""

from __future__ import annotations

import math

import numpy as np

from datasets_scripts.phantom_plane import Field, Plane, smoothstep

_SKY = np.array([0.45, 0.65, 0.92], dtype=np.float32)
_HAZE = np.array([0.92, 0.94, 0.97], dtype=np.float32)
_GREEN = np.array([0.16, 0.34, 0.14], dtype=np.float32)


def nonskin(plane: Plane, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """One image (H, W, 3) in 0..1 that shows no skin, and the name of what it shows."""
    kind = str(rng.choice(["cloth", "shapes", "landscape", "print"]))
    a, b, c = (rng.uniform(0.05, 0.98, 3).astype(np.float32) for _ in range(3))
    turn = float(rng.uniform(0, math.pi))
    x = plane.u * math.cos(turn) + plane.v * math.sin(turn)
    y = plane.v * math.cos(turn) - plane.u * math.sin(turn)
    coarse, fine = plane.noise(rng, 3.5, octaves=4), plane.noise(rng, 0.25)
    period = float(rng.uniform(0.8, 3.0))
    points, radii = rng.uniform(-7, 7, (9, 2)), rng.uniform(0.6, 2.6, 9)
    if kind == "cloth":
        warp = smoothstep(-0.2, 0.2, np.sin(x * np.float32(2 * math.pi / period)))
        weft = smoothstep(-0.2, 0.2, np.sin(y * np.float32(2 * math.pi / period)))
        thread = 0.06 * np.sin((x + y) * np.float32(2 * math.pi / 0.3))
        image = _mix(_mix(a, b, warp), c, 0.55 * weft) + thread[..., None]
    elif kind == "shapes":
        image = _mix(a, b, smoothstep(-5.0, 5.0, x))
        for (u, v), radius in zip(points, radii, strict=True):
            square = radius % 0.2 < 0.1
            distance: Field = np.maximum(abs(x - u), abs(y - v)) if square else np.hypot(x - u, y - v)
            image = _mix(image, (c + radius) % 1.0, smoothstep(radius + 0.06, radius - 0.06, distance))
    elif kind == "landscape":
        horizon = smoothstep(-0.15, 0.15, plane.v + 0.9 * coarse)
        sky = _mix(_SKY, _HAZE, smoothstep(-6, 2, plane.v))
        image = _mix(sky, _GREEN * (0.6 + a), horizon * (0.8 + 0.2 * np.tanh(fine)))
    else:
        line = smoothstep(0.2, 0.3, np.sin(y * np.float32(2 * math.pi / 1.1)).astype(np.float32))
        image = _mix(0.8 + 0.2 * a, 0.25 * b, line * smoothstep(-0.1, 0.3, plane.noise(rng, 0.3)))
    return np.clip(image + 0.02 * fine[..., None], 0, 1).astype(np.float32), kind


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Colour (H, W, 3) that is `first` where share (H, W) is 0 and `second` where it is 1."""
    return first + (second - first) * share[..., None]
