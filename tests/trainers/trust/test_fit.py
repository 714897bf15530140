"""All of trust at once: what is tuned on one half is promised on the other; small or odd splits say what they lack."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from datasets_scripts.command import UserError
from hub_models import MobileNetLesionConfig
from hub_models.ood_lesion import ood_score
from trainers.evaluation.decisions import decisions
from trainers.metrics.predictions import Predictions
from trainers.trust import fit
from trainers.trust.bands import fit_bands
from trainers.trust.conformal import ConformalFitWarning
from trainers.trust.fit import (
    FittedTrust,
    TrustWarning,
    first_half,
    fit_trust,
    needed_lesions,
    promised,
    shown_acceptance,
    temperature_alone,
)
from trainers.trust.halves import halve
from trainers.trust.options import TrustOptions
from trainers.trust.temperature import TemperatureWarning

LABELS = ["nv", "mel", "bcc", "df"]
GROUPS = {"nv": "benign", "mel": "malignant", "bcc": "malignant", "df": "benign"}
WIDTH, DATE = 12, "2026-11-21"
OPTIONS = TrustOptions(detector="mahalanobis")


def made(lesions: list[int], *, images: int = 1, members: int = 1, seed: int = 0, split: str = "calibration"):
    """So many lesions a class, each of up to ``images`` images; right on nine of ten or so, and too sure of it."""
    rng = np.random.default_rng(seed)
    of_lesion = np.repeat(np.arange(len(lesions)), lesions)
    lesion = np.repeat(np.arange(len(of_lesion)), rng.integers(1, images + 1, len(of_lesion)))
    label, n, c = of_lesion[lesion], len(lesion), len(lesions)
    seen = 1.4 * np.eye(c)[label] + 0.5 * rng.normal(size=(len(of_lesion), c))[lesion] + 0.2 * rng.normal(size=(n, c))
    ids = np.array([f"L{index}" for index in lesion], dtype=object)
    return Predictions(
        image_id=np.array([f"I{index}" for index in range(n)], dtype=object),
        lesion_id=ids,
        group_id=ids,
        label=label.astype(np.int64),
        logits=10 * seen[:, None] + 2.5 * rng.normal(size=(n, members, c)),
        labels=LABELS[:c],
        label_names={name: name.upper() for name in LABELS[:c]},
        label_groups={name: GROUPS[name] for name in LABELS[:c]},
        split=split,
        features=np.concatenate([seen, 2 + 0.3 * rng.normal(size=(n, WIDTH - c))], axis=1).astype(np.float32),
    )


def fitted(rows: Predictions, options: TrustOptions = OPTIONS) -> FittedTrust:
    return fit_trust(rows, {}, options, date=DATE)


def halves(rows: Predictions, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return halve(rows.label, rows.group_id, seed)


def accepted(rows: Predictions, trust: FittedTrust) -> np.ndarray:
    """(N,) bool, by the function that the models ship."""
    gate = trust.config["ood"]
    buffers = {name: torch.from_numpy(values) for name, values in trust.buffers.items()}
    features, logits = torch.from_numpy(rows.features), torch.from_numpy(rows.logits)
    scores = ood_score(gate["detector"], features, logits, gate["temperature"], gate["settings"], buffers)
    return scores.double().numpy() <= gate["threshold"]


def probs_of(rows: Predictions, trust: FittedTrust) -> np.ndarray:
    return softmax(rows.logits / trust.config["temperature"]["value"], axis=-1).mean(axis=1)


@pytest.fixture(scope="module")
def rows() -> Predictions:
    return made([240, 120, 60, 40], seed=1)


@pytest.fixture(scope="module")
def trust(rows: Predictions) -> FittedTrust:
    return fitted(rows)


def test_halves_share_no_lesion_and_are_counted():
    several = made([60, 40, 40, 40], images=3, seed=2)
    first, second = halves(several)
    assert not set(several.group_id[first]) & set(several.group_id[second])
    config = fitted(several).config
    assert (config["temperature"]["n"], config["temperature"]["n_groups"]) == (first.sum(), 90)
    assert (config["prior"]["n"], config["ood"]["n"]) == (first.sum(), first.sum())
    kept = set(several.group_id[second & accepted(several, fitted(several))])
    assert config["conformal"]["n_lesions"] == len(kept) == sum(config["conformal"]["n"].values())
    assert {section["half"] for section in (config["temperature"], config["prior"], config["ood"])} == {"first"}
    assert {config["conformal"]["half"], config["bands"]["low"]["half"]} == {"second"}


def test_nothing_of_the_second_half_reaches_temperature_prior_and_gate(rows, trust):
    _, second = halves(rows)
    rng = np.random.default_rng(0)
    logits, features = rows.logits.copy(), rows.features.copy()
    logits[second] = logits[second][:, :, ::-1]
    features[second] += 0.3 * rng.normal(size=features[second].shape).astype(np.float32)
    other = fitted(replace(rows, logits=logits, features=features))
    for section in ("temperature", "prior", "ood"):
        assert other.config[section] == trust.config[section]
    for name, values in trust.buffers.items():
        np.testing.assert_array_equal(other.buffers[name], values)
    assert other.config["conformal"]["qhat"] != trust.config["conformal"]["qhat"]


def test_quantiles_come_from_the_accepted_images_of_the_second_half_alone(rows, trust):
    second = halves(rows)[1] & accepted(rows, trust)
    for label, qhat in enumerate(trust.config["conformal"]["qhat"]):
        mine = second & (rows.label == label)
        scores = np.sort(1 - probs_of(rows, trust)[mine, label])
        rank = int(np.ceil((len(scores) + 1) * 0.9 - 1e-9))
        assert qhat == pytest.approx(scores[rank - 1], abs=1e-12)
        assert trust.config["conformal"]["n"][LABELS[label]] == len(scores)


def test_the_gate_comes_before_sets_and_bands(rows, trust):
    """Ood images of the second half are declined, so they change no quantile and no band."""
    first, second = halves(rows)
    outliers = np.flatnonzero(second)[::3]
    features, logits = rows.features.copy(), rows.logits.copy()
    features[outliers] = -features[outliers]
    logits[outliers] = -logits[outliers]
    with_outliers = replace(rows, features=features, logits=logits)
    spoilt = fitted(with_outliers)
    assert spoilt.config["ood"] == trust.config["ood"]
    kept = second & accepted(rows, trust)
    kept[outliers] = False
    config = spoilt.config["conformal"]
    assert config["n_lesions"] == kept.sum() < second.sum()
    scores = np.sort(1 - probs_of(rows, trust)[kept & (rows.label == 0), 0])
    assert config["qhat"][0] == pytest.approx(scores[int(np.ceil((len(scores) + 1) * 0.9 - 1e-9)) - 1], abs=1e-12)
    ours = first & accepted(rows, trust)
    probs, wrong = probs_of(rows, trust), probs_of(rows, trust).argmax(axis=1) != rows.label
    u = 1 - probs.max(axis=1)
    bands = fit_bands(u[ours], wrong[ours], u[kept], wrong[kept], low_risk=0.05, moderate_risk=OPTIONS.moderate_risk)
    assert spoilt.config["bands"]["low"]["threshold"] == bands.low.threshold
    assert spoilt.config["bands"]["low"]["errors"] == bands.low.errors


def test_the_band_is_promised_for_one_image_a_lesion():
    several = made([200, 120, 60, 60], images=3, seed=4)
    found = fitted(several).config
    assert found["bands"]["low"]["threshold"] is not None
    assert found["bands"]["low"]["n"] <= found["conformal"]["n_lesions"] <= 220 < halves(several)[1].sum()


def test_one_temperature_is_shared_by_the_members():
    ensemble = made([120, 80, 60, 40], members=3, seed=5)
    found = fitted(ensemble).config["temperature"]
    assert 1.5 < found["value"] < 4
    assert found["nll_after"] < found["nll_before"]
    assert "scale" not in found
    assert "bias" not in found


@pytest.mark.parametrize("kind", ["scalar", "vector", "bias_corrected"])
@pytest.mark.parametrize("sets", ["lac", "raps"])
def test_a_model_takes_over_what_was_fitted(rows, kind, sets):
    found = fitted(rows, replace(OPTIONS, temperature=kind, sets=sets))
    stored = json.loads(json.dumps(found.config, allow_nan=False))
    assert stored == found.config
    names = {name: name for name in LABELS}
    config = MobileNetLesionConfig(id2label=dict(enumerate(LABELS)), label_names=names, trust=stored)
    assert config.trust["temperature"]["kind"] == kind
    assert sorted(stored) == ["bands", "conformal", "decision", "fitted_for", "ood", "policy", "prior", "temperature"]
    assert stored["ood"]["buffers"] == {name: list(values.shape) for name, values in found.buffers.items()}
    assert {values.dtype for values in found.buffers.values()} == {np.dtype(np.float32)}
    for section in ("temperature", "prior", "ood", "conformal", "fitted_for"):
        assert (stored[section]["split"], stored[section]["date"]) == ("calibration", DATE)
    assert sum(stored["prior"]["value"]) == pytest.approx(1)


def test_the_prior_counts_lesions_of_the_first_half(trust):
    assert trust.config["prior"]["value"] == pytest.approx([120 / 230, 60 / 230, 30 / 230, 20 / 230])


def test_a_seed_is_a_fit(rows, trust):
    again, other = fitted(rows), fitted(rows, replace(OPTIONS, seed=1))
    assert again.config == trust.config
    for name, values in trust.buffers.items():
        np.testing.assert_array_equal(again.buffers[name], values)
    assert other.config["temperature"]["value"] != trust.config["temperature"]["value"]
    assert other.config["conformal"]["qhat"] != trust.config["conformal"]["qhat"]


def test_rows_in_another_order_are_the_same_fit(rows, trust):
    order = np.random.default_rng(9).permutation(len(rows))
    other = fitted(rows.select(order)).config
    assert other["temperature"]["value"] == pytest.approx(trust.config["temperature"]["value"], rel=1e-6)
    assert other["ood"]["threshold"] == pytest.approx(trust.config["ood"]["threshold"], rel=1e-6)
    assert other["conformal"]["n"] == trust.config["conformal"]["n"]
    assert other["conformal"]["qhat"] == pytest.approx(trust.config["conformal"]["qhat"], rel=1e-5)


def test_validation_in_its_place_is_marked(trust):
    found = fitted(made([60, 40, 30, 30], split="validation")).config
    for section in ("temperature", "prior", "ood", "conformal", "fitted_for"):
        assert (found[section]["split"], found[section]["also_used_for_model_selection"]) == ("validation", True)
        assert trust.config[section]["also_used_for_model_selection"] is False
    assert found["bands"]["low"]["also_used_for_model_selection"] is True


def test_what_it_was_fitted_for_is_kept(rows):
    found = fit_trust(rows, {}, replace(OPTIONS, inference="tta"), date=DATE, preprocessing={"size": {"height": 32}})
    assert found.config["fitted_for"]["inference"] == "tta"
    assert found.config["fitted_for"]["preprocessing"] == {"size": {"height": 32}}


@pytest.mark.parametrize(("requested", "kept"), [(3, 3), (1, 1), (4, 3), (9, 3)])
def test_a_set_of_all_classes_is_never_an_answer(rows, requested, kept):
    assert fitted(rows, replace(OPTIONS, max_set_size=requested)).config["policy"] == {"max_set_size": kept}


# ------------------------------------------------------------------------- perturbed images


def test_perturbed_images_are_of_the_first_half_one_per_lesion():
    several = made([60, 40, 40, 40], images=3, seed=2)
    first, _ = halves(several)
    chosen = first_half(several, replace(OPTIONS, shifted_images=40))
    assert len(chosen) == 40
    assert (np.diff(chosen) > 0).all()
    assert first[chosen].all()
    assert len(set(several.group_id[chosen])) == 40
    assert len(first_half(several, OPTIONS)) == 90  # every lesion of the half, one image each
    assert (chosen == first_half(several, replace(OPTIONS, shifted_images=40))).all()
    assert (chosen != first_half(several, replace(OPTIONS, shifted_images=40, seed=1))).any()


def test_a_perturbed_image_is_scored_by_the_fit_that_did_not_use_it(rows, monkeypatch):
    options = replace(OPTIONS, detector="auto", shifted_images=50)
    same = rows.select(first_half(rows, options))
    real, given = fit.fit_gate, {}

    def watched(features, *others, perturbed_rows, **more):
        given["same"] = np.array_equal(features[perturbed_rows], same.features)
        return real(features, *others, perturbed_rows=perturbed_rows, **more)

    monkeypatch.setattr(fit, "fit_gate", watched)
    moved = replace(same, features=same.features + 9.0)
    config = fit_trust(rows, {"unchanged": same, "moved": moved}, options, date=DATE).config["ood"]
    assert given["same"]
    assert config["chosen_by"]["kinds"] == {"unchanged": 50, "moved": 50}
    best = config["chosen_by"]["detectors"][config["detector"]]
    assert best["auroc"]["unchanged"] == pytest.approx(0.5, abs=0.08)
    assert best["auroc"]["moved"] > 0.95


# ------------------------------------------------------------------- small and odd splits


@pytest.mark.parametrize(
    ("lesions", "shared"),
    [([120, 60, 16, 3], "small classes: bcc, df"), ([120, 60, 60, 3], "all classes")],
)
def test_a_class_of_three_lesions_is_pooled_and_named(lesions, shared):
    # A gate that looks at the logits alone: one by features knows too little of three lesions to let more of them pass.
    found = fitted(made(lesions, seed=7), replace(OPTIONS, detector="energy")).config["conformal"]
    small = [name for name, n in zip(LABELS, lesions, strict=True) if n < 18]
    assert found["groups"] == {name: shared if name in small else name for name in LABELS}
    assert found["without_own_promise"] == small
    assert found["malignant_without_own_promise"] == [name for name in small if GROUPS[name] == "malignant"]
    assert found["n"][shared] >= 9
    assert None not in found["qhat"]


def test_a_class_without_images_in_the_first_half_keeps_a_share():
    found = fitted(made([60, 40, 30, 1], seed=6)).config
    assert found["prior"]["value"][3] == pytest.approx(0.5 / 65.5)
    assert found["conformal"]["groups"]["df"] == "all classes"


@pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning")
def test_a_dozen_images_degrade_with_their_reasons():
    small = made([6, 4, 4], seed=3)
    with (
        pytest.warns(TrustWarning, match=r"the gate: 7 images can show that 0\.87 of such images pass, not 0\.95"),
        pytest.warns(ConformalFitWarning, match="lesions are fewer than the 9 that alpha 0.1 needs"),
    ):
        found = fitted(small)
    gate, bands = found.config["ood"], found.config["bands"]
    assert (gate["acceptance"], gate["acceptance_asked"]) == (0.87, 0.95)
    assert gate["reason"].endswith("which needs 19")
    assert found.config["conformal"]["qhat"] == [None, None, None]
    assert [bands[name]["threshold"] for name in bands] == [None, None]
    assert "fewer than the 60" in bands["low"]["reason"]
    rows = replace(small, ood_score=np.zeros(len(small)) + gate["threshold"])
    assert set(decisions(rows, found.config).reasons) == {"high_uncertainty"}
    json.dumps(found.config, allow_nan=False)


@pytest.mark.parametrize(
    ("requested", "n", "shown"),
    [(0.95, 19, 0.95), (0.95, 18, 0.94), (0.95, 11, 0.91), (0.95, 8, 0.88), (0.8, 4, 0.8), (0.999, 500, 0.99)],
)
def test_so_many_images_show_so_much_acceptance(requested, n, shown):
    assert shown_acceptance(requested, n) == shown


@pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning")
@pytest.mark.parametrize(
    ("lesions", "why"),
    [([2, 2, 2, 2], "the features of 3 images of 3 classes"), ([3, 3], "1 images")],
)
def test_a_handful_of_images_gets_a_gate_that_needs_no_fit(lesions, why):
    few = made(lesions, seed=3)
    with pytest.warns(TrustWarning), pytest.warns(ConformalFitWarning):
        found = fit_trust(few, {}, TrustOptions(), date=DATE)
    gate = found.config["ood"]
    assert (gate["detector"], gate["buffers"], found.buffers) == ("energy", {}, {})
    assert f"no other can be fitted: {why}" in gate["chosen_by"]["method"]
    first = few.logits[halves(few)[0], 0]
    assert gate["threshold"] == pytest.approx((-np.log(np.exp(first).sum(axis=1))).max(), rel=1e-5)
    assert json.loads(json.dumps(found.config, allow_nan=False)) == found.config


@pytest.mark.filterwarnings("ignore")
def test_a_gate_that_accepts_nothing_of_the_other_half_is_named():
    few = made([2, 2], seed=3)
    few = replace(few, logits=few.logits * np.where(halves(few)[1], -1, 1)[:, None, None])
    with pytest.raises(ValueError, match="accepts none of the 2 images of the other"):
        fit_trust(few, {}, TrustOptions(), date=DATE)


@pytest.mark.filterwarnings("ignore")
def test_a_requested_detector_that_cannot_be_fitted_is_an_error():
    with pytest.raises(ValueError, match="the features of 3 images of 3 classes do not vary within any class"):
        fitted(made([2, 2, 2, 2], seed=3))


def test_constant_logits_say_so_and_promise_nothing(rows):
    flat = replace(rows, logits=np.full_like(rows.logits, 0.7))
    with pytest.warns(TemperatureWarning, match="no temperature changes the answer: T = 1 is kept"):
        found = fitted(flat)
    assert found.config["temperature"]["value"] == 1.0
    assert found.config["bands"]["low"]["threshold"] is None
    assert "cannot be promised" in found.config["bands"]["low"]["reason"]
    decided = decisions(replace(flat, ood_score=np.zeros(len(flat))), found.config)
    assert decided.sets.all()
    assert decided.abstains.all()


def test_a_model_that_looks_at_nothing_is_named(rows):
    same = replace(rows, features=np.ones_like(rows.features))
    with pytest.raises(ValueError, match="are the same on all 184 images: they do not depend on the image"):
        fitted(same)


def test_nan_logits_are_named(rows):
    logits = rows.logits.copy()
    logits[7, 0, 1] = np.nan
    with pytest.raises(UserError, match="'I7' has a logit that is NaN or infinite"):
        fitted(replace(rows, logits=logits))


def test_nan_features_are_named(rows):
    features = rows.features.copy()
    features[halves(rows)[0]] = np.nan
    with pytest.raises(ValueError, match="230 of 230 images have a feature that is NaN"):
        fitted(replace(rows, features=features))


def test_no_images_and_no_features_are_named(rows):
    with pytest.raises(ValueError, match="0 images: there is nothing to halve"):
        fitted(rows.select(np.zeros(len(rows), dtype=bool)))
    with pytest.raises(ValueError, match="'calibration' hold no features"):
        fitted(replace(rows, features=None))


def test_lesions_of_one_image_each_class_cannot_be_halved():
    with pytest.raises(ValueError, match="none of the 4 classes has two groups"):
        fitted(made([1, 1, 1, 1]))


# --------------------------------------------------------------------------- what it takes to promise


def sure(n: int) -> Predictions:
    """So many lesions of two classes, all answered right."""
    rows = made([n // 2, n - n // 2], seed=4)
    return replace(rows, logits=20.0 * np.eye(2)[rows.label][:, None])


def promise_of(rows: Predictions, options: TrustOptions = OPTIONS) -> dict:
    return promised(rows, fitted(rows, options).config, options)


@pytest.mark.filterwarnings("ignore")
def test_the_number_of_lesions_that_is_named_is_enough_and_half_of_it_is_not():
    needed = needed_lesions(OPTIONS, classes=2)
    few = promise_of(sure(needed // 2))
    assert (few["possible"], few["declines"], few["n"], few["needed"]) == (False, True, needed // 2, needed)
    assert "fewer than the 60" in few["reason"]
    assert promise_of(sure(needed)) == {**few, "possible": True, "declines": False, "n": needed, "reason": None}


def test_a_stricter_promise_takes_more_lesions():
    strict = replace(OPTIONS, low_risk=0.01, moderate_risk=0.01, confidence=0.95)
    assert needed_lesions(strict, 2) >= 2 * 299 / strict.acceptance


@pytest.mark.filterwarnings("ignore")
def test_where_too_many_answers_are_wrong_more_lesions_are_not_advised():
    rows = sure(400)
    wrong = np.arange(400) % 2 == 0
    found = promise_of(replace(rows, logits=np.where(wrong[:, None, None], -rows.logits, rows.logits)))
    assert (found["possible"], found["needed"]) == (False, None)


@pytest.mark.filterwarnings("ignore")
def test_a_temperature_alone_promises_nothing():
    rows = sure(8)
    found = promised(rows, temperature_alone(rows, "too few").config, OPTIONS)
    assert (found["possible"], found["declines"], found["n"], found["reason"]) == (False, False, 8, "too few")
    assert found["unit"] == "images"


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e38])
@pytest.mark.parametrize("where", ["features", "early", "perturbed"])
def test_infinite_and_enormous_inputs_are_refused_and_not_worked_around(where: str, value: float) -> None:
    rows = made([60, 40])
    rows = replace(rows, early=np.abs(rows.features))
    perturbed = rows.select(first_half(rows, TrustOptions()))
    perturbed = replace(perturbed, split="ood_blurred", features=perturbed.features + 1)
    changed = perturbed if where == "perturbed" else rows
    name = "early" if where == "early" else "features"
    values = getattr(changed, name).copy()
    values[:, 0] = value
    changed = replace(changed, **{name: values})
    rows, perturbed = (rows, changed) if where == "perturbed" else (changed, perturbed)
    with pytest.raises(ValueError, match="NaN, infinite or above"):
        fit_trust(rows, {"blurred": perturbed}, TrustOptions(), date=DATE)
