"""Hair removal, lesion crop and colour constancy: what they find where the truth is known, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets_scripts.command import UserError
from datasets_scripts.phantom import draw
from datasets_scripts.phantom_camera import hairs
from datasets_scripts.phantom_plane import Plane
from hub_models.crop_lesion import LESION_MARGIN, lesion_box
from hub_models.hair_lesion import hair_mask, painted_over, remove_hair
from hub_models.preprocess_lesion import UnreadableImageError, constant_colour, open_image

SCHEMA_VERSION = 1
PHANTOM_CLASSES = ("nv", "mel", "bkl", "bcc", "akiec", "df", "vasc", "acne")
FIRST_PHANTOM = 1000  # those before it are the ones that the detector's values were chosen on
PHANTOM_SIZES = ((200, 150), (600, 450))
TIMED_SIZES = ((200, 150), (600, 450), (1024, 768))
QUANTILES = (0.05, 0.25, 0.50, 0.75, 0.95)
MASKS = "HAM10000_segmentations_lesion_tschandl"
FIELD_MM = 12.0  # height of what a dermatoscope shows
TARGET_KEPT = 0.98


@dataclass
class HairScore:
    """What hair removal did to images whose hairs are known; :meth:`add` one at a time.

    Attributes:
        images: with hair.
        bare: the same images without.
        touched: of the bare ones, how many hair was found on.
        hit, false, missed: pixels of hair found, found where there is none, and not found.
        before, after: PSNR in dB inside the hair mask, one an image, with hair and after its removal.
    """

    images: int = 0
    bare: int = 0
    touched: int = 0
    hit: int = 0
    false: int = 0
    missed: int = 0

    def __post_init__(self) -> None:
        self.before: list[float] = []
        self.after: list[float] = []

    def add(self, haired: np.ndarray, bare: np.ndarray, truth: np.ndarray, found_on_bare: np.ndarray) -> None:
        """Take in one image (H, W, 3) uint8 with and without hair.

        Args:
            haired: with hair.
            bare: without.
            truth: (H, W) bool, its hairs.
            found_on_bare: the mask (H, W) that is found on the bare image.
        """
        self.bare += 1
        self.touched += bool(found_on_bare.any())
        if not truth.any():
            return
        mask = hair_mask(haired)
        found = mask > 0
        self.images += 1
        self.hit += int((found & truth).sum())
        self.false += int((found & ~truth).sum())
        self.missed += int((truth & ~found).sum())
        self.before.append(psnr(haired, bare, truth))
        self.after.append(psnr(painted_over(haired, mask), bare, truth))

    def described(self) -> dict[str, Any]:
        """Precision, recall and F1 over all pixels, PSNR before and after, and the share of bare images touched."""
        return {
            "pictures": self.images,
            "precision": ratio(self.hit, self.hit + self.false),
            "recall": ratio(self.hit, self.hit + self.missed),
            "f1": ratio(2 * self.hit, 2 * self.hit + self.false + self.missed),
            "psnr_with_hair_db": spread(self.before),
            "psnr_after_removal_db": spread(self.after),
            "bare_pictures": self.bare,
            "bare_pictures_touched": self.touched,
        }


def ratio(part: float, whole: float) -> float | None:
    """``part / whole``; None where there is no whole."""
    return part / whole if whole else None


def spread(values: list[float]) -> dict[str, float] | None:
    """Mean and the 5, 25, 50, 75 and 95 % quantiles; None of no values."""
    if not values:
        return None
    cuts = np.quantile(values, QUANTILES)
    return {
        "mean": float(np.mean(values)),
        **{f"q{round(100 * q):02d}": float(cut) for q, cut in zip(QUANTILES, cuts, strict=True)},
    }


def psnr(image: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> float:
    """Peak signal-to-noise ratio inside a mask: 10 log10(255^2 / mean squared error), in dB; 100 where they agree.

    Args:
        image: (H, W, 3) uint8.
        reference: (H, W, 3) uint8.
        mask: (H, W) bool, some of it True.
    """
    error = float(np.square(image[mask].astype(np.float64) - reference[mask]).mean())
    return min(100.0, 10 * float(np.log10(255**2 / error))) if error else 100.0


def with_drawn_hair(image: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A real image (H, W, 3) uint8 with hairs drawn as the phantoms' are, and the mask (H, W) bool of what changed."""
    height, width = image.shape[:2]
    rng = np.random.default_rng([seed, 5])
    opacity, colour, _ = hairs(Plane((width, height), FIELD_MM, 0.0, (0.0, 0.0)), rng, share=1.0)
    # As bright as the image is: a hair under dim light is no brighter than the skin that it lies on.
    lit = colour * 255 * min(1.0, float(np.quantile(image, 0.95)) / 235)
    drawn = np.round(image + (lit - image) * opacity[..., None]).clip(0, 255).astype(np.uint8)
    return drawn, (drawn != image).any(axis=-1)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around a mask (H, W) bool, not empty: left, top, right, bottom, the last two exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), in [0, 1]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0, width) * max(0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return both / (areas - both)


def ham10000_pairs(folder: Path, limit: int | None) -> list[tuple[Path, Path]]:
    """Image and mask of each lesion in a folder laid out as HAM10000's, ``limit`` of them spread over the whole.

    Raises:
        UserError: no masks there, or one without its image.
    """
    masks = sorted((folder / MASKS).glob("*_segmentation.png"))
    if not masks:
        raise UserError(f"{folder} holds no {MASKS}/*_segmentation.png: give HAM10000's folder with its masks")
    if limit is not None and limit < len(masks):
        masks = [masks[round(k)] for k in np.linspace(0, len(masks) - 1, limit)]
    images = {path.stem: path for path in folder.glob("HAM10000_images_part_*/*.jpg")}
    names = [mask.name.removesuffix("_segmentation.png") for mask in masks]
    lost = [name for name in names if name not in images]
    if lost:
        raise UserError(f"{folder} holds no image {lost[0]}.jpg in HAM10000_images_part_1 or _2: unpack them there")
    return [(images[name], mask) for name, mask in zip(names, masks, strict=True)]


def opened(pairs: list[tuple[Path, Path]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (H, W, 3) uint8 and their masks (H, W) bool, one pair after the other.

    Raises:
        UserError: a file cannot be read, or image and mask differ in size.
    """
    for photo, mask in pairs:
        try:
            image = np.asarray(open_image(photo))
            lesion = np.asarray(open_image(mask))[..., 0] > 127
        except UnreadableImageError as error:
            raise UserError(str(error)) from error
        if image.shape[:2] != lesion.shape:
            raise UserError(
                f"{photo.name} and its mask have the sizes {image.shape[:2]} and {lesion.shape}: give pairs"
            )
        yield image, lesion


def measure_drawn_hair(pairs: list[tuple[Path, Path]], progress: bool = False) -> dict[str, Any]:
    """Hair removal on real images after hairs were drawn over them; where it finds some before, apart.

    There it may be wrong about the image or right about a real hair, which then counts as falsely found.
    """
    clean, haired_before = HairScore(), HairScore()
    for number, (image, _) in enumerate(tqdm(opened(pairs), total=len(pairs), disable=None if progress else True)):
        own = hair_mask(image)
        haired, truth = with_drawn_hair(image, number)
        (haired_before if own.any() else clean).add(haired, image, truth, own)
    # Which of the two an image belongs to is the detector's own word, so how many bare ones are touched says nothing.
    measured, others = (
        {name: value for name, value in score.described().items() if not name.startswith("bare")}
        for score in (clean, haired_before)
    )
    return {
        "images_looked_at": len(pairs),
        "with_hair_of_their_own": ratio(haired_before.bare, len(pairs)),
        **measured,
        "on_those_with_hair_of_their_own": others,
    }


def measure_crop(pairs: list[tuple[Path, Path]], progress: bool = False) -> dict[str, Any]:
    """The lesion crop's box against the real masks: lesion kept, overlap with the mask's box, share of the image."""
    empty, whole = 0, 0
    kept, iou, tight, area = [], [], [], []
    for image, lesion in tqdm(opened(pairs), total=len(pairs), disable=None if progress else True):
        if not lesion.any():
            empty += 1
            continue
        left, top, right, bottom = lesion_box(image)
        whole += (left, top, right, bottom) == (0, 0, lesion.shape[1], lesion.shape[0])
        kept.append(float(lesion[top:bottom, left:right].sum() / lesion.sum()))
        iou.append(overlap((left, top, right, bottom), box_of(lesion)))
        tight.append(overlap(lesion_box(image, margin=0.0), box_of(lesion)))
        area.append((right - left) * (bottom - top) / lesion.size)
    return {
        "images": len(kept),
        "empty_masks": empty,
        "margin": LESION_MARGIN,
        "lesion_kept": spread(kept),
        "lesion_kept_target": TARGET_KEPT,
        "lesion_wholly_kept": ratio(sum(k == 1 for k in kept), len(kept)),
        "lesion_kept_below_0.9": ratio(sum(k < 0.9 for k in kept), len(kept)),
        "box_iou": spread(iou),
        "box_iou_without_margin": spread(tight),
        "box_share_of_image": spread(area),
        "whole_image": ratio(whole, len(kept)),
    }


def measure_phantoms(lesions: int, size: tuple[int, int], progress: bool = False) -> dict[str, Any]:
    """Hair removal on ``lesions`` phantoms of each class, drawn with and without their hairs."""
    score = HairScore()
    cases = [(label, seed) for seed in range(FIRST_PHANTOM, FIRST_PHANTOM + lesions) for label in PHANTOM_CLASSES]
    for label, seed in tqdm(cases, disable=None if progress else True):
        haired, bare = draw(label, seed, size), draw(label, seed, size, with_hairs=False)
        without = np.asarray(bare.image)
        score.add(np.asarray(haired.image), without, haired.hair_mask, hair_mask(without))
    return score.described()


def measure_time(repeats: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each step on one core, of a phantom with hair at each size, as information only."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return time_steps(repeats)
    finally:
        cv2.setNumThreads(threads)


def time_steps(repeats: int) -> dict[str, dict[str, float]]:
    """What ``measure_time`` does, on however many threads OpenCV has."""
    steps: dict[str, Callable[[np.ndarray], object]] = {
        "hair_removal": remove_hair,
        "lesion_crop": lesion_box,
        "colour_constancy": constant_colour,
    }
    times: dict[str, dict[str, float]] = {}
    for size in TIMED_SIZES:
        bare = np.asarray(draw("nv", 3, size, with_hairs=False).image)
        image, _ = with_drawn_hair(bare, 0)
        row = times.setdefault(f"{size[0]}x{size[1]}", {})
        for name, step in steps.items():
            step(image)
            rounds = []
            for _ in range(repeats):
                started = time.perf_counter()
                step(image)
                rounds.append(time.perf_counter() - started)
            row[name] = 1000 * float(np.median(rounds))
    return times


def measure(
    ham10000: Path,
    *,
    limit: int | None = None,
    hair_images: int = 1000,
    phantoms: int = 15,
    repeats: int = 15,
    progress: bool = False,
) -> dict[str, Any]:
    """Everything that the command writes.

    Args:
        ham10000: HAM10000's folder, with its masks.
        limit: this many of its images, spread evenly; None = all.
        hair_images: of these, how many at most may have hairs drawn over them.
        phantoms: lesions of each of eight classes, at each size.
        repeats: of each timed step; the median counts.
        progress: show bars.

    Raises:
        UserError: the folder does not hold what it should.
    """
    pairs = ham10000_pairs(ham10000, limit)
    for_hair = pairs[:: -(-len(pairs) // hair_images)]
    on_phantoms = {f"{w}x{h}": measure_phantoms(phantoms, (w, h), progress) for w, h in PHANTOM_SIZES}
    return {
        "schema_version": SCHEMA_VERSION,
        "data": f"HAM10000, {len(pairs)} images with masks",
        "hair_on_phantoms": on_phantoms,
        "hair_drawn_on_real_images": measure_drawn_hair(for_hair, progress),
        "lesion_crop": measure_crop(pairs, progress),
        "milliseconds_median": measure_time(repeats),
        "versions": {name: version(name) for name in ("numpy", "pillow")} | {"opencv": opencv_version()},
    }


def opencv_version() -> str:
    """Version of the installed OpenCV, whose package has several names."""
    import cv2

    return str(cv2.__version__)
