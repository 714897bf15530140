"""Measure how good a model's heat maps are: ``python -m trainers.measure_explanations MODEL --dataset D ...``.

How much of the heat lies on the lesion, whether the probability hangs on it, and whether it would look the same with
random weights: each beside what a map would get that knows nothing. The model stays as it is; the result is a new,
complete Hub folder with the section in its report and its card.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, check_model, run, shown_path
from trainers.training.arguments import EVALUATED_SPLITS, check_dataset

EXAMPLES = ("dataset", "phantoms", "none")


def parse() -> Namespace:
    """The command line."""
    parser = OneLineParser(prog="python -m trainers.measure_explanations", description=__doc__)
    parser.add_argument("model", metavar="DIR_OR_REPO", help="a finished model: a folder, or ORG/NAME[@REVISION]")
    parser.add_argument(
        "--dataset", required=True, help="the dataset that it was evaluated on: a folder, or a Hub dataset id"
    )
    parser.add_argument("--config_name", default="grouped", help="the dataset's config (default %(default)s)")
    parser.add_argument(
        "--leave_out", default="", metavar="CLASS,...", help="classes of the dataset that the model was trained without"
    )
    parser.add_argument("--split", default="test", choices=EVALUATED_SPLITS, help="whose images (default %(default)s)")
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="folder of lesion masks <image_id>_segmentation.png (default: the dataset's own, if it has some)",
    )
    parser.add_argument(
        "--method", default="grad_cam", help="how heat maps are made, one that the model has (default %(default)s)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=300,
        metavar="N",
        help="lesions, one image each, for the costly parts: deletion, insertion, random weights (default %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, default=10, help="steps in which pixels are deleted and inserted (default %(default)s)"
    )
    parser.add_argument(
        "--examples",
        choices=EXAMPLES,
        default="dataset",
        help="images of the split, drawn phantoms (where no photograph may be shown), or none (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of noise, choices, random weights (default %(default)s)")
    parser.add_argument(
        "--bootstrap_replicates", type=int, default=1000, help="bootstrap resamples (default %(default)s)"
    )
    parser.add_argument(
        "--output_dir", required=True, type=Path, help="the new folder; must not exist yet, or be empty"
    )
    return parser.parse_args()


def main() -> None:
    """Parse the command line and measure."""
    arguments = parse()
    for name, least in (("images", 1), ("steps", 2), ("seed", 0), ("bootstrap_replicates", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} {getattr(arguments, name)}: give at least {least}")
    check_dataset(arguments.dataset)
    check_model(arguments.model, "the model")
    from trainers.explaining.folder import measure_explanations
    from trainers.explaining.measure import Options
    from trainers.model_folder.folder import load_splits_of

    options = Options(arguments.method, arguments.images, arguments.steps, seed=arguments.seed)
    measure_explanations(
        arguments.model,
        load_splits_of(arguments.model, arguments.dataset, arguments.config_name, arguments.leave_out),
        arguments.output_dir,
        options,
        split=arguments.split,
        masks=arguments.masks,
        examples=arguments.examples,
        replicates=arguments.bootstrap_replicates,
    )
    print(f"measured: {shown_path(arguments.output_dir)} is a complete Hub repo (README.md is its card)")


if __name__ == "__main__":
    run(main)
