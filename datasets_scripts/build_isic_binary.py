"""Build the two-class (benign, malignant) ISIC dataset folder, from an isic-cli download or from HAM10000."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datasets_scripts.command import UserError, check_source, lists, parser, run, warn
from datasets_scripts.taxonomy import TASKS

if TYPE_CHECKING:
    from datasets_scripts.rows import Row


HELD_OUT = 0.3  # 70/15/15
NOTES = (
    "Dermoscopy images of skin lesions, benign against malignant by the ISIC Archive's `diagnosis_1`; images that are "
    "Indeterminate there, or have none, are left out. `diagnosis` is the source's own finer diagnosis, for subgroup "
    "reports: it reveals the label and is never an input.",
    "Every config but `published` holds every image, at the source's own prevalence. Images of one "
    "lesion are in the same split, also images of one patient where the source names patients. An image without a "
    "lesion id counts as its own lesion.",
)
FROM_HAM10000 = (
    "This copy was made of HAM10000, mapped to the archive's labels: mel and bcc are malignant; bkl, df, nv and vasc "
    "are benign; akiec (actinic keratosis and intraepithelial carcinoma) is Indeterminate in the archive and was left "
    "out ({dropped} images)."
)
PUBLISHED = (
    "the split of the published ensemble: {per_class} benign and {per_class} malignant images, drawn with the seed, "
    "split 70/15/15 at random, stratified by class and without regard to lesions (half of the images are malignant, "
    "far more than in any clinic: a model that is calibrated on them is not calibrated elsewhere)"
)


def published_split(rows: Sequence[Row], per_class: int, seed: int) -> list[str | None]:
    """The published balanced subset: ``per_class`` images per class, split 70/15/15; the other rows are in no split.

    Drawn in the order of image ids, so that every copy of an archive gets the same split.

    Raises:
        UserError: a class has fewer images.
    """
    count = Counter(row.label for row in rows)
    label, least = min(((label, count[label]) for label in TASKS["isic_binary"]), key=lambda item: item[1])
    from datasets_scripts.splits import MIN_PUBLISHED_PER_CLASS, random_stratified

    if least < per_class:
        advice = f"give --per-class {least} or less" if least >= MIN_PUBLISHED_PER_CLASS else "give a larger archive"
        raise UserError(f"--per-class {per_class}, but class {label!r} has {least} images; {advice}")
    order = sorted(range(len(rows)), key=lambda i: rows[i].image_id)
    rng = np.random.default_rng(seed)
    use = np.zeros(len(rows), dtype=bool)
    for label in TASKS["isic_binary"]:
        members = [place for place, i in enumerate(order) if rows[i].label == label]
        use[rng.choice(members, per_class, replace=False)] = True
    split = random_stratified([rows[i].label for i in order], seed, use.tolist(), HELD_OUT)
    result: list[str | None] = [None] * len(rows)
    for place, i in enumerate(order):
        result[i] = split[place]
    return result


def _count(text: str) -> int:
    from datasets_scripts.splits import MIN_PUBLISHED_PER_CLASS

    if not text.isdigit() or int(text) < MIN_PUBLISHED_PER_CLASS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of images; give {MIN_PUBLISHED_PER_CLASS} or more")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    options = parser("build_isic_binary", __doc__)
    from datasets_scripts.sources import ham10000, isic_archive
    from datasets_scripts.sources.archive_files import ArchiveFiles

    options.add_argument(
        "--source",
        required=True,
        help="a download of isic-cli: the folder with ISIC_*.jpg and metadata.csv; or " + ham10000.SOURCE_HELP,
    )
    options.add_argument(
        "--per-class",
        type=_count,
        default=1500,
        help="images of each class in config published (default: %(default)s)",
    )
    given = options.parse_args(arguments)
    check_source(given.source)
    from datasets_scripts.curate import check_out, check_rows, curate
    from datasets_scripts.dataset_card import Description, printed_leak_table, written

    check_out(given.out)
    notes: tuple[str, ...] = NOTES
    citation = isic_archive.CITATION
    if isic_archive.is_download(given.source):
        archive = isic_archive.read(given.source)
    elif not ham10000.is_layout(given.source):
        raise UserError(
            f"{given.source} has neither metadata.csv of isic-cli nor HAM10000_metadata.csv; give the folder that "
            f"holds one of them beside the images{ArchiveFiles(Path(given.source)).own_classes()}"
        )
    else:
        whole = ham10000.read(given.source)
        archive = isic_archive.from_ham10000(whole)
        notes = (*NOTES, FROM_HAM10000.format(dropped=len(whole.rows) - len(archive.rows)))
        citation = ham10000.CITATION
    warn(archive.warnings)
    check_rows(archive.rows, TASKS["isic_binary"])
    about = Description(
        name="isic_binary",
        title="ISIC, benign against malignant, grouped by lesion",
        labels=TASKS["isic_binary"],
        published_as=PUBLISHED.format(per_class=given.per_class),
        license=isic_archive.license_of(archive.rows),
        citation=citation,
        notes=notes,
    )
    audit = curate(
        archive.rows,
        given.out,
        about,
        published=published_split(archive.rows, given.per_class, given.seed),
        seed=given.seed,
        **lists(given, arguments),
        warnings=archive.warnings,
    )
    print(printed_leak_table(audit))
    print(written(audit, given.out))


if __name__ == "__main__":
    run(main)
