"""One training run of an autoencoder: recipe -> data -> Trainer -> weights -> finished Hub folder."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torchvision.transforms import v2
from transformers import EarlyStoppingCallback

from datasets_scripts.command import UserError
from hub_models import AutoencoderLesionConfig, AutoencoderLesionModel, LesionImageProcessor
from trainers.autoencoding.finish import finish
from trainers.autoencoding.losses import PerceptualDistance, ReconstructionLoss
from trainers.autoencoding.options import TURNS, AutoencoderArguments
from trainers.autoencoding.trainer import SCORES, AutoencoderTrainer, reconstruction_metrics
from trainers.model_folder.data import (
    EpochSampler,
    LesionImages,
    Splits,
    collate,
)
from trainers.training.arguments import AUGMENTATIONS
from trainers.training.batches import augmentation
from trainers.training.log import settle_metric
from trainers.training.train import Task, end_processes, fields_of, image_processor, run, training_images
from trainers.training.training_arguments import LesionTrainingArguments

METRIC = "psnr"
EXAMPLE = "give e.g. '{\"code_size\": 128}'"


def main(recipe: str) -> None:
    """Train the autoencoder of this command line.

    Args:
        recipe: the default recipe's name.
    """
    run(sys.argv[1:], recipe, AUTOENCODER)
    end_processes()


def settle(options: AutoencoderArguments, training: LesionTrainingArguments) -> None:
    """Put PSNR where the suite's defaults name a classifier's metric.

    Raises:
        UserError: an option that needs what an autoencoder has not; a metric that there is not.
    """
    if training.metric_for_best_model == "macro_f1":
        training.metric_for_best_model = METRIC
    settle_metric(training, tuple(SCORES))
    if training.layer_decay != 1.0:
        raise UserError(f"layer_decay {training.layer_decay!r}: an autoencoder has no pretrained layers; leave it out")


def check(options: AutoencoderArguments, splits: Splits) -> None:
    """Refuse a dataset without images, and a network that cannot be built.

    Raises:
        UserError: a split holds no row, or its first row no image; as :func:`build_model`.
    """
    for name in ("train", "validation"):
        rows = splits.splits[name]
        first = rows[0]["image"] if len(rows) else None
        if not first or not (first.get("bytes") or first.get("path")):
            raise UserError(
                f"the {name} split of {splits.name!r} holds no image ({len(rows)} rows): an autoencoder learns from "
                "images alone; give a dataset that holds some"
            )
    build_model(options)


def build_model(
    options: AutoencoderArguments, splits: Splits | None = None
) -> tuple[AutoencoderLesionModel, LesionImageProcessor]:
    """The network at random, and the image processor that goes with it.

    Raises:
        UserError: ``model_config`` is no JSON object, names an unknown field, or describes an impossible shape.
    """
    try:
        shape = fields_of(options.model_config, AutoencoderLesionConfig.__annotations__, EXAMPLE)
        config = AutoencoderLesionConfig(**{"image_size": options.image_size, **shape})
        model = AutoencoderLesionModel(config)
        processor = image_processor(options, config.image_size, config.image_mean, config.image_std)
    except UserError:
        raise
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{error}") from error
    return model, processor


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
    train_rows = training_images(splits, processor, options, augment)
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


AUTOENCODER = Task(AutoencoderArguments, settle, check, build_model, build_trainer, finish)
