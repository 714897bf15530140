"""Cards with parts that only some models have: imported weights without results, the ISIC 2017 challenge's measures."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_text import card_text

from model_cards.build import build_card
from model_cards.card import MissingNumberError, render
from model_cards.report_view import cell
from model_cards.verify import verify_folder

FILES = ["figures/confusion_matrix_test.png"]


def measured(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "method": "bootstrap by lesion"}


@pytest.fixture
def imported(report: dict[str, Any]) -> dict[str, Any]:
    """What an import writes: a model, where it comes from, and no number that anybody measured."""
    made = {key: report["provenance"][key] for key in ("created", "command", "packages", "git_commit", "git_dirty")}
    return {
        "schema_version": 1,
        "model": {**report["model"], "base_model": None, "license": "mit", "citation": ["@misc{theirs2025}"]},
        "imported": {
            "system": "theirs",
            "publisher": "Somebody Else",
            "license_note": "Stated for its repository.",
            "files": [{"name": "best.pt", "sha256": "ab" * 32, "size": 9_158_859}],
            "labels_from": "the published text",
            "sources": ["HAM10000"],
            "trained_on": "Some images.",
            "claims": ["Accuracy 0.99 on its own split."],
            "preprocessing": {"image_mean": [0.5], "image_std": [0.25], "difference": "None."},
            "provenance": made,
        },
    }


def test_an_imported_model_has_a_card_without_results(imported: dict[str, Any]) -> None:
    card = card_text(imported, [])
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "mit"
    assert not {"model-index", "metrics", "datasets", "base_model"} & set(front)
    assert "> **Not evaluated.**" in card
    assert "| Published by | Somebody Else |" in card
    assert f"| `best.pt` | 9,158,859 | `{'ab' * 32}` |" in card
    assert "- Accuracy 0.99 on its own split." in card
    assert "@misc{theirs2025}" in card
    assert "a university clinic in Vienna" in card
    assert "## Results" not in card
    assert "## When it does not answer" not in card
    assert "None was fitted" in card
    assert 'classify("lesion.jpg", trust=False)' in card
    assert "python -m trainers.fit_trust" in card


@pytest.mark.parametrize(
    "key", ["publisher", "license_note", "files", "labels_from", "trained_on", "claims", "provenance"]
)
def test_what_an_import_does_not_say_stops_its_card(key: str, imported: dict[str, Any]) -> None:
    del imported["imported"][key]
    with pytest.raises(MissingNumberError, match=rf"imported\.{key} is missing"):
        card_text(imported, [])


def test_a_model_that_lost_its_evaluation_is_no_imported_one(report: dict[str, Any]) -> None:
    del report["evaluation"]
    with pytest.raises(MissingNumberError, match="evaluation is missing"):
        card_text(report, FILES)


def test_a_temperature_that_the_report_of_an_import_does_not_know_is_found(
    imported: dict[str, Any], tmp_path: Path
) -> None:
    labels = imported["model"]["labels"]
    config = {
        "id2label": {str(index): row["name"] for index, row in enumerate(labels)},
        "image_size": imported["model"]["image_size"],
        "trust": {},
    }
    (tmp_path / "report.json").write_text(json.dumps(imported))
    (tmp_path / "config.json").write_text(json.dumps(config))
    build_card(tmp_path)
    assert verify_folder(tmp_path) == []
    (tmp_path / "config.json").write_text(json.dumps({**config, "trust": {"temperature": {"value": 1.4}}}))
    build_card(tmp_path)
    assert [problem for problem in verify_folder(tmp_path) if "trust.temperature is {'value': 1.4}" in problem]


@pytest.fixture
def challenge(report: dict[str, Any]) -> dict[str, Any]:
    """The report of a run whose classes are the challenge's."""
    changed = copy.deepcopy(report)
    decided = {"recall": measured(0.61), "specificity": measured(0.83)}
    changed["evaluation"]["test"]["isic2017"] = {
        "melanoma": "mel",
        "keratosis": "sk",
        "images": {"melanoma": 117, "keratosis": 90},
        "auc_melanoma": measured(0.741),
        "auc_keratosis": measured(0.872),
        "auc_mean": measured(0.8065),
        "threshold": 0.5,
        "at_threshold": decided,
        "at_argmax": {"recall": {"value": None, "why": "not defined: no melanoma image"}, "specificity": measured(0.9)},
    }
    return changed


def test_the_challenges_measures_stand_in_the_card(challenge: dict[str, Any], report: dict[str, Any]) -> None:
    card = card_text(challenge, FILES)
    assert "`mel` against the rest (117 images) and `sk` against the rest (90 images)" in card
    assert "| Mean of the two AUCs | 0.806 (0.756–0.857) |" in card
    assert "| Recall of `mel` when called at a probability of at least 0.5 | 0.610 (0.560–0.660) |" in card
    assert "not defined: no melanoma image" in card
    assert "Not a score on the challenge" not in card
    challenge["evaluation"]["test"]["isic2017"]["keratosis"] = "bkl"
    assert "**Not a score on the challenge.** `bkl` stands in for seborrheic keratosis" in card_text(challenge, FILES)
    assert "ISIC 2017" not in card_text(report, FILES)


@pytest.mark.parametrize("key", ["auc_melanoma", "auc_mean", "threshold", "at_argmax"])
def test_a_number_of_the_challenge_that_is_missing_is_named(key: str, challenge: dict[str, Any]) -> None:
    del challenge["evaluation"]["test"]["isic2017"][key]
    with pytest.raises(MissingNumberError, match=rf"evaluation\.test\.isic2017\.{key} is missing"):
        card_text(challenge, FILES)


def test_settings_that_were_changed_on_resume_stand_in_the_card(report: dict[str, Any]) -> None:
    assert "| Resumed |" not in card_text(report, FILES)
    changed = {"learning_rate": [0.001, 1e-06], "lr_scheduler_kwargs": [None, "{}"]}
    report["training"]["resumed"] = [{"step": 1200, "epoch": 3.0, "changed": changed}]
    row = next(line for line in card_text(report, FILES).splitlines() if line.startswith("| Resumed |"))
    assert "learning_rate 0.001 before, 1e-06 after" in row


def test_code_licences_and_versions_are_tables(report: dict[str, Any]) -> None:
    report["requires"] = {"transformers": "5.17"}
    report["suite_version"] = "0.1.0"
    report["code"] = [{"file": "handler.py", "lines": 1234, "purpose": "Inference Endpoints: answers | to images."}]
    report["licences"] = [
        {"part": "code of this repository", "licence": "apache-2.0"},
        {"part": "weights that training started from: timm/x", "licence": "not recorded"},
    ]
    report["versions"] = [{"version": "1.1.0", "date": "2026-02-03", "suite": "0.1.0", "changes": "Other [x](y)."}]
    texts = render(report, FILES)
    assert "| `handler.py` | 1,234 | Inference Endpoints: answers \\| to images. |" in texts["REPORT.md"]
    assert "| 1.1.0 | 2026-02-03 | 0.1.0 | Other [x] (y). |" in texts["REPORT.md"]
    assert "`transformers` 5.17 or newer and `timm`. `model.self_check()`" in texts["README.md"]
    assert "| weights that training started from: timm/x | not recorded |" in texts["README.md"]


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "`code", "a|b", "[x](javascript:alert(1))", "a\n# b"])
def test_no_name_from_data_is_markup(report: dict[str, Any], name: str) -> None:
    shown = cell(name)
    assert re.search(r"<[a-z/!]|`|\]\(|(?<!\\)\||\n", shown) is None
    report["model"]["labels"][0]["long_name"] = name
    for text in render(report, FILES).values():
        assert "<img" not in text
        assert "](javascript" not in text
