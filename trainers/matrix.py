"""Score models on datasets, every pair, and write one table: AUROC, balanced accuracy, sensitivity, ECE, coverage.

``python -m trainers.matrix --models M1 M2 --datasets D1 D2 --out DIR`` writes DIR/README.md, DIR/matrix.png,
DIR/matrix.json and the scored folder of each pair. A dataset is a folder of a build_* command or a Hub id (its --split
is scored), or ``IMAGES=LABELS.csv``, a folder of images with the table of ``lesion score --labels``. Images of classes
that a model does not know are left out for it, and counted. The column options are for all datasets. The same command
goes on where it was stopped.

``--scored DIR [DIR ...]`` adds rows of reports that are there already: folders of ``lesion score --labels``, and
finished models on their own test split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, check_model, count_of, run, seed_of, shown_path
from trainers.model_folder.columns import add_columns, columns_given


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", default=[], metavar="DIR_OR_REPO[@REVISION]", help="the models, of different names")
    add(
        "--datasets",
        nargs="+",
        default=[],
        metavar="DATASET",
        help="the datasets: a folder, a Hub id, IMAGES=LABELS.csv",
    )
    add("--scored", nargs="+", type=Path, default=[], metavar="DIR", help="folders whose report becomes a row as it is")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write; absent or empty")
    add("--split", default="test", help="split of the datasets (default: %(default)s)")
    add("--config_name", default="grouped", help="config of the datasets (default: %(default)s)")
    add_columns(parser, usual="a dataset's own")
    add("--batch_size", type=count_of, default=32, help="images per forward pass (default: %(default)s)")
    add("--processes", type=count_of, default=1, help="processes that score side by side (default: %(default)s)")
    add("--bootstrap_replicates", type=count_of, default=1000, help="resamples of the intervals (default: %(default)s)")
    add("--seed", type=seed_of, default=0, help="of the resamples, 0 or more (default: %(default)s)")
    return parser


def check(given: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is loaded.

    Raises:
        UserError: names the option and what to do.
    """
    if bool(given.models) != bool(given.datasets) or not (given.models or given.scored):
        raise UserError("give --models and --datasets, or --scored folders, or all three")
    for model in given.models:
        check_model(model, "--models")
    for dataset in given.datasets:
        images, equals, labels = dataset.rpartition("=")
        if equals and not (Path(images).is_dir() and Path(labels).is_file()):
            raise UserError(f"--datasets {dataset!r}: give a folder of images and a CSV file, as IMAGES=LABELS.csv")
    for folder in given.scored:
        if not (folder / "report.json").is_file():
            raise UserError(
                f"--scored {str(folder)!r} has no report.json: give a folder of `lesion score --labels`, or a finished "
                "model"
            )


def main() -> None:
    """Parse the command line, score, write the table."""
    given = make_parser().parse_args()
    check(given)
    # What follows imports torch, which --help and the errors above need not wait for.
    from trainers.evaluation.matrix import markdown
    from trainers.model_folder.source import parse_source
    from trainers.scoring.matrix import MatrixJob, matrix

    not_passed_on = ("models", "image_column", "label_column", "images_together")
    options = {name: value for name, value in vars(given).items() if name not in not_passed_on}
    models = [parse_source(model) for model in given.models]
    try:
        rows = matrix(MatrixJob(models=models, columns=columns_given(given), **options))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from {shown_path(given.out)}.partial") from None
    print("\n".join(markdown(rows)))
    print(f"finished: {shown_path(given.out)} (README.md, matrix.png, matrix.json)")


if __name__ == "__main__":
    run(main)
