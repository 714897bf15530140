"""A finished model on corrupted images and other views: a new folder with the sections in its report and card."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets_scripts.command import UserError
from hub_models.preprocess_lesion import to_rgb
from trainers.evaluation.robustness import VIEWS
from trainers.metrics.predictions import CORRUPTION, FRAMING, SEEN, VIEW, Predictions, write_predictions
from trainers.model_folder.data import LesionImages, Splits
from trainers.model_folder.evaluate import corrupted_file, evaluate_robustness, evaluate_views, views_file
from trainers.model_folder.folder import EvaluatedModel, finished_model, rewritten
from trainers.model_folder.masks import Masks
from trainers.model_folder.perturbations import CORRUPTIONS, SEVERITIES, corrupted
from trainers.model_folder.predict import Alter, predict_split, with_ood_scores
from trainers.model_folder.views import Box, find_lesion, frame_of, lesion_seen, settings_of, viewed


def measure_robustness(
    source: str,
    splits: Splits,
    out: Path,
    *,
    split: str = "test",
    kinds: list[str] | None = None,
    severities: list[int] | None = None,
    views: list[str] | None = None,
    masks: Path | None = None,
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
        views: of ``VIEWS``; None = all.
        masks: a folder of lesion masks; None = those of the dataset.
        images: draw this many at most; None = all of the split.
        seed: of what is drawn and of the corruptions.
        replicates: of the intervals.
        progress: show progress bars.

    Raises:
        UserError: ``out`` is not empty; there is no such model, or it has no image input, or was evaluated on other
            images; there is nothing to measure; there are no masks in the given folder, or they do not fit.
    """
    with finished_model(source, splits, out) as (finished, splits):
        if "pixel_values" not in finished.model.input_names:
            raise UserError(f"{source!r} has no image input, so nothing can be corrupted: give a model that has")
        rows = drawn(len(finished.evaluated(splits, split)), images, seed)
        kinds, views = list(CORRUPTIONS if kinds is None else kinds), list(VIEWS if views is None else views)
        conditions: list[tuple[str, np.ndarray, Alter]] = [
            (f"{kind} {severity}", rows, partial(corrupted_image, kind=kind, severity=severity, seed=seed))
            for kind in kinds
            for severity in severities or SEVERITIES
        ]
        found = predict_conditions(finished, splits, split, conditions, progress)
        shown = predict_views(finished, splits, split, rows, views, Masks(splits.splits[split], masks), progress)
        with rewritten(finished, out, split=split, purpose="measurement of robustness") as (folder, report):
            if found is not None:
                write_predictions(found, corrupted_file(folder, split), with_features=False)
                report["robustness"] = evaluate_robustness(report, finished.predictions, found, replicates)
            if shown is not None:
                write_predictions(shown, views_file(folder, split), with_features=False)
                asked = views, len(rows)
                report["view_robustness"] = evaluate_views(report, finished.predictions, shown, *asked, replicates)
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
    conditions: list[tuple[str, np.ndarray, Alter]],
    progress: bool = False,
    *,
    column: str = CORRUPTION,
    suffix: str = "corrupted",
) -> Predictions | None:
    """Predictions of changed images: all rows of one condition after the other; None without a condition.

    Args:
        finished: the model.
        splits: the dataset.
        split: whose images.
        conditions: the name, the rows of the split, and what becomes of each image.
        progress: show progress bars.
        column: takes the names.
        suffix: of the name of the split.
    """
    gated = "ood" in finished.report["trust"]
    parts = []
    for name, rows, alter in conditions:
        found = predict_split(
            finished.model, finished.processor, splits, split, rows=rows, alter=alter, named=name, progress=progress
        )
        parts.append(with_ood_scores(finished.model, found) if gated else found)
    if not parts:
        return None
    arrays = ("image_id", "lesion_id", "group_id", "label", "logits", *(("ood_score",) if gated else ()))
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    columns[column] = np.array([part.split for part in parts for _ in range(len(part))], dtype=object)
    return replace(parts[0], **joined, columns=columns, split=f"{split}_{suffix}", features=None, early=None)


def predict_views(
    finished: EvaluatedModel,
    splits: Splits,
    split: str,
    rows: np.ndarray,
    kinds: list[str],
    masks: Masks,
    progress: bool = False,
) -> Predictions | None:
    """Predictions of views of images, with how the lesion was found and what of it is in view; None without a kind.

    Raises:
        UserError: no image can be shown in any of these ways; a mask cannot be read.
    """
    stored = LesionImages(splits.splits[split], finished.processor)
    lesions = {}
    for row in rows.tolist() if kinds else []:
        upright = to_rgb(stored.read(row))
        lesions[row] = find_lesion(upright, masks.read(row, upright.size))
    conditions: list[tuple[str, np.ndarray, Alter]] = []
    columns: dict[str, list[str]] = {FRAMING: [], SEEN: []}
    for kind, setting in settings_of(kinds):
        frames = {row: frame for row, one in lesions.items() if (frame := frame_of(one, kind, setting)) is not None}
        if frames:
            alter = partial(viewed_image, frames=frames, kind=kind, setting=setting)
            conditions.append((f"{kind} {setting}", np.array(list(frames)), alter))
        columns[FRAMING] += [lesions[row].by for row in frames]
        columns[SEEN] += [lesion_seen(lesions[row], frame) for row, frame in frames.items()]
    found = predict_conditions(finished, splits, split, conditions, progress, column=VIEW, suffix="views")
    if found is None:
        if kinds:
            raise UserError(f"no image can be shown by {', '.join(kinds)}: give --masks, or larger images")
        return None
    added = {name: np.array(values, dtype=object) for name, values in columns.items()}
    return replace(found, columns=found.columns | added)


def corrupted_image(image: Image.Image, index: int, *, kind: str, severity: int, seed: int) -> Image.Image:
    """One image under one corruption; a function of the module, so that workers can import it."""
    return corrupted(image, kind, severity, seed=seed, index=index)


def viewed_image(image: Image.Image, index: int, *, frames: dict[int, Box], kind: str, setting: str) -> Image.Image:
    """One image in one view; a function of the module as well."""
    return viewed(image, frames[index], kind, setting)
