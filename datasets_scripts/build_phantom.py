"""Build a dataset folder of drawn phantoms: no download, exact masks. For demos and tests, never for clinical use."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_scripts.command import OneLineParser, run
from datasets_scripts.phantom import AMBIGUOUS_SHARE, DRAWN
from datasets_scripts.taxonomy import TASKS

if TYPE_CHECKING:
    from datasets_scripts.rows import Row


CITATION = """@misc{lesion_suite_phantoms,
  title = {Lesion Suite phantoms: procedurally drawn dermoscopy images},
  author = {{The Lesion Suite authors}},
  note = {Drawn by datasets\\_scripts.phantom; not photographs}
}"""
NOTES = (
    f"{DRAWN}: every image of this dataset was drawn by a program, no image shows a person, and patients, ages, sexes "
    "and sites are invented. It shows that the chain works; a score on it says nothing about skin. Masks are exact.",
    f"About {AMBIGUOUS_SHARE:.0%} of the lesions are drawn to look like another class, so that no model can be right "
    "about all of them. Hairs, rulers, ink, bubbles and light do not depend on the class. The config `published` is a "
    "random stratified 80/10/10 split of all images without regard to lesions, as many published systems used.",
)


def image_size(text: str) -> tuple[int, int]:
    """Parse ``WIDTHxHEIGHT`` in pixels, each 16 to 1024."""
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()) or not all(16 <= int(side) <= 1024 for side in (width, height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; give WIDTHxHEIGHT in pixels, each 16 to 1024: 200x150")
    return int(width), int(height)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = OneLineParser(prog="python -m datasets_scripts.build_phantom", description=__doc__)
    parser.add_argument(
        "--task", default="dermx", choices=sorted(TASKS), help="whose classes to draw (default: %(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=480, help="number of images, about two per lesion (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of drawings and splits (default: %(default)s)")
    parser.add_argument("--out", required=True, type=Path, help="dataset folder to write; must not exist, or be empty")
    parser.add_argument(
        "--size", type=image_size, default=(200, 150), help="width x height in pixels (default: 200x150)"
    )
    options = parser.parse_args(arguments)
    from datasets_scripts.curate import check_out, curate
    from datasets_scripts.dataset_card import Description, printed_leak_table
    from datasets_scripts.phantom_rows import drawn_in_processes, phantom_rows
    from datasets_scripts.splits import random_stratified

    check_out(options.out)
    rows = phantom_rows(options.task, options.images, options.seed, options.size)
    _check_enough(rows, options.task)
    with drawn_in_processes(len(rows)):
        about = Description(
            name=f"phantom-{options.task}",
            title=f"Drawn dermoscopy phantoms, classes of {options.task}",
            labels=TASKS[options.task],
            license="cc0-1.0",
            citation=CITATION,
            notes=NOTES,
        )
        audit = curate(
            rows,
            options.out,
            about,
            published=random_stratified([row.label for row in rows], options.seed),
            seed=options.seed,
        )
    print(printed_leak_table(audit))
    print(f"{audit['rows']} drawn images written to {options.out}")


def _check_enough(rows: list[Row], task: str) -> None:
    label, count = min(Counter(row.label for row in rows).items(), key=lambda item: item[1])
    from datasets_scripts.phantom_rows import PhantomRequestError
    from datasets_scripts.splits import MIN_PUBLISHED_PER_CLASS

    if count < MIN_PUBLISHED_PER_CLASS:
        raise PhantomRequestError(
            f"--images {len(rows)} gives class {label!r} only {count} images and the published split needs "
            f"{MIN_PUBLISHED_PER_CLASS} of each class; give --images {16 * len(TASKS[task])} or more"
        )


if __name__ == "__main__":
    run(main)
