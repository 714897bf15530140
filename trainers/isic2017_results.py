"""Score any submission to the ISIC 2017 challenge's part 3: ROC curves, confusion matrices, and the three AUCs.

``python -m trainers.isic2017_results PREDICTIONS.csv GROUND_TRUTH.csv`` reads ``Id, task_1, task_2`` (or the
challenge's own ``image_id, melanoma, seborrheic_keratosis``) from both; task 1 is melanoma against the rest, task 2
seborrheic keratosis against the rest. Of an id such as ``data/test/melanoma/ISIC_0012258.jpg`` the file name counts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run


def _threshold(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give a probability above 0, at most 1")
    return value


def main() -> None:
    """Parse the command line, score, print."""
    parser = OneLineParser(
        prog="python -m trainers.isic2017_results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS.csv", help="probabilities, one line per image")
    parser.add_argument("truth", type=Path, metavar="GROUND_TRUTH.csv", help="0 or 1 for each task, the same images")
    parser.add_argument(
        "--out", type=Path, default=Path("isic2017_results"), help="folder for charts and scores (default %(default)s)"
    )
    from trainers.evaluation.isic2017 import THRESHOLD

    parser.add_argument(
        "--threshold",
        type=_threshold,
        default=THRESHOLD,
        help="probability at or above which a class is called (default %(default)s, the challenge's)",
    )
    parser.add_argument(
        "--bootstrap_replicates", type=int, default=1000, help="resamples of the intervals (default %(default)s)"
    )
    given = parser.parse_args()
    if given.bootstrap_replicates < 1:
        raise UserError(f"--bootstrap_replicates {given.bootstrap_replicates}: give at least 1")
    from trainers.evaluation.isic2017_submission import TITLES, results
    from trainers.metrics.number import Number

    numbers = results(given.predictions, given.truth, given.out, given.threshold, given.bootstrap_replicates)
    print(f"{numbers['images']} images; in brackets the 95 % interval")
    for number, (name, title) in enumerate(TITLES.items(), start=1):
        print(f"category {number}, AUC, {title}: {Number.read(numbers[name]).text()}")
    for name, value in numbers["at_threshold"].items():
        print(f"{name} of melanoma called at p >= {given.threshold:g}: {Number.read(value).text()}")
    print(f"wrote roc.png, confusion_matrix.png and scores.json into {given.out}")


if __name__ == "__main__":
    run(main)
