"""Perturbations and corruptions are what their names say, in any size, and the same in every call."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from datasets_scripts.command import UserError
from datasets_scripts.phantom import draw
from trainers.model_folder.perturbations import (
    CORRUPTIONS,
    PERTURBATIONS,
    SEVERITIES,
    corrupted,
    perturbed,
)

EVERY = [("perturbation", kind, 0) for kind in PERTURBATIONS] + [
    ("corruption", kind, severity) for kind in CORRUPTIONS for severity in SEVERITIES
]


@pytest.fixture(scope="module")
def lesion() -> Image.Image:
    return draw("mel", 3, (200, 150), with_hairs=False).image


def made(image: Image.Image, how: str, kind: str, severity: int, *, seed: int = 0, index: int = 0) -> np.ndarray:
    if how == "perturbation":
        return pixels(perturbed(image, kind, seed=seed, index=index))
    return pixels(corrupted(image, kind, severity, seed=seed, index=index))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def roughness(values: np.ndarray) -> float:
    """Mean absolute difference of neighbours."""
    return float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean())


def test_there_are_enough_kinds():
    assert len(PERTURBATIONS) >= 6
    assert len(CORRUPTIONS) >= 6
    assert not set(PERTURBATIONS) & set(CORRUPTIONS)


@pytest.mark.parametrize(("how", "kind", "severity"), EVERY)
def test_the_same_seed_and_index_give_the_same_pixels(lesion, how, kind, severity):
    first = made(lesion, how, kind, severity, seed=4, index=7)
    assert (first == made(lesion, how, kind, severity, seed=4, index=7)).all()
    assert (first != pixels(lesion)).any()


@pytest.mark.parametrize("kind", [kind for kind in PERTURBATIONS if kind != "inverted"])
def test_each_image_is_perturbed_differently(lesion, kind):
    first = made(lesion, "perturbation", kind, 0, seed=4, index=7)
    assert (first != made(lesion, "perturbation", kind, 0, seed=4, index=8)).any()
    assert (first != made(lesion, "perturbation", kind, 0, seed=5, index=7)).any()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (101, 32), (320, 240)])
@pytest.mark.parametrize(("how", "kind", "severity"), EVERY)
def test_any_size_and_mode_is_taken(how, kind, severity, size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), dtype=np.uint8), "RGBA")
    for mode in ("RGB", "L", "P", "RGBA"):
        assert made(image.convert(mode), how, kind, severity).shape == (size[1], size[0], 3)


@pytest.mark.parametrize(("how", "kind", "severity"), EVERY)
@pytest.mark.parametrize("grey", [0, 255])
def test_one_colour_alone_is_taken(how, kind, severity, grey):
    assert made(Image.new("RGB", (40, 40), (grey,) * 3), how, kind, severity).shape == (40, 40, 3)


def test_the_given_image_is_not_changed(lesion):
    before = pixels(lesion)
    for how, kind, severity in EVERY:
        made(lesion, how, kind, severity)
    assert (pixels(lesion) == before).all()


def test_defocused_leaves_a_smooth_stain_of_the_same_colour(lesion):
    found = made(lesion, "perturbation", "defocused", 0)
    assert roughness(found) < 0.15 * roughness(pixels(lesion))
    assert found.mean(axis=(0, 1)) == pytest.approx(pixels(lesion).mean(axis=(0, 1)), abs=8)


def test_noisy_is_rough_and_of_any_size_alike(lesion):
    assert roughness(made(lesion, "perturbation", "noisy", 0)) > 5 * roughness(pixels(lesion))
    large = made(lesion.resize((1200, 900)), "perturbation", "noisy", 0)
    small = pixels(Image.fromarray(large.astype(np.uint8)).resize((200, 150), Image.Resampling.BOX))
    assert roughness(small) > 5 * roughness(pixels(lesion))


def test_tiled_moves_pixels_and_invents_none():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 60, 3), dtype=np.uint8))
    before, found = pixels(image).reshape(-1, 3), made(image, "perturbation", "tiled", 0).reshape(-1, 3)
    assert sorted(map(tuple, found)) == sorted(map(tuple, before))
    # One tile, upright or turned, is somewhere in the image as it was.
    tile = found.reshape(50, 60, 3)[:10, :12]
    tiles = [before.reshape(50, 60, 3)[y : y + 10, x : x + 12] for y in range(0, 50, 10) for x in range(0, 60, 12)]
    assert sum((tile == part).all() or (tile[::-1, ::-1] == part).all() for part in tiles) == 1


def test_phase_scrambled_keeps_amplitudes_and_mean(lesion):
    # Little contrast around grey, so that nothing is cut off at black or white.
    faint = Image.fromarray((96 + pixels(lesion) / 8).astype(np.uint8))
    before, found = pixels(faint), made(faint, "perturbation", "phase_scrambled", 0)
    assert found.mean(axis=(0, 1)) == pytest.approx(before.mean(axis=(0, 1)), abs=0.1)
    strong = np.abs(np.fft.fft2(before, axes=(0, 1))) > 3000
    amplitudes = [np.abs(np.fft.fft2(values, axes=(0, 1)))[strong] for values in (before, found)]
    assert strong.sum() > 50
    assert amplitudes[1] == pytest.approx(amplitudes[0], rel=0.05)
    assert np.corrcoef(before.ravel(), found.ravel())[0, 1] < 0.5


def test_inverted_is_the_negative(lesion):
    assert (made(lesion, "perturbation", "inverted", 0) == 255 - pixels(lesion)).all()


def test_hue_turned_keeps_brightness_and_turns_red_away():
    image = Image.new("RGB", (40, 40), (200, 60, 60))
    turns = []
    for index in range(30):
        found = perturbed(image, "hue_turned", seed=0, index=index)
        assert pixels(found).max() == pytest.approx(200, abs=2)
        assert pixels(found).min() == pytest.approx(60, abs=2)
        turns.append(int(np.asarray(found.convert("HSV"))[0, 0, 0]))
    assert min(turns) >= 63
    assert max(turns) <= 193


def test_static_has_the_mean_and_covariance_and_nothing_else():
    rng = np.random.default_rng(2)
    colours = rng.normal(size=(150, 200, 1)) * [18.0, 12.0, 6.0] + rng.normal(size=(150, 200, 3)) * 4 + [150, 120, 110]
    image = Image.fromarray(colours.clip(0, 255).astype(np.uint8))
    before, found = (values.reshape(-1, 3) for values in (pixels(image), made(image, "perturbation", "static", 0)))
    assert found.mean(axis=0) == pytest.approx(before.mean(axis=0), abs=0.6)
    assert np.cov(found.T) == pytest.approx(np.cov(before.T), rel=0.05)
    assert abs(np.corrcoef(before[:, 0], found[:, 0])[0, 1]) < 0.02


def test_faded_keeps_a_tenth_of_the_contrast_at_most(lesion):
    found, before = made(lesion, "perturbation", "faded", 0), pixels(lesion)
    assert 0.03 * before.std() < found.std() < 0.11 * before.std()
    assert found.mean() == pytest.approx(before.mean(), abs=1)


def test_dead_leaves_shows_nothing_of_the_image(lesion):
    other = Image.new("RGB", lesion.size, (10, 200, 30))
    assert (made(lesion, "perturbation", "dead_leaves", 0) == made(other, "perturbation", "dead_leaves", 0)).all()
    found = made(lesion, "perturbation", "dead_leaves", 0).reshape(-1, 3)
    assert 20 < len(np.unique(found, axis=0)) <= 161


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("index", range(3))
def test_a_higher_severity_changes_more(lesion, kind, index):
    away = [
        np.abs(made(lesion, "corruption", kind, severity, index=index) - pixels(lesion)).mean()
        for severity in SEVERITIES
    ]
    assert 0 < away[0] < away[1] < away[2]


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corrupted_image_is_still_recognisable(lesion, kind):
    found = made(lesion, "corruption", kind, 2)
    assert np.corrcoef(found.ravel(), pixels(lesion).ravel())[0, 1] > 0.75


def test_the_largest_gaussian_noise_is_a_tenth_of_the_range():
    found = made(Image.new("RGB", (200, 150), (128, 128, 128)), "corruption", "gaussian_noise", 3)
    assert found.std() == pytest.approx(25.5, rel=0.02)


def test_brightness_is_counted_in_stops_of_light():
    image = Image.new("RGB", (40, 40), (100, 100, 100))
    found = {made(image, "corruption", "brightness", 2, index=index)[0, 0, 0] for index in range(12)}
    assert found == {round(100 * 2 ** (0.8 / 2.2)), round(100 * 2 ** (-0.8 / 2.2))}


def test_contrast_keeps_means_and_shares_of_the_spread(lesion):
    for severity, share in zip(SEVERITIES, (0.75, 0.55, 0.40), strict=True):
        found = made(lesion, "corruption", "contrast", severity)
        assert found.std(axis=(0, 1)) == pytest.approx(share * pixels(lesion).std(axis=(0, 1)), rel=0.02)
        assert found.mean(axis=(0, 1)) == pytest.approx(pixels(lesion).mean(axis=(0, 1)), abs=0.5)


def test_jpeg_is_stored_and_read(lesion):
    buffer = io.BytesIO()
    lesion.save(buffer, "JPEG", quality=10)
    assert (made(lesion, "corruption", "jpeg", 3) == pixels(Image.open(buffer))).all()


def test_white_balance_moves_red_against_blue():
    found = made(Image.new("RGB", (40, 40), (100, 100, 100)), "corruption", "white_balance", 2)[0, 0]
    assert sorted(found) == [90, 100, 110]
    assert found[1] == 100


def test_motion_blur_smears_a_point_along_a_line():
    point = np.zeros((150, 150, 3), dtype=np.uint8)
    point[74:77, 74:77] = 255
    found = made(Image.fromarray(point), "corruption", "motion_blur", 3)[..., 0]
    assert found.sum() == pytest.approx(9 * 255, rel=0.15)
    y, x = np.nonzero(found)
    along, across = np.sqrt(np.linalg.eigvalsh(np.cov(np.stack([x, y]), aweights=found[y, x]))[::-1])
    assert along == pytest.approx(15 / np.sqrt(12), rel=0.15)  # 10 % of 150 pixels, evenly
    assert across < 1.5


def test_defocus_blur_spreads_a_point_over_a_disc():
    point = np.zeros((200, 200, 3), dtype=np.uint8)
    point[98:103, 98:103] = 255
    found = made(Image.fromarray(point), "corruption", "defocus_blur", 3)[..., 0]
    y, x = np.nonzero(found)
    spread = np.linalg.eigvalsh(np.cov(np.stack([x, y]), aweights=found[y, x]))
    # A disc of radius 5 has a variance of 25 / 4, the square of 5 pixels one of 2; the soft rim adds a little.
    assert spread == pytest.approx([25 / 4 + 2] * 2, rel=0.1)


def test_hairs_only_darken_and_few_are_among_many(lesion):
    before = pixels(lesion)
    covered = [(made(lesion, "corruption", "hairs", severity) < before - 5).any(axis=-1) for severity in SEVERITIES]
    bright = before.min(axis=-1) > 60
    assert (covered[1] | ~covered[0])[bright].all()
    assert (covered[2] | ~covered[1])[bright].all()
    assert 0.01 < covered[0].mean() < covered[2].mean() < 0.4
    assert (made(lesion, "corruption", "hairs", 3)[bright] <= before[bright] + 1).all()


def test_what_is_not_there_is_named(lesion):
    with pytest.raises(UserError, match="no perturbation is called 'fog': choose one of defocused"):
        perturbed(lesion, "fog", seed=0, index=0)
    with pytest.raises(UserError, match="no corruption is called 'fog': choose one of defocus_blur"):
        corrupted(lesion, "fog", 1, seed=0, index=0)
    with pytest.raises(UserError, match="severity 4: choose 1, 2 or 3"):
        corrupted(lesion, "jpeg", 4, seed=0, index=0)
    with pytest.raises(UserError, match="an image of 200 x 31 pixels: give at least 32 a side"):
        perturbed(lesion.resize((200, 31)), "tiled", seed=0, index=0)
    with pytest.raises(UserError, match="31 x 32"):
        corrupted(lesion.resize((31, 32)), "jpeg", 1, seed=0, index=0)
