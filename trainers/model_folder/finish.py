"""From trained weights to a finished Hub folder: store, read back, predict, fit, evaluate, describe."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import timm
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

import hub_models
from datasets_scripts.command import UserError, shown_path
from datasets_scripts.output import put_in_place
from hub_models import PIPELINE_TASK, SUITE_VERSION, LesionClassificationPipeline
from model_cards.facts import chosen_on
from model_cards.report_view import ReportNode
from trainers.metrics.predictions import Predictions, write_predictions
from trainers.model_folder.citations import citations, notes
from trainers.model_folder.data import Splits, write_splits
from trainers.model_folder.evaluate import EVALUATED_SPLITS, describe, evaluate_splits
from trainers.model_folder.mc_dropout import head_samples, samples_file, write_samples
from trainers.model_folder.predict import predict_split
from trainers.model_folder.pretraining import pretraining
from trainers.model_folder.provenance import origin
from trainers.model_folder.trust import (
    fitted_split,
    learn_trust,
    mark_selection,
    nothing_promised,
    predict_left_out,
    set_trust,
)
from trainers.trust.fit import FittedTrust, promised, temperature_alone
from trainers.trust.options import TrustOptions

SCHEMA_VERSION = 1
# What Inference Endpoints run.
HANDLER = "handler.py"


class TrainingOptions(Protocol):
    """What a finished folder takes from the options of its training (``trainers.training.arguments``)."""

    name: str
    title: str
    license: str
    citation: str
    follows: str
    backbone_weights: str
    weights_dtype: str
    bootstrap_replicates: int
    keep_features: bool


@dataclass
class TrainedModel:
    """A trained model and the description of its run.

    Attributes:
        model: with its final weights.
        processor: its image processor.
        splits: the dataset it was trained on.
        about: the ``provenance``, ``training`` and ``leak_audit`` sections of the report.
        options: the suite's own options of the run.
        partial: the run's working folder; removed at the end.
        mc_dropout_samples: passes of MC dropout on the test split, for the comparison of methods; 0 = none.
        files: further text files of the folder, by name.
    """

    model: Any
    processor: Any
    splits: Splits
    about: dict[str, Any]
    options: TrainingOptions
    partial: Path
    mc_dropout_samples: int = 0
    files: Mapping[str, str] = field(default_factory=dict)


def finish(run: TrainedModel, out: Path) -> dict[str, Any]:
    """Write the finished folder ``out`` (which appears whole or not at all); returns its report."""
    staging = run.partial / "finished"
    shutil.rmtree(staging, ignore_errors=True)
    model, processor = store(run, staging)
    predictions = {
        split: predict_split(model, processor, run.splits, split)
        for split in EVALUATED_SPLITS
        if split in run.splits.splits
    }
    samples = sample_dropout(model, predictions, run, staging)
    options = TrustOptions(seed=run.about["provenance"]["seed"])
    fitted = trust_or_temperature(run, model, processor, predictions, options)
    mark_selection(fitted.config, chosen_on(ReportNode(run.about)))
    promise = promised(predictions[fitted_split(predictions)], fitted.config, options)
    predictions = set_trust(model, fitted, predictions)
    ood = set_trust(model, fitted, predict_left_out(model, processor, run.splits))
    write_all(predictions, staging, run.options.keep_features)
    write_ood(ood, staging)
    write_splits(run.splits, staging)
    for name, text in run.files.items():
        (staging / name).write_text(text, encoding="utf-8")
    save(model, processor, staging, run.options.weights_dtype)
    report = {
        "schema_version": SCHEMA_VERSION,
        "model": describe_model(model, run, out),
        **run.about,
        "trust": fitted.config,
        "promise": promise,
        "test_reads": [read_of("test", "evaluation of the finished model")] if "test" in predictions else [],
        **evaluate_splits(
            predictions,
            fitted.config,
            run.options.bootstrap_replicates,
            run.about["provenance"]["seed"],
            samples,
            ood,
        ),
    }
    describe(report, predictions, staging, ood)
    put_in_place(staging, out)
    shutil.rmtree(run.partial)
    return report


def print_finished(out: Path, report: dict[str, Any], done: str = "finished", *, warn: bool = True) -> None:
    """Print the last lines of a command that writes a model's folder; a warning where the model promises nothing."""
    print(f"{done}: {shown_path(out)} is a complete Hub repo (README.md is its card)", flush=True)
    if warn and (warning := nothing_promised(report["promise"])):
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def trust_or_temperature(
    run: TrainedModel, model: Any, processor: Any, predictions: dict[str, Predictions], options: TrustOptions
) -> FittedTrust:
    """All of trust; a temperature alone where the split is too small for more: no training is lost to that."""
    try:
        return learn_trust(model, processor, run.splits, predictions, options)
    except UserError as error:
        return temperature_alone(predictions[fitted_split(predictions)], str(error))


def write_all(predictions: dict[str, Predictions], folder: Path, with_features: bool) -> None:
    """``predictions_<split>.parquet`` of each split."""
    for split, rows in predictions.items():
        write_predictions(rows, folder / f"predictions_{split}.parquet", with_features=with_features)


def write_ood(ood: dict[str, Predictions], folder: Path) -> None:
    """``predictions_ood_<n>.parquet`` of each set of images of none of the classes; its name is in the file."""
    for number, (name, rows) in enumerate(ood.items()):
        write_predictions(
            replace(rows, dataset=name), folder / f"predictions_ood_{number}.parquet", with_features=False
        )


def read_of(split: str, purpose: str) -> dict[str, str]:
    """An entry of the log of reads: when a held-out split was read, by which command and for what purpose."""
    made = origin()
    return {"split": split, "date": made["created"], "command": made["command"], "purpose": purpose}


def store(run: TrainedModel, folder: Path) -> tuple[Any, Any]:
    """Save the model and read it back: what is evaluated is what is stored."""
    save(run.model, run.processor, folder, run.options.weights_dtype)
    model = AutoModelForImageClassification.from_pretrained(folder)
    return model.to(run.model.device), AutoImageProcessor.from_pretrained(folder)


def save(model: Any, processor: Any, folder: Path, weights_dtype: str) -> None:
    """Weights, configs and the code that loads them; the pipeline saves them, so that its own code is among it.

    Raises:
        UserError: a weight is NaN or infinite.
    """
    bad = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if bad:
        raise UserError(
            f"{len(bad)} tensors of the weights hold NaN or infinite values, the first is {bad[0]!r}, so that no "
            "answer follows: the training diverged, or the checkpoint is damaged; give other weights, or train with a "
            "lower learning rate"
        )
    model.store_self_check()
    model.config.suite_version = SUITE_VERSION
    pipeline = LesionClassificationPipeline(model=model, image_processor=processor, task=PIPELINE_TASK, device=-1)
    pipeline.save_pretrained(folder, weights_dtype="float16" if weights_dtype == "float16" else None)
    shutil.copyfile(Path(str(hub_models.__file__)).with_name(HANDLER), folder / HANDLER)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone; a release is for everybody


def sample_dropout(
    model: Any, predictions: dict[str, Predictions], run: TrainedModel, folder: Path
) -> np.ndarray | None:
    """MC dropout on the test split (N, M, S, C), stored beside the predictions; None where it cannot be sampled."""
    test = predictions.get("test")
    if not run.mc_dropout_samples or test is None or test.features is None or not model.can_sample_head():
        return None
    logits = head_samples(model, test.features, run.mc_dropout_samples, run.about["provenance"]["seed"])
    write_samples(test, logits, samples_file(folder, "test"))
    return logits


def in_words(backbones: list[str]) -> str:
    """``resnet50``, ``5 x resnet50``, ``2 x a, 1 x b``; ``none`` where no part has image input."""
    if len(backbones) < 2:
        return "".join(backbones) or "none"
    return ", ".join(f"{count} x {name}" for name, count in Counter(backbones).items())


def base_model(weights: str, backbones: list[str]) -> str | list[str] | None:
    """The Hub ids that the backbones' weights came from: one as a text, several as a list, None where there is none."""
    if weights != "timm":
        return weights if re.fullmatch(r"[\w.-]+/[\w.-]+", weights) and not os.path.exists(weights) else None
    # The Hub id has a tag behind the name, which timm knows: timm/resnet50.a1_in1k.
    configs = [timm.get_pretrained_cfg(name, allow_unregistered=True) for name in dict.fromkeys(backbones)]
    ids = [config.hf_hub_id for config in configs if config is not None and config.hf_hub_id]
    return ids[0] if len(ids) == 1 else ids or None


def names(options: TrainingOptions, architecture: str, splits: Splits, out: Path) -> dict[str, str]:
    """``name`` and ``title`` as they were given; else the output folder's name, and what was trained on what."""
    return {
        "name": options.name or out.resolve().name,
        "title": options.title or options.name or f"{architecture} trained on {splits.name}",
    }


def cited(options: TrainingOptions, sources: list[str], methods: list[str]) -> dict[str, Any]:
    """``citation``; and whether any of it is of this model or its images, not only of the methods it is built from."""
    own = [*([options.citation] if options.citation else []), *citations(sources, [], options.follows)]
    return {"citation": list(dict.fromkeys([*own, *methods])), "citation_stated": bool(own)}


def describe_model(model: Any, run: TrainedModel, out: Path) -> dict[str, Any]:
    """The ``model`` section of what becomes the folder ``out``."""
    config, options = model.config, run.options
    dataset = run.about["provenance"]["dataset"]
    return {
        **names(options, in_words(config.backbones), run.splits, out),
        "class": type(model).__name__,
        "model_type": config.model_type,
        "backbone": in_words(config.backbones),
        "initialised_from": config.initialised_from,
        "base_model": (base := base_model(options.backbone_weights, config.backbones)),
        "pretraining": getattr(options, "pretraining_data", "")
        or pretraining(options.backbone_weights, base, config.initialised_from),
        "inputs": list(model.input_names),
        "metadata_fields": getattr(run.processor, "metadata_fields", None),
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "image_size": config.image_size,
        "labels": [
            {"name": name, "long_name": config.label_names[name], "group": config.label_groups.get(name)}
            for name in run.splits.labels
        ],
        "license": options.license or None,
        "weights_dtype": options.weights_dtype,
        **cited(
            options,
            dataset["sources"],
            citations([], [*config.backbones, *([base] if isinstance(base, str) else [])], ""),
        ),
        "notes": notes(dataset["sources"], dataset["image_sizes"]),
    }
