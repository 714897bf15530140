"""From a finished model and its predictions to fitted trust: the parts of the fit that run the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets_scripts.command import UserError
from trainers.metrics.predictions import NO_LABEL, Predictions
from trainers.model_folder.data import SPLITS, Splits
from trainers.model_folder.perturbations import PERTURBATIONS, perturbed
from trainers.model_folder.predict import predict_ood, predict_split, with_ood_scores
from trainers.trust.fit import FittedTrust, first_half, fit_trust
from trainers.trust.options import TrustOptions

# Trust is fitted on the first of these that a dataset's config has.
FITTED_ON = ("calibration", "validation")


def fitted_split(predictions: dict[str, Predictions]) -> str:
    """The split that trust is fitted on.

    Raises:
        UserError: there is neither a calibration nor a validation split.
    """
    for split in FITTED_ON:
        if split in predictions:
            return split
    raise UserError(f"there is no {' and no '.join(FITTED_ON)} split to fit trust on: it has {', '.join(predictions)}")


def nothing_promised(promise: Mapping[str, Any]) -> str:
    """One line when ``promised`` found nothing: the number of lesions, how many it takes, and what to do; or ""."""
    if promise["possible"]:
        return ""
    if promise["needed"] is None:
        way = "more lesions alone would not help, since too many answers are wrong: train a better model, promise less"
    else:
        way = f"about {promise['needed']} are needed: give more"
    then = "the model declines every image" if promise["declines"] else "only a temperature was fitted"
    return (
        f"nothing can be promised from {promise['n']} {promise['split']} {promise['unit']} ({promise['reason']}), so "
        f"{then}; {way}, or use it with trust=False, for probabilities without any promise"
    )


def learn_trust(
    model: Any,
    processor: Any,
    splits: Splits,
    predictions: dict[str, Predictions],
    options: TrustOptions,
    *,
    progress: bool = True,
    gate_sets: Mapping[str, Predictions] | None = None,
) -> FittedTrust:
    """Fit trust; the gate is chosen by the model's predictions of perturbed images of the first calibration half.

    Args:
        model: with its final weights.
        processor: its image processor.
        splits: the dataset.
        predictions: split -> predictions of the model, with features, made with ``options.inference``.
        options: what to fit.
        progress: show progress bars.
        gate_sets: name -> predictions of images of another source, that the gate alone is fitted on.

    Raises:
        UserError: there is no split to fit on, or nothing can be fitted on it.
    """
    split = fitted_split(predictions)
    rows = predictions[split]
    has_images = "pixel_values" in model.input_names
    try:
        chosen = first_half(rows, options)
        kinds = PERTURBATIONS if has_images and options.detector == "auto" else {}
        by_kind = {
            kind: predict_split(
                model,
                processor,
                splits,
                split,
                rows=chosen,
                alter=partial(_perturbed, kind=kind, seed=options.seed),
                named=f"perturbed_{kind}",
                inference=options.inference,
                progress=progress,
            )
            for kind in kinds
        }
        return fit_trust(
            rows,
            by_kind,
            options,
            date=datetime.now(UTC).date().isoformat(),
            preprocessing=processor.pixel_settings() if has_images else {},
            gate_sets=gate_sets,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{split} split: {error}") from error


def _perturbed(image: Image.Image, number: int, *, kind: str, seed: int) -> Image.Image:
    return perturbed(image, kind, seed=seed, index=number)


def mark_selection(config: dict[str, Any], chosen_on: str) -> None:
    """Write beside each fit whether its split chose the epoch of this model, where that is known."""
    if "also_used_for_model_selection" in config:
        config["also_used_for_model_selection"] = config["split"] == chosen_on
    for section in config.values():
        if isinstance(section, dict):
            mark_selection(section, chosen_on)


def set_trust(
    model: Any,
    fitted: FittedTrust,
    predictions: dict[str, Predictions],
) -> dict[str, Predictions]:
    """Set the trust of the model; the same predictions with the score of its gate for each image, if it has one."""
    model.set_trust(fitted.config, fitted.buffers)
    if "ood" not in fitted.config:
        return dict(predictions)
    return {split: with_ood_scores(model, rows) for split, rows in predictions.items()}


def predict_left_out(model: Any, processor: Any, splits: Splits, inference: str = "plain") -> dict[str, Predictions]:
    """Predictions of the images whose class was left out of the dataset, as ood images."""
    if splits.left_out is None or not len(splits.left_out):
        return {}
    name = f"left out: {', '.join(splits.left_out_classes)}"
    alone = replace(splits, splits={"left_out": splits.left_out})
    rows = predict_split(model, processor, alone, "left_out", inference=inference)
    return {name: replace(rows, split="ood_left_out", label=np.full(len(rows), NO_LABEL, dtype=np.int64))}


def predict_folders(model: Any, processor: Any, folders: Sequence[Path], inference: str) -> dict[str, Predictions]:
    """Folder name -> predictions of its images, which are of none of the classes.

    Raises:
        UserError: two folders of one name, or one of a split's, or without images; a model without image input.
    """
    if folders and "pixel_values" not in model.input_names:
        raise UserError("--ood was given, but this model has no image input: leave it out")
    found: dict[str, Predictions] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in found or name in SPLITS:
            other = "a split" if name in SPLITS else "another --ood folder"
            raise UserError(
                f"the --ood folder {name!r} has the name of {other}: rename it, the report identifies it by its name"
            )
        found[name] = predict_ood(model, processor, folder.resolve(), inference=inference)
    return found
