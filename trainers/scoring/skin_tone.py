"""Skin tone estimated from the border of an image, by the individual typology angle; its error against recorded tone.

ITA = arctan((L* - 50) / b*) in degrees (Chardon, Cretois, Hourseau, "Skin colour typology and suntanning pathways",
International Journal of Cosmetic Science 13, 1991), in the six categories of Del Bino and Bernerd ("Variations in skin
colour and the biological consequences of ultraviolet radiation exposure", British Journal of Dermatology 169, 2013).
The angle is that of a colorimeter. White balance and exposure of a photograph are not known: this is an estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.stats import spearmanr

from hub_models.preprocess_lesion import open_image
from trainers.metrics.intervals import bootstrap_weights, can_resample
from trainers.metrics.number import bootstrapped, plain, undefined

UNKNOWN = "unknown"
# Category -> the least angle in degrees; from light to dark, as the Fitzpatrick types I to VI.
CATEGORIES = {"very light": 55.0, "light": 41.0, "intermediate": 28.0, "tan": 10.0, "brown": -30.0, "dark": -90.0}
NAMED = {name: f"{number} {name}" for number, name in enumerate(CATEGORIES, start=1)}
BORDER = 0.1  # width of the border, as a share of the shorter side
DARK = 40  # of 255: darker pixels are a vignette or a tube
MOST_DARK = 0.05  # share of dark border pixels from which the image is one through a tube
LEAST_SKIN = 0.5  # share of border pixels of a skin colour that an estimate needs
FITZPATRICK = "fitzpatrick "
CONVENTIONS = (
    "skin_tone_estimate: individual typology angle of the border (Chardon et al. 1991), in the categories of Del Bino "
    "and Bernerd (2013). An estimate: the white balance of the photographs is not known. Unknown where the border is "
    "dark or shows no skin."
)


def typology_angle(rgb: np.ndarray) -> float | None:
    """The angle of the border in degrees, -90 to 90, higher = lighter; None where no skin is visible there.

    Args:
        rgb: (H, W, 3) uint8, sRGB.
    """
    height, width = rgb.shape[:2]
    edge = max(1, round(BORDER * min(height, width)))
    border = np.ones((height, width), dtype=bool)
    border[edge:-edge, edge:-edge] = False
    pixels = rgb[border]
    if (pixels.max(axis=1) < DARK).mean() > MOST_DARK:
        return None
    lab = cv2.cvtColor(pixels[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    # Skin is reddish and yellowish; highlights and hair are neither.
    skin = lab[(lab[:, 0] > 20) & (lab[:, 0] < 95) & (lab[:, 1] > 2) & (lab[:, 2] > 2)]
    if len(skin) < LEAST_SKIN * len(lab):
        return None
    lightness, _, yellow = np.median(skin, axis=0)
    return float(np.degrees(np.arctan2(lightness - 50, yellow)))


def category(angle: float | None) -> str:
    """The category of an angle in degrees, ``1 very light`` to ``6 dark``; or ``unknown``."""
    if angle is None:
        return UNKNOWN
    return NAMED[next(name for name, least in CATEGORIES.items() if angle > least or name == "dark")]


def estimated_tones(paths: Sequence[Path]) -> np.ndarray:
    """The estimated category of each of N image files that can be read: (N,) str."""
    return np.array([category(typology_angle(np.asarray(open_image(path)))) for path in paths], dtype=object)


def agreement(
    estimated: np.ndarray, recorded: np.ndarray, groups: np.ndarray, replicates: int, seed: int
) -> dict[str, Any]:
    """The estimate against the recorded Fitzpatrick type, which is about sunburn and not about colour.

    Args:
        estimated: (N,) of :func:`category`.
        recorded: (N,) ``Fitzpatrick 1`` to ``Fitzpatrick 6`` in any case, or another text where it is not known.
        groups: (N,) lesions or patients.
        replicates: of the intervals.
        seed: of the resamples.

    Returns:
        JSON-ready: ``estimated`` (images with an estimate), ``n``, ``n_groups`` (with both), ``spearman``, ``exact``
        and ``within_one`` (share of images whose category is that of the type, or a neighbour of it), each with its
        interval; ``most_frequent`` (what always naming the most frequent type gives: ``exact``, ``within_one``).
    """
    category_of = {name: number for number, name in enumerate(NAMED.values(), start=1)}
    type_of = {f"{FITZPATRICK}{number}": number for number in range(1, 7)}
    found = np.array([category_of.get(str(name), 0) for name in estimated])
    true = np.array([type_of.get(str(name).lower(), 0) for name in recorded])
    both = (found > 0) & (true > 0)
    about: dict[str, Any] = {"estimated": int((found > 0).sum()), "n": int(both.sum())}
    found, true, groups = found[both], true[both], np.asarray(groups)[both]
    about["n_groups"] = len(set(groups.tolist()))
    if len(set(found.tolist())) < 2 or len(set(true.tolist())) < 2:
        return {**about, "spearman": undefined("fewer than two tones are recorded and estimated")}
    drawn = bootstrap_weights(groups, true, replicates, seed) if can_resample(groups, true) else None

    def number(of: Any, floor: float) -> dict[str, Any]:
        rows = np.arange(len(true))
        values = None if drawn is None else np.array([of(np.repeat(rows, weights)) for weights in drawn])
        return bootstrapped(float(of(rows)), values, floor=floor)

    gap = np.abs(found - true)
    usual = np.abs(np.bincount(true).argmax() - true)
    return {
        **about,
        "spearman": number(lambda rows: spearmanr(found[rows], true[rows]).statistic, -1.0),
        "exact": number(lambda rows: (gap[rows] == 0).mean(), 0.0),
        "within_one": number(lambda rows: (gap[rows] <= 1).mean(), 0.0),
        "most_frequent": {"exact": plain((usual == 0).mean()), "within_one": plain((usual <= 1).mean())},
    }
