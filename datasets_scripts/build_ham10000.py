"""Build the seven-class HAM10000 dataset folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets_scripts.command import UserError, check_source, lists, parser, run, warn
from datasets_scripts.taxonomy import TASKS

if TYPE_CHECKING:
    from datasets_scripts.rows import Row


PUBLISHED_COUNTS = {"train": 7966, "validation": 996, "test": 996}
NOTES = (
    "Dermoscopy images of pigmented skin lesions, seven classes. The config `published` follows the EfficientNetV2-S "
    "baseline: two random stratified splits of the images that have an age (7,966 / 996 / 996 of the full archive), "
    "without regard to lesions; images without an age are in no published split.",
)


def published_split(rows: Sequence[Row], seed: int) -> list[str | None]:
    """EfficientNetV2-S's split: the rows with an age, 80/10/10, stratified by class.

    Raises:
        UserError: a class is too small, or the full archive does not give 7,966 / 996 / 996.
    """
    from datasets_scripts.sources import ham10000
    from datasets_scripts.splits import PUBLISHED_SPLITS, random_stratified

    split = random_stratified([row.label for row in rows], seed, [row.age is not None for row in rows])
    counts = {name: split.count(name) for name in PUBLISHED_SPLITS}
    if len(rows) == ham10000.FULL_ROWS and counts != PUBLISHED_COUNTS:
        raise UserError(
            f"the full archive gives a published split of {counts}, published were {PUBLISHED_COUNTS}; "
            "the ages in this copy of the metadata were changed: take it as published"
        )
    return split


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    options = parser("build_ham10000", __doc__)
    from datasets_scripts.sources import ham10000

    options.add_argument("--source", required=True, help=ham10000.SOURCE_HELP)
    options.add_argument("--no-masks", action="store_true", help="leave lesion masks out (default: taken where found)")
    given = options.parse_args(arguments)
    check_source(given.source)
    from datasets_scripts.curate import check_out, curate
    from datasets_scripts.dataset_card import Description, printed_leak_table, written

    check_out(given.out)
    archive = ham10000.read(given.source, with_masks=not given.no_masks)
    warn(archive.warnings)
    about = Description(
        name="ham10000",
        title="HAM10000, grouped by lesion",
        labels=TASKS["ham10000"],
        license=ham10000.LICENSE,
        citation=ham10000.CITATION,
        notes=NOTES,
    )
    audit = curate(
        archive.rows,
        given.out,
        about,
        published=published_split(archive.rows, given.seed),
        seed=given.seed,
        **lists(given, arguments),
        warnings=archive.warnings,
    )
    print(printed_leak_table(audit))
    print(written(audit, given.out))


if __name__ == "__main__":
    run(main)
