"""The skin plane that phantoms are drawn on: millimetres under every pixel; noise, cells, blobs and strokes in them.

Everything of a lesion is a function of millimetres on the skin, never of pixels. Turning, shifting or zooming the
:class:`Plane` therefore photographs the *same* lesion again, and another image size draws the same image.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.float32]  # (H, W)

EXTENT_MM = 15.0  # noise is defined on the square [-15, 15] mm; no view reaches beyond it
_TABLE = 64  # side of the jitter table behind `Plane.cells`, in cells


def smoothstep(low: float | Field, high: float | Field, x: Field) -> Field:
    """Hermite step, elementwise: 0 below `low`, 1 above `high`, smooth between. Shape (H, W)."""
    t = np.minimum(np.maximum((x - low) / (high - low), 0.0), 1.0)
    return (t * t * (3.0 - 2.0 * t)).astype(np.float32, copy=False)


def bell(x: Field, width: float) -> Field:
    """Gaussian bump of `x` around 0 with standard deviation `width`, peak 1. Shape (H, W)."""
    return np.exp(-0.5 * np.square(x / width)).astype(np.float32, copy=False)


class Plane:
    """One view of the skin: a pixel grid with the millimetre coordinates `u` (right) and `v` (down) of each pixel.

    Args:
        size: width and height in pixels.
        field_mm: height of the field of view in millimetres.
        angle: rotation of the camera in radians.
        shift_mm: the point on the skin, in millimetres, that stands in the image's centre.
    """

    def __init__(
        self,
        size: tuple[int, int],
        field_mm: float,
        angle: float = 0.0,
        shift_mm: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.size = size
        self._pose = angle, shift_mm
        width, height = size
        self.mm = field_mm / height  # millimetres a pixel
        cos, sin = math.cos(angle) * self.mm, math.sin(angle) * self.mm
        # (u, v) = matrix @ (x, y, 1), with x and y in pixels and pixel centres at +0.5
        self._u = (cos, -sin, shift_mm[0] - cos * width / 2 + sin * height / 2)
        self._v = (sin, cos, shift_mm[1] - sin * width / 2 - cos * height / 2)
        self._offset = np.array([self._u[2], self._v[2]])
        self._to_pixels = np.linalg.inv(np.array([self._u[:2], self._v[:2]])).T
        x = np.arange(width, dtype=np.float32)[None, :] + 0.5
        y = np.arange(height, dtype=np.float32)[:, None] + 0.5
        self.u: Field = (self._u[0] * x + self._u[1] * y + self._u[2]).astype(np.float32)
        self.v: Field = (self._v[0] * x + self._v[1] * y + self._v[2]).astype(np.float32)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, (H, W)."""
        return self.size[1], self.size[0]

    def zeros(self) -> Field:
        """A field of zeros, (H, W)."""
        return np.zeros(self.shape, dtype=np.float32)

    def reduced(self, factor: int) -> Plane:
        """The same view with `factor` times fewer pixels a side."""
        width, height = self.size
        return Plane((width // factor, height // factor), self.mm * height, *self._pose)

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Skin points (N, 2) in millimetres -> image points (N, 2) in pixels."""
        return (np.asarray(points, dtype=np.float64) - self._offset) @ self._to_pixels

    def noise(self, rng: np.random.Generator, cell_mm: float, octaves: int = 1, stretch: float = 1.0) -> Field:
        """Smooth noise of mean 0 and standard deviation about 1, (H, W).

        Args:
            rng: the lesion's generator; the same number of draws is made in every view.
            cell_mm: distance between independent values, in millimetres.
            octaves: how many times the cell is halved, each at half the amplitude.
            stretch: above 1, the noise is drawn out along the skin's u axis.
        """
        total, power = self.zeros(), 0.0
        for octave in range(octaves):
            weight = 0.5**octave
            total += weight * self._lattice(rng, cell_mm * weight, stretch)
            power += weight * weight
        return total / np.float32(0.62 * math.sqrt(power))

    def _lattice(self, rng: np.random.Generator, cell_mm: float, stretch: float) -> Field:
        cell_u, cell_v = cell_mm * stretch, cell_mm
        shape = (math.ceil(2 * EXTENT_MM / cell_v) + 4, math.ceil(2 * EXTENT_MM / cell_u) + 4)
        lattice = Image.fromarray(rng.standard_normal(shape, dtype=np.float32))
        start = EXTENT_MM + 2 * cell_u, EXTENT_MM + 2 * cell_v
        # Wide cells are sampled on a coarser grid (with a margin of one of its pixels) and enlarged: alike, but faster.
        step = 4 if cell_mm > 9 * self.mm else 2 if cell_mm > 4.5 * self.mm else 1
        coarse = (-(-self.size[0] // step) + 2, -(-self.size[1] // step) + 2)
        data = (
            *(self._u[0] * step / cell_u, self._u[1] * step / cell_u),
            (self._u[2] - (self._u[0] + self._u[1]) * step + start[0]) / cell_u,
            *(self._v[0] * step / cell_v, self._v[1] * step / cell_v),
            (self._v[2] - (self._v[0] + self._v[1]) * step + start[1]) / cell_v,
        )
        smooth = Image.Resampling.BICUBIC if cell_mm > 2 * self.mm else Image.Resampling.BILINEAR
        sampled = lattice.transform(coarse, Image.Transform.AFFINE, data, smooth)
        box = (1.0, 1.0, 1 + self.size[0] / step, 1 + self.size[1] / step)
        return np.asarray(sampled.resize(self.size, Image.Resampling.BICUBIC, box=box), dtype=np.float32)

    def cells(
        self, rng: np.random.Generator, pitch_mm: float, jitter: float = 0.75, warp: tuple[Field, Field] | None = None
    ) -> tuple[Field, Field]:
        """Worley's cellular noise on a jittered square lattice (Worley, SIGGRAPH 1996).

        Args:
            rng: the lesion's generator.
            pitch_mm: mean distance of cell centres in millimetres.
            jitter: 0 for a regular lattice, 1 for the most irregular one.
            warp: displacement of the coordinates in millimetres, two fields (H, W).

        Returns:
            Distance to the nearest centre and gap to the second nearest, both (H, W) in units of the pitch.
        """
        offsets = ((rng.random((2, _TABLE * _TABLE), dtype=np.float32) - 0.5) * jitter + 0.5).astype(np.float32)
        shift = (0.0, 0.0) if warp is None else warp
        # Positive everywhere, so that cutting the fraction off is rounding down.
        x = (self.u + shift[0]) / pitch_mm + 4 * _TABLE
        y = (self.v + shift[1]) / pitch_mm + 4 * _TABLE
        column, row = x.astype(np.int32), y.astype(np.int32)
        x, y = (x - column).astype(np.float32), (y - row).astype(np.float32)
        first = np.full(self.shape, 9.0, dtype=np.float32)
        second = first.copy()
        for down in (-1, 0, 1):
            line = ((row + down) & (_TABLE - 1)) * _TABLE
            for right in (-1, 0, 1):
                index = line + ((column + right) & (_TABLE - 1))
                dx = np.take(offsets[0], index) + (np.float32(right) - x)
                dy = np.take(offsets[1], index) + (np.float32(down) - y)
                square = dx * dx + dy * dy
                np.minimum(second, np.maximum(first, square), out=second)
                np.minimum(first, square, out=first)
        near = np.sqrt(first)
        return near, np.sqrt(second) - near

    def blobs(
        self, points: np.ndarray, radii: np.ndarray, heights: np.ndarray | float = 1.0, edge: float = 0.5
    ) -> Field:
        """Round spots, the higher one winning where two overlap, (H, W).

        Args:
            points: centres (N, 2) in millimetres.
            radii: radii (N,) in millimetres.
            heights: value at the centre, one or (N,).
            edge: share of the radius over which a spot fades, 0..1; small is crisp.
        """
        out = self.zeros()
        if len(points) == 0:
            return out
        heights = np.broadcast_to(np.asarray(heights, dtype=np.float32), (len(points),))
        centres = self.to_pixels(points)
        for (x, y), radius, height in zip(centres, np.asarray(radii) / self.mm, heights, strict=True):
            reach = radius * (1 + edge) + 1.5
            left, right = max(0, int(x - reach)), min(self.size[0], int(x + reach) + 2)
            top, bottom = max(0, int(y - reach)), min(self.size[1], int(y + reach) + 2)
            if left >= right or top >= bottom:
                continue
            dx = np.arange(left, right, dtype=np.float32)[None, :] + np.float32(0.5 - x)
            dy = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
            band = max(radius * edge, 0.7)
            spot = height * smoothstep(-band, band, radius - np.sqrt(dx * dx + dy * dy))
            np.maximum(out[top:bottom, left:right], spot, out=out[top:bottom, left:right])
        return out

    def strokes(self, lines: list[tuple[np.ndarray, float, float]], scale: int = 3) -> Field:
        """Smooth lines, anti-aliased by drawing them `scale` times larger, (H, W) in 0..1.

        Args:
            lines: per line its points (N, 2) in millimetres, its width in millimetres and its strength 0..1.
            scale: supersampling factor.
        """
        if not lines:
            return self.zeros()
        sheet = Image.new("L", (self.size[0] * scale, self.size[1] * scale))
        pen = ImageDraw.Draw(sheet)
        for points, width_mm, strength in sorted(lines, key=lambda line: line[2]):
            width = width_mm / self.mm * scale
            # A line thinner than the supersampled pixel keeps its amount of ink by fading instead.
            ink = strength * min(1.0, max(width, 0.2))
            path = [tuple(p) for p in self.to_pixels(points) * scale]
            pen.line(path, fill=round(255 * ink), width=max(1, round(width)), joint="curve")
        return np.asarray(sheet.reduce(scale), dtype=np.float32) / np.float32(255.0)


def curve(
    rng: np.random.Generator,
    start: np.ndarray,
    angle: float,
    length: float,
    bend: float,
    n: int = 14,
    wander: float = 1.0,
) -> np.ndarray:
    """A path (n, 2) in millimetres from `start` along `angle` (radians) that turns by about `bend` radians.

    `wander` 1 strays like a vessel, 0 is an even arc.
    """
    stray = wander * np.cumsum(rng.normal(0, bend / math.sqrt(n), n))
    turn = rng.normal(0, bend)
    arc = np.arange(n) * (turn / (n - 1))
    arc[-1] = turn
    steps = angle + stray + arc
    path = np.empty((n, 2))
    path[0] = 0
    np.cumsum(np.cos(steps[:-1]) * (length / n), out=path[1:, 0])
    np.cumsum(np.sin(steps[:-1]) * (length / n), out=path[1:, 1])
    return path + start
