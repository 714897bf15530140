"""Fit trust for a finished or imported model, without retraining it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.output import written_whole
from model_cards.facts import chosen_on
from model_cards.report_view import ReportNode
from model_cards.verify import verify_folder
from trainers.metrics.predictions import MALIGNANT_GROUPS, Predictions, read_predictions
from trainers.model_folder.citations import notes
from trainers.model_folder.data import Splits, write_splits
from trainers.model_folder.evaluate import EVALUATED_SPLITS, describe, evaluate_splits
from trainers.model_folder.finish import SCHEMA_VERSION, read_of, save, write_all, write_ood
from trainers.model_folder.folder import check_output, load
from trainers.model_folder.gate_data import gate_sets
from trainers.model_folder.mc_dropout import read_samples, samples_file, write_samples
from trainers.model_folder.predict import patient_columns, predict_split
from trainers.model_folder.provenance import audit_leaks, describe_dataset, origin
from trainers.model_folder.trust import (
    FITTED_ON,
    fitted_split,
    learn_trust,
    mark_selection,
    predict_folders,
    predict_left_out,
    set_trust,
)
from trainers.trust.decision import check_decision
from trainers.trust.fit import FittedTrust, needed_lesions, promised
from trainers.trust.groups import check_subgroup_column
from trainers.trust.options import TrustOptions

UNKNOWN_LEAK = (
    "This model was not trained on this dataset. Whether its training images hold lesions of this test set is not "
    "known here."
)


def fit_trust(
    source: str,
    splits: Splits,
    out: Path,
    options: TrustOptions,
    *,
    ood_sets: list[Path] | None = None,
    gate_datasets: Sequence[str] = (),
    gate_split: str = "",
    replicates: int = 1000,
    keep_features: bool = True,
    weights_dtype: str = "",
    naming: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Write the folder ``out``, which appears whole or not at all; returns its report.

    Args:
        source: a finished or imported model of ours: a folder, or ``ORG/NAME[@REVISION]`` on the Hub.
        splits: the dataset; its classes are the model's, in any order.
        out: absent, or an empty folder.
        options: what to fit.
        ood_sets: folders of images of none of the classes, for the report alone.
        gate_datasets: further images for the gate alone, of the split ``gate_split``: see :func:`gate_sets`.
        replicates: of the intervals.
        keep_features: keep the features in the predictions files.
        weights_dtype: how the weights are stored; empty = as they were.
        naming: new ``name`` and ``title``; those left out stay.

    Raises:
        UserError: ``out`` is not empty; there is no such model; dataset and model differ; nothing can be fitted.
    """
    check_output(out)
    split = _split_to_fit_on(splits, options)
    model, processor, old = load(source, weights_dtype)
    splits = splits.in_order(model.config.labels)
    check_decision_of(model, splits, split, options)
    more = gate_sets(model, processor, gate_datasets, splits, options, gate_split)
    ood = predict_folders(model, processor, ood_sets or [], options.inference)
    ood |= predict_left_out(model, processor, splits, options.inference)
    dataset = describe_dataset(splits)
    unchanged = can_reuse(old, dataset, options, weights_dtype)
    predictions = _predicted(model, processor, splits, Path(source) if unchanged else None, options.inference)
    fitted = _learned(model, processor, splits, predictions, options, more)
    described = about(old, splits, dataset, options.seed)
    if "training" in described and "trained_on" not in described:
        mark_selection(fitted.config, chosen_on(ReportNode(described)))
    predictions, ood = set_trust(model, fitted, predictions), set_trust(model, fitted, ood)
    samples = read_samples(predictions.get("test"), samples_file(Path(source), "test")) if unchanged else None
    report = {"schema_version": SCHEMA_VERSION, **described} | _of_fit(fitted, predictions, options, old)
    report |= evaluate_splits(predictions, fitted.config, replicates, report["provenance"]["seed"], samples, ood)
    report["model"] |= (naming or {}) | ({"weights_dtype": weights_dtype} if weights_dtype else {})
    with written_whole(out) as folder:
        save(model, processor, folder, report["model"]["weights_dtype"])
        write_all(predictions, folder, keep_features)
        write_ood(ood, folder)
        write_splits(splits, folder)
        if samples is not None:
            write_samples(predictions["test"], samples, samples_file(folder, "test"))
        describe(report, predictions, folder, ood)
    return report


def check_decision_of(model: Any, splits: Splits, split: str, options: TrustOptions) -> None:
    """Refuse a decision that this model and these lesions cannot have, before the first image is predicted.

    Raises:
        UserError: as ``check_decision``.
    """
    labels, groups = model.config.labels, model.config.label_groups
    malignant = np.array([groups.get(label) in MALIGNANT_GROUPS for label in labels])
    at_risk = malignant[np.array(splits.splits[split]["label"][:], dtype=int)]
    lesions = len(set(splits.column(split, "group_id")[at_risk].tolist()))
    # Of an odd number in a class the second half gets one more.
    check_decision(labels, malignant, options, (lesions + int(malignant.sum())) // 2)


def _split_to_fit_on(splits: Splits, options: TrustOptions) -> str:
    """The split that trust is fitted on, after a check of its group column."""
    split = next((name for name in FITTED_ON if name in splits.splits), next(iter(splits.splits)))
    if options.subgroup_column:
        n = len(splits.splits[split])
        check_subgroup_column(options.subgroup_column, patient_columns(splits, split), n, f"the {split} split")
    return split


def _of_fit(
    fitted: FittedTrust, predictions: dict[str, Predictions], options: TrustOptions, old: dict[str, Any]
) -> dict[str, Any]:
    """What the report states of the fit itself."""
    return {
        "trust": fitted.config,
        "promise": promised(predictions[fitted_split(predictions)], fitted.config, options),
        "test_reads": [*old.get("test_reads", []), *([read_of("test", "fit of trust")] * ("test" in predictions))],
    }


def _predicted(
    model: Any, processor: Any, splits: Splits, folder: Path | None, inference: str
) -> dict[str, Predictions]:
    """Predictions of each evaluated split, those of ``folder`` where it holds them."""
    stored = {} if folder is None else stored_predictions(folder, bool(model.early_layers()))
    return {
        split: stored.get(split) or predict_split(model, processor, splits, split, inference=inference)
        for split in EVALUATED_SPLITS
        if split in splits.splits
    }


def _learned(
    model: Any,
    processor: Any,
    splits: Splits,
    predictions: dict[str, Predictions],
    options: TrustOptions,
    more: Mapping[str, Predictions],
) -> FittedTrust:
    """Fitted trust; where it cannot be had, the message says how many images the split has and about how many it takes.

    Raises:
        UserError: nothing can be fitted.
    """
    try:
        return learn_trust(model, processor, splits, predictions, options, gate_sets=more)
    except UserError as error:
        calibration = predictions[fitted_split(predictions)]
        needed = needed_lesions(options, len(splits.labels))
        if len(calibration) >= needed:
            raise
        raise UserError(
            f"{error} (it has {len(calibration)} images; about {needed} are needed to promise anything: give more, or "
            "use the model as it is, with trust=False)"
        ) from error


def can_reuse(old: dict[str, Any], dataset: dict[str, Any], options: TrustOptions, weights_dtype: str) -> bool:
    """Whether the predictions stored with a model are those that would be made now.

    Args:
        old: the model's report.
        dataset: what trust is to be fitted on, described.
        options: of the fit.
        weights_dtype: how the weights will be stored; empty = as they were.
    """
    inferences = {options.inference, old.get("trust", {}).get("fitted_for", {}).get("inference", "plain")}
    same_weights = weights_dtype in ("", "float32", old["model"].get("weights_dtype", "float32"))
    before = old.get("provenance", {}).get("dataset", {})
    same_data = all(before.get(name) == dataset[name] for name in ("fingerprint", "image_sizes"))
    return same_data and same_weights and inferences == {"plain"}


def stored_predictions(folder: Path, with_early: bool) -> dict[str, Predictions]:
    """Split -> predictions with all inputs of a gate; none where a file is not as it was finished."""
    try:
        if verify_folder(folder):
            return {}
    except UserError:  # no folder, or one that cannot be compared with anything
        return {}
    found = {}
    for split in EVALUATED_SPLITS:
        path = folder / f"predictions_{split}.parquet"
        rows = read_predictions(path) if path.is_file() else None
        if rows is not None and rows.features is not None and not (with_early and rows.early is None):
            found[split] = rows
    return found


def about(old: dict[str, Any], splits: Splits, dataset: dict[str, Any], seed: int) -> dict[str, Any]:
    """The sections on the origin of model and trust.

    ``provenance`` names the dataset that the report's numbers are of. Where the weights were trained on another,
    ``trained_on`` names that one; for imported weights ``imported`` holds what is known.

    Args:
        old: the model's report.
        splits: the dataset that trust was fitted on.
        dataset: the same, described.
        seed: of the resamples.
    """
    kept: dict[str, Any] = {name: old[name] for name in ("imported", "training") if name in old}
    made = {**origin(), "seed": seed, **old.get("provenance", {}), "dataset": dataset}
    trained_on = None if "imported" in old else old.get("trained_on", old.get("provenance", {}).get("dataset"))
    found: dict[str, Any] = {
        "model": describe_again(old["model"], dataset),
        **kept,
        "provenance": made,
        "trust_provenance": origin(),
    }
    if trained_on is not None and trained_on["fingerprint"] == dataset["fingerprint"]:
        return {**found, "leak_audit": audit_leaks(splits)}
    elsewhere = {} if trained_on is None else {"trained_on": trained_on}
    return {**found, **elsewhere, "leak_audit": {"unknown": UNKNOWN_LEAK}}


def describe_again(model: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    """The ``model`` section with what a fit adds to it: the notes on its images."""
    return {
        "weights_dtype": "float32",
        **model,
        "notes": list(dict.fromkeys([*model.get("notes", []), *notes(dataset["sources"], dataset["image_sizes"])])),
    }
