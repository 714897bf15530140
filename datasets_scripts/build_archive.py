"""Build the dataset folder of a public archive, one of those that ``sources/archives.yaml`` describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets_scripts.command import check_source, lists, parser, run, warn

if TYPE_CHECKING:
    from datasets_scripts.dataset_card import Description
    from datasets_scripts.rows import Row
    from datasets_scripts.sources.archive_tables import Entry

PUBLISHED = "the archive's own training, validation and test set"
# What the Hub calls a licence; any other is `other` in the front matter, and stated in the column `license`.
HUB_LICENSES = ("cc0-1.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "unknown", "other")


def describe(entry: Entry, task: str, rows: Sequence[Row]) -> Description:
    """What the card says of an archive: where it is from, its traps, and the source of each fact of its entry."""
    from datasets_scripts.dataset_card import Description

    licenses = {row.license for row in rows}
    license = licenses.pop() if len(licenses) == 1 else "other"
    return Description(
        name=entry.name,
        title=entry.title,
        labels=entry.classes(task),
        license=license if license in HUB_LICENSES else "other",
        citation=entry.citation,
        notes=(
            f"Source: {entry.where}.",
            "Known traps:\n\n" + "\n".join(f"- {trap.strip()}" for trap in entry.traps),
            "Where the facts about this archive are from:\n\n" + "\n".join(f"- {fact}" for fact in entry.source),
        ),
        published_as=PUBLISHED,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    from datasets_scripts.sources.archive_tables import entries, entry_of

    options = parser("build_archive", __doc__)
    options.add_argument("--name", required=True, metavar="NAME", help=f"the archive: {', '.join(entries())}")
    options.add_argument("--source", required=True, help="the folder of the download, unpacked or with its zip files")
    options.add_argument(
        "--task",
        help="classes of the dataset: archive (its own), or a task of the suite (ham10000, isic_binary, ...), to whose "
        "classes the archive's are mapped; images without an equivalent are left out (default: the archive's first)",
    )
    options.add_argument(
        "--image_type",
        choices=("dermoscopic", "clinical"),
        help="only these images, of an archive that has both (default: all)",
    )
    options.add_argument(
        "--partial",
        action="store_true",
        help="use the images that are there, and list the missing ones in missing.txt of the output",
    )
    given = options.parse_args(arguments)
    entry = entry_of(given.name)
    check_source(given.source)
    from datasets_scripts.curate import check_out, check_rows, curate
    from datasets_scripts.dataset_card import printed_leak_table, written
    from datasets_scripts.sources import archive

    check_out(given.out)
    task = given.task or entry.tasks()[0]
    found = archive.read(given.name, given.source, task, given.image_type, given.partial)
    warn(found.warnings)
    about = describe(entry, task, found.rows)
    check_rows(found.rows, about.labels)
    audit = curate(
        found.rows,
        given.out,
        about,
        published=found.splits,
        seed=given.seed,
        **lists(given, arguments),
        warnings=found.warnings,
        texts={"missing.txt": "\n".join(found.missing) + "\n"} if found.missing else None,
    )
    print(printed_leak_table(audit))
    print(written(audit, given.out))


if __name__ == "__main__":
    run(main)
