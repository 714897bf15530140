"""Measure what corrupted images do to a model: ``python -m trainers.measure_robustness MODEL --dataset D ...``.

The images of a split are blurred, shaken, lit wrongly, compressed, covered with hairs, in three severities each, and
the model is asked again: how often it is right, how often it still answers, and what is left of its promises. The model
stays as it is; the result is a new, complete Hub folder with the section in its report and its card.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets_scripts.command import OneLineParser, UserError, check_model, run, shown_path
from trainers.training.arguments import check_dataset

if TYPE_CHECKING:
    from PIL import Image

    from trainers.metrics.predictions import Predictions
    from trainers.model_folder.data import Splits
    from trainers.model_folder.folder import Finished


def measure_robustness(
    source: str,
    splits: Splits,
    out: Path,
    *,
    split: str = "test",
    kinds: list[str] | None = None,
    severities: list[int] | None = None,
    images: int | None = None,
    seed: int = 0,
    replicates: int = 1000,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the folder ``out``, which appears whole or not at all; returns its report.

    Args:
        source: a finished model of ours that was evaluated on this dataset: a folder, or ``ORG/NAME[@REVISION]``.
        splits: the dataset.
        out: absent, or an empty folder.
        split: whose images.
        kinds: of ``CORRUPTIONS``; None = all.
        severities: of 1, 2 and 3; None = all.
        images: draw this many at most; None = all of the split.
        seed: of what is drawn and of the corruptions.
        replicates: of the intervals.
        progress: show progress bars.

    Raises:
        UserError: ``out`` is not empty; there is no such model, or it looks at no image, or was evaluated on other
            images.
    """
    from trainers.metrics.predictions import write_predictions
    from trainers.model_folder.evaluate import corrupted_file, evaluate_robustness
    from trainers.model_folder.folder import finished_model, rewritten
    from trainers.model_folder.perturbations import CORRUPTIONS, SEVERITIES

    with finished_model(source, splits, out) as (finished, splits):
        if "pixel_values" not in finished.model.input_names:
            raise UserError(f"{source!r} looks at no image, which nothing can be done to: give a model that does")
        rows = drawn(len(finished.evaluated(splits, split)), images, seed)
        conditions = [(k, s) for k in kinds or CORRUPTIONS for s in severities or SEVERITIES]
        asked = predict_conditions(finished, splits, split, rows, conditions, seed, progress)
        with rewritten(finished, out, split=split, purpose="measurement of robustness") as (folder, report):
            write_predictions(asked, corrupted_file(folder, split), with_features=False)
            report["robustness"] = evaluate_robustness(report, finished.predictions, asked, replicates)
    return report


def drawn(n: int, images: int | None, seed: int) -> np.ndarray:
    """Which of n images are altered: all, or a seeded draw of ``images``, in their order."""
    if images is None or images >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, images, replace=False))


def predict_conditions(
    finished: Finished,
    splits: Splits,
    split: str,
    rows: np.ndarray,
    conditions: list[tuple[str, int]],
    seed: int,
    progress: bool = False,
) -> Predictions:
    """What the model says of altered images: all rows of one (kind, severity) after the other."""
    gated = "ood" in finished.report["trust"]
    parts = []
    from trainers.metrics.predictions import CORRUPTION
    from trainers.model_folder.predict import predict_split, with_ood_scores

    for kind, severity in conditions:
        alter = partial(altered, kind=kind, severity=severity, seed=seed)
        name = f"{kind} {severity}"
        asked = predict_split(
            finished.model, finished.processor, splits, split, rows=rows, alter=alter, named=name, progress=progress
        )
        parts.append(with_ood_scores(finished.model, asked) if gated else asked)
    arrays = ("image_id", "lesion_id", "group_id", "label", "logits", *(("ood_score",) if gated else ()))
    joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays}
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    columns[CORRUPTION] = np.array([part.split for part in parts for _ in range(len(part))], dtype=object)
    return replace(parts[0], **joined, columns=columns, split=f"{split}_corrupted", features=None, early=None)


def altered(image: Image.Image, index: int, *, kind: str, severity: int, seed: int) -> Image.Image:
    """One image under one corruption; a function of a module, so that workers can be given it."""
    from trainers.model_folder.perturbations import corrupted

    return corrupted(image, kind, severity, seed=seed, index=index)


def parse() -> Namespace:
    """The command line."""
    parser = OneLineParser(prog="python -m trainers.measure_robustness", description=__doc__)
    add = parser.add_argument
    add("model", metavar="DIR_OR_REPO", help="a finished model: a folder, or ORG/NAME[@REVISION]")
    add("--dataset", required=True, help="the dataset that it was evaluated on: a folder, or a Hub dataset id")
    add("--config_name", default="grouped", help="the dataset's config (default %(default)s)")
    add("--leave_out", default="", metavar="CLASS,...", help="classes that the model was trained without")
    from trainers.training.arguments import CORRUPTIONS, EVALUATED_SPLITS, SEVERITIES

    add("--split", default="test", choices=EVALUATED_SPLITS, help="whose images (default %(default)s)")
    add("--corruptions", nargs="+", choices=list(CORRUPTIONS), metavar="KIND",
        help=f"of {', '.join(CORRUPTIONS)} (default: all)")  # fmt: skip
    add("--severities", nargs="+", type=int, choices=SEVERITIES, help="1 hardly seen to 3 plain (default: all)")
    add("--images", type=int, metavar="N", help="draw this many images of the split (default: all)")
    add("--seed", type=int, default=0, help="of the draw and of the corruptions (default %(default)s)")
    add("--bootstrap_replicates", type=int, default=1000, help="bootstrap resamples (default %(default)s)")
    add("--output_dir", required=True, type=Path, help="the new folder; must not exist yet, or be empty")
    return parser.parse_args()


def main() -> None:
    """Parse the command line and measure."""
    arguments = parse()
    for name, least in (("images", 1), ("seed", 0), ("bootstrap_replicates", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give at least {least}")
    check_dataset(arguments.dataset)
    check_model(arguments.model, "the model")
    from trainers.model_folder.data import load_splits

    measure_robustness(
        arguments.model,
        load_splits(arguments.dataset, arguments.config_name, leave_out=arguments.leave_out),
        arguments.output_dir,
        split=arguments.split,
        kinds=arguments.corruptions,
        severities=arguments.severities,
        images=arguments.images,
        seed=arguments.seed,
        replicates=arguments.bootstrap_replicates,
    )
    print(f"measured: {shown_path(arguments.output_dir)} is a complete Hub repo (README.md is its card)")


if __name__ == "__main__":
    run(main)
