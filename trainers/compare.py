"""Compare models on the same images: differences with intervals, and tests that keep the images of a lesion together.

``python -m trainers.compare A B [C ...]`` sets each of the others against the first. A model is a finished folder (its
``predictions_test.parquet`` at its own temperature), a folder of ``trainers.cross_validate``, or a predictions file.
Models of different classes are compared on benign against malignant (``p_malignant``), where the malignancy group of
every class is known. ``--a DIR DIR --b DIR DIR`` compares two recipes, each by the mean over its seeds. Seconds, no
model, no accelerator.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run
from model_cards.manifest import write_text
from trainers.model_folder.output import check_file

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def main() -> None:
    """Parse the command line, compare, print the tables."""
    arguments = make_parser().parse_args()
    from trainers.evaluation.comparison import compare, load
    from trainers.evaluation.comparison_tables import markdown

    sides = {name: [load(path) for path in paths] for name, paths in chosen_sides(arguments).items()}
    if arguments.out is not None:
        check_file(arguments.out, "compared.json")
    result = compare(
        sides,
        classes=arguments.classes,
        shared=arguments.shared,
        replicates=arguments.replicates,
        seed=arguments.seed,
        progress=True,
    )
    if arguments.out is not None:
        write_text(arguments.out, json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(markdown(result), end="")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = OneLineParser(
        prog="python -m trainers.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models", nargs="*", type=Path, metavar="MODEL", help="two or more models; each is set against the first")
    seeds = "seeds of one recipe, their metrics averaged"
    add("--a", nargs="+", type=Path, default=[], metavar="DIR", help=f"first side: a model, or {seeds}")
    add("--b", nargs="+", type=Path, default=[], metavar="DIR", help=f"second side: a model, or {seeds}")
    add(
        "--partial",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help="a third side between --a and --b, e.g. image and age between image and all metadata: gives the share of "
        "the gain of --b over --a that it carries",
    )
    add("--classes", nargs="+", default=[], metavar="NAME", help="classes whose recall is compared too, e.g. mel df")
    add("--shared", action="store_true", help="compare on the images that all models have (default: refuse others)")
    add("--out", type=Path, metavar="FILE.json", help="write every number as JSON (default: print the tables only)")
    add(
        "--replicates",
        type=int,
        default=2000,
        help="bootstrap resamples of lesions, and exchanges behind each p value (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="of the resamples and exchanges, 0 or more (default: %(default)s)")
    return parser


def chosen_sides(arguments: argparse.Namespace) -> dict[str, list[Path]]:
    """Side -> paths: ``A, B, ...`` of the models that were listed, or of ``--a``, ``--b`` and ``--partial``.

    Raises:
        UserError: too few or contradicting models, or a number out of range.
    """
    if arguments.replicates < 100:
        raise UserError(f"--replicates {arguments.replicates}: give at least 100, for a 95 % interval")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: give 0 or more")
    from trainers.evaluation.comparison_tables import PARTIAL

    sides = {"A": arguments.a, "B": arguments.b, PARTIAL: arguments.partial}
    if not arguments.models:
        missing = [option for option, name in (("--a", "A"), ("--b", "B")) if not sides[name]]
        if missing:
            raise UserError(f"nothing was given for {missing[0]}: give two models, or --a DIR... and --b DIR...")
        return {name: paths for name, paths in sides.items() if paths}
    if any(sides.values()):
        raise UserError(
            f"{arguments.models[0]} stands before the options and --a, --b or --partial was given too: use one form"
        )
    if not 2 <= len(arguments.models) <= len(LETTERS):
        raise UserError(f"{len(arguments.models)} model was given: give 2 to {len(LETTERS)}, the first to compare with")
    return dict(zip(LETTERS, ([path] for path in arguments.models), strict=False))


if __name__ == "__main__":
    run(main)
