"""Measure what other images of the same lesions do to a model: ``python -m trainers.measure_robustness MODEL ...``.

The images of a split are blurred, shaken, lit wrongly, compressed, covered with hairs, in three severities each; and
they are cut to other shapes and scales around the lesion, and turned; and their lesion is hidden, or a ruler, ink and
other marks are drawn on them. The model is run again: how often it is right, how often it still answers, and what is
left of its promises. The model stays as it is; the result is a new, complete Hub folder with the sections in its report
and its card.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, check_model, run, shown_path
from trainers.training.arguments import CORRUPTIONS, EVALUATED_SPLITS, SEVERITIES, VIEWS, check_dataset

NONE = "none"
# Those of trainers.evaluation.shortcuts, which --help need not wait for.
HIDDEN = ("lesion_hidden", "box_hidden", "border_only")
SHORTCUTS = (*HIDDEN, "ruler", "ink", "bubbles", "dark_corners", "hairs", "metadata_alone")


def parse() -> Namespace:
    """The command line."""
    parser = OneLineParser(prog="python -m trainers.measure_robustness", description=__doc__)
    add = parser.add_argument
    add("model", metavar="DIR_OR_REPO", help="a finished model: a folder, or ORG/NAME[@REVISION]")
    add("--dataset", required=True, help="the dataset that it was evaluated on: a folder, or a Hub dataset id")
    add("--config_name", default="grouped", help="the dataset's config (default %(default)s)")
    add("--leave_out", default="", metavar="CLASS,...", help="classes that the model was trained without")
    add("--split", default="test", choices=EVALUATED_SPLITS, help="whose images (default %(default)s)")
    add("--corruptions", nargs="+", choices=[*CORRUPTIONS, NONE], metavar="KIND",
        help=f"of {', '.join(CORRUPTIONS)}; or {NONE} (default: all)")  # fmt: skip
    add("--severities", nargs="+", type=int, choices=SEVERITIES, help="1 hardly seen to 3 plain (default: all)")
    add("--views", nargs="+", choices=[*VIEWS, NONE], metavar="KIND",
        help="aspect: cut to 1:1, 3:4, 4:3 and 16:9 around the lesion; scale: cut so that the lesion fills 25, 50, 75 "
        f"and 100 %% of the shorter side; turn: by 90, 180 and 270 degrees; or {NONE} (default: all)")  # fmt: skip
    add("--shortcuts", nargs="+", choices=[*SHORTCUTS, NONE], metavar="KIND",
        help=f"{', '.join(HIDDEN)}: the lesion, its box, or all but the border in the colour of the skin; ruler, ink, "
        "bubbles, dark_corners, hairs: drawn on the image; metadata_alone: a logistic regression of age, sex and site; "
        f"or {NONE} (default: all)")  # fmt: skip
    add("--masks", type=Path, metavar="DIR",
        help="folder of lesion masks <image_id>_segmentation.png, to find the lesion by (default: the dataset's own; "
        "where there is none, the darkest region, otherwise the centre)")  # fmt: skip
    add("--images", type=int, metavar="N", help="draw this many images of the split (default: all)")
    add("--seed", type=int, default=0, help="of the draw and of the corruptions (default %(default)s)")
    add("--bootstrap_replicates", type=int, default=1000, help="bootstrap resamples (default %(default)s)")
    add("--output_dir", required=True, type=Path, help="the new folder; must not exist yet, or be empty")
    return parser.parse_args()


def chosen(name: str, kinds: list[str] | None) -> list[str] | None:
    """The kinds of an option; none of them for ``none``, None for all."""
    if kinds and NONE in kinds and len(kinds) > 1:
        raise UserError(f"--{name} {' '.join(kinds)}: give {NONE} alone, or leave it out")
    return [] if kinds == [NONE] else kinds


def main() -> None:
    """Parse the command line and measure."""
    arguments = parse()
    for name, least in (("images", 1), ("seed", 0), ("bootstrap_replicates", 1)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give at least {least}")
    asked = ("corruptions", "views", "shortcuts")
    kinds, views, shortcuts = (chosen(name, getattr(arguments, name)) for name in asked)
    if kinds == views == shortcuts == []:
        words = " ".join(f"--{name} {NONE}" for name in asked)
        raise UserError(f"{words}: nothing to measure; leave one of them out")
    check_dataset(arguments.dataset)
    check_model(arguments.model, "the model")
    from trainers.model_folder.folder import load_splits_of
    from trainers.model_folder.robustness import measure_robustness

    measure_robustness(
        arguments.model,
        load_splits_of(arguments.model, arguments.dataset, arguments.config_name, arguments.leave_out),
        arguments.output_dir,
        split=arguments.split,
        kinds=kinds,
        severities=arguments.severities,
        views=views,
        shortcuts=shortcuts,
        masks=arguments.masks,
        images=arguments.images,
        seed=arguments.seed,
        replicates=arguments.bootstrap_replicates,
    )
    print(f"measured: {shown_path(arguments.output_dir)} is a complete Hub repo (README.md is its card)")


if __name__ == "__main__":
    run(main)
