"""The calibration split in two halves: what is tuned on one half may be promised on the other.

A threshold that was chosen on the very images it is tested on promises more than it keeps. The first half fits what
needs no promise (temperature, prior, OOD statistics, the grid of the bands); the second half, unseen by all of that,
carries the conformal quantiles and the bands' tests. Images of one group (a lesion with its near-duplicates) are never
independent, so no group is divided, and promises are made from one image per group.
"""

from __future__ import annotations

import numpy as np

from trainers.metrics.weighting import as_labels


def halve(labels: np.ndarray, group_id: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide images in two halves by group, each class evenly.

    A group's class is its commonest label, the lowest where several are. Within each class the groups are shuffled and
    dealt; of an odd number the second half gets one more, since that is where a class needs enough lesions for a
    quantile of its own. Depends on the ids, not on the order of the rows.

    Args:
        labels: (N,) class indices.
        group_id: (N,) group ids.
        seed: of the shuffle; the same seed gives the same halves.

    Returns:
        ``first`` and ``second``, (N,) bool, each the other's complement; in each class the numbers of groups differ by
        at most one.

    Raises:
        ValueError: no image, lengths that differ, labels that are not integers of at least 0, or no class with two
            groups, which leaves the first half empty.
    """
    first = divide(labels, group_id, 0.5, seed, by_class=True)
    if not first.any():
        raise ValueError(
            f"none of the {len(np.unique(labels))} classes has two groups ({len(first)} images): "
            "a calibration split needs more lesions"
        )
    return first, ~first


def divide(labels: np.ndarray, group_id: np.ndarray, share: float, seed: int, *, by_class: bool = False) -> np.ndarray:
    """Choose a share of the groups, the classes alike; depends on the ids, not on the order of the rows.

    Args:
        labels: (N,) class indices; a group's class is its commonest label, the lowest where several are.
        group_id: (N,) group ids.
        share: of the groups to choose, in [0, 1].
        seed: of the shuffle.
        by_class: round down in each class; False: in all classes together.

    Returns:
        (N,) bool, whole groups.

    Raises:
        ValueError: no image, lengths that differ, or labels that are not integers of at least 0.
    """
    names, index = np.unique(np.asarray(group_id).astype(str), return_inverse=True)
    if not len(index):
        raise ValueError("0 images: there is nothing to halve; check the calibration split")
    labels = as_labels(labels, len(index))
    counts = np.zeros((len(names), int(labels.max()) + 1), dtype=int)
    np.add.at(counts, (index, labels), 1)
    class_of_group = counts.argmax(axis=1)
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(np.flatnonzero(class_of_group == label)) for label in np.unique(class_of_group)]
    chosen = np.zeros(len(names), dtype=bool)
    if by_class:
        for groups in shuffled:
            chosen[groups[: int(len(groups) * share + 1e-9)]] = True
    else:  # every (1 / share)-th group of a list of all, class by class
        steps = np.floor(np.arange(len(names) + 1) * share + 1e-9)
        chosen[np.concatenate(shuffled)] = np.diff(steps) > 0
    return chosen[index]


def one_per_group(group_id: np.ndarray, seed: int) -> np.ndarray:
    """Draw one image of each group, each of its images with the same chance.

    Args:
        group_id: (N,) group ids.
        seed: of the draw; the same seed and order of rows give the same images.

    Returns:
        (G,) ascending row indices.

    Raises:
        ValueError: no image.
    """
    group_id = np.asarray(group_id).astype(str)
    if not group_id.size:
        raise ValueError("0 images: there is no group to draw from; check the calibration split")
    order = np.random.default_rng(seed).permutation(len(group_id))
    _, first_seen = np.unique(group_id[order], return_index=True)
    return np.sort(order[first_seen])
