"""The typology angle of colours that are known, and agreement counted by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from trainers.scoring.skin_tone import agreement, category, typology_angle


def painted(lightness: float, red: float, yellow: float, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """An image of one colour of CIELAB."""
    lab = np.full((*size, 3), (lightness, red, yellow), dtype=np.float32)
    return (cv2.cvtColor(lab, cv2.COLOR_LAB2RGB) * 255 + 0.5).astype(np.uint8)


@pytest.mark.parametrize(
    ("lightness", "yellow", "named"),
    [
        *((75, 12, "very light"), (68, 17, "light"), (62, 18, "intermediate")),
        *((58, 20, "tan"), (48, 18, "brown"), (30, 12, "dark")),
    ],
)  # fmt: skip
def test_the_angle_of_a_colour(lightness: float, yellow: float, named: str) -> None:
    image = painted(lightness, 10, yellow)
    image[20:40, 20:60] = (60, 30, 20)  # a lesion in the middle changes nothing
    angle = typology_angle(image)
    assert angle == pytest.approx(np.degrees(np.arctan((lightness - 50) / yellow)), abs=1.5)
    assert category(angle).endswith(f" {named}")


def test_no_skin_no_estimate() -> None:
    through_a_tube = painted(70, 10, 15)
    through_a_tube[:8, :12] = 0
    for image in (through_a_tube, painted(70, 0, 0), painted(60, -10, 15), np.zeros((60, 80, 3), np.uint8)):
        assert typology_angle(image) is None
    assert category(None) == "unknown"


def test_agreement_is_counted() -> None:
    estimated = np.array([category(a) for a in (60.0, 60.0, 50.0, 30.0, 20.0, None)], dtype=object)  # 1 1 2 3 4 ?
    recorded = np.array(
        [f"{word} {n}" for word, n in zip(["Fitzpatrick", "fitzpatrick"] * 3, (1, 3, 2, 2, 3, 2), strict=True)],
        dtype=object,
    )
    found = agreement(estimated, recorded, np.arange(6), 200, 0)
    assert (found["estimated"], found["n"], found["n_groups"]) == (5, 5, 5)
    assert (found["exact"]["value"], found["within_one"]["value"]) == (0.4, 0.8)
    assert found["most_frequent"] == {"exact": 0.4, "within_one": 1.0}
    assert found["spearman"]["value"] == pytest.approx(3.25 / 85.5**0.5)  # of ranks 1.5 1.5 3 4 5 and 1 4.5 2.5 2.5 4.5
    assert "not defined" in agreement(estimated, np.full(6, "unknown"), np.arange(6), 9, 0)["spearman"]["why"]
