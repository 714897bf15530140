"""Measure what a leak costs: the same recipe on a leaking and on a grouped split, and the difference with an interval.

``python -m trainers.leak_cost mobilenet --recipe mobilenet_cpu --dataset data/ham10000 --output_dir outputs/leak``
trains a train_*.py (or its name) on the configs ``published`` and ``grouped``; every further option is the train
script's own. The same command again goes on where it was stopped. ``--published DIR --grouped DIR`` takes two finished
folders.

The difference of the test results is attributed to leaked test images (their lesion, or a near-duplicate, was trained
on) and to the rest; and both models are compared on the same images that neither was trained on. The finished folder
holds README.md and leak_cost.json, and the two models where they were trained here.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, count_of, run, shown_path
from trainers.training.arguments import check_dataset
from trainers.training.scripts import AUTOENCODER, check_passed_on, find_script

CONFIGS = ("published", "grouped")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the options of the train script.

    Raises:
        UserError: a script and folders, neither, or an option that is set for each model.
    """
    parser = OneLineParser(
        prog="python -m trainers.leak_cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Every other option goes to the train script, e.g. --recipe, --seed, --num_train_epochs.",
    )
    add = parser.add_argument
    add("script", metavar="SCRIPT", nargs="?", help="a train_*.py, or its name, e.g. mobilenet")
    add("--published", type=Path, metavar="DIR", help="the finished model of the leaking split (default: train it)")
    add("--grouped", type=Path, metavar="DIR", help="the finished model of the grouped split (default: train it)")
    add("--dataset", required=True, help="the dataset of both: a folder, or a Hub dataset id")
    add("--configs", nargs=2, default=CONFIGS, metavar="NAME", help="leaking and grouped (default: published grouped)")
    add("--output_dir", type=Path, required=True, metavar="DIR", help="finished folder; work stands in DIR.partial")
    add("--bootstrap_replicates", type=count_of, default=1000, help="resamples of the intervals (default: %(default)s)")
    add(
        "--launcher",
        default="",
        metavar="WORDS",
        help="what starts the script, e.g. 'accelerate launch --num_processes 2' (default: this Python, one process)",
    )
    given, options = parser.parse_known_args(argv)
    folders = [folder for folder in (given.published, given.grouped) if folder is not None]
    if folders and options:  # a value of the option looks like the script
        raise UserError(f"{options[0]!r} is of a training, and models are given: leave it out")
    if given.script is None and len(folders) < 2:
        raise UserError(
            "give a train script, such as mobilenet, or two finished folders: --published DIR --grouped DIR"
        )
    if given.script is not None and folders:
        raise UserError(
            f"{given.script!r} and {shown_path(folders[0])} were both given: train both models, or give both"
        )
    check_dataset(given.dataset)
    if given.script is not None:
        given.script = find_script(given.script, without=(AUTOENCODER,))
        check_passed_on(given.script, options, parser, "model")
    return given, options


def main() -> None:
    """Parse the command line, train both models where none were given, and compare."""
    given, options = parse(sys.argv[1:])
    from trainers.training.cross_validation import Plan
    from trainers.training.leak_cost import compare_finished, train_and_compare

    names = tuple(given.configs)
    if given.script is None:
        folders = (given.published, given.grouped)
        lines = compare_finished(folders, names, given.dataset, given.output_dir, given.bootstrap_replicates)
    else:
        replicates = str(given.bootstrap_replicates)
        plan = Plan(
            script=given.script,
            options=["--dataset", given.dataset, *options, "--bootstrap_replicates", replicates],
            out=given.output_dir,
            names=names,
            replicates=given.bootstrap_replicates,
            launcher=shlex.split(given.launcher) or [sys.executable],
        )
        try:
            lines = train_and_compare(plan, given.dataset)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the same command goes on from {shown_path(plan.partial)}") from None
    print("\n".join(lines))
    print(f"finished: {shown_path(given.output_dir)} (README.md, leak_cost.json)")


if __name__ == "__main__":
    run(main)
