"""Which columns of somebody's dataset hold image, label and group: for builders and for trainers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import pyarrow as pa
from huggingface_hub.errors import HTTPError

from datasets_scripts.command import UserError, did_you_mean
from datasets_scripts.rows import Columns

UNREADABLE = (
    *(ValueError, OSError, RuntimeError, LookupError, TypeError),
    *(pa.ArrowException, HTTPError, datasets.exceptions.DatasetsError),
)


def check_column(known: Sequence[str], named: str, usual: Sequence[str], where: str, option: str) -> str:
    """The column that is meant: the named one, else the first of the usual ones that is there.

    Raises:
        UserError: it is not there; says which ones there are.
    """
    for name in (named,) if named else usual:
        if name in known:
            return name
    wanted = named or usual[0]
    shown = ", ".join(known[:40]) or "none"
    raise UserError(f"{where} has no column {wanted!r}{did_you_mean(wanted, known)} (it has: {shown}); set {option}")


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def load(source: str, config_name: str = "") -> datasets.DatasetDict:
    """Every split of a dataset: of the Hub, of a folder, or written by ``save_to_disk``.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    try:
        if is_saved(Path(source)):
            loaded = datasets.load_from_disk(source)
            return loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict(train=loaded)
        return datasets.load_dataset(source, config_name or None)
    except UNREADABLE as error:
        cause = error.__cause__ or error
        raise UserError(
            f"{source!r} cannot be loaded as a dataset ({type(cause).__name__}: {' '.join(str(cause).split())[:300]}): "
            "give a folder or table of images, or ORG/NAME of the Hub"
        ) from error


def usual_image(rows: datasets.Dataset, column: str, folder: Path | None, where: str) -> datasets.Dataset:
    """The column of images alone, as ``Image`` that is not decoded; text is the path of a file in ``folder``.

    Raises:
        UserError: the column holds no images, or a file is missing.
    """
    alone = rows.select_columns([column])
    kind = alone.features[column]
    if isinstance(kind, datasets.Value) and kind.dtype in ("string", "large_string"):
        paths = [str(text or "") for text in alone.with_format(None)[column][:]]
        files = [os.path.join(folder or "", text) for text in paths]
        missing = [text for text, file in zip(paths, files, strict=True) if not text or not os.path.isfile(file)]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(paths)} images of {where} (column {column!r}) are not there, the first is "
                f"{missing[0]!r}; add the images, or take their rows out"
            )
        alone = datasets.Dataset.from_dict({column: [{"bytes": None, "path": file} for file in files]})
    try:
        return alone.cast_column(column, datasets.Image(decode=False))
    except UNREADABLE as error:
        raise UserError(
            f"column {column!r} of {where} is {kind}: name the column of images with --image_column"
        ) from error


def with_usual_columns(
    tables: Mapping[str, datasets.Dataset], columns: Columns, folder: Path | None, where: str
) -> dict[str, datasets.Dataset]:
    """The same splits with the named columns of images and labels under the names ``image`` and ``label``.

    Raises:
        UserError: one of the three is not there, or holds no images.
    """
    result = {}
    for split, rows in tables.items():
        for named, option in ((columns.image, "image"), (columns.label, "label"), (columns.group, "group")):
            if named:
                check_column(rows.column_names, named, (), f"the {split} split of {where}", f"--{option}_column")
        if columns.image:
            images = usual_image(rows, columns.image, folder, where).cast_column(columns.image, datasets.Image())
            rows = _moved(rows, columns.image, "image").remove_columns("image")
            images = images.rename_columns({columns.image: "image"}) if columns.image != "image" else images
        if columns.label and columns.label != "label":
            rows = _moved(rows, columns.label, "label")
        if columns.image:
            rows = datasets.concatenate_datasets([images, rows], axis=1)
        result[split] = rows
    return result


def _moved(rows: datasets.Dataset, old: str, new: str) -> datasets.Dataset:
    """The same rows with a column under another name, in place of the one that had it."""
    if old == new:
        return rows
    return (rows.remove_columns(new) if new in rows.column_names else rows).rename_column(old, new)
