"""The same image again: exact, resaved, brighter, mirrored or turned; and images that only look alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from datasets_scripts.images import ImageError
from datasets_scripts.phantom import draw
from trainers.embeddings.cases import Cases
from trainers.embeddings.near_duplicates import Looks, dhash, joined, look, looks_of, repeats, same_images


def encoded(photo: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    return [draw(label, seed, (200, 150)).image for label in ("mel", "nv", "bkl", "vasc") for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def many(drawn: list[Image.Image]) -> Looks:
    return joined([look(encoded(photo), str(number)) for number, photo in enumerate(drawn)])


def test_an_image_is_found_however_it_was_changed(drawn: list[Image.Image], many: Looks) -> None:
    for number, photo in enumerate(drawn):
        for changed in (
            encoded(photo),
            encoded(photo, "JPEG", quality=70),
            encoded(photo.resize((150, 112))),
            encoded(ImageEnhance.Brightness(photo).enhance(0.8)),
            encoded(ImageOps.mirror(photo)),
            encoded(photo.rotate(90, expand=True)),
        ):
            assert same_images(look(changed, "query"), many).tolist() == [number]


def test_another_lesion_of_the_class_is_another_image(many: Looks) -> None:
    assert same_images(look(draw("mel", 77, (200, 150)).png(), "query"), many).tolist() == []


def test_an_image_without_contrast_is_known_by_its_pixels_alone() -> None:
    black, grey = (look(encoded(Image.new("RGB", (40, 30), colour)), colour) for colour in ("black", "grey"))
    assert same_images(black, joined([grey, black])).tolist() == [1]
    assert repeats(joined([grey, black, grey])).tolist() == [2]


def test_repeats_are_the_later_ones(drawn: list[Image.Image], many: Looks) -> None:
    assert repeats(many).tolist() == []
    mirrored = look(encoded(ImageOps.mirror(drawn[2])), "again")
    assert repeats(joined([many, mirrored, look(encoded(drawn[0]), "exact")])).tolist() == [12, 13]


def test_looks_of_cases_are_those_of_their_images(train_cases: Cases) -> None:
    some = train_cases.select(np.array([3, 5]))
    found = looks_of(some)
    for number in range(2):
        one = look(some.stored(number), "one")
        assert found.pixels_sha256[number] == one.pixels_sha256[0]
        np.testing.assert_array_equal(found.thumbs[number], one.thumbs[0])
    np.testing.assert_array_equal(looks_of(some).thumbs, found.thumbs)  # from the cache


def test_what_is_no_image_is_named() -> None:
    with pytest.raises(ImageError, match=r"image x\.jpg: it cannot be decoded"):
        look(b"no image", "x.jpg")


def test_difference_hash_by_hand() -> None:
    ramp = Image.fromarray(np.tile(np.arange(9, dtype=np.uint8) * 20, (8, 1)))
    assert dhash(ramp.convert("RGB")) == "ffffffffffffffff"
    assert dhash(ImageOps.mirror(ramp).convert("RGB")) == "0000000000000000"
    steps = np.tile(np.array([0, 9, 9, 20, 10, 30, 30, 30, 40], dtype=np.uint8), (8, 1))
    steps[1] = 0
    # Row by row: brighter, equal, brighter, darker, brighter, equal, equal, brighter = 10101001; the second row equal.
    assert dhash(Image.fromarray(steps).convert("RGB")) == "a900" + "a9" * 6
