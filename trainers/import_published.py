"""Turn a published checkpoint into a Hub repo of ours: ``python -m trainers.import_published --system NAME ...``.

The folder is complete (weights, configuration, processor, code, card, manifest) and states that nothing was evaluated
here: no metric, no temperature. ``python -m model_cards.verify`` checks it like any other.
"""

from __future__ import annotations

from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run, shown_path
from trainers.model_folder.output import check_empty
from trainers.published import FORMATS, check_system, find_system


def main() -> None:
    """Parse the command line and import."""
    formats = "; ".join(f"{name}: {text}" for name, text in FORMATS.items())
    parser = OneLineParser(prog="python -m trainers.import_published", description=__doc__)
    parser.add_argument(
        "--system", required=True, metavar="NAME", help=f"the published system: {', '.join(sorted(FORMATS))}"
    )
    parser.add_argument(
        "--checkpoint", required=True, nargs="+", type=Path, metavar="FILE", help=f"what was published. {formats}"
    )
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="the folder to write; absent")
    parser.add_argument(
        "--labels", default=None, help="short class names in the logits' order, a,b,c (default: as published)"
    )
    given = parser.parse_args()
    check_system(given.system)
    for path in given.checkpoint:
        if not path.exists():
            raise UserError(f"--checkpoint {str(path)!r} does not exist: give what was published")
    labels = None if given.labels is None else [name.strip() for name in given.labels.split(",")]
    check_empty(given.output_dir)
    from trainers.published.convert import import_published

    report = import_published(find_system(given.system), given.checkpoint, given.output_dir, labels)
    model = report["model"]
    print(f"{model['title']}: {model['backbone']}, classes {', '.join(row['name'] for row in model['labels'])}")
    print(f"imported: {shown_path(given.output_dir)} is a complete Hub repo; nothing was evaluated")


if __name__ == "__main__":
    run(main)
