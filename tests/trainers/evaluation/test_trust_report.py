"""Whether the promises held, on nine images that can be counted by hand, one for each way in which a model answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from trainers.evaluation.decisions import decisions, example_answers, gate_scores
from trainers.evaluation.trust_report import trust_section
from trainers.metrics.predictions import NO_LABEL, Predictions

LABELS = ["nv", "mel", "bcc"]
# lesion, label, probabilities of nv, mel, bcc, ood_score; then what follows from TRUST: predicted, band, set, reason.
IMAGES = [
    ("a", 0, (0.95, 0.04, 0.01), 0.2, "low", {"nv"}, "answered"),
    ("a", 0, (0.20, 0.75, 0.05), 0.3, "moderate", {"mel"}, "answered"),
    ("b", 1, (0.92, 0.07, 0.01), 0.4, "low", {"nv"}, "answered"),
    ("c", 1, (0.44, 0.43, 0.13), 0.5, "high", {"mel"}, "high_uncertainty"),
    ("d", 2, (0.06, 0.05, 0.89), 0.1, "moderate", {"bcc"}, "answered"),
    ("e", 0, (0.99, 0.005, 0.005), 5.0, "low", {"nv"}, "out_of_distribution"),
    ("f", 2, (0.73, 0.135, 0.135), 1.0, "moderate", {"nv"}, "answered"),  # at the limit is inside it
    ("g", 0, (0.72, 0.08, 0.20), 0.1, "moderate", {"nv", "bcc"}, "set_too_large"),
    ("h", 1, (0.49, 0.39, 0.12), 0.1, "high", set(), "empty_set"),
]
TRUST = {
    "temperature": {"kind": "scalar", "value": 2.0},
    "prior": {"value": [0.5, 0.3, 0.2]},
    "ood": {"detector": "energy", "threshold": 1.0, "acceptance": 0.95},
    "conformal": {
        "method": "lac",
        "alpha": 0.1,
        "qhat": [0.5, 0.6, 0.85],
        "class_conditional": True,
        "settings": {},
        "groups": {name: name for name in LABELS},
        "n": {"nv": 40, "mel": 20, "bcc": 10},
    },
    "bands": {
        "low": {"threshold": 0.1, "risk": 0.05, "confidence": 0.9, "n": 70},
        "moderate": {"threshold": 0.3, "risk": 0.2, "confidence": 0.9, "n": 90},
    },
    "policy": {"max_set_size": 1},
}


def predictions(images: list[tuple], split: str = "test", labels: list[int] | None = None) -> Predictions:
    """Logits whose softmax at the temperature of ``TRUST`` gives the probabilities."""
    lesions = np.array([image[0] for image in images], dtype=object)
    return Predictions(
        image_id=np.array([f"i{number}" for number in range(len(images))], dtype=object),
        lesion_id=lesions,
        group_id=lesions,
        label=np.array([image[1] for image in images] if labels is None else labels, dtype=np.int64),
        logits=2.0 * np.log(np.array([image[2] for image in images], dtype=float))[:, None],
        labels=LABELS,
        label_names={name: name.upper() for name in LABELS},
        label_groups={"nv": "benign", "mel": "malignant", "bcc": "malignant"},
        split=split,
        ood_score=np.array([image[3] for image in images]),
    )


@pytest.fixture(scope="module")
def rows() -> Predictions:
    return predictions(IMAGES)


@pytest.fixture(scope="module")
def ood_sets() -> dict[str, Predictions]:
    """Two images of clothes, of which the gate lets one pass; one that is declined for its set."""
    seen = [("x", 0, IMAGES[0][2], 5.0), ("y", 0, IMAGES[0][2], 0.1), ("z", 0, IMAGES[7][2], 0.1)]
    return {"clothes": predictions(seen, "ood_clothes", [NO_LABEL] * 3)}


@pytest.fixture(scope="module")
def section(rows, ood_sets):
    return trust_section(rows, TRUST, ood_sets, replicates=50)


def test_each_image_is_answered_as_the_model_would(rows):
    made = decisions(rows, TRUST)
    np.testing.assert_allclose(made.probs, [image[2] for image in IMAGES], atol=1e-12)
    assert made.predicted.tolist() == [int(np.argmax(image[2])) for image in IMAGES]
    assert made.flagged is None
    np.testing.assert_allclose(made.uncertainty, [1 - max(image[2]) for image in IMAGES], atol=1e-12)
    assert made.bands.tolist() == [image[4] for image in IMAGES]
    assert [{LABELS[i] for i in np.flatnonzero(row)} for row in made.sets] == [image[5] for image in IMAGES]
    assert made.reasons.tolist() == [image[6] for image in IMAGES]
    assert made.accepted.tolist() == [image[3] <= 1 for image in IMAGES]
    assert made.abstains.tolist() == [image[6] != "answered" for image in IMAGES]


def test_the_examples_are_the_first_answered_and_the_first_declined_image(rows):
    behind = rows.select(np.arange(3, len(rows)))  # begins with the one that the band declines
    expected = [next(i for i in IMAGES[3:] if (i[6] == "answered") == answered) for answered in (True, False)]
    found = example_answers(behind, TRUST)
    assert [row["reason"] for row in found] == [image[6] for image in expected]
    assert [row["label"] for row in found] == [LABELS[image[1]] for image in expected]
    assert [row["predicted"] for row in found] == [LABELS[int(np.argmax(image[2]))] for image in expected]
    assert [row["band"] for row in found] == [image[4] for image in expected]
    assert [set(row["prediction_set"]) for row in found] == [image[5] for image in expected]
    assert [row["abstain"] for row in found] == [False, True]
    assert found[0]["message"].startswith(f"{found[0]['predicted'].upper()} (")
    ood = example_answers(rows.select(np.array([5])), TRUST)
    assert [(row["reason"], row["band"], row["prediction_set"]) for row in ood] == [("out_of_distribution", None, None)]


def test_a_bias_and_a_scale_are_applied(rows):
    biased = replace(rows, logits=rows.logits / 2 - np.array([1.0, -1.0, 0.0]))
    vector = {"kind": "vector", "value": 1.0, "scale": [1.0, 1.0, 1.0], "bias": [1.0, -1.0, 0.0]}
    made = decisions(biased, {**TRUST, "temperature": vector})
    np.testing.assert_allclose(made.probs, [image[2] for image in IMAGES], atol=1e-12)


def test_members_answer_together(rows):
    both = replace(rows, logits=np.concatenate([rows.logits, rows.logits[::-1]], axis=1))
    expected = np.array([image[2] for image in IMAGES])
    np.testing.assert_allclose(decisions(both, TRUST).probs, (expected + expected[::-1]) / 2, atol=1e-12)


def test_verdicts_by_hand(section):
    facts = section["verdicts"]["test"]
    assert facts["n"] == 9
    assert facts["by_reason"] == {
        "answered": 5,
        "high_uncertainty": 1,
        "set_too_large": 1,
        "empty_set": 1,
        "out_of_distribution": 1,
    }
    # Lesions a, b, d and f of eight are answered; a is half wrong, b and f wholly.
    assert facts["answered"]["value"] == 0.5
    assert facts["error_answered"]["value"] == pytest.approx(2.5 / 4)
    assert facts["error_answered"]["low"] == pytest.approx(beta.ppf(0.025, 2.5, 2.5), abs=1e-6)
    assert facts["error_answered"]["high"] == pytest.approx(beta.ppf(0.975, 3.5, 1.5), abs=1e-6)
    assert facts["error_declined"]["value"] == 0.5  # c and h, not e and g


def test_ood_images_are_declined_by_gate_set_or_band(section):
    facts = section["verdicts"]["clothes"]
    assert (facts["n"], facts["declined"]["value"]) == (3, pytest.approx(2 / 3))
    assert facts["by_reason"]["out_of_distribution"] == facts["by_reason"]["set_too_large"] == 1
    [clothes] = section["gate"]["sets"]
    assert (clothes["name"], clothes["n"], clothes["declined"]["value"]) == ("clothes", 3, pytest.approx(1 / 3))


def test_the_gate_is_measured_on_all_images(section):
    inside = section["gate"]["in_distribution"]
    assert (inside["n"], inside["n_groups"]) == (9, 8)
    assert inside["accepted"]["value"] == pytest.approx(8 / 9, abs=1e-6)
    assert inside["accepted"]["by_lesion"] == pytest.approx(7 / 8)
    assert section["gate"]["threshold"] == 1.0
    per_class = {row["name"]: row["accepted"]["value"] for row in section["gate"]["per_class"]}
    assert per_class == {
        "nv": pytest.approx(2 / 3, abs=1e-6),
        "mel": 1.0,
        "bcc": 1.0,
    }  # of a, e and g, e is turned away


def test_the_gate_is_measured_on_each_source(rows, section):
    assert "per_source" not in section["gate"]
    sources = np.array(["A", *["B"] * (len(rows) - 1)], dtype=object)
    by_source = trust_section(replace(rows, columns={**rows.columns, "source": sources}), TRUST, {}, replicates=50)
    found = by_source["gate"]["per_source"]
    assert {name: (row["n"], row["n_groups"]) for name, row in found.items()} == {"A": (1, 1), "B": (8, 8)}
    assert found["A"]["accepted"]["value"] == 1.0
    assert found["B"]["accepted"]["value"] == pytest.approx(7 / 8)
    assert found["B"]["accepted"]["low"] == pytest.approx(beta.ppf(0.025, 7, 2), abs=1e-6)


def test_sets_are_measured_on_the_accepted_images(section):
    sets = section["sets"]
    # Covered: half of a, c, d and g, of the seven lesions without e.
    assert sets["overall"]["n"] == 8
    assert sets["overall"]["coverage"]["value"] == pytest.approx(3.5 / 7)
    assert sets["overall"]["mean_set_size"]["value"] == pytest.approx(1.0)
    assert sets["set_sizes"]["distribution"] == pytest.approx([1 / 7, 5 / 7, 1 / 7, 0], abs=1e-6)
    by_class = {row["name"]: row["coverage"]["value"] for row in sets["per_class"]}
    assert by_class == {"nv": pytest.approx(1.5 / 2), "mel": pytest.approx(1 / 3, abs=1e-6), "bcc": pytest.approx(0.5)}


def test_bands_are_measured_on_the_accepted_images(section):
    found = section["bands"]["bands"]
    share = {name: row["share"]["value"] for name, row in found.items()}
    assert share == pytest.approx({"low": 1.5 / 7, "moderate": 3.5 / 7, "high": 2 / 7}, abs=1e-6)
    error = {name: row["error"]["value"] for name, row in found.items()}
    assert error == pytest.approx({"low": 1 / 1.5, "moderate": 1.5 / 3.5, "high": 1.0}, abs=1e-6)
    promised = section["bands"]["promises"]["moderate"]  # of low and moderate together
    assert promised["measured"]["value"] == pytest.approx(2.5 / 5)
    assert promised["kept"] is False
    missed = section["bands"]["missed_in_low"]
    assert (missed["missed"], missed["of_malignant"]["n"], missed["of_malignant"]["value"]) == (1.0, 5.0, 0.2)


def test_selective_measures_are_of_every_image(section):
    assert section["selective"]["n"] == 9
    assert section["selective"]["error"]["value"] == pytest.approx(5 / 9, abs=1e-6)


def test_the_section_is_json_and_repeats_with_its_seed(rows, ood_sets, section):
    again = trust_section(rows, TRUST, ood_sets, replicates=50)
    assert json.dumps(section, allow_nan=False) == json.dumps(again)
    assert (section["split"], section["n"], section["n_groups"]) == ("test", 9, 8)


def test_without_ood_images_the_gate_is_measured_on_the_split_alone(rows):
    found = trust_section(rows, TRUST, {}, replicates=20)
    assert found["gate"]["sets"] == []
    assert list(found["verdicts"]) == ["test"]


def test_a_gate_that_accepts_nothing_leaves_sets_and_bands_out(rows):
    shut = {**TRUST, "ood": {**TRUST["ood"], "threshold": -1.0}}
    found = trust_section(rows, shut, {}, replicates=20)
    assert (found["sets"], found["bands"]) == (None, None)
    assert found["verdicts"]["test"]["by_reason"]["out_of_distribution"] == 9
    assert found["verdicts"]["test"]["answered"]["value"] == 0.0
    assert found["verdicts"]["test"]["error_answered"] == {"value": None, "why": "not defined: no image"}
    json.dumps(found, allow_nan=False)


def test_bands_of_which_nothing_is_promised_decline(rows):
    bands = {name: {**band, "threshold": None, "reason": "too few"} for name, band in TRUST["bands"].items()}
    found = trust_section(rows, {**TRUST, "bands": bands}, {}, replicates=20)
    assert found["verdicts"]["test"]["by_reason"]["answered"] == 0
    assert found["bands"]["bands"]["high"]["share"]["value"] == 1.0
    assert found["bands"]["promises"]["low"]["wording"] == "nothing is promised: too few"
    assert found["bands"]["promises"]["low"]["kept"] is None


def test_predictions_that_no_gate_has_seen_are_named(rows, ood_sets):
    blind = replace(rows, ood_score=None)
    for request in (lambda: gate_scores(blind), lambda: trust_section(blind, TRUST, {}, replicates=5)):
        with pytest.raises(ValueError, match="'test' have no ood_score: fit trust first"):
            request()
    clothes = {"clothes": replace(ood_sets["clothes"], ood_score=None)}
    with pytest.raises(ValueError, match="'ood_clothes' have no ood_score"):
        trust_section(rows, TRUST, clothes, replicates=5)
