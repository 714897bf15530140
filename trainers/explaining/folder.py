"""Measure how good a model's heat maps are: ``python -m trainers.measure_explanations MODEL --dataset D ...``.

How much of the heat lies on the lesion, whether the probability hangs on it, and whether it would look the same with
random weights: each beside what a map would get that knows nothing. The model stays as it is; the result is a new,
complete Hub folder with the section in its report and its card.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets_scripts.command import OneLineParser, UserError, check_model, run, shown_path
from trainers.training.arguments import check_dataset

if TYPE_CHECKING:
    from trainers.evaluation.explanation_table import ExplanationTable
    from trainers.evaluation.figures.explanations import Examples
    from trainers.explaining.measure import Options, Subject
    from trainers.metrics.predictions import Predictions
    from trainers.model_folder.data import Splits
    from trainers.model_folder.folder import Finished


EXAMPLES = ("dataset", "phantoms", "none")


def measure_explanations(
    source: str,
    splits: Splits,
    out: Path,
    options: Options,
    *,
    split: str = "test",
    masks: Path | None = None,
    examples: str = "dataset",
    replicates: int = 1000,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the folder ``out``, which appears whole or not at all; returns its report.

    Args:
        source: a finished model of ours that was evaluated on this dataset: a folder, or ``ORG/NAME[@REVISION]``.
        splits: the dataset.
        out: absent, or an empty folder.
        options: how heat maps are measured.
        split: whose images.
        masks: a folder of lesion masks; None = those of the dataset.
        examples: of ``EXAMPLES``, what the figure of examples shows.
        replicates: of the intervals.
        progress: show progress bars.

    Raises:
        UserError: ``out`` is not empty; there is no such model, or it looks at no image, or was evaluated on other
            images; there are no masks where they were said to be, or they do not fit.
    """
    from trainers.evaluation.explanation_table import explanations_file, write_table
    from trainers.evaluation.explanations import explanations_section
    from trainers.evaluation.figures.explanations import save_examples
    from trainers.explaining.measure import measure
    from trainers.model_folder.folder import finished_model, rewritten

    with finished_model(source, splits, out) as (finished, splits):
        check_method(finished.model, options.method)
        rows = finished.evaluated(splits, split)
        subject = subject_of(finished, splits, rows, masks)
        table = measure(subject, options, progress=progress)
        with rewritten(finished, out, split=split, purpose="measurement of explanations") as (folder, report):
            forget(folder)
            shown = pick_examples(examples, finished, subject, table, splits, options, progress)
            table.about["examples"] = [] if shown is None else [save_examples(shown, folder, table.about)]
            write_table(table, explanations_file(folder, split))
            seed = report["provenance"]["seed"]
            report["explanations"] = explanations_section(table, replicates=replicates, seed=seed)
    return report


def forget(folder: Path) -> None:
    """Take out of a copied folder what an earlier measurement left: its table and its examples."""
    from trainers.evaluation.explanation_table import explanations_file
    from trainers.evaluation.figures.explanations import EXAMPLES_FOLDER

    shutil.rmtree(folder / EXAMPLES_FOLDER, ignore_errors=True)
    for path in folder.glob(explanations_file(folder, "*").name):
        path.unlink()


def check_method(model: Any, method: str) -> None:
    """Refuse a model without images, and a method that it does not have.

    Raises:
        UserError: names what there is.
    """
    methods = model.explanation_methods()
    if not methods:
        raise UserError(f"a {type(model).__name__} looks at no image and has no heat map: give a model that does")
    if method not in methods:
        raise UserError(f"--method {method!r} is none of this model's: choose one of {', '.join(methods)}")


def subject_of(finished: Finished, splits: Splits, rows: Predictions, masks: Path | None) -> Subject:
    """The images of a split with their masks and verdicts, and the class to explain in each."""
    trust = finished.report["trust"]
    fitted = "conformal" in trust and rows.ood_score is not None
    import torch

    from trainers.evaluation.decisions import calibrated_probs, decisions
    from trainers.explaining.masks import MaskedImages, Masks
    from trainers.explaining.measure import Subject
    from trainers.model_folder.provenance import origin

    made = decisions(rows, trust) if fitted else None
    probs = calibrated_probs(rows, trust).numpy() if made is None else made.probs
    images = splits.splits[rows.split]
    if torch.cuda.is_available():
        finished.model.cuda()
    return Subject(
        model=finished.model,
        images=MaskedImages(images, finished.processor, Masks(images, masks)),
        image_id=rows.image_id,
        group_id=rows.group_id,
        label=rows.label,
        predicted=probs.argmax(axis=1).astype(np.int64),
        abstain=None if made is None else made.abstains,
        labels=rows.labels,
        about={"split": rows.split, "dataset": splits.name, "config_name": splits.config_name, "made": origin()},
    )


def pick_examples(
    kind: str,
    finished: Finished,
    subject: Subject,
    table: ExplanationTable,
    splits: Splits,
    options: Options,
    progress: bool,
) -> Examples | None:
    """The examples to draw; None where none are wanted, or there is none of any kind."""
    if kind == "none":
        return None
    from trainers.evaluation.explanations import verdict_rows
    from trainers.explaining.examples import dataset_examples, phantom_examples

    if kind == "phantoms":
        found = phantom_examples(finished.model, finished.processor, options.method, progress=progress)
    else:
        split = str(table.about["split"])
        licences, sources = (splits.column(split, name).astype(str) for name in ("license", "source"))
        found = dataset_examples(subject, verdict_rows(table), licences, sources, options.method, options.seed)
    return found if found.found else None


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
    from trainers.training.arguments import EVALUATED_SPLITS

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
    from trainers.explaining.measure import Options
    from trainers.model_folder.data import load_splits

    options = Options(arguments.method, arguments.images, arguments.steps, seed=arguments.seed)
    measure_explanations(
        arguments.model,
        load_splits(arguments.dataset, arguments.config_name, leave_out=arguments.leave_out),
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
