"""What a loaded dataset may lack or call otherwise: labels, ids of images and groups, malignancy, splits."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datasets_scripts.command import UserError
from datasets_scripts.images import images_in, is_image, kind_of, passed_over_text
from datasets_scripts.rows import GROUPED_BY, NO_COLUMN
from datasets_scripts.sources.tables import class_name, is_gap, sorted_classes
from datasets_scripts.splits import OTHER_SPLIT_NAMES, SPLITS, dealt_splits, split_named
from datasets_scripts.taxonomy import GROUPS

# One seed for all commands and runs: what one of them trains on, no other may test on.
SPLIT_SEED = 42
SPLITS_FILE = "splits.parquet"
# A config of our builders that has no calibration split, as published: trust is then fitted on validation.
PUBLISHED = "published"


def check_labelled(tables: Mapping[str, datasets.Dataset], dataset: str) -> None:
    """Refuse images without a label.

    Raises:
        UserError: a label is null, or outside the classes (-1 is the usual "not labelled"); names the split.
    """
    classes = tables["train"].features["label"].num_classes
    for split, rows in tables.items():
        if "label" not in rows.column_names:
            without = len(rows)
        else:
            labels = rows.with_format(None)["label"][:]
            without = sum(label is None or not 0 <= label < classes for label in labels)
        if without:
            raise UserError(
                f"the {split} split of {dataset!r} has {without} of {len(rows)} images without a label (-1 or null): "
                f"label them, or leave {'that split' if without == len(rows) else 'them'} out of the dataset"
            )


def check_images(tables: Mapping[str, datasets.Dataset], dataset: str) -> None:
    """Refuse rows without an image.

    Args:
        tables: split -> rows, images not decoded.
        dataset: its name, for the message.

    Raises:
        UserError: an image is null, or has neither content nor a path; names the split.
    """
    for split, rows in tables.items():
        images = rows.with_format("arrow")["image"][:]
        without = sum(
            not (present and (filled or path))
            for present, filled, path in zip(
                pc.is_valid(images).to_pylist(),
                pc.is_valid(pc.struct_field(images, "bytes")).to_pylist(),
                pc.struct_field(images, "path").to_pylist(),
                strict=True,
            )
        )
        if without:
            raise UserError(
                f"the {split} split of {dataset!r} has {without} of {len(rows)} rows without an image: leave them out"
            )


def with_class_labels(tables: Mapping[str, datasets.Dataset], dataset: str) -> dict[str, datasets.Dataset]:
    """The same splits; labels of text or numbers, as in a ``metadata.csv``, become a ``ClassLabel`` of them, sorted.

    Raises:
        UserError: the label is neither; another split has a class that train has not.
    """
    kind = tables["train"].features["label"]
    if not isinstance(kind, datasets.Value):
        raise UserError(
            f"column 'label' of {dataset!r} is {kind}: give the names of the classes as text, or a ClassLabel of them"
        )
    values = {split: [class_name(value) for value in _values(rows, "label")] for split, rows in tables.items()}
    names = sorted_classes({value for value in values["train"] if value is not None})
    number = {name: index for index, name in enumerate(names)}
    named = {}
    for split, rows in tables.items():
        other = [value for value in values[split] if value is not None and value not in number]
        if other:
            raise UserError(f"the {split} split of {dataset!r} has the class {other[0]!r}, which train has not: add it")
        numbers = [None if value is None else number[value] for value in values[split]]
        kept = rows.remove_columns("label") if "label" in rows.column_names else rows
        named[split] = kept.add_column("label", pa.array(numbers, pa.int64())).cast_column(
            "label", datasets.ClassLabel(names=names)
        )
    return named


def stated_groups(tables: Mapping[str, datasets.Dataset], labels: Sequence[str], dataset: str) -> dict[str, str]:
    """Class -> its malignancy group in the column ``malignancy``; empty where there is no such column.

    Raises:
        UserError: another word than a group's, or two groups of one class.
    """
    found: dict[str, str] = {}
    for rows in tables.values():
        if "malignancy" not in rows.column_names:
            return {}
        pairs = zip(rows["label"][:], rows.with_format(None)["malignancy"][:], strict=True)
        for label, group in sorted({(labels[label], str(group)) for label, group in pairs}):
            if group not in GROUPS:
                raise UserError(f"column 'malignancy' of {dataset!r} has {group!r}: give {', '.join(GROUPS)}")
            if found.setdefault(label, group) != group:
                raise UserError(f"column 'malignancy' of {dataset!r} has two groups of {label!r}: give one")
    return found if set(found) == set(labels) else {}


def with_every_image(
    tables: Mapping[str, datasets.Dataset], root: Path
) -> tuple[dict[str, datasets.Dataset], list[str]]:
    """The same splits of class folders, with the images that the loader passed over.

    The loader recognises images by the endings of their names. Here their content counts: an image beside others is one
    of their class and split.

    Args:
        tables: split -> rows with ``image``, not decoded, and ``label``.
        root: the folder of the class folders; of other datasets nothing is changed.

    Returns:
        The splits, and sentences that count what is added and what is left out.
    """
    if any(set(rows.column_names) != {"image", "label"} for rows in tables.values()):
        return dict(tables), []
    # As Arrow: the content of the images is not read.
    paths = {
        split: pc.struct_field(rows.with_format("arrow")["image"][:], "path").to_pylist()
        for split, rows in tables.items()
    }
    there = {Path(path or "").resolve() for of_split in paths.values() for path in of_split}
    if not all(path.is_relative_to(root.resolve()) and path.is_file() for path in there):
        return dict(tables), []
    home: dict[Path, tuple[str, int]] = {}
    for split, rows in tables.items():
        for path, label in zip(paths[split], _values(rows, "label"), strict=True):
            home.setdefault(Path(path).resolve().parent, (split, label))
    images, passed_over = images_in(root.resolve())
    more = [path for path in images if path.resolve() not in there]
    added = {split: [path for path in more if home.get(path.parent, ("",))[0] == split] for split in tables}
    left = [path for path in more if path.parent not in home]
    whole = dict(tables)
    for split, found in added.items():
        if found:
            rows = {
                "image": [{"bytes": None, "path": str(path)} for path in found],
                "label": [home[path.parent][1] for path in found],
            }
            table = datasets.Dataset.from_dict(rows, features=tables[split].features)
            whole[split] = datasets.concatenate_datasets([tables[split], table])
    notes = []
    if number := sum(map(len, added.values())):
        notes.append(f"{number} images of {str(root)!r} have no usual ending of a name: taken by their content")
    if left:
        notes.append(
            f"{len(left)} images of {str(root)!r} lie in no folder of a class that was read and were left out, the "
            f"first is {left[0].relative_to(root.resolve()).as_posix()!r}"
        )
    for path in root.resolve().rglob("metadata.*"):  # the loader's own table
        passed_over[kind_of(path.name)] -= path.suffix.lower() in (".csv", ".jsonl", ".parquet")
    passed_over = +passed_over
    if passed_over:
        notes.append(f"files of {str(root)!r} that are no images were passed over: {passed_over_text(passed_over)}")
    return whole, notes


def usual_name(split: str, splits: Collection[str]) -> str:
    """The suite's name of a split, whatever its capitals: ``validation`` of ``Val``, unless there are both."""
    usual = split_named(split) or split
    return split if usual in splits else usual


def split_folders(root: Path) -> dict[str, list[str]] | None:
    """The files of each split, where the folders of splits have names that ``datasets`` does not recognise.

    ``datasets`` recognises ``train`` but not ``Train`` (all images would be in one split), and no ``calibration``.

    Returns:
        Split -> patterns of files relative to ``root``; None where ``datasets`` recognises every name, where no folder
        is for training, or where the card of the dataset lists its files.
    """
    card = root / "README.md"
    if card.is_file() and re.search(r"^configs:", card.read_text("utf-8", errors="replace"), re.MULTILINE):
        return None
    found: dict[str, list[Path]] = {}
    for folder, below, _ in os.walk(root):
        for name in sorted(below):
            if split := split_named(name):
                below.remove(name)  # a class may have the name of a split
                if _has_image(Path(folder, name)):
                    found.setdefault(split, []).append(Path(folder, name))
    names = {path.name for folders in found.values() for path in folders}
    if "train" not in found or names <= {"train", "validation", "test", *OTHER_SPLIT_NAMES}:
        return None
    return {
        split: [f"{glob.escape(path.relative_to(root).as_posix())}/**" for path in folders]
        for split, folders in found.items()
    }


def _has_image(folder: Path) -> bool:
    return any(is_image(path.name, b"") for path in folder.rglob("*"))


def no_id(value: Any) -> bool:
    """Whether an id is missing: null, NaN, or one of the many spellings of a gap."""
    return value is None or is_gap(str(value).strip())


def with_ids(
    tables: Mapping[str, datasets.Dataset], folder: Path | None, group: str = ""
) -> tuple[dict[str, datasets.Dataset], dict[str, Any]]:
    """The same splits, each row with an ``image_id`` and a ``group_id``.

    An image without an id is called as its file is. Groups are those of the named column, else of ``group_id``; without
    that column those of ``patient_id``, then of ``lesion_id``. An image without any is a group of its own: two unknowns
    are not one lesion.

    Args:
        tables: split -> rows, images undecoded.
        folder: what image files are named relative to; None = by their names alone.
        group: the column of groups that the user names.

    Returns:
        The splits, and ``Splits.ids``.
    """
    images = _image_ids(tables, folder)
    of_groups = [name for name in (group or "group_id",) if _has_ids(tables, name)]
    of_groups = of_groups or [name for name in ("patient_id", "lesion_id") if _has_ids(tables, name)]
    columns = {split: {name: _values(rows, name) for name in of_groups} for split, rows in tables.items()}
    taken = {str(value) for found in columns.values() for values in found.values() for value in values}
    named, alone = {}, set()
    for split, rows in tables.items():
        groups = []
        for row, own in enumerate(images[split]):
            known = [(name, columns[split][name][row]) for name in of_groups if not no_id(columns[split][name][row])]
            if known:
                name, value = known[0]
                groups.append(str(value) if name == of_groups[0] else f"{name} {value}")
            else:
                groups.append(f"image {own}" if own in taken else own)
                alone.add(groups[-1])
        named[split] = _with_column(_with_column(rows, "image_id", images[split]), "group_id", groups)
    built = _values(tables["train"], GROUPED_BY)[:1] if not group else []
    if built and built[0]:  # by `build_images`, whose group ids also join near-duplicates
        column = None if built[0] == NO_COLUMN else str(built[0])
        return named, {"column": column, "alone": frozenset(), "duplicates": True}
    return named, {"column": " or ".join(of_groups) or None, "alone": frozenset(alone)}


def _has_ids(tables: Mapping[str, datasets.Dataset], name: str) -> bool:
    return any(not no_id(value) for rows in tables.values() for value in _values(rows, name))


def _values(rows: datasets.Dataset, name: str) -> list[Any]:
    return rows.with_format(None)[name][:] if name in rows.column_names else [None] * len(rows)


def _with_column(rows: datasets.Dataset, name: str, values: list[str]) -> datasets.Dataset:
    if name in rows.column_names:
        if _values(rows, name) == values:
            return rows
        rows = rows.remove_columns(name)
    return rows.add_column(name, values)


def _image_ids(tables: Mapping[str, datasets.Dataset], folder: Path | None) -> dict[str, list[str]]:
    """Split -> an id for each row: its ``image_id``, else its file's name where no other file has it, else a number."""
    given = {split: _values(rows, "image_id") for split, rows in tables.items()}
    files = {split: _file_names(rows, folder) for split, rows in tables.items()}
    count: dict[str, int] = {}
    for names in (*given.values(), *files.values()):
        for name in names:
            count[str(name)] = count.get(str(name), 0) + 1

    def own(split: str, row: int) -> str:
        file = files[split][row]
        return file if file and count[file] == 1 else f"{split}-{row:06d}"

    return {
        split: [own(split, row) if no_id(value) else str(value) for row, value in enumerate(values)]
        for split, values in given.items()
    }


def _file_names(rows: datasets.Dataset, folder: Path | None) -> list[str]:
    """The file of each image, relative to ``folder`` where it lies there, "" where it has none."""
    # Through Arrow: reading the column would read every image.
    found = pc.struct_field(rows.data.column("image"), "path").to_pylist()
    names = []
    for text in found:
        path = Path(text or "")
        inside = folder is not None and path.is_absolute() and path.is_relative_to(folder)
        names.append("" if not text else path.relative_to(folder).as_posix() if inside and folder else path.name)
    return names


def with_all_splits(
    tables: Mapping[str, datasets.Dataset], ids: Mapping[str, Any], config_name: str, dataset: str
) -> tuple[dict[str, datasets.Dataset], dict[str, Any] | None]:
    """Make the splits that a dataset lacks from its train split; those that it has stay as they are.

    Stratified by class, groups whole, dealt in the order of image ids by ``SPLIT_SEED``: every command deals alike.

    Returns:
        The splits, and ``Splits.made``: None where nothing was made.

    Raises:
        UserError: the train split has too few images or groups, and there is no validation split either.
    """
    lacking = [split for split in SPLITS if split not in tables]
    if not lacking or (config_name == PUBLISHED and lacking == ["calibration"]):
        return dict(tables), None
    rows = tables["train"]
    images, groups = _values(rows, "image_id"), _values(rows, "group_id")
    names = rows.features["label"].names
    labels = [names[label] for label in rows["label"][:]]
    single = sorted(label for label, count in Counter(labels).items() if count == 1)
    if single:
        raise UserError(
            f"{len(single)} classes of the train split of {dataset!r} have one image each, such as {single[0]!r}, and "
            "splits have to be made of it: add images, or leave the class out (--leave_out)"
        )
    try:
        splits = np.array(dealt_splits(images, labels, groups, lacking, SPLIT_SEED), dtype=object)
    except UserError as error:
        if "validation" in tables:
            return dict(tables), None  # enough to train with; trust is then fitted on validation
        raise UserError(
            f"dataset {dataset!r} has no {' and no '.join(lacking)} split, and its train split is too small to make "
            f"one ({error})"
        ) from error
    made = dict(tables) | {split: rows.select(np.flatnonzero(splits == split)) for split in ("train", *lacking)}
    for split in ("train", *lacking):
        if not len(made[split]):
            raise UserError(f"the {split} split made of {dataset!r} would be empty: give more images")
    about = {
        "splits": lacking,
        "of": "train",
        "given": [split for split in tables if split != "train"],
        "seed": SPLIT_SEED,
        "grouped_by": ids["column"],
        "file": SPLITS_FILE,
    }
    return made, about
