"""Fit trust for a finished or imported model, without retraining it: ``python -m trainers.fit_trust MODEL ...``.

Temperature, gate, prediction sets and bands are fitted on the calibration split of a dataset, and judged on its test
split. The model's weights stay as they are; the result is a new, complete Hub folder.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_scripts.command import OneLineParser, check_model
from model_cards.card import read_report
from model_cards.command import UserError as CardError
from model_cards.report_view import ReportNode
from model_cards.situation import chosen_on
from model_cards.verify import verify_folder
from trainers.arguments import WEIGHTS_DTYPES, check_dataset
from trainers.errors import OutputError, UserError, report_user_errors
from trainers.whole_folder import beside, check_empty, written_whole

if TYPE_CHECKING:
    from trainers.data import Splits
    from trainers.predictions import Predictions
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
    strangers: list[Path] | None = None,
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
        strangers: folders of pictures of none of the classes, for the report alone.
        replicates: of the intervals.
        keep_features: keep the features in the predictions files.
        weights_dtype: how the weights are stored; empty = as they were.
        naming: new ``name`` and ``title``; those left out stay.

    Raises:
        UserError: ``out`` is not empty; there is no such model; dataset and model differ; nothing can be fitted.
    """
    check_output(out)
    model, processor, old = load(source, weights_dtype)
    splits = splits.in_order(model.config.labels)
    from trainers.data import write_splits
    from trainers.finish import SCHEMA_VERSION, read_of, save, write_all, write_strangers
    from trainers.judging import JUDGED, describe, judge
    from trainers.mc_dropout import read_samples, samples_file, write_samples
    from trainers.predicting import predict_split
    from trainers.provenance import describe_dataset
    from trainers.trust.fit import needed_lesions, promised
    from trainers.trusting import (
        fitted_split,
        give_trust,
        learn_trust,
        mark_selection,
        predict_folders,
        predict_left_out,
    )

    foreign = predict_folders(model, processor, strangers or [], options.inference)
    foreign |= predict_left_out(model, processor, splits, options.inference)
    dataset = describe_dataset(splits)
    still = still_said(old, dataset, options, weights_dtype)
    stored = stored_predictions(Path(source), bool(model.early_layers())) if still else {}
    predictions = {
        split: stored.get(split) or predict_split(model, processor, splits, split, inference=options.inference)
        for split in JUDGED
        if split in splits.splits
    }
    try:
        fitted = learn_trust(model, processor, splits, predictions, options)
    except UserError as error:
        calibration = predictions[fitted_split(predictions)]
        needed = needed_lesions(options, len(splits.labels))
        if len(calibration) >= needed:
            raise
        raise UserError(
            f"{error} (it has {len(calibration)} images; about {needed} are needed to promise anything: give more, or "
            "use the model as it is, with trust=False)"
        ) from error
    described = about(old, splits, dataset, options.seed)
    if "training" in described and "trained_on" not in described:
        mark_selection(fitted.config, chosen_on(ReportNode(described)))
    predictions, foreign = give_trust(model, fitted, predictions), give_trust(model, fitted, foreign)
    samples = read_samples(predictions.get("test"), samples_file(Path(source), "test")) if still else None
    report = {
        "schema_version": SCHEMA_VERSION,
        **described,
        "trust": fitted.config,
        "promise": promised(predictions[fitted_split(predictions)], fitted.config, options),
        "test_reads": [*old.get("test_reads", []), *([read_of("test", "fit of trust")] * ("test" in predictions))],
    }
    report |= judge(predictions, fitted.config, replicates, report["provenance"]["seed"], samples, foreign)
    report["model"] |= (naming or {}) | ({"weights_dtype": weights_dtype} if weights_dtype else {})
    with written_whole(out) as folder:
        save(model, processor, folder, report["model"]["weights_dtype"])
        write_all(predictions, folder, keep_features)
        write_strangers(foreign, folder)
        write_splits(splits, folder)
        if samples is not None:
            write_samples(predictions["test"], samples, samples_file(folder, "test"))
        describe(report, predictions, folder, foreign)
    return report


def check_output(out: Path) -> None:
    """Refuse a folder that holds something, or beside which a training run waits to be resumed.

    Raises:
        OutputError: names the folder and the mend.
    """
    check_empty(out)
    partial = beside(out)
    if (partial / "checkpoints").exists():
        raise OutputError(
            f"an unfinished training run stands in {str(partial)!r}: choose another --output_dir, or delete it"
        )


def load(source: str, weights_dtype: str = "") -> tuple[Any, Any, dict[str, Any]]:
    """Model, image processor and report of a folder or repo, by our own classes.

    Args:
        source: a folder, or ``ORG/NAME[@REVISION]``.
        weights_dtype: how the weights will be stored: those of the model are rounded likewise, so that what is judged
            is what a reader will load.

    Raises:
        UserError: there is none, or it is not one of ours.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    import hub_models
    from trainers.finish import save
    from trainers.scoring.models import LOADING_FAILS, ModelError, check_files, one_line, parse_source

    try:
        found = parse_source(source)
    except ModelError:
        raise UserError(
            f"{source!r} is no model of ours that can be read (no such folder, and not ORG/NAME[@REVISION]): give a "
            "finished folder or a repo id"
        ) from None
    repo, how = found.location, {"revision": found.revision} if found.revision else {}
    known = {config.model_type for config in hub_models.CLASSIFIERS}
    try:
        if Path(repo).is_dir() and not (Path(repo) / "config.json").is_file():
            raise UserError(f"{source!r} has no config.json: give a finished folder or a repo id")
        try:
            check_files(repo, found.revision)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        told = AutoConfig.from_pretrained(repo, **how)
        if told.model_type not in known:
            raise UserError(f"{source} is a {told.model_type} model: give one that was trained or imported here")
        model = AutoModelForImageClassification.from_pretrained(repo, **how)
        processor = AutoImageProcessor.from_pretrained(repo, **how)
        report = read_report(Path(repo)) if Path(repo).is_dir() else download_report(repo, found.revision)
    except UserError:
        raise
    except LOADING_FAILS as error:
        raise UserError(
            f"{source!r} is no model of ours that can be read ({one_line(error)}): give a finished folder or a repo id"
        ) from error
    if weights_dtype == "float16":
        with tempfile.TemporaryDirectory() as folder:
            save(model, processor, Path(folder), weights_dtype)
            model = AutoModelForImageClassification.from_pretrained(folder)
    return model.eval(), processor, report


def download_report(repo: str, revision: str | None) -> dict[str, Any]:
    """The ``report.json`` of a repository."""
    from huggingface_hub import hf_hub_download

    return read_report(Path(hf_hub_download(repo, "report.json", revision=revision)).parent)


def still_said(old: dict[str, Any], dataset: dict[str, Any], options: TrustOptions, weights_dtype: str) -> bool:
    """Whether the predictions that lie with a model are those that would be made now.

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
    """Split -> predictions with all that a gate may look at; none where a file is not as it was finished."""
    try:
        if verify_folder(folder):
            return {}
    except CardError:  # no folder, or one that cannot be compared with anything
        return {}
    found = {}
    from trainers.judging import JUDGED
    from trainers.predictions import read_predictions

    for split in JUDGED:
        path = folder / f"predictions_{split}.parquet"
        rows = read_predictions(path) if path.is_file() else None
        if rows is not None and rows.features is not None and not (with_early and rows.early is None):
            found[split] = rows
    return found


def about(old: dict[str, Any], splits: Splits, dataset: dict[str, Any], seed: int) -> dict[str, Any]:
    """The sections that say where model and trust come from.

    ``provenance`` names the dataset that the report's numbers are of. Where the weights were trained on another,
    ``trained_on`` names that one; of imported weights ``imported`` says what is known.

    Args:
        old: the model's report.
        splits: the dataset that trust was fitted on.
        dataset: the same, described.
        seed: of the resamples.
    """
    kept: dict[str, Any] = {name: old[name] for name in ("imported", "training") if name in old}
    from trainers.provenance import audit_leaks, origin

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
    """The ``model`` section with what a fit adds to it: what it cites, and what is to be known of its images."""
    from trainers.references import notes

    return {
        "weights_dtype": "float32",
        **model,
        "notes": list(dict.fromkeys([*model.get("notes", []), *notes(dataset["sources"], dataset["image_sizes"])])),
    }


def parse() -> Namespace:
    """The command line."""
    parser = OneLineParser(prog="python -m trainers.fit_trust", description=__doc__)
    parser.add_argument(
        "model", metavar="DIR_OR_REPO", help="a finished or imported model: a folder, or ORG/NAME[@REVISION]"
    )
    parser.add_argument(
        "--dataset", required=True, help="dataset folder written by a build_* command, or a Hub dataset id"
    )
    parser.add_argument(
        "--leave_out",
        default="",
        metavar="CLASS,...",
        help="classes of the dataset that the model was trained without: how often they are declined stands in the "
        "report",
    )
    parser.add_argument("--config_name", default="grouped", help="the dataset's config (default %(default)s)")
    parser.add_argument(
        "--output_dir", required=True, type=Path, help="the new folder; must not exist yet, or be empty"
    )
    parser.add_argument(
        "--ood",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="folders of pictures of none of the classes: how often they are declined stands in the report; nothing is "
        "fitted on them",
    )
    from trainers.trust.options import TrustOptions

    for option in fields(TrustOptions):
        text = f"{option.metadata['help']} (default %(default)s)".replace("% ", "%% ")
        if isinstance(option.default, bool):
            parser.add_argument(
                f"--{option.name}", type=_truth, default=option.default, metavar="true|false", help=text
            )
        else:
            parser.add_argument(f"--{option.name}", type=type(option.default), default=option.default, help=text)
    parser.add_argument("--name", default="", help="short name of the result (default: the model's)")
    parser.add_argument("--title", default="", help="title of its card (default: the model's)")
    parser.add_argument(
        "--weights_dtype",
        choices=WEIGHTS_DTYPES,
        default=None,
        help="how the weights are stored (default: as they were)",
    )
    parser.add_argument(
        "--keep_features",
        type=_truth,
        default=True,
        metavar="true|false",
        help="keep features in the predictions files (default true)",
    )
    parser.add_argument(
        "--bootstrap_replicates", type=int, default=1000, help="bootstrap resamples (default %(default)s)"
    )
    return parser.parse_args()


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def main() -> None:
    """Parse the command line and fit."""
    arguments = parse()
    if arguments.bootstrap_replicates < 1:
        raise UserError(f"--bootstrap_replicates {arguments.bootstrap_replicates}: give at least 1")
    check_dataset(arguments.dataset)
    check_model(arguments.model, "the model")
    from trainers.data import load_splits
    from trainers.finish import print_finished
    from trainers.trust.options import TrustOptions

    options = TrustOptions(**{option.name: getattr(arguments, option.name) for option in fields(TrustOptions)})
    report = fit_trust(
        arguments.model,
        load_splits(arguments.dataset, arguments.config_name, leave_out=arguments.leave_out),
        arguments.output_dir,
        options,
        strangers=arguments.ood,
        replicates=arguments.bootstrap_replicates,
        keep_features=arguments.keep_features,
        weights_dtype=arguments.weights_dtype or "",
        naming={name: value for name in ("name", "title") if (value := getattr(arguments, name))},
    )
    print_finished(arguments.output_dir, report, "fitted")


if __name__ == "__main__":
    report_user_errors(main)
