"""Who is near whom when images of one lesion do not count: against hand-worked points and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import NearestNeighbors

from datasets_scripts.command import UserError
from trainers.embeddings import neighbours
from trainers.embeddings.neighbours import Space, find_neighbours, silhouettes, vote


def cloud(n: int = 60, groups: int = 25, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors (n, 7), labels and lesion groups at random."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 7)), rng.integers(0, 3, n), rng.integers(0, groups, n)


def test_neighbours_by_hand_pass_over_the_own_lesion() -> None:
    # Points on a line at 0, 1, 2, 5, 9; the first two are one lesion, the last two another.
    space = Space.of(np.array([[0.0], [1.0], [2.0], [5.0], [9.0]]), np.array(["a", "a", "b", "c", "c"]), "euclidean")
    found = find_neighbours(space, 2)
    assert found.nearest.tolist() == [[2, 3], [2, 3], [1, 0], [2, 1], [2, 1]]
    # 0 and 1 are each other's nearest of all; 5 is nearer to 2 than to its sibling 9, and 9 is nearest to 5.
    np.testing.assert_array_equal(found.sibling_first, [1, 0, np.nan, 0, 1])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("entries", [8_000_000, 130])
def test_neighbours_are_those_that_scikit_learn_finds_without_the_lesion(
    metric: str, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "ENTRIES_PER_BLOCK", entries)  # 130 = blocks of two rows
    vectors, _, groups = cloud()
    nearest = find_neighbours(Space.of(vectors, groups, metric), 4).nearest
    for row in range(len(vectors)):
        others = np.flatnonzero(groups != groups[row])
        fitted = NearestNeighbors(n_neighbors=4, metric=metric).fit(vectors[others])
        assert others[fitted.kneighbors(vectors[[row]])[1][0]].tolist() == nearest[row].tolist()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_silhouettes_are_scikit_learns_where_each_lesion_has_one_image(metric: str) -> None:
    vectors, labels, _ = cloud()
    other = np.roll(labels, 7)
    ours = silhouettes(Space.of(vectors, np.arange(60), metric), np.stack([labels, other]), 3)
    np.testing.assert_allclose(ours[0], silhouette_samples(vectors, labels, metric=metric), atol=1e-5)
    np.testing.assert_allclose(ours[1], silhouette_samples(vectors, other, metric=metric), atol=1e-5)


def test_silhouette_by_hand_leaves_the_own_lesion_out() -> None:
    # Class 0 at 0, 0.5 (one lesion) and 4; class 1 at 10 and 12, two lesions.
    vectors = np.array([[0.0], [0.5], [4.0], [10.0], [12.0]])
    labels, groups = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 2, 3])
    found = silhouettes(Space.of(vectors, groups, "euclidean"), labels, 2)[0]
    # The first: a = 4 (its sibling at 0.5 does not count), b = (10 + 12) / 2 = 11.
    np.testing.assert_allclose(found[0], (11 - 4) / 11, atol=1e-6)
    # The third: a = (4 + 3.5) / 2, b = (6 + 8) / 2.
    np.testing.assert_allclose(found[2], (7 - 3.75) / 7, atol=1e-6)


def test_a_class_of_a_single_lesion_has_the_silhouette_0() -> None:
    vectors = np.array([[0.0], [0.1], [5.0], [6.0]])
    found = silhouettes(Space.of(vectors, np.array([0, 0, 1, 2]), "euclidean"), np.array([0, 0, 1, 1]), 3)[0]
    assert found[:2].tolist() == [0, 0]
    assert (found[2:] > 0.7).all()


def test_the_nearest_decides_a_tie() -> None:
    assert vote(np.array([[2, 1, 1, 2, 0]]), 3).tolist() == [2]
    assert vote(np.array([[0, 1, 1]]), 3).tolist() == [1]
    assert vote(np.array([[[0, 1]], [[1, 0]]]), 3).tolist() == [[0], [1]]


def test_zeros_are_at_cosine_distance_1_from_all() -> None:
    space = Space.of(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 2.0]]), np.arange(3), "cosine")
    (_, distances, _) = next(iter(space.blocks()))
    np.testing.assert_allclose(distances[0], [1, 1, 1])
    np.testing.assert_allclose(distances[1], [1, 0, 1], atol=1e-7)


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbours_than_there_are_is_refused(k: int) -> None:
    space = Space.of(np.arange(5.0)[:, None], np.array([0, 0, 1, 2, 3]), "euclidean")
    with pytest.raises(UserError, match=rf"{k} neighbours .* 5 images .* 2 are of one lesion: choose from 1 to 3"):
        find_neighbours(space, k)


def test_images_of_one_lesion_alone_have_no_neighbours() -> None:
    with pytest.raises(UserError, match="give images of several lesions"):
        neighbours.check_k(np.zeros(4), 1)
