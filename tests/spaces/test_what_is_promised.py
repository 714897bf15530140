"""What the page promises and what it admits: measured shares, sets that contradict the class, prevalence, wording."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from hub_models.configuration_lesion import LesionConfig
from tests.spaces.test_answers_shown import loaded, opened, read_aloud


def a_report(trust: dict[str, Any]) -> dict[str, Any]:
    """A report in the layout of trainers/finish.py, with shares of our own."""
    bands = trust["bands"]
    return {
        "trust_evaluation": {
            "split": "test",
            "bands": {
                "bands": {"low": {"error": {"value": 0.0577}}, "moderate": {"error": {"value": 0.3056}}},
                "promises": {name: {"threshold": round(bands[name]["threshold"], 6)} for name in bands},
                "missed_in_low": {"of_malignant_in_low": {"value": 0.1714}, "of_malignant": {"value": 0.0661}},
            },
        }
    }


@pytest.fixture
def with_report(parts: Any, trusted: Any, tmp_path: Path) -> Any:
    """Write a report beside a copy of the trusted model, and load that."""

    def write(report: Any) -> Any:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(trusted.folder, folder)
        (folder / "report.json").write_text(report if isinstance(report, str) else json.dumps(report))
        return loaded(parts, folder)

    return write


def test_what_was_measured_stands_beside_the_promise(parts: Any, trusted: Any, with_report: Any) -> None:
    plain = loaded(parts, trusted.folder)
    report = a_report(plain.trust)
    sure = with_report(report)

    def said(state: str, classifier: Any = sure) -> str:
        answer = parts.answering.classify(opened(parts, trusted, state), classifier)
        card = parts.html_compare.comparison([(classifier, answer, "m")])
        panel = parts.html_answer.answer_panel(answer, classifier)
        assert ("Measured" in read_aloud(panel)) == ("Measured" in read_aloud(card)), "the same in Compare"
        return read_aloud(panel)

    assert (
        "Measured on the test split: 5.8 % of the answers in this band were wrong. Of the malignant or premalignant "
        "lesions in it, 17.1 % were called benign: 6.6 % of all such lesions."
    ) in said("low")
    moderate = said("moderate")
    assert "Measured on the test split: 30.6 % of the answers in this band alone were wrong." in moderate
    assert "called benign" not in moderate
    assert "Measured" not in said("high")
    assert "Measured" not in said("low", plain), "no report, no line"
    # A report of other bands than the model's, or without the number, says nothing of this one.
    other = json.loads(json.dumps(report))
    other["trust_evaluation"]["bands"]["promises"]["low"]["threshold"] += 0.01
    without = json.loads(json.dumps(report))
    without["trust_evaluation"]["bands"]["bands"]["low"]["error"] = {"value": None, "why": "not defined"}
    for nothing in (other, without, "{", "[]", {"trust_evaluation": {"bands": []}}):
        assert "Measured" not in said("low", with_report(nothing))
    del report["trust_evaluation"]["bands"]["missed_in_low"]
    assert "called benign" not in said("low", with_report(report))


@pytest.mark.parametrize("name", ["derm-x-mobilenetv2-ham7", "isic-skin-lesion-uncertainty"])
def test_measured_is_what_the_card_prints(parts: Any, repo_root: Path, name: str) -> None:
    folder = repo_root / "hub_models" / "released" / name
    released = loaded(parts, folder)
    card = (folder / "README.md").read_text()
    for band in ("low", "moderate"):
        found = parts.measured.measured(released, band)
        row = re.search(rf"^\| {band} \|.*\| ([\d.]+ %) \([^|]*\) \|$", card, re.MULTILINE)
        assert row is not None
        assert parts.words.percent(found.wrong) == row[1]
    missed = parts.measured.measured(released, "low").missed
    assert "| the malignant lesions in the band | " in card
    assert f"| {parts.words.percent(missed)} (at most" in card


def test_a_set_without_the_class_named_is_said_loudly(parts: Any, trusted: Any) -> None:
    sure = loaded(parts, trusted.folder)
    answer = {**parts.answering.classify(opened(parts, trusted, "moderate"), sure)}
    named = sure.long_names[answer["predicted"]]
    other = next(label for label in sure.labels if label != answer["predicted"])
    quiet, loud = {**answer, "prediction_set": [answer["predicted"], other]}, {**answer, "prediction_set": [other]}
    heading = f"{sure.long_names[other]} cannot be ruled out"

    def places(told: dict[str, Any]) -> list[str]:
        row = parts.many.Row("a.png", told)
        return [
            read_aloud(parts.html_answer.answer_panel(told, sure)),
            parts.html_answer.spoken(told, sure),
            read_aloud(parts.html_compare.comparison([(sure, told, "m")])),
            read_aloud(parts.html_tables.table([row], sure, 1, "x")),
        ]

    for text in places(loud)[:3]:
        assert heading in text
        assert f"Do not read this answer as “{named}”" in text
    assert f"Not the class named: {sure.long_names[other]}" in places(loud)[3]
    assert (
        places(loud)[0].index("uncertainty") < places(loud)[0].index(heading) < places(loud)[0].index("Probabilities")
    )
    for text in places(quiet):
        assert not any(word in text for word in ("Do not read", "Not the class named", "But:"))
    for text in (places(quiet)[2], places(quiet)[3]):
        assert f"{named}" in text
        assert sure.long_names[other] in text, "Compare and Many show the set too"
    assert not any(re.search("clear answer", text) for _, text in parts.words.GLOSSARY)


def test_classes_without_a_promise_of_their_own_are_named(parts: Any) -> None:
    say, names = parts.words.set_promise, {"df": "Dermatofibroma", "vasc": "Vascular lesion"}
    fitted = {"alpha": 0.1, "class_conditional": True, "without_own_promise": ["df", "vasc"]}
    assert say({"conformal": fitted}, names) == (
        "Meant to hold the true class in 90 of 100 lesions of each class, on average. Not so for Dermatofibroma and "
        "Vascular lesion, with too few calibration lesions for a promise of their own."
    )
    assert say({"conformal": {**fitted, "without_own_promise": []}}, names).endswith("of each class, on average.")
    assert say({"conformal": {**fitted, "without_own_promise": ["df"]}}, names).endswith("a promise of its own.")
    assert say({"conformal": {"alpha": 0.1}}, names) == "Meant to hold the true class in 90 of 100 lesions, on average."


def test_low_is_uncertainty_and_not_risk(parts: Any, trusted: Any) -> None:
    sure = loaded(parts, trusted.folder)
    answer = parts.answering.classify(opened(parts, trusted, "low"), sure)
    panel = parts.html_answer.answer_panel(answer, sure)
    assert parts.html_band.shape("tick") not in panel
    assert read_aloud(panel).startswith("How uncertain is it?Low uncertainty")
    signs = [parts.html_band.shape(name) for name in ("low", "moderate", "high", "none")]
    assert len(set(signs)) == 4, "told apart without colours"
    table = read_aloud(parts.html_tables.table([parts.many.Row("a.png", answer)], sure, 1, "x"))
    assert "low uncertainty" in table
    assert "Malignant or premalignant" in table, "what is counted together is named"


def test_two_classes_are_not_called_premalignant(parts: Any) -> None:
    config = LesionConfig(id2label={0: "b", 1: "m"}, label_groups={"b": "benign", "m": "malignant"})
    classifier = parts.classifier.Classifier(parts.classifier.ModelSource("x"), type("M", (), {"config": config}), None)
    assert classifier.at_risk_name == "malignant"


def test_facts_are_readable(parts: Any) -> None:
    about = parts.html_about
    assert about.day("2026-11-21T01:45:01Z") == "21 November 2026"
    assert (about.day("soon"), about.day(None)) == ("soon", None)
    assert about.licence("cc-by-nc-4.0") == "CC BY-NC 4.0 (attribution, non-commercial)"
    assert about.licence("apache-2.0") == "Apache 2.0"
    assert (about.licence("mit"), about.licence("other"), about.licence(None)) == ("MIT", "Other", None)


def test_each_picture_of_a_host_has_its_own_source(parts: Any, tmp_path: Path) -> None:
    example, buttons = parts.example_pictures.Example, parts.example_pictures.example_buttons
    one, two = example(tmp_path, "A", "Ann, CC0", "data:,"), example(tmp_path, "B", "Bob, CC BY", "data:,")
    apart, alike = buttons([one, two]), buttons([one, one])
    assert apart.index("Ann, CC0") < apart.index('data-example="1"') < apart.index("Bob, CC BY")
    assert alike.count("Ann, CC0") == 1
    mixed = buttons([one, two, one])
    assert mixed.count("Bob, CC BY") == 1
    assert mixed.endswith("Those without a name below them: Ann, CC0.</p>")


def test_what_a_model_does_not_look_at_is_not_claimed(parts: Any, trusted: Any) -> None:
    sure = loaded(parts, trusted.folder)
    assert "looks at 64 × 64 pixels" in parts.html_answer.model_facts(sure)
    model = type("Metadata", (), {"config": sure.model.config, "input_names": ("metadata",)})()
    blind = parts.classifier.Classifier(sure.source, model, sure.processor)
    assert "pixels" not in parts.html_answer.model_facts(blind)
    assert "not at the picture" in parts.html_answer.model_facts(blind)
