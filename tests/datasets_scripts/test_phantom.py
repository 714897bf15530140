"""Phantoms: the same seed draws the same bytes, masks are exact, views show one lesion, classes look like it."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from datasets_scripts.command import UserError
from datasets_scripts.phantom import LOOKS, MISTAKEN_FOR, PHANTOM_LABELS, draw
from datasets_scripts.taxonomy import CLASSES, TASKS

SMALL = (80, 60)
LESIONS = sorted(set(LOOKS) - {"clear"})


def typical(label: str, start: int = 0) -> int:
    """The first seed from `start` on whose lesion looks like its class."""
    return next(s for s in range(start, start + 50) if draw(label, s, (20, 16)).attributes["look"] == label)


def digest(label: str, seed: int, view: int = 0) -> str:
    phantom = draw(label, seed, SMALL, view)
    parts = (np.asarray(phantom.image), phantom.lesion_mask, phantom.hair_mask)
    return hashlib.sha256(b"".join(p.tobytes() for p in parts) + phantom.png()).hexdigest()


def test_every_class_of_the_taxonomy_with_one_look_can_be_drawn() -> None:
    assert set(PHANTOM_LABELS) == set(CLASSES) - {"other_benign", "other_malignant", "inflammatory"}
    assert {label for labels in TASKS.values() for label in labels} <= set(PHANTOM_LABELS)
    for label in PHANTOM_LABELS:
        phantom = draw(label, 1, (40, 30))
        assert phantom.image.size == (40, 30)
        assert phantom.image.mode == "RGB"
        assert phantom.lesion_mask.shape == phantom.hair_mask.shape == (30, 40)
        assert phantom.lesion_mask.dtype == phantom.hair_mask.dtype == bool
        assert np.asarray(phantom.image).std() > 3, "a flat image"


@pytest.mark.parametrize("label", ["mel", "bcc", "acne", "random"])
def test_same_seed_same_bytes_also_in_another_process(label: str, repo_root) -> None:
    here = digest(label, 7, view=1)
    draw("nv", 3, SMALL)  # drawing something else in between changes nothing
    assert digest(label, 7, view=1) == here
    code = (
        "import hashlib, numpy as np; from datasets_scripts.phantom import draw; "
        f"p = draw({label!r}, 7, {SMALL}, 1); "
        "print(hashlib.sha256(b''.join(a.tobytes() for a in (np.asarray(p.image), p.lesion_mask, p.hair_mask))"
        " + p.png()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_other_seeds_and_views_differ() -> None:
    assert len({digest("nv", seed, view) for seed in (0, 1, 2) for view in (0, 1)}) == 6


def test_hair_mask_is_where_hairs_change_the_image() -> None:
    haired = 0
    for seed in range(12):
        phantom, bare = draw("nv", seed, SMALL), draw("nv", seed, SMALL, with_hairs=False)
        differs = (np.asarray(phantom.image) != np.asarray(bare.image)).any(axis=-1)
        assert np.array_equal(phantom.hair_mask, differs)
        assert not bare.hair_mask.any()
        assert bare.attributes["hairs"] == 0
        assert np.array_equal(phantom.lesion_mask, bare.lesion_mask)
        assert phantom.hair_mask.any() <= (phantom.attributes["hairs"] > 0)
        haired += bool(phantom.hair_mask.any())
    assert 2 <= haired <= 11, "some images have hairs, some have none"


@pytest.mark.parametrize("label", LESIONS)
def test_lesion_mask_lies_on_what_is_darker_or_redder(label: str) -> None:
    contrasts = []
    for k in range(4):
        phantom = draw(label, typical(label, 50 * k), (200, 150), with_hairs=False)
        pixels, mask = np.asarray(phantom.image).astype(float), phantom.lesion_mask
        assert 0.005 < mask.mean() < 0.75
        around = ndimage.binary_dilation(mask, iterations=14) & ~ndimage.binary_dilation(mask, iterations=4)
        around &= pixels.sum(-1) > 90  # not the black tube of the dermatoscope
        inside, outside = pixels[mask].mean(0), pixels[around].mean(0)
        redness = np.log(inside[0] / inside[1]) - np.log(outside[0] / outside[1])
        contrasts.append(max(outside.mean() - inside.mean(), 100 * redness))
    assert np.median(contrasts) > 5, contrasts


def test_mask_is_empty_without_a_lesion() -> None:
    assert not draw("clear", 0, SMALL).lesion_mask.any()
    assert not draw("random", 0, SMALL).lesion_mask.any()


def test_views_show_one_lesion() -> None:
    """Turned, moved and zoomed, a lesion keeps its area in square millimetres and its surroundings change."""
    seed = next(s for s in range(20) if draw("nv", s, (20, 16)).attributes["radius_mm"] < 2.5)
    views = [draw("nv", seed, (200, 150), view) for view in range(4)]
    areas = [v.lesion_mask.sum() * v.attributes["mm_per_pixel"] ** 2 for v in views]
    assert max(areas) / min(areas) < 1.04
    assert len({v.lesion_id for v in views}) == 1
    assert len({(v.attributes["fitzpatrick"], v.attributes["look"], v.attributes["pattern"]) for v in views}) == 1
    centres = [ndimage.center_of_mass(v.lesion_mask) for v in views]
    assert len({(round(y), round(x)) for y, x in centres}) == 4
    assert draw("nv", seed + 1).lesion_id != views[0].lesion_id


def test_another_size_is_the_same_drawing() -> None:
    large, small = draw("mel", 4, (200, 150)), draw("mel", 4, (100, 75))
    reduced = np.asarray(large.image.resize((100, 75), Image.Resampling.BOX)).astype(float)
    assert np.corrcoef(reduced.ravel(), np.asarray(small.image).astype(float).ravel())[0, 1] > 0.98
    assert abs(large.lesion_mask.mean() - small.lesion_mask.mean()) < 0.01


def test_some_lesions_look_like_another_class() -> None:
    looks = [draw("mel", seed, (20, 16)).attributes["look"] for seed in range(120)]
    others = [look for look in looks if look != "mel"]
    assert 1 <= len(others) <= 20
    assert set(others) <= set(MISTAKEN_FOR["mel"])
    assert {draw("malignant", seed, (20, 16)).attributes["look"] for seed in range(20)} == {"mel", "bcc", "scc"}


def test_skin_tones_span_the_fitzpatrick_range() -> None:
    phantoms = [draw("clear", seed, (20, 16), with_hairs=False) for seed in range(60)]
    assert {p.attributes["fitzpatrick"] for p in phantoms} == {"I", "II", "III", "IV", "V", "VI"}
    bright = {t: np.median([np.asarray(p.image).mean() for p in phantoms if p.attributes["fitzpatrick"] == t])
              for t in ("I", "III", "VI")}  # fmt: skip
    assert bright["I"] > bright["III"] > bright["VI"]


def test_files_say_that_they_are_drawn() -> None:
    phantom = draw("df", 2, SMALL)
    with Image.open(io.BytesIO(phantom.png())) as image:
        assert "drawn" in image.info["Title"]
        assert image.info["Description"].startswith("Procedurally drawn, not a photograph")
        assert np.array_equal(np.asarray(image), np.asarray(phantom.image))
    with Image.open(io.BytesIO(phantom.mask_png())) as mask:
        assert mask.mode == "L"
        assert np.array_equal(np.asarray(mask) == 255, phantom.lesion_mask)


def test_bad_requests_are_named() -> None:
    with pytest.raises(UserError, match=r"'wart'.*known classes: nv, mel"):
        draw("wart", 0)
    with pytest.raises(ValueError, match="seed=-1"):
        draw("nv", -1)
    with pytest.raises(ValueError, match="size=\\(8, 8\\)"):
        draw("nv", 0, (8, 8))
