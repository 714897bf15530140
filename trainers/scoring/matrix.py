"""Every model on every dataset: the pairs scored one after another, and one table of their reports."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.output import beside, locked, put_in_place
from datasets_scripts.rows import Columns
from datasets_scripts.sources.tables import TableWriter
from model_cards.manifest import write_text
from trainers.evaluation.figures.charts import DPI
from trainers.evaluation.figures.matrix import draw_matrix
from trainers.evaluation.matrix import markdown, matrix_row
from trainers.metrics.predictions import TEXT_COLUMNS
from trainers.model_folder.data import Splits, load_splits, stored_bytes
from trainers.model_folder.output import check_empty
from trainers.model_folder.predict import patient_columns
from trainers.model_folder.source import Source
from trainers.scoring.files import IMAGE_COLUMN, Table
from trainers.scoring.folder import Job, score_folder
from trainers.scoring.labels import LABEL, Classes
from trainers.scoring.scorer import AnswerSettings, Scorer

TABLE, FIGURE, NUMBERS, SETTINGS = "README.md", "matrix.png", "matrix.json", "settings.json"
SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}")


@dataclass(frozen=True)
class MatrixJob:
    """What to score.

    Attributes:
        models: the models, of different names.
        datasets: dataset folders or Hub ids, or ``IMAGES=LABELS.csv``.
        scored: folders of ``lesion score --labels`` or finished models, whose reports become rows as they are.
        out: the folder to write.
        split: of the datasets.
        config_name: of the datasets.
        columns: of image, label and group, in all datasets.
        batch_size, processes, bootstrap_replicates, seed: as of ``lesion score``.
    """

    models: Sequence[Source]
    datasets: Sequence[str]
    scored: Sequence[Path]
    out: Path
    split: str = "test"
    config_name: str = "grouped"
    columns: Columns = field(default_factory=Columns)
    batch_size: int = 32
    processes: int = 1
    bootstrap_replicates: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Labelled:
    """Images with their labels.

    Attributes:
        name: of the dataset.
        images: the folder of the images.
        labels: the table.
    """

    name: str
    images: Path
    labels: Path


@dataclass
class _Names:
    """Names that must differ, since folders have them."""

    taken: set[str] = field(default_factory=set)

    def new(self, name: str, what: str) -> str:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "__", name)
        if plain in self.taken:
            raise UserError(f"two {what} have the name {name!r}: rename one, the table identifies them by their names")
        self.taken.add(plain)
        return plain


def matrix(job: MatrixJob) -> list[dict[str, Any]]:
    """Score every pair that is not scored yet, write table, figure and numbers into ``out``, and return the rows.

    ``out`` appears whole; a run that was stopped goes on in ``<out>.partial`` with the first pair that is missing.

    Raises:
        UserError: something the user can fix, such as a model or dataset that cannot be read, or two of one name.
    """
    check_empty(job.out, "--out")
    rows = [_stored(folder) for folder in job.scored]
    models, names = _Names(), _Names()
    folders = [models.new(source.title, "models") for source in job.models]
    titles = [names.new(dataset_name(dataset), "datasets") for dataset in job.datasets]
    partial = beside(job.out)
    with locked(job.out):
        _begin(job, partial)
        for dataset, title in zip(job.datasets, titles, strict=True):
            labelled = _labelled(job, dataset, title, partial / "datasets" / title)
            for source, folder in zip(job.models, folders, strict=True):
                print(f"{source.title} on {labelled.name}", flush=True)
                rows.append(_scored(job, source, labelled, partial / "scored" / folder / title))
        write_text(partial / NUMBERS, json.dumps({"rows": rows}, indent=1, allow_nan=False) + "\n")
        text = ["# Models by datasets", "", *markdown(rows), "", f"![{FIGURE}]({FIGURE})"]
        write_text(partial / TABLE, "\n".join(text) + "\n")
        draw_matrix(rows).savefig(partial / FIGURE, dpi=DPI, metadata={"Software": None})
        shutil.rmtree(partial / "datasets", ignore_errors=True)
        (partial / SETTINGS).unlink()
        put_in_place(partial, job.out)
    return rows


def dataset_name(dataset: str) -> str:
    """The name of ``IMAGES=LABELS.csv``, of a dataset folder, or of a Hub id."""
    images, equals, _ = dataset.rpartition("=")
    place = Path(images if equals else dataset)
    return place.resolve().name if place.is_dir() else dataset


def _begin(job: MatrixJob, partial: Path) -> None:
    settings = {
        "models": [f"{source.location}@{source.revision or ''}" for source in job.models],
        "datasets": list(job.datasets),
        "columns": asdict(job.columns),
        **{name: getattr(job, name) for name in ("split", "config_name", "bootstrap_replicates", "seed")},
    }
    stored = partial / SETTINGS
    if partial.exists() and not stored.is_file():
        raise UserError(f"{str(partial)!r} is not of this command: choose another --out or delete it")
    if stored.is_file() and json.loads(stored.read_text("utf-8")) != settings:
        raise UserError(
            f"{str(partial)!r} is of other models, datasets or settings: give the same to go on, choose another --out, "
            "or delete it"
        )
    partial.mkdir(parents=True, exist_ok=True)
    write_text(stored, json.dumps(settings, indent=1) + "\n")


def _stored(folder: Path) -> dict[str, Any]:
    """The row of a folder that holds a report already.

    Raises:
        UserError: it holds none, or one without such an evaluation.
    """
    try:
        report = json.loads((folder / "report.json").read_text("utf-8"))
        dataset = report["scored"]["folder"] if "scored" in report else report["provenance"]["dataset"]["name"]
        return matrix_row(report, report["model"].get("name") or folder.name, dataset)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--scored {str(folder)!r} holds no report of labelled images ({type(error).__name__}: {error}): give a "
            "folder of `lesion score --labels`, or a finished model"
        ) from error


def _labelled(job: MatrixJob, dataset: str, title: str, folder: Path) -> Labelled:
    images, equals, labels = dataset.rpartition("=")
    if equals:
        return Labelled(title, Path(images), Path(labels))
    splits = load_splits(dataset, job.config_name, columns=job.columns)
    if job.split not in splits.splits:
        raise UserError(f"dataset {dataset!r} has no {job.split!r} split: it has {', '.join(splits.splits)}")
    export(splits, job.split, folder)
    return Labelled(title, folder / "images", folder / "labels.csv")


def export(splits: Splits, split: str, folder: Path) -> None:
    """Write the images of a split, as they are stored, into ``folder/images``, and ``folder/labels.csv``."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    rows = splits.splits[split]
    ids = {name: splits.column(split, name) for name in ("image_id", "lesion_id", "group_id")}
    patients = patient_columns(splits, split)
    names = [str(name) for name in ids["image_id"]]
    if len(set(names)) < len(names) or not all(SAFE.fullmatch(name) for name in names):
        names = [f"{split}-{number:06d}" for number in range(len(names))]
    ages = ["" if np.isnan(age) else f"{age:g}" for age in patients["age"]]
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = TableWriter(file)
        texts = [column for column in TEXT_COLUMNS if column in patients]
        writer.writerow([IMAGE_COLUMN, LABEL, "lesion_id", "group_id", "age", *texts])
        for number, name in enumerate(names):
            row = rows[number]
            (folder / "images" / f"{name}{_suffix(row['image']['path'])}").write_bytes(stored_bytes(row["image"]))
            of_patient = [str(patients[column][number]) for column in texts]
            lesion, group = ids["lesion_id"][number], ids["group_id"][number]
            writer.writerow([name, splits.labels[row["label"]], lesion, group, ages[number], *of_patient])


def _suffix(path: str | None) -> str:
    suffix = Path(path or "").suffix
    return suffix if SAFE.fullmatch(suffix.removeprefix(".")) else ".image"


def _scored(job: MatrixJob, source: Source, labelled: Labelled, out: Path) -> dict[str, Any]:
    """The row of a pair, scored unless an earlier run has done so."""
    noted = out.with_name(f"{out.name}.labels.json")
    if not (out / "report.json").is_file():
        scorer = Scorer(source, AnswerSettings(), "cpu")
        labels, left_out = known_labels(scorer, labelled.labels, out.with_name(f"{out.name}.labels.csv"))
        if labels is None:
            return {"model": source.title, "dataset": labelled.name, "why": "it knows none of the labels"}
        write_text(noted, json.dumps(left_out) + "\n")
        pair = Job(
            source,
            as_fitted(scorer, job.seed),
            labelled.images,
            out,
            labels=labels,
            batch_size=job.batch_size,
            processes=job.processes,
            bootstrap_replicates=job.bootstrap_replicates,
        )
        score_folder(pair)
    row = matrix_row(json.loads((out / "report.json").read_text("utf-8")), source.title, labelled.name)
    counts = json.loads(noted.read_text("utf-8")) if noted.is_file() else {}
    return {**row, "left_out": sum(counts.values()), "left_out_classes": sorted(counts)}


def as_fitted(scorer: Scorer, seed: int) -> AnswerSettings:
    """The settings that a model's trust was fitted for; without trust where there is none."""
    trust = (getattr(scorer.model.config, "trust", None) or {}) if scorer.ours else {}
    inference = (trust.get("fitted_for") or {}).get("inference", "plain")
    fitted = "conformal" in trust or not scorer.ours
    return AnswerSettings(inference=inference, trust=fitted, keep_logits=True, seed=seed)


def known_labels(scorer: Scorer, labels: Path, file: Path) -> tuple[Path | None, dict[str, int]]:
    """A table of the rows whose label a model knows, and how many images of each other label there are.

    Args:
        scorer: the model.
        labels: the table of the dataset.
        file: where to write a table without the rows of other classes.

    Returns:
        The dataset's own table where the model knows every label; None where it knows none.
    """
    table = Table(labels, "--datasets", (LABEL,))
    texts = Counter(row[LABEL] for row in table.rows.values())
    truth = Classes.of(scorer.labels, scorer.model.config).for_labels(texts)
    left_out = {text: count for text, count in sorted(texts.items()) if truth.index(text) is None}
    file.parent.mkdir(parents=True, exist_ok=True)
    if not left_out:
        return labels, {}
    if len(left_out) == len(texts):
        return None, left_out
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = TableWriter(opened)
        writer.writerow(table.columns)
        rows = (row for row in table.rows.values() if row[LABEL] not in left_out)
        writer.writerows([row[name] for name in table.columns] for row in rows)
    return file, left_out
