"""The command, on two folders with a report and predictions each; training is that of ``cross_validate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets_scripts.command import run
from trainers import leak_cost as command
from trainers.metrics.predictions import Predictions, write_predictions
from trainers.model_folder.data import load_splits
from trainers.training.cross_validation import Plan
from trainers.training.leak_cost import groups_of


def finished(folder: Path, dataset: Path, config: str, **recipe: Any) -> Path:
    """A folder with what the command reads of a finished model: report and predictions, here right for 2 of 3."""
    splits = load_splits(str(dataset), config)
    folder.mkdir(parents=True)
    for split in sorted({"test", "calibration", "validation"} & set(splits.splits)):  # published has no calibration
        ids, label = splits.column(split, "image_id"), np.array(splits.splits[split]["label"][:])
        named = np.where(np.arange(len(label)) % 3 > 0, label, (label + 1) % len(splits.labels))
        groups = groups_of(splits, split)
        rows = Predictions(
            image_id=np.array(ids, dtype=object),
            lesion_id=groups,
            group_id=groups,
            label=label,
            logits=3.0 * np.eye(len(splits.labels))[named][:, None],
            labels=list(splits.labels),
            label_names={},
            label_groups={},
            split=split,
            dataset=splits.name,
        )
        write_predictions(rows, folder / f"predictions_{split}.parquet")
    origin = {"seed": 3, "recipe": {"learning_rate": 0.1, "config_name": config, **recipe}}
    origin["dataset"] = {"name": splits.name, "config_name": config}
    report = {"provenance": origin, "model": {"title": "Tiny"}, "trust": {"temperature": {"value": 1.5}}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["leak_cost", *map(str, words)])
    try:
        run(command.main)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_two_finished_folders(
    phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = finished(tmp_path / "p", phantom_dataset, "published")
    grouped = finished(tmp_path / "g", phantom_dataset, "grouped")
    out, both = tmp_path / "out", ("--published", published, "--grouped", grouped)
    assert call(monkeypatch, *both, "--dataset", phantom_dataset, "--output_dir", out) == 0
    found = json.loads((out / "leak_cost.json").read_text())
    splits = load_splits(str(phantom_dataset), "published")
    trained_on = set(groups_of(splits, "train"))
    leaks = np.array([group in trained_on for group in groups_of(splits, "test")])
    assert found["leaked_share"] == pytest.approx(leaks.mean(), abs=1e-6)
    assert found["leaked_share"] > 0
    n = len(leaks)
    assert found["sides"]["published"]["accuracy"]["value"] == pytest.approx(1 - -(-n // 3) / n, abs=1e-6)
    assert "# Leak cost: Tiny" in (out / "README.md").read_text()
    capsys.readouterr()
    assert call(monkeypatch, *both, "--dataset", phantom_dataset, "--output_dir", out) == 2
    other = finished(tmp_path / "o", phantom_dataset, "grouped", learning_rate=0.2)
    for words, says in (
        (("--published", grouped, "--grouped", grouped), "was trained on the config 'grouped'"),
        (("--published", published, "--grouped", other), "learning_rate 0.1"),
        (("--published", published), "or two finished folders"),
        (("mobilenet", "--grouped", grouped), "were both given"),
        ((*both, "--learning_rate", "0.1"), "'--learning_rate' is of a training"),
        (("mobilenet", "--config_name", "fold0"), "--config_name is set for each model"),
        (("mobilenet", "--learning_rat", "0.1"), "--learning_rat"),
        (("autoencoder",), "predicts no class"),
    ):
        assert call(monkeypatch, *words, "--dataset", phantom_dataset, "--output_dir", tmp_path / "no") == 2
        assert says in capsys.readouterr().err.strip().splitlines()[-1]
        assert not (tmp_path / "no").exists()


def test_a_script_is_trained_on_both_configs(
    phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[list[str]] = []

    def train(plan: Plan) -> None:
        for name in plan.names:
            trained.append(plan.command(name))
            finished(plan.partial / name, phantom_dataset, name)
        (plan.partial / "cross_validate.json").write_text("{}")

    monkeypatch.setattr("trainers.training.leak_cost.train_configs", train)
    words = ("mobilenet", "--dataset", phantom_dataset, "--output_dir", tmp_path / "out", "--seed", 3)
    assert call(monkeypatch, *words) == 0
    assert [command[command.index("--config_name") + 1] for command in trained] == ["published", "grouped"]
    assert all(command[command.index("--seed") + 1] == "3" for command in trained)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("README.md", "leak_cost.json", "manifest.json", "published", "grouped")
    }
