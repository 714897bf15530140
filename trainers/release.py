"""A finished model as it may be given away: no photograph, no path of this machine, and the code of today.

``python -m trainers.release DIR OUT`` copies a finished model folder without the features of its predictions (half of
its size, and more of an image than a label is) and without its examples, in whose place drawn phantoms stand. Paths
below LESION_DATA_DIR and LESION_WEIGHTS_DIR are written as these variables. Code, tables, figures, card and manifest
are rebuilt; all numbers follow from the stored predictions. Minutes where the model explains itself, else seconds.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run
from trainers.model_folder.output import check_empty


def parse() -> Namespace:
    """The command line."""
    parser = OneLineParser(prog="python -m trainers.release", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a finished model's folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="the new folder; must not exist yet, or be empty")
    parser.add_argument(
        "--bootstrap_replicates", type=int, default=1000, help="bootstrap resamples (default %(default)s)"
    )
    parser.add_argument(
        "--version", metavar="X.Y.Z", help="semantic version of the model, higher than those before (default: none)"
    )
    parser.add_argument("--changes", default="", metavar="TEXT", help="what is new in this version, one sentence")
    parser.add_argument(
        "--after", type=Path, metavar="DIR", help="the release before this one, whose list of versions goes on"
    )
    return parser.parse_args()


def main() -> None:
    """Parse the command line and release."""
    arguments = parse()
    if arguments.bootstrap_replicates < 1:
        raise UserError(f"--bootstrap_replicates {arguments.bootstrap_replicates}: give at least 1")
    if not arguments.folder.is_dir():
        raise UserError(f"there is no folder {str(arguments.folder)!r}: give a finished model's folder")
    check_empty(arguments.out, "OUT")
    from trainers.explaining.examples import redraw_examples
    from trainers.model_folder.release import release, versions

    listed = versions(arguments.folder, arguments.after, arguments.version, arguments.changes)
    release(
        arguments.folder, arguments.out, redraw_examples, replicates=arguments.bootstrap_replicates, versions=listed
    )
    print(f"wrote {arguments.out}: look at its card, then publish it with python -m model_cards.publish")


if __name__ == "__main__":
    run(main)
