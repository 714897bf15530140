"""Fit a model's trust again on local lesions, without training: ``python -m trainers.recalibrate MODEL ...``.

The gate's threshold, the temperature, prediction sets, bands and decision rules are fitted on labelled lesions of your
own: a folder of images with a CSV table (image,label and optionally lesion_id, group_id, age, sex, ...), a download of
a public archive, or a built dataset. The gate's detector and the weights stay as they are. The result is a new,
complete Hub folder, whose card states what was promised and measured before, and what is now. It prints what so many
lesions can promise, and which promises are dropped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_scripts.command import OneLineParser, UserError, check_model, count_of, run, warn
from trainers.training.arguments import check_dataset
from trainers.trust.options import add_options

if TYPE_CHECKING:
    from trainers.scoring.labels import Classes
    from trainers.scoring.local_lesions import Local

# Those of trainers.trust.local, which --help need not wait for (a test compares them).
REFITS = ("auto", "keep", "scalar", "bias_corrected")
NO_OPTION = ("temperature", "detector", "subgroup_column", "inference", "shifted_images", "seed")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.recalibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="DIR_OR_REPO", help="a finished model with fitted trust: a folder, or ORG/NAME[@REVISION]")
    add("--images", type=Path, metavar="DIR", help="folder of images")
    add("--labels", type=Path, metavar="CSV", help="the true classes: image,label[,lesion_id,group_id,age,sex,...]")
    add("--archive", metavar="NAME", help="--images is a download of this archive: takes its labels (default: none)")
    add("--dataset", default="", help="in place of --images: a folder of a build_* command, or a Hub dataset id")
    add("--config_name", default="grouped", help="config of --dataset (default: %(default)s)")
    add("--splits", default="", metavar="NAME,...", help="splits of --dataset that are local lesions (default: all)")
    add("--leave_out", default="", metavar="LABEL,...", help="labels whose images are left out (default: none)")
    add("--output_dir", required=True, type=Path, help="the new folder; must not exist yet, or be empty")
    add(
        "--test_fraction",
        type=float,
        default=0.0,
        help="share of the lesions, in [0, 0.9], that nothing is fitted on, to measure the promises (default: "
        "%(default)s)",
    )
    add(
        "--temperature",
        choices=REFITS,
        default="auto",
        help="what is fitted on top of the earlier calibration: keep (nothing), scalar (one T), bias_corrected (T and "
        "a bias per class), auto (the least cross-validated loss) (default: %(default)s)",
    )
    add_options(parser, NO_OPTION, of_model=True)
    add("--seed", type=int, default=0, help="seed of the halves, of the test lesions, and so on (default: %(default)s)")
    add("--name", default="", help="short name of the result (default: the model's)")
    add("--title", default="", help="title of its card (default: the model's)")
    add("--bootstrap_replicates", type=count_of, default=1000, help="bootstrap resamples (default: %(default)s)")
    return parser


def check(given: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is loaded.

    Raises:
        UserError: names the option and what to do.
    """
    check_model(given.model, "the model")
    if bool(given.images) == bool(given.dataset):
        raise UserError("give --images with --labels (or --archive), or --dataset")
    if given.dataset:
        check_dataset(given.dataset)
    elif bool(given.labels) == bool(given.archive):
        raise UserError("--images needs the true classes: give --labels CSV, or --archive NAME")
    elif not given.images.is_dir():
        raise UserError(f"--images {str(given.images)!r} is no folder: give a folder of images")
    if given.labels and not given.labels.is_file():
        raise UserError(f"--labels {str(given.labels)!r} cannot be read (No such file or directory): give a CSV file")
    if not 0 <= given.test_fraction <= 0.9:
        raise UserError(f"--test_fraction {given.test_fraction:g}: give a share from 0 to 0.9")
    if given.archive:
        from datasets_scripts.sources.archive_tables import entry_of

        entry_of(given.archive)


def main() -> None:
    """Parse the command line, fit, and print what is promised."""
    given = make_parser().parse_args()
    check(given)
    # What follows imports torch, which --help and the errors above need not wait for.
    from trainers.model_folder.finish import print_finished
    from trainers.model_folder.folder import check_output
    from trainers.model_folder.recalibrate import config_of, fitted_trust, options_of, recalibrate
    from trainers.scoring.labels import Classes
    from trainers.trust.local import table_lines

    check_output(given.output_dir)
    config, report = config_of(given.model)
    options = options_of(fitted_trust(config, given.model), vars(given) | {"temperature": None})
    local = _lesions(given, Classes.of(config.labels, config), report)
    for note in local.notes:
        print(f"note: {note}", file=sys.stderr)
    report = recalibrate(
        given.model,
        local.splits(config.labels, given.test_fraction, options.seed),
        given.output_dir,
        options,
        temperature=given.temperature,
        test_fraction=given.test_fraction,
        replicates=given.bootstrap_replicates,
        naming={name: value for name in ("name", "title") if (value := getattr(given, name))},
    )
    made = report["recalibrated"]
    print("\n".join(["What so many lesions can promise at best:", "", *table_lines(made["table"], made["confidence"])]))
    print(f"\n{made['calibration']['lesions']:,} local lesions were fitted on:")
    for row in made["promises"]:
        needed = f" (needs about {row['needed']:,} lesions)" if row["needed"] else ""
        verdict = "kept" if row["kept"] else f"dropped: {row['reason']}{needed}"
        print(f"  {row['promise']}: {100 * row['asked']:.3g} %: {verdict}")
    if not made["here"]["why"]:
        print(f"\nOn {made['test']['lesions']:,} other local lesions, before and now:")
        for row in made["comparison"]:
            before, now = (row[when]["verdict"] if row[when] else "nothing is promised" for when in ("before", "after"))
            print(f"  {row['promise']}: {before}; {now}")
    print_finished(given.output_dir, report, "recalibrated", warn=False)
    if report["promise"]["declines"]:
        print(
            "warning: no band is kept, so the model declines every image; sets and flag are in its answers",
            file=sys.stderr,
        )


def _lesions(given: argparse.Namespace, classes: Classes, report: dict) -> Local:
    """The local lesions that the options name."""
    from trainers.scoring.files import Table
    from trainers.scoring.labels import LABEL
    from trainers.scoring.local_lesions import labelled_dataset, labelled_images

    leave_out = _words(given.leave_out)
    if given.dataset:
        known = [report[key] for key in ("trained_on",) if key in report]
        known += [report["provenance"]["dataset"]] if "provenance" in report else []
        prints = {dataset["fingerprint"] for dataset in known}
        parts = _words(given.splits)
        return labelled_dataset(given.model, given.dataset, given.config_name, parts, classes, leave_out, prints)
    with tempfile.TemporaryDirectory() as folder:
        path = given.labels
        if given.archive:
            from trainers.scoring.archive_labels import write_labels

            path = Path(folder) / f"{given.archive}.csv"
            warn(write_labels(given.archive, given.images, classes.labels, path))
        return labelled_images(given.images, Table(path, "--labels", (LABEL,)), classes, leave_out)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


if __name__ == "__main__":
    run(main)
