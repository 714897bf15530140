"""Ways to get an uncertainty, on drawn predictions: equal ways differ by nothing, worse ones are named."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from hub_models import (
    EnsembleForLesionClassification,
    EnsembleLesionConfig,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
)
from trainers.evaluation.uncertainty import Way, uncertainty_section, verdict
from trainers.metrics.predictions import Predictions
from trainers.model_folder.uncertainty import all_ways, linear_heads, options_of
from trainers.trust.options import TrustOptions

LABELS = ["nv", "mel"]


def drawn(n: int, split: str, seed: int, noise: float = 1.0, width: int = 0) -> Predictions:
    """Lesions of one image, a third malignant; ``noise`` of another seed spoils the order of the answers."""
    rng = np.random.default_rng(seed)
    label = (np.arange(n) % 3 == 0).astype(np.int64)
    margin = 3 * (2 * label - 1) + 2.5 * rng.normal(size=n)
    margin = margin + noise * np.random.default_rng(seed + 50).normal(size=n)
    ids = np.array([f"{split}{row}" for row in range(n)], dtype=object)
    return Predictions(
        image_id=ids,
        lesion_id=ids,
        group_id=ids,
        label=label,
        logits=np.stack([-margin / 2, margin / 2], axis=1)[:, None],
        labels=LABELS,
        label_names={},
        label_groups={"nv": "benign", "mel": "malignant"},
        split=split,
        features=rng.normal(size=(n, width)).astype(np.float32) if width else None,
    )


@pytest.fixture(scope="module")
def section():
    plain = (drawn(500, "calibration", 1, 0.0), drawn(300, "test", 2, 0.0))
    worse = (drawn(500, "calibration", 1, 6.0), drawn(300, "test", 2, 6.0))
    twice = tuple(replace(part, logits=np.repeat(part.logits, 2, axis=1)) for part in plain)
    ways = {"plain": Way([plain], "1 pass"), "tta": Way([twice], "8 passes"), "laplace": Way([worse, worse], "1 pass")}
    return plain, uncertainty_section(ways, "plain", TrustOptions(), replicates=200)


def test_a_way_that_changes_nothing_does_not_pay(section):
    plain, found = section
    json.dumps(found, allow_nan=False)
    assert (found["n"], found["n_groups"], found["reference"]) == (300, 300, "plain")
    rows = found["rows"]
    for metric in ("nll", "ece", "auroc_errors", "aurc", "missed_low"):
        assert rows["tta"][metric]["value"] == rows["plain"][metric]["value"]
    assert found["differences"]["tta"]["nll"]["value"] == 0
    assert found["verdicts"] == {"tta": "does not pay", "laplace": "is worse"}
    test = plain[1]
    probs = test.probs()
    wrong = probs.argmax(axis=1) != test.label
    expected = roc_auc_score(wrong, -probs.max(axis=1))
    assert rows["plain"]["auroc_errors"]["value"] == pytest.approx(expected, abs=1e-6)
    assert found["differences"]["laplace"]["auroc_errors"]["high"] < 0


def test_missed_lesions_are_those_of_the_own_low_band(section):
    found = section[1]
    low = found["rows"]["plain"]
    assert 0 < low["low"]["value"] < 1
    assert low["missed_low"]["low"] is not None
    # Two models of one way: their mean, without an interval.
    assert found["rows"]["laplace"]["missed_low"].get("method") in ("no interval", None)


@pytest.mark.parametrize(
    ("nll", "auroc", "expected"),
    [
        ((-0.2, -0.1), (-0.1, 0.1), "pays"),
        ((-0.1, 0.1), (0.01, 0.1), "pays"),
        ((-0.1, 0.1), (-0.1, 0.1), "does not pay"),
        ((0.1, 0.2), (0.01, 0.1), "does not pay"),
        ((0.1, 0.2), (-0.1, 0.1), "is worse"),
    ],
)
def test_verdicts(nll, auroc, expected):
    def number(low, high):
        return {"value": (low + high) / 2, "low": low, "high": high}

    differences = {"nll": number(*nll), "auroc_errors": number(*auroc), "aurc": number(-0.1, 0.1)}
    assert verdict(differences) == expected
    without = {((-0.2, -0.1), (-0.1, 0.1)): "does not pay", ((0.1, 0.2), (0.01, 0.1)): "pays"}
    without[((0.1, 0.2), (-0.1, 0.1))] = "does not pay"
    assert verdict(differences, with_nll=False) == without.get((nll, auroc), expected)
    assert verdict({name: {"value": None} for name in differences}) == "does not pay"


def small(seed: int):
    torch.manual_seed(seed)
    names = {"id2label": dict(enumerate(LABELS)), "label_groups": {"nv": "benign", "mel": "malignant"}}
    model = MobileNetForLesionClassification(
        MobileNetLesionConfig(**names, image_size=32, backbone="mobilenetv2_035", dropout=0.3)
    )
    torch.nn.init.normal_(model.head.weight, std=0.1)
    return model.eval()


def test_every_way_of_a_model_and_of_an_ensemble():
    model = small(0)
    width = model.feature_dim
    both = tuple(drawn(200, split, seed, width=width) for split, seed in (("calibration", 3), ("test", 4)))
    both = tuple(
        replace(part, logits=model.classify(torch.from_numpy(part.features)).detach().double().numpy()[:, None])
        for part in both
    )
    ((read, weight, bias),) = linear_heads(model, width)
    assert read.tolist() == list(range(width))
    assert weight == pytest.approx(model.head.weight.detach().numpy(), abs=1e-6)
    assert bias == pytest.approx(model.head.bias.detach().numpy(), abs=1e-6)
    how = {"n": 1000, "options": TrustOptions(), "samples": 3, "seed": 0}
    ways = all_ways(model, {"plain": both, "tta": both}, **how)
    assert {name: way.cost for name, way in ways.items()} == {
        "plain": "1 pass",
        "mc_dropout": "1 pass and 3 of the head",
        "tta": "8 passes",
        "laplace": "1 pass",
    }
    assert ways["mc_dropout"].models[0][1].logits.shape == (200, 3, 2)
    settled = ways["laplace"].models[0][1]
    assert (np.abs(settled.logits[:, 0]) < np.abs(both[1].logits[:, 0])).all()

    ensemble = EnsembleForLesionClassification.from_members([model, small(1)])
    assert isinstance(ensemble.config, EnsembleLesionConfig)
    joined = tuple(replace(part, features=np.concatenate([part.features] * 2, axis=1)) for part in both)
    joined = tuple(
        replace(part, logits=ensemble.classify(torch.from_numpy(part.features)).detach().double().numpy())
        for part in joined
    )
    heads = linear_heads(ensemble, 2 * width)
    assert [head[0].tolist() for head in heads] == [list(range(width)), list(range(width, 2 * width))]
    ways = all_ways(ensemble, {"plain": joined}, **how)
    assert list(ways) == ["single", "ensemble", "mc_dropout", "laplace", "ensemble_laplace"]
    assert [len(way.models) for way in ways.values()] == [2, 1, 1, 2, 1]
    assert ways["ensemble_laplace"].models[0][1].logits.shape == (200, 2, 2)


def test_a_head_that_is_not_linear_has_no_laplace():
    model = small(0)
    model.head = torch.nn.Sequential(torch.nn.Linear(model.feature_dim, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    assert linear_heads(model.eval(), model.feature_dim) is None


def test_the_low_band_is_fitted_as_the_model_s_own():
    band = {"risk": 0.04, "confidence": 0.8, "missed_risk": 0.06}
    trust = {"temperature": {"seed": 5}, "bands": {"low": band, "moderate": {"risk": 0.2, "missed_risk": 0.3}}}
    options = options_of(trust)
    assert (options.low_risk, options.low_missed, options.confidence, options.seed) == (0.04, 0.06, 0.8, 5)
    assert (options.moderate_risk, options.moderate_missed) == (0.2, 0.3)
    assert options_of({"temperature": {}}) == TrustOptions()
