"""Test, without labels, whether images are exchangeable with the calibration images of a model.

``python -m trainers.check_shift MODEL --images DIR --output_dir OUT`` answers the images of a folder and compares gate
scores, largest probabilities and predicted classes with those of the calibration lesions stored with the model. It
prints one sentence, and writes OUT/shift.json and OUT/shift.png. The chance of a false alarm is at most --alpha
(Holm's method over all tests). Images of one lesion are not independent: name their column with --group_column, and one
image of each is compared; without it, every image counts as a lesion, and several images of one raise false alarms.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, check_model, count_of, run, seed_of, shown_path
from trainers.training.arguments import check_dataset


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.check_shift", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="DIR_OR_REPO", help="a finished model with fitted trust: a folder, or ORG/NAME[@REVISION]")
    add("--images", type=Path, metavar="DIR", help="folder of images, without labels")
    add("--dataset", default="", help="in place of --images: a folder of a build_* command, or a Hub dataset id")
    add("--config_name", default="grouped", help="config of --dataset (default: %(default)s)")
    add("--split", default="test", help="split of --dataset (default: %(default)s)")
    add("--output_dir", required=True, type=Path, help="the new folder; must not exist yet, or be empty")
    add("--metadata", type=Path, metavar="CSV", help="a table of the images: image and the columns below")
    add(
        "--group_column",
        default="",
        metavar="NAME",
        help="column of --metadata that names the lesion or patient; of --dataset it is group_id (default: none)",
    )
    add("--alpha", type=float, default=0.05, help="chance of a false alarm, in (0, 1) (default: %(default)s)")
    add("--batch_size", type=count_of, default=32, help="images per forward pass (default: %(default)s)")
    add("--seed", type=seed_of, default=0, help="of the image drawn for each group (default: %(default)s)")
    return parser


def check(given: argparse.Namespace) -> None:
    """Refuse what cannot be meant, before anything is loaded.

    Raises:
        UserError: names the option and what to do.
    """
    check_model(given.model, "the model")
    if bool(given.images) == bool(given.dataset):
        raise UserError("give --images DIR, or --dataset")
    if given.dataset:
        check_dataset(given.dataset)
    elif not given.images.is_dir():
        raise UserError(f"--images {str(given.images)!r} is no folder: give a folder of images")
    if given.metadata and not given.metadata.is_file():
        raise UserError(f"--metadata {str(given.metadata)!r} cannot be read (No such file or directory): give a CSV")
    if given.group_column and not given.metadata:
        raise UserError(f"--group_column {given.group_column!r} is a column of --metadata: give that table, too")
    if not 0 < given.alpha < 1:
        raise UserError(f"--alpha {given.alpha:g}: give a number between 0 and 1, both excluded")


def main() -> None:
    """Parse the command line, compare, print the sentence."""
    given = make_parser().parse_args()
    check(given)
    # What follows imports torch, which --help and the errors above need not wait for.
    from trainers.model_folder.data import load_splits
    from trainers.model_folder.source import parse_source
    from trainers.scoring.matrix import export
    from trainers.scoring.shift import ShiftJob, check_shift

    options = {name: getattr(given, name) for name in ("output_dir", "alpha", "batch_size", "seed")}
    source = parse_source(given.model)
    with tempfile.TemporaryDirectory() as temporary:
        if given.dataset:
            splits = load_splits(given.dataset, given.config_name)
            if given.split not in splits.splits:
                raise UserError(f"--split {given.split!r}: {given.dataset!r} has {', '.join(splits.splits)}")
            folder = Path(temporary) / "split"
            export(splits, given.split, folder)
            images, table, column = folder / "images", folder / "labels.csv", "group_id"
            name = f"{splits.name}, {given.split}"
        else:
            images, table, column, name = given.images, given.metadata, given.group_column, ""
        result = check_shift(ShiftJob(source, images, metadata=table, group_column=column, name=name, **options))
    print(result["sentence"])
    for test in result["tests"]:
        print(f"  {test['test']}: p = {test['p_value']:.3g}, adjusted {test['adjusted']:.3g}")
    print(
        f"{result['n']:,} images compared with {result['n_calibration']:,} calibration lesions; "
        f"{result['images']['unreadable']:,} could not be read. Differences between two distribution functions below "
        f"{result['visible_difference']:.2f} are not found with so many images."
    )
    print(f"finished: {shown_path(given.output_dir)} (shift.json, shift.png)")


if __name__ == "__main__":
    run(main)
