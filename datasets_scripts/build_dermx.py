"""Build the eight-class Derm-X dataset folder: HAM10000 and DermNet's acne photos."""

from __future__ import annotations

from collections.abc import Sequence

from datasets_scripts.command import check_source, lists, parser, run, warn
from datasets_scripts.taxonomy import TASKS

NOTES = (
    "Dermoscopy images of HAM10000 (seven classes) and clinical acne photos in DermNet's folder layout. The config "
    "`published` follows Derm-X: a random stratified 80/10/10 split of all images, blind to lesions.",
    "The acne photos have no licence: do not publish this dataset and do not show the photos. They were also taken "
    "with another kind of camera than the other images, so a score on acne is partly a difference between sources. The "
    "archive does not say which photos are of one person; only near-duplicate photos are kept in the same split.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    options = parser("build_dermx", __doc__)
    from datasets_scripts.sources import dermnet, ham10000

    options.add_argument("--ham10000", required=True, help=ham10000.SOURCE_HELP)
    options.add_argument(
        "--dermnet", required=True, help="DermNet as downloaded: the folder (or zip file) that holds train and test"
    )
    options.add_argument("--no-masks", action="store_true", help="leave lesion masks out (default: taken where found)")
    given = options.parse_args(arguments)
    check_source(given.ham10000)
    check_source(given.dermnet)
    from datasets_scripts.curate import check_out, curate
    from datasets_scripts.dataset_card import Description, printed_leak_table, written
    from datasets_scripts.splits import random_stratified

    check_out(given.out)
    archives = [ham10000.read(given.ham10000, with_masks=not given.no_masks), dermnet.read(given.dermnet)]
    rows = [row for archive in archives for row in archive.rows]
    warnings = [warning for archive in archives for warning in archive.warnings]
    warn(warnings)
    about = Description(
        name="dermx",
        title="Derm-X: HAM10000 with acne, grouped by lesion",
        labels=TASKS["dermx"],
        license="other",
        citation=ham10000.CITATION,
        notes=NOTES,
    )
    audit = curate(
        rows,
        given.out,
        about,
        published=random_stratified([row.label for row in rows], given.seed),
        seed=given.seed,
        **lists(given, arguments),
        warnings=warnings,
    )
    print(printed_leak_table(audit))
    print(written(audit, given.out))


if __name__ == "__main__":
    run(main)
