"""From a backbone and a dataset to a finished folder whose head was fitted on features that were computed once."""

from __future__ import annotations

import json
import time
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from datasets_scripts.command import UserError
from datasets_scripts.output import beside, locked
from hub_models import ImageForLesionClassification
from trainers.model_folder.data import Splits, load_splits
from trainers.model_folder.finish import TrainedModel, finish, print_finished
from trainers.model_folder.output import check_empty
from trainers.model_folder.provenance import audit_leaks, provenance
from trainers.probing.features import features_of
from trainers.probing.fit import Head, choose_labelled, fit_head
from trainers.probing.options import ProbeOptions
from trainers.training.arguments import plain
from trainers.training.image_arguments import ImageArguments
from trainers.training.train import build_model, check_model, settle_identity
from trainers.training.trainer import peak_memory

LABELLED_FILE = "labelled_images.txt"


def probe(options: ImageArguments, settings: ProbeOptions) -> dict[str, Any]:
    """Fit the head and write the finished folder; returns its report.

    Raises:
        UserError: backbone, dataset, prompts or output folder; the message says what to do.
    """
    check_empty(settings.output_dir)
    resolved = recipe_of(options, settings)
    splits, model, processor = prepare(options, zero_shot=settings.zero_shot is not None)
    settle_identity(options, resolved, splits)
    with locked(settings.output_dir):
        start = time.perf_counter()
        if settings.zero_shot is not None:
            head, files = zero_shot_head(options, settings, model), {}
            splits_used = splits
        else:
            splits_used, labelled = with_labels_of(splits, settings.label_fraction)
            head, files = probe_head(model, processor, splits_used, options, settings), {LABELLED_FILE: labelled}
        set_head(model, head)
        about = {
            "provenance": provenance(splits_used, resolved, settings.seed, "fp32"),
            "training": training_section(head, settings, splits_used, time.perf_counter() - start),
            "leak_audit": audit_leaks(splits_used),
        }
        working = beside(settings.output_dir)
        run = TrainedModel(model, processor, splits_used, about, options, working, files=files)
        report = finish(run, settings.output_dir)
    print_finished(settings.output_dir, report)
    return report


def recipe_of(options: ImageArguments, settings: ProbeOptions) -> dict[str, Any]:
    """The options as the report's ``recipe``: what differs from the defaults, and what every probe has."""
    given = {option.name: getattr(options, option.name) for option in fields(options) if option.init}
    usual = {option.name: option.default for option in fields(options) if option.init}
    changed = {name: plain(value) for name, value in given.items() if value != usual[name]}
    own = {option.name: plain(getattr(settings, option.name)) for option in fields(settings)}
    return {"recipe_name": "zero_shot" if settings.zero_shot else "linear_probe", **changed, **own}


def prepare(options: ImageArguments, *, zero_shot: bool = False) -> tuple[Splits, Any, Any]:
    """The dataset, the model with its pretrained backbone, and its image processor.

    Raises:
        UserError: backbone or dataset.
    """
    options.settle_backbone()
    if zero_shot:
        from trainers.probing.zero_shot import projection_of

        options.model_config = json.dumps(
            {**json.loads(options.model_config or "{}"), **projection_of(options.backbone)}
        )
    splits = load_splits(options.dataset, options.config_name, leave_out=options.leave_out, columns=options.columns)
    check_model(options, splits, ImageForLesionClassification)
    model, processor = build_model(options, splits, ImageForLesionClassification)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return splits, model.to(device, memory_format=torch.channels_last).eval(), processor


def with_labels_of(splits: Splits, fraction: float) -> tuple[Splits, str]:
    """The same splits with only the labelled images in train, and their ids, one a line, sorted."""
    rows = splits.splits["train"]
    labels = np.array(rows["label"][:], dtype=np.int64)
    chosen = choose_labelled(splits.column("train", "group_id"), labels, fraction)
    kept = {**splits.splits, "train": rows.select(np.flatnonzero(chosen))}
    ids = sorted(str(name) for name in splits.column("train", "image_id")[chosen])
    return replace(splits, splits=kept), "\n".join(ids) + "\n"


def probe_head(model: Any, processor: Any, splits: Splits, options: ImageArguments, settings: ProbeOptions) -> Head:
    """The head of multinomial logistic regression on the train split.

    Raises:
        UserError: too few labels.
    """
    rows = splits.splits["train"]
    features = features_of(model, processor, rows, batch_size=settings.batch_size, title="features of train")
    return fit_head(
        features,
        np.array(rows["label"][:], dtype=np.int64),
        splits.column("train", "group_id"),
        len(splits.labels),
        folds=settings.folds,
        balanced=options.class_weights == "balanced",
        seed=settings.seed,
    )


def zero_shot_head(options: ImageArguments, settings: ProbeOptions, model: Any) -> Head:
    """The head of text prompts.

    Raises:
        UserError: prompts or text encoder.
    """
    from trainers.probing.zero_shot import read_prompts, text_head

    assert settings.zero_shot is not None
    prompts = read_prompts(settings.zero_shot, model.config.labels, model.config.label_names)
    return text_head(options.backbone, prompts)


def set_head(model: Any, head: Head) -> None:
    """Write a fitted head into the classifier.

    Raises:
        UserError: its width is not that of the features.
    """
    if head.weight.shape != tuple(model.head.weight.shape):
        raise UserError(
            f"the head has the shape {head.weight.shape}, the features want {tuple(model.head.weight.shape)}: give "
            "texts and images of one encoder"
        )
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(head.weight))
        model.head.bias.copy_(torch.from_numpy(head.bias))


def training_section(head: Head, settings: ProbeOptions, splits: Splits, seconds: float) -> dict[str, Any]:
    """The ``training`` section of ``report.json``: how the head was made, its time and memory."""
    if settings.zero_shot is not None:
        kept, how = "no label was used", {"zero_shot": head.about}
    else:
        per_class = {splits.labels[label]: count for label, count in head.about["per_class"].items()}
        kept = "least log loss in grouped cross-validation within train"
        how = {"probe": {**head.about, "per_class": per_class, "label_fraction": settings.label_fraction}}
    return {
        "kept_because": kept,
        "train_seconds": round(seconds, 1),
        "peak_memory_bytes": peak_memory(),
        **how,
    }
