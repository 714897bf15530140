"""A finished model as it may be given away: no photograph, no path of this machine, and the code of today.

``python -m trainers.release DIR OUT`` copies a finished model folder without the features of its predictions (half of
its size, and more of an image than a label is) and without its examples, in whose place drawn phantoms stand. Paths
below LESION_DATA_DIR and LESION_WEIGHTS_DIR are written as these variables. Code, tables, figures, card and manifest
are rebuilt; all numbers follow from the stored predictions. Minutes where the model explains itself, else seconds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_scripts.command import OneLineParser, UserError, run
from model_cards.card import REPORT
from trainers.model_folder.output import check_empty, written_whole

if TYPE_CHECKING:
    from trainers.model_folder.folder import Finished


VARIABLES = ("LESION_DATA_DIR", "LESION_WEIGHTS_DIR")
EXAMPLES_FOLDER = "examples"
LEFT_OUT = ("*.py", "__pycache__", ".*", EXAMPLES_FOLDER)


def release(folder: Path, out: Path, *, replicates: int = 1000, progress: bool = True) -> None:
    """Write the release of a finished model.

    Args:
        folder: the finished model; left as it is.
        out: absent, or an empty folder.
        replicates: bootstrap resamples behind each interval.
        progress: show progress bars.

    Raises:
        UserError: ``out`` holds something; ``folder`` is no finished model of ours, or was changed since, or its
            report names a folder of this machine.
    """
    check_empty(out, "OUT")
    from trainers.metrics.predictions import read_predictions, write_predictions
    from trainers.model_folder.finish import save
    from trainers.model_folder.folder import read_finished
    from trainers.model_folder.rebuild import rebuild

    finished = read_finished(folder, str(folder))
    with written_whole(out) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        dtype = finished.report["model"].get("weights_dtype", "float32")
        save(finished.model, finished.processor, partial, dtype)
        for path in partial.glob("predictions_*.parquet"):
            write_predictions(read_predictions(path), path, with_features=False)
        _redraw_examples(finished, partial, progress)
        report = without_places(finished.report, str(folder))
        (partial / REPORT).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        rebuild(partial, replicates)


def _redraw_examples(finished: Finished, folder: Path, progress: bool) -> None:
    """Phantoms in the place of photographs, for each split whose heat maps were measured."""
    from trainers.evaluation.explanation_table import explanations_file, read_table, write_table
    from trainers.evaluation.figures.explanations import save_examples
    from trainers.explaining.examples import phantom_examples
    from trainers.model_folder.evaluate import EVALUATED_SPLITS

    for path in (explanations_file(folder, split) for split in EVALUATED_SPLITS):
        if path.is_file():
            table = read_table(path)
            found = phantom_examples(finished.model, finished.processor, table.about["method"], progress=progress)
            about = without_places(table.about, str(path))
            about["examples"] = [save_examples(found, folder, about)] if found.found else []
            table.about.clear()
            table.about.update(about)
            write_table(table, path)


def without_places(content: dict[str, Any], named: str) -> dict[str, Any]:
    """The same content with paths below the variables' folders written as these variables.

    Args:
        content: JSON-ready.
        named: what it is of, for messages.

    Raises:
        UserError: it names this folder or this user's home in another way.
    """
    text = json.dumps(content)
    for name in VARIABLES:
        if value := os.environ.get(name):
            for place in (value.rstrip("/"), os.path.relpath(value)):
                text = text.replace(f"{json.dumps(place)[1:-1]}/", f"${name}/")
    for place in {str(Path.cwd()), str(Path.home())} - {"/"}:
        if (at := text.find(f"{json.dumps(place)[1:-1]}/")) >= 0:
            told = re.split(r'["\s]', text[at:], maxsplit=1)[0]
            raise UserError(
                f"{named} names a place of this machine ({told}): set {' or '.join(VARIABLES)} to its folder, or train "
                "and fit with paths relative to the folder that you work in"
            )
    return dict(json.loads(text))


def parse() -> Namespace:
    """The command line."""
    parser = OneLineParser(prog="python -m trainers.release", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="a finished model's folder")
    parser.add_argument("out", type=Path, metavar="OUT", help="the new folder; must not exist yet, or be empty")
    parser.add_argument(
        "--bootstrap_replicates", type=int, default=1000, help="bootstrap resamples (default %(default)s)"
    )
    return parser.parse_args()


def main() -> None:
    """Parse the command line and release."""
    arguments = parse()
    if arguments.bootstrap_replicates < 1:
        raise UserError(f"--bootstrap_replicates {arguments.bootstrap_replicates}: give at least 1")
    if not arguments.folder.is_dir():
        raise UserError(f"there is no folder {str(arguments.folder)!r}: give a finished model's folder")
    release(arguments.folder, arguments.out, replicates=arguments.bootstrap_replicates)
    print(f"wrote {arguments.out}: look at its card, then publish it with python -m model_cards.publish")


if __name__ == "__main__":
    run(main)
