"""From trained weights to a finished Hub folder: store, read back, draw again, evaluate, describe; then one rename."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoModel

from datasets_scripts.output import put_in_place
from hub_models import SUITE_VERSION
from model_cards.build import build_card
from trainers.autoencoding.evaluate import EVALUATED_SPLITS, evaluate
from trainers.autoencoding.figures import draw_all, quantile_rows
from trainers.autoencoding.linear_reference import fit_linear_code, linear_scores
from trainers.autoencoding.reconstructing import (
    Reconstructions,
    draw_rows,
    range_of,
    reconstruct_split,
    write_reconstructions,
)
from trainers.model_folder.citations import ENTRIES, notes
from trainers.model_folder.data import write_splits
from trainers.model_folder.evaluate import write_report
from trainers.model_folder.finish import TrainedModel, cited, names, read_of
from trainers.model_folder.provenance import of_the_suite

SCHEMA_VERSION = 1
# By this value the card's builder recognises an autoencoder's report.
TASK = "reconstruction"
CITED = ("sagardia2022autoencoder", "odena2016deconvolution")


def finish(run: TrainedModel, out: Path) -> dict[str, Any]:
    """Write the finished folder ``out`` (which appears whole or not at all); returns its report."""
    staging = run.partial / "finished"
    shutil.rmtree(staging, ignore_errors=True)
    model, processor = store(run, staging)
    found = evaluate_splits(run, model, processor)
    for split, rows in found.items():
        write_reconstructions(rows, staging / f"reconstructions_{split}.parquet")
    write_splits(run.splits, staging)
    seed = run.about["provenance"]["seed"]
    report = {
        "schema_version": SCHEMA_VERSION,
        "model": describe_model(model, run, out),
        **run.about,
        "test_reads": [read_of("test", "evaluation of the finished model")] if "test" in found else [],
        "evaluation": {
            split: evaluate(rows, replicates=run.options.bootstrap_replicates, seed=seed)
            for split, rows in found.items()
        },
    }
    shown = found.get("test", found["validation"])
    images = draw_rows(model, processor, run.splits, shown.split, quantile_rows(shown))
    report["figures"] = draw_all(report, shown, images, staging)
    report |= of_the_suite(report, staging)
    write_report(report, staging)
    build_card(staging)
    put_in_place(staging, out)
    shutil.rmtree(run.partial)
    return report


def store(run: TrainedModel, folder: Path) -> tuple[Any, Any]:
    """Save weights, configs and the code that loads them; read them back: what is evaluated is what is stored."""
    half = run.options.weights_dtype == "float16"
    run.model.store_self_check()
    run.model.config.suite_version = SUITE_VERSION
    run.model.save_pretrained(folder, weights_dtype="float16" if half else None)
    run.processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone; a release is for everybody
    model = AutoModel.from_pretrained(folder)
    return model.to(run.model.device).eval(), AutoImageProcessor.from_pretrained(folder)


def evaluate_splits(run: TrainedModel, model: Any, processor: Any) -> dict[str, Reconstructions]:
    """Reconstructions of validation and test by the stored model; codes are rounded within validation's range."""
    options: Any = run.options
    seed = run.about["provenance"]["seed"]
    linear = fit_linear_code(model, processor, run.splits, seed=seed) if options.linear_reference else None
    found: dict[str, Reconstructions] = {}
    for split in (name for name in EVALUATED_SPLITS if name in run.splits.splits):
        rows = reconstruct_split(
            model,
            processor,
            run.splits,
            split,
            code_range=range_of(found["validation"].codes) if "validation" in found else None,
            noise_std=options.noise_std,
            seed=seed,
        )
        if linear is not None:
            scores = linear_scores(linear, model, processor, run.splits, split)
            rows = replace(rows, scores={**rows.scores, **scores})
        found[split] = rows
    return found


def describe_model(model: Any, run: TrainedModel, out: Path) -> dict[str, Any]:
    """The ``model`` section of what becomes the folder ``out``."""
    options: Any = run.options
    config = model.config
    dataset = run.about["provenance"]["dataset"]
    values = 3 * config.image_size**2
    return {
        **names(options, "autoencoder", run.splits, out),
        "task": TASK,
        "class": type(model).__name__,
        "model_type": config.model_type,
        "inputs": list(model.input_names),
        "labels": [],  # it knows no classes
        "image_size": config.image_size,
        "code_size": config.code_size,
        "values_per_code": round(values / config.code_size, 1),
        "bits_per_image": {"float32": 32 * config.code_size, "8bit": 8 * config.code_size},
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "shape": {
            name: getattr(config, name)
            for name in ("block", "bottleneck", "upsampling", "encoder_channels", "decoder_channels")
        },
        "loss": {name: getattr(options, name) for name in ("loss", "ssim_weight", "perceptual_weight", "noise_std")},
        "base_model": None,
        "license": options.license or None,
        "weights_dtype": options.weights_dtype,
        **cited(options, dataset["sources"], [ENTRIES[key] for key in CITED]),
        "notes": notes(dataset["sources"], dataset["image_sizes"]),
    }
