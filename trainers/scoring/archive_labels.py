"""The labels of a public archive in the classes of a model, as ``--labels`` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from datasets_scripts.command import UserError, read_json
from datasets_scripts.sources import archive
from datasets_scripts.sources.archive_tables import OWN, entry_of
from datasets_scripts.sources.tables import TableWriter
from datasets_scripts.taxonomy import TASKS, class_order
from trainers.metrics.predictions import ESTIMATED_TONE, TEXT_COLUMNS
from trainers.model_folder.source import Source, class_names, fetch
from trainers.scoring.files import IMAGE_COLUMN
from trainers.scoring.labels import LABEL

BINARY = "isic_binary"


def model_labels(source: Source) -> list[str]:
    """A model's classes in the order of its logits, by its ``config.json`` alone.

    Raises:
        ModelError: there is no such model, or it has no classes that exclude each other.
    """
    config = read_json(fetch(source)[0] / "config.json", finite=False)
    return class_names(SimpleNamespace(**{"id2label": None, **config}), source.title)


def task_for(name: str, labels: Sequence[str]) -> str:
    """The task that an archive is read for, given a model's classes: theirs, else benign and malignant.

    Raises:
        UserError: there is no such archive, or it has no labels for either.
    """
    entry = entry_of(name)
    same = [task for task, of in TASKS.items() if class_order(labels, of) is not None]
    if OWN in entry.labels and set(entry.classes(OWN)) <= set(labels):
        same.append(OWN)
    for task in (*same, BINARY):
        if task in entry.tasks():
            return task
    raise UserError(
        f"--archive {name} has labels for {', '.join(entry.tasks())}, and the model's classes are "
        f"{', '.join(labels)}: give --labels with a table of your own"
    )


def write_labels(name: str, images: Path, labels: Sequence[str], path: Path) -> list[str]:
    """Write a table for ``--labels`` of the images of an archive that have a class of the model; returns warnings.

    Args:
        name: of the archive.
        images: the folder of the download.
        labels: the model's classes.
        path: of the table. A group is a patient where the archive names patients, else a lesion.

    Raises:
        UserError: as :func:`task_for` and :func:`archive.read`.
    """
    task = task_for(name, labels)
    found = archive.read(name, str(images), task, some=True)
    entry = entry_of(name)
    if found.missing and not entry.partial:
        raise UserError(
            f"--archive {name}: {len(found.missing)} images of its tables are not in {str(images)!r}, the first is "
            f"{found.missing[0].split(' ')[0]}: finish the download ({entry.where})"
        )
    texts = [column for column in TEXT_COLUMNS if column not in ("provenance", ESTIMATED_TONE)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = TableWriter(file)
        writer.writerow([IMAGE_COLUMN, LABEL, "lesion_id", "group_id", "age", *texts])
        for row in found.rows:
            age = "" if row.age is None else f"{row.age:g}"
            group = row.patient_id or row.lesion_id
            values = [getattr(row, column) or "" for column in texts]
            writer.writerow([row.image_id, row.label, row.lesion_id, group, age, *values])
    return [f"--archive {name}: labels of task {task}.", *found.warnings]
