from __future__ import annotations

import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_text import card_text

from datasets_scripts.command import UserError
from model_cards.card import CARD_LAYOUT, MissingNumberError, read_report, render
from model_cards.front_matter import slug
from model_cards.report_view import ReportNode, count, duration, num, percent, size

FILES = ["figures/confusion_matrix_test.png"]
GOLDEN = {name: Path(__file__).with_name(f"golden_{name}.txt") for name in ("README.md", "REPORT.md")}


def numbered_paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all measured numbers of a report."""
    if isinstance(value, dict) and set(value) == {"value", "low", "high", "method"}:
        return [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [found for key, item in items for found in numbered_paths(item, (*path, key))]


def at(report: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        report = report[key]
    return report


def test_the_card_is_the_golden_one(report: dict[str, Any]) -> None:
    """Meant to change? Raise CARD_LAYOUT when the words change, then run once with LESION_UPDATE_GOLDEN=1."""
    texts = render(report, FILES)
    if os.environ.get("LESION_UPDATE_GOLDEN"):
        for name, text in texts.items():
            GOLDEN[name].write_text(text, encoding="utf-8")
    assert texts == {name: path.read_text("utf-8") for name, path in GOLDEN.items()}
    assert all(f"<!-- Card layout {CARD_LAYOUT}." in text for text in texts.values())


def test_rendering_twice_gives_the_same_bytes(report: dict[str, Any]) -> None:
    assert card_text(report, FILES) == card_text(copy.deepcopy(report), FILES)


def test_front_matter_is_what_the_hub_searches(report: dict[str, Any]) -> None:
    data = yaml.safe_load(card_text(report, FILES).split("---\n")[1])
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "image-classification"
    assert data["base_model"] == "timm/mobilenetv2_100.ra_in1k"
    assert data["license"] == "cc-by-nc-4.0"
    assert "datasets" not in data, "invented-lesions is no id of the Hub"
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == "parquet"
    assert {"medical", "research-only", "mobilenet"} <= set(data["tags"])
    result = data["model-index"][0]["results"][0]
    assert result["dataset"]["config"] == "grouped"
    metrics = {row["name"].split(",")[0]: row["value"] for row in result["metrics"]}
    assert metrics["Accuracy"] == 0.816
    assert metrics["Macro F1"] == 0.696
    assert metrics["AUROC of p_malignant"] == 0.896


def test_a_licence_the_hub_does_not_know_is_named_and_linked(report: dict[str, Any]) -> None:
    report["model"]["license"] = "House Licence 1"
    data = yaml.safe_load(card_text(report, [*FILES, "LICENSE"]).split("---\n")[1])
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "house-licence-1", "LICENSE")


def test_an_undefined_metric_is_left_out_of_the_index_and_stated_in_the_table(report: dict[str, Any]) -> None:
    undefined = {"value": None, "why": "not defined: no malignant or premalignant image"}
    report["evaluation"]["test"]["discrimination"]["auroc_malignant"] = undefined
    text = card_text(report, FILES)
    assert "AUROC of p_malignant" not in text.split("---\n")[1]
    assert "| AUROC of `p_malignant` | not defined: no malignant or premalignant image |" in text
    assert "| `df` | 0 | 0 | not defined: support 0 |" in text


def test_every_measured_number_that_is_missing_is_named_by_its_path(report: dict[str, Any]) -> None:
    shown = card_text(report, FILES)
    paths = [path for path in numbered_paths(report) if path[0] in ("evaluation", "trust_evaluation")]
    assert len(paths) > 140
    for path in paths:
        broken = copy.deepcopy(report)
        parent = at(broken, path[:-1])
        parent[path[-1]] = {**parent[path[-1]], "value": 0.123456, "low": 0.1, "high": 0.2}
        if card_text(broken, FILES) == shown:
            continue  # a number of a split of which the card shows only a part
        del parent[path[-1]]
        name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
        with pytest.raises(MissingNumberError) as caught:
            card_text(broken, FILES)
        assert caught.value.path == name
        assert str(caught.value).startswith(f"report.json: {caught.value.path} is missing")


@pytest.mark.parametrize(
    "path",
    [
        "training.best_epoch",
        "training.kept_epoch",
        "training.peak_memory_bytes",
        "trust.temperature.value",
        "trust.temperature.nll_after",
        "leak_audit.test.leaking",
        "provenance.seed",
        "provenance.dataset.fingerprint",
        "provenance.dataset.splits.test.groups",
        "model.num_parameters",
        "evaluation.test.confusion_matrix",
        "evaluation.test.subgroups.sex",
    ],
)
def test_plain_numbers_and_facts_that_are_missing_are_named_too(report: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    parent = at(report, tuple(parents))
    if path.endswith("subgroups.sex"):
        parent[last][0].pop("n")
        path += "[0].n"
    else:
        del parent[last]
    with pytest.raises(MissingNumberError, match=path.replace("[", r"\[").replace("]", r"\]")):
        card_text(report, FILES)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.8", True, None])
def test_a_number_that_is_none_is_an_error(report: dict[str, Any], value: Any) -> None:
    report["training"]["train_seconds"] = value
    with pytest.raises(MissingNumberError, match=r"training\.train_seconds is"):
        card_text(report, FILES)


def test_a_bound_may_only_be_absent_with_a_reason(report: dict[str, Any]) -> None:
    accuracy = report["evaluation"]["test"]["discrimination"]["accuracy"]
    accuracy["low"] = None
    with pytest.raises(MissingNumberError, match=r"accuracy\.low"):
        card_text(report, FILES)
    accuracy["method"] = "no interval: no class has two lesions"
    assert "| Accuracy | 0.816 (no interval) |" in card_text(report, FILES)


def test_a_leak_is_stated_at_the_top(report: dict[str, Any]) -> None:
    report["leak_audit"]["test"] = {
        "n": 137,
        "leaking": 53,
        "share": 53 / 137,
        "per_class": {"mel": {"n": 22, "leaking": 15, "share": 15 / 22}},
    }
    text = card_text(report, FILES)
    top = text.split("## How to use it")[0]
    assert "**These numbers are optimistic.** 53 of the 137 test images (38.7 %)" in top
    assert "| `mel` | 22 | 15 | 68.2 % |" in text
    report["leak_audit"]["test"]["per_class"]["df"] = {"n": 0, "leaking": 0, "share": None}
    assert "| `df` | 0 | 0 | no images |" in card_text(report, FILES)


def test_drawn_images_are_stated_at_the_top(report: dict[str, Any]) -> None:
    assert "Drawn images" not in card_text(report, FILES)
    report["provenance"]["dataset"]["sources"] = ["phantom"]
    assert "No number on this card says anything about skin." in card_text(report, FILES).split("## How")[0]


def test_the_not_a_medical_device_notice_comes_first(report: dict[str, Any]) -> None:
    body = card_text(report, FILES).split("---\n", 2)[2].strip().splitlines()
    assert body[0] == "# Invented MobileNetV2"
    assert body[2].startswith("> **Not a medical device.**")


def test_a_model_selected_on_the_temperature_split_says_so(report: dict[str, Any]) -> None:
    for fitted in (*report["trust"].values(), *report["trust"]["bands"].values()):
        if "split" in fitted:
            fitted |= {"split": "validation", "also_used_for_model_selection": True}
    report["evaluation"].pop("calibration")
    text = card_text(report, FILES)
    assert "The same split also chose the epoch" in text
    assert (
        "**That split was also used for model selection**: it chose the epoch, so every promise below is weaker" in text
    )
    assert "| validation | choosing the epoch, fitting trust | 97 | 0.8" in text
    assert "| calibration | fitting" not in text


def test_a_vocabulary_without_malignant_classes_has_no_p_malignant(report: dict[str, Any]) -> None:
    assert "AUROC of `p_malignant`" in card_text(report, FILES)
    for label in report["model"]["labels"]:
        label["group"] = None
    report["trust"]["decision"]["sensitivity"] = None
    lines = card_text(report, FILES).splitlines()
    named = [line for line in lines if "`p_malignant`" in line]
    assert named == ["| `p_malignant` | `None`: which classes are malignant is not stated |"]
    words = ("melanoma can cost", "risk of cancer", "(not stated)", "| Name | Group |", "named malignant")
    assert not [line for line in lines if any(word in line for word in words)]


def test_a_pipe_in_a_text_does_not_break_a_table(report: dict[str, Any]) -> None:
    report["provenance"]["command"] = "train | tee\nlog"
    assert "| Command | `train \\| tee log` |" in card_text(report, FILES)


def test_a_figure_that_is_not_in_the_folder_is_an_error(report: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"names figures/confusion_matrix_test\.png"):
        card_text(report, [])


def test_every_table_names_its_place_in_the_report(report: dict[str, Any]) -> None:
    lines = card_text(report, FILES).splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("|--") and lines[i - 1] != "| Key | What it holds |"]
    assert len(heads) == 35
    for head in heads:
        source = lines[head - 2].removeprefix("<!-- report.json: ").removesuffix(" -->").split(",")[0]
        assert lines[head - 2].startswith("<!-- report.json: ")
        assert at(report, tuple(source.split(".")))


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not JSON"), ("[1]", "holds list"), ('{"schema_version": 2}', "layout 2")]
)
def test_a_report_that_cannot_be_read_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_report(tmp_path)


def test_a_folder_without_a_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no report\.json"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("raw", "digits", "text"),
    [
        ({"value": 0.8156, "low": 0.7951, "high": 0.8364, "method": "m"}, 3, "0.816 (0.795–0.836)"),
        ({"value": -0.001, "low": -0.012, "high": 0.01, "method": "m"}, 3, "-0.001 (-0.012 to 0.010)"),
        ({"value": 0.5, "low": 0.4, "high": 0.6, "method": "m"}, 1, "0.5 (0.4–0.6)"),
        ({"value": None, "why": "not defined: support 0"}, 3, "not defined: support 0"),
        ({"value": 1, "low": None, "high": None, "method": "no interval: few"}, 3, "1.000 (no interval)"),
    ],
)
def test_num(raw: dict[str, Any], digits: int, text: str) -> None:
    assert num(ReportNode(raw, "x"), digits) == text


def test_counts_shares_times_and_sizes() -> None:
    assert count(ReportNode(10015)) == "10,015"
    assert count(ReportNode(14.0)) == "14"
    with pytest.raises(MissingNumberError, match="not a whole number"):
        count(ReportNode(14.5, "n"))
    assert percent(ReportNode(0.39)) == "39.0 %"
    with pytest.raises(MissingNumberError, match="share is None and not a number"):
        percent(ReportNode(None, "share"))
    assert [duration(ReportNode(s)) for s in (95, 1861, 7260)] == ["95 s", "31 min", "2 h 1 min"]
    assert [size(ReportNode(s)) for s in (812, 12_300, 1_912_345_678)] == ["812 B", "12.3 kB", "1.9 GB"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("HAM10000 (grouped)", "ham10000-grouped"), ("CC BY-NC 4.0", "cc-by-nc-4.0"), ("Derm-X", "derm-x")],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_a_star_in_a_caption_stays_a_star(report: dict[str, Any]) -> None:
    report["figures"][0]["caption"] = "* marks malignant classes, * and so on"
    lines = card_text(report, FILES).splitlines()
    assert "![confusion matrix test](figures/confusion_matrix_test.png)" in lines
    assert "\\* marks malignant classes, \\* and so on" in lines


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("timm/resnet50.a1_in1k", "timm/resnet50.a1_in1k"), (["a/b", "c/d"], ["a/b", "c/d"]), (["a/b", "local"], "a/b"),
        ("local", None), ("/data/weights", None), ("../x/y", None), ("a/b/c", None), ("a/b c", None), (None, None),
        ("a--b/c", None), ("", None), ([], None), (5, None), ("a/b.git", None),
    ],
)  # fmt: skip
def test_only_ids_of_the_hub_stand_in_the_front_matter(report: dict[str, Any], names: Any, expected: Any) -> None:
    report["model"]["base_model"] = names
    kept = expected if isinstance(expected, list) else [expected] if expected else []
    for name in names if isinstance(names, list) else [names]:
        report["provenance"]["dataset"]["name"] = str(name)
        data = yaml.safe_load(card_text(report, FILES).split("---\n")[1])
        assert data.get("base_model") == expected
        assert data.get("datasets") == ([name] if name in kept else None)
        assert data["model-index"][0]["results"][0]["dataset"]["type"] == (name if name in kept else "parquet")


def test_the_printed_answers_are_those_of_the_report(report: dict[str, Any]) -> None:
    card = render(report, FILES)["README.md"]
    use = card.split("## How to use it")[1].split("\n## ")[0]
    code, answered, declined = re.findall(r"```(?:python|text)\n(.*?)```", use, re.DOTALL)
    assert 'print(answer["predicted"], answer["band"], answer["prediction_set"])' in code
    assert answered == "Melanoma (malignant) or Nevus, low uncertainty.\nmel low ['mel', 'nv']\n"
    assert declined == "The model declines.\n"
    assert "the first test image that it answers (its class is `nv`)" in use
    assert "the first test image that it declines (its class is `df`)" in use
    del report["example_answers"][0]["message"]
    with pytest.raises(MissingNumberError, match=r"example_answers\[0\].message is missing"):
        render(report, FILES)
    del report["example_answers"]
    assert "It prints" not in render(report, FILES)["README.md"], "an older report has none"


def test_the_examples_load_what_was_published(report: dict[str, Any]) -> None:
    name = report["model"]["name"]
    card = card_text(report, FILES)
    assert f'"ORG/{name}"' in card
    assert f"in place of `ORG/{name}`" in card
    card = card_text({**report, "model": {**report["model"], "repo_id": "org/lesions"}}, FILES)
    assert '"org/lesions"' in card
    assert f"ORG/{name}" not in card
    assert "not on the Hub yet" not in card
