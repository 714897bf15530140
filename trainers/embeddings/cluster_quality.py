"""How well the classes gather in a space, in numbers, on the vectors themselves and never on a map of them.

Two answers, each beside what labels without any meaning would give: the silhouette, and how well a case's class is
predicted by its nearest cases (k-NN, every lesion held out in turn). Images of one lesion, or near-duplicates of one
image, never count as neighbours of each other: they would make any space look good.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trainers.embeddings.neighbours import Neighbours, Space, find_neighbours, silhouettes, vote
from trainers.metrics import discrimination as dis
from trainers.metrics.intervals import (
    bootstrap_weights,
    can_resample,
    exact_by_lesion,
    group_strata,
    percentile_interval,
    replicate,
)
from trainers.metrics.number import bootstrapped, measured, plain, undefined, without_interval
from trainers.metrics.weighting import mean_defined, weighted_mean

SHUFFLES = 200
# Each costs a pass over all distances.
SHUFFLES_SILHOUETTE = 20


class Evaluated:
    """One space evaluated: its numbers, and what is needed to set two spaces against each other.

    Args:
        vectors: (N, D).
        labels: (N,) class indices, of at least two classes.
        groups: (N,) group ids.
        names: the C class names.
        metric: ``cosine`` or ``euclidean``.
        k: neighbours that vote.
        replicates: resamples behind the intervals.
        seed: of resamples and shuffled labels.

    Attributes:
        numbers: what stands in the report, see :meth:`measure`.
        predicted: (N,) class that the neighbours vote for.

    Raises:
        UserError: k is more than there are images of other lesions.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        labels: np.ndarray,
        groups: np.ndarray,
        names: list[str],
        *,
        metric: str = "cosine",
        k: int = 5,
        replicates: int = 1000,
        seed: int = 0,
    ) -> None:
        self.space = Space.of(vectors, groups, metric)
        self.labels, self.groups, self.names, self.k, self.seed = labels, np.asarray(groups).astype(str), names, k, seed
        self.weights = bootstrap_weights(groups, labels, replicates, seed) if can_resample(groups, labels) else None
        self.neighbours: Neighbours = find_neighbours(self.space, k)
        self.predicted = vote(labels[self.neighbours.nearest], len(names))
        self.numbers = self.measure()

    def measure(self) -> dict[str, Any]:
        """What the report says of a space.

        Returns:
            ``silhouette``: ``mean_over_classes``, ``mean_over_images``, ``by_class``, each with its interval, and
            ``chance``. ``knn``: ``balanced_accuracy`` with its interval, ``chance``, ``accuracy``, and ``recall`` a
            class. ``sibling_first``: of images whose lesion has another image, the share whose nearest of all it is.
            Beside them ``dimensions`` and ``metric``.
        """
        return {
            "dimensions": int(self.space.vectors.shape[1]),
            "metric": self.space.metric,
            "silhouette": self._silhouette(),
            "knn": self._knn(),
            "sibling_first": self._siblings(),
        }

    def confusion(self, weights: np.ndarray | None = None) -> np.ndarray:
        """(C, C), or (R, C, C) for (R, N) weights; rows true, columns as the neighbours vote."""
        return dis.confusion_matrix(self.labels, self.predicted, len(self.names), weights)

    def balanced_accuracies(self) -> np.ndarray | None:
        """(R,) balanced accuracy of the vote in each resample; None where nothing can be resampled."""
        if self.weights is None:
            return None
        return replicate(lambda w: {"it": dis.balanced_accuracy(self.confusion(w))}, self.weights)["it"]

    def _knn(self) -> dict[str, Any]:
        confusion = self.confusion()
        value = float(dis.balanced_accuracy(confusion))
        recalls = {}
        for index, name in enumerate(self.names):
            of = self.labels == index
            if of.any():
                hit = self.predicted[of] == index
                low, high = exact_by_lesion(hit, self.groups[of])
                recalls[name] = {**measured(float(hit.mean()), low, high, "exact by lesion"), "n": int(of.sum())}
            else:
                recalls[name] = undefined("no images")
        present = int((confusion.sum(axis=1) > 0).sum())
        shuffled = self._shuffled(SHUFFLES)
        votes = vote(shuffled[:, self.neighbours.nearest], len(self.names))
        by_chance = np.array(
            [
                dis.balanced_accuracy(dis.confusion_matrix(labels, voted, len(self.names)))
                for labels, voted in zip(shuffled, votes, strict=True)
            ]
        )
        return {
            "k": self.k,
            "held_out": "every lesion in turn: no image of a lesion, or near-duplicate, is its own neighbour",
            "balanced_accuracy": bootstrapped(value, self.balanced_accuracies()),
            "chance": {**_spread(by_chance), "of_any_guess": plain(1 / present)},
            "accuracy": plain(float(dis.accuracy(confusion))),
            "recall": recalls,
        }

    def _silhouette(self) -> dict[str, Any]:
        n = len(self.names)
        values = silhouettes(self.space, self.labels, n)[0]
        of_class = [values[self.labels == index] for index in range(n)]
        macro = float(mean_defined(np.array([part.mean() if len(part) else np.nan for part in of_class])))
        by_class, resampled = {}, np.full((0, n), np.nan)
        if self.weights is not None:
            resampled = replicate(lambda w: {"it": self._class_means(values, w)}, self.weights)["it"]
        for index, name in enumerate(self.names):
            own = float(of_class[index].mean()) if len(of_class[index]) else np.nan
            by_class[name] = undefined("no images") if np.isnan(own) else _around(own, resampled[:, index])
        shuffled = self._shuffled(SHUFFLES_SILHOUETTE)
        by_chance = silhouettes(self.space, shuffled, n)
        means = [
            mean_defined(np.array([row[labels == c].mean() if (labels == c).any() else np.nan for c in range(n)]))
            for row, labels in zip(by_chance, shuffled, strict=True)
        ]
        images = np.zeros(0) if self.weights is None else weighted_mean(values, self.weights)
        return {
            "mean_over_classes": _around(macro, mean_defined(resampled) if len(resampled) else np.zeros(0)),
            "mean_over_images": _around(float(values.mean()), images),
            "chance": _spread(np.array(means)),
            "by_class": by_class,
        }

    def _class_means(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """(R, C) mean of (N,) values over the images of each class, under (R, N) weights."""
        parts = [weighted_mean(values[self.labels == c], weights[:, self.labels == c]) for c in range(len(self.names))]
        return np.stack(parts, axis=-1)

    def _siblings(self) -> dict[str, Any]:
        """Of images whose lesion has another image: how often that one is the nearest of all."""
        first = self.neighbours.sibling_first
        has = ~np.isnan(first)
        if not has.any():
            return undefined("no lesion has two images")
        hit = first[has] > 0.5
        low, high = exact_by_lesion(hit, self.groups[has])
        siblings = np.bincount(self.space.groups)[self.space.groups[has]] - 1
        by_chance = float((siblings / (len(self.labels) - 1)).mean())
        return {
            **measured(float(hit.mean()), low, high, "exact by lesion"),
            "n": int(has.sum()),
            "chance": plain(by_chance),
        }

    def _shuffled(self, times: int) -> np.ndarray:
        """(times, N) labels dealt again over the lesions, each lesion's images keeping one label."""
        index, strata = group_strata(self.groups, self.labels)
        rng = np.random.default_rng([self.seed, 1])
        return np.stack([rng.permutation(strata)[index] for _ in range(times)])


def difference(one: Evaluated, other: Evaluated) -> dict[str, Any]:
    """k-NN balanced accuracy of one space minus another's on the same images, paired by lesion in every resample.

    Returns:
        ``{"value", "low", "high", "method"}``, above 0 where the first is better.
    """
    value = float(dis.balanced_accuracy(one.confusion()) - dis.balanced_accuracy(other.confusion()))
    first, second = one.balanced_accuracies(), other.balanced_accuracies()
    return _around(value, np.zeros(0) if first is None or second is None else first - second)


def _around(value: float, replicates: np.ndarray) -> dict[str, Any]:
    """A value that may be negative, with the percentile interval of its (R,) resamples; R = 0 = it has none."""
    defined = replicates[~np.isnan(replicates)]
    if not len(defined):
        return without_interval(value, "no class has two lesions")
    return measured(value, *percentile_interval(defined), f"bootstrap by lesion, {len(replicates)} resamples")


def _spread(by_chance: np.ndarray) -> dict[str, Any]:
    """Mean and middle 95 % of what shuffled labels gave."""
    low, high = percentile_interval(by_chance)
    return measured(float(by_chance.mean()), low, high, f"{len(by_chance)} times labels dealt again over the lesions")
