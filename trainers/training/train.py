"""The one training run behind every ``train_*.py``: recipe -> data -> Trainer -> weights -> finished Hub folder."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import EarlyStoppingCallback, set_seed
from transformers.integrations import TensorBoardCallback

import hub_models
from datasets_scripts.command import UserError
from datasets_scripts.taxonomy import CLASSES, long_names, malignancy_groups
from hub_models import LesionConfig, LesionImageProcessor
from trainers.evaluation.trainer_metrics import TRAINER_METRICS, trainer_metrics
from trainers.model_folder.citations import is_recipes_own, own_citation
from trainers.model_folder.data import (
    UNKNOWN,
    EpochSampler,
    LesionImages,
    Splits,
    augmentation,
    collate,
    load_splits,
    note,
)
from trainers.model_folder.finish import Finished, finish, print_finished
from trainers.model_folder.output import beside, locked
from trainers.model_folder.provenance import audit_leaks, fingerprint, provenance
from trainers.training.arguments import LesionArguments, parse
from trainers.training.log import settle_metric, training_section
from trainers.training.losses import make_loss
from trainers.training.resume import RunRecord, begin, check_output, last_checkpoint, settings
from trainers.training.trainer import LesionTrainer
from trainers.training.training_arguments import LesionTrainingArguments


def main(recipe: str, model_class: str) -> None:
    """Train the classifier of this command line.

    Args:
        recipe: the default recipe's name.
        model_class: name of a classifier of ``hub_models``; its ``config_class`` has the rest.
    """
    run(sys.argv[1:], recipe, getattr(hub_models, model_class))
    end_processes()


def run(argv: list[str], recipe: str, model_class: type) -> Path:
    """Train, evaluate and finish one model; returns the finished Hub folder.

    Raises:
        UserError: bad arguments, dataset, recipe or output folder; the message says what to do.
    """
    options, training, resolved = parse(argv, recipe, LesionArguments)
    settle_metric(training, TRAINER_METRICS)
    check_output(options, training)
    config_values(options, model_class.config_class)  # type: ignore[attr-defined]
    splits = load_splits(options.dataset, options.config_name, options.dataset_command, options.leave_out)
    settle_identity(options, resolved, splits)
    if training.process_index == 0:
        print_recipe(resolved)
    return train(options, training, resolved, splits, model_class)


def settle_identity(options: LesionArguments, resolved: dict[str, Any], splits: Splits) -> None:
    """Take name, title, licence and citation of the recipe away where the images are not those of its own dataset.

    The config is written down as it was loaded.

    Args:
        options: changed in place.
        resolved: the resolved recipe, changed likewise.
        splits: the dataset; the ``source`` of its images decides.

    Raises:
        UserError: the citation cannot be read.
    """
    if "config_name" in resolved:
        resolved["config_name"] = splits.config_name
    options.citation = "\n\n".join(own_citation(options.citation))
    sources = sorted({str(source) for split in splits.splits for source in splits.column(split, "source")})
    if is_recipes_own(options.recipe_builder, sources):
        return
    for name in options.of_recipe:
        setattr(options, name, "")
        resolved.pop(name, None)
    if options.of_recipe:
        where = ", ".join(sources).replace(UNKNOWN, "not stated")
        note(
            f"these images (source: {where}) are not those of recipe {resolved['recipe_name']!r}: its "
            f"{', '.join(options.of_recipe)} will not be used; give --title, --license and --citation of your own"
        )


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
    with output_folder(options, training) as (out, partial, checkpoint):
        return train_into(out, partial, checkpoint, options, training, resolved, splits, model_class)


def train_into(
    out: Path,
    partial: Path,
    checkpoint: str | None,
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
    run_trainer(trainer, options, training, splits, out, checkpoint)
    whole = trainer.whole_model()
    if first:
        about = {
            "provenance": provenance(splits, resolved, training.seed, options.precision),
            "training": training_section(trainer),
            "leak_audit": audit_leaks(splits),
        }
        report = finish(Finished(whole, processor, splits, about, options, partial), out)
        print_finished(out, report, warn="member" not in resolved)  # a member answers nobody: its ensemble does
    return out


def end_processes() -> None:
    """Part from the other processes of a command: the last thing it does, since it may train several models."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def output_folder(
    options: LesionArguments, training: LesionTrainingArguments
) -> Iterator[tuple[Path, Path, str | None]]:
    """Point the Trainer at ``<output_dir>.partial/checkpoints``.

    No other run may write there meanwhile: the first process of a run holds the lock.

    Yields:
        The final folder, the partial one, and the checkpoint to resume from.

    Raises:
        UserError: another run writes the folder; otherwise as :func:`trainers.training.resume.check_output`.
    """
    check_output(options, training)
    out = Path(training.output_dir)
    partial = beside(out)
    with locked(out) if training.process_index == 0 else nullcontext():
        check_output(options, training, held=True)
        training.output_dir = str(partial / "checkpoints")
        yield out, partial, last_checkpoint(training, partial / "checkpoints")


def run_trainer(
    trainer: LesionTrainer,
    options: LesionArguments,
    training: LesionTrainingArguments,
    splits: Splits,
    out: Path,
    checkpoint: str | None,
) -> None:
    """Train, from a checkpoint where there is one; what it changes is printed and recorded.

    Raises:
        UserError: the checkpoint is of another run; the training diverged.
    """
    trainer.record = begin(RunRecord(settings(options, training), fingerprint(splits)), checkpoint)
    if training.process_index == 0:
        for entry in trainer.record.resumed:
            changed = ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in entry["changed"].items())
            print(f"resumed at step {entry['step']} with changed settings: {changed}", flush=True)
    keep_events(trainer, out)
    trainer.train(resume_from_checkpoint=checkpoint)


def keep_events(trainer: LesionTrainer, out: Path) -> None:
    """Write TensorBoard's events beside the finished folder: the working folder is removed at the end."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            callback.logging_dir = callback.logging_dir or f"{out}.runs"
            if trainer.args.process_index == 0:
                print(f"TensorBoard events: tensorboard --logdir {callback.logging_dir}", flush=True)


def build_model(options: LesionArguments, splits: Splits, model_class: Any) -> tuple[Any, LesionImageProcessor]:
    """The model with its initial weights, and the image processor that goes with it."""
    labels = splits.labels
    known = all(name in CLASSES for name in labels)
    try:
        values = config_values(options, model_class.config_class)
        values["label_names"] = (long_names(labels) if known else {name: name for name in labels}) | given_for_labels(
            values, "label_names"
        )
        values["label_groups"] = (malignancy_groups(labels) if known else {}) | given_for_labels(values, "label_groups")
        config = model_class.config_class(
            id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)}, **values
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


def given_for_labels(values: dict[str, Any], name: str) -> dict[str, str]:
    """What ``--model_config`` states of some of the classes, such as their groups.

    Raises:
        UserError: it is no JSON object.
    """
    given = values.get(name, {})
    if not isinstance(given, dict):
        raise UserError(f"model_config has {name} {given!r}: give an object from class name to text")
    return given


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
        if name == "trust":
            raise UserError("model_config has trust: leave it out, it is fitted at the end of the run")
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
