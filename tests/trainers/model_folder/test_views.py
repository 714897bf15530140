"""Views of images with a lesion whose place is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trainers.model_folder.views import Lesion, find_lesion, frame_of, lesion_seen, settings_of, viewed

SIZE = (200, 150)


def lesion(*box: int) -> Lesion:
    return Lesion(SIZE, box or None, "mask" if box else "centre")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("setting", "box", "frame"),
    [
        ("1:1", (80, 60, 120, 90), (25, 0, 175, 150)),
        ("3:4", (80, 60, 120, 90), (44, 0, 156, 150)),
        ("4:3", (80, 60, 120, 90), (0, 0, 200, 150)),
        ("16:9", (80, 60, 120, 90), (0, 19, 200, 131)),
        # Near a side the frame stays within the image.
        ("1:1", (0, 60, 20, 90), (0, 0, 150, 150)),
        ("1:1", (180, 60, 200, 90), (50, 0, 200, 150)),
        ("16:9", (80, 0, 120, 30), (0, 0, 200, 112)),
        ("1:1", (), (25, 0, 175, 150)),
    ],
)
def test_an_aspect_is_the_largest_frame_around_the_lesion(setting: str, box: tuple, frame: tuple) -> None:
    assert frame_of(lesion(*box), "aspect", setting) == frame


@pytest.mark.parametrize(
    ("setting", "box", "frame"),
    [
        ("100", (70, 60, 130, 90), (60, 45, 140, 105)),  # 60 wide: 80 x 60
        ("50", (70, 60, 130, 90), (20, 15, 180, 135)),  # 160 x 120
        ("25", (70, 60, 130, 90), None),  # would need 240 pixels of 150
        ("75", (0, 0, 30, 60), (0, 0, 107, 80)),  # 60 high, in the corner
        ("100", (70, 60, 100, 90), None),  # 30 pixels are too few to show
        ("100", (10, 10, 170, 100), None),  # 160 wide: more than the image is high
        ("100", (), None),
    ],
)
def test_a_scale_is_a_frame_that_the_lesion_fills_to_a_share(setting: str, box: tuple, frame: tuple | None) -> None:
    found = frame_of(lesion(*box), "scale", setting)
    assert found == frame
    if found:
        assert lesion_seen(lesion(*box), found) == "whole"


def test_a_lesion_is_whole_cut_or_unknown() -> None:
    assert lesion_seen(lesion(10, 10, 50, 50), (10, 10, 50, 50)) == "whole"
    assert lesion_seen(lesion(10, 10, 50, 50), (10, 10, 49, 50)) == "cut"
    assert lesion_seen(lesion(), (0, 0, 100, 100)) == "unknown"


def test_a_lesion_is_found_by_its_mask_its_colour_or_not() -> None:
    pixels = np.full((150, 200, 3), (220, 170, 150), dtype=np.uint8)
    empty = Image.fromarray(pixels)
    pixels[50:90, 60:120] = (90, 50, 40)
    image, mask = Image.fromarray(pixels), np.zeros((150, 200), dtype=bool)
    assert find_lesion(empty, None) == Lesion(SIZE, None, "centre")
    by_colour = find_lesion(image, mask)  # an empty mask shows nothing
    assert by_colour.by == "box"
    assert by_colour.box == pytest.approx((60, 50, 120, 90), abs=3)
    mask[20:40, 30:90] = True
    assert find_lesion(image, mask) == Lesion(SIZE, (30, 20, 90, 40), "mask")


def test_views_hold_the_pixels_of_the_upright_image() -> None:
    pixels = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)
    image = Image.fromarray(pixels)
    assert np.array_equal(viewed(image, (5, 10, 25, 40), "aspect", "1:1"), pixels[10:40, 5:25])
    for turns, setting in enumerate(("90", "180", "270"), start=1):
        assert np.array_equal(viewed(image, (0, 0, 60, 40), "turn", setting), np.rot90(pixels, turns))
    image.getexif()[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert viewed(image, (0, 0, 40, 60), "turn", "180").size == (40, 60)


def test_the_image_as_it_is_stored_is_not_predicted_again() -> None:
    assert settings_of(["turn"]) == [("turn", "90"), ("turn", "180"), ("turn", "270")]
    assert len(settings_of(["aspect", "scale"])) == 8
