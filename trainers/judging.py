"""From stored predictions to everything a reader sees: report, tables, figures, card, manifest. No model, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from model_cards.build import build_card
from trainers.evaluation.figures import ALSO_SHOWN, draw_all
from trainers.evaluation.isic2017_files import write_challenge
from trainers.evaluation.methods import methods
from trainers.evaluation.report import evaluate
from trainers.evaluation.tables import write_tables
from trainers.predictions import Predictions
from trainers.trust.temperature import fit_temperature

JUDGED = ("validation", "calibration", "test")


def judge(
    predictions: dict[str, Predictions],
    trust: dict[str, Any],
    replicates: int,
    seed: int,
    mc_logits: np.ndarray | None = None,
) -> dict[str, Any]:
    """The ``evaluation`` section, and for an ensemble ``methods``.

    Args:
        predictions: split -> what the model said of it.
        trust: the fitted temperature.
        replicates: of the intervals.
        seed: of the resamples.
        mc_logits: (N, M, S, C) of the test split, where dropout was sampled.
    """
    temperature = trust["temperature"]["value"]
    sections = {
        "evaluation": {
            split: evaluate(rows, temperature, replicates=replicates, seed=seed) for split, rows in predictions.items()
        }
    }
    test = predictions.get("test")
    if test is not None and test.logits.shape[1] > 1:
        fitted_on = predictions[trust["temperature"]["split"]]
        sections["methods"] = compare_methods(test, fitted_on, temperature, mc_logits, replicates, seed)
    return sections


def compare_methods(
    test: Predictions,
    fitted_on: Predictions,
    temperature: float,
    mc_logits: np.ndarray | None,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Single model, ensemble and MC dropout: as they are, and each with its own temperature fitted on one split."""
    members = range(test.logits.shape[1])
    own = [fit_temperature(fitted_on.logits[:, member], fitted_on.label).value for member in members]
    how: dict[str, Any] = {"mc_logits": mc_logits, "replicates": replicates, "seed": seed}
    return {
        "uncalibrated": methods(test, 1.0, **how),
        "calibrated": methods(test, temperature, member_temperatures=own, **how),
    }


def describe(report: dict[str, Any], predictions: dict[str, Predictions], folder: Path) -> None:
    """Tables, figures, ``report.json``, the card and the manifest."""
    shown = "test" if "test" in report["evaluation"] else next(iter(report["evaluation"]))
    for split in (shown, *(name for name in ALSO_SHOWN if name in report["evaluation"] and name != shown)):
        title, suffix = f"{report['model']['title']}, {split} split", "" if split == shown else f"_{split}"
        write_tables(report["evaluation"][split], folder, title=title, suffix=suffix)
    report["figures"] = draw_all(report, predictions, folder) + write_challenge(report, predictions, folder)
    write_report(report, folder)
    build_card(folder)


def write_report(report: dict[str, Any], folder: Path) -> None:
    """``report.json``; a NaN or infinity in it is an error, not a number."""
    (folder / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
