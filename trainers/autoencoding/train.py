"""One training run of an autoencoder: recipe -> data -> Trainer -> weights -> finished Hub folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import v2
from transformers import EarlyStoppingCallback, set_seed

from datasets_scripts.command import UserError, shown_path
from hub_models import AutoencoderLesionConfig, AutoencoderLesionModel, LesionImageProcessor
from trainers.autoencoding.finish import Finished, finish
from trainers.autoencoding.losses import PerceptualDistance, ReconstructionLoss
from trainers.autoencoding.options import TURNS, AutoencoderArguments
from trainers.autoencoding.trainer import SCORES, AutoencoderTrainer, reconstruction_metrics
from trainers.model_folder.data import (
    AUGMENTATIONS,
    EpochSampler,
    LesionImages,
    Splits,
    augmentation,
    collate,
    load_splits,
)
from trainers.model_folder.provenance import audit_leaks, provenance
from trainers.training.arguments import parse
from trainers.training.log import settle_metric, training_section
from trainers.training.resume import check_output
from trainers.training.train import end_processes, output_folder, print_recipe, run_trainer, settle_identity
from trainers.training.training_arguments import LesionTrainingArguments

METRIC = "psnr"


def main(recipe: str) -> None:
    """Train the autoencoder of this command line.

    Args:
        recipe: the default recipe's name.
    """
    run(sys.argv[1:], recipe)
    end_processes()


def run(argv: list[str], recipe: str) -> Path:
    """Train, evaluate and finish one autoencoder; returns the finished Hub folder.

    Raises:
        UserError: bad arguments, dataset, recipe or output folder; the message says what to do.
    """
    options, training, resolved = parse(argv, recipe, AutoencoderArguments)
    settle(training)
    check_output(options, training)
    splits = load_splits(options.dataset, options.config_name, options.dataset_command)
    settle_identity(options, resolved, splits)
    if training.process_index == 0:
        print_recipe(resolved)
    return train(options, training, resolved, splits)


def settle(training: LesionTrainingArguments) -> None:
    """Put PSNR where the suite's defaults name a classifier's metric.

    Raises:
        UserError: an option that needs what an autoencoder has not; a metric that there is not.
    """
    if training.metric_for_best_model == "macro_f1":
        training.metric_for_best_model = METRIC
    settle_metric(training, tuple(SCORES))
    if training.layer_decay != 1.0:
        raise UserError(f"layer_decay {training.layer_decay!r}: an autoencoder has no pretrained layers; leave it out")


def train(
    options: AutoencoderArguments, training: LesionTrainingArguments, resolved: dict[str, Any], splits: Splits
) -> Path:
    """Train and finish one autoencoder on loaded splits; returns the finished Hub folder.

    Raises:
        UserError: as :func:`run`.
    """
    check_pictures(splits)
    with output_folder(options, training) as (out, partial, checkpoint):
        return train_into(out, partial, checkpoint, options, training, resolved, splits)


def train_into(
    out: Path,
    partial: Path,
    checkpoint: str | None,
    options: AutoencoderArguments,
    training: LesionTrainingArguments,
    resolved: dict[str, Any],
    splits: Splits,
) -> Path:
    """As :func:`train`, into an output folder that is checked and locked."""
    set_seed(training.seed)
    model, processor = build_model(options)
    trainer = build_trainer(model, processor, splits, options, training)
    run_trainer(trainer, options, training, splits, out, checkpoint)
    whole = trainer.whole_model()
    if training.process_index == 0:
        about = {
            "provenance": provenance(splits, resolved, training.seed, options.precision),
            "training": training_section(trainer),
            "leak_audit": audit_leaks(splits),
        }
        finish(Finished(whole, processor, splits, about, options, partial), out)
        print(f"finished: {shown_path(out)} is a complete Hub repo (README.md is its card)", flush=True)
    return out


def check_pictures(splits: Splits) -> None:
    """Refuse a dataset without images before anything is trained.

    Raises:
        UserError: a split holds no row, or its first row no image.
    """
    for name in ("train", "validation"):
        rows = splits.splits[name]
        first = rows[0]["image"] if len(rows) else None
        if not first or not (first.get("bytes") or first.get("path")):
            raise UserError(
                f"the {name} split of {splits.name!r} holds no image ({len(rows)} rows): an autoencoder learns from "
                "images alone; give a dataset that holds some"
            )


def build_model(options: AutoencoderArguments) -> tuple[AutoencoderLesionModel, LesionImageProcessor]:
    """The network at random, and the image processor that goes with it.

    Raises:
        UserError: ``model_config`` is no JSON object, names an unknown field, or describes an impossible shape.
    """
    try:
        config = AutoencoderLesionConfig(**{"image_size": options.image_size, **shape_values(options.model_config)})
        model = AutoencoderLesionModel(config)
        processor = LesionImageProcessor(
            size={"height": config.image_size, "width": config.image_size},
            image_mean=list(config.image_mean),
            image_std=list(config.image_std),
            do_hair_removal=options.hair_removal,
            do_lesion_crop=options.lesion_crop,
            do_colour_constancy=options.colour_constancy,
        )
    except UserError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{error}") from error
    return model, processor


def shape_values(text: str) -> dict[str, Any]:
    """The fields of ``--model_config``.

    Raises:
        UserError: it is not a JSON object, or names a field that the configuration does not have.
    """
    example = "give e.g. '{\"code_size\": 128}'"
    try:
        values = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise UserError(f"model_config {text!r} is not JSON ({error}): {example}") from error
    if not isinstance(values, dict):
        raise UserError(f"model_config {text!r} is no JSON object: {example}")
    known = sorted(AutoencoderLesionConfig.__annotations__)
    for name in values:
        if name not in known:
            raise UserError(f"model_config has an unknown field {name!r}: choose from {', '.join(known)}")
    return values


def turns(size: int) -> v2.Compose:
    """Flips and quarter turns of an image resized to size x size: a lesion has no upright, and no pixel is lost."""
    quarter = v2.RandomChoice([v2.Identity(), v2.RandomRotation((90, 90))])
    return v2.Compose([v2.Resize((size, size)), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), quarter])


def augment(kind: str, size: int) -> Any:
    """The augmentation of that name, on a prepared RGB image; the result is size x size.

    Raises:
        UserError: an unknown one.
    """
    if kind not in (TURNS, *AUGMENTATIONS):
        raise UserError(f"augmentation {kind!r} is unknown: choose one of {', '.join((TURNS, *AUGMENTATIONS))}")
    return turns(size) if kind == TURNS else augmentation(kind, size)


def build_trainer(
    model: Any,
    processor: LesionImageProcessor,
    splits: Splits,
    options: AutoencoderArguments,
    training: LesionTrainingArguments,
) -> AutoencoderTrainer:
    """Everything the Trainer needs from the recipe."""
    train_rows = LesionImages(splits.splits["train"], processor, augment(options.augmentation, model.config.image_size))
    perceptual = None
    if options.perceptual_weight:
        perceptual = PerceptualDistance(options.perceptual_backbone, options.perceptual_weights)
    patience = options.early_stopping_patience
    return AutoencoderTrainer(
        model=model.to(memory_format=torch.channels_last),
        args=training,
        train_dataset=train_rows,
        eval_dataset=LesionImages(splits.splits["validation"], processor),
        data_collator=collate,
        compute_metrics=reconstruction_metrics,
        callbacks=[EarlyStoppingCallback(patience)] if patience else [],
        loss=ReconstructionLoss(options.loss, options.ssim_weight, options.perceptual_weight, perceptual),
        train_sampler=EpochSampler(train_rows.labels, options.sampling, training.seed),
        ema_decay=options.ema_decay,
        noise_std=options.noise_std,
    )
