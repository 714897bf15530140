"""From stored predictions to everything a reader sees: report, tables, figures, card, manifest. No model, no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from model_cards.build import build_card
from trainers.evaluation.decisions import example_answers
from trainers.evaluation.explanation_table import explanations_file, read_table
from trainers.evaluation.figures.charts import ALSO_SHOWN, draw_all
from trainers.evaluation.figures.explanations import draw_explanations
from trainers.evaluation.figures.robustness import draw_robustness
from trainers.evaluation.figures.trust import draw_trust
from trainers.evaluation.isic2017_files import write_challenge
from trainers.evaluation.methods import error_detection, methods
from trainers.evaluation.report import evaluate
from trainers.evaluation.robustness import robustness_section, view_section
from trainers.evaluation.shortcuts import shortcut_section
from trainers.evaluation.tables import write_tables
from trainers.evaluation.trust_report import trust_section
from trainers.metrics.intervals import bootstrap_weights, can_resample
from trainers.metrics.predictions import Predictions, read_predictions
from trainers.model_folder.citations import trust_citations
from trainers.model_folder.provenance import of_the_suite
from trainers.trust.halves import halve
from trainers.trust.temperature import fit_temperature

EVALUATED_SPLITS = ("validation", "calibration", "test")


def evaluate_splits(
    predictions: dict[str, Predictions],
    trust: dict[str, Any],
    replicates: int,
    seed: int,
    mc_logits: np.ndarray | None = None,
    ood_sets: dict[str, Predictions] | None = None,
) -> dict[str, Any]:
    """The ``evaluation`` section; where trust was fitted ``trust_evaluation``, and for an ensemble ``methods``.

    Args:
        predictions: split -> predictions, with the scores of the gate.
        trust: what was fitted.
        replicates: of the intervals.
        seed: of the resamples.
        mc_logits: (N, M, S, C) of the test split, where dropout was sampled.
        ood_sets: name -> predictions of images of none of the classes.
    """
    temperature = trust["temperature"]
    sections: dict[str, Any] = {
        "evaluation": {
            split: evaluate(rows, temperature, replicates=replicates, seed=seed) for split, rows in predictions.items()
        }
    }
    test = predictions.get("test")
    if test is None:
        return sections
    if test.ood_score is not None:
        sections["trust_evaluation"] = trust_section(test, trust, ood_sets or {}, replicates=replicates, seed=seed)
    if test.logits.shape[1] > 1 and trust.get("fitted_for", {}).get("inference", "plain") == "plain":
        fitted_on = predictions[trust["temperature"]["split"]]
        sections["methods"] = compare_methods(test, fitted_on, trust, mc_logits, replicates, seed)
    return sections


def compare_methods(
    test: Predictions,
    fitted_on: Predictions,
    trust: dict[str, Any],
    mc_logits: np.ndarray | None,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Single model, ensemble and MC dropout: as they are, and each with its own temperature fitted on the same images.

    Likelihoods compare fairly at temperatures of one kind, so the scalar is taken here whatever the model uses.
    """
    half = fitted_half(fitted_on, trust)
    members = range(test.logits.shape[1])
    own = [fit_temperature(half.logits[:, member], half.label).value for member in members]
    scalar = trust["temperature"].get("kind", "scalar") == "scalar"
    temperature = trust["temperature"]["value"] if scalar else fit_temperature(half.logits, half.label).value
    how: dict[str, Any] = {"mc_logits": mc_logits, "replicates": replicates, "seed": seed}
    groups = np.asarray(test.group_id).astype(str)
    weights = bootstrap_weights(groups, test.label, replicates, seed) if can_resample(groups, test.label) else None
    return {
        "uncalibrated": methods(test, 1.0, **how),
        "calibrated": methods(test, temperature, member_temperatures=own, **how),
        "error_detection": error_detection(test.logits, test.label, temperature, own, mc_logits, weights),
    }


def fitted_half(rows: Predictions, trust: dict[str, Any]) -> Predictions:
    """The images that the temperature was fitted on: the first half of the split, or all of an older model's."""
    fitted = trust["temperature"]
    return rows.select(halve(rows.label, rows.group_id, fitted["seed"])[0]) if "seed" in fitted else rows


def describe(
    report: dict[str, Any],
    predictions: dict[str, Predictions],
    folder: Path,
    ood_sets: dict[str, Predictions] | None = None,
) -> None:
    """Tables, figures, ``report.json``, the card and the manifest.

    Raises:
        UserError: the report has explanations, and their table is not in the folder.
    """
    cited = [*report["model"].get("citation", []), *trust_citations(report["trust"])]
    report["model"]["citation"] = list(dict.fromkeys(cited))
    shown = "test" if "test" in report["evaluation"] else next(iter(report["evaluation"]))
    for split in (shown, *(name for name in ALSO_SHOWN if name in report["evaluation"] and name != shown)):
        title, suffix = f"{report['model']['title']}, {split} split", "" if split == shown else f"_{split}"
        write_tables(report["evaluation"][split], folder, title=title, suffix=suffix)
    report["figures"] = [
        *draw_all(report, predictions, folder),
        *draw_trust(report, predictions, ood_sets or {}, folder),
        *write_challenge(report, predictions, folder),
    ]
    if "trust_evaluation" in report:  # a key that is there keeps its place: a rebuilt report is the same file
        report["example_answers"] = example_answers(predictions["test"], report["trust"])
    else:
        report.pop("example_answers", None)
    if "robustness" in report:
        report["robustness"]["figures"] = draw_robustness(report, predictions, folder)
    if "explanations" in report:
        section = report["explanations"]
        section["figures"] = draw_explanations(section, read_table(explanations_file(folder, section["split"])), folder)
    report |= of_the_suite(report, folder)
    write_report(report, folder)
    build_card(folder)


def corrupted_file(folder: Path, split: str) -> Path:
    """The file of a folder with the predictions of the corrupted images of a split."""
    return folder / f"predictions_{split}_corrupted.parquet"


def views_file(folder: Path, split: str) -> Path:
    """The file of a folder with the predictions of the images of a split, cut and turned."""
    return folder / f"predictions_{split}_views.parquet"


def shortcuts_file(folder: Path, split: str) -> Path:
    """The file of a folder with the predictions of the images of a split without their lesion, or with marks."""
    return folder / f"predictions_{split}_shortcuts.parquet"


def read_ood(folder: Path) -> dict[str, Predictions]:
    """Name -> stored predictions of each set of ood images of a folder."""
    found = [read_predictions(path) for path in sorted(folder.glob("predictions_ood_*.parquet"))]
    return {rows.dataset: rows for rows in found}


def evaluate_robustness(
    report: dict[str, Any], predictions: dict[str, Predictions], corrupted: Predictions, replicates: int
) -> dict[str, Any]:
    """The ``robustness`` section.

    Args:
        report: with ``trust`` and ``provenance``.
        predictions: split -> predictions of the images as they are.
        corrupted: predictions of some of them corrupted; its split is ``<split>_corrupted``.
        replicates: of the intervals.
    """
    clean = predictions[corrupted.split.removesuffix("_corrupted")]
    same, seed = same_images(clean, corrupted), report["provenance"]["seed"]
    return robustness_section(same, corrupted, report["trust"], replicates=replicates, seed=seed)


CHANGED_SECTIONS = {"view_robustness": view_section, "shortcuts": shortcut_section}


def evaluate_changed(
    section: str,
    report: dict[str, Any],
    predictions: dict[str, Predictions],
    changed: Predictions,
    kinds: list[str],
    drawn: int,
    replicates: int,
) -> dict[str, Any]:
    """A section on views of images, or on images without their lesion or with marks.

    Args:
        section: of ``CHANGED_SECTIONS``.
        report: with ``trust`` and ``provenance``.
        predictions: split -> predictions of the images as they are.
        changed: predictions of some of them changed; its split is the name of theirs, ``_`` and a word.
        kinds: of the changes.
        drawn: how many images were to be changed.
        replicates: of the intervals.
    """
    clean = same_images(predictions[changed.split.rpartition("_")[0]], changed)
    seed = report["provenance"]["seed"]
    evaluated = CHANGED_SECTIONS[section]
    return evaluated(clean, changed, report["trust"], kinds, drawn, replicates=replicates, seed=seed)


def same_images(clean: Predictions, changed: Predictions) -> Predictions:
    """The clean predictions of the images that were changed, in the split's order."""
    return clean.select(np.isin(clean.image_id, changed.image_id))


def write_report(report: dict[str, Any], folder: Path) -> None:
    """``report.json``; a NaN or infinity in it is an error, not a number."""
    (folder / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
