"""Looks, lines, and charts that are the same for the same numbers."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from trainers.embeddings.class_colours import COMMON, class_looks
from trainers.embeddings.map_figures import Panel, draw_maps, draw_quality, lesion_lines


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_each_class_has_a_look_of_its_own() -> None:
    names = [f"class{i}" for i in range(20)]
    looks = class_looks(names, np.array([1] * 4 + [9] + [1] * 15), {}, {"class0": "malignant", "class4": "benign"})
    assert len({(look.colour, look.shape) for look in looks}) == 20
    assert [look.name for look in looks if look.colour == COMMON] == ["class4"]
    assert looks[0].starred == "class0 *"
    assert looks[4].starred == "class4"


def test_lines_go_from_the_first_image_of_a_lesion_to_its_others() -> None:
    assert lesion_lines(np.array(["a", "b", "a", "c", "a", "b"])).tolist() == [[0, 2], [0, 4], [1, 5]]
    assert lesion_lines(np.array(["a", "b"])).shape == (0, 2)


@pytest.mark.usefixtures("painted")
@pytest.mark.parametrize("panels", [1, 3])
def test_maps_say_the_numbers_and_are_reproducible(panels: int, space_numbers: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 3, 50), rng.integers(0, 30, 50)
    looks = class_looks(["mel", "nv", "df"], np.bincount(labels), {"mel": "Melanoma"}, {"mel": "malignant"})
    kinds = ["pixels", "codes", "features"][:panels]
    shown = [Panel(kind, rng.normal(size=(50, 2)), space_numbers) for kind in kinds]
    first = draw_maps(shown, labels, groups, looks, "t-SNE of a test")
    drawn_texts = texts(first)
    assert "5-NN balanced accuracy 0.50 (0.40 to 0.60), chance 0.25" in drawn_texts
    assert "silhouette \N{MINUS SIGN}0.10; trustworthiness of the map 0.90" in drawn_texts
    assert f"mel *: Melanoma ({int((labels == 0).sum())})" in drawn_texts
    assert len(first.axes) == panels
    files = []
    for figure in (first, draw_maps(shown, labels, groups, looks, "t-SNE of a test")):
        figure.savefig(buffer := io.BytesIO(), metadata={"Software": None})
        files.append(buffer.getvalue())
    assert files[0] == files[1]


def test_the_chart_of_numbers_shows_each_space_beside_chance(space_numbers: dict[str, Any]) -> None:
    both = {"pixels": space_numbers, "features": space_numbers}
    figure = draw_quality({"train": both, "test": {"pixels": space_numbers}}, "a test")
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["Plain pixels", "Classifier features"]
    chance = [line.get_xdata()[0] for line in left.lines if line.get_marker() == "|"]
    assert chance == [0.25, 0.25, 0.25]
    assert sorted(line.get_xdata()[0] for line in right.lines if line.get_marker() in ("o", "s")) == [-0.1] * 3
    assert {"train", "test", "chance (labels shuffled)"} <= {text.get_text() for text in figure.legends[0].get_texts()}
