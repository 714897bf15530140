"""Nearest cases by cosine, one image a lesion: the FAISS index of ``datasets`` over unit vectors.

``datasets`` builds an index of Euclidean distance by default; this one is of the inner product, which of unit vectors
is the cosine.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence, Set
from dataclasses import dataclass

import datasets
import numpy as np

from datasets_scripts.command import UserError
from trainers.embeddings.representations import unit

NAME = "features"
INSTALL = "pip install faiss-cpu"


@dataclass(frozen=True)
class Found:
    """One similar case.

    Attributes:
        row: its number in the index.
        cosine: with the query, in [-1, 1]; 1 = the same direction.
    """

    row: int
    cosine: float


def check_faiss() -> None:
    """Make sure that FAISS is there, before minutes are spent.

    Raises:
        UserError: it is not; the message holds the line that installs it.
    """
    if importlib.util.find_spec("faiss") is None:
        raise UserError(f"similar cases need FAISS, which is not installed: {INSTALL}")


class CaseIndex:
    """An exact index of N cases.

    Args:
        features: (N, D), of any length.
        groups: (N,) group ids: a lesion with its near-duplicates.

    Raises:
        UserError: FAISS is not installed.
    """

    def __init__(self, features: np.ndarray, groups: np.ndarray) -> None:
        check_faiss()
        import faiss

        self.groups = np.asarray(groups).astype(str)
        self.n_groups = len(np.unique(self.groups))
        self.table = datasets.Dataset.from_dict({"group_id": self.groups.tolist()})
        shown = datasets.utils.logging.is_progress_bar_enabled()
        datasets.disable_progress_bars()
        try:
            self.table.add_faiss_index_from_external_arrays(
                np.ascontiguousarray(unit(np.asarray(features, dtype=np.float32))),
                NAME,
                metric_type=faiss.METRIC_INNER_PRODUCT,
            )
        finally:
            if shown:
                datasets.enable_progress_bars()

    def __len__(self) -> int:
        return len(self.groups)

    def check_k(self, k: int, without: Set[str] = frozenset()) -> None:
        """Refuse more cases than there are lesions to show.

        Raises:
            UserError: k is not from 1 to the lesions of the index outside ``without``.
        """
        check_k(k, self.groups, without)

    def nearest(self, queries: np.ndarray, k: int, without: Sequence[Set[str]]) -> list[list[Found]]:
        """The k nearest cases of different lesions for each query, the nearest first.

        Args:
            queries: (Q, D), of any length.
            k: cases per query.
            without: Q sets of group ids that must not be found: the query's own, and its duplicates'.

        Raises:
            UserError: some query has fewer than k lesions to find.
        """
        for groups in without:
            self.check_k(k, groups)
        vectors = np.ascontiguousarray(unit(np.asarray(queries, dtype=np.float32)))
        results: list[list[Found]] = [[] for _ in vectors]
        open_queries, wanted = list(range(len(vectors))), min(len(self), 4 * k)
        while len(open_queries):
            found = self.table.search_batch(NAME, vectors[open_queries], k=wanted)
            for query, scores, rows in zip(open_queries, found.total_scores, found.total_indices, strict=True):
                results[query] = self._one_a_lesion(rows, scores, k, without[query])
            # Several images of one lesion may have filled the list: look further for those that lack some.
            open_queries = [query for query in open_queries if len(results[query]) < k]
            wanted = min(len(self), 4 * wanted)
        return results

    def _one_a_lesion(self, rows: np.ndarray, scores: np.ndarray, k: int, without: Set[str]) -> list[Found]:
        taken: set[str] = set()
        found: list[Found] = []
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            group = self.groups[row]
            if group in taken or group in without:
                continue
            taken.add(group)
            found.append(Found(row, float(np.clip(score, -1.0, 1.0))))
            if len(found) == k:
                break
        return found


def check_k(k: int, groups: np.ndarray, without: Set[str] = frozenset()) -> None:
    """Refuse more cases than there are lesions to show; needs no features, so it can be checked first.

    Args:
        k: cases per query.
        groups: (N,) group ids of the index.
        without: group ids that must not be found.

    Raises:
        UserError: k is out of range.
    """
    most = len(set(np.asarray(groups).astype(str).tolist()) - set(without))
    if not 1 <= k <= most:
        raise UserError(
            f"--k {k} similar cases of different lesions cannot be found among {most} lesions: choose from 1 to {most}"
        )
