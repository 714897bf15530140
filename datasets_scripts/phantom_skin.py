"""What phantoms are made of: pigment layers of the skin, how they turn into colour, and healthy skin itself.

Colour comes from absorption, as in real skin: melanin high up looks brown, the same melanin deep in the dermis looks
blue-grey (light between it and the eye is scattered), blood looks red, slow blood purple. What is opaque (keratin, pus,
scars) is painted over. The absorption constants are set by eye in display space; they are not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from datasets_scripts.phantom_plane import Field, Plane, bell, curve, smoothstep

RGB = tuple[float, float, float]

# Fitzpatrick type -> range of epidermal melanin (density, no unit), and how often phantoms have it.
FITZPATRICK: dict[str, tuple[float, float]] = {
    "I": (0.02, 0.07),
    "II": (0.07, 0.14),
    "III": (0.16, 0.28),
    "IV": (0.32, 0.52),
    "V": (0.62, 0.92),
    "VI": (1.05, 1.45),
}
_FITZPATRICK_SHARE = (0.18, 0.25, 0.21, 0.15, 0.12, 0.09)

_DERMIS = np.array([0.985, 0.945, 0.920], dtype=np.float32)  # skin without any pigment or blood
_ABSORPTION = np.array(
    [
        [0.58, 0.96, 1.28],  # melanin
        [0.10, 0.86, 0.68],  # blood
        [0.62, 1.75, 1.02],  # slow (venous) blood
        [1.10, 0.87, 0.62],  # melanin in the dermis
    ],
    dtype=np.float32,
)
_HAZE = 0.035  # light that comes back from the surface and never saw a pigment


@dataclass
class Layers:
    """Pigments and paint of one view; fields are (H, W) densities without unit, zero where there is none.

    `paint` holds (colour 0..1, opacity (H, W) in 0..1), put on in order. `relief` is a height in millimetres that only
    shades.
    """

    melanin: Field
    blood: Field
    venous: Field
    deep: Field
    relief: Field
    lesion: Field  # signed distance to the border in millimetres, about; positive inside
    paint: list[tuple[RGB, Field]] = field(default_factory=list)

    def colour(self, plane: Plane, light_angle: float) -> np.ndarray:
        """Reflected colour (H, W, 3) in 0..1; `light_angle` in radians says where raised parts are lit from."""
        pigments = np.stack([self.melanin, self.blood, self.venous, self.deep], axis=-1)
        rgb = _DERMIS * np.exp(-np.clip(pigments, 0.0, None) @ _ABSORPTION)
        rgb = rgb * (1 - _HAZE) + _HAZE * np.array([0.80, 0.78, 0.82], dtype=np.float32)
        for paint, opacity in self.paint:
            rgb += (np.array(paint, dtype=np.float32) - rgb) * np.clip(opacity, 0.0, 1.0)[..., None]
        down, right = np.gradient(self.relief, np.float32(plane.mm))
        slope = -(right * np.float32(np.cos(light_angle)) + down * np.float32(np.sin(light_angle)))
        return (rgb * (1.0 + 0.32 * np.tanh(slope))[..., None]).astype(np.float32)


def pick_tone(rng: np.random.Generator) -> tuple[str, float]:
    """A Fitzpatrick type and its melanin density; independent of the class."""
    tone = str(rng.choice(list(FITZPATRICK), p=_FITZPATRICK_SHARE))
    return tone, float(rng.uniform(*FITZPATRICK[tone]))


def healthy_skin(plane: Plane, rng: np.random.Generator, melanin: float, facial: bool) -> Layers:
    """Skin without a lesion: mottled pigment and redness, furrows, pores, at times freckles and fine vessels.

    Args:
        plane: the view.
        rng: the lesion's generator.
        melanin: density of the skin's tone, as from :func:`pick_tone`.
        facial: True for larger pores and more redness.
    """
    redness = rng.uniform(0.09, 0.27) * (1.4 if facial else 1.0)
    blotch = plane.noise(rng, 3.2, octaves=3)
    mottle = plane.noise(rng, 0.9, octaves=2)
    grain = plane.noise(rng, 0.16)
    furrows = 1 - np.clip(np.abs(plane.noise(rng, 0.42, stretch=float(rng.uniform(1.0, 1.8)))) / 0.9, 0, 1)
    sun = float(rng.beta(1.2, 3.0))  # sun damage: mottling, lentigines, fine vessels
    even = 1 / (1 + 2.0 * melanin)  # dark skin is as evenly coloured as fair skin, not in proportion less
    tone = melanin * (1 + even * ((0.05 + 0.16 * sun) * mottle + 0.06 * grain)) + 0.05 * sun * np.clip(mottle, 0, None)
    tone = tone + float(rng.uniform(0.01, 0.05)) * (0.35 + melanin) * furrows
    blood = redness * (1 + 0.15 * blotch + (0.06 + 0.16 * sun) * mottle) + 0.010 * grain
    layers = Layers(tone, blood, plane.zeros(), plane.zeros(), plane.zeros(), np.full(plane.shape, -9.0, np.float32))
    layers.relief += 0.012 * furrows * plane.mm / 0.08
    pores(plane, rng, layers, facial)
    freckles(plane, rng, layers, int(rng.poisson(9 * sun * sun)))
    fine_vessels(plane, rng, layers, int(rng.poisson(7 * sun)))
    return layers


def pores(plane: Plane, rng: np.random.Generator, layers: Layers, facial: bool) -> None:
    """Follicle openings: pale rings with a darker point; large and everywhere on a face, faint or none elsewhere."""
    pitch, amount = float(rng.uniform(0.55, 0.8)), float(rng.uniform(0.7, 1.1) if facial else rng.choice([0.0, 0.35]))
    near, _ = plane.cells(rng, pitch * (1.0 if facial else 1.5), jitter=0.85)
    amount_here = amount * np.clip(0.8 + 0.35 * plane.noise(rng, 1.6), 0, 1.5)
    layers.melanin += amount_here * (0.13 * bell(near, 0.09) - 0.03 * bell(near, 0.24))
    layers.blood *= 1 - 0.16 * amount_here * bell(near, 0.24)
    layers.relief -= 0.05 * amount_here * bell(near, 0.12)


def freckles(plane: Plane, rng: np.random.Generator, layers: Layers, n: int) -> None:
    """`n` light brown spots with soft, uneven borders, anywhere."""
    centres, radii = rng.uniform(-9, 9, (n, 2)), rng.uniform(0.25, 0.9, n)
    rough = plane.noise(rng, 0.45, octaves=2)
    spots = plane.blobs(centres, radii, rng.uniform(0.10, 0.38, n), edge=0.8)
    layers.melanin += np.clip(spots * (1 + 0.5 * rough), 0, None)


def fine_vessels(plane: Plane, rng: np.random.Generator, layers: Layers, n: int) -> None:
    """`n` thin, faint, wandering vessels."""
    lines = []
    for _ in range(n):
        path = curve(rng, rng.uniform(-8, 8, 2), rng.uniform(0, 2 * np.pi), rng.uniform(1.5, 4.5), 1.2)
        lines.append((path, float(rng.uniform(0.05, 0.11)), float(rng.uniform(0.2, 0.6))))
    layers.blood += 0.55 * plane.strokes(lines)


def inside(level: Field, soft_mm: float) -> Field:
    """1 inside the border, 0 outside, fading over `soft_mm` to either side. Shape (H, W)."""
    return smoothstep(-soft_mm, soft_mm, level)
