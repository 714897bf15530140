"""From stored predictions to everything a reader sees: report, tables, figures, card, manifest. No model, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model_cards.build import build_card
from trainers.evaluation.figures import draw_all
from trainers.evaluation.report import evaluate
from trainers.evaluation.tables import write_tables
from trainers.predictions import Predictions

JUDGED = ("validation", "calibration", "test")


def judge(predictions: dict[str, Predictions], trust: dict[str, Any], replicates: int, seed: int) -> dict[str, Any]:
    """The ``evaluation`` section: every split judged at the fitted temperature."""
    temperature = trust["temperature"]["value"]
    return {
        "evaluation": {
            split: evaluate(rows, temperature, replicates=replicates, seed=seed) for split, rows in predictions.items()
        }
    }


def describe(report: dict[str, Any], predictions: dict[str, Predictions], folder: Path) -> None:
    """Tables, figures, ``report.json``, the card and the manifest."""
    shown = "test" if "test" in report["evaluation"] else next(iter(report["evaluation"]))
    write_tables(report["evaluation"][shown], folder, title=f"{report['model']['title']}, {shown} split")
    report["figures"] = draw_all(report, predictions, folder)
    write_report(report, folder)
    build_card(folder)


def write_report(report: dict[str, Any], folder: Path) -> None:
    """``report.json``; a NaN or infinity in it is an error, not a number."""
    (folder / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
