"""Images without their lesion, and with marks drawn on them: what a model reads beside the lesion.

``lesion_hidden``, ``box_hidden`` and ``border_only`` replace the lesion, and so show what is left of the answers
without it (after Bissoto et al., "(De)Constructing Bias on Skin Lesion Datasets", CVPR Workshops 2019, who train on
such images). The others add one mark of a practice to the whole image; the marks are those of the drawn phantoms, at
12 mm along the shorter side.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression

from datasets_scripts.phantom_camera import bubbles, ink, ruler, stroke_beside
from datasets_scripts.phantom_plane import Plane, smoothstep
from hub_models.preprocess_lesion import to_rgb
from trainers.evaluation.shortcuts import METADATA
from trainers.metrics.predictions import Predictions
from trainers.model_folder.data import Splits
from trainers.model_folder.perturbations import corrupted
from trainers.model_folder.predict import patient_columns
from trainers.model_folder.views import Lesion
from trainers.trust.groups import UNKNOWN

FIELD_MM = 12.0  # along the shorter side; the true scale of a photograph is not known
MARGIN = 0.05  # a hidden lesion is wider than its mask by this share of the shorter side
CENTRE = 0.7  # side of the hidden centre square, as a share of the shorter side
DARK = 40  # of 255: darker pixels are a vignette, not skin
HAIRS = 2  # severity of the corruption


def hidden_region(kind: str, lesion: Lesion, mask: np.ndarray | None) -> np.ndarray | None:
    """What of an image is hidden, (H, W) bool; None where the lesion was not found.

    ``lesion_hidden``: the mask with a margin of 5 % of the shorter side, the box of the lesion where there is no mask.
    ``box_hidden``: the box with this margin, so that the outline of the lesion is hidden too. ``border_only``: the
    centre square of 70 % of the shorter side, and the lesion. What is left is also in the largest centre square.

    Args:
        kind: of ``HIDDEN``.
        lesion: where it lies.
        mask: (H, W) bool, or None.
    """
    if lesion.box is None:
        return None
    width, height = lesion.size
    left, top, right, bottom = lesion.box
    region: np.ndarray = np.zeros((height, width), dtype=np.uint8)
    if kind == "box_hidden" or mask is None or not mask.any():
        region[top:bottom, left:right] = 1
    else:
        region[mask] = 1
    reach = max(1, round(MARGIN * min(width, height)))
    shape = cv2.MORPH_RECT if kind == "box_hidden" else cv2.MORPH_ELLIPSE
    region = cv2.dilate(region, cv2.getStructuringElement(shape, (2 * reach + 1, 2 * reach + 1)))
    if kind == "border_only":
        half = CENTRE * min(width, height) / 2
        rows, columns = (slice(round(side / 2 - half), round(side / 2 + half)) for side in (height, width))
        region[rows, columns] = 1
    return region.astype(bool)


def hidden(image: Image.Image, region: np.ndarray) -> Image.Image:
    """An image with a region in the median colour of the pixels around it that are no vignette: RGB."""
    pixels = np.asarray(to_rgb(image)).copy()
    left = pixels[~region]
    lit = left[left.max(axis=1) >= DARK]
    around = lit if len(lit) else left if len(left) else pixels.reshape(-1, 3)
    pixels[region] = np.median(around, axis=0).round().astype(np.uint8)
    return Image.fromarray(pixels)


def marked(image: Image.Image, kind: str, *, seed: int, index: int) -> Image.Image:
    """An image with one mark; the same (seed, index) gives the same pixels.

    Args:
        image: of any mode; both sides at least 32 pixels.
        kind: of ``DRAWN``.
        seed: of the whole set.
        index: the number of the image in it.
    """
    rgb = to_rgb(image)
    if kind == "hairs":
        return corrupted(rgb, "hairs", HAIRS, seed=seed, index=index)
    rng = np.random.default_rng([seed, index, zlib.crc32(kind.encode())])
    plane = Plane(rgb.size, FIELD_MM * rgb.height / min(rgb.size))
    pixels = np.asarray(rgb, dtype=np.float32) / 255
    if kind == "ruler":
        bottom, offset, turn = bool(rng.random() < 0.5), float(rng.uniform(0.4, 0.9)), float(rng.normal(0, 0.04))
        ruler(plane, pixels, bottom=bottom, strength=0.85, offset=offset, turn=turn)
    elif kind == "ink":
        start = float(rng.uniform(0, 2 * math.pi))
        for turn in (0.0, math.pi):
            ink(plane, pixels, stroke_beside(rng, start + turn, 0.4 * FIELD_MM))
    elif kind == "bubbles":
        bubbles(plane, rng, pixels, n=12)
    else:
        radius, blur = float(rng.uniform(0.50, 0.58)) * FIELD_MM, 0.02 * FIELD_MM
        pixels *= smoothstep(radius + blur, radius - blur, np.hypot(plane.u, plane.v))[..., None]
    return Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def metadata_alone(splits: Splits, split: str, rows: np.ndarray, known: Predictions) -> Predictions | None:
    """Predictions from age, sex and site alone; None where nothing is known of any image of the train split.

    A logistic regression on the train split: age in units of 25 years and whether it is known, each sex and site as one
    0 or 1. A site that is unknown counts as a site: where one source or class lacks it, that is part of the result.

    Args:
        splits: the dataset, with classes in the model's order.
        split: whose images.
        rows: (K,) of them.
        known: the model's predictions of these rows.

    Returns:
        The rows of ``known`` with the log-probabilities as logits of each member, and no score of the gate.
    """
    if "train" not in splits.splits:
        return None
    fitted, asked = (patient_columns(splits, name) for name in ("train", split))
    ages = np.isfinite(fitted["age"]).any()
    if not ages and all({str(value) for value in fitted[name]} <= {UNKNOWN} for name in ("sex", "localization")):
        return None
    labels = np.asarray(splits.splits["train"]["label"][:])
    values = {name: sorted({str(value) for value in fitted[name]}) for name in ("sex", "localization")}
    head = LogisticRegression(max_iter=1000).fit(_encoded(fitted, values), labels)
    probs = np.full((len(rows), len(known.labels)), np.finfo(float).tiny)
    probs[:, head.classes_] = head.predict_proba(_encoded(asked, values)[rows])
    logits = np.repeat(np.log(probs)[:, None], known.logits.shape[1], axis=1)
    scores = None if known.ood_score is None else np.full(len(rows), np.nan)
    columns = {name: column[rows] for name, column in asked.items()}
    return replace(known, logits=logits, ood_score=scores, columns=columns, split=METADATA, features=None, early=None)


def _encoded(columns: dict[str, np.ndarray], values: dict[str, list[str]]) -> np.ndarray:
    """(N, K) of age and its absence, and of each value of sex and site."""
    age = columns["age"]
    parts = [np.where(np.isnan(age), 0.0, (np.nan_to_num(age) - 50) / 25), np.isnan(age).astype(float)]
    parts += [(columns[name].astype(str) == value).astype(float) for name, known in values.items() for value in known]
    return np.stack(parts, axis=1)
