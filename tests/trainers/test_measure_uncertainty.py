"""The command: a finished model and its dataset in; a whole folder with the table of ways in report and card out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from card_text import folder_card

from datasets_scripts.command import UserError
from datasets_scripts.command import run as run_command
from model_cards.verify import verify_folder
from trainers import measure_uncertainty as command

pytestmark = [
    pytest.mark.filterwarnings("ignore::trainers.trust.conformal.ConformalFitWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning"),
]


def test_the_table_is_in_report_and_card(
    trained: Path,
    phantom_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = ["--dataset", phantom_dataset, "--output_dir", out, "--samples", 3, "--bootstrap_replicates", 20]
    monkeypatch.setattr(sys, "argv", ["measure_uncertainty", *map(str, [trained, *words])])
    command.main()
    assert verify_folder(out) == []
    before, after = (json.loads((folder / "report.json").read_text()) for folder in (trained, out))
    assert set(after) - set(before) == {"uncertainty"}
    table, card = after["uncertainty"], folder_card(out)
    assert set(table["rows"]) >= {table["reference"], "mc_dropout", "tta", "laplace"}
    assert set(table["verdicts"]) == set(table["rows"]) - {table["reference"]}
    plain = next(row for name, row in table["rows"].items() if name in ("plain", "ensemble"))
    assert table["n"] == after["evaluation"]["test"]["n"]
    assert f"| {plain['nll']['value']:.3f} (" in card
    assert "## Ways to get an uncertainty" in card
    assert "against" in capsys.readouterr().out


def test_numbers_out_of_range_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["measure_uncertainty", "m", "--dataset", "d", "--output_dir", str(tmp_path / "o"),
                                      "--samples", "0"])  # fmt: skip
    with pytest.raises(UserError, match="--samples 0: give at least 1"):
        command.main()
    with pytest.raises(SystemExit):
        run_command(command.main)
