"""Procedural dermoscopy phantoms: drawn lesions whose class, lesion mask and hairs are known exactly.

They stand in for photographs where none may be shipped: the demo, the tests, a first try on a train. They are drawings,
not photographs of anybody, and every place that shows one says so. A model trained on them knows nothing about skin.

``draw(label, seed, view=k)`` photographs lesion `seed` of that class for the k-th time: same lesion, other light, other
hairs. Some lesions (``attributes["look"] != label``) look like another class, as some real ones do, so that no model
can be right about all of them.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from datasets_scripts import phantom_nonpigmented as red
from datasets_scripts import phantom_pigmented as brown
from datasets_scripts.command import UserError
from datasets_scripts.phantom_camera import bubbles, hairs, lens, light, marks, sensor
from datasets_scripts.phantom_nonskin import nonskin
from datasets_scripts.phantom_plane import Plane
from datasets_scripts.phantom_skin import Layers, healthy_skin, pick_tone

DRAWN = "Procedurally drawn, not a photograph"
FIELD_MM = 12.0  # height of what a dermatoscope shows, before zoom
AMBIGUOUS_SHARE = 0.06  # of lesions that look like another class
_RENDER_ROWS = 72  # images with fewer rows are rendered larger and reduced, else fine structures would alias

Look = Callable[[Plane, np.random.Generator, Layers], dict[str, object]]
LOOKS: dict[str, Look] = {
    "nv": brown.nevus,
    "mel": brown.melanoma,
    "bkl": brown.keratosis,
    "sk": brown.keratosis,
    "sl": brown.lentigo,
    "df": brown.dermatofibroma,
    "akiec": red.actinic,
    "ak": red.actinic,
    "bcc": red.basal_cell,
    "scc": red.squamous_cell,
    "vasc": red.vascular,
    "met": red.metastasis,
    "acne": red.acne,
    "clear": red.clear,
}
# What an ambiguous lesion of a class may look like instead; "benign" and "malignant" always look like one of these.
MISTAKEN_FOR: dict[str, tuple[str, ...]] = {
    "nv": ("mel", "bkl", "df"),
    "mel": ("nv", "nv", "bkl"),
    "bkl": ("mel", "nv", "akiec"),
    "sk": ("mel", "nv", "sl"),
    "sl": ("sk", "nv", "ak"),
    "df": ("nv", "bcc"),
    "akiec": ("bkl", "bcc"),
    "ak": ("scc", "sl", "bcc"),
    "bcc": ("akiec", "df", "mel"),
    "scc": ("ak", "bcc"),
    "vasc": ("mel", "bcc"),
    "met": ("vasc", "mel"),
    "acne": ("vasc", "bcc"),
    "benign": ("nv", "bkl", "df", "vasc"),
    "malignant": ("mel", "bcc", "scc"),
}
_ALWAYS_MISTAKEN = ("benign", "malignant")
PHANTOM_LABELS: tuple[str, ...] = (*LOOKS, *_ALWAYS_MISTAKEN, "random")


class UnknownPhantomError(UserError):
    """A class for which no phantom can be drawn."""

    def __init__(self, label: str) -> None:
        super().__init__(f"no phantom is drawn for class {label!r}; known classes: {', '.join(PHANTOM_LABELS)}")


@dataclass(frozen=True)
class Phantom:
    """One drawn image and what is known about it.

    Attributes:
        image: RGB.
        lesion_mask: (H, W) bool, True on the lesion (also where a hair lies over it).
        hair_mask: (H, W) bool, True on exactly the pixels that hairs changed.
        label: short name of the class.
        lesion_id: the same for all views of one lesion.
        attributes: what was drawn: ``fitzpatrick``, ``look`` (the class it looks like), ``pattern``, ``radius_mm``,
            ``hairs`` (count), ``marks``, ``mm_per_pixel``, ``view``.
    """

    image: Image.Image
    lesion_mask: np.ndarray
    hair_mask: np.ndarray
    label: str
    lesion_id: str
    attributes: dict[str, object]

    def png(self) -> bytes:
        """The image as PNG, whose text fields say that it is drawn."""
        info = PngInfo()
        info.add_text("Title", "drawn dermoscopy phantom")
        info.add_text("Description", f"{DRAWN}. Class drawn: {self.label}. Not for diagnosis.")
        info.add_text("Software", "lesion-suite datasets_scripts.phantom")
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG", pnginfo=info)
        return buffer.getvalue()

    def mask_png(self) -> bytes:
        """The lesion mask as 8-bit PNG, 255 on the lesion, as HAM10000's segmentations are."""
        buffer = io.BytesIO()
        Image.fromarray(self.lesion_mask.astype(np.uint8) * 255).save(buffer, "PNG")
        return buffer.getvalue()


def draw(
    label: str, seed: int, size: tuple[int, int] = (200, 150), view: int = 0, *, with_hairs: bool = True
) -> Phantom:
    """Draw one phantom; the same arguments give the same pixels.

    Args:
        label: short name of a class, one of :data:`PHANTOM_LABELS`.
        seed: which lesion of that class, >= 0.
        size: width and height in pixels, each >= 16.
        view: which photograph of that lesion, >= 0: turned, moved, other light, other hairs.
        with_hairs: False leaves out the hairs and nothing else.

    Returns:
        The image with its masks.

    Raises:
        UnknownPhantomError: for a class that cannot be drawn.
        ValueError: for a negative seed or view, or a size below 16.
    """
    if label not in PHANTOM_LABELS:
        raise UnknownPhantomError(label)
    if seed < 0 or view < 0 or min(size) < 16:
        raise ValueError(f"seed={seed}, view={view}, size={size}: seed and view must be >= 0, width and height >= 16")
    key = zlib.crc32(label.encode())
    lesion_rng, view_rng = np.random.default_rng([seed, key]), np.random.default_rng([seed, key, 1 + view])
    look = _look(label, lesion_rng)
    tone, melanin = pick_tone(lesion_rng)
    contact = look != "acne" and bool(lesion_rng.random() < 0.88)
    factor = max(1, math.ceil(_RENDER_ROWS / size[1]))
    plane = _place(view_rng, (size[0] * factor, size[1] * factor), FIELD_MM * (1.15 if look == "acne" else 1.0))
    image, level, found = _surface(plane, look, lesion_rng, view_rng, melanin)
    lamp = light(plane, view_rng, contact)
    image *= lamp
    bubbles(plane, view_rng, image)
    found["marks"] = marks(plane, view_rng, image)
    small = plane.reduced(factor)
    opacity, colour, n_hairs = hairs(small, view_rng, share=0.25 if look == "acne" else 0.55)
    bare = lens(small, view_rng, _reduce(image, factor))
    bare = sensor(view_rng, bare)  # last, for the number of its draws depends on the size
    bare_pixels = _quantise(bare)
    haired = bare + (colour * _reduce(lamp, factor) - bare) * opacity[..., None]
    pixels = _quantise(haired) if with_hairs else bare_pixels
    attributes = {"fitzpatrick": tone, "look": look, **found, "hairs": n_hairs if with_hairs else 0}
    return Phantom(
        image=Image.fromarray(pixels),
        lesion_mask=_reduce((level > 0).astype(np.float32)[..., None], factor)[..., 0] >= 0.5,
        hair_mask=(pixels != bare_pixels).any(axis=-1),
        label=label,
        lesion_id=f"PL_{label}_{seed:010d}",
        attributes={**attributes, "mm_per_pixel": round(small.mm, 5), "view": view},
    )


def _look(label: str, rng: np.random.Generator) -> str:
    """The class a lesion looks like: its own, or for ambiguous ones another."""
    ambiguous, choice = rng.random() < AMBIGUOUS_SHARE, rng.random()
    others = MISTAKEN_FOR.get(label, ())
    if others and (ambiguous or label in _ALWAYS_MISTAKEN):
        return others[int(choice * len(others))]
    return label


def _place(rng: np.random.Generator, size: tuple[int, int], field_mm: float) -> Plane:
    """Hold the camera over the lesion: turned freely, a little off its middle, nearer or farther."""
    shift = np.clip(rng.normal(0, 0.65, 2), -1.6, 1.6)
    zoom = float(rng.uniform(0.86, 1.25))
    return Plane(size, field_mm / zoom, float(rng.uniform(0, 2 * math.pi)), (float(shift[0]), float(shift[1])))


def _surface(
    plane: Plane, look: str, lesion_rng: np.random.Generator, view_rng: np.random.Generator, melanin: float
) -> tuple[np.ndarray, np.ndarray, dict[str, object]]:
    """Colour (H, W, 3) of the lesion on its skin, signed distance to its border (H, W) in mm, and what was drawn."""
    light_angle = float(view_rng.uniform(0, 2 * math.pi))
    if look == "random":
        image, kind = nonskin(plane, lesion_rng)
        return image, np.full(plane.shape, -9.0, dtype=np.float32), {"pattern": kind, "radius_mm": 0.0}
    layers = healthy_skin(plane, lesion_rng, melanin, facial=look == "acne")
    found = LOOKS[look](plane, lesion_rng, layers)
    return layers.colour(plane, light_angle), layers.lesion, found


def _reduce(field: np.ndarray, factor: int) -> np.ndarray:
    """Mean of each `factor` x `factor` block of (H, W, C)."""
    if factor == 1:
        return field
    height, width, channels = field.shape
    blocks = field.reshape(height // factor, factor, width // factor, factor, channels)
    if factor == 2:  # as below, but three times as fast
        return (blocks[:, 0, :, 0] + blocks[:, 0, :, 1] + blocks[:, 1, :, 0] + blocks[:, 1, :, 1]) / np.float32(4)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _quantise(image: np.ndarray) -> np.ndarray:
    """0..1 -> 8 bits, (H, W, 3)."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
