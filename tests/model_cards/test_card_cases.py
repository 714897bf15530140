"""Cards of models that were not trained and tested here on one dataset of images: each must say so."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import yaml
from card_text import card_text

from model_cards.card import MissingNumberError, render

FILES = ["figures/confusion_matrix_test.png"]
UNKNOWN = "Whether its training images hold lesions of this test set is not known here."


def front(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def opening(card: str) -> str:
    return card.split("## How to use it")[0]


def headings(card: str) -> list[str]:
    return [line for line in card.splitlines() if line.startswith("## ")]


@pytest.fixture
def made(report: dict[str, Any]) -> dict[str, Any]:
    """Where another command ran: what ``trainers.model_folder.provenance.origin`` gives."""
    keys = ("packages", "git_commit", "git_dirty")
    same = {key: report["provenance"][key] for key in keys}
    return {"created": "2026-02-03T00:00:00Z", "command": "trainers/fit_trust.py their-model", **same}


@pytest.fixture
def published(report: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """A published model that was imported, then fitted and evaluated on a dataset."""
    theirs = copy.deepcopy(report)
    del theirs["training"]
    theirs["model"] |= {"base_model": None, "license": "mit", "notes": [], "title": "Theirs", "initialised_from": None}
    del theirs["model"]["inputs"]
    theirs["imported"] = {
        "publisher": "Somebody Else",
        "license_note": "Stated for its repository.",
        "files": [{"name": "best.pt", "sha256": "ab" * 32, "size": 9_158_859}],
        "labels_from": "the published text",
        "sources": ["HAM10000"],
        "trained_on": "Some images.",
        "claims": ["Accuracy 0.99 on its own split."],
        "preprocessing": {"image_mean": [0.5], "image_std": [0.25], "difference": "None."},
        "provenance": {**made, "created": "2026-02-02T00:00:00Z", "command": "trainers/import_published.py"},
    }
    theirs["provenance"] = {**made, "seed": 0, "dataset": theirs["provenance"]["dataset"]}
    theirs["trust_provenance"] = made
    theirs["leak_audit"] = {"unknown": UNKNOWN}
    return theirs


def test_a_published_model_that_was_evaluated_here_is_not_described_as_trained_here(published: dict[str, Any]) -> None:
    card = card_text(published, FILES)
    assert "> **A published model of other people.** Nothing was trained here" in opening(card)
    assert f"**The numbers may be too good.** {UNKNOWN} Both hold images of HAM10000." in opening(card)
    assert "single run" not in card
    assert "seed" not in opening(card)
    assert "No test image shows a lesion" not in card
    assert headings(render(published, FILES)["README.md"]) == [
        *("## Summary", "## Intended use", "## Out of scope", "## How to use it", "## Data and leak audit"),
        *("## Results", "## Promises, and what was measured", "## Subgroups", "## Limits", "## Licence", "## Citation"),
    ]
    assert headings(render(published, FILES)["REPORT.md"]) == [
        *("## The answer", "## What it is", "## Where it comes from", "## Data", "## Results"),
        *("## What the probabilities mean", "## When it does not answer", "## Ethics", "## Provenance", "## Citation"),
    ]
    assert 'What it was evaluated on; the column "train" played no part.' in card
    assert f"Here they could not be counted. {UNKNOWN}" in card
    assert "Lesion also in train" not in card
    assert "| validation | nothing | 97 |" in card
    assert "| calibration | fitting trust | 140 |" in card
    assert "chose the epoch" not in card
    assert "setting of the training" not in card
    assert "- One published model, one dataset to evaluate it by." in card
    assert "split off the same collection" not in card
    assert "| Made | 2026-02-02T00:00:00Z |\n| Command | `trainers/import_published.py` |" in card
    assert "| Made | 2026-02-03T00:00:00Z |\n| Dataset | `invented-lesions`, config `grouped`," in card
    assert "The weights: `mit`. Stated for its repository. The images keep their own licence" in card
    assert "| Published by | Somebody Else |" in card
    assert "- Accuracy 0.99 on its own split." in card
    assert "datasets" not in front(card), "the Hub means what the weights were trained on"
    assert front(card)["model-index"][0]["results"][0]["dataset"]["name"] == "invented-lesions"


@pytest.mark.parametrize(
    "path",
    [
        "imported.publisher",
        "imported.files",
        "imported.claims",
        "imported.provenance.created",
        "trust_provenance",
        "trust_provenance.command",
        "leak_audit.unknown",
        "provenance.dataset.fingerprint",
        "trust.temperature.nll_before",
    ],
)
def test_what_the_card_of_a_published_model_lacks_is_named(published: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    section = published
    for name in parents:
        section = section[name]
    del section[last]
    with pytest.raises(MissingNumberError) as caught:
        card_text(published, FILES)
    assert caught.value.path == path


def test_a_published_ensemble_is_known_by_its_backbones(published: dict[str, Any]) -> None:
    assert "members" not in card_text(published, FILES).split("# Theirs: full report")[0]
    published["model"]["backbone"] = "2 x resnet50, 1 x vgg16"
    card = card_text(published, FILES)
    assert "the disagreement of the members |" in card
    assert "The members' logits are divided by" in card
    assert "The winning class is the same" not in card


def test_a_published_model_without_a_test_split_is_not_evaluated(published: dict[str, Any]) -> None:
    del published["evaluation"]["test"], published["trust_evaluation"], published["evaluation"]["calibration"]
    for fitted in published["trust"].values():
        fitted |= {"split": "validation", "also_used_for_model_selection": True}
    card = card_text(published, FILES)
    assert "> **Not tested.** There is no test split. The numbers below are of the validation split. Whether" in card
    assert "chose the epoch" not in card, "nobody chose an epoch of it on this dataset"
    assert 'What it was calibrated on; the column "train" played no part.' in card


def test_a_model_trained_on_another_dataset_says_so_at_the_top(report: dict[str, Any], made: dict[str, Any]) -> None:
    evaluated_on = {**copy.deepcopy(report["provenance"]["dataset"]), "name": "other-lesions", "config_name": "fold0"}
    report["trained_on"] = report["provenance"]["dataset"]
    report["provenance"]["dataset"] = {**evaluated_on, "sources": ["phantom"]}
    report |= {"leak_audit": {"unknown": UNKNOWN}, "trust_provenance": made}
    card = card_text(report, FILES)
    assert (
        "> **Trained on another dataset.** It was trained on `invented-lesions` (config `grouped`). Its trust was "
        "fitted, and its results were measured, on `other-lesions` (config `fold0`)." in opening(card)
    )
    assert "> **Drawn images.** Some of the images" in opening(card)
    assert f"**The numbers may be too good.** {UNKNOWN}\n" in opening(card), "the two share no source"
    assert "This is a single run (seed 7)." in card
    data = card.split("## Data\n")[1].split("## Results")[0]
    assert data.index("Dataset `other-lesions`") < data.index("### What it was trained on")
    assert "<!-- report.json: trained_on.splits -->" in data
    assert data.index("### What it was trained on") < data.index("Dataset `invented-lesions`")
    assert "| Trained on | `invented-lesions`, config `grouped` |" in card
    provenance = card.split("## Provenance")[1]
    assert provenance.index("| Dataset | `invented-lesions`") < provenance.index("Its trust was fitted later")
    assert provenance.index("Its trust was fitted later") < provenance.index("| Dataset | `other-lesions`")
    assert "datasets" not in front(card)
    report["trained_on"]["name"] = "org/invented-lesions"
    assert front(card_text(report, FILES))["datasets"] == ["org/invented-lesions"]
    assert front(card)["model-index"][0]["results"][0]["dataset"]["name"] == "other-lesions"
    report["provenance"]["dataset"]["sources"] = ["phantom", "ham10000", "DermNet"]
    assert "Both hold images of ham10000 and of DermNet." in opening(card_text(report, FILES))


def test_a_model_trained_elsewhere_may_not_show_a_leak_audit_of_this_dataset(report: dict[str, Any]) -> None:
    report["trained_on"] = report["provenance"]["dataset"]
    with pytest.raises(MissingNumberError, match=r"leak_audit\.unknown is missing"):
        card_text(report, FILES)


def test_trust_that_was_fitted_later_has_a_provenance_of_its_own(report: dict[str, Any], made: dict[str, Any]) -> None:
    assert "The fit of trust" not in card_text(report, FILES)
    report["trust_provenance"] = made
    reads = {"date": "2026-02-03T00:00:00Z", "command": "trainers/fit_trust.py their-model", "purpose": "fit of trust"}
    report["test_reads"].append({"split": "test", **reads})
    card = card_text(report, FILES)
    provenance = card.split("## Provenance")[1]
    assert "| Made | 2026-01-02T03:04:05Z |" in provenance
    assert "Its trust was fitted later, and all results were rebuilt then:" in provenance
    assert "| Made | 2026-02-03T00:00:00Z |" in provenance
    assert "| 2026-02-03T00:00:00Z | fit of trust | `trainers/fit_trust.py their-model` |" in card
    assert "No test image shows a lesion that was in training." in card


def test_a_folder_without_a_test_split_is_not_described_as_tested(report: dict[str, Any]) -> None:
    for place in (report["evaluation"], report["leak_audit"], report["provenance"]["dataset"]["splits"]):
        del place["test"]
    del report["trust_evaluation"]
    report["test_reads"] = []
    card = card_text(report, FILES)
    assert (
        "> **Not tested.** There is no test split. The numbers below are of the validation split, which chose" in card
    )
    assert "| 97 validation images of 64 lesions | Value (95 % interval) |" in card
    assert "| Accuracy | 0.830" in opening(card)
    assert "No test image shows" not in card
    assert "Validation split: 97 images" in card
    assert "<!-- report.json: evaluation.validation.per_class -->" in card
    assert "| calibration | fitting trust | 140 |" in card
    assert "No split is left to evaluate it on: whether the promises hold was not checked." in card
    assert "at most 5 % expected, with 90 % confidence, on lesions like those it was calibrated on" in card
    assert "Measured on" not in card
    assert "Who has read" not in card
    assert "How often that happens was not measured." in card
    assert "split off the same collection" not in card
    assert not {"metrics", "model-index"} & set(front(card))
    assert "conformal-prediction" in front(card)["tags"]


def test_an_evaluation_of_no_split_is_an_error(report: dict[str, Any]) -> None:
    report["evaluation"] = {}
    with pytest.raises(MissingNumberError, match=r"evaluation\.test is missing"):
        card_text(report, FILES)


def test_our_own_model_without_its_training_is_an_error(report: dict[str, Any]) -> None:
    del report["training"]
    with pytest.raises(MissingNumberError, match="training is missing"):
        card_text(report, FILES)


def test_an_ensemble_says_so_everywhere(report: dict[str, Any]) -> None:
    kept = {"epochs": 5.0, "kept_epoch": 5.0, "kept_because": "the last, by recipe", "metric": "macro_f1"}
    members = [
        {"member": number, "backbone": "mobilenetv2_100", "seed": 42 + number, "best_metric": 0.63, **kept}
        | {"train_seconds": 1400.0, "weights_sha256": "deed7dac0cd2" * 5}
        for number in range(3)
    ]
    report["training"] = {"members": members, "train_seconds": 4200.0, "peak_memory_bytes": 1.7e9}
    card = card_text(report, FILES)
    assert "This is one deep ensemble of 3 runs (seeds 42, 43, 44)." in card
    assert "the disagreement of the members |" in card
    assert "| `aleatoric`, `epistemic` | its two parts: of the data, and the disagreement of the members |" in card
    assert "The members' logits are divided by 1.3137" in card
    assert "The winning class is the same" not in card
    assert "- One ensemble, one dataset." in card
    assert (
        "| 2 | `mobilenetv2_100` | 44 | 5 | epoch 5 (the last, by recipe) | 0.630 | 23 min | `deed7dac0cd2` |" in card
    )


def test_the_card_of_a_model_without_images_names_records(report: dict[str, Any]) -> None:
    report["model"] |= {"inputs": ["metadata"], "metadata_fields": ["age", "sex", "localization"], "backbone": "none"}
    report["trust"]["ood"]["chosen_by"] = {"method": "default: there are no perturbed images to choose by"}
    report["trust_evaluation"]["gate"]["sets"] = []
    card = card_text(report, FILES)
    assert "takes no image, only what is known of the patient" in card
    assert 'answer = classify({"age": 55, "sex": "female", "localization": "back"})' in card
    assert "the gate declined the record" in card
    assert "It declines a record that the gate finds unlike the calibration images" in card
    assert "used because this model takes no image: there is nothing to perturb and choose by." in card
    assert "It was not tested on records of none of the classes." in card
    assert "How the detectors compare" not in card
    assert "image-classification" not in card.split("---\n", 2)[2], "the stock task knows images alone"
    assert "Rulers, ink" not in card
    report["model"]["inputs"] = ["pixel_values", "metadata"]
    assert 'classify({"image": "lesion.jpg", "age": 55, "sex": "female"' in card_text(report, FILES)


def test_a_first_release_that_knows_no_trust_promises_nothing(report: dict[str, Any]) -> None:
    del report["trust_evaluation"], report["test_reads"]
    report["trust"] = {"temperature": report["trust"]["temperature"]}
    card = card_text(report, FILES)
    assert "## When it does not answer" not in card
    assert "### Prevalence" not in card
    assert "or declines to answer" not in card
    assert "for an image of a chair" in card
    assert "fitting the temperature | 140 |" in card
    assert (
        'name = "ORG/invented-mobilenet"\nclassify = pipeline("image-classification", name, trust_remote_code=True)'
        in card
    )
    assert 'describe = pipeline("skin-lesion-classification", ' in card, "the name that its own code knows"
    assert "trust=False" not in card
    assert not {"conformal-prediction"} & set(front(card)["tags"])
    del report["model"]["inputs"]
    assert "model.predict(**processor(" in card_text(report, FILES)


def test_trust_that_was_fitted_for_another_way_of_running_is_used_that_way(report: dict[str, Any]) -> None:
    assert "inference=" not in card_text(report, FILES)
    report["trust"]["fitted_for"]["inference"] = "tta"
    card = card_text(report, FILES)
    assert 'answer = classify("lesion.jpg", inference="tta")' in card
    assert 'It holds for `inference="tta"` alone.' in card


def test_no_part_leaves_a_hole(published: dict[str, Any], report: dict[str, Any]) -> None:
    """Blank lines in a row, or a full stop after a space, are where a template forgot a case."""
    before = copy.deepcopy(report)
    before["trust"] = {"temperature": report["trust"]["temperature"]}
    for name in ("ece_adaptive", "ece_classwise"):
        for when in ("before", "after"):
            del before["evaluation"]["test"]["calibration"][when][name]
    del before["trust_evaluation"]
    for made_of in (published, report, before):
        card = card_text(made_of, FILES)
        assert "\n\n\n" not in card
        assert not re.search(r"[a-z0-9] [.,;:](\s|$)", card)
        assert not re.search(r"\|\n#|\|\n[A-Za-z†‡*]", card), "a table runs into what follows it"
