"""What the page says of an answer: the model's own numbers, nothing of a declined one, no text that can break it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hub_models import EnsembleForLesionClassification, LesionImageProcessor
from tests.spaces.draw_examples import DRAWINGS, FOLDER, drawing


class LogitsOnly:
    """A model that has logits and nothing else of ours."""

    def __init__(self, model: Any) -> None:
        self._model, self.config, self.device = model, model.config, model.device

    def __call__(self, **inputs: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self._model(**inputs).logits)


LOADED: dict[Path, Any] = {}


def loaded(parts: Any, folder: Path) -> Any:
    """The model of a folder that no test changes."""
    if folder not in LOADED:
        LOADED[folder] = parts.model_loading.load(parts.classifier.ModelSource(str(folder)))
    return LOADED[folder]


@pytest.fixture(scope="module")
def sure(parts: Any, trusted: Any) -> Any:
    return loaded(parts, trusted.folder)


def answer_to(trusted: Any, state: str, **given: Any) -> dict[str, Any]:
    """What the model itself says, in plain Python."""
    model = EnsembleForLesionClassification.from_pretrained(trusted.folder).eval()
    processor = LesionImageProcessor.from_pretrained(trusted.folder)
    return model.predict(**processor(images=trusted.images[state], return_tensors="pt"), **given)[0]


def opened(parts: Any, trusted: Any, state: str) -> Image.Image:
    return parts.image_files.read_image(trusted.images[state])


def test_answer_is_the_models(parts: Any, model_folder: Path, photo: Path, expected: dict[str, Any]) -> None:
    classifier, image = loaded(parts, model_folder), parts.image_files.read_image(photo)
    answer = parts.answering.classify(image, classifier)
    assert answer.pop("model") == model_folder.name
    assert set(answer) == set(expected)
    # Any other classifier of transformers has logits only; the answer has the same keys and numbers.
    plain = parts.classifier.Classifier(classifier.source, LogitsOnly(classifier.model), classifier.processor)
    from_logits = parts.answering.classify(image, plain)
    assert from_logits.pop("model") == model_folder.name
    assert set(from_logits) == set(expected)
    for mine in (answer, from_logits):
        assert mine["predicted"] == expected["predicted"]
        for key in ("probabilities", "p_malignant", "predictive_entropy"):
            assert mine[key] == pytest.approx(expected[key], abs=1e-6)
    assert not plain.can_explain
    assert plain.calibrated_share is None
    with pytest.raises(parts.answering.OptionError, match="another prevalence"):
        parts.answering.classify(image, classifier, parts.answering.Options(share=0.2))


def test_four_states(parts: Any, trusted: Any, sure: Any) -> None:
    for state, reason in (("low", "answered"), ("moderate", "answered"), ("high", "high_uncertainty")):
        answer = parts.answering.classify(opened(parts, trusted, state), sure)
        assert {**answer, "model": None} == {**answer_to(trusted, state), "model": None}
        assert (answer["band"], answer["reason"]) == (state, reason)
        assert parts.words.state(answer) == ("declined" if state == "high" else state)
    assert parts.answering.classify(opened(parts, trusted, "ood"), sure)["reason"] == "out_of_distribution"


def read_aloud(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html)


def test_promise_is_stated_in_the_models_own_numbers(parts: Any, trusted: Any, sure: Any) -> None:
    low = parts.html_answer.answer_panel(parts.answering.classify(opened(parts, trusted, "low"), sure), sure)
    assert (
        "At most 5 % of such answers are expected to be wrong, with 90 % confidence, on lesions like those it was "
        "calibrated on."
    ) in read_aloud(low)
    assert '<span class="whole">90 %</span>' in low, "no line ends before a percent sign"
    assert low.index("Answered") < low.index("Most likely class") < low.index("Probabilities")
    assert low.index("How is this known?") < low.index("At most")
    assert "hold the true class in 90 of 100 lesions" in low
    assert "In about 10 of 100 lesions the true class is not in this list." in low
    panel = parts.html_answer.answer_panel(parts.answering.classify(opened(parts, trusted, "moderate"), sure), sure)
    assert "At most 20 % of “answered” and “uncertain” answers together" in read_aloud(panel)
    for part in ("aleatoric", "epistemic"):
        nats = float(re.search(rf'data-part="{part}" data-nats="([\d.]+)"', panel)[1])  # type: ignore[index]
        assert nats == pytest.approx(answer_to(trusted, "moderate")[part], abs=1e-6)


@pytest.mark.parametrize("state", ["high", "ood"])
def test_of_a_declined_image_no_class_is_seen(parts: Any, trusted: Any, sure: Any, state: str) -> None:
    """In no panel, no view, no table, no CSV, no comparison, no sentence for screen readers."""
    image = opened(parts, trusted, state)
    prediction = parts.answering.predict(image, sure)
    row = parts.many.Row("a.png", prediction.answer)
    table = parts.many.as_table([row], sure.labels)
    texts = [
        parts.html_answer.answer_panel(prediction.answer, sure),
        parts.html_answer.spoken(prediction.answer, sure),
        parts.html_views.views(image, prediction, sure),
        parts.html_tables.table([row], sure, 1, "image"),
        parts.html_compare.comparison([(sure, prediction.answer, sure.title)]),
    ]
    for text in texts:
        assert "not answer" in text.lower() or "views" in text
        assert not any(name in text for name in sure.long_names.values())
        assert not any(mark in text for mark in ('class="bar', 'id="heat"', "Most likely class: ", "data-probability"))
    assert table[0]["declined"] is True
    numbers = [table[0][key] for key in table[0] if key.startswith(("p_", "pred")) or key in ("band", "aleatoric")]
    assert numbers == [None] * len(numbers)
    assert all(table[0][f"prob_{label}"] is None for label in sure.labels)


def test_prevalence_reweighs_and_withdraws(parts: Any, trusted: Any, sure: Any) -> None:
    question = parts.answering.Options(share=0.9)
    prior = sure.prior_at(0.9)
    at_risk = [label for label, group in sure.groups.items() if group != "benign"]
    assert sum(prior[label] for label in at_risk) == pytest.approx(0.9)
    assert sum(prior.values()) == pytest.approx(1.0)
    home = dict(zip(sure.labels, sure.trust["prior"]["value"], strict=True))
    assert prior["nv"] / prior["bkl"] == pytest.approx(home["nv"] / home["bkl"]), "within the benign as it was"
    before = answer_to(trusted, "low")
    after = parts.answering.classify(opened(parts, trusted, "low"), sure, question)
    odds = {label: p * prior[label] / home[label] for label, p in before["probabilities"].items()}
    wanted = {label: value / sum(odds.values()) for label, value in odds.items()}
    assert after["probabilities"] == pytest.approx(wanted, abs=1e-6)
    assert (after["band"], after["prediction_set"], after["reason"]) == (None, None, "other_prior")
    assert (after["assumed_share"], after["at_calibration"]["predicted"]) == (0.9, before["predicted"])
    panel = parts.html_answer.answer_panel(after, sure)
    assert "You assumed another prevalence" in panel
    assert "withdrawn" in panel
    # A model that declines where it was calibrated is not made to answer by another prevalence.
    for state in ("high", "ood"):
        assert parts.answering.classify(opened(parts, trusted, state), sure, question)["abstain"] is True
    for wrong in (0.0, 1.0, math.nan, True, "x"):
        with pytest.raises(parts.answering.OptionError, match=r"share from 0\.001 to 0\.999"):
            parts.answering.classify(opened(parts, trusted, "low"), sure, parts.answering.Options(share=wrong))


def test_metadata_reaches_the_model_that_takes_it(parts: Any, fusion_folder: Path, sure: Any, photo: Path) -> None:
    fusion, image = loaded(parts, fusion_folder), parts.image_files.read_image(photo)
    assert sorted(fusion.fields) == ["age", "localization", "sex"]
    assert sure.fields == {}
    classify = parts.answering.classify
    record = {"age": 80, "sex": "male", "localization": "back"}
    known = classify(image, fusion, parts.answering.Options(record=record))
    processor = LesionImageProcessor.from_pretrained(fusion_folder)
    inputs = processor({"image": image, **record}, return_tensors="pt")
    expected = fusion.model.predict(**inputs, trust=False)[0]["probabilities"]
    assert known["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert known["probabilities"] != classify(image, fusion)["probabilities"]
    with pytest.raises(parts.answering.OptionError, match="age is 900"):
        classify(image, fusion, parts.answering.Options(record={"age": 900}))
    assert classify(image, sure, parts.answering.Options(record=record)) == classify(image, sure), "not for others"


def test_views_show_what_the_model_saw(parts: Any, trusted: Any, sure: Any) -> None:
    image = opened(parts, trusted, "low")
    prediction = parts.answering.predict(image, sure)
    seen = parts.page_images.as_seen(prediction.inputs, sure)
    squashed = image.resize((64, 64), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(seen, dtype=int) - np.asarray(squashed, dtype=int)).max() <= 1
    field = parts.page_images.heat_map(prediction, sure)
    wanted = sure.model.explain(target=prediction.answer["predicted"], **prediction.inputs).heat_maps[0].numpy()
    assert np.array_equal(field, wanted)
    layer = np.asarray(parts.page_images.heat_layer(field, (64, 64)))
    assert layer.shape == (64, 64, 4)
    assert layer[..., 3].max() == pytest.approx(235 * math.sqrt(field.max()), abs=1)
    assert layer[..., 3][field == 0].max(initial=0) == 0
    shown = parts.html_views.views(image, prediction, sure)
    assert "data-opacity" in shown
    assert "Uploaded, 200 × 150 pixels" in shown
    assert "resized to 64 × 64 pixels; no hair removal" in shown


def test_many_and_one_agree(parts: Any, trusted: Any, sure: Any, tmp_path: Path) -> None:
    names = list(trusted.images)
    paths = [trusted.images[name] for name in names]
    broken = tmp_path / "=cmd|calc.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    entries = parts.archives.list_entries([*paths[:2], broken, *paths[2:]])
    read: Any = lambda entry: parts.image_files.read_image(entry.source)  # noqa: E731
    rows = [row for some in parts.many.classify_files(entries, sure, read) for row in some]
    assert [row.name for row in rows] == ["low.png", "moderate.png", "=cmd|calc.png", "high.png", "ood.png"]
    assert "may be damaged" in rows[2].error
    for row, state in zip([rows[0], rows[1], rows[3], rows[4]], names, strict=True):
        assert row.answer["probabilities"] == pytest.approx(answer_to(trusted, state)["probabilities"], abs=1e-5)
    table = parts.many.as_table(rows, sure.labels)
    read = list(csv.DictReader(io.StringIO(parts.many.as_csv(table))))
    assert [row["reason"] for row in read] == [
        "answered", "answered", "unreadable", "high_uncertainty", "out_of_distribution"
    ]  # fmt: skip
    assert read[2]["image"] == "'=cmd|calc.png", "no formula for a spreadsheet"
    assert float(read[0][f"prob_{read[0]['predicted']}"]) == pytest.approx(
        max(rows[0].answer["probabilities"].values()), rel=1e-5
    )
    html = parts.html_tables.table(rows, sure, 5, parts.many.as_csv(table))
    assert "<b>1</b> answered, <b>1</b> uncertain, <b>2</b> not answered, <b>1</b> not readable" in html
    assert 'aria-valuenow="2"' in parts.html_tables.table(rows[:2], sure, 5)


def test_agreement_is_stated_in_a_sentence(parts: Any) -> None:
    def answer(label: str, abstain: bool = False, labels: str = "ab") -> dict[str, Any]:
        return {"predicted": label, "abstain": abstain, "probabilities": dict.fromkeys(labels, 0.5)}

    say = parts.html_compare.agreement
    a, b, other = answer("a"), answer("b"), answer("x", labels="xyz")
    declined = answer("a", abstain=True)
    assert say([("m", a), ("n", a)], "mn") == "They name the same class, which does not make it right."
    assert say([("m", a), ("n", b)], "mn").startswith("They name different classes")
    assert say([("m", a), ("n", other)], "mn").endswith("different classes; compare nothing but whether they answer.")
    groups = [("m", {**a, "p_malignant": 0.1}), ("n", {**other, "p_malignant": 0.2})]
    assert say(groups, "mn").endswith("know different classes; compare their probabilities of malignancy.")
    assert say([("m", a), ("n", declined)], "mn") == "n did not answer. Only m answers."
    assert say([("m", declined), ("n", declined)], "mn") == "None of them answers."
    assert say([("m", a), ("n", a)], "mno") == (
        "They name the same class, which does not make it right. 1 gave no answer."
    )


def test_text_from_outside_cannot_break_the_page(parts: Any) -> None:
    evil = '<img src=x onerror="alert(1)">'
    config = SimpleNamespace(
        id2label={0: evil, 1: "b"}, label_names={evil: evil}, label_groups={evil: evil}, image_size=None
    )
    source = parts.classifier.ModelSource(evil)
    classifier = parts.classifier.Classifier(source, SimpleNamespace(config=config), None)
    answer = {
        "predicted": evil,
        "probabilities": {evil: 0.75, "b": 0.25},
        "p_malignant": 1.0,
        "predictive_entropy": 0.5,
        "message": evil,
        "reason": evil,
    }
    row = parts.many.Row(evil, answer)
    check = parts.model_folder.Check("differs", [evil], 1, 1)
    for html in (
        parts.html_answer.answer_panel(answer, classifier),
        parts.html_answer.model_facts(classifier),
        parts.html_answer.message(evil),
        parts.html_tables.table([row, parts.many.Row(evil, error=evil)], classifier, 2, "x"),
        parts.html_compare.comparison([(classifier, answer, evil), (None, evil, evil)]),
        parts.html_about.about(classifier, check),
    ):
        assert "<img src=x" not in html
        assert "&lt;img" in html


def test_percentages_do_not_round_to_certainty(parts: Any) -> None:
    written = {p: parts.words.percent(p) for p in (0.0, 0.0004, 0.0312, 0.5, 0.9996, 1.0)}
    assert written == {
        0.0: "0.0 %", 0.0004: "< 0.1 %", 0.0312: "3.1 %", 0.5: "50.0 %", 0.9996: "> 99.9 %", 1.0: "100.0 %",
    }  # fmt: skip


def test_a_probability_is_no_surer_than_was_measured(parts: Any) -> None:
    written = {p: parts.words.chance(p, 6) for p in (0.0, 0.0004, 0.0599, 0.06, 0.131, 0.94, 0.9401, 1.0)}
    assert list(written.values()) == [
        "under 6 %",
        "under 6 %",
        "under 6 %",
        "6 %",
        "13 %",
        "94 %",
        "over 94 %",
        "over 94 %",
    ]
    assert [parts.words.chance(p) for p in (0.0004, 0.9996)] == ["under 1 %", "over 99 %"]


def test_shares_in_plain_words(parts: Any) -> None:
    words = parts.words
    shares = (0.0, 0.004, 0.0453, 0.0577, 0.098, 0.3056, 0.3103, 0.36, 0.999)
    assert [words.about_in(p) for p in shares] == [
        "fewer than 1 in 100", "fewer than 1 in 100", "about 5 in 100", "about 6 in 100", "about 1 in 10",
        "about 3 in 10", "about 3 in 10", "about 36 in 100", "more than 99 in 100",
    ]  # fmt: skip
    assert [words.of_100(p) for p in (0.0, 0.002, 0.1714, 0.89)] == [
        "none of 100", "fewer than 1 of 100", "17 of 100", "89 of 100"
    ]  # fmt: skip


def test_a_probability_is_compared_with_the_assumed_rate(parts: Any) -> None:
    compared = {p: parts.words.times(p, 0.02).removesuffix("the assumed rate") for p in (
        0.001, 0.013, 0.02, 0.03, 0.04, 0.05, 0.18, 0.19, 0.3, 0.9
    )}  # fmt: skip
    assert list(compared.values()) == [
        "less than half ", "below ", "about ", "above the assumed rate, less than twice", "about twice ",
        "more than twice ", "about nine times ", "more than nine times ", "about 15 times ", "more than 20 times ",
    ]  # fmt: skip


def test_examples_are_drawings_of_committed_code(parts: Any, tmp_path: Path) -> None:
    """Drawn again they are the same, up to JPEG's rounding; nothing else lies in the folder."""
    listed = parts.example_images.read_examples(FOLDER)
    assert [example.path.name for example in listed] == [name for name, *_ in DRAWINGS]
    assert {path.name for path in FOLDER.iterdir()} == {"examples.json", *(name for name, *_ in DRAWINGS)}
    for (name, label, seed, caption), example in zip(DRAWINGS, listed, strict=True):
        assert example.caption == caption
        assert caption.startswith("Drawn ")
        with Image.open(FOLDER / name) as image:
            difference = np.asarray(image, dtype=int) - np.asarray(drawing(label, seed), dtype=int)
        assert np.abs(difference).mean() < 6
    # A host's own need a caption and a source each, and may not lead out of their folder.
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    items = [
        {"file": "a.png", "caption": "Mine", "attribution": "Me, CC0"}, {"file": "a.png", "caption": "No source"},
        {"file": "../a.png", "caption": "Out", "attribution": "x"},
        {"file": "no.png", "caption": "x", "attribution": "x"},
    ]  # fmt: skip
    (tmp_path / "examples.json").write_text(json.dumps({"examples": items}))
    assert [example.caption for example in parts.example_images.read_examples(tmp_path)] == ["Mine"]


def test_no_class_name_or_file_name_breaks_the_csv(parts: Any) -> None:
    labels = ["malignant", "image", "ood_score", "a b", "=1+1"]
    answer = {
        "predicted": "malignant",
        "probabilities": dict(zip(labels, (0.5, 0.2, 0.15, 0.1, 0.05), strict=True)),
        "p_malignant": 0.25,
        "prediction_set": ["a b", "malignant"],
        "ood_score": 7.0,
        "abstain": False,
        "reason": "answered",
    }
    text = parts.many.as_csv(parts.many.as_table([parts.many.Row("\uff1d1\x07\u202e.png", answer)], labels))
    row = next(csv.DictReader(io.StringIO(text)))
    assert row["image"] == "'\uff1d1\\x07\\u202e.png"
    assert [float(row[f"prob_{label}"]) for label in labels] == list(answer["probabilities"].values())
    assert (float(row["p_malignant"]), float(row["ood_score"])) == (0.25, 7.0)
    assert row["prediction_set"] == '"a b" malignant'
