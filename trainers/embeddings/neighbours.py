"""Distances in a space of vectors, and who is near whom when images of one lesion do not count.

One pass over the distances, a block of rows at a time, gives all that the numbers need: so N images cost N x N time,
and memory for one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datasets_scripts.command import UserError
from trainers.embeddings.representations import unit

ENTRIES_PER_BLOCK = 8_000_000


def check_k(groups: np.ndarray, k: int, where: str = "the space") -> None:
    """Refuse more neighbours than an image of the largest lesion has.

    Args:
        groups: (N,) group ids.
        k: neighbours.
        where: what the images are of, for the message.

    Raises:
        UserError: k is not from 1 to N minus the images of the largest group.
    """
    largest = int(np.unique(np.asarray(groups).astype(str), return_counts=True)[1].max())
    if not 1 <= k <= len(groups) - largest:
        most = len(groups) - largest
        advice = f"choose from 1 to {most}" if most else "give images of several lesions"
        raise UserError(
            f"{k} neighbours of other lesions do not go with the {len(groups)} images of {where}, of which {largest} "
            f"are of one lesion: {advice}"
        )


@dataclass(frozen=True)
class Space:
    """Vectors, the distance between them, and what belongs together.

    Attributes:
        vectors: (N, D) float32; of length 1 where the distance is the cosine's.
        metric: ``cosine`` (1 - cosine, in [0, 2]) or ``euclidean``.
        groups: (N,) int in [0, G): images of one lesion.
    """

    vectors: np.ndarray
    metric: str
    groups: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, groups: np.ndarray, metric: str) -> Space:
        """Lay out vectors (N, D) with their group ids (N,)."""
        numbered = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
        vectors = np.asarray(vectors, dtype=np.float32)
        return cls(unit(vectors) if metric == "cosine" else vectors, metric, numbered)

    def __len__(self) -> int:
        return len(self.vectors)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield (row numbers (B,), distances (B, N), of one group (B, N) bool; an image is of its own group)."""
        n = len(self)
        squares = np.einsum("nd,nd->n", self.vectors, self.vectors)
        size = max(1, ENTRIES_PER_BLOCK // n)
        for start in range(0, n, size):
            rows = np.arange(start, min(start + size, n))
            products = self.vectors[rows] @ self.vectors.T
            if self.metric == "cosine":
                found = 1.0 - products
            else:
                found = np.sqrt(np.maximum(squares[rows, None] + squares[None, :] - 2.0 * products, 0.0))
            yield rows, found, self.groups[rows, None] == self.groups[None, :]


@dataclass(frozen=True)
class Neighbours:
    """What one pass finds.

    Attributes:
        nearest: (N, k) row numbers of the k nearest images of other groups, the nearest first.
        sibling_first: (N,) float: 1 where the nearest of all other images is of the same group, 0 where it is not, NaN
            where the group has no other image.
    """

    nearest: np.ndarray
    sibling_first: np.ndarray


def find_neighbours(space: Space, k: int) -> Neighbours:
    """The k nearest images of other lesions for each image; equal distances in the order of the rows.

    Args:
        space: of N images.
        k: at least 1, and no more than every image has of other groups.

    Raises:
        UserError: k is out of this range.
    """
    check_k(space.groups, k)
    nearest, sibling = np.zeros((len(space), k), dtype=np.int64), np.full(len(space), np.nan)
    for rows, distances, same in space.blocks():
        others = np.where(same, np.inf, distances)
        nearest[rows] = _smallest(others, k)
        own = np.where(same, distances, np.inf)
        own[np.arange(len(rows)), rows] = np.inf
        closest = own.min(axis=1)
        has = np.isfinite(closest)
        sibling[rows[has]] = closest[has] < others.min(axis=1)[has]
    return Neighbours(nearest, sibling)


def _smallest(distances: np.ndarray, k: int) -> np.ndarray:
    """(B, N) -> (B, k) columns of the smallest, in order."""
    some = np.sort(np.argpartition(distances, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(np.take_along_axis(distances, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def vote(neighbour_labels: np.ndarray, n_classes: int) -> np.ndarray:
    """The commonest class among neighbours; of several that are equally common, that of the nearest one.

    Args:
        neighbour_labels: (..., N, k) class indices, the nearest first.
        n_classes: C.

    Returns:
        (..., N) class indices.
    """
    counts = (neighbour_labels[..., None] == np.arange(n_classes)).sum(axis=-2)
    votes = np.take_along_axis(counts, neighbour_labels, axis=-1)
    winner = votes.argmax(axis=-1)  # the first of the largest
    return np.take_along_axis(neighbour_labels, winner[..., None], axis=-1)[..., 0]


def silhouettes(space: Space, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Silhouette of each image (Rousseeuw, J. Comput. Appl. Math. 20, 1987), without its own lesion's other images.

    ``s = (b - a) / max(a, b)`` with ``a`` the mean distance to the images of its class, ``b`` the smallest mean
    distance to those of another class. Where every lesion has one image this is scikit-learn's ``silhouette_samples``.

    Args:
        space: of N images.
        labels: (S, N) class indices: S labellings, measured in one pass.
        n_classes: C.

    Returns:
        (S, N) in [-1, 1]; above 0 = nearer to its own class than to any other; 0 where its class has no other lesion.
    """
    labels = np.atleast_2d(labels)
    of_class = (labels[:, :, None] == np.arange(n_classes)).transpose(1, 0, 2)  # (N, S, C)
    columns = of_class.reshape(len(space), -1).astype(np.float32)
    total = columns.sum(axis=0)
    result = np.zeros(labels.shape)
    for rows, distances, same in space.blocks():
        sums = np.where(same, np.float32(0), distances.astype(np.float32)) @ columns
        counts = total - same.astype(np.float32) @ columns
        with np.errstate(divide="ignore", invalid="ignore"):
            means = np.where(counts > 0.5, sums / counts, np.nan).reshape(len(rows), len(labels), n_classes)
        own = of_class[rows]
        a = np.where(own, means, np.nan)
        b = np.where(own, np.inf, np.where(np.isnan(means), np.inf, means)).min(axis=-1)
        a = np.where(np.isnan(a), -np.inf, a).max(axis=-1)
        defined = np.isfinite(a) & np.isfinite(b) & (np.maximum(a, b) > 0)
        found = np.zeros(a.shape)
        found[defined] = ((b - a) / np.maximum(a, b))[defined]
        result[:, rows] = found.T
    return result
