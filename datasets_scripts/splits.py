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
# The config of the splits that a user's own dataset has.
GIVEN = "given"
# The config for a model that is to be published: more images to train on, fewer to measure on.
RELEASE = "release"
MIN_PUBLISHED_PER_CLASS = 10
# Split -> its share in base folds, twentieths of all images.
SHARES = {"train": 12, "validation": 2, "calibration": 3, "test": 3}
# What `datasets` also takes for a split's name.
OTHER_SPLIT_NAMES = {
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
# Base folds in an order in which any few neighbours are of several splits, for classes of few images.
_DEALT = (0, 17, 1, 12, 2, 14, 3, 18, 4, 5, 15, 6, 13, 7, 19, 8, 9, 16, 10, 11)


class FastStratifiedGroupKFold(StratifiedGroupKFold):
    """scikit-learn's, with the same folds in a fifteenth of the time: a group's folds are compared in one array."""

    def _find_best_fold(self, y_counts_per_fold: np.ndarray, y_cnt: np.ndarray, group_y_counts: np.ndarray) -> int:
        """The fold that a group joins, as scikit-learn chooses it.

        Args:
            y_counts_per_fold: (F, C) images of each class so far.
            y_cnt: (C,) of the whole dataset.
            group_y_counts: (C,) of the group.
        """
        folds = np.arange(self.n_splits)
        joined = np.repeat(y_counts_per_fold[None], self.n_splits, axis=0)
        joined[folds, folds] += group_y_counts
        spreads = np.std(joined / y_cnt, axis=1).mean(axis=1)
        best, least, smallest = 0, np.inf, np.inf
        for fold, (spread, size) in enumerate(
            zip(spreads.tolist(), y_counts_per_fold.sum(axis=1).tolist(), strict=True)
        ):
            alike = abs(spread - least) <= 1e-8 + 1e-5 * least  # numpy.isclose
            if spread < least or (alike and size < smallest):
                best, least, smallest = fold, spread, size
        return best


def split_named(name: str) -> str | None:
    """The split of this name in any capitals, ``validation`` of ``Val``; None where it is none."""
    usual = OTHER_SPLIT_NAMES.get(name.lower(), name.lower())
    return usual if usual in SPLITS else None


def base_folds(labels: Sequence[str], groups: Sequence[str], seed: int) -> np.ndarray:
    """Assign groups to twenty folds of similar class shares; no group is in two.

    Each class has an image in the folds 0 to 11, those of the train split.

    Args:
        labels: N class names.
        groups: N group ids.
        seed: of the shuffle.

    Returns:
        (N,) int in 0..19.

    Raises:
        UserError: fewer than twenty groups.
    """
    n_groups = len(set(groups))
    if n_groups < N_BASE_FOLDS:
        raise UserError(
            f"{len(labels)} images of {n_groups} lesions (or other groups that must not be split): the splits need "
            f"{N_BASE_FOLDS} at least; give more images"
        )
    if max(Counter(labels).values()) < N_BASE_FOLDS:
        folds = _dealt(labels, groups, seed)
    else:
        folds = np.full(len(labels), -1)
        splitter = FastStratifiedGroupKFold(N_BASE_FOLDS, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            # A class with fewer images than folds is normal here; the audit reports which split lacks which class.
            warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
            for number, (_, members) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
                folds[members] = number
    return _every_class_in_train(folds, labels, groups)


def _dealt(labels: Sequence[str], groups: Sequence[str], seed: int) -> np.ndarray:
    """Base folds (N,) where no class has as many images as there are folds: the groups of each class in turn."""
    first: dict[str, str] = {}
    for label, group in zip(labels, groups, strict=True):
        first.setdefault(group, label)
    names = list(first)
    shuffled = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    order = sorted(shuffled, key=first.__getitem__)
    fold_of = {group: _DEALT[place % N_BASE_FOLDS] for place, group in enumerate(order)}
    return np.array([fold_of[group] for group in groups])


def _every_class_in_train(folds: np.ndarray, labels: Sequence[str], groups: Sequence[str]) -> np.ndarray:
    """The same base folds (N,); of a class that has no image in train its smallest group is moved there."""
    folds = folds.copy()
    names, of_group, size = np.asarray(labels, object), np.asarray(groups, object), Counter(groups)
    for label in sorted(set(labels) - set(names[folds < SHARES["train"]])):
        group = min(set(of_group[names == label]), key=lambda group: (size[group], group))
        folds[of_group == group] = np.argmin(np.bincount(folds, minlength=N_BASE_FOLDS)[: SHARES["train"]])
    return folds


def dealt_splits(
    image_ids: Sequence[str], labels: Sequence[str], groups: Sequence[str], lacking: Sequence[str], seed: int
) -> list[str]:
    """The split of each image of a train split that also has to give the splits which are lacking.

    Stratified by class, groups whole, dealt in the order of image ids, so that every copy of a dataset gets the same.

    Args:
        image_ids, labels, groups: N each.
        lacking: of :data:`SPLITS`, in that order; the shares are those of :data:`SHARES`, of these and train.
        seed: of the shuffle.

    Raises:
        UserError: as :func:`base_folds`.
    """
    order = sorted(range(len(labels)), key=lambda row: image_ids[row])
    folds = np.empty(len(labels), dtype=int)
    folds[order] = base_folds([labels[row] for row in order], [groups[row] for row in order], seed)
    whole = sum(SHARES[split] for split in ("train", *lacking))
    result, rest = ["train"] * len(labels), N_BASE_FOLDS
    for split in reversed(lacking):
        share = max(1, round(N_BASE_FOLDS * SHARES[split] / whole))
        for row in np.flatnonzero((folds >= rest - share) & (folds < rest)):
            result[row] = split
        rest -= share
    return result


def grouped_configs() -> dict[str, dict[str, list[int]]]:
    """Config -> split -> base folds: ``grouped`` (60/10/15/15 %), ``release`` (75/5/10/10 %), ``fold0`` to ``fold4``.

    The tests of the folds are disjoint. The calibration and test splits of ``release`` are in those of ``grouped``, so
    that models of both can be compared on images that neither was trained on.
    """
    configs = {
        "grouped": {
            "train": list(range(12)),
            "validation": [12, 13],
            "calibration": [14, 15, 16],
            "test": [17, 18, 19],
        },
        RELEASE: {
            "train": list(range(15)),
            "validation": [15],
            "calibration": [16, 17],
            "test": [18, 19],
        },
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
