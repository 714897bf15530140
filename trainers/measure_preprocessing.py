"""Measure the three steps before the resize: hair removal, lesion crop and colour constancy.

``python -m trainers.measure_preprocessing --ham10000 DIR --out FILE.json`` measures hair removal on drawn phantoms and
on real images with hairs drawn over them (both with known hairs), the lesion crop on every image with a mask, and the
time of each step. No accelerator; a few minutes for all of HAM10000 on one core.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, count_of, run
from model_cards.manifest import write_text
from trainers.model_folder.output import check_writable


def main() -> None:
    """Run the command."""
    parser = OneLineParser(prog="python -m trainers.measure_preprocessing", description=__doc__)
    parser.add_argument("--ham10000", required=True, type=Path, help="HAM10000's folder, with its lesion masks")
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write; must not exist yet")
    parser.add_argument("--limit", type=count_of, help="images to measure on, spread evenly (default: all)")
    parser.add_argument(
        "--hair_images", type=count_of, default=1000, help="images to draw hairs over, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--phantoms",
        type=count_of,
        default=15,
        help="phantoms of each of 8 classes, at each size (default: %(default)s)",
    )
    parser.add_argument("--repeats", type=count_of, default=15, help="runs of each timed step (default: %(default)s)")
    options = parser.parse_args()
    if os.path.lexists(options.out):
        raise UserError(f"{options.out} is there already: name another file, or move it away")
    if not options.out.parent.is_dir():
        raise UserError(f"{options.out.parent} is no folder: make it first, or name another file")
    check_writable(options.out, "--out")
    from trainers.evaluation.preprocessing import measure

    numbers = measure(
        options.ham10000,
        limit=options.limit,
        hair_images=options.hair_images,
        phantoms=options.phantoms,
        repeats=options.repeats,
        progress=True,
    )
    write_text(options.out, json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    print(json.dumps(numbers, indent=2, allow_nan=False))


if __name__ == "__main__":
    run(main)
