"""An autoencoder's card: every number from its report, and none where it is missing."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_text import card_text

from model_cards.card import render
from model_cards.report_view import MissingNumberError


@pytest.fixture(scope="module")
def report(trained_autoencoder: Path) -> dict[str, Any]:
    return json.loads((trained_autoencoder / "report.json").read_text())


def files_of(report: dict[str, Any]) -> list[str]:
    return [figure["file"] for figure in report["figures"]]


def shown(number: dict[str, Any], digits: int) -> str:
    return f"{number['value']:.{digits}f} ({number['low']:.{digits}f}–{number['high']:.{digits}f})"


def test_the_card_states_the_reports_numbers(report: dict[str, Any], trained_autoencoder: Path) -> None:
    texts = render(report, files_of(report))
    assert texts == {name: (trained_autoencoder / name).read_text() for name in ("README.md", "REPORT.md")}
    assert len(texts["README.md"].encode()) <= 15_000
    text = card_text(report, files_of(report))
    test = report["evaluation"]["test"]
    assert f"a PSNR of **{shown(test['psnr'], 2)}** dB and an SSIM of **{shown(test['ssim'], 3)}**" in text
    assert f"| With codes of 8 bits | {shown(test['psnr_8bit'], 2)} | |" in text
    assert f"| Noisy images, reconstructed | {shown(test['denoising']['denoised'], 2)} | |" in text
    assert "trained to remove noise of standard deviation 0.1" in text
    assert "| linear, 8 codes: 256 bits per image as float32, 64 at 8 bits each |" in text
    assert "No number on this card says anything about skin." in text
    assert "None" not in text
    assert "{{" not in text
    header = yaml.safe_load(text.split("---\n")[1])
    assert (header["pipeline_tag"], header["library_name"]) == ("image-feature-extraction", "transformers")
    results = header["model-index"][0]["results"][0]["metrics"]
    assert [(row["type"], row["value"]) for row in results] == [
        ("psnr", round(test["psnr"]["value"], 4)),
        ("ssim", round(test["ssim"]["value"], 4)),
    ]


@pytest.mark.parametrize(
    "path",
    [
        ("evaluation", "test", "psnr"),
        ("evaluation", "test", "checkerboard", 0, "db"),
        ("model", "code_size"),
        ("training", "best_metric"),
        ("provenance", "seed"),
    ],
    ids=lambda path: ".".join(map(str, path)),
)
def test_a_missing_number_stops_the_card(report: dict[str, Any], path: tuple[str | int, ...]) -> None:
    broken = copy.deepcopy(report)
    place: Any = broken
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    with pytest.raises(MissingNumberError, match="evaluate the model again"):
        render(broken, files_of(report))


def test_without_a_test_split_the_card_says_so(report: dict[str, Any]) -> None:
    untested = copy.deepcopy(report)
    del untested["evaluation"]["test"]
    text = card_text(untested, files_of(report))
    assert "> **Not tested.** There is no test split." in text
    assert shown(report["evaluation"]["validation"]["psnr"], 2) in text
    assert "model-index" not in text
