"""Exact and near duplicates by content, and the groups that lesions and duplicates form together.

Near duplicates are found by normalised grey correlation of area-averaged thumbnails, which ignores brightness,
contrast and white balance: all pairs at 16x16 under the eight mirrorings and quarter turns give the candidates; a
candidate is accepted when the 32x32 thumbnails agree too, as a whole and in their fine detail alone. The condition on
the detail separates two different lesions of the same shape and place. Measured on HAM10000: of its 105 pairs above
both thresholds one joins two lesion ids, and it is one photo twice (0.998, 0.993); the closest different lesions reach
(0.983, 0.845) and (0.986, 0.724).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

CANDIDATE_CORRELATION = 0.97
CORRELATION = 0.985
DETAIL_CORRELATION = 0.8
# Below this standard deviation (grey levels, 0..255) a thumbnail shows too little to be compared.
FLAT = 2.0
# The order of a sum changes its last digits: no candidate may be lost before both conditions are checked.
_ROUNDING = 0.005
# Principal axes of the first, coarse comparison; entries of its matrix at a time, so many that they stay in the cache.
AXES = 16
_ENTRIES_PER_BLOCK = 2_000_000
_AT_ONCE = 4096


@dataclass(frozen=True)
class Duplicates:
    """Pairs of row numbers (i < j). ``near`` does not repeat what ``exact`` has."""

    exact: list[tuple[int, int]]
    near: list[tuple[int, int]]


def turned(thumbs: np.ndarray, how: int) -> np.ndarray:
    """One of the eight symmetries of the square, ``how`` in 0..7, on (N, S, S)."""
    result = np.rot90(thumbs, how % 4, axes=(1, 2))
    return result[:, :, ::-1] if how >= 4 else result


def reduced(thumbs: np.ndarray) -> np.ndarray:
    """(N, 2S, 2S) -> (N, S, S) float32, area-averaged."""
    n, side = len(thumbs), thumbs.shape[1] // 2
    out = np.empty((n, side, side), dtype=np.float32)
    for start in range(0, n, _AT_ONCE):  # a float copy of all thumbnails would take 4 kB for each
        part = thumbs[start : start + _AT_ONCE]
        out[start : start + _AT_ONCE] = part.reshape(len(part), side, 2, side, 2).astype(np.float32).mean(axis=(2, 4))
    return out


def contrast(thumbs: np.ndarray) -> np.ndarray:
    """Standard deviation of each thumbnail in grey levels: (N, S, S) -> (N,)."""
    parts = (thumbs[start : start + _AT_ONCE] for start in range(0, len(thumbs), _AT_ONCE))
    return np.concatenate([np.zeros(0), *(part.reshape(len(part), -1).std(axis=1) for part in parts)])


def _unit(vectors: np.ndarray) -> np.ndarray:
    """(N, ...) to (N, D) rows of mean 0 and norm 1; a row without contrast becomes 0, so it correlates with nothing."""
    flat = vectors.reshape(len(vectors), math.prod(vectors.shape[1:])).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.einsum("nd,nd->n", flat, flat))[:, None]
    flat /= np.maximum(norms, 1e-3)
    flat[norms[:, 0] <= 1e-3] = 0.0
    return flat


def _detail(thumbs: np.ndarray) -> np.ndarray:
    """What a 5x5 box blur removes, without the border where the blur is not defined: (N, S, S) -> (N, S-4, S-4)."""
    grey = thumbs.astype(np.float32)
    return (grey - uniform_filter(grey, size=(0, 5, 5)))[:, 2:-2, 2:-2]


def _candidates(thumbs: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (how, i, j) blocks, i < j, whose 16x16 thumbnails correlate when the first is turned.

    Unit rows that correlate by c are sqrt(2 - 2c) apart, and a projection onto axes makes no distance larger. So pairs
    that are further apart on the first principal axes are left out, and no other.
    """
    n, small = len(thumbs), reduced(thumbs)
    units = _unit(small)
    axes = np.ascontiguousarray(np.linalg.eigh(units.T @ units)[1][:, -AXES:])
    furthest = 2 - 2 * (CANDIDATE_CORRELATION - _ROUNDING)
    # A product of these rows and columns is minus the squared distance on the axes.
    columns = _with_lengths(units @ axes, first=False).T
    block = max(1, _ENTRIES_PER_BLOCK // max(n, 1))
    for how in tqdm(range(8), desc="comparing images", unit="turn", disable=n < 2_000 or None):
        turned_units = _unit(turned(small, how))
        rows = _with_lengths(turned_units @ axes, first=True)
        for start in range(0, n, block):
            near = rows[start : start + block] @ columns[:, start:]
            i, j = np.divmod(np.flatnonzero(near >= -furthest), n - start)
            i, j = i[i < j] + start, j[i < j] + start
            keep = np.einsum("nd,nd->n", turned_units[i], units[j]) >= CANDIDATE_CORRELATION
            if keep.any():
                yield how, i[keep], j[keep]


def _with_lengths(points: np.ndarray, first: bool) -> np.ndarray:
    """(N, K) to (N, K + 2), so that the product of a first and a second row is minus their squared distance."""
    length, one = -(points**2).sum(axis=1, keepdims=True), np.ones((len(points), 1), points.dtype)
    return np.hstack([points, length, one] if first else [2 * points, one, length])


def near_pairs(thumbs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of thumbnails that show the same image, also mirrored or turned by quarter turns.

    Args:
        thumbs: (N, 32, 32) uint8 grey.
    """
    usable = np.nonzero(contrast(thumbs) >= FLAT)[0]
    thumbs = thumbs if len(usable) == len(thumbs) else thumbs[usable]
    found: set[tuple[int, int]] = set()
    for how, rows_i, rows_j in _candidates(thumbs):
        for start in range(0, len(rows_i), 10_000):
            i, j = rows_i[start : start + 10_000], rows_j[start : start + 10_000]
            first, second = turned(thumbs[i], how), thumbs[j]
            whole = np.einsum("nd,nd->n", _unit(first), _unit(second))
            detail = np.einsum("nd,nd->n", _unit(_detail(first)), _unit(_detail(second)))
            same = (whole >= CORRELATION) & (detail >= DETAIL_CORRELATION)
            found.update(zip(usable[i[same]].tolist(), usable[j[same]].tolist(), strict=True))
    return sorted(found)


def near_to(thumb: np.ndarray, thumbs: np.ndarray) -> np.ndarray:
    """Row numbers (M,) of the thumbnails that show the same image as one thumbnail; as :func:`near_pairs`.

    Args:
        thumb: (32, 32) uint8 grey.
        thumbs: (N, 32, 32) uint8 grey.
    """
    rows, one = _unit(reduced(thumbs)), reduced(thumb[None])
    closest = np.max([rows @ _unit(turned(one, how))[0] for how in range(8)], axis=0)
    candidates = np.flatnonzero(closest >= CANDIDATE_CORRELATION - _ROUNDING)
    pairs = near_pairs(np.concatenate([thumb[None], thumbs[candidates]]))
    return candidates[[second - 1 for first, second in pairs if first == 0]]


def find_duplicates(pixel_hashes: Sequence[str], thumbs: np.ndarray) -> Duplicates:
    """Exact duplicates by their decoded pixels, near ones by :func:`near_pairs`.

    Args:
        pixel_hashes: N hashes of decoded pixels.
        thumbs: (N, 32, 32) uint8 grey.
    """
    same: defaultdict[str, list[int]] = defaultdict(list)
    for number, pixel_hash in enumerate(pixel_hashes):
        same[pixel_hash].append(number)
    exact = sorted((m[a], m[b]) for m in same.values() for a in range(len(m)) for b in range(a + 1, len(m)))
    known = set(exact)
    return Duplicates(exact, [pair for pair in near_pairs(thumbs) if pair not in known])


def group_ids(lesion_ids: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Merge lesions that a duplicate pair connects; a group is named by the first of its lesion ids in sorted order.

    Args:
        lesion_ids: N lesion ids.
        pairs: row numbers of duplicates.
    """
    first_of: dict[str, int] = {}
    edges = [(first_of.setdefault(lesion, number), number) for number, lesion in enumerate(lesion_ids)]
    edges.extend(pairs)
    ends = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    n = len(lesion_ids)
    graph = coo_matrix((np.ones(len(ends), dtype=np.int8), (ends[:, 0], ends[:, 1])), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    for part, lesion in zip(component.tolist(), lesion_ids, strict=True):
        names[part] = min(names.get(part, lesion), lesion)
    return [names[part] for part in component.tolist()]
