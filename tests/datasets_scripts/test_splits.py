from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from datasets_scripts.command import UserError
from datasets_scripts.splits import N_FOLDS, FastStratifiedGroupKFold, base_folds, grouped_configs, random_stratified


def lesions(n: int = 600, seed: int = 0) -> tuple[list[str], list[str]]:
    """Labels and groups of n images: 1 to 5 images a lesion, classes 80/15/5 %."""
    rng = random.Random(seed)
    labels: list[str] = []
    groups: list[str] = []
    while len(labels) < n:
        label = rng.choices(["nv", "mel", "df"], [80, 15, 5])[0]
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            labels.append(label)
            groups.append(f"g{len(set(groups)) if not _ else len(set(groups)) - 1}")
    return labels, groups


@pytest.fixture(scope="module")
def dealt() -> tuple[list[str], list[str], np.ndarray]:
    labels, groups = lesions()
    return labels, groups, base_folds(labels, groups, seed=42)


@pytest.mark.parametrize("seed", range(4))
def test_the_folds_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 150, 400)
    labels = np.where(rng.random(400) < 0.1, rng.integers(0, 2 + 3 * seed, 400), groups % (2 + 3 * seed))
    options = {"n_splits": 20, "shuffle": True, "random_state": seed}
    own, theirs = (
        [rows.tolist() for _, rows in kind(**options).split(groups, labels, groups)]
        for kind in (FastStratifiedGroupKFold, StratifiedGroupKFold)
    )
    assert own == theirs


def test_no_group_stands_in_two_base_folds(dealt):
    _, groups, folds = dealt
    folds_of: dict[str, set[int]] = {}
    for group, fold in zip(groups, folds.tolist(), strict=True):
        folds_of.setdefault(group, set()).add(fold)
    assert {len(of) for of in folds_of.values()} == {1}
    assert set(folds.tolist()) == set(range(20))


def test_grouped_is_60_10_15_15_in_every_class(dealt):
    labels, _, folds = dealt
    shares = {"train": 0.60, "validation": 0.10, "calibration": 0.15, "test": 0.15}
    count = Counter(labels)
    for split, base in grouped_configs()["grouped"].items():
        members = np.isin(folds, base)
        assert members.mean() == pytest.approx(shares[split], abs=0.02)
        own = Counter(np.array(labels)[members].tolist())
        assert own["nv"] / count["nv"] == pytest.approx(shares[split], abs=0.02)
        assert own["mel"] / count["mel"] == pytest.approx(shares[split], abs=0.05)


def test_every_config_uses_every_base_fold_once():
    for splits in grouped_configs().values():
        assert sorted(fold for base in splits.values() for fold in base) == list(range(20))


def test_release_trains_on_more_and_is_measured_on_what_grouped_held_out(dealt):
    _, groups, folds = dealt
    configs = grouped_configs()
    shares = {"train": 0.75, "validation": 0.05, "calibration": 0.10, "test": 0.10}
    of = {
        config: {split: {groups[i] for i in np.flatnonzero(np.isin(folds, base))} for split, base in splits.items()}
        for config, splits in configs.items()
    }
    for split, base in configs["release"].items():
        assert np.isin(folds, base).mean() == pytest.approx(shares[split], abs=0.02)
    held_out = of["grouped"]["calibration"] | of["grouped"]["test"]
    assert of["release"]["test"] < of["grouped"]["test"]
    assert of["release"]["calibration"] < held_out
    assert of["grouped"]["train"] < of["release"]["train"]


def test_fold_k_is_cut_as_agreed():
    configs = grouped_configs()
    assert configs["fold0"]["test"] == [0, 1, 2, 3]
    assert configs["fold0"]["validation"] == [4, 5]
    assert configs["fold0"]["calibration"] == [6, 7]
    assert configs["fold4"]["test"] == [16, 17, 18, 19]
    assert configs["fold4"]["validation"] == [0, 1]  # cyclic
    assert len(configs["fold4"]["train"]) == 12


def test_the_five_tests_partition_the_data():
    configs = grouped_configs()
    tests = [fold for k in range(N_FOLDS) for fold in configs[f"fold{k}"]["test"]]
    assert sorted(tests) == list(range(20))


def test_base_folds_follow_the_seed():
    labels, groups = lesions(200)
    first = base_folds(labels, groups, 1)
    assert (first == base_folds(labels, groups, 1)).all()
    assert (first != base_folds(labels, groups, 2)).any()


def test_too_few_lesions_are_refused():
    with pytest.raises(UserError, match="19 lesions"):
        base_folds(["nv"] * 38, [f"g{i // 2}" for i in range(38)], 0)


def test_random_stratified_gives_the_published_counts():
    counts = {"nv": 6660, "mel": 1111, "bkl": 1089, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115}
    labels = [label for label, n in counts.items() for _ in range(n)]
    assert len(labels) == 9958
    split = random_stratified(labels, seed=42)
    assert Counter(split) == {"train": 7966, "validation": 996, "test": 996}
    for label, n in counts.items():
        test = sum(1 for own, part in zip(labels, split, strict=True) if own == label and part == "test")
        assert test == pytest.approx(n / 10, abs=1.5)


def test_random_stratified_leaves_unused_rows_out():
    labels = ["nv", "mel"] * 50
    use = [i >= 20 for i in range(100)]
    split = random_stratified(labels, seed=0, use=use)
    assert split[:20] == [None] * 20
    assert Counter(split[20:]) == {"train": 64, "validation": 8, "test": 8}


def test_random_stratified_with_other_shares():
    split = random_stratified(["benign", "malignant"] * 1500, seed=42, held_out=0.3)
    assert Counter(split) == {"train": 2100, "validation": 450, "test": 450}
    with pytest.raises(UserError, match="the published stratified 70/15/15 split needs at least 10"):
        random_stratified(["nv"] * 50 + ["df"] * 3, seed=0, held_out=0.3)


def test_random_stratified_names_the_class_that_is_too_small():
    with pytest.raises(UserError, match="'df' has 3 images"):
        random_stratified(["nv"] * 50 + ["df"] * 3, seed=0)
