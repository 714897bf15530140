"""From trained weights to a finished Hub folder: store, read back, draw again, evaluate, describe; then one rename."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoModel

from model_cards.build import build_card
from trainers.autoencoding.evaluate import EVALUATED_SPLITS, evaluate
from trainers.autoencoding.figures import draw_all, quantile_rows
from trainers.autoencoding.linear_reference import fit_linear_code, linear_scores
from trainers.autoencoding.options import AutoencoderArguments
from trainers.autoencoding.reconstructing import (
    Reconstructions,
    draw_rows,
    range_of,
    reconstruct_split,
    write_reconstructions,
)
from trainers.model_folder.citations import notes
from trainers.model_folder.data import Splits, write_splits
from trainers.model_folder.evaluate import write_report
from trainers.model_folder.finish import cited, names, read_of
from trainers.model_folder.output import put_in_place

SCHEMA_VERSION = 1
# What the card's builder tells an autoencoder's report by.
TASK = "reconstruction"
PUBLISHED = """@misc{sagardia2022autoencoder,
  title = {Skin lesion classification: a convolutional autoencoder to visualise the dataset},
  author = {Sagardia, Mikel},
  year = {2022},
  note = {The published system: a project on part 3 of the ISIC 2017 challenge}
}"""
CHECKERBOARD = """@article{odena2016deconvolution,
  title = {Deconvolution and Checkerboard Artifacts},
  author = {Odena, Augustus and Dumoulin, Vincent and Olah, Chris},
  journal = {Distill},
  year = {2016},
  doi = {10.23915/distill.00003}
}"""


@dataclass
class Finished:
    """A trained autoencoder and what is known of its run.

    Attributes:
        model: with its final weights.
        processor: its image processor.
        splits: the dataset it was trained on.
        about: the ``provenance``, ``training`` and ``leak_audit`` sections of the report.
        options: the suite's own options of the run.
        partial: the run's working folder; removed at the end.
    """

    model: Any
    processor: Any
    splits: Splits
    about: dict[str, Any]
    options: AutoencoderArguments
    partial: Path


def finish(run: Finished, out: Path) -> dict[str, Any]:
    """Write the finished folder ``out`` (which appears whole or not at all); returns its report."""
    staging = run.partial / "finished"
    shutil.rmtree(staging, ignore_errors=True)
    model, processor = store(run, staging)
    found = judge_splits(run, model, processor)
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
    pictures = draw_rows(model, processor, run.splits, shown.split, quantile_rows(shown))
    report["figures"] = draw_all(report, shown, pictures, staging)
    write_report(report, staging)
    build_card(staging)
    put_in_place(staging, out)
    shutil.rmtree(run.partial)
    return report


def store(run: Finished, folder: Path) -> tuple[Any, Any]:
    """Save weights, configs and the code that loads them; read them back: what is evaluated is what is stored."""
    half = run.options.weights_dtype == "float16"
    run.model.save_pretrained(folder, weights_dtype="float16" if half else None)
    run.processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone; a release is for everybody
    model = AutoModel.from_pretrained(folder)
    return model.to(run.model.device).eval(), AutoImageProcessor.from_pretrained(folder)


def judge_splits(run: Finished, model: Any, processor: Any) -> dict[str, Reconstructions]:
    """What the stored model makes of validation and test; codes are rounded within validation's range."""
    seed = run.about["provenance"]["seed"]
    linear = fit_linear_code(model, processor, run.splits, seed=seed) if run.options.linear_reference else None
    found: dict[str, Reconstructions] = {}
    for split in (name for name in EVALUATED_SPLITS if name in run.splits.splits):
        rows = reconstruct_split(
            model,
            processor,
            run.splits,
            split,
            code_range=range_of(found["validation"].codes) if "validation" in found else None,
            noise_std=run.options.noise_std,
            seed=seed,
        )
        if linear is not None:
            scores = linear_scores(linear, model, processor, run.splits, split)
            rows = replace(rows, scores={**rows.scores, **scores})
        found[split] = rows
    return found


def describe_model(model: Any, run: Finished, out: Path) -> dict[str, Any]:
    """The ``model`` section of what becomes the folder ``out``."""
    config, options = model.config, run.options
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
        **cited(options, dataset["sources"], [PUBLISHED, CHECKERBOARD]),
        "notes": notes(dataset["sources"], dataset["image_sizes"]),
    }
