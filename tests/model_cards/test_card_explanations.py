"""What a card says of heat maps: the number beside what it would be without any model, and no claim beyond it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from card_text import card_text
from invented_trust import measured, undefined

from datasets_scripts.command import UserError
from model_cards.build import build_card
from model_cards.card import MissingNumberError
from model_cards.verify import verify_folder

FILES = ["figures/confusion_matrix_test.png", "figures/heat_on_lesion_test.png"]
# What stands in the report and not in the card, or is a list whose entries the card takes as they come.
NOT_SHOWN = {"low", "high", "method", "split", "n_groups", "images", "faithful", "steps", "made", "conventions", "none"}


def difference(value: float, spread: float = 0.02) -> dict[str, Any]:
    return measured(value, spread)


def game(value: float, over_blob: float) -> dict[str, Any]:
    found = {name: measured(round(value - step, 6)) for name, step in (("heat_map", 0.0), ("random", 0.2))}
    found |= {"blob": measured(round(value - over_blob, 6)), "other": measured(round(value - 0.04, 6))}
    minus = {"area": 0.21, "random": 0.2, "blob": over_blob, "other": 0.04}
    return found | {f"minus_{name}": difference(step) for name, step in minus.items()}


def inside(n: int, over_blob: float = 0.05) -> dict[str, Any]:
    energy = game(0.52, over_blob) | {"times_area": measured(1.73, 0.05)}
    return {"n": n, "n_groups": n * 2 // 3, "area": measured(0.3), "energy": energy, "pointing": game(0.81, -0.11)}


def nothing() -> dict[str, Any]:
    def why() -> dict[str, Any]:
        return undefined("no such image was measured")

    names = ("heat_map", "random", "blob", "other", "minus_area", "minus_random", "minus_blob", "minus_other")
    energy = {name: why() for name in (*names, "times_area")}
    return {"n": 0, "n_groups": 0, "area": why(), "energy": energy, "pointing": {name: why() for name in names}}


def faithful() -> dict[str, Any]:
    def areas(value: float, sign: int) -> dict[str, Any]:
        found = {name: measured(round(value + sign * 0.1 * step, 6)) for step, name in enumerate(("heat_map", "blob"))}
        found["random"] = measured(round(value + 0.2 * sign, 6))
        return found | {"minus_random": difference(-0.2 * sign), "minus_blob": difference(-0.1 * sign)}

    ends = {"whole": measured(0.8), "blurred": measured(0.21)}
    return {"n": 90, "n_groups": 90, **ends, "deletion": areas(0.35, 1), "insertion": areas(0.68, -1)}


@pytest.fixture
def explained(report: dict[str, Any]) -> dict[str, Any]:
    """The report of a model whose explanations were measured; every number in it is invented."""
    rows = [{"name": name, "inside": inside(n) if n else nothing()} for name, n in (("mel", 20), ("nv", 90), ("df", 0))]
    verdicts = [{"name": name, "images": 40, "inside": inside(36)} for name in ("right", "wrong", "declined")]
    stages = [
        {"name": name, "likeness": difference(value), "blank": 0.1}
        for name, value in (("head", 0.61), ("third", 0.27), ("two_thirds", -0.06), ("all", -0.12))
    ]
    keys = ("packages", "git_commit", "git_dirty")
    made = {"created": "2026-03-04T00:00:00Z", "command": "trainers/measure_explanations.py x", "packages": {}}
    report["explanations"] = {
        "split": "test",
        "method": "grad_cam",
        "steps": 10,
        "made": made | {key: report["provenance"][key] for key in keys},
        "n": 137,
        "n_groups": 91,
        "masks": {"there": 118, "empty": 2, "none": {"bcc": 17}},
        "blank": 3,
        "overall": {"inside": inside(115), "faithful": faithful()},
        "per_class": rows,
        "per_verdict": verdicts,
        "random_weights": {"n": 90, "n_groups": 90, "stages": stages, "other_picture": measured(0.76)},
        "members": {"n": 137, "n_groups": 91, "likeness": difference(0.72)},
        "repeated": {"n": 90, "largest_difference": 0.0},
        "conventions": {"energy": "Share of the sum.", "blob": "In the middle."},
        "figures": [{"file": FILES[1], "caption": "Where the heat lies."}],
    }
    return report


def section(card: str) -> str:
    return card.split("## Heat maps\n")[1].split("\n## ")[0]


def test_the_number_stands_beside_what_it_would_be_without_a_model(explained: dict[str, Any]) -> None:
    text = section(card_text(explained, FILES))
    assert "Measured here: `grad_cam`, for the class that the model predicts, on the test split." in text
    assert "It is no reason for the answer, and not the border of a lesion." in text
    assert (
        "**52.0 % (50.0–54.0)** of the heat lies on the lesion, which takes up 30.0 % (28.0–32.0) of the image: 1.73 "
        "(1.68–1.78) times the share of a uniform map."
    ) in text
    assert "the heat map does better than the blob" in text
    assert "it follows the lesion of its own image more than that of another image" in text
    assert "| Heat map | **52.0 % (50.0–54.0)** | | **81.0 % (79.0–83.0)** | |" in text
    assert "| Noise | 32.0 % (30.0–34.0) | +20.0 % (+18.0 to +22.0) | 61.0 % (59.0–63.0) | +20.0 % (+18.0" in text
    assert "| `mel` | 20 | 13 | 30.0 % (28.0–32.0) | 52.0 % (50.0–54.0) | +5.0 % (+3.0 to +7.0) | +4.0 %" in text
    assert "| `df` | 0 | 0 | not defined: no such image was measured | | | | |\n" in text
    assert "| declined | 36 | 24 |" in text
    assert "Of 137 images 118 have a mask of the lesion; none have 17 of `bcc`; of 2 it is empty." in text
    assert "On 3 the heat map is 0 everywhere: no pixel supports the class." in text


def test_what_the_probability_hangs_on_and_what_was_learned(explained: dict[str, Any]) -> None:
    text = section(card_text(explained, FILES))
    assert "It is 0.800 (0.780–0.820) on the whole image and 0.210 (0.190–0.230) on the blurred one: every" in text
    assert "| One image of each of 90 lesions | Area under deletion (low is good) |" in text
    assert "| Noise | 0.550 (0.530–0.570) | -0.200 (-0.220 to -0.180) | 0.480 (0.460–0.500) | +0.200 (+0.180 to" in text
    assert "| the layers behind the backbone | 0.610 (0.590–0.630) | 10.0 % |" in text
    assert "| all of it | -0.120 (-0.140 to -0.100) | 10.0 % |" in text
    assert "| nothing, but another lesion's image | 0.760 (0.740–0.780) | |" in text
    assert "agree with a rank correlation of 0.720 (0.700–0.740) in the mean (137 images). A second run on" in text
    assert "90 images gave exactly the same heat maps." in text
    assert "![heat on lesion test](figures/heat_on_lesion_test.png)\n\nWhere the heat lies." in text
    assert "Made 2026-03-04T00:00:00Z by `trainers/measure_explanations.py x`." in text


@pytest.mark.parametrize(
    ("over_blob", "spread", "message"),
    [
        (0.05, 0.02, "does better than the blob"),
        (-0.05, 0.02, "does worse than the blob"),
        (0.01, 0.02, "cannot be distinguished from the blob"),
    ],
)
def test_no_more_is_claimed_than_the_interval_allows(
    explained: dict[str, Any], over_blob: float, spread: float, message: str
) -> None:
    explained["explanations"]["overall"]["inside"]["energy"]["minus_blob"] = difference(over_blob, spread)
    assert message in section(card_text(explained, FILES))
    without = {
        "value": over_blob,
        "low": None,
        "high": None,
        "method": "no interval",
        "why": "no class has two lesions",
    }
    explained["explanations"]["overall"]["inside"]["energy"]["minus_blob"] = without
    assert "cannot be distinguished from the blob" in section(card_text(explained, FILES))


def test_without_masks_a_single_model_and_another_rounding(explained: dict[str, Any]) -> None:
    seen = explained["explanations"]
    seen |= {"members": None, "repeated": {"n": 90, "largest_difference": 0.000012}}
    seen["overall"]["inside"] = nothing()
    seen["masks"] = {"there": 0, "empty": 0, "none": {"mel": 22, "nv": 115}}
    text = section(card_text(explained, FILES))
    assert "How much of the heat lies on the lesion was not measured: not defined: no such image was measured." in text
    assert "a uniform map" not in text
    assert "0 have a mask of the lesion; none have 22 of `mel`, 115 of `nv`." in text
    assert "two members" not in text
    assert "heat maps that differ by 0.000012 at most" in text


def test_a_report_without_explanations_has_no_such_section(report: dict[str, Any]) -> None:
    assert "## Heat maps" not in card_text(report, FILES)


def scalars(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []:
        if isinstance(item, dict | list):
            yield from scalars(item, (*path, key))
        else:
            yield (*path, key)


def test_every_shown_value_that_is_missing_is_named_by_its_path(explained: dict[str, Any]) -> None:
    shown, named = card_text(explained, FILES), 0
    for path in scalars(explained["explanations"], ("explanations",)):
        broken = copy.deepcopy(explained)
        parent = broken
        for key in path[:-1]:
            parent = parent[key]
        del parent[path[-1]]
        try:
            assert card_text(broken, FILES) == shown or NOT_SHOWN & set(path), path
        except MissingNumberError as error:
            dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")
            # Without its reason a number is what is missing.
            assert error.path.startswith(dotted.removesuffix(".why")), dotted  # noqa: PT017
            named += 1
    assert named > 150


def test_a_figure_that_is_not_there_stops_the_card(explained: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"names figures/heat_on_lesion_test\.png, which is not in the folder"):
        card_text(explained, FILES[:1])


def test_a_changed_number_of_the_section_is_found(model_folder: Path, explained: dict[str, Any]) -> None:
    (model_folder / "report.json").write_text(json.dumps(explained))
    (model_folder / FILES[1]).write_bytes((model_folder / FILES[0]).read_bytes())
    build_card(model_folder)
    assert verify_folder(model_folder) == []
    card = model_folder / "REPORT.md"
    card.write_text(
        card.read_text().replace("**52.0 % (50.0–54.0)** of the heat", "**92.0 % (50.0–54.0)** of the heat")
    )
    assert any("the card says 92.0, report.json gives 52.0" in problem for problem in verify_folder(model_folder))


SETTINGS = {"do_resize": True, "do_hair_removal": False, "do_lesion_crop": True, "size": {"height": 224, "width": 224}}


def test_the_steps_before_the_resize_are_stated(report: dict[str, Any]) -> None:
    fitted = report["trust"]["fitted_for"]
    assert "Before the resize" not in card_text(report, FILES), "not known"
    fitted["preprocessing"] = SETTINGS
    line = "| Before the resize | hair removal off, lesion crop on, colour constancy off |"
    assert line in card_text(report, FILES), "a switch that a processor lacks is off"
    fitted["preprocessing"] = {**SETTINGS, "do_hair_removal": True, "do_colour_constancy": True}
    assert re.search(
        r"Before the resize \| hair removal on, lesion crop on, colour constancy on \|", card_text(report, FILES)
    )
    fitted["preprocessing"] = {"do_resize": True}
    card = card_text(report, FILES)
    assert "| Before the resize | hair removal off, lesion crop off, colour constancy off |" in card
    assert "Derm-X better" not in card
    report["model"] |= {"inputs": ["metadata"], "metadata_fields": ["age"]}
    assert "Before the resize" not in card_text(report, FILES), "it looks at no image"
