"""Differences of two models: values by hand, p values against scipy's, intervals that cover as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trainers.evaluation import paired
from trainers.evaluation.sample import Sample
from trainers.metrics.intervals import bootstrap_weights
from trainers.metrics.predictions import Predictions

NAMES = ["nv", "mel", "df"]


def sample(logits, labels, groups=None, names=NAMES) -> Sample:
    """One model's answers; without groups each image is its own lesion."""
    n = len(labels)
    ids = np.array([f"i{k}" for k in range(n)], dtype=object)
    lesions = ids if groups is None else np.array([f"l{g}" for g in groups], dtype=object)
    malignant = {"mel": "malignant"}
    values = np.asarray(logits, dtype=float)[:, None]
    label = np.asarray(labels, dtype=np.int64)
    return Sample.at(Predictions(ids, lesions, lesions, label, values, names, {}, malignant, "test"), 1.0)


def answering(predicted, labels, groups=None, strength=2.0) -> Sample:
    """A model that predicts these classes, all with one confidence."""
    return sample(strength * np.eye(3)[predicted], labels, groups)


def test_metrics_by_hand():
    # Right, right, wrong, right; classes nv nv mel df.
    found = paired.metrics(answering([0, 0, 0, 2], [0, 0, 1, 2]), np.ones((1, 4)), {"mel": 1, "df": 2})
    p = np.exp(2) / (np.exp(2) + 2)
    q = (1 - p) / 2
    assert found["accuracy"] == pytest.approx([0.75])
    assert found["balanced_accuracy"] == pytest.approx([2 / 3])
    assert found["macro_f1"] == pytest.approx([(0.8 + 0 + 1) / 3])
    assert found["nll"] == pytest.approx([-(3 * np.log(p) + np.log(q)) / 4])
    assert found["brier"] == pytest.approx([(3 * ((1 - p) ** 2 + 2 * q**2) + p**2 + (1 - q) ** 2 + q**2) / 4])
    assert found["ece"] == pytest.approx([abs(0.75 - p)])
    assert found["recall mel"] == pytest.approx([0.0])
    assert found["recall df"] == pytest.approx([1.0])
    # mel has probability q everywhere: all ties.
    assert found["auroc_malignant"] == pytest.approx([0.5])


def test_a_side_is_the_mean_over_its_models():
    labels = [0, 0, 1, 1]
    models = [answering([0, 0, 1, 1], labels), answering([0, 0, 1, 0], labels), answering([1, 0, 0, 0], labels)]
    weights = bootstrap_weights(models[0].groups, models[0].labels, 40, seed=1)
    drawn = paired.draw(models, weights)["accuracy"]
    assert drawn.each.tolist() == [1.0, 0.75, 0.25]
    assert drawn.value == pytest.approx(2 / 3)
    alone = [paired.draw([one], weights)["accuracy"].resampled for one in models]
    assert drawn.resampled == pytest.approx(np.mean(alone, axis=0))


def test_resamples_of_ece_are_centred_and_others_are_not(make_predictions):
    one = Sample.at(make_predictions(60), 1.0)
    drawn = paired.draw([one], bootstrap_weights(one.groups, one.labels, 200, seed=0))
    for name in paired.CENTRED:
        assert drawn[name].resampled.mean() == pytest.approx(drawn[name].value)
    weights = bootstrap_weights(one.groups, one.labels, 200, seed=0)
    assert drawn["nll"].resampled == pytest.approx(paired.metrics(one, weights)["nll"])


def test_difference_and_relative_change_by_hand():
    a = paired.Drawn(np.array([0.4]), np.linspace(0.3, 0.5, 201))
    b = paired.Drawn(np.array([0.1, 0.5]), np.linspace(0.3, 0.5, 201) - 0.1 + np.linspace(-0.01, 0.01, 201))
    change = paired.difference(a, b)
    assert change["value"] == pytest.approx(-0.1)
    assert (change["low"], change["high"]) == pytest.approx((-0.1095, -0.0905))
    relative = paired.relative_change(a, b)
    assert relative["value"] == pytest.approx(-0.25)
    assert relative["low"] < -0.25 < relative["high"]
    halved = paired.relative_change(a, paired.Drawn(np.array([0.2]), a.resampled**2))
    assert (halved["low"], halved["high"]) == pytest.approx((0.305 - 1, 0.495 - 1))


def test_numbers_without_an_interval_say_why():
    a, b = paired.Drawn(np.array([0.5]), None), paired.Drawn(np.array([0.7]), None)
    assert paired.difference(a, b)["why"] == "no class has two lesions"
    same = paired.Drawn(np.array([0.5]), np.full(9, 0.5))
    assert paired.difference(same, same)["why"] == "the same in every resample"
    missing = paired.Drawn(np.array([np.nan]), np.full(9, np.nan))
    assert paired.difference(missing, a)["value"] is None
    assert paired.relative_change(paired.Drawn(np.zeros(1), np.zeros(9)), same)["why"] == (
        "not defined: the first side's value is 0"
    )


def test_exact_p_by_hand():
    # Three lesions, each decided for b: of 8 exchanges only none and all reach the observed difference of 1.
    labels = [0, 1, 2]
    a, b = answering([1, 2, 0], labels), answering([0, 1, 2], labels)
    swaps = paired.lesion_swaps(a.groups, 100, seed=0)
    assert swaps[1]
    assert sorted(map(tuple, swaps[0].tolist())) == sorted(np.ndindex(2, 2, 2))
    assert paired.swap_test([a], [b], swaps)["accuracy"] == pytest.approx(2 / 8)


def test_images_of_one_lesion_are_exchanged_together():
    labels, groups = [0, 0, 0, 1], [7, 7, 7, 8]
    a, b = answering([1, 1, 1, 0], labels, groups), answering(labels, labels, groups)
    swaps = paired.lesion_swaps(a.groups, 100, seed=0)
    assert len(swaps[0]) == 4
    assert (swaps[0][:, :3] == swaps[0][:, :1]).all()
    assert paired.swap_test([a], [b], swaps)["accuracy"] == pytest.approx(2 / 4)


def test_sides_with_unequal_numbers_of_seeds_by_hand():
    # Lesion by lesion, b's mean gain is 1 and 1/2: the exchanges give (+-1 +- 1/2) / 2, two of four reach 3/4.
    labels = [0, 1]
    a, b = [answering([1, 0], labels)], [answering([0, 1], labels), answering([0, 0], labels)]
    swaps = paired.lesion_swaps(a[0].groups, 100, seed=0)
    assert paired.swap_test(a, b, swaps)["accuracy"] == pytest.approx(2 / 4)
    assert paired.swap_test(b, a, swaps)["accuracy"] == pytest.approx(2 / 4)


def test_p_of_accuracy_equals_exact_mcnemar_on_independent_images():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 11)
    for seed in range(5):
        guesses = np.random.default_rng(seed).integers(0, 3, (2, 11))
        a, b = (answering(guess, labels) for guess in guesses)
        found = paired.swap_test([a], [b], paired.lesion_swaps(a.groups, 2**11, seed=0))["accuracy"]
        assert found == pytest.approx(paired.mcnemar(a.correct, b.correct)["p"])


def test_p_of_nll_equals_scipys_permutation_test():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 10)
    a, b = (sample(rng.normal(size=(10, 3)), labels) for _ in range(2))
    losses = [-one.log_probs[np.arange(10), labels] for one in (a, b)]
    expected = stats.permutation_test(
        losses, lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    found = paired.swap_test([a], [b], paired.lesion_swaps(a.groups, 2**10, seed=0))["nll"]
    assert found == pytest.approx(expected)


def test_random_exchanges_come_near_the_exact_p_and_are_never_zero():
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 3, 12)
    a, b = (sample(rng.normal(size=(12, 3)), labels) for _ in range(2))
    exact = paired.swap_test([a], [b], paired.lesion_swaps(a.groups, 2**12, seed=0))
    drawn, every = paired.lesion_swaps(a.groups, 4000, seed=0)
    assert not every
    near = paired.swap_test([a], [b], (drawn, every))
    for name in paired.METRICS:
        assert near[name] == pytest.approx(exact[name], abs=0.03)
    sure = answering(labels, labels, strength=9.0), answering((labels + 1) % 3, labels, strength=9.0)
    few = paired.swap_test([sure[0]], [sure[1]], (drawn[:99] * 0 + np.arange(12) % 2, False))
    assert few["accuracy"] == pytest.approx(1 / 100)


def test_p_of_auroc_does_not_see_the_scale():
    rng = np.random.default_rng(2)
    labels, names = rng.integers(0, 2, 80), ["nv", "mel"]
    logits = rng.normal(size=(2, 80, 2)) + np.eye(2)[labels]
    a, b, sharp = (sample(values, labels, names=names) for values in (logits[0], logits[1], 5 * logits[1]))
    swaps = paired.lesion_swaps(a.groups, 400, seed=0)
    plain, scaled = paired.swap_test([a], [b], swaps), paired.swap_test([a], [sharp], swaps)
    assert plain["auroc_malignant"] == scaled["auroc_malignant"]
    assert plain["nll"] != scaled["nll"]


def test_the_paired_interval_equals_scipys():
    rng = np.random.default_rng(6)
    labels = np.zeros(150, dtype=int)
    common = rng.normal(size=(150, 3))
    a, b = (sample(common + 0.5 * rng.normal(size=(150, 3)), labels) for _ in range(2))
    weights = bootstrap_weights(a.groups, labels, 4000, seed=0)
    found = paired.difference(paired.draw([a], weights)["nll"], paired.draw([b], weights)["nll"])
    gaps = a.log_probs[:, 0] - b.log_probs[:, 0]
    expected = stats.bootstrap((gaps,), np.mean, n_resamples=4000, method="percentile", random_state=1)
    assert found["value"] == pytest.approx(gaps.mean(), abs=1e-6)
    assert found["low"] == pytest.approx(expected.confidence_interval.low, abs=0.01)
    assert found["high"] == pytest.approx(expected.confidence_interval.high, abs=0.01)


def rejections(by_lesion: bool, runs: int = 250) -> tuple[float, float]:
    """Two equally good models on 50 lesions of 1 to 4 like images: how often p <= 0.05, and the interval holds 0."""
    rejected = held = 0
    for run in range(runs):
        rng = np.random.default_rng([41, run])
        label = rng.integers(0, 3, 50)
        lesion = np.repeat(np.arange(50), rng.integers(1, 5, 50))
        models = []
        for _ in range(2):
            logits = 1.5 * np.eye(3)[label][lesion] + rng.normal(size=(50, 3))[lesion]
            models.append(sample(logits + 0.3 * rng.normal(size=logits.shape), label[lesion], lesion))
        a, b = models
        units = a.groups if by_lesion else np.arange(len(lesion)).astype(str)
        rejected += paired.swap_test([a], [b], paired.lesion_swaps(units, 99, run))["nll"] <= 0.05
        weights = bootstrap_weights(units, a.labels, 99, run)
        change = paired.difference(paired.draw([a], weights)["nll"], paired.draw([b], weights)["nll"])
        held += change["low"] <= 0 <= change["high"]
    return rejected / runs, held / runs


def test_by_lesion_the_errors_are_as_rare_as_they_say_and_by_image_they_are_not():
    # Binomial spread over 250 runs is 0.014 at 0.05.
    rejected, held = rejections(by_lesion=True)
    assert 0.015 < rejected < 0.09
    assert held > 0.89
    rejected, held = rejections(by_lesion=False)
    assert rejected > 0.12
    assert held < 0.85


def test_share_of_gain_by_hand():
    noise = np.linspace(-0.02, 0.02, 101)
    base = paired.Drawn(np.array([0.5]), 0.5 + noise)
    full = paired.Drawn(np.array([0.7]), 0.7 - noise)
    partial = paired.Drawn(np.array([0.65]), 0.65 + noise)
    found = paired.share_of_gain(base, partial, full)
    assert found["gain"]["value"] == pytest.approx(0.2)
    assert found["partial_gain"]["value"] == pytest.approx(0.15)
    # 0.15 / (0.2 - 2 noise), noise at its 2.5 and 97.5 % points.
    assert found["share"]["value"] == pytest.approx(0.75)
    ends = (found["share"]["low"], found["share"]["high"])
    assert ends == pytest.approx((0.15 / 0.238, 0.15 / 0.162), abs=1e-3)


def test_a_share_of_nothing_is_not_defined():
    noise = np.linspace(-0.2, 0.2, 101)
    base, full = paired.Drawn(np.array([0.5]), 0.5 + noise), paired.Drawn(np.array([0.55]), 0.55 - noise)
    found = paired.share_of_gain(base, full, full)
    assert found["gain"]["low"] < 0 < found["gain"]["high"]
    assert found["share"] == {"value": None, "why": "not defined: the interval of the gain contains 0"}
    assert "no interval" in paired.share_of_gain(base, full, paired.Drawn(np.array([0.6]), None))["share"]["why"]


def test_mcnemar_by_hand():
    a = np.array([1, 1, 0, 0, 0, 0, 0, 0, 1, 0], dtype=bool)
    b = np.array([1, 0, 1, 1, 1, 1, 1, 0, 1, 0], dtype=bool)
    found = paired.mcnemar(a, b)
    # 1 against 5 of 6: 2 (1 + 6) / 64.
    assert found.pop("p") == pytest.approx(14 / 64)
    assert found == {"n": 10, "both": 2, "only_a": 1, "only_b": 5, "neither": 2}
    assert paired.mcnemar(a, a)["p"] == 1.0
    with pytest.raises(ValueError, match="both models'"):
        paired.mcnemar(a, b[:3])


def test_one_image_a_lesion_is_the_first_by_its_id():
    groups = np.array(["x", "y", "x", "y", "z"])
    ids = np.array(["i5", "i1", "i2", "i3", "i4"])
    assert paired.one_per_lesion(groups, ids).tolist() == [1, 2, 4]


def test_spread_by_hand():
    assert paired.spread([1.0, np.nan, 2.0, 4.5]) == {
        "mean": 2.5,
        "sd": pytest.approx(np.sqrt((1.5**2 + 0.5**2 + 2**2) / 2), abs=1e-6),
        "min": 1.0,
        "max": 4.5,
        "n": 3,
    }
    assert paired.spread([0.5])["sd"] is None
    assert paired.spread([np.nan]) == {"mean": None, "sd": None, "min": None, "max": None, "n": 0}
