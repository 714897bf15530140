"""The one training run behind every ``train_*.py``: recipe -> data -> Trainer -> weights -> finished Hub folder."""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import EarlyStoppingCallback, set_seed

from datasets_scripts.taxonomy import CLASSES, long_names, malignancy_groups
from hub_models import LesionConfig, LesionImageProcessor
from trainers.arguments import LesionArguments, LesionTrainingArguments, parse
from trainers.data import EpochSampler, LesionImages, Splits, augmentation, collate, load_splits
from trainers.errors import OutputError, UserError, report_user_errors
from trainers.evaluation.trainer_metrics import TRAINER_METRICS, trainer_metrics
from trainers.finish import Finished, finish
from trainers.losses import make_loss
from trainers.provenance import audit_leaks, provenance
from trainers.trainer_lesion import COMPLETE_FILE, LesionTrainer, newest_checkpoint
from trainers.training_log import settle_metric, training_section
from trainers.whole_folder import beside, check_empty, locked


def main(recipe: str, model_class: type) -> None:
    """Entry point of a ``train_*.py``.

    Args:
        recipe: the default recipe's name.
        model_class: a classifier of ``hub_models``; its ``config_class`` says the rest.
    """
    report_user_errors(lambda: run(sys.argv[1:], recipe, model_class))
    end_processes()


def run(argv: list[str], recipe: str, model_class: type) -> Path:
    """Train, evaluate and finish one model; returns the finished Hub folder.

    Raises:
        UserError: bad arguments, dataset, recipe or output folder; the message says the mend.
    """
    options, training, resolved = parse(argv, recipe, LesionArguments)
    if training.process_index == 0:
        print_recipe(resolved)
    splits = load_splits(options.dataset, options.config_name, options.dataset_command, options.leave_out)
    return train(options, training, resolved, splits, model_class)


def print_recipe(resolved: dict[str, Any]) -> None:
    """Say what the run will do, before it does it."""
    print(f"resolved recipe (defaults < {resolved['recipe_name']} < command line):")
    print(yaml.safe_dump(resolved, sort_keys=True), flush=True)


def train(
    options: LesionArguments,
    training: LesionTrainingArguments,
    resolved: dict[str, Any],
    splits: Splits,
    model_class: type,
) -> Path:
    """Train and finish one model on loaded splits; returns the finished Hub folder (whole once rank 0 is back).

    Raises:
        UserError: as :func:`run`.
    """
    settle_metric(training, TRAINER_METRICS)
    with output_folder(training) as (out, partial):
        return train_into(out, partial, options, training, resolved, splits, model_class)


def train_into(
    out: Path,
    partial: Path,
    options: LesionArguments,
    training: LesionTrainingArguments,
    resolved: dict[str, Any],
    splits: Splits,
    model_class: type,
) -> Path:
    """As :func:`train`, into an output folder that is checked and locked."""
    first = training.process_index == 0
    set_seed(training.seed)
    model, processor = build_model(options, splits, model_class)
    trainer = build_trainer(model, processor, splits, options, training)
    trainer.train(resume_from_checkpoint=last_checkpoint(training))
    whole = trainer.whole_model()
    if first:
        about = {
            "provenance": provenance(splits, resolved, training.seed, options.precision),
            "training": training_section(trainer),
            "leak_audit": audit_leaks(splits),
        }
        finish(Finished(whole, processor, splits, about, options, partial), out)
        print(f"finished: {os.path.relpath(out)} is a complete Hub repo (README.md is its card)", flush=True)
    return out


def end_processes() -> None:
    """Part from the other processes of a command: the last thing it does, since it may train several models."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def output_folder(training: LesionTrainingArguments) -> Iterator[tuple[Path, Path]]:
    """Point the Trainer at ``<output_dir>.partial/checkpoints``; gives the final folder and the partial one.

    No other run may write there meanwhile: the first process of a run holds the lock.

    Raises:
        UserError: the final folder is not empty, another run writes it, or an unfinished run stands there and no
            resume was asked for.
    """
    if not training.output_dir:
        raise OutputError("no output folder was given: add --output_dir DIR")
    out = Path(training.output_dir)
    with locked(out) if training.process_index == 0 else nullcontext():
        yield prepare_output(training, out)


def prepare_output(training: LesionTrainingArguments, out: Path) -> tuple[Path, Path]:
    """As :func:`output_folder`, for a folder that this run holds."""
    partial = beside(out)
    check_empty(out, held=True)
    if newest_checkpoint(partial / "checkpoints") and not resume_asked(training):
        raise OutputError(
            f"an unfinished run stands in {str(partial)!r}: "
            "add --resume_from_checkpoint true to go on with it, or delete it"
        )
    training.output_dir = str(partial / "checkpoints")
    return out, partial


def resume_asked(training: LesionTrainingArguments) -> str:
    """What ``--resume_from_checkpoint`` says: ``true``, a folder, or "" for a fresh start."""
    asked = str(training.resume_from_checkpoint or "")
    return "" if asked.lower() in ("false", "none") else asked


def last_checkpoint(training: LesionTrainingArguments) -> str | None:
    """What to resume from: nothing, the newest checkpoint (``true``), or the folder that was named.

    Raises:
        OutputError: the named checkpoint does not exist, or was not written to the end.
    """
    asked = resume_asked(training)
    if not asked:
        return None
    if asked.lower() == "true":
        newest = newest_checkpoint(Path(str(training.output_dir)))
        return None if newest is None else str(newest)
    if not (Path(asked) / COMPLETE_FILE).is_file():
        raise OutputError(f"checkpoint {asked!r} does not exist or is not complete: give `true` for this run's newest")
    return asked


def build_model(options: LesionArguments, splits: Splits, model_class: Any) -> tuple[Any, LesionImageProcessor]:
    """The model with its initial weights, and the image processor that goes with it."""
    labels = splits.labels
    known = all(name in CLASSES for name in labels)
    try:
        config = model_class.config_class(
            id2label=dict(enumerate(labels)),
            label2id={name: i for i, name in enumerate(labels)},
            label_names=long_names(labels) if known else {name: name for name in labels},
            label_groups=malignancy_groups(labels) if known else {},
            **config_values(options, model_class.config_class),
        )
        weights = None if options.backbone_weights == "none" else options.backbone_weights
        parts = {"metadata_weights": options.metadata_weights} if options.metadata_weights else {}
        model = model_class.from_backbone(config, weights=weights, **parts)
        mean, std = model.pixel_statistics()
        processor = LesionImageProcessor(
            size={"height": options.image_size, "width": options.image_size},
            image_mean=mean,
            image_std=std,
            do_hair_removal=options.hair_removal,
            do_lesion_crop=options.lesion_crop,
            do_colour_constancy=options.colour_constancy,
            model_input_names=list(model.input_names),
            metadata_fields=getattr(config, "metadata_fields", None),
        )
        model.check_processor(processor)
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"{error}") from error
    return model, processor


def config_values(options: LesionArguments, config_class: Any) -> dict[str, Any]:
    """The classifier's own settings: the options that every classifier has, then ``--model_config``.

    Raises:
        UserError: ``model_config`` is not a JSON object, or names a field that the configuration does not have.
    """
    values: dict[str, Any] = {"image_size": options.image_size, "dropout": options.dropout}
    if options.backbone:
        values["backbone"] = options.backbone
    text = options.model_config or "{}"
    example = """give e.g. '{"backbone_kwargs": {"drop_path_rate": 0.2}}'"""
    try:
        more = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"model_config {text!r} is not JSON ({error}): {example}") from error
    if not isinstance(more, dict):
        raise UserError(f"model_config {text!r} is no JSON object: {example}")
    known = sorted(
        {name for base in config_class.__mro__ if issubclass(base, LesionConfig) for name in base.__annotations__}
    )
    for name in more:
        if name not in known:
            raise UserError(f"model_config has an unknown field {name!r}: choose from {', '.join(known)}")
    return values | more


def build_trainer(
    model: Any, processor: Any, splits: Splits, options: LesionArguments, training: LesionTrainingArguments
) -> LesionTrainer:
    """Everything the Trainer needs from the recipe."""
    size = options.train_image_size or options.image_size
    training_processor = copy.deepcopy(processor)
    training_processor.size = {"height": size, "width": size}
    train = LesionImages(splits.splits["train"], training_processor, augmentation(options.augmentation, size))
    counts = torch.from_numpy(np.bincount(train.labels, minlength=len(splits.labels)))
    try:
        loss = make_loss(options.loss, counts, options.class_weights, options.focal_gamma)
    except ValueError as error:
        raise UserError(f"{error}") from error
    patience = options.early_stopping_patience
    return LesionTrainer(
        model=model.to(memory_format=torch.channels_last),
        args=training,
        train_dataset=train,
        eval_dataset=LesionImages(splits.splits["validation"], training_processor),
        data_collator=collate,
        compute_metrics=trainer_metrics(splits.labels),
        callbacks=[EarlyStoppingCallback(patience)] if patience else [],
        loss=loss,
        train_sampler=EpochSampler(train.labels, options.sampling, training.seed),
        ema_decay=options.ema_decay,
    )
