"""The published random splits, the lesion-grouped split, and five grouped folds.

One ``StratifiedGroupKFold`` of twenty base folds serves every grouped config, so that each image is stored once and a
config is a list of shards.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from datasets_scripts.command import UserError

N_BASE_FOLDS = 20
N_FOLDS = 5
SPLITS = ("train", "validation", "calibration", "test")
PUBLISHED_SPLITS = ("train", "validation", "test")
MIN_PUBLISHED_PER_CLASS = 10


def base_folds(labels: Sequence[str], groups: Sequence[str], seed: int) -> np.ndarray:
    """Assign groups to twenty folds of similar class shares; no group is in two.

    Args:
        labels: N class names.
        groups: N group ids.
        seed: of the shuffle.

    Returns:
        (N,) int in 0..19.

    Raises:
        UserError: fewer than twenty groups, or no class with twenty images.
    """
    n_groups = len(set(groups))
    largest = max(Counter(labels).values(), default=0)
    if n_groups < N_BASE_FOLDS or largest < N_BASE_FOLDS:
        raise UserError(
            f"{len(labels)} images of {n_groups} lesions, {largest} images in the largest class: the grouped splits "
            f"need {N_BASE_FOLDS} lesions and {N_BASE_FOLDS} images in one class at least; give a larger archive"
        )
    folds = np.full(len(labels), -1)
    splitter = StratifiedGroupKFold(N_BASE_FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer images than folds is normal here; the audit reports which split lacks which class.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, members) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
            folds[members] = number
    return folds


def grouped_configs() -> dict[str, dict[str, list[int]]]:
    """Config -> split -> base folds: ``grouped`` (60/10/15/15 %), and ``fold0`` to ``fold4`` with disjoint tests."""
    configs = {
        "grouped": {
            "train": list(range(12)),
            "validation": [12, 13],
            "calibration": [14, 15, 16],
            "test": [17, 18, 19],
        }
    }
    for k in range(N_FOLDS):
        test = list(range(4 * k, 4 * k + 4))
        after = [(4 * (k + 1) + i) % N_BASE_FOLDS for i in range(4)]
        rest = [fold for fold in range(N_BASE_FOLDS) if fold not in test and fold not in after]
        configs[f"fold{k}"] = {"train": rest, "validation": after[:2], "calibration": after[2:], "test": test}
    return configs


def random_stratified(
    labels: Sequence[str], seed: int, use: Sequence[bool] | None = None, held_out: float = 0.2
) -> list[str | None]:
    """A random split stratified by class, without regard to lesions, by two ``train_test_split`` calls as published.

    Args:
        labels: N class names.
        seed: ``random_state`` of both calls.
        use: N flags; rows that are not used are in no split (``None``).
        held_out: share of validation and test together, which are of equal size; 0.2 gives 80/10/10.

    Raises:
        UserError: a class has fewer than ten used images.
    """
    used = np.nonzero(np.ones(len(labels), bool) if use is None else np.asarray(use, bool))[0]
    names = np.asarray(labels, dtype=object)
    for label, count in sorted(Counter(names[used].tolist()).items()):
        if count < MIN_PUBLISHED_PER_CLASS:
            shares = "/".join(f"{100 * share:.0f}" for share in (1 - held_out, held_out / 2, held_out / 2))
            raise UserError(
                f"class {label!r} has {count} images; the published stratified {shares} split needs at least "
                f"{MIN_PUBLISHED_PER_CLASS} of each class: give the whole archive"
            )
    train, rest = train_test_split(used, test_size=held_out, stratify=names[used], random_state=seed)
    validation, test = train_test_split(rest, test_size=0.5, stratify=names[rest], random_state=seed)
    result: list[str | None] = [None] * len(labels)
    for split, members in (("train", train), ("validation", validation), ("test", test)):
        for number in members:
            result[number] = split
    return result
