"""A finished model on corrupted images: a new folder with the section in its report and card."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets_scripts.command import UserError
from trainers.metrics.predictions import CORRUPTION, Predictions, write_predictions
from trainers.model_folder.data import Splits
from trainers.model_folder.evaluate import corrupted_file, evaluate_robustness
from trainers.model_folder.folder import EvaluatedModel, finished_model, rewritten
from trainers.model_folder.perturbations import CORRUPTIONS, SEVERITIES, corrupted
from trainers.model_folder.predict import predict_split, with_ood_scores


def measure_robustness(
    source: str,
    splits: Splits,
    out: Path,
    *,
    split: str = "test",
    kinds: list[str] | None = None,
    severities: list[int] | None = None,
    images: int | None = None,
    seed: int = 0,
    replicates: int = 1000,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the folder ``out``, which appears whole or not at all; returns its report.

    Args:
        source: a finished model of ours that was evaluated on this dataset: a folder, or ``ORG/NAME[@REVISION]``.
        splits: the dataset.
        out: absent, or an empty folder.
        split: whose images.
        kinds: of ``CORRUPTIONS``; None = all.
        severities: of 1, 2 and 3; None = all.
        images: draw this many at most; None = all of the split.
        seed: of what is drawn and of the corruptions.
        replicates: of the intervals.
        progress: show progress bars.

    Raises:
        UserError: ``out`` is not empty; there is no such model, or it has no image input, or was evaluated on other
            images.
    """
    with finished_model(source, splits, out) as (finished, splits):
        if "pixel_values" not in finished.model.input_names:
            raise UserError(f"{source!r} has no image input, so nothing can be corrupted: give a model that has")
        rows = drawn(len(finished.evaluated(splits, split)), images, seed)
        conditions = [(k, s) for k in kinds or CORRUPTIONS for s in severities or SEVERITIES]
        found = predict_conditions(finished, splits, split, rows, conditions, seed, progress)
        with rewritten(finished, out, split=split, purpose="measurement of robustness") as (folder, report):
            write_predictions(found, corrupted_file(folder, split), with_features=False)
            report["robustness"] = evaluate_robustness(report, finished.predictions, found, replicates)
    return report


def drawn(n: int, images: int | None, seed: int) -> np.ndarray:
    """Which of n images are corrupted: all, or a seeded draw of ``images``, in their order."""
    if images is None or images >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, images, replace=False))


def predict_conditions(
    finished: EvaluatedModel,
    splits: Splits,
    split: str,
    rows: np.ndarray,
    conditions: list[tuple[str, int]],
    seed: int,
    progress: bool = False,
) -> Predictions:
    """Predictions of corrupted images: all rows of one (kind, severity) after the other."""
    gated = "ood" in finished.report["trust"]
    parts = []
    for kind, severity in conditions:
        corrupt = partial(corrupted_image, kind=kind, severity=severity, seed=seed)
        name = f"{kind} {severity}"
        found = predict_split(
            finished.model, finished.processor, splits, split, rows=rows, alter=corrupt, named=name, progress=progress
        )
        parts.append(with_ood_scores(finished.model, found) if gated else found)
    arrays = ("image_id", "lesion_id", "group_id", "label", "logits", *(("ood_score",) if gated else ()))
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    columns[CORRUPTION] = np.array([part.split for part in parts for _ in range(len(part))], dtype=object)
    return replace(parts[0], **joined, columns=columns, split=f"{split}_corrupted", features=None, early=None)


def corrupted_image(image: Image.Image, index: int, *, kind: str, severity: int, seed: int) -> Image.Image:
    """One image under one corruption; a function of the module, so that workers can import it."""
    return corrupted(image, kind, severity, seed=seed, index=index)
