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
    names, index = np.unique(np.asarray(group_id).astype(str), return_inverse=True)
    if not len(index):
        raise ValueError("0 images: there is nothing to halve; check the calibration split")
    labels = as_labels(labels, len(index))
    counts = np.zeros((len(names), int(labels.max()) + 1), dtype=int)
    np.add.at(counts, (index, labels), 1)
    class_of_group = counts.argmax(axis=1)
    rng = np.random.default_rng(seed)
    in_first = np.zeros(len(names), dtype=bool)
    for label in np.unique(class_of_group):
        groups = rng.permutation(np.flatnonzero(class_of_group == label))
        in_first[groups[: len(groups) // 2]] = True
    if not in_first.any():
        raise ValueError(
            f"none of the {len(np.unique(class_of_group))} classes has two groups ({len(labels)} images): "
            "a calibration split needs more lesions"
        )
    first = in_first[index]
    return first, ~first


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
