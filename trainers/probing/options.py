"""Options of a probe; importing this file imports neither torch nor scikit-learn."""

from __future__ import annotations

import argparse
from argparse import Namespace
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from datasets_scripts.command import OneLineParser, UserError, chosen, count_of, seed_of
from trainers.training.arguments import check_dataset
from trainers.training.image_arguments import ImageArguments

# Options of a training that a probe has as well, under the same names and with the same help.
SHARED = (
    "dataset",
    "config_name",
    "image_column",
    "label_column",
    "group_column",
    "leave_out",
    "backbone",
    "backbone_weights",
    "image_size",
    "image_mean",
    "image_std",
    "resize_mode",
    "class_weights",
    "name",
    "title",
    "license",
    "citation",
    "pretraining_data",
    "weights_dtype",
    "bootstrap_replicates",
)
SWITCHES = ("hair_removal", "lesion_crop", "colour_constancy", "keep_features")


@dataclass(frozen=True)
class ProbeOptions:
    """What a probe has beside the options of its backbone, dataset and card."""

    output_dir: Path
    label_fraction: float = 1.0
    folds: int = 5
    zero_shot: Path | None = None
    seed: int = 42
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Refuse values that no run could mean.

        Raises:
            UserError: names the option, its value and what it may be.
        """
        check_fraction(self.label_fraction)
        if self.folds < 2:
            raise UserError(f"folds {self.folds}: give at least 2")
        if self.zero_shot is not None and not self.zero_shot.is_file():
            raise UserError(f"--zero_shot {str(self.zero_shot)!r} does not exist: give a YAML file of prompts")


def check_fraction(fraction: float) -> None:
    """Refuse a share of labels outside (0, 1].

    Raises:
        UserError: names it.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"label_fraction {fraction}: give a share in (0, 1], e.g. 0.1")


def add_shared(parser: argparse.ArgumentParser, names: tuple[str, ...] = SHARED + SWITCHES) -> None:
    """Add options of a training to a parser."""
    for option in fields(ImageArguments):
        if option.name not in names:
            continue
        text = f"{option.metadata['help']} (default: {option.default!r})"
        if option.name in SWITCHES:
            parser.add_argument(
                f"--{option.name}", action=argparse.BooleanOptionalAction, default=option.default, help=text
            )
        else:
            parser.add_argument(f"--{option.name}", type=type(option.default), default=option.default, help=text)


def shared(given: Namespace, **more: Any) -> ImageArguments:
    """The options of a training from those of a probe; no dropout, since features are computed without it.

    Raises:
        UserError: as ``ImageArguments``.
    """
    return chosen(ImageArguments, given, dropout=0.0, **more)


def parse(prog: str, description: str | None) -> tuple[ImageArguments, ProbeOptions]:
    """The command line of ``train_probe``.

    Raises:
        UserError: a value that no run could mean; the dataset does not exist.
    """
    parser = OneLineParser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shared(parser)
    add = parser.add_argument
    add("--output_dir", required=True, type=Path, help="the finished Hub folder; must not exist yet, or be empty")
    add(
        "--label_fraction",
        type=float,
        default=1.0,
        help="share of the train split's groups whose labels are used, in (0, 1]; chosen by a hash of the group's id, "
        "so that it is the same in every run (default: %(default)s)",
    )
    add("--folds", type=count_of, default=5, help="folds that choose the L2 penalty, by group (default: %(default)s)")
    add(
        "--zero_shot",
        type=Path,
        metavar="PROMPTS.yaml",
        help="no label at all: the head is made of text prompts (`templates:`, `classes:`), of CLIP or SigLIP "
        "(default: none)",
    )
    add("--seed", type=seed_of, default=42, help="of the folds and of the report's intervals (default: %(default)s)")
    add("--batch_size", type=count_of, default=16, help="images per forward pass (default: %(default)s)")
    given = parser.parse_args()
    check_dataset(given.dataset)
    return shared(given), chosen(ProbeOptions, given)
