"""Fit trust for a finished or imported model, without retraining it: ``python -m trainers.fit_trust MODEL ...``.

Temperature, gate, prediction sets and bands are fitted on the calibration split of a dataset, and evaluated on its test
split. The model's weights stay as they are; the result is a new, complete Hub folder.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, check_model, run
from trainers.model_folder.columns import add_columns, columns_given
from trainers.training.arguments import WEIGHTS_DTYPES, check_dataset
from trainers.trust.options import TrustOptions, add_options, truth

# Everywhere else --group_column names the ids of images that belong together; here it once meant groups of patients.
FORMER_NAMES = {"subgroup_column": ("--group_column",)}


def parse() -> Namespace:
    """The command line."""
    parser = OneLineParser(prog="python -m trainers.fit_trust", description=__doc__)
    parser.add_argument(
        "model", metavar="DIR_OR_REPO", help="a finished or imported model: a folder, or ORG/NAME[@REVISION]"
    )
    parser.add_argument(
        "--dataset", required=True, help="dataset folder written by a build_* command, or a Hub dataset id"
    )
    parser.add_argument(
        "--leave_out",
        default="",
        metavar="CLASS,...",
        help="classes of the dataset that the model was trained without: how often they are declined stands in the "
        "report",
    )
    parser.add_argument("--config_name", default="grouped", help="the dataset's config (default %(default)s)")
    parser.add_argument(
        "--output_dir", required=True, type=Path, help="the new folder; must not exist yet, or be empty"
    )
    add_columns(parser, "--lesion_column")
    _add_images(parser)
    add_options(parser, others=FORMER_NAMES)
    parser.add_argument("--name", default="", help="short name of the result (default: the model's)")
    parser.add_argument("--title", default="", help="title of its card (default: the model's)")
    parser.add_argument(
        "--weights_dtype",
        choices=WEIGHTS_DTYPES,
        default=None,
        help="how the weights are stored (default: as they were)",
    )
    parser.add_argument(
        "--keep_features",
        type=truth,
        default=True,
        metavar="true|false",
        help="keep features in the predictions files (default true)",
    )
    parser.add_argument(
        "--bootstrap_replicates", type=int, default=1000, help="bootstrap resamples (default %(default)s)"
    )
    return parser.parse_args()


def _add_images(parser: OneLineParser) -> None:
    """Further images: of none of the classes, or for the gate alone."""
    parser.add_argument(
        "--ood",
        type=Path,
        nargs="*",
        default=[],
        metavar="DIR",
        help="folders of images of none of the classes: how often they are declined stands in the report; nothing is "
        "fitted on them",
    )
    parser.add_argument(
        "--gate_dataset",
        default="",
        metavar="DIR[,DIR...]",
        help="further images of lesions, labelled or not, that the gate alone is fitted on, such as those of your own "
        "camera: dataset folders, folders of images, or Hub dataset ids",
    )
    parser.add_argument(
        "--gate_split", default="", metavar="SPLIT", help="the split of these datasets (default: all but test)"
    )


def main() -> None:
    """Parse the command line and fit."""
    arguments = parse()
    if arguments.bootstrap_replicates < 1:
        raise UserError(f"--bootstrap_replicates {arguments.bootstrap_replicates}: give at least 1")
    check_dataset(arguments.dataset)
    check_model(arguments.model, "the model")
    from trainers.model_folder.finish import print_finished
    from trainers.model_folder.fit_trust import fit_trust
    from trainers.model_folder.folder import load_splits_of

    options = TrustOptions(**{option.name: getattr(arguments, option.name) for option in fields(TrustOptions)})
    columns = columns_given(arguments)
    report = fit_trust(
        arguments.model,
        load_splits_of(arguments.model, arguments.dataset, arguments.config_name, arguments.leave_out, columns),
        arguments.output_dir,
        options,
        ood_sets=arguments.ood,
        gate_datasets=[name.strip() for name in arguments.gate_dataset.split(",") if name.strip()],
        gate_split=arguments.gate_split,
        replicates=arguments.bootstrap_replicates,
        keep_features=arguments.keep_features,
        weights_dtype=arguments.weights_dtype or "",
        naming={name: value for name in ("name", "title") if (value := getattr(arguments, name))},
    )
    print_finished(arguments.output_dir, report, "fitted")


if __name__ == "__main__":
    run(main)
