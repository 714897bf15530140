"""Labelled lesions of another place as the splits that trust is fitted and evaluated on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.sources.tables import age
from trainers.metrics.predictions import TEXT_COLUMNS
from trainers.model_folder.data import Splits, with_labels
from trainers.model_folder.folder import load_splits_of
from trainers.model_folder.provenance import fingerprint
from trainers.scoring.external import own
from trainers.scoring.files import Table, walk_images
from trainers.scoring.labels import LABEL, Classes, check_labels
from trainers.trust.halves import divide

CONFIG_NAME = "local"
IDS = ("image_id", "lesion_id", "group_id")


@dataclass(frozen=True)
class Local:
    """Labelled lesions, and what the user should know of them.

    Attributes:
        rows: ``image`` (not decoded), ``label`` in the model's classes, ids, patient columns.
        name: of the folder or dataset.
        group_column: the column of the groups; None: each image is a lesion of its own.
        left_out: rows of labels that were to be left out, or None.
        left_out_labels: these labels.
        notes: a sentence each.
    """

    rows: datasets.Dataset
    name: str
    group_column: str | None
    left_out: datasets.Dataset | None
    left_out_labels: tuple[str, ...]
    notes: list[str]

    def splits(self, labels: Sequence[str], test_fraction: float, seed: int) -> Splits:
        """``calibration`` and, where ``test_fraction`` is above 0, ``test``; groups whole, classes alike.

        Raises:
            UserError: a part without a lesion.
        """
        classes, groups = np.array(self.rows["label"][:]), np.array(self.rows["group_id"][:])
        test = divide(classes, groups, test_fraction, seed)
        parts = {"calibration": np.flatnonzero(~test), "test": np.flatnonzero(test)}
        if test_fraction and not all(map(len, parts.values())):
            raise UserError(
                f"--test_fraction {test_fraction:g} of {len(set(groups.tolist()))} lesions leaves a part without a "
                "lesion: give more, or leave it out"
            )
        return Splits(
            {name: self.rows.select(rows) for name, rows in parts.items() if len(rows)},
            list(labels),
            self.name,
            CONFIG_NAME,
            left_out=self.left_out,
            left_out_classes=self.left_out_labels,
            ids={"column": self.group_column, "alone": frozenset()},
        )


def labelled_images(images: Path, table: Table, classes: Classes, leave_out: Sequence[str]) -> Local:
    """The images of a folder that have a row in a table.

    Args:
        images: the folder, with all folders in it.
        table: ``image,label`` and optionally ``lesion_id``, ``group_id``, ``age`` and text columns.
        classes: of the model.
        leave_out: labels whose images are left out.

    Raises:
        UserError: an image that is not there, or that two rows name; a label that is no class of the model; no image.
    """
    there = {row[LABEL] for row in table.rows.values()}
    outside = _left_out(leave_out, there, table.where)
    inside = [text for text in there if text not in outside]
    if classes.for_labels(inside).on_malignancy:
        raise UserError(
            f"{table.where} says benign or malignant only, and the model's classes are {', '.join(classes.labels)}: "
            "give diagnoses, since sets and bands are of these classes"
        )
    kept = {image: row for image, row in table.rows.items() if row[LABEL] not in outside}
    everything, table.rows = table.rows, kept
    check_labels(table, classes)
    table.rows = everything
    found = [(image, table.take(image)) for image, _ in walk_images(images)]
    table.check_all_taken(images)
    labelled = [(image, row) for image, row in found if row is not None]
    if not any(row[LABEL] not in outside for _, row in labelled):
        raise UserError(
            f"{table.where} and --images {images.name!r} have no image in common: give labels of its images"
        )
    notes = []
    if len(found) > len(labelled):
        notes.append(f"{len(found) - len(labelled):,} of {len(found):,} images have no label: they were not used")
    columns = [name for name in ("group_id", "lesion_id") if name in table.columns]
    if not columns:
        notes.append(f"{table.where} has no lesion_id: each image counts as a lesion of its own")
    rows, others = (
        _as_dataset(images, [pair for pair in labelled if (pair[1][LABEL] in outside) == left], table, classes)
        for left in (False, True)
    )
    left = others if len(others) else None
    return Local(rows, images.resolve().name, columns[0] if columns else None, left, tuple(sorted(outside)), notes)


def _as_dataset(
    images: Path, labelled: Sequence[tuple[str, dict[str, str]]], table: Table, classes: Classes
) -> datasets.Dataset:
    lesions = [own(row, "lesion_id", image) for image, row in labelled]
    columns: dict[str, list[Any]] = {
        "image": [{"bytes": None, "path": str(images / image)} for image, _ in labelled],
        "label": [classes.index(row[LABEL]) or 0 for _, row in labelled],
        "image_id": [image for image, _ in labelled],
        "lesion_id": lesions,
        "group_id": [own(row, "group_id", lesion) for (_, row), lesion in zip(labelled, lesions, strict=True)],
    }
    features: dict[str, Any] = {
        "image": datasets.Image(decode=False),
        "label": datasets.ClassLabel(names=classes.labels),
        **dict.fromkeys(IDS, datasets.Value("string")),
    }
    if "age" in table.columns:
        columns["age"] = [age(row["age"], image) for image, row in labelled]
        features["age"] = datasets.Value("float64")
    for name in TEXT_COLUMNS:
        if name in table.columns:
            columns[name] = [row[name] or None for _, row in labelled]
            features[name] = datasets.Value("string")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def labelled_dataset(
    model: str,
    dataset: str,
    config_name: str,
    parts: Sequence[str],
    classes: Classes,
    leave_out: Sequence[str],
    trained_on: Collection[str],
) -> Local:
    """The images of splits of a built dataset.

    Args:
        model: whose training named the columns.
        dataset: a folder of a build_* command, or a Hub id.
        config_name: its config.
        parts: its splits; empty: all.
        classes: of the model.
        leave_out: classes that are left out.
        trained_on: fingerprints of the datasets of the model.

    Raises:
        UserError: there is no such split; a class that the model does not know; images that the model was trained on.
    """
    splits = load_splits_of(model, dataset, config_name)
    chosen = list(parts) or list(splits.splits)
    unknown = [name for name in chosen if name not in splits.splits]
    if unknown:
        raise UserError(f"--splits {unknown[0]!r} is no split of {dataset!r}: choose of {', '.join(splits.splits)}")
    seen = [name for name in chosen if name in ("train", "validation")]
    if seen and fingerprint(splits) in trained_on:
        raise UserError(
            f"the model was trained on the {' and '.join(seen)} split of {dataset!r}: give --splits calibration,test"
        )
    counts = Counter(splits.labels[label] for name in chosen for label in splits.splits[name]["label"][:])
    outside = _left_out(leave_out, splits.labels, dataset)
    strange = [name for name in counts if name not in outside and classes.index(name) is None]
    if strange:
        listed = ", ".join(f"{name!r} ({counts[name]:,} images)" for name in strange)
        raise UserError(
            f"dataset {dataset!r} has classes that the model lacks: {listed}; the model knows "
            f"{', '.join(classes.labels)}; leave them out with --leave_out {','.join(strange)}"
        )
    tables = [_with_patients(splits, name) for name in chosen]
    whole = datasets.concatenate_datasets(tables)
    names = np.array([splits.labels[label] for label in whole["label"][:]], dtype=object)
    left = np.isin(names.astype(str), list(outside))
    number = {name: classes.index(name) or 0 for name in splits.labels}
    named = datasets.ClassLabel(names=classes.labels)

    def part(chosen: np.ndarray) -> datasets.Dataset:
        # Flat: a column cannot be added to a selection of no or of scattered rows.
        kept = whole.select(np.flatnonzero(chosen)).flatten_indices()
        return with_labels(kept, [number[name] for name in names[chosen]], named)

    column = splits.ids["column"] if splits.ids else "group_id"
    return Local(part(~left), splits.name, column, part(left) if left.any() else None, tuple(sorted(outside)), [])


def _with_patients(splits: Splits, name: str) -> datasets.Dataset:
    """A split with the ids of all rows as they are read, and the patient columns that it has."""
    rows = splits.splits[name]
    known = [column for column in (*TEXT_COLUMNS, "age", "license", "attribution") if column in rows.column_names]
    ids = {column: [str(value) for value in splits.column(name, column)] for column in IDS}
    kept = rows.select_columns(["image", "label", *known])
    for column, values in ids.items():
        kept = kept.add_column(column, values)
    return kept


def _left_out(leave_out: Sequence[str], known: Sequence[str] | set[str], where: str) -> set[str]:
    unknown = [name for name in leave_out if name not in known]
    if unknown:
        raise UserError(f"--leave_out {unknown[0]!r} is no label of {where}: it has {', '.join(sorted(known))}")
    return set(leave_out)
