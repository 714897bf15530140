"""A card is read in five minutes, and what it leaves out is in REPORT.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from card_text import folder_card

from model_cards.build import build_card
from model_cards.card import CARD, DETAILS
from model_cards.verify import verify_folder

MOST_BYTES = 15_000
ROOT = Path(__file__).resolve().parents[2]
RELEASED = sorted(path for path in (ROOT / "hub_models" / "released").iterdir() if (path / "report.json").is_file())
# The sections that one README held before REPORT.md was split off.
SECTIONS = [
    *("How to use it", "What it is", "Intended use", "Out of scope", "Data", "Leak audit", "Results"),
    *("Calibration, before and after fitting", "By class", "By group of people", "Confusion matrix", "Other splits"),
    *("How these numbers are computed", "What the probabilities mean", "`p_malignant`", "Temperature", "Prevalence"),
    *("When it does not answer", "Uncertainty bands", "Prediction sets", "The gate", "Fewer answers, fewer errors"),
    *("Log of the reads of the test split", "Training", "Limits", "Ethics", "Provenance", "Citation", "Licence"),
]


def headings(text: str) -> set[str]:
    return {line.lstrip("#").strip() for line in text.splitlines() if line.startswith("#")}


def links(text: str) -> set[str]:
    return {part.split(")")[0] for part in text.split("](REPORT.md#")[1:]}


def anchor(heading: str) -> str:
    return "".join(char for char in heading.lower().replace(" ", "-") if char.isalnum() or char in "-_")


def problems_of(folder: Path) -> list[str]:
    """What is too long, lost or not linked in the card of a folder."""
    card, details = ((folder / name).read_text("utf-8") for name in (CARD, DETAILS))
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    widest = max(line.count("|") - 1 for line in card.splitlines() if line.startswith("|"))
    return [
        *verify_folder(folder),
        *(f"{name} is not in the manifest" for name in (CARD, DETAILS) if name not in listed),
        *([f"{CARD} has {len(card.encode())} bytes"] if len(card.encode()) > MOST_BYTES else []),
        *([f"a table of {widest} columns breaks on a narrow page"] if widest > 6 else []),
        *(f"the section {name!r} is lost" for name in SECTIONS if name not in headings(folder_card(folder))),
        *(f"nothing at {DETAILS}#{link}" for link in links(card) - {anchor(name) for name in headings(details)}),
    ]


@pytest.mark.parametrize("folder", RELEASED, ids=lambda path: path.name)
def test_the_card_of_a_released_model_is_short_and_loses_nothing(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / folder.name)
    build_card(copy)
    assert problems_of(copy) == []


def test_the_card_of_a_finished_folder_is_short_and_loses_nothing(model_folder: Path, report: dict[str, Any]) -> None:
    assert problems_of(model_folder) == []
    assert report["model"]["notes"][0] in (model_folder / DETAILS).read_text("utf-8")


def test_the_card_of_a_thousand_classes_is_short(model_folder: Path, report: dict[str, Any]) -> None:
    more = [f"class {number:04d}" for number in range(996)]
    shown = report["model"]["labels"][1]
    report["model"]["labels"] += [{**shown, "name": name, "long_name": name} for name in more]
    for split in report["evaluation"].values():
        split["per_class"] += [{**split["per_class"][1], "name": name} for name in more]
    sets = report["trust"]["conformal"]
    sets["qhat"] += [0.9] * len(more)
    sets["groups"] |= dict.fromkeys(more, "small classes: bcc, df")
    sets["without_own_promise"] += more
    report["trust"]["prior"]["value"] += [0.0] * len(more)
    for part in report["provenance"]["dataset"]["splits"].values():
        part["per_class"] |= dict.fromkeys(more, 3)
    (model_folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    build_card(model_folder)
    card, details = ((model_folder / name).read_text("utf-8") for name in (CARD, DETAILS))
    assert len(card.encode()) <= MOST_BYTES
    assert "the first 20 of 1000; the others are in [REPORT.md](REPORT.md#by-class)" in card
    assert (card.count("| `class "), details.count("| `class 0995`")) == (16, 4)
