"""Numbers of a space: where classes are apart, where they are not, and where siblings would flatter."""

from __future__ import annotations

import json

import numpy as np
import pytest

from trainers.embeddings.cluster_quality import Evaluated, difference
from trainers.metrics.discrimination import balanced_accuracy

NAMES = ["mel", "nv"]


def evaluated(vectors: np.ndarray, labels: np.ndarray, groups: np.ndarray, **options: object) -> Evaluated:
    return Evaluated(vectors, labels, groups, NAMES, metric="euclidean", replicates=100, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def apart() -> Evaluated:
    """40 images of 20 lesions, two classes far apart."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    return evaluated(rng.normal(size=(40, 3)) + 50 * labels[:, None], labels, np.arange(40) // 2, k=3)


def test_classes_that_are_apart(apart: Evaluated) -> None:
    numbers = apart.numbers
    assert numbers["knn"]["balanced_accuracy"]["value"] == 1
    assert numbers["silhouette"]["mean_over_classes"]["value"] > 0.9
    assert numbers["silhouette"]["mean_over_classes"]["low"] <= numbers["silhouette"]["mean_over_classes"]["value"]
    assert numbers["knn"]["recall"]["mel"]["n"] == 20
    assert 0.3 < numbers["knn"]["chance"]["value"] < 0.6
    assert numbers["knn"]["chance"]["of_any_guess"] == 0.5
    assert numbers["silhouette"]["chance"]["value"] < 0.05
    json.dumps(numbers, allow_nan=False)


def test_copies_of_a_lesion_do_not_help() -> None:
    """Labels without any meaning, and every lesion photographed four times: a naive k-NN would be always right."""
    rng = np.random.default_rng(1)
    lesions = rng.normal(size=(100, 5))
    vectors = np.repeat(lesions, 4, axis=0) + 0.001 * rng.normal(size=(400, 5))
    numbers = evaluated(
        vectors, np.repeat(rng.permutation(np.arange(100) % 2), 4), np.repeat(np.arange(100), 4)
    ).numbers
    chance = numbers["knn"]["chance"]
    assert chance["low"] - 0.03 <= numbers["knn"]["balanced_accuracy"]["value"] <= chance["high"] + 0.03
    assert numbers["sibling_first"]["value"] == 1
    assert numbers["sibling_first"]["chance"] == pytest.approx(3 / 399, abs=1e-6)
    assert abs(numbers["silhouette"]["mean_over_classes"]["value"]) < 0.03


def test_the_mean_over_images_weighs_a_common_class_more() -> None:
    rng = np.random.default_rng(2)
    labels = np.array([0] * 6 + [1] * 30)
    vectors = np.concatenate([10 * rng.normal(size=(6, 2)), rng.normal(size=(30, 2)) + 40])
    silhouette = evaluated(vectors, labels, np.arange(36)).numbers["silhouette"]
    by_class = {name: number["value"] for name, number in silhouette["by_class"].items()}
    assert by_class["mel"] < by_class["nv"]
    assert silhouette["mean_over_classes"]["value"] == pytest.approx((by_class["mel"] + by_class["nv"]) / 2, abs=1e-5)
    assert silhouette["mean_over_images"]["value"] == pytest.approx(
        (6 * by_class["mel"] + 30 * by_class["nv"]) / 36, abs=1e-5
    )


def test_a_class_without_images_is_not_defined() -> None:
    rng = np.random.default_rng(3)
    labels = np.array([0, 2] * 10)
    found = Evaluated(rng.normal(size=(20, 2)), labels, np.arange(20), ["a", "b", "c"], replicates=20).numbers
    assert found["knn"]["recall"]["b"] == {"value": None, "why": "not defined: no images"}
    assert found["silhouette"]["by_class"]["b"]["value"] is None
    assert found["knn"]["chance"]["of_any_guess"] == 0.5
    assert found["sibling_first"]["value"] is None


def test_a_seed_gives_the_same_numbers_and_a_lesion_keeps_one_shuffled_label(apart: Evaluated) -> None:
    again = evaluated(apart.space.vectors, apart.labels, apart.groups, k=3)
    assert again.numbers == apart.numbers
    shuffled = apart._shuffled(5)
    assert (shuffled[:, ::2] == shuffled[:, 1::2]).all()
    assert (shuffled.sum(axis=1) == 20).all()
    assert len(np.unique(shuffled, axis=0)) == 5


def test_the_difference_of_two_spaces_is_paired(apart: Evaluated) -> None:
    rng = np.random.default_rng(4)
    noise = evaluated(rng.normal(size=(40, 3)), apart.labels, apart.groups, k=3)
    found = difference(apart, noise)
    assert found["value"] == pytest.approx(1 - float(balanced_accuracy(noise.confusion())), abs=1e-6)
    assert 0 < found["low"] <= found["value"] <= found["high"]
    nothing = difference(noise, noise)
    assert (nothing["value"], nothing["low"], nothing["high"]) == (0, 0, 0)
