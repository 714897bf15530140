"""Build the three-class ISIC 2017 dataset folder, from the challenge's files or, with bkl, from HAM10000."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_scripts.command import UserError, check_source, lists, parser, run, warn
from datasets_scripts.taxonomy import TASKS

if TYPE_CHECKING:
    from datasets_scripts.dataset_card import Description
    from datasets_scripts.rows import Archive


NOTES = (
    "Dermoscopy images of the ISIC 2017 challenge, part 3: melanoma, nevus and seborrheic keratosis. The config "
    "`published` is the challenge's own training, validation and test set.",
    "The challenge names neither lesions nor patients: here each image counts as its own lesion, and only "
    "near-duplicates are kept in the same split of a grouped config, so several photos of one lesion may be in two "
    "splits. The licence is the one that the challenge states for its 2017 data; the download itself has none.",
)
HAM10000_NOTES = (
    "A task like ISIC 2017, made of HAM10000: melanoma, nevus and, in place of seborrheic keratosis, "
    "HAM10000's benign keratosis-like lesions (`bkl`: seborrheic keratosis, solar lentigo and lichen-planus-like "
    "keratosis together). A score here is no score on the challenge. HAM10000's other classes are left out, and there "
    "is no config `published`.",
)
PUBLISHED = "the challenge's own split (official training, validation and test set)"


def read(source: str, unsqueeze: tuple[int, int] | None = None) -> tuple[Archive, Description]:
    """The archive and its description for the card.

    Raises:
        UserError: ``source`` is in no known layout; other errors as the readers'.
    """
    from datasets_scripts.dataset_card import Description
    from datasets_scripts.sources import ham10000, isic2017
    from datasets_scripts.sources.archive_files import ArchiveFiles

    if ham10000.is_layout(source):
        about = Description(
            name="isic2017_ham",
            title="Three classes of HAM10000 in the shape of ISIC 2017, grouped by lesion",
            labels=TASKS["isic2017_ham"],
            license=ham10000.LICENSE,
            citation=ham10000.CITATION,
            notes=HAM10000_NOTES,
            published_as=PUBLISHED,
        )
        return isic2017.from_ham10000(ham10000.read(source)), about
    if not isic2017.is_layout(source):
        raise UserError(
            f"{source} has neither ISIC-2017_*_Part3_GroundTruth.csv, nor images under train, valid and test, nor "
            f"HAM10000_metadata.csv; give the folder that holds one of them{ArchiveFiles(Path(source)).own_classes()}"
        )
    about = Description(
        name="isic2017",
        title="ISIC 2017 challenge, three classes",
        labels=TASKS["isic2017"],
        license=isic2017.LICENSE,
        citation=isic2017.CITATION,
        notes=(*NOTES, *([isic2017.UNSQUEEZED.format(*unsqueeze)] if unsqueeze else [])),
        published_as=PUBLISHED,
    )
    return isic2017.read(source, unsqueeze), about


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    options = parser("build_isic2017", __doc__)
    from datasets_scripts.sources import ham10000, isic2017

    options.add_argument(
        "--source",
        required=True,
        help="the folder with {train,valid,test}/{melanoma,nevus,seborrheic_keratosis}; or with the challenge's "
        "ISIC-2017_*_Data and ISIC-2017_*_Part3_GroundTruth.csv, unpacked or zipped; or " + ham10000.SOURCE_HELP,
    )
    isic2017.add_unsqueeze(options)
    options.add_argument(
        "--splits_of",
        metavar="DIR",
        help="give each image the split that it has in this dataset folder, such as one of build_dermoscopy: a model "
        "of it can then be trained further without a leak",
    )
    given = options.parse_args(arguments)
    check_source(given.source)
    from datasets_scripts.curate import check_out, check_rows, curate
    from datasets_scripts.dataset_card import printed_leak_table, written
    from datasets_scripts.shards import folds_of

    check_out(given.out)
    folds = folds_of(Path(given.splits_of)) if given.splits_of else None
    archive, about = read(given.source, given.unsqueeze)
    warn(archive.warnings)
    check_rows(archive.rows, about.labels)
    audit = curate(
        archive.rows,
        given.out,
        about,
        published=archive.splits,
        seed=given.seed,
        **lists(given, arguments),
        warnings=archive.warnings,
        folds_of=folds,
    )
    print(printed_leak_table(audit))
    print(written(audit, given.out))


if __name__ == "__main__":
    run(main)
