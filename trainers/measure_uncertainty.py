"""Compare ways to get an uncertainty on one model: ``python -m trainers.measure_uncertainty MODEL --dataset D ...``.

One pass, the ensemble, MC dropout on the head, test-time flips and turns, and a last-layer Laplace approximation, on
the same images, each calibrated in the same way: NLL, ECE, AUROC and AURC of errors, malignant lesions missed in the
low band, and cost, with paired differences. What does not pay is said not to. The model stays as it is; the result is a
new, complete Hub folder with the table in its report and its card.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, check_model, run, shown_path
from trainers.training.arguments import check_dataset


def parse() -> Namespace:
    """The command line."""
    parser = OneLineParser(prog="python -m trainers.measure_uncertainty", description=__doc__)
    add = parser.add_argument
    add("model", metavar="DIR_OR_REPO", help="a finished model: a folder, or ORG/NAME[@REVISION]")
    add("--dataset", required=True, help="the dataset that it was evaluated on: a folder, or a Hub dataset id")
    add("--config_name", default="grouped", help="the dataset's config (default %(default)s)")
    add("--leave_out", default="", metavar="CLASS,...", help="classes that the model was trained without")
    add("--samples", type=int, default=30, help="passes of MC dropout on the head (default %(default)s)")
    add(
        "--without_tta", action="store_true", help="leave test-time augmentation out, which costs eight passes an image"
    )
    add("--seed", type=int, default=0, help="of the dropout masks and the resamples (default %(default)s)")
    add("--bootstrap_replicates", type=int, default=1000, help="bootstrap resamples (default %(default)s)")
    add("--output_dir", required=True, type=Path, help="the new folder; must not exist yet, or be empty")
    return parser.parse_args()


def main() -> None:
    """Parse the command line and measure."""
    arguments = parse()
    for name, least in (("samples", 1), ("seed", 0), ("bootstrap_replicates", 1)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} {getattr(arguments, name)}: give at least {least}")
    check_dataset(arguments.dataset)
    check_model(arguments.model, "the model")
    from trainers.model_folder.folder import load_splits_of
    from trainers.model_folder.uncertainty import measure_uncertainty

    report = measure_uncertainty(
        arguments.model,
        load_splits_of(arguments.model, arguments.dataset, arguments.config_name, arguments.leave_out),
        arguments.output_dir,
        samples=arguments.samples,
        views=not arguments.without_tta,
        seed=arguments.seed,
        replicates=arguments.bootstrap_replicates,
    )
    for name, found in report["uncertainty"]["verdicts"].items():
        print(f"{name} {found} against {report['uncertainty']['reference']}")
    print(f"measured: {shown_path(arguments.output_dir)} is a complete Hub repo (README.md is its card)")


if __name__ == "__main__":
    run(main)
