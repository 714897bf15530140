"""The gate accepts what it says of images it never saw, is chosen without ood images, and is what ships."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hub_models.ood_lesion import EARLY, UnknownDetectorError, ood_score
from trainers.trust.detectors import DETECTORS, OODFitError, fit_of, score
from trainers.trust.gate import choose, fit_gate
from trainers.trust.held_out import cross_fit, deal_folds, held_out_scores, threshold_at
from trainers.trust.known import Known

WIDTH, CLASSES = 40, 3
SIX = [name for name in DETECTORS if name not in EARLY]  # those that look at features and logits


def images(lesions: int, seed: int, *, own: float = 1.0) -> SimpleNamespace:
    """One to three images per lesion, alike within it; the first ten features tell the classes apart."""
    rng = np.random.default_rng(seed)
    means = np.zeros((CLASSES, WIDTH))
    means[:, :10] = 3 * np.random.default_rng(99).normal(size=(CLASSES, 10))
    lesion = np.repeat(np.arange(lesions), rng.integers(1, 4, lesions))
    label = rng.integers(0, CLASSES, lesions)[lesion]
    features = 6 + means[label] + own * rng.normal(size=(lesions, WIDTH))[lesion]
    features = features + 0.2 * rng.normal(size=features.shape)
    logits = features[:, :10] @ means[:, :10].T / 4 + rng.normal(size=(len(lesion), CLASSES))
    groups = np.array([f"L{index}" for index in lesion])
    return SimpleNamespace(features=features, logits=logits, labels=label, groups=groups)


def of(known: SimpleNamespace) -> tuple[np.ndarray, ...]:
    return known.features, known.logits, known.labels, known.groups


@pytest.fixture(scope="module")
def known() -> SimpleNamespace:
    return images(150, 0)


@pytest.fixture(scope="module")
def perturbed(known) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """One kind that only features tell, one that features and logits tell."""
    rng = np.random.default_rng(5)
    moved = known.features[:80] + 8 * np.eye(WIDTH)[20]
    return {
        "moved": (moved, known.logits[:80]),
        "noise": (known.features[:80] + 6 * rng.normal(size=(80, WIDTH)), known.logits[:80] / 3),
    }


def test_folds_keep_groups_together_and_classes_apart(known):
    fold = deal_folds(known.groups, known.labels, 5, seed=1)
    assert set(fold) == set(range(5))
    for group in np.unique(known.groups):
        assert len(set(fold[known.groups == group])) == 1
    for label in range(CLASSES):
        per_fold = [len(set(known.groups[(fold == number) & (known.labels == label)])) for number in range(5)]
        assert max(per_fold) - min(per_fold) <= 1
    assert (fold == deal_folds(known.groups, known.labels, 5, seed=1)).all()
    assert (fold != deal_folds(known.groups, known.labels, 5, seed=2)).any()
    assert set(deal_folds(np.array(["a", "b", "a"]), np.zeros(3, dtype=int), 5)) == {0, 1}


def test_a_held_out_score_is_that_of_a_fit_without_its_fold(known):
    found = held_out_scores("mahalanobis", *of(known), 1.0, folds=4, seed=3)
    fold = deal_folds(known.groups, known.labels, 4, seed=3)
    for number in range(4):
        others, mine = fold != number, fold == number
        fit = fit_of("mahalanobis")(known.features[others], known.logits[others], known.labels[others], 1.0)
        expected = score("mahalanobis", fit, known.features[mine], known.logits[mine], 1.0)
        assert found[mine] == pytest.approx(expected)


def test_a_perturbed_image_is_scored_by_the_fit_without_it(known):
    fitted = cross_fit("nearest_neighbours", *of(known), 1.0)
    rows = np.array([17, 3, 101])
    again = fitted.score(known.features[rows], known.logits[rows], rows)
    assert again == pytest.approx(fitted.score(known.features, known.logits)[rows])


@pytest.mark.parametrize("name", ["mahalanobis", "nearest_neighbours", "vim"])
def test_scores_of_images_that_were_seen_are_too_small(known, name):
    fit = fit_of(name)(*of(known)[:3], 1.0)
    seen = score(name, fit, known.features, known.logits, 1.0)
    held = held_out_scores(name, *of(known), 1.0)
    fresh = images(600, 1)
    new = score(name, fit, fresh.features, fresh.logits, 1.0)
    assert (new <= threshold_at(held)).mean() == pytest.approx(0.95, abs=0.035)
    assert (new <= threshold_at(seen)).mean() < (new <= threshold_at(held)).mean()


def test_mahalanobis_of_images_that_were_seen_would_turn_away_three_times_too_many(known):
    fit = fit_of("mahalanobis")(*of(known)[:3], 1.0)
    fresh = images(600, 1)
    new = score("mahalanobis", fit, fresh.features, fresh.logits, 1.0)
    threshold = threshold_at(score("mahalanobis", fit, known.features, known.logits, 1.0))
    assert (new > threshold).mean() > 0.15


@pytest.mark.parametrize(
    ("n", "acceptance", "rank"), [(19, 0.95, 19), (20, 0.95, 20), (39, 0.95, 38), (100, 0.95, 96), (9, 0.5, 5)]
)
def test_the_threshold_is_a_rank(n, acceptance, rank):
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    assert threshold_at(scores, acceptance) == rank


def test_the_threshold_accepts_a_new_score_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = [rng.normal() <= threshold_at(rng.normal(size=59), 0.9) for _ in range(4000)]
    assert np.mean(hits) == pytest.approx(0.9, abs=0.015)


@pytest.mark.parametrize(
    ("n", "acceptance", "message"),
    [
        (18, 0.95, "18 calibration images cannot show an acceptance of 0.95: give at least 19"),
        (50, 0.0, "acceptance 0.0: give a share between 0 and 1"),
        (50, 1.0, "acceptance 1.0: give a share between 0 and 1"),
        (50, float("nan"), "acceptance nan"),
        (0, 0.5, "0 calibration images"),
    ],
)
def test_a_threshold_that_cannot_be_had_is_named(n, acceptance, message):
    with pytest.raises(OODFitError, match=message):
        threshold_at(np.arange(float(n)), acceptance)


def test_the_detector_is_the_best_at_recognising_perturbed_images(known, perturbed):
    name, table, fits = choose(SIX, Known(*of(known), 1.0), perturbed, perturbed_rows=np.arange(80))
    means = {detector: row["mean"] for detector, row in table["detectors"].items()}
    assert name == max(means, key=means.get)
    assert name in ("mahalanobis", "nearest_neighbours", "vim")
    assert table["detectors"]["max_softmax"]["auroc"]["moved"] == pytest.approx(0.5, abs=0.1)
    for row in table["detectors"].values():
        assert row["mean"] == pytest.approx(np.mean(list(row["auroc"].values())), abs=1e-6)
    assert table["kinds"] == {"moved": 80, "noise": 80}
    assert set(fits) == set(SIX)
    json.dumps(table, allow_nan=False)


def test_an_auroc_of_the_table_by_hand(known, perturbed):
    _, table, _ = choose(
        ["energy"], Known(*of(known), 1.0), {"noise": perturbed["noise"]}, perturbed_rows=np.arange(80)
    )
    clean = -np.log(np.exp(known.logits).sum(axis=1))
    noisy = -np.log(np.exp(known.logits[:80] / 3).sum(axis=1))
    wins = (noisy[:, None] > clean).mean() + 0.5 * (noisy[:, None] == clean).mean()
    assert table["detectors"]["energy"]["auroc"]["noise"] == pytest.approx(wins, abs=1e-5)


def test_a_tie_goes_to_the_earlier_candidate(known, perturbed):
    far = {"far": (known.features[:9] + 1e4 * np.eye(WIDTH)[30], known.logits[:9])}
    assert choose(["vim", "mahalanobis"], Known(*of(known), 1.0), far)[0] == "vim"
    assert choose(["mahalanobis", "vim"], Known(*of(known), 1.0), far)[0] == "mahalanobis"


def test_a_detector_that_cannot_be_fitted_is_left_out_and_says_why(known, perturbed):
    flat = {kind: (np.ones_like(features), logits) for kind, (features, logits) in perturbed.items()}
    same = Known(np.ones_like(known.features), known.logits, known.labels, known.groups, 1.0)
    name, table, _ = choose(SIX, same, flat)
    assert name in ("max_softmax", "max_logit", "energy")
    assert "are the same on all" in table["detectors"]["vim"]["why"]


def test_the_gate_ships_what_it_fitted(known, perturbed):
    gate = fit_gate(*of(known), 1.4, perturbed, perturbed_rows=np.arange(80), seed=2)
    buffers = {name: torch.from_numpy(values) for name, values in gate.buffers.items()}
    fresh = images(40, 3)
    applied = ood_score(
        gate.detector,
        torch.from_numpy(fresh.features),
        torch.from_numpy(fresh.logits),
        gate.temperature,
        gate.settings,
        buffers,
    )
    assert gate.score(fresh.features, fresh.logits) == pytest.approx(applied.numpy())
    assert (gate.accepts(fresh.features, fresh.logits) == (applied.numpy() <= gate.threshold)).all()
    assert gate.accepted == pytest.approx(0.95, abs=0.01)
    held = held_out_scores(gate.detector, *of(known), 1.4, seed=2)
    assert gate.threshold == threshold_at(held)
    assert (gate.n, gate.n_groups) == (len(known.labels), 150)


def test_the_gate_holds_the_buffers_of_its_detector_alone(known, perturbed):
    gate = fit_gate(*of(known), 1.0, perturbed, detector="vim")
    assert gate.detector == "vim"
    assert set(gate.buffers) == {"mean", "projection"}
    assert set(gate.chosen_by["detectors"]) == set(SIX)
    config = json.loads(json.dumps(gate.as_config(), allow_nan=False))
    assert config["buffers"] == {"mean": [WIDTH], "projection": [WIDTH, 20]}
    assert config["chosen_by"]["method"] == "named"


def test_without_perturbed_images_the_gate_has_a_default(known):
    gate = fit_gate(*of(known), 1.0)
    assert gate.detector == "mahalanobis"
    assert "no perturbed images" in gate.chosen_by["method"]
    assert fit_gate(*of(known), 1.0, detector="energy").chosen_by == {"method": "named"}


def test_the_acceptance_can_be_set(known):
    strict, loose = (fit_gate(*of(known), 1.0, acceptance=share, detector="vim") for share in (0.5, 0.99))
    assert strict.threshold < loose.threshold
    assert strict.accepted == pytest.approx(0.5, abs=0.01)


def test_an_ensemble_is_fitted_on_its_members_side_by_side(known, perturbed):
    features, members = np.tile(known.features, (1, 3)), np.stack([known.logits] * 3, axis=1)
    made = {kind: (np.tile(f, (1, 3)), np.stack([r] * 3, axis=1)) for kind, (f, r) in perturbed.items()}
    gate = fit_gate(features, members, known.labels, known.groups, 1.0, made, perturbed_rows=np.arange(80))
    alone = fit_gate(*of(known), 1.0, perturbed, perturbed_rows=np.arange(80))
    assert gate.detector == alone.detector
    assert gate.buffers["mean"].shape == (3 * WIDTH,)
    ours, theirs = gate.score(features, members), alone.score(known.features, known.logits)
    assert np.corrcoef(ours, theirs)[0, 1] == pytest.approx(1.0, abs=1e-3)


def early_of(known: SimpleNamespace, seed: int, shift: float = 0.0) -> np.ndarray:
    """Statistics of an early layer: nothing of the classes, but what an image looks like."""
    return 5 + shift + np.random.default_rng(seed).normal(size=(len(known.labels), 12)) * np.arange(1, 13) / 6


def test_an_early_layer_is_chosen_where_it_tells_more(known):
    early, rows = early_of(known, 1), np.arange(0, 120, 2)
    # Perturbed in looks alone: features and logits are those of the images.
    made = {"looks": (known.features[rows], known.logits[rows], early[rows] + np.tile([3.0, -3.0], 6))}
    gate = fit_gate(*of(known), 1.0, made, early=early, perturbed_rows=rows)
    assert gate.detector == "early_mahalanobis"
    assert gate.buffers["mean"].shape == (12,)
    assert set(gate.chosen_by["detectors"]) == set(DETECTORS)
    fresh = images(600, 8)
    accepted = gate.accepts(fresh.features, fresh.logits, early_of(fresh, 9))
    assert accepted.mean() == pytest.approx(0.95, abs=0.03)
    buffers = {name: torch.from_numpy(values) for name, values in gate.buffers.items()}
    seen = torch.from_numpy(early_of(fresh, 9))
    applied = ood_score(
        gate.detector, torch.zeros(len(seen), 1), torch.zeros(len(seen), 2), 1.0, gate.settings, buffers, seen
    )
    assert gate.score(fresh.features, fresh.logits, early_of(fresh, 9)) == pytest.approx(applied.numpy())


def test_an_early_layer_that_nobody_stored_is_named(known, perturbed):
    with pytest.raises(OODFitError, match="early_mahalanobis uses an early layer, of which nothing was stored"):
        fit_gate(*of(known), 1.0, detector="early_mahalanobis")
    with pytest.raises(OODFitError, match="of which nothing was stored"):
        fit_gate(*of(known), 1.0, perturbed, early=early_of(known, 1))


def test_a_class_of_one_lesion_is_no_obstacle(known):
    labels = known.labels.copy()
    labels[known.groups == "L0"] = CLASSES
    gate = fit_gate(known.features, known.logits, labels, known.groups, 1.0, detector="mahalanobis")
    assert gate.buffers["class_means"].shape == (CLASSES + 1, WIDTH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detector": "odin"}, "no out-of-distribution detector is called 'odin'"),
        ({"acceptance": 2.0}, "acceptance 2.0"),
        ({"folds": 1}, "1 folds: give at least 2"),
        ({"groups": np.array(["one"] * 20)}, "1 lesion groups"),
        ({"features": np.full((20, 4), np.nan)}, "20 of 20 images have a feature that is NaN"),
        ({"logits": np.full((20, 2), np.nan)}, "20 of 20 images have a logit that is NaN"),
        (
            {"features": np.full((20, 4), 1e300)},
            r"20 of 20 images have a feature that is NaN, infinite or above 1e\+30",
        ),
        ({"logits": np.full((20, 2), np.inf)}, "20 of 20 images have a logit that is NaN, infinite"),
        (
            {
                "perturbed": {"a": (np.full((2, 4), np.nan), np.full((2, 2), np.nan))},
                "perturbed_rows": np.array([0, 1]),
            },
            "max_softmax gives 1 of 1 images a score that is NaN",
        ),
        ({"features": np.zeros((0, 4)), "logits": np.zeros((0, 2)), "labels": [], "groups": []}, "0 images"),
        (
            {"perturbed": {"a": (np.zeros((2, 4)), np.zeros((2, 2)))}, "perturbed_rows": np.array([0, 20])},
            "row numbers",
        ),
    ],
)
def test_what_cannot_be_fitted_is_named(change, message):
    rng = np.random.default_rng(0)
    given = {
        "features": rng.normal(size=(20, 4)),
        "logits": rng.normal(size=(20, 2)),
        "labels": rng.integers(0, 2, 20),
        "groups": np.arange(20).astype(str),
        "perturbed": None,
        "acceptance": 0.8,
        "detector": "auto",
        "perturbed_rows": None,
        "folds": 5,
    } | change
    first = [given.pop(name) for name in ("features", "logits", "labels", "groups")]
    with pytest.raises((OODFitError, UnknownDetectorError), match=message):
        fit_gate(first[0], first[1], np.array(first[2], dtype=int), np.array(first[3]), 1.0, **given)


def test_nothing_to_choose_by_is_named(known):
    with pytest.raises(OODFitError, match="6 detectors and 0 kinds of perturbation"):
        choose(SIX, Known(*of(known), 1.0), {})


def two_sources(known: SimpleNamespace, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Features and sources: the second half of the lesions comes from a camera that shifts one feature."""
    second = np.array([int(group[1:]) >= 75 for group in known.groups])
    features = known.features + shift * second[:, None] * np.eye(WIDTH)[25]
    return features, np.where(second, "B", "A")


def test_each_source_keeps_the_acceptance(known):
    features, sources = two_sources(known, 2.0)
    gate = fit_gate(features, *of(known)[1:], 1.0, detector="mahalanobis", sources=sources)
    held = held_out_scores("mahalanobis", features, *of(known)[1:], 1.0)
    assert gate.threshold == max(threshold_at(held), *(threshold_at(held[sources == name]) for name in "AB"))
    assert {name: row["n"] for name, row in gate.sources.items()} == {name: (sources == name).sum() for name in "AB"}
    for name, row in gate.sources.items():
        assert row["accepted"] == pytest.approx((held[sources == name] <= gate.threshold).mean(), abs=1e-6)
        assert row["accepted"] >= 0.95
    json.dumps(gate.as_config(), allow_nan=False)


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.85, 1.0), (30.0, 0.0, 0.05)])
def test_a_source_left_out_is_accepted_as_far_as_it_is_alike(known, shift, low, high):
    features, sources = two_sources(known, shift)
    gate = fit_gate(features, *of(known)[1:], 1.0, detector="mahalanobis", sources=sources)
    alone, others = sources == "B", sources == "A"
    parts = [values[others] for values in (features, *of(known)[1:])]
    threshold = threshold_at(held_out_scores("mahalanobis", *parts, 1.0))
    fit = fit_of("mahalanobis")(*parts[:3], 1.0)
    expected = (score("mahalanobis", fit, features[alone], known.logits[alone], 1.0) <= threshold).mean()
    assert gate.sources["B"]["accepted_by_others"] == pytest.approx(expected, abs=1e-6)
    assert low <= expected <= high


def test_the_detector_is_chosen_by_a_source_that_it_never_saw(known):
    # Perturbed images differ in feature 20; a camera differs in feature 25 by more: of one source alone, the length
    # of the features tells nothing, and a fit without B finds B as strange as what is perturbed.
    features, sources = two_sources(known, 8.0)
    rows = np.arange(len(features))
    made = {"moved": (features + 8 * np.eye(WIDTH)[20], known.logits)}
    inside = choose(["mahalanobis"], Known(features, *of(known)[1:], 1.0), made, perturbed_rows=rows)[1]
    elsewhere = choose(
        ["mahalanobis"], Known(features, *of(known)[1:], 1.0, sources=sources), made, perturbed_rows=rows
    )[1]
    found = []
    for name in "AB":
        mine = sources == name
        fit = fit_of("mahalanobis")(features[~mine], known.logits[~mine], known.labels[~mine], 1.0)
        clean, moved = (
            score("mahalanobis", fit, part[mine], known.logits[mine], 1.0) for part in (features, made["moved"][0])
        )
        found.append((moved[:, None] > clean).mean())
    assert elsewhere["detectors"]["mahalanobis"]["mean"] == pytest.approx(np.mean(found), abs=1e-5)
    assert inside["method"] != elsewhere["method"]


@pytest.mark.parametrize(("moved", "used"), [(60.0, True), (8.0, False)])
def test_the_threshold_accepts_a_source_left_out_where_perturbed_images_stay_declined(known, moved, used):
    features, sources = two_sources(known, 4.0)
    rows = np.arange(len(features))
    made = {"moved": (features + moved * np.eye(WIDTH)[20], known.logits)}
    gate = fit_gate(features, *of(known)[1:], 1.0, made, detector="vim", sources=sources, perturbed_rows=rows)
    held = held_out_scores("vim", features, *of(known)[1:], 1.0)
    narrow = max(threshold_at(held), *(threshold_at(held[sources == name]) for name in "AB"))
    elsewhere = []
    for name in "AB":
        mine = sources == name
        fit = fit_of("vim")(features[~mine], known.logits[~mine], known.labels[~mine], 1.0)
        scores = score("vim", fit, features[mine], known.logits[mine], 1.0)
        elsewhere.append(np.quantile(scores, 0.9, method="higher"))
    assert max(elsewhere) > narrow
    assert gate.elsewhere["threshold"] == pytest.approx(max(elsewhere))
    assert gate.elsewhere["held_out_threshold"] == pytest.approx(narrow)
    assert gate.elsewhere["used"] is used
    assert gate.threshold == pytest.approx(max(elsewhere) if used else narrow)
    assert (min(row["accepted_left_out"] for row in gate.sources.values()) >= 0.9) is used
    declined = gate.elsewhere["perturbed_declined"]
    assert (declined[0] - declined[1] <= 0.05) is used


def test_sources_that_share_no_class_or_are_too_small_are_not_compared(known):
    by_class = np.array(["A", "B", "C"])[known.labels]
    few = np.where(np.arange(len(known.labels)) < 10, "B", "A")
    for sources in (by_class, few, np.full(len(known.labels), "A")):
        gate = fit_gate(*of(known), 1.0, detector="mahalanobis", sources=sources)
        assert gate.threshold == fit_gate(*of(known), 1.0, detector="mahalanobis").threshold
        for row in gate.sources.values():
            assert row["accepted_left_out"] is None
            assert row["accepted_by_others"] is None
            assert "not known" in row["why"]
