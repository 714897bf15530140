"""Build a dataset folder of your own images: class folders, a table of image files, or a `datasets` dataset."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_scripts.command import check_source, lists, parser, run, warn
from datasets_scripts.rows import GROUPED_BY, NO_COLUMN, UNKNOWN, Columns, Row

if TYPE_CHECKING:
    from datasets_scripts.sources.own_images import Own

NOTHING_TOGETHER = (
    "No column says which images belong together: each image is a group of its own, so several images of one lesion or "
    "person may be in two splits."
)


def names(text: str) -> tuple[str, ...]:
    """``a, b`` -> the names, without those that are empty."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def command_line() -> argparse.ArgumentParser:
    """The options of this command."""
    options = parser("build_images", __doc__)
    add = options.add_argument
    add(
        "--source",
        required=True,
        help="a folder (or zip file) of class folders, also under train, validation and test; a CSV, TSV, JSONL or "
        "Parquet file with a row per image, or the folder that holds it; a folder that `datasets` wrote; or ORG/NAME "
        "of a dataset on the Hub",
    )
    add("--image_column", default="", help="column of the images or of their files (default: image or file_name)")
    add("--label_column", default="", help="column of the classes, text or numbers (default: label)")
    add(
        "--group_column",
        default="",
        help="column whose images are never in two splits, such as patient_id (default: group_id, patient_id and "
        "lesion_id where there are; near-duplicates are always kept together)",
    )
    add("--split_column", default="", help="column that names the split of each image (default: split, where it is)")
    add("--keep_columns", type=names, default=(), metavar="A,B", help="further columns to keep as they are")
    add(
        "--malignant",
        type=names,
        default=(),
        metavar="A,B",
        help="the malignant classes; without it nothing is said about malignancy",
    )
    add("--config_name", default="", help="config of a dataset that has several")
    add("--title", default="", help="title of the card (default: the name of --out)")
    add("--license", default=UNKNOWN, help="licence of the images, a Hub licence id (default: %(default)s)")
    add("--attribution", default=UNKNOWN, help="whom to name for the images (default: %(default)s)")
    add("--citation", default="", help="BibTeX of the images")
    return options


def completed(rows: Sequence[Row], own: Own, groups: Mapping[str, str], given: argparse.Namespace) -> list[Row]:
    """The rows with what the command line states of all of them."""
    return [
        replace(
            row,
            license=given.license if row.license == UNKNOWN else row.license,
            attribution=given.attribution if row.attribution == UNKNOWN else row.attribution,
            malignancy=groups.get(row.label),
            extra={**row.extra, GROUPED_BY: " or ".join(own.grouped_by) or NO_COLUMN},
        )
        for row in rows
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    given = command_line().parse_args(arguments)
    check_source(given.source)
    from datasets_scripts.curate import check_out, check_rows, curate
    from datasets_scripts.dataset_card import Description, printed_leak_table, written
    from datasets_scripts.sources import own_images

    check_out(given.out)
    name = Path(given.out).resolve().name
    columns = Columns(
        given.image_column, given.label_column, given.group_column, given.split_column, given.keep_columns
    )
    own = own_images.read(given.source, columns, given.title or name, given.config_name)
    groups = own_images.malignancy(own.labels, given.malignant)
    rows = completed(own.archive.rows, own, groups, given)
    if not groups and any(name.lower() == "malignant" for name in own.labels):
        warn(["no class is named with --malignant, so nothing will be said about malignancy"])
    warn(own.archive.warnings)
    check_rows(rows, own.labels, own_classes=True)
    by = " or ".join(f"`{column}`" for column in own.grouped_by)
    about = Description(
        name=name,
        title=given.title or name,
        labels=own.labels,
        license=given.license,
        citation=given.citation,
        notes=(f"Images with the same {by} are one group." if by else NOTHING_TOGETHER,),
        own_classes=True,
        groups=groups,
    )
    audit = curate(
        rows,
        given.out,
        about,
        published=None,
        seed=given.seed,
        **lists(given, arguments),
        warnings=own.archive.warnings,
        given=own.archive.splits,
    )
    print(printed_leak_table(audit, own=True))
    print(written(audit, given.out, of=f" of {len(own.labels)} classes"))


if __name__ == "__main__":
    run(main)
