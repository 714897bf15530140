"""A finished model's folder with its predictions and report, to evaluate it further and write it again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

import hub_models
from datasets_scripts.command import UserError
from datasets_scripts.output import beside, written_whole
from datasets_scripts.rows import Columns
from model_cards.card import read_report
from model_cards.hub import download, split_revision
from model_cards.manifest import check_manifest
from trainers.evaluation.figures.charts import FOLDER
from trainers.metrics.predictions import Predictions, read_predictions
from trainers.model_folder.columns import columns_for
from trainers.model_folder.data import Splits, load_splits
from trainers.model_folder.evaluate import EVALUATED_SPLITS, describe, read_ood
from trainers.model_folder.finish import read_of, save
from trainers.model_folder.output import check_empty
from trainers.model_folder.provenance import describe_dataset
from trainers.model_folder.source import LOADING_FAILS, ModelError, check_files, one_line, parse_source

# What of a finished folder is rebuilt, and not copied.
REBUILT = ("*.py", "__pycache__", ".*", FOLDER)


@dataclass(frozen=True)
class EvaluatedModel:
    """A finished model that is to be evaluated further.

    Attributes:
        folder: its files.
        model: in eval mode.
        processor: its image processor.
        report: its report.
        predictions: split -> its predictions when it was evaluated.
    """

    folder: Path
    model: Any
    processor: Any
    report: dict[str, Any]
    predictions: dict[str, Predictions]

    def evaluated(self, splits: Splits, split: str) -> Predictions:
        """The model's predictions of a split, image by image.

        Raises:
            UserError: it was evaluated on other images, or not on this split.
        """
        dataset, before = describe_dataset(splits), self.report["provenance"]["dataset"]
        if any(before.get(name) != dataset[name] for name in ("fingerprint", "image_sizes")):
            raise UserError(
                f"the model was evaluated on {before['name']!r} (config {before['config_name']!r}), and these are "
                f"other images ({dataset['name']!r}, config {dataset['config_name']!r}): fit its trust on them first, "
                "with python -m trainers.fit_trust"
            )
        if split not in self.predictions:
            raise UserError(f"--split {split!r} was not evaluated: choose one of {', '.join(self.predictions)}")
        return self.predictions[split]


def load_splits_of(
    model: str, dataset: str, config_name: str, leave_out: str = "", columns: Columns | None = None
) -> Splits:
    """As :func:`load_splits`; columns that are not given are those that the training of ``model`` named."""
    return load_splits(dataset, config_name, leave_out=leave_out, columns=columns_for(model, columns))


@contextmanager
def finished_model(source: str, splits: Splits, out: Path) -> Iterator[tuple[EvaluatedModel, Splits]]:
    """A model to be evaluated further, and the dataset with its classes in the model's order; ``out`` is checked first.

    Args:
        source: a finished model of ours: a folder, or ``ORG/NAME[@REVISION]``.
        splits: the dataset.
        out: where the result is to go.

    Raises:
        UserError: ``out`` is not empty; there is no such model, or it was changed since it was finished, or never
            evaluated, or is of other classes.
    """
    check_output(out)
    with as_folder(source) as folder:
        finished = read_finished(folder, source)
        yield finished, splits.in_order(finished.model.config.labels)


@contextmanager
def as_folder(source: str) -> Iterator[Path]:
    """A model's folder as it is, or a repository's files in a temporary one.

    Raises:
        UserError: neither a folder nor a repository that can be had.
    """
    if Path(source).is_dir():
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="finished-") as temporary:
        try:
            repo, revision = split_revision(source)
            download(repo, Path(temporary), revision=revision, repo_type="model")
        except UserError as error:
            raise UserError(
                f"{source!r} is no model of ours that can be read ({error}): give a finished folder or a repo id"
            ) from error
        yield Path(temporary)


def read_finished(folder: Path, named: str) -> EvaluatedModel:
    """Load a finished model with its predictions and report.

    Args:
        folder: its files.
        named: its name in messages.

    Raises:
        UserError: it is no model of ours, was changed since it was finished, or was never evaluated.
    """
    model, processor, report = load(str(folder))
    try:
        changed = check_manifest(folder)
    except UserError as error:
        changed = [str(error)]
    if changed:
        raise UserError(
            f"{named!r} is not as it was finished ({changed[0]}): rebuild it with python -m trainers.rebuild"
        )
    paths = {split: folder / f"predictions_{split}.parquet" for split in EVALUATED_SPLITS}
    predictions = {split: read_predictions(path) for split, path in paths.items() if path.is_file()}
    if "evaluation" not in report or not predictions:
        raise UserError(f"{named!r} was never evaluated: fit its trust first, with python -m trainers.fit_trust")
    return EvaluatedModel(folder, model, processor, report, predictions)


@contextmanager
def rewritten(
    finished: EvaluatedModel, out: Path, *, split: str, purpose: str
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A copy of a finished folder to add files and a section of the report to; at the end it becomes ``out``.

    Model, code, figures, card and manifest are rebuilt. A read of the test split is written down.

    Args:
        finished: the model; its report is changed.
        out: absent, or an empty folder.
        split: that was read.
        purpose: what for.

    Raises:
        UserError: the report lacks what a card needs.
    """
    report = finished.report
    with written_whole(out) as partial:
        shutil.copytree(finished.folder, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*REBUILT))
        yield partial, report
        save(finished.model, finished.processor, partial, report["model"].get("weights_dtype", "float32"))
        if split == "test":
            report["test_reads"] = [*report.get("test_reads", []), read_of(split, purpose)]
        try:
            describe(report, finished.predictions, partial, read_ood(partial))
        except UserError as error:
            raise UserError(f"{error} (python -m trainers.rebuild does)") from error


def check_output(out: Path) -> None:
    """Refuse a folder that holds something, or beside which a training run waits to be resumed.

    Raises:
        UserError: names the folder and what to do.
    """
    check_empty(out)
    partial = beside(out)
    if (partial / "checkpoints").exists():
        raise UserError(
            f"an unfinished training run stands in {str(partial)!r}: choose another --output_dir, or delete it"
        )


def load(source: str, weights_dtype: str = "") -> tuple[Any, Any, dict[str, Any]]:
    """Model, image processor and report of a folder or repo, by our own classes.

    Args:
        source: a folder, or ``ORG/NAME[@REVISION]``.
        weights_dtype: how the weights will be stored: those of the model are rounded likewise, so that what is
            evaluated is what a reader will load.

    Raises:
        UserError: there is none, or it is not one of ours.
    """

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
        config = AutoConfig.from_pretrained(repo, **how)
        if config.model_type not in known:
            raise UserError(f"{source} is a {config.model_type} model: give one that was trained or imported here")
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
    return read_report(Path(hf_hub_download(repo, "report.json", revision=revision)).parent)
