"""Measures of an out-of-distribution score against scikit-learn and by hand; a section that is fit for JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from trainers.evaluation.ood import aupr, auroc, fpr_at_tpr, ood_section


def both(seed: int, n: int = 150, k: int = 60, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Lesion images around 0, ood images around 1."""
    rng = np.random.default_rng(seed)
    scores = np.r_[rng.normal(size=n), rng.normal(1, 1, k)]
    return np.arange(n + k) >= n, np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_areas_agree_with_scikit_learn(seed, ties):
    is_ood, scores = both(seed, ties=ties)
    assert auroc(is_ood, scores) == pytest.approx(roc_auc_score(is_ood, scores))
    assert aupr(is_ood, scores) == pytest.approx(average_precision_score(is_ood, scores))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_weighted_areas_agree_with_scikit_learn(seed, ties):
    is_ood, scores = both(seed, ties=ties)
    weights = np.random.default_rng(seed + 10).integers(0, 4, (5, len(scores)))
    for row, area, precision in zip(
        weights, auroc(is_ood, scores, weights), aupr(is_ood, scores, weights), strict=True
    ):
        assert area == pytest.approx(roc_auc_score(is_ood, scores, sample_weight=row))
        assert precision == pytest.approx(average_precision_score(is_ood, scores, sample_weight=row))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("tpr", [0.5, 0.8, 0.95, 1.0])
def test_fpr_is_the_first_point_of_the_curve_with_lesions_positive(tpr, ties):
    is_ood, scores = both(7, ties=ties)
    wrong, right, _ = roc_curve(~is_ood, -scores, drop_intermediate=False)
    assert fpr_at_tpr(is_ood, scores, tpr) == pytest.approx(wrong[right >= tpr - 1e-12][0])


def test_fpr_by_hand():
    # 20 lesion images score 1..20: 95 % of them lie up to 19.
    scores = np.r_[np.arange(1.0, 21.0), [0.5, 19.0, 19.5, 30.0]]
    is_ood = np.arange(24) >= 20
    assert fpr_at_tpr(is_ood, scores) == pytest.approx(2 / 4)
    assert fpr_at_tpr(is_ood, scores, 1.0) == pytest.approx(3 / 4)


def test_weights_are_counts():
    is_ood, scores = both(3, ties=True)
    weights = np.random.default_rng(0).integers(0, 3, len(scores))
    many = np.repeat(np.arange(len(scores)), weights)
    for metric in (auroc, aupr, fpr_at_tpr):
        assert metric(is_ood, scores, weights=weights[None])[0] == pytest.approx(metric(is_ood[many], scores[many]))


@pytest.mark.parametrize("metric", [auroc, aupr, fpr_at_tpr])
@pytest.mark.parametrize("kept", [True, False])
def test_one_kind_alone_has_no_value(metric, kept):
    is_ood, scores = both(0)
    assert np.isnan(metric(is_ood, scores, weights=(is_ood == kept).astype(float)))


def test_an_impossible_rate_is_named():
    with pytest.raises(ValueError, match=r"true positive rate 0\.0"):
        fpr_at_tpr(*both(0), 0.0)


def test_a_section_by_hand():
    # Ten images of five lesions; lesion a has two images, one of them turned away.
    scores = np.array([0.1, 0.9, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3, 0.4, 0.45])
    groups = np.array(["a", "a", "b", "b", "c", "c", "d", "d", "e", "e"])
    section = ood_section(scores, groups, {"clothing": np.array([0.5, 0.6, 0.3, 2.0])}, 0.45, replicates=200)
    inside = section["in_distribution"]
    assert (inside["n"], inside["n_groups"], inside["accepted"]["value"]) == (10, 5, 0.9)
    assert inside["accepted"]["low"] == pytest.approx(beta.ppf(0.025, 4.5, 1.5), abs=1e-6)
    assert inside["accepted"]["high"] == pytest.approx(beta.ppf(0.975, 5.5, 0.5), abs=1e-6)
    [clothing] = section["sets"]
    assert (clothing["name"], clothing["n"], clothing["n_groups"]) == ("clothing", 4, 4)
    assert clothing["declined"]["value"] == 0.75
    assert clothing["declined"]["low"] == pytest.approx(beta.ppf(0.025, 3, 2), abs=1e-6)
    assert clothing["declined"]["high"] == pytest.approx(beta.ppf(0.975, 4, 1), abs=1e-6)
    assert clothing["share_foreign"] == pytest.approx(4 / 14, abs=1e-6)
    # 0.5 and 0.6 beat nine of ten, 2.0 all, 0.3 beats five and ties with two.
    assert clothing["auroc"]["value"] == pytest.approx((9 + 9 + 10 + 4 + 0.5 * 2) / 40, abs=1e-6)
    assert clothing["fpr_at_95_tpr"]["value"] == 0.75
    assert clothing["auroc"]["low"] <= clothing["auroc"]["value"] <= clothing["auroc"]["high"]


def test_a_section_is_json_and_repeats_with_its_seed():
    is_ood, scores = both(1)
    made = [
        ood_section(
            scores[~is_ood],
            np.arange(150) // 2,
            {"near": scores[is_ood], "none": np.zeros(0)},
            1.0,
            replicates=50,
            seed=seed,
        )
        for seed in (0, 0, 1)
    ]
    assert json.dumps(made[0], allow_nan=False) == json.dumps(made[1])
    assert made[0]["sets"][0]["auroc"] != made[2]["sets"][0]["auroc"]
    assert made[0]["sets"][1]["declined"] == {"value": None, "why": "not defined: no ood image"}
    assert set(made[0]["conventions"]) >= {"auroc", "aupr", "fpr_at_95_tpr"}


def test_groups_of_ood_images_widen_their_intervals():
    is_ood, scores = both(2, k=80)
    ood_rows = scores[is_ood]
    alone, grouped = (
        ood_section(
            scores[~is_ood],
            np.arange(150),
            {"near": np.repeat(ood_rows[:20], 4)},
            0.5,
            ood_groups=groups,
            replicates=400,
        )["sets"][0]
        for groups in (None, {"near": np.repeat(np.arange(20), 4)})
    )
    assert (alone["n_groups"], grouped["n_groups"]) == (80, 20)
    assert alone["declined"]["value"] == grouped["declined"]["value"]
    for name in ("declined", "auroc"):
        assert grouped[name]["high"] - grouped[name]["low"] > 1.3 * (alone[name]["high"] - alone[name]["low"])


def test_perfect_separation_claims_no_interval():
    section = ood_section(np.arange(20.0), np.arange(20), {"far": np.arange(100.0, 140.0)}, 50.0, replicates=50)
    far = section["sets"][0]
    assert (far["auroc"]["value"], far["auroc"]["low"]) == (1.0, None)
    assert far["declined"]["low"] == pytest.approx(0.025 ** (1 / 40), abs=1e-6)


def test_the_bootstrap_covers():
    # Scores N(0, 1) against N(1, 1): AUROC is Phi(1 / sqrt 2) = 0.7602.
    hits = 0
    for seed in range(60):
        is_ood, scores = both(seed + 100, n=80, k=80)
        found = ood_section(scores[~is_ood], np.arange(80), {"x": scores[is_ood]}, 1.0, replicates=200)["sets"][0]
        hits += found["auroc"]["low"] <= 0.7602 <= found["auroc"]["high"]
    assert hits >= 52


@pytest.mark.parametrize(
    ("scores", "groups", "ood", "message"),
    [
        (np.zeros(0), np.zeros(0), {}, "the split holds no image"),
        (np.array([1.0, np.nan]), np.array(["a", "b"]), {}, "the split: 1 of 2 scores are NaN or infinite"),
        (np.zeros(3), np.array(["a", "b"]), {}, "give one group id per score"),
        (np.zeros(1), np.array(["a"]), {"cloth": np.array([np.inf])}, "cloth: 1 of 1 scores"),
    ],
)
def test_what_cannot_be_measured_is_named(scores, groups, ood, message):
    with pytest.raises(ValueError, match=message):
        ood_section(scores, groups, ood, 1.0, replicates=5)
