"""How the other classes are drawn: keratinocyte cancers and their precursors, vascular lesions, metastases, acne.

Each function adds one lesion to healthy skin (`layers`, in place), sets `layers.lesion`, and returns what it drew.
"""

from __future__ import annotations

import math

import numpy as np

from datasets_scripts.phantom_motifs import (
    BONE,
    PEARL,
    VEIL,
    crust,
    dots,
    follicles,
    glomeruli,
    outline,
    scale,
    scatter,
    shiny_streaks,
    tree,
)
from datasets_scripts.phantom_pigmented import Attributes
from datasets_scripts.phantom_plane import Plane, bell, smoothstep
from datasets_scripts.phantom_skin import Layers, inside


def actinic(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """Actinic keratosis or Bowen's disease: an ill-defined red patch, scale, follicles or coiled vessels."""
    kind = str(rng.choice(["strawberry", "bowen", "pigmented"], p=[0.45, 0.32, 0.23]))
    radius = float(rng.uniform(2.7, 4.5))
    level = outline(plane, rng, radius, rng.uniform(1.0, 1.5), lobes=0.10, rough=0.35)
    body = inside(level, float(rng.uniform(0.7, 1.4)))
    redness = float(rng.uniform(0.40, 0.78)) * (0.7 if kind == "pigmented" else 1.0)
    patchy = np.clip(1 + 0.28 * plane.noise(rng, 0.9, octaves=3), 0.2, None)
    holes, plug = follicles(plane, rng, float(rng.uniform(0.62, 0.9)))
    coils = glomeruli(plane, rng, int(rng.integers(60, 130)), radius)
    brown = dots(plane, rng, 160, radius, (0.05, 0.13))
    layers.blood += body * redness * patchy
    layers.melanin += body * float(rng.uniform(0.06, 0.26)) * patchy
    if kind != "bowen":
        there = smoothstep(-1.3, 0.8, plane.noise(rng, 1.8)) * body
        layers.blood *= 1 - 0.36 * there * holes
        layers.paint.append((BONE, there * (0.07 * holes + 0.26 * plug)))
    else:
        layers.blood += 0.75 * coils * body
    if kind == "pigmented":
        rhomb = (1 - holes) * np.clip(0.7 + 0.4 * plane.noise(rng, 1.0, octaves=2), 0, None)
        layers.melanin += body * (0.34 * rhomb + 0.35 * brown)
    flakes = scale(plane, rng, body, share=float(rng.uniform(0.28, 0.58)))
    layers.paint.append(((0.95, 0.90, 0.82), 0.46 * flakes * np.exp(-0.45 * layers.melanin)))
    layers.relief += 0.03 * flakes
    crust(plane, rng, layers, _small_patch(plane, rng, radius, 0.16) * (rng.random() < 0.25))
    layers.lesion = level
    return {"pattern": kind, "radius_mm": round(radius, 2)}


def _small_patch(plane: Plane, rng: np.random.Generator, radius: float, share: float) -> np.ndarray:
    """A ragged sore of `share` of the lesion's radius somewhere inside it, (H, W) in 0..1."""
    centre = scatter(rng, 1, radius * 0.5)[0]
    return inside(outline(plane, rng, radius * share, 1.3, lobes=0.2, rough=0.3, centre=tuple(centre)), 0.15)


def basal_cell(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """Basal cell carcinoma: pearly pink, branching vessels, blue-grey nests, leaf-like areas, ulceration."""
    radius = float(rng.uniform(2.3, 4.2))
    level = outline(plane, rng, radius, rng.uniform(1.0, 1.5), lobes=0.08, rough=0.16)
    body = inside(level, float(rng.uniform(0.4, 0.9)))
    pearl = np.clip(0.8 + 0.25 * plane.noise(rng, 1.2, octaves=2), 0, 1)
    layers.blood += body * float(rng.uniform(0.15, 0.5))
    layers.melanin *= 1 - 0.25 * body
    layers.paint.append((PEARL, body * pearl * float(rng.uniform(0.20, 0.40))))
    lines = []
    for _ in range(int(rng.integers(2, 7))):
        angle = rng.uniform(0, 2 * math.pi)
        start = np.array([math.cos(angle), math.sin(angle)]) * radius * rng.uniform(0.6, 1.05)
        lines += tree(
            rng, start, angle + math.pi + rng.normal(0, 0.5), radius * rng.uniform(0.6, 1.0), rng.uniform(0.09, 0.19)
        )
    vessels = plane.strokes(lines) * inside(level, 0.8)
    nests = int(rng.choice([0, 1, 3, 6, 9], p=[0.12, 0.2, 0.28, 0.25, 0.15]))
    ovoid = plane.blobs(
        scatter(rng, nests, radius * 0.8), rng.uniform(0.28, 0.62, nests), rng.uniform(0.6, 1, nests), 0.95
    )
    ovoid *= np.clip(0.85 + 0.35 * plane.noise(rng, 0.5, octaves=2), 0.2, 1.3)
    leaf = dots(plane, rng, nests * 4, radius * 0.95, (0.07, 0.16)) * bell(level, 0.7)
    layers.deep += 1.25 * ovoid * inside(level, 0.5) + 0.3 * leaf
    layers.melanin += 0.5 * ovoid * inside(level, 0.5) + 0.75 * leaf
    layers.blood += 1.3 * vessels
    layers.venous += 0.18 * vessels
    layers.paint.append(
        ((0.97, 0.92, 0.92), 0.6 * shiny_streaks(plane, rng, int(rng.integers(0, 9)), radius * 0.8) * body)
    )
    ulcer = rng.random() < 0.4
    crust(plane, rng, layers, _small_patch(plane, rng, radius, float(rng.uniform(0.2, 0.4))) * ulcer)
    layers.relief += 0.30 * smoothstep(-0.4, 1.4, level)
    layers.lesion = level
    return {"pattern": f"vessels, {nests} nests" + (", ulcer" if ulcer else ""), "radius_mm": round(radius, 2)}


def squamous_cell(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """Squamous cell carcinoma: a red knoll with a keratin mass in its middle, white circles, hairpin vessels, blood."""
    radius = float(rng.uniform(2.2, 4.2))
    level = outline(plane, rng, radius, rng.uniform(1.0, 1.35), lobes=0.10, rough=0.3)
    body = inside(level, 0.4)
    middle = np.clip(level / radius, 0, 1)
    plug = smoothstep(0.30, 0.62, middle + 0.10 * plane.noise(rng, 0.9, octaves=2)) * body
    holes, points = follicles(plane, rng, 0.75)
    layers.blood += body * float(rng.uniform(0.5, 0.9)) * np.clip(1 + 0.2 * plane.noise(rng, 0.6, octaves=2), 0.2, None)
    lines = []
    for angle in rng.uniform(0, 2 * math.pi, 26):
        start = np.array([math.cos(angle), math.sin(angle)]) * radius * rng.uniform(0.55, 0.95)
        lines += tree(rng, start, angle + math.pi, 0.55, 0.11, depth=0)
    layers.blood += 0.9 * plane.strokes(lines) * body
    layers.paint.append((BONE, body * (1 - plug) * (0.34 * holes - 0.25 * points).clip(0, 1)))
    horn = plane.noise(rng, 0.4, octaves=3)
    layers.paint.append(((0.86, 0.76, 0.55), plug * np.clip(0.66 + 0.18 * horn, 0, 0.95)))
    layers.relief += 0.5 * middle * body + plug * 0.05 * horn
    bleed = plane.blobs(scatter(rng, 9, radius * 0.5), rng.uniform(0.12, 0.35, 9), rng.uniform(0.5, 1.0, 9), 0.5)
    layers.paint.append(((0.36, 0.08, 0.07), 0.85 * bleed * body))
    layers.lesion = level
    return {"pattern": "keratin mass", "radius_mm": round(radius, 2)}


def vascular(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """Cherry angioma, angiokeratoma, haemorrhage: sharply bounded lacunae from bright red over purple to blue-black."""
    kind = str(rng.choice(["cherry", "lacunae", "angiokeratoma"], p=[0.34, 0.4, 0.26]))
    radius = float(rng.uniform(1.0, 2.6) if kind == "cherry" else rng.uniform(1.6, 3.2))
    level = outline(plane, rng, radius, rng.uniform(1.0, 1.4), lobes=0.02, rough=0.045)
    body = inside(level, 0.14)
    dark = float(rng.uniform(0.0, 0.35) if kind == "cherry" else rng.uniform(0.3, 1.0))
    pitch = float(rng.uniform(0.75, 1.25))
    bend = 0.12 * plane.noise(rng, 0.8), 0.12 * plane.noise(rng, 0.8)
    near, _ = plane.cells(rng, pitch, jitter=0.75, warp=bend)
    lake = smoothstep(0.60, 0.30, near + 0.08 * plane.noise(rng, 1.0))
    uneven = np.clip(1 + 0.18 * plane.noise(rng, 1.0, octaves=2), 0.3, None)
    clot = smoothstep(0.0, 1.6, plane.noise(rng, 1.1)) * lake * body
    layers.blood += body * (0.8 + 0.6 * (lake if kind != "cherry" else 0.7 + 0.3 * lake)) * uneven
    layers.venous += body * uneven * (0.20 + 0.95 * dark * (0.30 + 0.70 * lake))
    layers.paint.append(((0.90, 0.76, 0.80), 0.16 * body * (1 - lake) * (kind != "cherry")))
    if kind == "angiokeratoma":
        layers.venous += 1.0 * clot
        layers.deep += 0.6 * clot
        veil = body * smoothstep(-0.2, 1.0, plane.noise(rng, 1.3))
        layers.paint.append((VEIL, 0.32 * veil))
        layers.paint.append((BONE, 0.28 * scale(plane, rng, body, share=0.25)))
    layers.blood += 0.35 * bell(level, 0.55) * (rng.random() < 0.5)
    layers.relief += 0.40 * smoothstep(-0.2, 1.0, level) + 0.02 * lake * body
    layers.lesion = level
    return {"pattern": kind, "radius_mm": round(radius, 2)}


def metastasis(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """A melanoma's metastasis: a smooth dome, structureless, pink to blue-black, with a red halo and odd vessels."""
    radius = float(rng.uniform(1.6, 3.6))
    level = outline(plane, rng, radius, rng.uniform(1.0, 1.25), lobes=0.03, rough=0.07)
    body = inside(level, 0.25)
    middle = np.clip(level / radius, 0, 1)
    blue = float(rng.beta(0.9, 1.1))
    smooth = np.clip(1 + 0.14 * plane.noise(rng, 1.5), 0.4, None)
    layers.deep += body * (0.12 + 0.95 * blue) * smooth
    layers.melanin += body * 0.45 * blue * middle
    layers.blood += body * (0.75 - 0.35 * blue) + 0.4 * bell(level + 0.3, 0.5)
    layers.venous += body * 0.28 * (1 - blue)
    lines = []
    for start in scatter(rng, 7, radius * 0.8):
        lines += tree(rng, start, rng.uniform(0, 2 * math.pi), 0.9, 0.12, depth=0)
    layers.blood += 0.8 * plane.strokes(lines) * body
    layers.relief += 1.0 * np.sqrt(middle)
    layers.lesion = level
    return {"pattern": "blue" if blue > 0.5 else "pink", "radius_mm": round(radius, 2)}


def acne(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """Acne in a clinical close-up: papules, pustules with a yellow head, comedones, old marks, on oily facial skin."""
    n = int(rng.integers(4, 11))
    points, radii = scatter(rng, n, 6.2), rng.uniform(0.45, 1.1, n)
    # One in the middle, so that no view of the lesion misses all of them.
    points[0], radii[0] = rng.normal(0, 0.5, 2), rng.uniform(0.8, 1.5)
    bend = 0.07 * plane.noise(rng, 1.0, octaves=2)
    level = np.full(plane.shape, -9.0, dtype=np.float32)
    heads = 0
    for (x, y), radius in zip(points, radii, strict=True):
        distance = np.hypot(plane.u - x, plane.v - y) + bend
        level = np.maximum(level, radius - distance)
        bump = np.exp(-0.5 * np.square(distance / (0.55 * radius))).astype(np.float32)
        halo = np.exp(-0.5 * np.square(distance / (1.05 * radius))).astype(np.float32)
        layers.blood += float(rng.uniform(0.35, 0.8)) * bump + 0.30 * halo
        layers.relief += 0.85 * radius * bump
        ripe, place = rng.random() < 0.65, rng.normal(0, 0.08, 2)
        if ripe:
            heads += 1
            head = np.hypot(plane.u - x - place[0], plane.v - y - place[1]) + 0.4 * bend
            layers.paint.append(((0.95, 0.88, 0.66), 0.82 * smoothstep(0.46 * radius, 0.10 * radius, head)))
    comedones = int(rng.integers(4, 22))
    layers.melanin += 0.9 * dots(plane, rng, comedones, 6.5, (0.07, 0.15))
    bumps = plane.blobs(scatter(rng, comedones, 6.5), rng.uniform(0.14, 0.3, comedones), 1.0, edge=0.9)
    layers.paint.append(((0.95, 0.86, 0.76), 0.35 * bumps))
    layers.relief += 0.12 * bumps
    marks = plane.blobs(scatter(rng, 6, 6.5), rng.uniform(0.5, 1.2, 6), rng.uniform(0.05, 0.35, 6), edge=0.95)
    layers.blood += 0.7 * marks
    layers.melanin += 0.35 * marks
    shine = smoothstep(-0.3, 2.6, plane.noise(rng, 2.6)) * np.clip(0.5 + 0.6 * plane.noise(rng, 0.28), 0, 2)
    layers.paint.append(((1.0, 0.98, 0.96), 0.14 * shine * np.exp(-1.6 * layers.melanin)))
    layers.lesion = level
    return {"pattern": f"{n} papules, {heads} with a head", "radius_mm": round(float(radii.max()), 2)}


def clear(plane: Plane, rng: np.random.Generator, layers: Layers) -> Attributes:
    """Healthy skin: nothing is added, the lesion mask stays empty."""
    return {"pattern": "healthy skin", "radius_mm": 0.0}
