"""How pigmented lesions are drawn: nevus, melanoma, seborrhoeic keratosis, solar lentigo, dermatofibroma.

Each function adds one lesion to healthy skin (`layers`, in place), sets `layers.lesion`, and returns what it drew.
"""

from __future__ import annotations

import math

import numpy as np

from datasets_scripts.phantom_motifs import (
    BONE,
    PEARL,
    VEIL,
    WAX,
    dots,
    globules,
    milia,
    network,
    outline,
    plugs,
    scatter,
    shiny_streaks,
    streaks,
)
from datasets_scripts.phantom_plane import Field, Plane, bell, smoothstep
from datasets_scripts.phantom_skin import Layers, inside

Attributes = dict[str, object]


def nevus(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """A mole: one or two browns, even, symmetric; reticular, globular, homogeneous or dermal."""
    kind = str(rng.choice(["reticular", "globular", "homogeneous", "dermal"], p=[0.44, 0.22, 0.22, 0.12]))
    radius = float(rng.uniform(1.5, 3.5))
    level = outline(plane, rng, radius, rng.uniform(1.0, 1.4), lobes=0.035, rough=0.09)
    body = inside(level, float(rng.uniform(0.2, 0.7)))
    depth = float(rng.uniform(0.55, 1.35)) * (0.45 if kind == "dermal" else 1.0)
    middle = np.clip(level / radius, 0, 1)
    tone = 1 + float(rng.normal(0.05, 0.28)) * (middle - 0.5) + 0.13 * plane.noise(rng, 0.7, octaves=3)
    lines = network(plane, rng, float(rng.uniform(0.36, 0.50)), line=float(rng.uniform(0.10, 0.16)), warp=0.06)
    cobbles = globules(plane, rng, level, radius, pitch=float(rng.uniform(0.38, 0.56)), jitter=0.85)
    spots = dots(plane, rng, int(rng.integers(0, 14)), radius * 0.7, (0.06, 0.13))
    if kind == "reticular":
        tone = tone * (0.76 + 0.52 * lines * (0.35 + 0.65 * smoothstep(0.9, 0.1, middle)))
    elif kind == "globular":
        tone = tone * (0.70 + 0.55 * cobbles)
    elif kind == "dermal":
        layers.relief += 0.5 * np.sqrt(np.clip(middle, 0, 1)) * body
        layers.paint.append((PEARL, 0.10 * body * middle))
    layers.melanin += body * depth * np.clip(tone, 0.12, None) + 0.45 * spots * body
    layers.blood += body * float(rng.uniform(0.05, 0.42))
    if rng.random() < 0.18:  # a touch of pigment further down: the steel-blue centre of an older mole
        layers.deep += 0.45 * body * middle
    layers.lesion = level
    return {"pattern": kind, "radius_mm": round(radius, 2)}


def melanoma(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """Asymmetry, ragged border, several colours; some of: atypical network, veil, streaks, regression, blotches."""
    radius = float(rng.uniform(2.3, 4.4))
    level = outline(plane, rng, radius, rng.uniform(1.05, 1.6), lobes=float(rng.uniform(0.09, 0.18)), rough=0.20)
    body = inside(level, float(rng.uniform(0.2, 0.6)))
    has = {
        "atypical_network": rng.random() < 0.7,
        "veil": rng.random() < 0.65,
        "streaks": rng.random() < 0.5,
        "regression": rng.random() < 0.45,
        "blotch": rng.random() < 0.75,
        "red": rng.random() < 0.5,
    }
    islands = plane.noise(rng, radius * 0.55, octaves=3)
    tone = np.clip(0.85 + 0.42 * islands + 0.12 * plane.noise(rng, 0.35, octaves=2), 0.16, 3.0)
    lines = network(plane, rng, float(rng.uniform(0.5, 0.75)), line=0.17, warp=0.3)
    patch = smoothstep(-0.4, 0.7, plane.noise(rng, radius * 0.5))
    tone = tone * (0.72 + (0.8 * lines - 0.1) * patch * has["atypical_network"])
    layers.melanin += body * float(rng.uniform(0.9, 1.5)) * np.clip(tone, 0.08, None)
    off_centre = scatter(rng, 3, radius * 0.62)
    blotches = [_patch(plane, rng, tuple(off_centre[i]), radius * s) for i, s in enumerate((0.38, 0.42, 0.40))]
    layers.melanin += 1.7 * has["blotch"] * blotches[0] * body
    strands = streaks(plane, rng, level, radius, int(rng.integers(12, 30)), float(rng.uniform(1.2, 3.0)))
    layers.melanin += 0.95 * has["streaks"] * strands
    layers.melanin += 1.1 * dots(plane, rng, int(rng.integers(8, 40)), radius * 0.95, (0.05, 0.17)) * inside(level, 0.6)
    veil = has["veil"] * blotches[1] * body
    layers.deep += 0.8 * veil
    layers.paint.append((VEIL, 0.34 * veil))
    layers.blood += body * (float(rng.uniform(0.15, 0.4)) + 0.75 * has["red"] * blotches[2])
    _regression(plane, rng, layers, has["regression"] * _patch(plane, rng, (0.0, 0.0), radius * 0.5) * body)
    layers.relief += 0.25 * blotches[0] * body
    layers.lesion = level
    return {"pattern": "+".join(name for name, there in has.items() if there) or "plain", "radius_mm": round(radius, 2)}


def _patch(plane: Plane, rng: np.random.Generator, centre: tuple[float, float], radius: float) -> Field:
    """A ragged area with soft borders inside a lesion, (H, W) in 0..1."""
    return inside(outline(plane, rng, radius, rng.uniform(1.0, 1.7), lobes=0.15, rough=0.3, centre=centre), 0.75)


def _regression(plane: Plane, rng: np.random.Generator, layers: Layers, where: Field) -> None:
    """White scar and grey-blue pepper where the body has fought a melanoma back."""
    shift = scatter(rng, 1, 1.4)[0]
    where = where * smoothstep(-0.8, 0.6, plane.noise(rng, 1.4))
    pepper = dots(plane, rng, 45, 2.2, (0.04, 0.08)) * smoothstep(-2.0, 1.5, plane.u * shift[0] + plane.v * shift[1])
    layers.melanin *= 1 - 0.72 * where
    layers.paint.append(((0.90, 0.80, 0.79), 0.42 * where))
    layers.deep += 0.7 * pepper * where


def keratosis(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """A seborrhoeic keratosis: stuck on, sharply cut, waxy; cysts, plugs, fissures; at times flat or lichenoid."""
    kind = str(rng.choice(["verrucous", "flat", "lichenoid"], p=[0.62, 0.2, 0.18]))
    if kind == "flat":
        return lentigo(plane, rng, layers)
    radius = float(rng.uniform(1.9, 4.2))
    level = outline(plane, rng, radius, rng.uniform(1.0, 1.55), lobes=0.09, rough=0.26)
    body = inside(level, 0.14 if kind == "verrucous" else 0.5)
    furrow = 1 - np.clip(np.abs(plane.noise(rng, 0.55, octaves=2)) / 0.75, 0, 1)
    lumps = plane.noise(rng, 0.42, octaves=2)
    depth = float(rng.uniform(0.30, 1.25)) * (0.55 if kind == "lichenoid" else 1.0)
    fissured = float(rng.uniform(0.15, 0.9))
    mottled = np.clip(0.85 + 0.22 * lumps + fissured * (furrow - 0.4), 0.1, None)
    layers.melanin += body * depth * mottled
    layers.paint.append((WAX, body * float(rng.uniform(0.22, 0.45)) * np.clip(0.9 + 0.2 * lumps, 0, 1)))
    layers.relief += body * (0.035 * lumps - 0.03 * furrow * fissured) + 0.22 * smoothstep(-0.1, 0.7, level)
    if kind == "verrucous":
        milia(plane, rng, layers, level, int(rng.integers(5, 26)), radius * 0.95)
        plugs(plane, rng, layers, level, int(rng.integers(3, 16)), radius * 0.9)
    else:
        grey = dots(plane, rng, 130, radius, (0.05, 0.11)) * body
        layers.deep += 0.55 * grey + 0.18 * body
        layers.blood += 0.35 * body * (1 + 0.4 * plane.noise(rng, 1.1))
        milia(plane, rng, layers, level, 5, radius * 0.9)
    layers.paint.append((BONE, 0.22 * body * smoothstep(0.9, 1.9, plane.noise(rng, 0.5, octaves=2))))
    layers.lesion = level
    return {"pattern": kind, "radius_mm": round(radius, 2)}


def lentigo(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """A solar lentigo or flat keratosis: light brown, moth-eaten border, fingerprint lines."""
    radius = float(rng.uniform(2.0, 4.4))
    level = outline(plane, rng, radius, rng.uniform(1.0, 1.7), lobes=0.12, rough=0.3)
    bites = smoothstep(0.15, 1.0, plane.noise(rng, 0.8, octaves=2)) * bell(level, 0.45)
    level = (level - 0.9 * bites).astype(np.float32)
    body = inside(level, 0.12)
    turn = float(rng.uniform(0, math.pi))
    along = plane.u * math.cos(turn) + plane.v * math.sin(turn) + 0.45 * plane.noise(rng, 1.3, octaves=2)
    prints = 0.5 + 0.5 * np.sin(along * np.float32(2 * math.pi / rng.uniform(0.42, 0.6)))
    depth = float(rng.uniform(0.26, 0.6))
    speckle = plane.noise(rng, 0.3, octaves=2)
    layers.melanin += body * depth * np.clip(0.72 + 0.42 * prints + 0.16 * speckle, 0.1, None)
    layers.paint.append((WAX, 0.12 * body))
    layers.lesion = level
    return {"pattern": "fingerprint", "radius_mm": round(radius, 2)}


def dermatofibroma(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """A firm button: white, scar-like middle, pink around it, a delicate brown network fading at the rim."""
    radius = float(rng.uniform(2.2, 3.6))
    level = outline(plane, rng, radius, rng.uniform(1.0, 1.25), lobes=0.04, rough=0.09)
    body = inside(level, float(rng.uniform(0.5, 0.9)))
    middle = np.clip(level / radius, 0, 1)
    heart = smoothstep(0.16, 0.66, middle + 0.10 * plane.noise(rng, 0.9, octaves=2))
    rim = body * (1 - heart)
    lines = network(plane, rng, float(rng.uniform(0.40, 0.52)), line=0.13, warp=0.07)
    layers.melanin += (
        rim * float(rng.uniform(0.40, 0.78)) * (0.78 + 0.38 * lines + 0.12 * plane.noise(rng, 0.8, octaves=2))
    )
    layers.blood += body * float(rng.uniform(0.08, 0.34)) + 0.10 * rim
    white = np.clip(0.72 + 0.3 * plane.noise(rng, 0.35, octaves=2), 0, 1) * heart * float(rng.uniform(0.42, 0.72))
    cords = shiny_streaks(plane, rng, int(rng.integers(4, 16)), radius * 0.5) * heart
    layers.melanin *= 1 - 0.55 * heart
    layers.paint.append(((0.95, 0.87, 0.86), np.maximum(white, 0.8 * cords)))
    layers.relief += 0.30 * smoothstep(0.0, 1.0, middle)
    layers.lesion = level
    return {"pattern": "central white patch", "radius_mm": round(radius, 2)}
