"""What the page promises and what it admits: measured shares, sets that contradict the class, prevalence, wording."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from card_text import card_text, folder_card

from hub_models.configuration_lesion import LesionConfig
from tests.spaces.test_answers_shown import loaded, opened, read_aloud


def a_report(trust: dict[str, Any]) -> dict[str, Any]:
    """A report in the layout of trainers/model_folder/finish.py, with shares of our own."""
    bands = trust["bands"]
    return {
        "trust_evaluation": {
            "split": "test",
            "bands": {
                "bands": {"low": {"error": {"value": 0.0577}}, "moderate": {"error": {"value": 0.3056}}},
                "promises": {name: {"threshold": round(bands[name]["threshold"], 6)} for name in bands},
                "missed_in_low": {"of_malignant_in_low": {"value": 0.1714}, "of_malignant": {"value": 0.0661}},
            },
        },
        "explanations": {"method": "grad_cam", "overall": {"inside": {"pointing": {"minus_blob": {"high": -0.2}}}}},
    }


@pytest.fixture
def with_report(parts: Any, trusted: Any, tmp_path: Path) -> Any:
    """The trusted model, as if it had been loaded from a folder that holds a report, which is written there."""
    model = loaded(parts, trusted.folder)

    def write(report: Any) -> Any:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "report.json").write_text(report if isinstance(report, str) else json.dumps(report))
        return dataclasses.replace(model, source=parts.classifier.ModelSource(str(folder)))

    return write


def test_what_was_measured_comes_before_the_limit(parts: Any, trusted: Any, with_report: Any) -> None:
    plain = loaded(parts, trusted.folder)
    report = a_report(plain.trust)
    sure = with_report(report)

    def rating(state: str, classifier: Any = sure) -> str:
        answer = parts.answering.classify(opened(parts, trusted, state), classifier)
        card = parts.html_compare.comparison([(classifier, answer, "m")])
        panel = parts.html_answer.answer_panel(answer, classifier)
        assert ("wrong in testing" in read_aloud(panel)) == ("wrong in testing" in read_aloud(card)), "same in Compare"
        return read_aloud(panel)

    low = rating("low")
    assert (
        "About 6 in 100 such answers were wrong in testing. In testing, 17 of 100 malignant or premalignant lesions "
        "with this rating were called benign."
    ) in low
    order = [
        low.index(text) for text in ("About 6 in 100", "How is this known?", "At most 5 %", "5.8 % of such answers")
    ]
    assert order == sorted(order)
    assert "more than the limit" in low, "5.8 % were wrong, and at most 5 % were promised"
    moderate = rating("moderate")
    assert "About 3 in 10 such answers were wrong in testing." in moderate
    assert moderate.index("About 3 in 10") < moderate.index("At most 20 %")
    assert "called benign" not in moderate
    assert "wrong in testing" not in rating("high")
    assert "wrong in testing" not in rating("low", plain), "no report, no number"
    assert "was not measured" in rating("low", plain)
    # A report of other bands than the model's, or without the number, says nothing of this one.
    other = json.loads(json.dumps(report))
    other["trust_evaluation"]["bands"]["promises"]["low"]["threshold"] += 0.01
    without = json.loads(json.dumps(report))
    without["trust_evaluation"]["bands"]["bands"]["low"]["error"] = {"value": None, "why": "not defined"}
    for nothing in (other, without, "{", "[]", {"trust_evaluation": {"bands": []}}):
        assert "wrong in testing" not in rating("low", with_report(nothing))
    report["trust_evaluation"]["bands"]["missed_in_moderate"] = {"of_malignant_in_moderate": {"value": 0.4}}
    assert "40 of 100 malignant or premalignant lesions" in rating("moderate", with_report(report))
    del report["trust_evaluation"]["bands"]["missed_in_low"]
    assert "called benign" not in rating("low", with_report(report))


def test_both_promises_of_a_band_and_the_flag_have_a_sentence_each(
    parts: Any, trusted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = parts.words
    bands = {"low": {"risk": 0.05, "missed_risk": 0.05, "confidence": 0.9}}
    bands["moderate"] = {**bands["low"], "risk": 0.1, "missed_risk": 0.1}
    assert words.promise({"bands": bands}, "low") == (
        "At most 5 % of such answers are expected to be wrong, with 90 % confidence, on lesions like those it was "
        "calibrated on. At most 5 % of all malignant lesions are expected to be called benign and rated “answered”, "
        "with the same confidence."
    )
    assert "called benign and rated “answered” or “uncertain”" in words.promise({"bands": bands}, "moderate")
    model = loaded(parts, trusted.folder)
    answer = {**parts.answering.classify(opened(parts, trusted, "low"), model), "malignancy": "flagged"}
    assert words.flag(answer, model.trust) is None
    assert "Flagged" not in parts.html_answer.answer_panel(answer, model)
    decision = {"rule": "balanced", "sensitivity": {"target": 0.9, "confidence": 0.9, "threshold": 0.2}}
    monkeypatch.setattr(model.model.config, "trust", {**model.trust, "decision": decision})
    for text in (parts.html_answer.answer_panel(answer, model), parts.html_answer.spoken(answer, model)):
        assert "Flagged as possibly malignant." in text
        assert "At least 90 % of malignant lesions are expected to be flagged, with 90 % confidence" in text
    assert "Not flagged as" in parts.html_answer.spoken({**answer, "malignancy": "not flagged"}, model)
    balanced = parts.html_answer.answer_panel({**answer, "decision": "balanced"}, model)
    assert "Most likely class if all classes were equally frequent" in balanced


def test_no_probability_is_surer_than_the_surest_answers_were_right(parts: Any, trusted: Any, with_report: Any) -> None:
    sure = with_report(a_report(loaded(parts, trusted.folder).trust))
    answer = {**parts.answering.classify(opened(parts, trusted, "low"), sure)}
    named, *others = sorted(sure.labels, key=lambda label: -answer["probabilities"][label])
    answer |= {"probabilities": {named: 0.9998, **dict.fromkeys(others, 0.0002 / 6)}, "p_malignant": 0.0001}
    row = parts.many.Row("a.png", answer)
    panel = parts.html_answer.answer_panel(answer, sure)
    for html in (
        panel,
        parts.html_tables.table([row], sure, 1, "x"),
        parts.html_compare.comparison([(sure, answer, "m"), (sure, answer, "n")]),
    ):
        assert "under 6 %" in html, "5.8 % of the surest answers were wrong"
        assert "over 94 %" in html
        assert "0.1 %" not in html
    numbers = re.search(r"<details class=\"more\">.*?</details>", panel)
    assert numbers is not None
    assert "nats" in numbers[0]
    assert "nats" not in panel.replace(numbers[0], ""), "entropies are folded away"


def test_with_another_prevalence_the_headline_is_the_risk_and_no_class(parts: Any, trusted: Any) -> None:
    sure = loaded(parts, trusted.folder)
    image = opened(parts, trusted, "low")
    prediction = parts.answering.predict(image, sure, parts.answering.Options(share=0.02))
    answer = {**prediction.answer, "p_malignant": 0.19}
    panel = parts.html_answer.answer_panel(answer, sure)
    assert '<span id="assumed-risk">19 %</span>' in panel
    assert "More than nine times the assumed rate of 2 in 100" in panel
    assert panel.index("nine times") < panel.index("Not tested at this prevalence") < panel.index("Probabilities")
    assert "chip" not in panel
    assert 'id="predicted"' not in panel
    assert 'class="bar top"' not in panel
    home = parts.answering.classify(image, sure)
    assert f"Without this assumption: Answered. {sure.long_names[home['predicted']]}" in panel
    assert "nine times the assumed rate" in parts.html_answer.spoken(answer, sure)
    named = sure.long_names[home["predicted"]]
    assert f"counted more for {named}" in parts.html_views.views(image, prediction, sure), (
        "the map is not of another class"
    )


def test_a_benign_class_has_no_chip_and_a_malignant_one_in_the_set_is_named(parts: Any, trusted: Any) -> None:
    sure = loaded(parts, trusted.folder)
    answer = {**parts.answering.classify(opened(parts, trusted, "low"), sure)}
    rest = dict.fromkeys(sure.labels, 0.1 / 6)
    answer |= {"predicted": "nv", "probabilities": {**rest, "nv": 0.9}, "prediction_set": ["nv", "akiec", "mel"]}
    panel = parts.html_answer.answer_panel(answer, sure)
    assert "chip" not in panel
    possible = f"{sure.long_names['mel']} and {sure.long_names['akiec']} cannot be ruled out."
    assert panel.index('id="predicted"') < panel.index(possible) < panel.index("Probabilities")
    table = parts.html_tables.table([parts.many.Row("a.png", answer)], sure, 1, "x")
    assert possible in table
    chips = re.findall(r"<li( class=\"risky\")?>([^<]*)</li>", panel[panel.index('id="set"') :])[:3]
    assert [name for _, name in chips] == [sure.long_names[label] for label in ("mel", "akiec", "nv")]
    assert [bool(risky) for risky, _ in chips] == [True, True, False]
    malignant = {**answer, "predicted": "mel", "prediction_set": ["mel"]}
    assert 'class="chip malignant"' in parts.html_answer.answer_panel(malignant, sure)


def test_no_style_is_green(repo_root: Path) -> None:
    """Beside an answer it would be read as "harmless": no colour in which green is clearly the strongest part."""
    folder = repo_root / "spaces" / "lesion_demo"
    for path in [*folder.glob("*.css"), *folder.glob("appearance.py"), *folder.glob("html_*.py")]:
        for colour in re.findall(r"#([0-9a-fA-F]{6})\b", path.read_text(encoding="utf-8")):
            red, green, blue = (int(colour[place : place + 2], 16) for place in (0, 2, 4))
            assert green <= max(red, blue), f"#{colour} in {path.name}"
    assert "green" not in (folder / "README.md").read_text(encoding="utf-8").split("---")[1]


def test_in_a_table_the_class_comes_before_the_rating(parts: Any, trusted: Any) -> None:
    sure = loaded(parts, trusted.folder)
    answer = parts.answering.classify(opened(parts, trusted, "low"), sure)
    html = parts.html_tables.table([parts.many.Row("a.png", answer)], sure, 1, "x")
    heads = re.findall(r"<button[^>]*>([^<]*)</button>", html)
    assert heads[:2] == ["Most likely class", "Rating"]
    assert heads[-1] == "File"
    body = html[html.index("<tbody>") :]
    assert body.index(sure.long_names[answer["predicted"]]) < body.index(">answered</span>")


@pytest.mark.parametrize(
    ("reason", "names", "helps"),
    [
        ("out_of_distribution", None, True),
        ("high_uncertainty", ["a", "b"], False),
        ("set_too_large", ["a", "b"], False),
        ("empty_set", [], False),
    ],
)
def test_advice_follows_the_reason(parts: Any, reason: str, names: list[str] | None, helps: bool) -> None:
    answer = {"abstain": True, "reason": reason, "prediction_set": names, "probabilities": {"a": 0.5, "b": 0.5}}
    advice = " ".join(parts.words.advice(answer, {"ood": {"acceptance": 0.95}}, ["HAM10000"]))
    assert ("one sharp close-up" in advice) is helps
    assert ("5 of 100" in advice) is helps
    assert "neither that it is harmless" in advice


def test_two_classes_are_named_as_what_they_are(parts: Any) -> None:
    groups = {"b": "benign", "m": "malignant"}
    declined = {"abstain": True, "reason": "set_too_large", "prediction_set": ["b", "m"]}
    say = parts.words.why_declined
    assert "benign and malignant" in say({**declined, "probabilities": {"b": 0.6, "m": 0.4}}, groups)
    several = {**declined, "probabilities": {"b": 0.6, "m": 0.3, "c": 0.1}}
    assert say(several, groups) == "It cannot tell 2 of its classes apart on this image, malignant ones among them."
    assert "malignant" not in say({**several, "prediction_set": ["b", "c"]}, groups)
    assert parts.classifier.kind_of(["b", "m"], groups) == "benign or malignant"
    assert parts.classifier.kind_of(list("abcdefg"), dict.fromkeys("abcdefg", "benign")) == "7 diagnoses"


def test_the_quality_of_heat_maps_is_stated_where_it_was_measured(parts: Any, trusted: Any, with_report: Any) -> None:
    report = a_report(loaded(parts, trusted.folder).trust)
    image = opened(parts, trusted, "low")

    def caption(found: Any) -> str:
        model = with_report(found)
        assert model.model.explanation_methods()[0] == "grad_cam"
        return parts.html_views.views(image, parts.answering.predict(image, model), model)

    worse = "less accurate than always looking at the centre"
    assert worse in caption(report)
    assert "Where the model prediction" not in caption(report)
    better = json.loads(json.dumps(report))
    better["explanations"]["overall"]["inside"]["pointing"]["minus_blob"]["high"] = 0.1
    other_method = {**report, "explanations": {**report["explanations"], "method": "another"}}
    for nothing in (better, other_method, {}):
        assert worse not in caption(nothing)


@pytest.mark.parametrize("name", ["derm-x-mobilenetv2-ham7", "isic-skin-lesion-uncertainty"])
def test_about_starts_with_population_sensitivity_and_specificity(parts: Any, repo_root: Path, name: str) -> None:
    folder = repo_root / "hub_models" / "released" / name
    released = loaded(parts, folder)
    report = json.loads((folder / "report.json").read_text())
    names = [label["name"] for label in report["model"]["labels"]]
    risky = [label["group"] != "benign" for label in report["model"]["labels"]]
    matrix = report["evaluation"]["test"]["confusion_matrix"]
    cells = [(risky[r], risky[c], matrix[r][c]) for r in range(len(names)) for c in range(len(names))]
    at_risk = sum(n for true, _, n in cells if true)
    found = sum(n for true, called, n in cells if true and called)
    cleared = sum(n for true, called, n in cells if not true and not called)
    others = report["evaluation"]["test"]["n"] - at_risk
    tested = parts.measured.recognised(released)
    assert (tested.at_risk, tested.found, tested.others, tested.cleared) == (at_risk, found, others, cleared)
    html = parts.html_about.about(released, parts.model_folder.Check("matches", [], 1, 1))
    text = read_aloud(html)
    order = [text.index(part) for part in ("Tested on", "Sensitivity", "Specificity", "Licence", "Code at commit")]
    assert order == sorted(order)
    assert f"Sensitivity{parts.words.of_100(found / at_risk)}" in text
    assert f"Specificity{parts.words.of_100(cleared / others)}" in text
    assert all(source in text for source in report["provenance"]["dataset"]["sources"])


def test_sensitivity_is_that_of_the_models_own_decision_rule(parts: Any, repo_root: Path) -> None:
    folder = repo_root / "hub_models" / "released" / "isic-skin-lesion-uncertainty"
    released = loaded(parts, folder)
    report = json.loads((folder / "report.json").read_text())
    # Rows benign, malignant in the order of the labels; of ten of each nine are named right.
    rows = [{"rule": "most_probable", "confusion_matrix": [[10, 0], [8, 2]]}]
    rows.append({"rule": "balanced", "confusion_matrix": [[9, 1], [1, 9]]})
    report["trust_evaluation"]["decision"] = {"rule": "balanced", "rules": rows}
    for rule, found in (("balanced", 9), ("most_probable", 2)):
        trust = {**released.trust, "decision": {"rule": rule}}
        model = SimpleNamespace(report=report, trust=trust, groups=released.groups, labels=released.labels)
        assert parts.measured.recognised(model).found == found


def test_a_model_without_results_says_so(parts: Any, trusted: Any) -> None:
    sure = loaded(parts, trusted.folder)
    html = parts.html_about.about(sure, parts.model_folder.Check("unknown", [], 0, 0))
    assert "no test results" in html
    assert "Sensitivity" not in html


def test_a_saved_answer_is_one_file_with_nothing_outside(parts: Any, trusted: Any) -> None:
    sure = loaded(parts, trusted.folder)
    image = opened(parts, trusted, "low")
    answer = parts.answering.classify(image, sure)
    panel = parts.html_answer.answer_panel(answer, sure)
    link = parts.html_views.save_link(image, panel, sure)
    found = re.search(r'download="([^"]+)" href="data:text/html;base64,([^"]+)"', link)
    assert found is not None
    document = base64.b64decode(found[2]).decode("utf-8")
    assert found[1].endswith(".html")
    for text in ("Not a medical device", sure.title, sure.long_names[answer["predicted"]], "At most 5 %", "UTC"):
        assert text in read_aloud(document)
    assert "data:image/jpeg;base64," in document
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|<script|https?://", document)


@pytest.mark.parametrize("name", ["derm-x-mobilenetv2-ham7", "isic-skin-lesion-uncertainty"])
def test_measured_is_what_the_card_prints(parts: Any, repo_root: Path, name: str) -> None:
    folder = repo_root / "hub_models" / "released" / name
    released = loaded(parts, folder)
    card = folder_card(folder)
    for band in ("low", "moderate"):
        found = parts.measured.measured(released, band)
        row = re.search(rf"^\| {band} \|.*\| ([\d.]+ %) \([^|]*\) \|$", card, re.MULTILINE)
        assert row is not None
        assert parts.words.percent(found.wrong) == row[1]
    missed = parts.measured.measured(released, "low").missed
    assert "| the malignant lesions in the band | " in card
    assert f"| {parts.words.percent(missed)} (at most" in card
    sentence = parts.words.what_was_measured(parts.measured.measured(released, "low"), released.at_risk_name)
    assert (
        f"{parts.words.of_100(missed)} {released.at_risk_name} lesions with this rating were called benign" in sentence
    )


@pytest.mark.parametrize("name", ["derm-x-mobilenetv2-ham7", "isic-skin-lesion-uncertainty"])
def test_card_and_page_use_the_same_words(parts: Any, repo_root: Path, name: str) -> None:
    folder = repo_root / "hub_models" / "released" / name
    released = loaded(parts, folder)
    card = " ".join(card_text(json.loads((folder / "report.json").read_text()), files_of(folder)).split())
    for band in ("low", "moderate"):
        found = parts.measured.measured(released, band)
        assert parts.words.what_was_measured(found, released.at_risk_name) in card
    method = json.loads((folder / "report.json").read_text())["explanations"]["method"]
    assert parts.measured.heat_is_worse_than_centre(released, method)
    assert parts.words.HEAT_IS_WORSE in card


def files_of(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def test_a_set_without_the_predicted_class_is_stated_first(parts: Any, trusted: Any) -> None:
    sure = loaded(parts, trusted.folder)
    answer = {**parts.answering.classify(opened(parts, trusted, "moderate"), sure)}
    named = sure.long_names[answer["predicted"]]
    other = next(label for label in sure.labels if label != answer["predicted"])
    quiet, loud = {**answer, "prediction_set": [answer["predicted"], other]}, {**answer, "prediction_set": [other]}
    heading = f"{sure.long_names[other]} cannot be ruled out"

    def places(answer: dict[str, Any]) -> list[str]:
        row = parts.many.Row("a.png", answer)
        return [
            read_aloud(parts.html_answer.answer_panel(answer, sure)),
            parts.html_answer.spoken(answer, sure),
            read_aloud(parts.html_compare.comparison([(sure, answer, "m")])),
            read_aloud(parts.html_tables.table([row], sure, 1, "x")),
        ]

    for text in places(loud)[:3]:
        assert heading in text
        assert f"Do not read this answer as “{named}”" in text
    assert places(loud)[3].index(heading) < places(loud)[3].index(f"most likely: {named}"), "in the first column"
    shown = places(loud)[0]
    assert shown.index("Uncertain") < shown.index(heading) < shown.index("Probabilities")
    assert "Most likely class" not in shown, "no headline with the class that is not to be read"
    for text in places(quiet):
        assert not any(word in text for word in ("Do not read", "most likely: "))
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
    assert read_aloud(panel).startswith("Rating of this answerAnswered")
    signs = [parts.html_band.shape(name) for name in ("low", "moderate", "high", "none")]
    assert len(set(signs)) == 4, "distinguished without colours"
    table = read_aloud(parts.html_tables.table([parts.many.Row("a.png", answer)], sure, 1, "x"))
    assert "answered" in table
    for text in (
        panel,
        table,
        parts.html_answer.spoken(answer, sure),
        parts.html_compare.comparison([(sure, answer, "m")]),
    ):
        assert "low uncertainty" not in text.lower(), "read as low risk"
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


def test_each_image_of_a_host_has_its_own_source(parts: Any, tmp_path: Path) -> None:
    example, buttons = parts.example_images.Example, parts.example_images.example_buttons
    one, two = example(tmp_path, "A", "Ann, CC0", "data:,"), example(tmp_path, "B", "Bob, CC BY", "data:,")
    apart, alike = buttons([one, two]), buttons([one, one])
    assert apart.index("Ann, CC0") < apart.index('data-example="1"') < apart.index("Bob, CC BY")
    assert alike.count("Ann, CC0") == 1
    mixed = buttons([one, two, one])
    assert mixed.count("Bob, CC BY") == 1
    assert mixed.endswith("Those without a name below them: Ann, CC0.</p>")


def test_what_a_model_does_not_look_at_is_not_claimed(parts: Any, trusted: Any) -> None:
    sure = loaded(parts, trusted.folder)
    assert "not the image" not in parts.html_answer.model_facts(sure)
    model = type("Metadata", (), {"config": sure.model.config, "input_names": ("metadata",)})()
    blind = parts.classifier.Classifier(sure.source, model, sure.processor)
    assert "not the image" in parts.html_answer.model_facts(blind)
