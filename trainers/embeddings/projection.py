"""A map of a space: t-SNE, and how far the map keeps who is near whom."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

from datasets_scripts.command import UserError
from trainers.embeddings.neighbours import Space, find_neighbours
from trainers.metrics.number import plain

COMPONENTS = 50  # as van der Maaten and Hinton did before t-SNE: less noise, and quicker
EVALUATED_NEIGHBOURS = 15
ITERATIONS = 1000


@dataclass(frozen=True)
class Map:
    """A space in two dimensions.

    Attributes:
        points: (N, 2) float32.
        numbers: ``{"method", "perplexity", "seed", "components", "variance_kept", "kl_divergence", "neighbours",
            "trustworthiness", "neighbours_kept", "neighbours_kept_by_chance"}``; ``neighbours`` is the number the last
            three look at.
    """

    points: np.ndarray
    numbers: dict[str, Any]


def check_perplexity(perplexity: float, n: int, split: str) -> None:
    """Refuse a perplexity that t-SNE cannot reach.

    Args:
        perplexity: the effective number of neighbours.
        n: images of the split.
        split: its name, for the message.

    Raises:
        UserError: not a number from 1 to below n.
    """
    if not (math.isfinite(perplexity) and 1 <= perplexity < n):
        raise UserError(
            f"--perplexity {perplexity:g} does not go with the {n} images of {split}: choose from 1 to below {n}; 5 to "
            "50 is usual"
        )


def draw_map(space: Space, perplexity: float, seed: int, iterations: int = ITERATIONS) -> Map:
    """t-SNE (van der Maaten, Hinton, JMLR 9, 2008; Barnes-Hut) of the first 50 principal components.

    Trustworthiness (Venna, Kaski, ICANN 2001) is 1 where no image is among another's 15 nearest on the map without
    being near it in the space; 0.5 is what a random map gets. ``neighbours_kept`` is the share of an image's 15 nearest
    in the space that are among its 15 nearest on the map. Both see the space itself, not its principal components.

    Args:
        space: of N images.
        perplexity: below N.
        seed: of the optimisation; the same seed gives the same map on the same machine.
        iterations: of the optimisation; at least 250.
    """
    n = len(space)
    check_perplexity(perplexity, n, "this space")
    parts = min(COMPONENTS, n - 1, space.vectors.shape[1])
    reduced = PCA(parts, random_state=seed)
    components = reduced.fit_transform(space.vectors.astype(np.float64))
    drawer = TSNE(
        2, perplexity=perplexity, init="pca" if parts >= 2 else "random", max_iter=iterations, random_state=seed
    )
    points = drawer.fit_transform(components).astype(np.float32)
    k = min(EVALUATED_NEIGHBOURS, max(1, n // 2 - 1))
    return Map(
        points,
        {
            "method": f"t-SNE (scikit-learn, Barnes-Hut), {iterations} iterations",
            "perplexity": plain(perplexity),
            "seed": seed,
            "components": parts,
            "variance_kept": plain(float(reduced.explained_variance_ratio_.sum())),
            "kl_divergence": plain(float(drawer.kl_divergence_)),
            "neighbours": k,
            "trustworthiness": plain(float(trustworthiness(space.vectors, points, n_neighbors=k, metric=space.metric))),
            "neighbours_kept": plain(neighbours_kept(space, points, k)),
            "neighbours_kept_by_chance": plain(k / (n - 1)),
        },
    )


def neighbours_kept(space: Space, points: np.ndarray, k: int) -> float:
    """Share of the k nearest images in the space that are among the k nearest on the map, in [0, 1]."""
    alone = np.arange(len(space))
    there = find_neighbours(Space(space.vectors, space.metric, alone), k).nearest
    here = find_neighbours(Space.of(points, alone, "euclidean"), k).nearest
    return float(np.mean([len(np.intersect1d(one, other)) / k for one, other in zip(there, here, strict=True)]))
