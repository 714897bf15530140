"""Hair removal and lesion crop on drawings whose hairs and lesions are known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hub_models.preprocess_lesion import hair_mask, lesion_box, remove_hair


def skin(height: int = 150, width: int = 200, seed: int = 0) -> np.ndarray:
    """Skin with a soft gradient, a little noise and a round lesion in the middle; no hair."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([215 + 15 * x / width, 170 + 10 * y / height, 150 + 0 * x], -1)
    reach = np.hypot((y - height / 2) / (0.22 * height), (x - width / 2) / (0.18 * width))
    inside = 1 / (1 + np.exp(12 * (reach - 1)))[..., None]
    image = inside * np.array([115, 70, 55]) + (1 - inside) * image
    return np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)


def add_hairs(image: np.ndarray, number: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw gently curved dark hairs; return the image and the mask of changed pixels."""
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    haired = image.copy()
    thickness = max(1, round(min(height, width) / 150))
    for _ in range(number):
        start, end = rng.uniform((0, 0), (0.2 * width, height)), rng.uniform((0.8 * width, 0), (width, height))
        bend = (start + end) / 2 + rng.normal(0, 0.06 * width, 2)
        t = np.linspace(0, 1, 40)[:, None]
        curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        cv2.polylines(haired, [np.round(curve).astype(np.int32)], False, (45, 30, 25), thickness)
    return haired, (haired != image).any(-1)


@pytest.mark.parametrize("size", [(150, 200), (450, 600), (96, 96)])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_hair_means_the_very_same_pixels(size: tuple[int, int], seed: int) -> None:
    image = skin(*size, seed=seed)
    assert not hair_mask(image).any()
    assert np.array_equal(remove_hair(image), image)


@pytest.mark.parametrize("size", [(150, 200), (450, 600), (700, 900)])
def test_hair_is_found_and_painted_over_at_any_size(size: tuple[int, int]) -> None:
    clean = skin(*size)
    haired, truth = add_hairs(clean)
    mask = hair_mask(haired) > 0
    near = cv2.dilate(truth.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    found = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert (truth & found).sum() > 0.75 * truth.sum(), "recall; hairs that cross are partly left"
    assert (mask & near).sum() > 0.85 * mask.sum(), "precision"
    before = np.abs(haired.astype(float) - clean)[truth].mean()
    painted = remove_hair(haired)
    after = np.abs(painted.astype(float) - clean)[truth].mean()
    assert after < 0.4 * before
    far = cv2.dilate(found.astype(np.uint8), np.ones((15, 15), np.uint8)) == 0
    assert np.array_equal(painted[far], haired[far])


def test_a_pigment_network_is_left_alone() -> None:
    image = skin()
    for row in range(7):
        for column in range(9):
            centre = (72 + 7 * column + 3 * (row % 2), 54 + 7 * row)
            cv2.circle(image, centre, 4, (80, 45, 35), 1)
    assert np.array_equal(remove_hair(image), image)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (23, 23), (2, 3)])
def test_tiny_images_pass_unchanged(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert np.array_equal(remove_hair(image), image)
    box = lesion_box(image)
    assert 0 <= box[0] < box[2] <= size[1]
    assert 0 <= box[1] < box[3] <= size[0]


@pytest.mark.parametrize("centre", [(100, 75), (70, 60), (130, 90)])
@pytest.mark.parametrize("scale", [1, 3])
def test_the_box_is_the_lesion_with_a_margin(centre: tuple[int, int], scale: int) -> None:
    image = np.full((150 * scale, 200 * scale, 3), (220, 180, 160), np.uint8)
    x, y = centre[0] * scale, centre[1] * scale
    cv2.circle(image, (x, y), 24 * scale, (110, 70, 50), -1)
    reach = 24 * 1.2 * scale  # radius, and a margin of 10 % of the diameter
    assert lesion_box(image) == pytest.approx((x - reach, y - reach, x + reach, y + reach), abs=2 * scale + 1)


def test_a_vignette_is_not_the_lesion() -> None:
    y, x = np.mgrid[:150, :200]
    image = np.full((150, 200, 3), (220, 180, 160), np.uint8)
    image[np.hypot((y - 75) / 75, (x - 100) / 100) > 1.02] = 5
    cv2.circle(image, (95, 80), 20, (110, 70, 50), -1)
    assert lesion_box(image) == pytest.approx((71, 56, 119, 104), abs=4)


@pytest.mark.parametrize(
    "image",
    [
        np.full((80, 100, 3), 200, np.uint8),
        np.zeros((80, 100, 3), np.uint8),
        np.pad(np.zeros((2, 2, 3), np.uint8), ((39, 39), (49, 49), (0, 0)), constant_values=220),
    ],
    ids=["bright", "black", "a dot"],
)
def test_an_implausible_mask_keeps_the_whole_image(image: np.ndarray) -> None:
    assert lesion_box(image) == (0, 0, 100, 80)


@pytest.mark.real
def test_the_box_holds_the_segmented_lesion_of_real_images(data_dir: Path) -> None:
    masks = sorted((data_dir / "ham10000" / "HAM10000_segmentations_lesion_tschandl").glob("*.png"))[::100]
    kept, area = [], []
    for path in masks:
        name = path.name.replace("_segmentation.png", ".jpg")
        (photo,) = (data_dir / "ham10000").glob(f"HAM10000_images_part_*/{name}")
        with Image.open(photo) as image, Image.open(path) as segmentation:
            rgb, lesion = np.asarray(image.convert("RGB")), np.asarray(segmentation.convert("L")) > 0
        left, top, right, bottom = lesion_box(rgb)
        kept.append(lesion[top:bottom, left:right].sum() / lesion.sum())
        area.append((right - left) * (bottom - top) / lesion.size)
    assert len(kept) > 90
    assert np.mean(kept) > 0.97
    assert np.mean(np.array(kept) > 0.9) > 0.9
    assert np.mean(area) < 0.65, "a box that is always the whole image holds every lesion, too"
