"""Build the twelve-class dataset folder of real and synthetic images from class folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets_scripts.command import check_source, lists, parser, run, warn
from datasets_scripts.taxonomy import TASKS

if TYPE_CHECKING:
    from datasets_scripts.rows import Archive


NOTES = (
    "Images of skin lesions in twelve classes, clear skin and images of other things (`random`) among them, real and "
    "synthetic. The source names no lesions: each real image counts as its own, unless it looks like another.",
    "A synthetic image belongs to the group of the image that it was made from, its parent, which `provenance.csv` or "
    "its file name states (`<parent>_syn<k>`, `<parent>-synthetic-<k>`). One without a known parent is its own group.",
    "The source states no licence: find out what yours allows before you distribute anything.",
)
GIVEN = "the source's own train, validation and test folders, synthetic images included"
DRAWN = "a random image-level 80/10/10 split, stratified by class, synthetic images included, without regard to parents"


def published_split(archive: Archive, seed: int) -> tuple[list[str | None], list[str]]:
    """The source's own splits, else a random stratified one, in which classes too small to be split are in train only.

    Returns:
        The split of each row, and warnings.

    Raises:
        UserError: every class is too small.
    """
    if archive.splits is not None:
        return archive.splits, []
    labels = [row.label for row in archive.rows]
    count = Counter(labels)
    from datasets_scripts.splits import MIN_PUBLISHED_PER_CLASS, random_stratified

    rare = sorted(label for label in count if count[label] < MIN_PUBLISHED_PER_CLASS)
    if not rare or len(rare) == len(count):
        return random_stratified(labels, seed), []
    split = random_stratified(labels, seed, [label not in rare for label in labels])
    warning = (
        f"Config published: {', '.join(rare)} have fewer than {MIN_PUBLISHED_PER_CLASS} images each and are in train "
        "only."
    )
    return ["train" if label in rare else part for label, part in zip(labels, split, strict=True)], [warning]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    options = parser("build_lesions12", __doc__)
    options.add_argument(
        "--source",
        required=True,
        help="folder (or zip file) of class folders (Melanoma, Nevus, Clear Skin, Random, ...), also under train, "
        "validation and test, and under real and synthetic; a synthetic image names its parent in its file name "
        "(<parent>_syn<k>) or in an optional provenance.csv (file,provenance,parent)",
    )
    given = options.parse_args(arguments)
    check_source(given.source)
    from datasets_scripts.curate import check_out, check_rows, curate
    from datasets_scripts.dataset_card import Description, printed_leak_table, written
    from datasets_scripts.sources import class_folders

    check_out(given.out)
    archive = class_folders.read(given.source, "lesions12")
    check_rows(archive.rows, TASKS["lesions12"])
    published, rare = published_split(archive, given.seed)
    warnings = [*archive.warnings, *rare]
    warn(warnings)
    about = Description(
        name="lesions12",
        title="Twelve classes of skin images, real and synthetic",
        labels=TASKS["lesions12"],
        published_as=DRAWN if archive.splits is None else GIVEN,
        license="unknown",
        citation="",
        notes=NOTES,
    )
    audit = curate(
        archive.rows,
        given.out,
        about,
        published=published,
        seed=given.seed,
        warnings=warnings,
        **lists(given, arguments),
    )
    print(printed_leak_table(audit))
    print(written(audit, given.out))


if __name__ == "__main__":
    run(main)
