"""The one training run behind every ``train_*.py``: recipe -> data -> Trainer -> weights -> finished Hub folder."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import EarlyStoppingCallback, set_seed
from transformers.integrations import TensorBoardCallback

import hub_models
from datasets_scripts.command import UserError
from datasets_scripts.output import beside, locked
from datasets_scripts.taxonomy import CLASSES, long_names, malignancy_groups
from hub_models import LesionConfig, LesionImageProcessor
from trainers.evaluation.trainer_metrics import TRAINER_METRICS, trainer_metrics
from trainers.model_folder.citations import is_recipes_own, own_citation
from trainers.model_folder.data import (
    UNKNOWN,
    EpochSampler,
    LesionImages,
    Splits,
    collate,
    load_splits,
    note,
)
from trainers.model_folder.finish import TrainedModel, finish, print_finished
from trainers.model_folder.provenance import audit_leaks, fingerprint, provenance
from trainers.training.arguments import LesionArguments, parse
from trainers.training.batches import AugmentedImages, augmentation
from trainers.training.log import settle_metric, training_section
from trainers.training.lora import add_lora, attention_layers, merge_lora
from trainers.training.losses import make_loss
from trainers.training.resume import RunRecord, begin, check_output, last_checkpoint, settings
from trainers.training.trainer import LesionTrainer
from trainers.training.training_arguments import LesionTrainingArguments


@dataclass(frozen=True)
class Task:
    """What a training run does differently for one kind of model.

    Attributes:
        options: the class of its options.
        settle: checks what the options alone show, and sets the metric that chooses the epoch.
        check: refuses a dataset or a model that cannot be trained, before anything is printed.
        build_model: the model with its initial weights, and its image processor.
        build_trainer: from model, image processor, dataset and options.
        finish: writes the finished folder; returns its report.
    """

    options: type[LesionArguments]
    settle: Callable[[Any, LesionTrainingArguments], None]
    check: Callable[[Any, Splits], None]
    build_model: Callable[[Any, Splits], tuple[Any, LesionImageProcessor]]
    build_trainer: Callable[[Any, LesionImageProcessor, Splits, Any, LesionTrainingArguments], LesionTrainer]
    finish: Callable[[TrainedModel, Path], dict[str, Any]]


def classifier(model_class: Any, options: type[LesionArguments] = LesionArguments) -> Task:
    """The training of a classifier of this class, with options of this class."""

    def settle(options: LesionArguments, training: LesionTrainingArguments) -> None:
        settle_metric(training, TRAINER_METRICS)
        config_values(options, model_class.config_class)

    return Task(
        options=options,
        settle=settle,
        check=partial(check_model, model_class=model_class),
        build_model=partial(build_model, model_class=model_class),
        build_trainer=build_trainer,
        finish=finish,
    )


def main(recipe: str, model_class: str, options: type[LesionArguments] = LesionArguments) -> None:
    """Train the classifier of this command line.

    Args:
        recipe: the default recipe's name.
        model_class: name of a classifier of ``hub_models``; its ``config_class`` has the rest.
        options: the class of its options.
    """
    run(sys.argv[1:], recipe, classifier(getattr(hub_models, model_class), options))
    end_processes()


def run(argv: list[str], recipe: str, task: Task) -> Path:
    """Train, evaluate and finish one model; returns the finished Hub folder.

    Raises:
        UserError: bad arguments, dataset, recipe or output folder; the message says what to do.
    """
    options, training, resolved = parse(argv, recipe, task.options)
    task.settle(options, training)
    check_output(options, training)
    splits = load_splits(
        options.dataset, options.config_name, options.dataset_command, options.leave_out, options.columns
    )
    settle_identity(options, resolved, splits)
    task.check(options, splits)
    if training.process_index == 0:
        print_recipe(resolved)
    return train(options, training, resolved, splits, task)


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
    options: LesionArguments, training: LesionTrainingArguments, resolved: dict[str, Any], splits: Splits, task: Task
) -> Path:
    """Train and finish one model on loaded splits; returns the finished Hub folder (whole once rank 0 is back).

    Raises:
        UserError: as :func:`run`.
    """
    task.settle(options, training)
    with output_folder(options, training) as (out, working, checkpoint):
        set_seed(training.seed)
        model, processor = task.build_model(options, splits)
        trainer = task.build_trainer(model, processor, splits, options, training)
        run_trainer(trainer, options, training, splits, out, checkpoint)
        whole = trainer.whole_model()
        if training.process_index == 0:
            whole = merge_lora(whole) if rank_of(options) else whole
            about = {
                "provenance": provenance(splits, resolved, training.seed, options.precision),
                "training": training_section(trainer),
                "leak_audit": audit_leaks(splits),
            }
            report = task.finish(TrainedModel(whole, processor, splits, about, options, working), out)
            # A member answers nobody: its ensemble does.
            print_finished(out, report, warn="promise" in report and "member" not in resolved)
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
        The final folder, the working one, and the checkpoint to resume from.

    Raises:
        UserError: another run writes the folder; otherwise as :func:`trainers.training.resume.check_output`.
    """
    check_output(options, training)
    out = Path(training.output_dir)
    working = beside(out)
    with locked(out) if training.process_index == 0 else nullcontext():
        check_output(options, training, held=True)
        training.output_dir = str(working / "checkpoints")
        yield out, working, last_checkpoint(training, working / "checkpoints")


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
    try:
        config = model_config(options, splits, model_class)
        weights = None if options.backbone_weights == "none" else options.backbone_weights
        parts = {"metadata_weights": options.metadata_weights} if options.metadata_weights else {}
        model = model_class.from_backbone(config, weights=weights, **parts)
        given = options.pixel_statistics() or finished_statistics(options.backbone_weights)
        mean, std = given or model.pixel_statistics()
        processor = image_processor(
            options,
            options.image_size,
            mean,
            std,
            model_input_names=list(model.input_names),
            metadata_fields=getattr(config, "metadata_fields", None),
        )
        model.check_processor(processor)
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"{error}") from error
    return add_lora(model, rank) if (rank := rank_of(options)) else model, processor


def rank_of(options: LesionArguments) -> int:
    """The rank of the adapters; 0 = none, also for a model whose backbone cannot be chosen."""
    return int(getattr(options, "lora_rank", 0))


def finished_statistics(weights: str) -> tuple[list[float], list[float]] | None:
    """Channel mean and deviation of a finished model, where a backbone starts from its ``model.safetensors``."""
    settings = Path(weights).with_name("preprocessor_config.json")
    if not weights.endswith(".safetensors") or not settings.is_file():
        return None
    processor = LesionImageProcessor.from_pretrained(settings.parent)
    return list(processor.image_mean), list(processor.image_std)


def check_model(options: LesionArguments, splits: Splits, model_class: Any) -> None:
    """Build the network without memory or weights.

    Raises:
        UserError: no such backbone, or a configuration that no network can have.
    """
    try:
        with torch.device("meta"):
            model = model_class(model_config(options, splits, model_class))
        if rank_of(options):
            attention_layers(model)
    except (ValueError, OSError, ImportError) as error:
        raise UserError(f"{error}") from error


def model_config(options: LesionArguments, splits: Splits, model_class: Any) -> LesionConfig:
    """The configuration of the options and the dataset's classes.

    Raises:
        UserError: as :func:`config_values`.
        ValueError: an impossible value.
    """
    labels = splits.labels
    # Classes of `build_images` are the user's own, whatever they are called.
    known = all(name in CLASSES for name in labels) and not splits.ids.get("duplicates")
    values = config_values(options, model_class.config_class)
    long = long_names(labels) if known else {name: name for name in labels}
    values["label_names"] = long | given_for_labels(values, "label_names")
    groups = dict(splits.label_groups) or (malignancy_groups(labels) if known else {})
    values["label_groups"] = groups | given_for_labels(values, "label_groups")
    config: LesionConfig = model_class.config_class(
        id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)}, **values
    )
    return config


def image_processor(
    options: LesionArguments, size: int, mean: Sequence[float], std: Sequence[float], **more: Any
) -> LesionImageProcessor:
    """The image processor of a size, with the steps before the resize that the options name."""
    return LesionImageProcessor(
        size={"height": size, "width": size},
        image_mean=list(mean),
        image_std=list(std),
        resize_mode=options.resize_mode,
        do_hair_removal=options.hair_removal,
        do_lesion_crop=options.lesion_crop,
        do_colour_constancy=options.colour_constancy,
        **more,
    )


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
    fields = options.backbone_fields()  # first: a backbone may set the image size
    values: dict[str, Any] = {"image_size": options.image_size, "dropout": options.dropout, **fields}
    known = {name for base in config_class.__mro__ if issubclass(base, LesionConfig) for name in base.__annotations__}
    example = """give e.g. '{"backbone_kwargs": {"drop_path_rate": 0.2}}'"""
    more = fields_of(options.model_config, known, example)
    if "trust" in more:
        raise UserError("model_config has trust: leave it out, it is fitted at the end of the run")
    return values | more


def fields_of(text: str, known: Collection[str], example: str) -> dict[str, Any]:
    """The fields of a configuration in the JSON of ``--model_config``.

    Raises:
        UserError: it is no JSON object, or names a field that is not among the known ones.
    """
    try:
        values = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise UserError(f"model_config {text!r} is not JSON ({error}): {example}") from error
    if not isinstance(values, dict):
        raise UserError(f"model_config {text!r} is no JSON object: {example}")
    for name in values:
        if name not in known:
            raise UserError(f"model_config has an unknown field {name!r}: choose from {', '.join(sorted(known))}")
    return values


def training_images(
    splits: Splits, processor: Any, options: LesionArguments, augment: Callable[[str, int], Any]
) -> LesionImages | AugmentedImages:
    """The train split as the options say: decoded once and augmented in batches, or by Pillow image by image.

    Args:
        splits: the dataset.
        processor: that of the training size.
        options: ``input_pipeline``, ``augmentation`` and ``image_cache``.
        augment: what ``pillow`` does with a prepared image, from a name and a size.

    Raises:
        UserError: an unusable cache or image.
    """
    rows = splits.splits["train"]
    if options.input_pipeline == "pillow" or "pixel_values" not in processor.model_input_names:
        return LesionImages(rows, processor, augment(options.augmentation, int(processor.size["height"])))
    return AugmentedImages(rows, processor, options.augmentation, options.image_cache)


def build_trainer(
    model: Any, processor: Any, splits: Splits, options: LesionArguments, training: LesionTrainingArguments
) -> LesionTrainer:
    """Everything the Trainer needs from the recipe."""
    size = options.train_image_size or options.image_size
    training_processor = copy.deepcopy(processor)
    training_processor.size = {"height": size, "width": size}
    train = training_images(splits, training_processor, options, augmentation)
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
