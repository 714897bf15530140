from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from datasets_scripts.duplicates import (
    CANDIDATE_CORRELATION,
    _candidates,
    _unit,
    find_duplicates,
    group_ids,
    near_pairs,
    near_to,
    reduced,
    turned,
)
from datasets_scripts.images import THUMB


def thumb(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").resize((THUMB, THUMB), Image.Resampling.BOX))


def reopened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


COPIES = {
    "saved again at low quality": lambda image, jpeg: reopened(jpeg(image, quality=40)),
    "half the size": lambda image, jpeg: image.resize((image.width // 2, image.height // 2)),
    "brighter": lambda image, jpeg: ImageEnhance.Brightness(image).enhance(1.2),
    "other white balance": lambda image, jpeg: Image.merge(
        "RGB", [band.point(lambda v, f=f: v * f) for band, f in zip(image.split(), (1.0, 0.9, 0.7), strict=True)]
    ),
    "mirrored": lambda image, jpeg: ImageOps.mirror(image),
    "upside down": lambda image, jpeg: ImageOps.flip(image),
    "turned by 90 degrees": lambda image, jpeg: image.transpose(Image.Transpose.ROTATE_90),
    "turned by 270 degrees": lambda image, jpeg: image.transpose(Image.Transpose.ROTATE_270),
}


@pytest.mark.parametrize("how", COPIES)
def test_a_changed_copy_is_found_among_other_images(how, drawn):
    images = [drawn.draw(seed, (120, 90)) for seed in range(12)]
    images.append(COPIES[how](images[7], drawn.jpeg))
    thumbs = np.stack([thumb(image) for image in images])
    assert near_pairs(thumbs) == [(7, 12)]
    assert near_to(thumbs[12], thumbs[:12]).tolist() == [7]
    assert near_to(thumbs[3], thumbs[4:]).tolist() == []


def test_different_images_of_one_layout_are_no_duplicates(drawn):
    """The same dark blob on the same skin with different texture: the coarse shape agrees, the detail does not."""
    y, x = np.mgrid[:90, :120]
    blob = 200 - 120 * np.exp(-(((x - 60) / 25) ** 2 + ((y - 45) / 20) ** 2))
    images = []
    for seed in range(6):
        texture = np.asarray(Image.fromarray(np.random.default_rng(seed).integers(0, 16, (45, 60), np.uint8)))
        texture = np.asarray(Image.fromarray(texture).resize((120, 90)), dtype=float)
        images.append(Image.fromarray(np.clip(blob + texture, 0, 255).astype(np.uint8)))
    thumbs = np.stack([thumb(image) for image in images])
    coarse = np.corrcoef(thumbs.reshape(6, -1).astype(float))
    assert coarse.min() > 0.985  # the whole image alone would call them one
    assert near_pairs(thumbs) == []


def test_flat_images_are_not_compared():
    thumbs = np.stack([np.full((THUMB, THUMB), value, np.uint8) for value in (40, 40, 200)])
    assert near_pairs(thumbs) == []


def test_exact_pairs_are_not_repeated_among_the_near(drawn):
    images = [drawn.draw(seed) for seed in (1, 2, 1, 1)]
    found = find_duplicates(["a", "b", "a", "a"], np.stack([thumb(image) for image in images]))
    assert found.exact == [(0, 2), (0, 3), (2, 3)]
    assert found.near == []


def test_the_eight_turns_are_distinct_and_start_with_the_identity():
    square = np.arange(16).reshape(1, 4, 4)
    results = [turned(square, how) for how in range(8)]
    assert (results[0] == square).all()
    assert len({result.tobytes() for result in results}) == 8


def test_groups_merge_lesions_through_duplicates():
    lesions = ["L3", "L1", "L3", "L2", "L9", "L1"]
    assert group_ids(lesions, []) == lesions
    # image 2 (L3) = image 3 (L2), image 5 (L1) = image 0 (L3): L1, L2 and L3 are one group, named by its first.
    assert group_ids(lesions, [(2, 3), (0, 5)]) == ["L1", "L1", "L1", "L1", "L9", "L1"]


def test_the_coarse_comparison_loses_no_candidate() -> None:
    rng = np.random.default_rng(4)
    blobs = rng.normal(size=(60, 6, 6)).repeat(6, axis=1).repeat(6, axis=2)[:, 2:34, 2:34]
    near = blobs + rng.normal(size=blobs.shape) * rng.uniform(0, 0.6, (60, 1, 1))
    both = np.concatenate([blobs, np.rot90(near, axes=(1, 2))])
    thumbs = np.clip(40 * both + 128, 0, 255).astype(np.uint8)
    small = reduced(thumbs)
    expected = set()
    for how in range(8):
        similar = _unit(turned(small, how)) @ _unit(small).T
        expected |= {(how, i, j) for i, j in np.argwhere(similar >= CANDIDATE_CORRELATION).tolist() if i < j}
    found = [(how, i, j) for how, rows, columns in _candidates(thumbs) for i, j in zip(rows, columns, strict=True)]
    assert len(found) == len(set(found)) > 20
    assert set(found) == expected
