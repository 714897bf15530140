"""Build one dataset folder of two dermoscopy archives, HAM10000 and ISIC 2017: seven classes or two."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_scripts.command import check_source, lists, parser, run, warn
from datasets_scripts.taxonomy import TASKS, malignancy_groups

if TYPE_CHECKING:
    from datasets_scripts.rows import Row

TITLES = {
    "ham10000": "HAM10000 and ISIC 2017, seven classes, grouped by lesion",
    "isic_binary": "HAM10000 and ISIC 2017, benign against malignant, grouped by lesion",
}
# Seborrheic keratosis is one of the diagnoses that HAM10000 counts as benign keratosis-like lesion.
ISIC2017_AS_HAM10000 = {"mel": "mel", "nv": "nv", "sk": "bkl"}
NOTES = (
    "Dermoscopy images of two archives; the column `source` names each image's archive. ISIC 2017 has melanoma, nevus "
    "and seborrheic keratosis only; seborrheic keratosis counts as `bkl`. Each archive is split on its own, so that "
    "its part of a split is what a dataset of this archive alone has.",
    "ISIC 2017 names neither lesions nor patients: there each image counts as its own lesion, and only near-duplicates "
    "are kept in the same split.",
)


def read(
    ham10000_source: str, isic2017_source: str, unsqueeze: tuple[int, int] | None, task: str
) -> tuple[list[Row], list[str]]:
    """The rows of both archives with the labels of the task, and the warnings of their readers.

    ``diagnosis`` of ISIC 2017 is the archive's own label; with two classes it is in HAM10000's words.
    """
    from datasets_scripts.sources import ham10000, isic2017, isic_archive

    first, second = ham10000.read(ham10000_source, with_masks=False), isic2017.read(isic2017_source, unsqueeze)
    if task == "isic_binary":
        first, groups = isic_archive.from_ham10000(first), malignancy_groups(ISIC2017_AS_HAM10000)
        rows = [replace(row, label=groups[row.label], diagnosis=ISIC2017_AS_HAM10000[row.label]) for row in second.rows]
    else:
        rows = [replace(row, label=ISIC2017_AS_HAM10000[row.label], diagnosis=row.label) for row in second.rows]
    return [*first.rows, *rows], [*first.warnings, *second.warnings]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    options = parser("build_dermoscopy", __doc__)
    from datasets_scripts.sources import ham10000, isic2017

    options.add_argument("--ham10000", required=True, help=ham10000.SOURCE_HELP)
    options.add_argument(
        "--isic2017",
        required=True,
        help="the folder with the challenge's ISIC-2017_*_Data and ISIC-2017_*_Part3_GroundTruth.csv",
    )
    options.add_argument(
        "--task",
        choices=tuple(TITLES),
        default="ham10000",
        help="ham10000 (seven classes) or isic_binary (benign, malignant; akiec is left out) (default: %(default)s)",
    )
    isic2017.add_unsqueeze(options)
    options.add_argument(
        "--splits_of",
        metavar="DIR",
        help="give each image the split that it has in this dataset folder of the same archives: a model of it can "
        "then be trained further without a leak",
    )
    given = options.parse_args(arguments)
    check_source(given.ham10000)
    check_source(given.isic2017)
    from datasets_scripts.curate import check_out, check_rows, curate
    from datasets_scripts.dataset_card import Description, printed_leak_table, written
    from datasets_scripts.shards import folds_of

    check_out(given.out)
    folds = folds_of(Path(given.splits_of)) if given.splits_of else None
    rows, warnings = read(given.ham10000, given.isic2017, given.unsqueeze, given.task)
    warn(warnings)
    check_rows(rows, TASKS[given.task])
    about = Description(
        name="dermoscopy",
        title=TITLES[given.task],
        labels=TASKS[given.task],
        license="other",
        citation=f"{ham10000.CITATION.strip()}\n\n{isic2017.CITATION.strip()}\n",
        notes=(*NOTES, *([isic2017.UNSQUEEZED.format(*given.unsqueeze)] if given.unsqueeze else [])),
    )
    audit = curate(
        rows,
        given.out,
        about,
        published=None,
        seed=given.seed,
        **lists(given, arguments),
        warnings=warnings,
        split_by_source=True,
        folds_of=folds,
    )
    print(printed_leak_table(audit))
    counts = ", ".join(f"{count} of {source}" for source, count in Counter(row.source for row in rows).items())
    print(f"{written(audit, given.out)}: {counts}")


if __name__ == "__main__":
    run(main)
