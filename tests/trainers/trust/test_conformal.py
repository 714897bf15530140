"""Conformal thresholds: by hand, against crepes, and over 2,000 calibrations against the exact law of coverage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from crepes import ConformalClassifier
from scipy.stats import beta, kstest

from hub_models.trust_lesion import conformal_scores, prediction_sets
from trainers.trust.conformal import (
    ConformalFitWarning,
    fit_conformal,
    least_n,
    quantile,
    quantile_rank,
)

DRAWS = 2000
GROUPS = {"nv": "benign", "df": "benign", "vasc": "benign", "mel": "malignant", "akiec": "premalignant"}


def drawn(counts: dict[str, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Probabilities, labels and names; the first class is the commonest answer."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    probs = rng.dirichlet(np.ones(len(counts)), len(labels)) + np.eye(len(counts))[labels]
    return probs / 2, labels, list(counts)


@pytest.mark.parametrize(
    ("n", "alpha", "rank"),
    [
        (9, 0.1, 9),
        (19, 0.1, 18),
        (20, 0.1, 19),
        (8, 0.1, 9),
        (0, 0.1, 1),
        (149, 0.18, 123),
        (19, 1 - 0.9, 18),
        (4, 0.5, 3),
    ],
)
def test_the_rank_in_whole_numbers(n, alpha, rank):
    # (149 + 1)(1 - 0.18) is 123.00000000000001 in floating point, and would be rounded up to 124.
    assert quantile_rank(n, alpha) == rank


def test_the_fewest_lesions_with_a_finite_threshold():
    assert [least_n(alpha) for alpha in (0.1, 0.05, 0.2, 0.3)] == [9, 19, 4, 3]
    assert quantile(np.arange(9.0), 0.1) == 8.0
    assert quantile(np.arange(8.0), 0.1) == math.inf


def test_quantiles_by_hand():
    scores = np.array([0.3, 0.1, 0.9, 0.5, 0.7])
    # k = ceil(6 * 0.8) = 5, ceil(6 * 0.5) = 3, ceil(6 * 0.75) = 5, ceil(6 * 0.9) = 6 > 5.
    assert [quantile(scores, alpha) for alpha in (0.2, 0.5, 0.25, 0.1)] == [0.9, 0.5, 0.9, math.inf]


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
@pytest.mark.parametrize("alpha", [0.1, 0.25])
def test_marginal_sets_equal_those_of_crepes(method, alpha):
    probs, labels, names = drawn({"nv": 61, "mel": 30, "df": 12})
    test, _, _ = drawn({"nv": 40, "mel": 40, "df": 40}, seed=1)
    fit = fit_conformal(probs, labels, names, GROUPS, method, class_conditional=False, alpha=alpha)
    scores = conformal_scores(torch.from_numpy(test), method)
    peer = ConformalClassifier()
    peer.fit(conformal_scores(torch.from_numpy(probs), method).numpy()[np.arange(len(labels)), labels])
    # A class is in the set when its p-value exceeds alpha.
    expected = peer.predict_p(scores.numpy(), smoothing=False) > alpha
    assert prediction_sets(scores, fit.qhat.tolist()).tolist() == expected.tolist()
    assert 0 < expected.mean() < 1


@pytest.mark.parametrize("method", ["lac", "aps", "raps"])
def test_class_conditional_sets_equal_those_of_crepes(method):
    probs, labels, names = drawn({"nv": 90, "mel": 33, "akiec": 12})
    test, _, _ = drawn({"nv": 40, "mel": 40, "akiec": 40}, seed=1)
    fit = fit_conformal(probs, labels, names, GROUPS, method)
    scores = conformal_scores(torch.from_numpy(test), method)
    own = conformal_scores(torch.from_numpy(probs), method).numpy()[np.arange(len(labels)), labels]
    peer = ConformalClassifier()
    peer.fit(own, bins=labels)
    p_values = np.column_stack(
        [
            peer.predict_p(scores.numpy()[:, [c]], bins=np.full(len(test), c), smoothing=False)[:, 0]
            for c in range(len(names))
        ]
    )
    assert prediction_sets(scores, fit.qhat.tolist()).tolist() == (p_values > 0.1).tolist()
    assert 0 < (p_values > 0.1).mean() < 1


def test_small_classes_share_a_named_pool():
    probs, labels, names = drawn({"nv": 40, "df": 6, "mel": 9, "vasc": 4})
    fit = fit_conformal(probs, labels, names, GROUPS)
    pool = "small classes: df, vasc"
    assert fit.groups == {"nv": "nv", "df": pool, "mel": "mel", "vasc": pool}
    assert fit.n == {"nv": 40, pool: 10, "mel": 9}
    assert fit.without_own_promise == ["df", "vasc"]
    assert fit.malignant_without_own_promise == []
    own = (1 - probs)[np.arange(len(labels)), labels]
    # Nine lesions of mel: the ninth of nine; ten of the pool: ceil(11 * 0.9) = 10, the tenth of ten.
    assert fit.qhat[2] == own[labels == 2].max()
    assert fit.qhat[1] == fit.qhat[3] == own[np.isin(labels, [1, 3])].max()
    assert fit.qhat[0] == np.sort(own[labels == 0])[36]


def test_a_class_of_three_lesions_alone_takes_the_quantile_of_all():
    probs, labels, names = drawn({"nv": 40, "mel": 20, "akiec": 3, "df": 0})
    fit = fit_conformal(probs, labels, names, GROUPS)
    own = (1 - probs)[np.arange(len(labels)), labels]
    assert fit.groups == {"nv": "nv", "mel": "mel", "akiec": "all classes", "df": "all classes"}
    assert fit.n == {"nv": 40, "mel": 20, "all classes": 63}
    assert fit.qhat[2] == fit.qhat[3] == np.sort(own)[quantile_rank(63, 0.1) - 1]
    assert fit.without_own_promise == ["akiec", "df"]
    assert fit.malignant_without_own_promise == ["akiec"]


def test_one_threshold_for_all_promises_no_class_its_own():
    probs, labels, names = drawn({"nv": 40, "mel": 20})
    fit = fit_conformal(probs, labels, names, GROUPS, class_conditional=False)
    assert fit.n == {"all classes": 60}
    assert fit.without_own_promise == ["nv", "mel"]
    assert fit.qhat[0] == fit.qhat[1]


def test_too_few_lesions_in_all_give_full_sets_and_say_so():
    probs, labels, names = drawn({"nv": 5, "mel": 3})
    with pytest.warns(ConformalFitWarning, match="8 lesions are fewer than the 9 that alpha 0.1 needs"):
        fit = fit_conformal(probs, labels, names, GROUPS)
    assert fit.as_config()["qhat"] == [None, None]
    assert prediction_sets(torch.zeros(2, 2), fit.as_config()["qhat"]).all()


def test_the_config_is_json():
    probs, labels, names = drawn({"nv": 30, "mel": 3})
    found = fit_conformal(probs, labels, names, GROUPS, "raps", settings={"penalty": 0.2}).as_config()
    assert json.loads(json.dumps(found)) == found
    assert found["settings"] == {"penalty": 0.2, "k_reg": 2}
    assert fit_conformal(probs, labels, names, GROUPS).as_config()["settings"] == {}
    assert found["alpha"] == 0.1


def binary(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities of two classes whose lac score of the true class is given."""
    return np.where(labels[:, None] == np.arange(2), 1 - scores[:, None], scores[:, None])


@pytest.mark.parametrize("n", [20, 50, 500])
def test_coverage_over_many_calibrations_follows_the_exact_law(n):
    """Uniform scores: the true coverage of a threshold is the threshold itself, Beta(k, n + 1 - k) over many fits."""
    rng = np.random.default_rng(n)
    labels = np.arange(n) % 2
    coverage = np.array(
        [
            fit_conformal(binary(rng.random(n), labels), labels, ["a", "b"], {}, class_conditional=False).qhat[0]
            for _ in range(DRAWS)
        ]
    )
    k = math.ceil((n + 1) * 0.9 - 1e-9)
    law = beta(k, n + 1 - k)
    assert kstest(coverage, law.cdf).pvalue > 0.01
    assert coverage.mean() == pytest.approx(k / (n + 1), abs=4 * law.std() / math.sqrt(DRAWS))
    assert np.quantile(coverage, [0.05, 0.5, 0.95]) == pytest.approx(law.ppf([0.05, 0.5, 0.95]), abs=0.25 * law.std())


def test_each_class_follows_the_law_of_its_own_number():
    """Class a scores uniformly, class b by a square root: coverage of b is qhat squared; 50 and 20 lesions."""
    rng = np.random.default_rng(7)
    labels = np.repeat([0, 1], [50, 20])
    fits = []
    for _ in range(DRAWS):
        scores = rng.random(70)
        scores[50:] = np.sqrt(scores[50:])
        fits.append(fit_conformal(binary(scores, labels), labels, ["a", "b"], {}).qhat)
    qhat = np.array(fits)
    for coverage, n, k in ((qhat[:, 0], 50, 46), (qhat[:, 1] ** 2, 20, 19)):
        assert kstest(coverage, beta(k, n + 1 - k).cdf).pvalue > 0.01
        assert coverage.mean() > 0.9


def test_the_plain_quantile_covers_too_little():
    """Why not ``np.quantile``: at n = 20 it covers 0.86 where 0.90 is promised."""
    scores = np.random.default_rng(0).random((DRAWS, 20))
    assert np.quantile(scores, 0.9, axis=1).mean() < 0.87
    assert np.mean([quantile(row, 0.1) for row in scores]) == pytest.approx(19 / 21, abs=0.005)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, math.nan, math.inf])
def test_alpha_outside_zero_to_one_is_named(alpha):
    probs, labels, names = drawn({"nv": 30, "mel": 10})
    with pytest.raises(ValueError, match=f"alpha {alpha}"):
        fit_conformal(probs, labels, names, GROUPS, alpha=alpha)
    with pytest.raises(ValueError, match=f"alpha {alpha}"):
        quantile(np.arange(5.0), alpha)


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "0 lesions: there is nothing to fit sets on"),
        (np.full((3, 2), 0.5), np.array([0, 1]), r"labels have shape \(2,\) for 3 images"),
        (np.full((2, 3), 1 / 3), np.array([0, 1]), r"shape \(2, 3\) for 2 classes"),
        (np.full((2, 2), 0.5), np.array([0, 2]), r"labels span 0\.\.2; expected 0\.\.1"),
        (np.full((2, 2), 0.5), np.array([0.0, 1.0]), "labels are of type float64"),
        (np.array([[0.5, 0.5], [np.nan, 1.0]]), np.array([0, 1]), "1 of 2 images have a probability that is NaN"),
        (np.array([[3.0, -2.0], [0.0, 1.0]]), np.array([0, 1]), "give softmax, not logits"),
    ],
)
def test_what_cannot_be_fitted_is_named(probs, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_conformal(probs, labels, ["nv", "mel"], GROUPS)


def test_scores_that_have_no_quantile_are_named():
    with pytest.raises(ValueError, match="1 of 3 scores are NaN"):
        quantile(np.array([0.1, np.nan, 0.3]), 0.1)
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        quantile(np.zeros((2, 2)), 0.1)
    with pytest.raises(ValueError, match="n = -1"):
        quantile_rank(-1, 0.1)
