"""Report, tables, figures, card and manifest of a finished model, again from its stored predictions."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from pathlib import Path

from datasets_scripts.command import UserError
from datasets_scripts.output import beside, locked
from model_cards.autoencoder import is_autoencoder
from model_cards.card import read_report
from model_cards.report_view import ReportNode
from trainers.evaluation.explanation_table import explanations_file, read_table
from trainers.evaluation.explanations import explanations_section
from trainers.metrics.predictions import read_predictions
from trainers.model_folder.evaluate import (
    EVALUATED_SPLITS,
    corrupted_file,
    describe,
    evaluate_changed,
    evaluate_robustness,
    evaluate_splits,
    read_ood,
    shortcuts_file,
    views_file,
)
from trainers.model_folder.mc_dropout import read_samples, samples_file


def rebuild(folder: Path, replicates: int) -> None:
    """Replace ``folder`` by one whose report was computed again.

    Raises:
        UserError: no report or no predictions there, or another process writes the folder.
    """
    with locked(folder) if folder.parent.is_dir() else nullcontext():
        old = folder.with_name(folder.name + ".old")
        if old.is_dir() and not folder.exists():  # a rebuild was killed between its two renames
            os.replace(old, folder)
        _rebuild(folder, old, replicates)


def _rebuild(folder: Path, old: Path, replicates: int) -> None:
    report = read_report(folder)
    paths = {split: folder / f"predictions_{split}.parquet" for split in EVALUATED_SPLITS}
    predictions = {split: read_predictions(path) for split, path in paths.items() if path.is_file()}
    if "model" not in report or "trust" not in report or report.get("kind"):
        kind = "autoencoder" if is_autoencoder(ReportNode(report)) else str(report.get("kind", "report"))
        named = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind.replace('_', ' ')}"
        raise UserError(f"{folder} holds {named}, not one classifier: give a model's folder, such as one of its folds")
    if not predictions:
        raise UserError(f"{folder} holds no predictions_<split>.parquet: give a finished model folder")
    samples = read_samples(predictions.get("test"), samples_file(folder, "test"))
    ood_sets = read_ood(folder)
    seed = report["provenance"]["seed"]
    report.update(evaluate_splits(predictions, report["trust"], replicates, seed, samples, ood_sets))
    if "robustness" in report:
        corrupted = read_predictions(corrupted_file(folder, report["robustness"]["split"]))
        report["robustness"] = evaluate_robustness(report, predictions, corrupted, replicates)
    if "view_robustness" in report:
        before = report["view_robustness"]
        viewed = read_predictions(views_file(folder, before["split"]))
        asked = before["kinds"], before["drawn"]
        report["view_robustness"] = evaluate_changed("view_robustness", report, predictions, viewed, *asked, replicates)
    if "shortcuts" in report:
        before = report["shortcuts"]
        changed = read_predictions(shortcuts_file(folder, before["split"]))
        asked = before["kinds"], before["drawn"]
        report["shortcuts"] = evaluate_changed("shortcuts", report, predictions, changed, *asked, replicates)
    if "explanations" in report:
        table = read_table(explanations_file(folder, report["explanations"]["split"]))
        report["explanations"] = explanations_section(table, replicates=replicates, seed=seed)
    partial = beside(folder)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(folder, partial)
        describe(report, predictions, partial, ood_sets)
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
