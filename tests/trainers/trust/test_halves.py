"""Halves share every class evenly, divide no lesion, and depend on the seed and the ids alone."""

from __future__ import annotations

import numpy as np
import pytest

from trainers.trust.halves import halve, one_per_group


def lesions(per_class: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and group ids of lesions with one to three images each, shuffled."""
    rng = np.random.default_rng(seed)
    of_lesion = np.repeat(np.arange(len(per_class)), per_class)
    lesion = np.repeat(np.arange(len(of_lesion)), rng.integers(1, 4, len(of_lesion)))
    order = rng.permutation(len(lesion))
    return of_lesion[lesion][order], np.array([f"L{i}" for i in lesion], dtype=object)[order]


def groups_of(labels: np.ndarray, groups: np.ndarray, half: np.ndarray, label: int) -> int:
    return len(set(groups[half & (labels == label)]))


def test_no_group_is_divided_and_every_class_is_shared_evenly():
    labels, groups = lesions([101, 17, 4, 3, 2])
    first, second = halve(labels, groups, seed=1)
    assert (first ^ second).all()
    assert set(groups[first]).isdisjoint(groups[second])
    counts = [(groups_of(labels, groups, first, c), groups_of(labels, groups, second, c)) for c in range(5)]
    # The odd lesion goes to the second half.
    assert counts == [(50, 51), (8, 9), (2, 2), (1, 2), (1, 1)]


def test_a_class_of_one_lesion_goes_to_the_second_half():
    first, second = halve(np.array([0, 0, 1]), np.array(["a", "b", "c"]), seed=0)
    assert first.sum() == 1
    assert second[2]


def test_the_class_of_a_group_is_its_majority_label():
    # Groups a and b are of class 1 by two votes to one, c and d of class 0 (a tie goes to the lowest).
    labels = np.array([1, 1, 0, 1, 1, 0, 0, 1, 1, 0])
    groups = np.array(list("aaabbbccdd"))
    for seed in range(10):
        first, _ = halve(labels, groups, seed)
        assert len({"a", "b"} & set(groups[first])) == 1
        assert len({"c", "d"} & set(groups[first])) == 1


def test_the_halves_depend_on_seed_and_ids_not_on_the_order_of_rows():
    labels, groups = lesions([40, 12])
    first, _ = halve(labels, groups, seed=3)
    again, _ = halve(labels[::-1], groups[::-1], seed=3)
    other, _ = halve(labels, groups, seed=4)
    assert first.tolist() == again[::-1].tolist()
    assert first.tolist() != other.tolist()


def test_one_image_of_each_group():
    _, groups = lesions([30, 5])
    rows = one_per_group(groups, seed=0)
    assert sorted(groups[rows]) == sorted(set(groups))
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == one_per_group(groups, seed=0).tolist()


def test_each_image_of_a_group_has_the_same_chance():
    groups = np.array(["a", "b", "a", "a"])
    drawn = [tuple(one_per_group(groups, seed)) for seed in range(3000)]
    shares = [np.mean([row in pair for pair in drawn]) for row in range(4)]
    # 3,000 draws: the standard error of a third is 0.009.
    assert shares == pytest.approx([1 / 3, 1.0, 1 / 3, 1 / 3], abs=0.03)


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        (np.zeros(0, dtype=int), np.zeros(0, dtype=str), "0 images: there is nothing to halve"),
        (np.array([0, 1]), np.array(["a"]), r"labels have shape \(2,\) for 1 images"),
        (np.array([0.0, 1.0]), np.array(["a", "b"]), "labels are of type float64"),
        (np.array([-1, 1]), np.array(["a", "b"]), r"labels span -1\.\.1"),
        (np.array([0, 1]), np.array(["a", "b"]), "none of the 2 classes has two groups"),
    ],
)
def test_what_cannot_be_halved_is_named(labels, groups, message):
    with pytest.raises(ValueError, match=message):
        halve(labels, groups, seed=0)


def test_no_group_to_draw_from():
    with pytest.raises(ValueError, match="0 images: there is no group"):
        one_per_group(np.zeros(0, dtype=str), seed=0)
