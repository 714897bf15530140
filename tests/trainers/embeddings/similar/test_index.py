"""The index: inner product of unit vectors, one image a lesion, never what was left out."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from datasets_scripts.command import UserError
from trainers.embeddings.index import CaseIndex


def brute_force(features: np.ndarray, groups: np.ndarray, query: np.ndarray, k: int, without: set[str]) -> list[int]:
    """The k rows of largest cosine, the first of each lesion."""
    cosines = features @ query / np.linalg.norm(features, axis=1) / np.linalg.norm(query)
    rows: list[int] = []
    for row in np.argsort(-cosines, kind="stable"):
        if groups[row] not in without and groups[row] not in {groups[taken] for taken in rows}:
            rows.append(int(row))
    return rows[:k]


def test_the_nearest_by_cosine_not_by_distance() -> None:
    # To (1, 0): the first is nearest by Euclidean distance, the second by cosine, though a hundred times as long.
    index = CaseIndex(np.array([[0.9, 0.5], [100.0, 1.0], [-1.0, 0.0]]), np.array(["a", "b", "c"]))
    found = index.nearest(np.array([[1.0, 0.0]]), 3, [set()])[0]
    assert [case.row for case in found] == [1, 0, 2]
    np.testing.assert_allclose(
        [case.cosine for case in found], [100 / np.hypot(100, 1), 0.9 / np.hypot(0.9, 0.5), -1], atol=1e-6
    )


@pytest.mark.parametrize("lesions", [200, 12])
def test_it_finds_what_a_search_through_all_finds(lesions: int) -> None:
    """Twelve lesions of seventeen images each: the first lists are full of siblings, so it has to look further."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(lesions, 6))
    groups = np.array([f"lesion {i}" for i in rng.integers(0, lesions, 200)])
    features = centres[[int(name.split()[1]) for name in groups]] + 0.05 * rng.normal(size=(200, 6))
    index, queries = CaseIndex(features, groups), rng.normal(size=(20, 6))
    without = [{f"lesion {i % lesions}", f"lesion {(i + 1) % lesions}"} for i in range(20)]
    found = index.nearest(queries, 5, without)
    for query, own, cases in zip(queries, without, found, strict=True):
        assert [case.row for case in cases] == brute_force(features, groups, query, 5, own)


@pytest.mark.parametrize(("k", "most"), [(0, 3), (-2, 3), (4, 3)])
def test_k_that_cannot_be(k: int, most: int) -> None:
    index = CaseIndex(np.eye(5), np.array(["a", "a", "b", "c", "d"]))
    with pytest.raises(UserError, match=rf"--k {k} .* among {most} lesions: choose from 1 to {most}"):
        index.nearest(np.eye(5)[:1], k, [{"d"}])
    assert index.n_groups == 4
    assert len(index) == 5


def test_without_faiss_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="which is not installed: pip install faiss-cpu"):
        CaseIndex(np.eye(2), np.array(["a", "b"]))
