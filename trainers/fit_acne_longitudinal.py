"""Is my treatment working? Effects of treatments on daily severity, from a table of patient, day, treatment, severity.

``python trainers/fit_acne_longitudinal.py --data study.csv --out DIR`` writes DIR/README.md, effects.csv, effects.md,
patients.csv, report.json and figures/. The default effect is the mean of the patients' own differences with a t
interval, which holds with days that resemble each other and patients who respond differently; two mixed models stand
beside it. Days may be missing and phases of any length. ``python -m datasets_scripts.simulate_acne --out study.csv``
makes a study to try it on; ``python -m trainers.longitudinal.severity`` makes a table from the scores of images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run, shown_path


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.fit_acne_longitudinal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--data",
        required=True,
        type=Path,
        metavar="CSV",
        help="patient, day (a whole number), treatment, severity (points, lower is better; empty = missed)",
    )
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write; absent or empty")
    add("--baseline", default="Baseline", metavar="NAME", help="treatment to compare with (default: %(default)s)")
    add("--treatments", nargs="+", metavar="NAME", help="those to compare, in this order (default: all in the table)")
    add("--confidence", type=float, default=0.95, help="of all intervals, 0.5 to below 1 (default: %(default)s)")
    add(
        "--sure",
        type=float,
        help="probability from which a patient counts as better or worse, 0.5 to below 1 (default: where the patient's "
        "interval leaves out 0, 0.975 at a confidence of 0.95)",
    )
    add(
        "--relevant",
        type=float,
        default=0.0,
        metavar="POINTS",
        help="smallest change that matters to a patient, 0 or more (default: %(default)s)",
    )
    return parser


def check(given: argparse.Namespace) -> None:
    """Refuse numbers out of range.

    Raises:
        UserError: names the option and what to do.
    """
    for option in ("confidence", "sure"):
        value = getattr(given, option)
        if value is not None and not 0.5 <= value < 1:
            raise UserError(f"--{option} {value:g}: give 0.5 or more, below 1")
    if not 0 <= given.relevant < float("inf"):
        raise UserError(f"--relevant {given.relevant:g}: give 0 or more, in points")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, fit, write, and print the effects.

    Raises:
        UserError: options or a table that cannot be used.
    """
    given = make_parser().parse_args(arguments)
    check(given)
    # What follows imports statsmodels and matplotlib, which --help and the errors above need not wait for.
    from tqdm import tqdm

    from datasets_scripts.output import written_whole
    from trainers.longitudinal.analysis import DEFAULT, Settings, analyse
    from trainers.longitudinal.study import read_study
    from trainers.longitudinal.writing import shown, write_all
    from trainers.model_folder.output import check_empty

    check_empty(given.out, "--out")
    study = read_study(given.data, given.baseline, given.treatments)
    with tqdm(total=6, desc="fitting", disable=None, leave=False) as bar:

        def step(name: str) -> None:
            bar.set_description(name)
            bar.update()

        sure = 0.5 + given.confidence / 2 if given.sure is None else given.sure
        analysis = analyse(study, Settings(given.confidence, sure, given.relevant), step)
        step("writing")
        with written_whole(given.out) as folder:
            write_all(analysis, folder)
    for text in analysis.warnings:
        print(f"warning: {text}", file=sys.stderr)
    print("change of severity, points (below 0 is lower, better):")
    for effect in analysis.effects:
        if effect.method == DEFAULT:
            print(f"  {effect.treatment} against {study.treatments[0]}: {shown(effect, analysis.decimals)}")
    print(f"finished: {shown_path(given.out)} (README.md says it all). Research software, never a medical device.")


if __name__ == "__main__":
    run(main)
