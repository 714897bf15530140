"""A finished model on corrupted images, other views, and images without lesion: a new folder with report and card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets_scripts.command import UserError
from hub_models.preprocess_lesion import to_rgb
from trainers.evaluation.robustness import VIEWS
from trainers.evaluation.shortcuts import HIDDEN, METADATA, SHORTCUTS
from trainers.metrics.predictions import CORRUPTION, FRAMING, SEEN, SHORTCUT, VIEW, Predictions, write_predictions
from trainers.model_folder.data import LesionImages, Splits
from trainers.model_folder.evaluate import (
    corrupted_file,
    evaluate_changed,
    evaluate_robustness,
    shortcuts_file,
    views_file,
)
from trainers.model_folder.folder import EvaluatedModel, finished_model, rewritten
from trainers.model_folder.masks import Masks
from trainers.model_folder.perturbations import CORRUPTIONS, SEVERITIES, corrupted
from trainers.model_folder.predict import Alter, predict_split, with_ood_scores
from trainers.model_folder.shortcuts import hidden, hidden_region, marked, metadata_alone
from trainers.model_folder.views import Box, Lesion, find_lesion, frame_of, lesion_seen, settings_of, viewed


def measure_robustness(
    source: str,
    splits: Splits,
    out: Path,
    *,
    split: str = "test",
    kinds: list[str] | None = None,
    severities: list[int] | None = None,
    views: list[str] | None = None,
    shortcuts: list[str] | None = None,
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
        kinds, severities, views, shortcuts: of ``CORRUPTIONS``, 1 to 3, ``VIEWS`` and ``SHORTCUTS``; None = all.
        masks, images: a folder of masks, None = those of the dataset; draw this many at most, None = all of the split.
        seed: of what is drawn and of the corruptions.
        replicates, progress: of the intervals; whether to show progress bars.

    Raises:
        UserError: ``out`` is not empty; there is no such model, or it has no image input, or was evaluated on other
            images; there is nothing to measure; there are no masks in the given folder, or they do not fit.
    """
    with finished_model(source, splits, out) as (finished, splits):
        if "pixel_values" not in finished.model.input_names:
            raise UserError(f"{source!r} has no image input, so nothing can be corrupted: give a model that has")
        rows = drawn(len(finished.evaluated(splits, split)), images, seed)
        kinds, views = list(CORRUPTIONS if kinds is None else kinds), list(VIEWS if views is None else views)
        shortcuts = list(SHORTCUTS if shortcuts is None else shortcuts)
        found_by = Masks(splits.splits[split], masks)
        conditions: list[tuple[str, np.ndarray, Alter]] = [
            (f"{kind} {severity}", rows, partial(corrupted_image, kind=kind, severity=severity, seed=seed))
            for kind in kinds
            for severity in severities or SEVERITIES
        ]
        found = predict_conditions(finished, splits, split, conditions, progress)
        shown = predict_views(finished, splits, split, rows, views, found_by, progress)
        changed = predict_shortcuts(finished, splits, split, rows, shortcuts, found_by, seed, progress)
        with rewritten(finished, out, split=split, purpose="measurement of robustness") as (folder, report):
            if found is not None:
                write_predictions(found, corrupted_file(folder, split), with_features=False)
                report["robustness"] = evaluate_robustness(report, finished.predictions, found, replicates)
            for key, names, answers, file in (
                ("view_robustness", views, shown, views_file),
                ("shortcuts", shortcuts, changed, shortcuts_file),
            ):
                if answers is not None:
                    write_predictions(answers, file(folder, split), with_features=False)
                    found_here = finished.predictions, answers, names, len(rows), replicates
                    report[key] = evaluate_changed(key, report, *found_here)
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
    parts = predict_parts(finished, splits, split, conditions, progress)
    return joined(parts, column, f"{split}_{suffix}") if parts else None


def predict_parts(
    finished: EvaluatedModel,
    splits: Splits,
    split: str,
    conditions: list[tuple[str, np.ndarray, Alter]],
    progress: bool = False,
) -> list[Predictions]:
    """Predictions of each condition, with the score of the gate where one was fitted; arguments as above."""
    gated = "ood" in finished.report["trust"]
    parts = []
    for name, rows, alter in conditions:
        found = predict_split(
            finished.model, finished.processor, splits, split, rows=rows, alter=alter, named=name, progress=progress
        )
        parts.append(with_ood_scores(finished.model, found) if gated else found)
    return parts


def joined(parts: list[Predictions], column: str, split: str) -> Predictions:
    """Predictions of several conditions, one after the other; ``column`` takes the split names of the parts."""
    scored = all(part.ood_score is not None for part in parts)
    arrays = ("image_id", "lesion_id", "group_id", "label", "logits", *(("ood_score",) if scored else ()))
    whole: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    columns[column] = np.array([part.split for part in parts for _ in range(len(part))], dtype=object)
    return replace(parts[0], **whole, columns=columns, split=split, features=None, early=None)


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
    images = upright(finished, splits, split, rows if kinds else rows[:0], masks)
    lesions = {row: find_lesion(*seen) for row, seen in images}
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


def predict_shortcuts(
    finished: EvaluatedModel,
    splits: Splits,
    split: str,
    rows: np.ndarray,
    kinds: list[str],
    masks: Masks,
    seed: int,
    progress: bool = False,
) -> Predictions | None:
    """Predictions of images without their lesion or with marks, and of the patient's data alone; None without a kind.

    Raises:
        UserError: the lesion was found in no image; a mask cannot be read.
    """
    away = [kind for kind in kinds if kind in HIDDEN]
    images = upright(finished, splits, split, rows if away else rows[:0], masks)
    lesions = {row: lesion for row, seen in images if (lesion := find_lesion(*seen)).box is not None}
    if away and not lesions:
        raise UserError(f"the lesion was found in no image, so {', '.join(away)} cannot be shown: give --masks")
    conditions: list[tuple[str, np.ndarray, Alter]] = []
    for kind in (kind for kind in kinds if kind != METADATA):
        if kind in away:
            alter = partial(hidden_image, kind=kind, lesions=lesions, masks=masks)
            conditions.append((kind, np.array(list(lesions)), alter))
        else:
            conditions.append((kind, rows, partial(marked_image, kind=kind, seed=seed)))
    parts = predict_parts(finished, splits, split, conditions, progress)
    framed = [lesions[row].by if kind in away else "" for kind, of, _ in conditions for row in of.tolist()]
    if METADATA in kinds:
        alone = metadata_alone(splits, split, rows, finished.evaluated(splits, split).select(rows))
        parts += [] if alone is None else [alone]
        framed += [] if alone is None else [""] * len(alone)
    if not parts:
        return None
    found = joined(parts, SHORTCUT, f"{split}_shortcuts")
    return replace(found, columns=found.columns | {FRAMING: np.array(framed, dtype=object)})


def upright(
    finished: EvaluatedModel, splits: Splits, split: str, rows: np.ndarray, masks: Masks
) -> Iterator[tuple[int, tuple[Image.Image, np.ndarray | None]]]:
    """The number of each of some rows of a split, with its upright image and mask."""
    stored = LesionImages(splits.splits[split], finished.processor)
    for row in rows.tolist():
        image = to_rgb(stored.read(row))
        yield row, (image, masks.read(row, image.size))


def corrupted_image(image: Image.Image, index: int, *, kind: str, severity: int, seed: int) -> Image.Image:
    """One image under one corruption; a function of the module, so that workers can import it."""
    return corrupted(image, kind, severity, seed=seed, index=index)


def viewed_image(image: Image.Image, index: int, *, frames: dict[int, Box], kind: str, setting: str) -> Image.Image:
    """One image in one view; a function of the module as well."""
    return viewed(image, frames[index], kind, setting)


def hidden_image(image: Image.Image, index: int, *, kind: str, lesions: dict[int, Lesion], masks: Masks) -> Image.Image:
    """One image without its lesion; a function of the module as well."""
    lesion = lesions[index]
    region = hidden_region(kind, lesion, masks.read(index, lesion.size))
    assert region is not None  # the lesion was found
    return hidden(image, region)


def marked_image(image: Image.Image, index: int, *, kind: str, seed: int) -> Image.Image:
    """One image with one mark; a function of the module as well."""
    return marked(image, kind, seed=seed, index=index)
