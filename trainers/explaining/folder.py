"""The heat maps of a finished model, measured on a split: a new folder with the section in its report and card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets_scripts.command import UserError
from trainers.evaluation.decisions import calibrated_probs, decisions
from trainers.evaluation.explanation_table import ExplanationTable, explanations_file, write_table
from trainers.evaluation.explanations import explanations_section, verdict_rows
from trainers.evaluation.figures.explanations import EXAMPLES_FOLDER, Examples, save_examples
from trainers.explaining.examples import dataset_examples, phantom_examples
from trainers.explaining.masks import MaskedImages
from trainers.explaining.measure import Options, Subject, measure
from trainers.metrics.predictions import Predictions
from trainers.model_folder.data import Splits
from trainers.model_folder.folder import EvaluatedModel, finished_model, rewritten
from trainers.model_folder.masks import Masks
from trainers.model_folder.provenance import origin


def measure_explanations(
    source: str,
    splits: Splits,
    out: Path,
    options: Options,
    *,
    split: str = "test",
    masks: Path | None = None,
    examples: str = "dataset",
    replicates: int = 1000,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the folder ``out``, which appears whole or not at all; returns its report.

    Args:
        source: a finished model of ours that was evaluated on this dataset: a folder, or ``ORG/NAME[@REVISION]``.
        splits: the dataset.
        out: absent, or an empty folder.
        options: how heat maps are measured.
        split: whose images.
        masks: a folder of lesion masks; None = those of the dataset.
        examples: ``dataset``, ``phantoms`` or ``none``: what the figure of examples shows.
        replicates: of the intervals.
        progress: show progress bars.

    Raises:
        UserError: ``out`` is not empty; there is no such model, or it looks at no image, or was evaluated on other
            images; there are no masks in the given folder, or they do not fit.
    """
    with finished_model(source, splits, out) as (finished, splits):
        check_method(finished.model, options.method)
        rows = finished.evaluated(splits, split)
        subject = subject_of(finished, splits, rows, masks)
        table = measure(subject, options, progress=progress)
        with rewritten(finished, out, split=split, purpose="measurement of explanations") as (folder, report):
            forget(folder)
            shown = pick_examples(examples, finished, subject, table, splits, options, progress)
            table.about["examples"] = [] if shown is None else [save_examples(shown, folder, table.about)]
            write_table(table, explanations_file(folder, split))
            seed = report["provenance"]["seed"]
            report["explanations"] = explanations_section(table, replicates=replicates, seed=seed)
    return report


def forget(folder: Path) -> None:
    """Take out of a copied folder what an earlier measurement left: its table and its examples."""
    shutil.rmtree(folder / EXAMPLES_FOLDER, ignore_errors=True)
    for path in folder.glob(explanations_file(folder, "*").name):
        path.unlink()


def check_method(model: Any, method: str) -> None:
    """Refuse a model without images, and a method that it does not have.

    Raises:
        UserError: names what there is.
    """
    methods = model.explanation_methods()
    if not methods:
        raise UserError(f"a {type(model).__name__} looks at no image and has no heat map: give a model that does")
    if method not in methods:
        raise UserError(f"--method {method!r} is none of this model's: choose one of {', '.join(methods)}")


def subject_of(finished: EvaluatedModel, splits: Splits, rows: Predictions, masks: Path | None) -> Subject:
    """The images of a split with their masks and verdicts, and the class to explain in each."""
    trust = finished.report["trust"]
    fitted = "conformal" in trust and rows.ood_score is not None
    made = decisions(rows, trust) if fitted else None
    named = calibrated_probs(rows, trust).numpy().argmax(axis=1) if made is None else made.predicted
    images = splits.splits[rows.split]
    if torch.cuda.is_available():
        finished.model.cuda()
    return Subject(
        model=finished.model,
        images=MaskedImages(images, finished.processor, Masks(images, masks)),
        image_id=rows.image_id,
        group_id=rows.group_id,
        label=rows.label,
        predicted=named.astype(np.int64),
        abstain=None if made is None else made.abstains,
        labels=rows.labels,
        about={"split": rows.split, "dataset": splits.name, "config_name": splits.config_name, "made": origin()},
    )


def pick_examples(
    kind: str,
    finished: EvaluatedModel,
    subject: Subject,
    table: ExplanationTable,
    splits: Splits,
    options: Options,
    progress: bool,
) -> Examples | None:
    """The examples to draw; None where none are wanted, or there is none of any kind."""
    if kind == "none":
        return None
    if kind == "phantoms":
        found = phantom_examples(finished.model, finished.processor, options.method, progress=progress)
    else:
        split = str(table.about["split"])
        licences, sources = (splits.column(split, name).astype(str) for name in ("license", "source"))
        found = dataset_examples(subject, verdict_rows(table), licences, sources, options.method, options.seed)
    return found if found.found else None
