"""What a card says of promises: each as what it is, also where there is none, or nothing to measure it on."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_text import card_text

from model_cards.card import TEMPLATES, MissingNumberError
from model_cards.report_view import ReportNode, rate, share

FILES = ["figures/confusion_matrix_test.png"]
EMPTY = "12 of 98 lesions are wrong at the first threshold, 0.0231: a risk of at most 0.05 cannot be promised"
NO_IMAGE = {"value": None, "why": "not defined: no image"}
# Maps whose entries a card lists, whatever they are, and values that only some reports have.
LISTED = {"conventions", "cost", "kinds", "without_own_promise", "malignant_without_own_promise"}
OPTIONAL = {"half", "missed_risk"}


def scalars(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Paths of all plain values."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    for key, item in items:
        if isinstance(item, dict | list):
            yield from scalars(item, (*path, key))
        else:
            yield (*path, key)


def at(report: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        report = report[key]
    return report


def dotted(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def tried(report: dict[str, Any]) -> tuple[MissingNumberError | None, str]:
    """What stops the card, or its text."""
    try:
        return None, card_text(report, FILES)
    except MissingNumberError as error:
        return error, ""


def empty_band(report: dict[str, Any], name: str) -> None:
    report["trust"]["bands"][name] |= {"threshold": None, "n": 98, "errors": 12, "reason": EMPTY}
    promise = report["trust_evaluation"]["bands"]["promises"][name]
    promise |= {
        "measured": {"value": None, "why": "not defined: the band is empty"},
        "kept": None,
        "contradicted": None,
    }


def section(card: str, title: str) -> str:
    return card.split(f"### {title}\n")[1].split("\n### ")[0]


def test_every_fitted_or_evaluated_value_that_is_missing_is_named_by_its_path(report: dict[str, Any]) -> None:
    shown = card_text(report, FILES)
    named = 0
    for top in ("trust", "trust_evaluation", "test_reads"):
        for path in scalars(report[top], (top,)):
            broken = copy.deepcopy(report)
            parent = at(broken, path[:-1])
            if isinstance(parent, list) and path[-1] != len(parent) - 1:
                continue  # without it the others would move up
            del parent[path[-1]]
            error, text = tried(broken)
            if error:
                # A reason stands in the place of a number, so that without it the number is what is missing.
                place = path[:-1] if path[-1] == "why" else path
                assert error.path.startswith(dotted(place)), dotted(path)
                named += 1
            else:
                assert text == shown or LISTED & set(path) or path[-1] in OPTIONAL, dotted(path)
    assert named > 150


@pytest.mark.parametrize(
    "path",
    [
        "trust.bands",
        "trust.policy",
        "trust.prior",
        "trust.fitted_for",
        "trust.ood.chosen_by",
        "trust_evaluation.gate",
        "trust_evaluation.sets",
        "trust_evaluation.bands.missed_in_low",
        "trust_evaluation.verdicts.test",
        "trust_evaluation.selective",
        "test_reads",
    ],
)
def test_a_section_that_is_missing_is_named(report: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    del at(report, tuple(parents))[last]
    with pytest.raises(MissingNumberError) as caught:
        card_text(report, FILES)
    assert caught.value.path == path


def test_the_front_matter_holds_the_two_results_of_trust(report: dict[str, Any]) -> None:
    data = yaml.safe_load(card_text(report, FILES).split("---\n")[1])
    found = {row["type"]: (row["value"], row["name"]) for row in data["model-index"][0]["results"][0]["metrics"]}
    assert found["coverage"] == (0.896, "Coverage of the prediction sets, by lesion, 95 % interval 0.866–0.926")
    assert found["aurc"] == (0.057, "Area under the risk-coverage curve, 95 % interval 0.037–0.077")
    assert {"conformal-prediction", "out-of-distribution-detection", "selective-classification"} <= set(data["tags"])
    report["trust_evaluation"]["sets"] = None
    data = yaml.safe_load(card_text(report, FILES).split("---\n")[1])
    assert "coverage" not in {row["type"] for row in data["model-index"][0]["results"][0]["metrics"]}


def test_a_promise_stands_beside_what_was_measured(report: dict[str, Any]) -> None:
    bands = section(card_text(report, FILES), "Uncertainty bands")
    promised = [
        f"at most {risk} % expected, with 90 % confidence, on lesions like those it was calibrated on"
        for risk in (5, 10)
    ]
    assert f"| Promised share of wrong answers | {promised[0]} | {promised[1]} |" in bands
    assert "| Calibration lesions behind it | 46, 0 wrong | 47, 1 wrong |" in bands
    assert "| Measured on test, by lesion | 4.1 % (2.1–6.1) | 8.5 % (6.5–10.5) |" in bands
    assert "| all malignant lesions | 24.0 | 5.6 % (at most 20.2 %) |" in bands
    assert "did not hold" not in bands


def test_a_promise_that_was_contradicted_is_stated(report: dict[str, Any]) -> None:
    report["trust_evaluation"]["bands"]["promises"]["moderate"]["contradicted"] = True
    bands = section(card_text(report, FILES), "Uncertainty bands")
    assert "**The promise of low and moderate together did not hold on test**" in bands


def test_an_empty_low_band_promises_nothing_and_says_why(report: dict[str, Any]) -> None:
    empty_band(report, "low")
    report["trust_evaluation"]["bands"]["bands"]["low"] |= {"n": 0, "n_groups": 0, "error": NO_IMAGE}
    bands = section(card_text(report, FILES), "Uncertainty bands")
    assert "| Promised share of wrong answers | nothing | at most 10 % expected" in bands
    assert f'**The band "low" is empty: nothing is promised for it.** In calibration: {EMPTY}.' in bands
    assert "| Measured on test, by lesion | not defined: the band is empty | 8.5 % (6.5–10.5) |" in bands
    assert "Malignant lesions missed" not in bands
    assert "declines every input" not in bands
    empty_band(report, "moderate")
    bands = section(card_text(report, FILES), "Uncertainty bands")
    assert 'Every answer is thus in the band "high", and the model declines every input.' in bands


def test_a_band_without_malignant_lesions_misses_a_share_of_nothing(report: dict[str, Any]) -> None:
    report["trust_evaluation"]["bands"]["missed_in_low"]["of_malignant"] = {"n": 0.0, "value": None, "upper": 1.0}
    assert "| all malignant lesions | 0.0 | there is none |" in card_text(report, FILES)


def test_a_vocabulary_without_malignant_classes_has_none_to_miss(report: dict[str, Any]) -> None:
    for label in report["model"]["labels"]:
        label["group"] = "benign"
    why = "not defined: no class of this vocabulary is malignant or premalignant"
    report["trust_evaluation"]["bands"]["missed_in_low"] = {"value": None, "why": why}
    report["trust"]["conformal"]["malignant_without_own_promise"] = []
    card = card_text(report, FILES)
    assert "Malignant lesions missed" not in card
    assert "| `p_malignant` | `None`: no class is malignant |" in card
    assert "**Malignant or premalignant among these" not in card


def test_a_gate_that_accepts_nothing_leaves_nothing_to_measure(report: dict[str, Any]) -> None:
    report["trust_evaluation"] |= {"sets": None, "bands": None}
    verdict = report["trust_evaluation"]["verdicts"]["test"]
    verdict |= {"error_answered": NO_IMAGE, "answered": {"value": 0.0, "low": 0.0, "high": 0.03, "method": "exact"}}
    card = card_text(report, FILES)
    assert "| Answered, of the lesions | 0.0 % (0.0–3.0) |" in card
    assert "The gate accepted nothing of the test split: no band was measured." in card
    assert "The gate accepted nothing of the test split: no coverage was measured." in card
    assert "No promise is made about groups of people" not in card
    assert "Measured on test, by lesion | 4.1" not in card
    assert "† Too few calibration lesions" in card


def test_a_model_that_answers_everything_has_no_share_of_errors_among_the_declined(report: dict[str, Any]) -> None:
    report["trust_evaluation"]["verdicts"]["test"]["error_declined"] = NO_IMAGE
    assert "If it had answered the others" not in card_text(report, FILES)


def test_the_classes_without_a_promise_of_their_own_are_listed(report: dict[str, Any]) -> None:
    sets = section(card_text(report, FILES), "Prediction sets")
    assert "for all but 10 % of such lesions, class by class. LAC (Sadinle et al. 2019), a threshold for each" in sets
    assert "| `bcc` † | 10 | 80.0 % (77.0–83.0) | no promise | 1.85 |" in sets
    assert "| `df` † | 0 | not defined: no images | no promise |  |" in sets
    assert "| `mel` | 14 | 92.9 % (89.9–95.9) | 90.0 % (85.0–95.0) | 1.85 |" in sets
    assert "† Too few calibration lesions for a promise of their own: `bcc`, `df`. They share one threshold" in sets
    assert "**Malignant or premalignant among these: `bcc`.** No promise is made about it alone." in sets
    assert "Outside, where one class in twenty falls by chance: `nv`." in sets
    assert "Every set holds" not in sets


def test_classes_without_any_promise_are_distinguished_from_those_that_share_one(report: dict[str, Any]) -> None:
    conformal = report["trust"]["conformal"]
    conformal["groups"] |= {"bcc": "all classes", "df": "all classes"}
    conformal["qhat"] = [None, None, 0.93, 0.42]
    report["trust_evaluation"]["sets"]["pools"] = []
    report["trust_evaluation"]["sets"]["overall"] |= {"inside": False}
    sets = section(card_text(report, FILES), "Prediction sets")
    assert "Every set holds `bcc`, `df`: there are too few calibration lesions to ever leave them out." in sets
    assert "| `bcc` ‡ | 10 |" in sets
    assert "‡ Too few calibration lesions for any promise: `bcc`, `df`. They take the threshold of all classes." in sets
    assert "†" not in sets
    assert "**The coverage of all lesions is outside.**" in sets


def test_one_threshold_for_all_promises_the_average_alone(report: dict[str, Any]) -> None:
    names = [label["name"] for label in report["model"]["labels"]]
    report["trust"]["conformal"] |= {
        "method": "raps",
        "alpha": 0.025,
        "class_conditional": False,
        "groups": dict.fromkeys(names, "all classes"),
        "without_own_promise": names,
        "malignant_without_own_promise": ["bcc", "mel"],
    }
    sets = section(card_text(report, FILES), "Prediction sets")
    assert "for all but 2.5 % of such lesions, all classes taken together: a rare class may be missed more" in sets
    assert "RAPS (Angelopoulos et al. 2021), one threshold, fitted on 47 calibration lesions." in sets
    assert "‡" not in sets
    assert "†" not in sets


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "The logits are divided by 1.3137 before the softmax"),
        ({"bias": [0.1, 0.2, 0.0, -0.3]}, "divided by 1.3137 and shifted by a bias for each class before the softmax"),
        (
            {"bias": [0.1, 0.2, 0.0, -0.3], "scale": [1.0, 0.9, 1.1, 1.2]},
            "The logits are multiplied by a factor and shifted by a bias, one of each per class, before the softmax",
        ),
    ],
)
def test_each_kind_of_temperature_is_stated(report: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    report["trust"]["temperature"] |= changes
    card = card_text(report, FILES)
    assert message in card
    assert ("The winning class is the same for both." in card) == (not changes)


def test_two_classes_leave_no_set_to_be_too_large_but_that_of_both(report: dict[str, Any]) -> None:
    report["trust"]["policy"]["max_set_size"] = 1
    card = card_text(report, FILES)
    assert "| `answered` | `False` | its band is low or moderate, its set holds one class |" in card
    assert "| `set_too_large` | `True` | its set holds more than 1 class |" in card
    assert "is empty or holds more than 1 class." in card


def test_a_detector_that_was_named_was_not_chosen(report: dict[str, Any]) -> None:
    report["trust"]["ood"]["chosen_by"]["method"] = "named"
    gate = section(card_text(report, FILES), "The gate")
    assert "Detector `energy`, named in advance. Its threshold was set so that it accepts 95 % of those images" in gate
    assert "How the detectors compare" in gate, "the table may be there all the same"
    report["trust"]["ood"]["chosen_by"] = {"method": "named"}
    assert "How the detectors compare" not in card_text(report, FILES)


def test_a_card_states_what_the_gate_accepts_of_each_source(report: dict[str, Any]) -> None:
    alone = {"n": 916, "accepted": 0.951, "accepted_left_out": None, "accepted_by_others": None, "why": "it is alone"}
    report["trust"]["ood"]["sources"] = {"A|1": alone}
    card = card_text(report, FILES)
    assert "The gate was fitted on images of A|1 alone: how many images from elsewhere it accepts is not known." in card
    assert "| A\\|1 | 916 | 95.1 % | not known | not known |  |\n" in card
    assert "\nA|1: it is alone.\n" in card
    two = {"n": 154, "accepted": 0.961, "accepted_left_out": 0.903, "accepted_by_others": 0.571}
    report["trust"]["ood"]["sources"] = {"A": {**two, "n": 762}, "B": two}
    report["trust"]["ood"]["elsewhere"] = {"acceptance": 0.9, "used": True}
    measured = {"value": 0.97, "low": 0.94, "high": 0.99, "method": "exact"}
    report["trust_evaluation"]["gate"]["per_source"] = {"B": {"n": 321, "n_groups": 321, "accepted": measured}}
    card = card_text(report, FILES)
    assert "The gate was fitted on images of A and B.\n" in card
    assert "| A | 762 | 96.1 % | 90.3 % | 57.1 % |  |\n" in card
    assert "| B | 154 | 96.1 % | 90.3 % | 57.1 % | 97.0 % (94.0–99.0) |\n" in card
    assert "The threshold also accepts 90 % of a source that the detector was not fitted on." in card
    report["trust"]["ood"]["elsewhere"]["used"] = False
    assert "of a source left out was not taken: it would accept too many" in card_text(report, FILES)


def test_results_on_ood_images_are_stated_where_they_matter(report: dict[str, Any]) -> None:
    scope = card_text(report, FILES).split("## Out of scope")[1].split("## ")[0]
    assert (
        " Measured, share declined: `chairs` 91.7 % (89.7–93.7) of 300 images; `left out: vasc` 33.3 % (31.3–35.3) "
        "of 21 images.\n- Screening" in scope
    )
    report["trust_evaluation"]["gate"]["sets"] = []
    card = card_text(report, FILES)
    assert " How often that happens was not measured.\n- Screening" in card
    assert "It was not tested on images of none of the classes." in card


def test_every_reason_and_every_key_of_the_shipped_code_is_explained(repo_root: Path) -> None:
    """Read, not imported: a card must not need the model's code."""
    values: dict[str, Any] = {}
    for line in ast.parse((repo_root / "hub_models" / "answer_lesion.py").read_text("utf-8")).body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            values[line.targets[0].id] = line.value
    codes = [
        value.value for value in values.values() if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]
    keys = [key.value for key in values["UNTRUSTED"].keys]
    keys += ["predicted", "probabilities", "p_malignant", "predictive_entropy", "aleatoric", "epistemic", "decision"]
    assert (len(codes), len(keys)) == (10, 15)
    answer = (TEMPLATES / "answer.md.j2").read_text("utf-8")
    assert [word for word in [*codes, *keys] if f"`{word}`" not in answer] == []


def test_shares_in_percent() -> None:
    assert rate(ReportNode({"value": 0.04098, "low": 0.0281, "high": 0.0575, "method": "exact"})) == "4.1 % (2.8–5.8)"
    assert rate(ReportNode({"value": 1, "low": None, "high": None, "method": "no interval"})) == "100.0 % (no interval)"
    assert rate(ReportNode({"value": None, "why": "not defined: no image"})) == "not defined: no image"
    assert [share(ReportNode(value)) for value in (0.05, 0.025, 0.07, 0.9)] == ["5 %", "2.5 %", "7 %", "90 %"]


def test_groups_that_break_a_promise_are_named(report: dict[str, Any]) -> None:
    share = {"value": 0.25, "low": 0.15, "high": 0.38, "method": "exact 95 % by lesion"}
    shares = dict.fromkeys(("answered", "error_answered", "error_low", "missed_low"), share)
    row = {"value": "75+", "n": 180, "n_groups": 144, **shares, "missed_low": NO_IMAGE}
    named = {"column": "age", "value": "75+", "n_groups": 144, "promise": "error_low", "bound": 0.05, "measured": share}
    section = {"columns": {"age": [row]}, "broken": [named], "conventions": {}}
    report["trust_evaluation"]["abstention"] = section
    text = card_text(report, FILES)
    assert (
        '- **age 75+** (144 lesions): wrong in the band "low" 25.0 % (15.0–38.0); promised on average: at most 5 %.'
        in text
    )
    assert "| age 75+ | 144 | 25.0 % (15.0–38.0) | 25.0 % (15.0–38.0) | 25.0 % (15.0–38.0) | – |" in text
    report["trust_evaluation"]["abstention"] = {**section, "broken": []}
    assert "No group of 50 lesions or more" in card_text(report, FILES)


def test_promises_by_group_are_shown_with_and_without_the_group(report: dict[str, Any]) -> None:
    share = {"value": 0.25, "low": 0.15, "high": 0.38, "method": "exact 95 % by lesion"}
    held = {"measured": share, "risk": 0.05, "kept": False, "contradicted": True}
    nothing = {"measured": NO_IMAGE, "risk": None, "kept": None, "contradicted": None}
    bands = {name: {"error": held, "missed": nothing} for name in ("low", "moderate")}
    side = {"answered": share, "coverage": share, "expected": NO_IMAGE, "bands": bands}
    row = {"n": 180, "n_groups": 144, "own": side, "together": side}
    rows = [
        {"value": "45-59", "fitted": ["conformal", "bands"], "pooled": {}, **row},
        {"value": "75+", "fitted": ["conformal"], "pooled": {"bands": "9 lesions, 60 are needed"}, **row},
    ]
    report["trust_evaluation"]["groups"] = {"column": "age_band", "rows": rows, "conventions": {}}
    text = card_text(report, FILES)
    cells = "25.0 % (15.0–38.0)"
    assert "### Promises by age band" in text
    assert f"| 45-59 | 144 | own | {cells} | own | {cells} **broken** | – |" in text
    assert f"| 75+ | 144 | own | {cells} | all groups | {cells} **broken** | – |" in text
    assert f"| 75+ | together | {cells} | {cells} | – | {cells} | – | {cells} | – |" in text
    assert "- 75+: bands of all groups, since 9 lesions, 60 are needed." in text
    for label in report["model"]["labels"]:
        label["group"] = "benign"
    text = card_text(report, FILES)
    assert f"| 45-59 | 144 | own | {cells} | own | {cells} **broken** |\n| 75+ |" in text
    assert f"| 75+ | together | {cells} | {cells} | – | {cells} | {cells} |\n" in text
