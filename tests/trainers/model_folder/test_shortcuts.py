"""Hidden lesions and drawn marks, on images whose pixels are known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trainers import measure_robustness as command
from trainers.evaluation import shortcuts
from trainers.model_folder.shortcuts import hidden, hidden_region, marked
from trainers.model_folder.views import Lesion, find_lesion

SIZE = (200, 150)
SKIN, DARK = (220, 170, 150), (70, 40, 30)


def lesion() -> tuple[Image.Image, np.ndarray]:
    """A disc of radius 20 around (60, 70) on even skin, with black corners."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    mask = np.hypot(x - 60, y - 70) < 20
    pixels = np.full((*mask.shape, 3), SKIN, dtype=np.uint8)
    pixels[mask] = DARK
    pixels[:30, :30] = pixels[-60:, -60:] = 0
    return Image.fromarray(pixels), mask


def test_a_hidden_lesion_has_the_colour_of_the_skin() -> None:
    image, mask = lesion()
    found = find_lesion(image, mask)
    regions = {kind: hidden_region(kind, found, mask) for kind in shortcuts.HIDDEN}
    for region in regions.values():
        assert region is not None
        assert region[mask].all()
        shown = np.asarray(hidden(image, region))
        assert (shown[region] == SKIN).all(), "the black corners are no skin"
        assert (shown[~region] == np.asarray(image)[~region]).all()
    disc, box, border = (int(region.sum()) for region in regions.values())  # type: ignore[union-attr]
    assert disc == pytest.approx(np.pi * 28**2, rel=0.05)  # a margin of 5 % of 150
    assert box == (39 + 16) ** 2
    assert border > 105**2
    assert regions["border_only"][75 - 52 : 75 + 52, 100 - 52 : 100 + 52].all()  # type: ignore[index]
    assert not regions["border_only"][:20].any()  # type: ignore[index]


def test_without_a_mask_the_box_is_hidden_and_without_a_lesion_nothing() -> None:
    image, mask = lesion()
    found = find_lesion(image, mask)
    assert np.array_equal(hidden_region("box_hidden", found, None), hidden_region("box_hidden", found, mask))
    assert hidden_region("lesion_hidden", found, None).sum() > hidden_region("lesion_hidden", found, mask).sum()  # type: ignore[union-attr]
    assert hidden_region("border_only", Lesion(SIZE, None, "centre"), None) is None


def test_marks_are_on_the_image_and_repeat() -> None:
    image = Image.new("RGB", SIZE, SKIN)
    changed = {kind: np.asarray(marked(image, kind, seed=0, index=3)) != np.asarray(image) for kind in shortcuts.DRAWN}
    share = {kind: float(where.any(axis=2).mean()) for kind, where in changed.items()}
    assert all(0.002 < share[kind] < 0.25 for kind in ("ruler", "ink", "bubbles", "hairs")), share
    assert changed["dark_corners"][0, 0].all()
    assert not changed["dark_corners"][60:90, 85:115].any()
    again, other = (np.asarray(marked(image, "ink", seed=0, index=index)) for index in (3, 4))
    assert np.array_equal(again != np.asarray(image), changed["ink"])
    assert not np.array_equal(other, again)


def test_the_command_offers_every_kind() -> None:
    assert (command.HIDDEN, command.SHORTCUTS) == (shortcuts.HIDDEN, shortcuts.SHORTCUTS)
