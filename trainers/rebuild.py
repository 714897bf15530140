"""Evaluate a finished model again from its stored predictions: no model, no accelerator, seconds.

``python -m trainers.rebuild DIR`` makes ``evaluation``, what was measured of robustness and explanations, and the
tables, the figures, the card and the manifest again, as after an update of the metrics. Provenance, training and trust
stay as they were written, and so do images of examples; the folder is replaced whole or not at all.
"""

from __future__ import annotations

from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run, shown_path


def main() -> None:
    """Parse the command line and rebuild."""
    parser = OneLineParser(prog="python -m trainers.rebuild", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a finished model folder with its predictions")
    parser.add_argument(
        "--bootstrap_replicates", type=int, default=1000, help="bootstrap resamples (default %(default)s)"
    )
    arguments = parser.parse_args()
    if arguments.bootstrap_replicates < 1:
        raise UserError(f"--bootstrap_replicates {arguments.bootstrap_replicates}: give at least 1")
    if not (arguments.folder / "report.json").is_file():
        raise UserError(f"{arguments.folder} has no report.json: give the folder of a trained and evaluated model")
    from trainers.model_folder.rebuild import rebuild

    rebuild(arguments.folder.resolve(), arguments.bootstrap_replicates)
    print(f"rebuilt {shown_path(arguments.folder)}")


if __name__ == "__main__":
    run(main)
