"""Maps: seeded, true to clusters that are there, and measured on what they keep."""

from __future__ import annotations

import numpy as np
import pytest

from datasets_scripts.command import UserError
from trainers.embeddings.neighbours import Space
from trainers.embeddings.projection import check_perplexity, draw_map, neighbours_kept


@pytest.fixture(scope="module")
def space() -> Space:
    """Three clusters of twenty in ten dimensions."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 10)) + 12 * np.eye(10)[np.repeat([0, 1, 2], 20)]
    return Space.of(vectors, np.arange(60), "euclidean")


def test_clusters_stay_clusters_and_a_seed_gives_the_same_map(space: Space) -> None:
    drawn = draw_map(space, 10, seed=1, iterations=300)
    assert drawn.points.shape == (60, 2)
    centres = np.stack([drawn.points[i * 20 : i * 20 + 20].mean(axis=0) for i in range(3)])
    nearest = np.linalg.norm(drawn.points[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == np.repeat([0, 1, 2], 20)).all()
    assert drawn.numbers["trustworthiness"] > 0.9
    assert drawn.numbers["neighbours_kept"] > 2 * drawn.numbers["neighbours_kept_by_chance"]
    assert drawn.numbers["neighbours_kept_by_chance"] == pytest.approx(15 / 59, abs=1e-6)
    np.testing.assert_array_equal(drawn.points, draw_map(space, 10, seed=1, iterations=300).points)


def test_neighbours_kept_by_hand() -> None:
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    space = Space.of(line, np.arange(4), "euclidean")
    assert neighbours_kept(space, np.hstack([line, line]), 2) == 1
    # The last moves from 7 to 0.4: the nearest were 1, 0, 1 and 3; of the third alone it still is the same.
    moved = np.array([[0.0, 0], [1.0, 0], [3.0, 0], [0.4, 0]])
    assert neighbours_kept(space, moved, 1) == 0.25


@pytest.mark.parametrize("perplexity", [0.5, 60.0, 1e9, float("nan"), float("inf")])
def test_a_perplexity_that_these_images_cannot_have(perplexity: float) -> None:
    with pytest.raises(UserError, match=r"--perplexity .* 60 images of the split 'test': choose from 1 to below 60"):
        check_perplexity(perplexity, 60, "the split 'test'")
