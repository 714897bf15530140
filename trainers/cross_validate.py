"""Train every fold with one command, then evaluate all test images together.

``python -m trainers.cross_validate trainers/train_mobilenet.py --dataset data/dermx --output_dir outputs/dermx-folds
--recipe mobilenet_cpu``: any train_*.py (or its name, ``mobilenet``) runs once per fold, on the dataset's configs
fold0, fold1 and so on; every further option is the train script's own. The same command again goes on where it was
stopped: finished folds are checked against their manifests and kept, an unfinished one is resumed.

The finished folder holds each fold's complete model (fold0/ and so on), the pooled predictions_test.parquet,
report.json with intervals by lesion and the spread over folds, figures/ and a README.md.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_scripts.command import OneLineParser, UserError, run, shown_path
from trainers.training.scripts import check_passed_on, find_script

if TYPE_CHECKING:
    from trainers.training.cross_validation import Plan


def make_plan(argv: list[str]) -> Plan:
    """Parse the command line.

    Raises:
        UserError: a number out of range, no such script, or an option that is set for each fold.
    """
    parser = OneLineParser(
        prog="python -m trainers.cross_validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Every other option goes to the train script, e.g. --dataset, --recipe, --seed, --num_train_epochs.",
    )
    add = parser.add_argument
    add("script", metavar="SCRIPT", help="a train_*.py, or its name, e.g. mobilenet")
    add("--output_dir", type=Path, required=True, metavar="DIR", help="finished folder; work stands in DIR.partial")
    add("--folds", type=int, default=5, help="fold0 to fold(K-1) of the dataset's configs (default: %(default)s)")
    add(
        "--bootstrap_replicates",
        type=int,
        default=1000,
        help="resamples behind the intervals, of each fold and of the pooled report (default: %(default)s)",
    )
    add(
        "--launcher",
        default="",
        metavar="WORDS",
        help="what starts the script, e.g. 'accelerate launch --num_processes 2' (default: this Python, one process)",
    )
    known, options = parser.parse_known_args(argv)
    script = find_script(known.script)
    check_passed_on(script, options, parser, "fold")
    if known.folds < 2:
        raise UserError(f"--folds {known.folds}: give 2 or more, as many as the dataset has configs fold0, fold1, ...")
    if known.bootstrap_replicates < 1:
        raise UserError(f"--bootstrap_replicates {known.bootstrap_replicates}: give at least 1")
    from trainers.training.cross_validation import Plan

    return Plan(
        script=script,
        options=[*options, "--bootstrap_replicates", str(known.bootstrap_replicates)],
        out=known.output_dir,
        names=tuple(f"fold{k}" for k in range(known.folds)),
        replicates=known.bootstrap_replicates,
        launcher=shlex.split(known.launcher) or [sys.executable],
    )


def main() -> None:
    """Parse the command line and cross-validate."""
    plan = make_plan(sys.argv[1:])
    from trainers.evaluation.pooling import metric_table
    from trainers.training.cross_validation import cross_validate

    try:
        report = cross_validate(plan)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from {shown_path(plan.partial)}") from None
    print("\n".join(["", *metric_table(report), ""]))
    print(f"finished: {shown_path(plan.out)} (README.md, report.json, and each fold's model)")


if __name__ == "__main__":
    run(main)
