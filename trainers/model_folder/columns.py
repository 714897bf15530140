"""Which columns a command reads of the dataset of a finished model; importing this file imports no torch."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

from datasets_scripts.command import UserError, read_json
from datasets_scripts.rows import Columns


def add_columns(parser: argparse.ArgumentParser, group: str = "--group_column", usual: str = "") -> None:
    """Add the options that name the columns of a dataset.

    Args:
        parser: gets three options.
        group: the name of the third one.
        usual: where the names come from that are not given; empty = from the training of the model.
    """
    default = usual or "that of the model's training, else"
    parser.add_argument(
        "--image_column", default="", metavar="NAME", help=f"column of the images (default: {default} image)"
    )
    parser.add_argument(
        "--label_column", default="", metavar="NAME", help=f"column of the classes (default: {default} label)"
    )
    parser.add_argument(
        group,
        dest="images_together",
        default="",
        metavar="NAME",
        help=f"column whose images belong together, such as patient_id (default: {default} group_id)",
    )


def columns_given(given: Namespace) -> Columns:
    """The columns that a command line named."""
    return Columns(given.image_column, given.label_column, given.images_together)


def columns_for(model: str, given: Columns | None = None) -> Columns:
    """The columns to read: those given, and for the others those of :func:`columns_of`.

    Args:
        model: a folder, or ``ORG/NAME[@REVISION]``.
        given: what a command line named.
    """
    given = given or Columns()
    if given.image and given.label and given.group:
        return given
    known = columns_of(model)
    return Columns(given.image or known.image, given.label or known.label, given.group or known.group)


def columns_of(model: str) -> Columns:
    """The columns that a finished model's training named, from its report; the usual ones where it has none.

    A command that reads the dataset of a model again finds the same images and groups by them.

    Args:
        model: a folder, or ``ORG/NAME[@REVISION]``.
    """
    try:
        recipe = read_json(_report_of(model), finite=False)["provenance"]["recipe"]
        image, label, group = (str(recipe.get(f"{name}_column") or "") for name in ("image", "label", "group"))
        return Columns(image, label, group)
    except (OSError, UserError, ValueError, LookupError, TypeError, AttributeError):
        return Columns()


def _report_of(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model) / "report.json"
    from huggingface_hub import hf_hub_download

    repo, _, revision = model.partition("@")
    return Path(hf_hub_download(repo, "report.json", revision=revision or None))
