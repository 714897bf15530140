"""A contact sheet of phantoms, two lesions a class: ``python -m datasets_scripts.phantom_sheet --out FILE``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets_scripts.command import OneLineParser, UserError, run
from datasets_scripts.output import whole_file
from datasets_scripts.taxonomy import TASKS, long_names

if TYPE_CHECKING:
    from PIL import Image


TILE, PAD, GAP, TOP, CAPTION = (150, 112), 6, 12, 34, 18
COLUMNS, PER_CLASS = 4, 2
PAPER, INK = "#F7F6F2", "#24292F"
FORMATS = {".jpg": "JPEG", ".png": "PNG"}


def sheet(task: str, seed: int) -> Image.Image:
    """Draw the sheet: ``COLUMNS`` classes a row, ``PER_CLASS`` lesions a class, captioned and marked as drawn."""
    labels, names = TASKS[task], long_names(TASKS[task])
    width, height = TILE
    cell = PER_CLASS * (width + PAD) + GAP
    rows = -(-len(labels) // COLUMNS)
    from PIL import Image, ImageDraw, ImageFont

    from datasets_scripts.phantom import DRAWN, draw

    sheet = Image.new("RGB", (PAD + COLUMNS * cell - GAP, TOP + rows * (height + CAPTION + PAD) + PAD), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((PAD, 8), f"Phantoms. {DRAWN}", fill=INK, font=ImageFont.load_default(15))
    for index, label in enumerate(labels):
        left = PAD + index % COLUMNS * cell
        top = TOP + index // COLUMNS * (height + CAPTION + PAD)
        caption = f"{label}: {names[label].split(' / ')[0]}"
        pen.text((left, top), caption, fill=INK, font=ImageFont.load_default(13))
        for number in range(PER_CLASS):
            lesion = draw(label, seed + number, size=(2 * width, 2 * height)).image.resize(TILE)
            sheet.paste(lesion, (left + number * (width + PAD), top + CAPTION))
    return sheet


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and write the sheet."""
    parser = OneLineParser(prog="python -m datasets_scripts.phantom_sheet", description=__doc__)
    parser.add_argument("--task", default="dermx", choices=sorted(TASKS), help="whose classes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the first lesion (default: %(default)s)")
    parser.add_argument("--out", required=True, type=Path, help="image to write, .jpg or .png")
    options = parser.parse_args(arguments)
    if options.out.suffix.lower() not in FORMATS:
        raise UserError(f"--out {options.out} is no image's name; end it in .jpg or .png")
    with whole_file(options.out) as partial:
        sheet(options.task, options.seed).save(partial, FORMATS[options.out.suffix.lower()], quality=90)
    print(f"wrote {options.out}: drawn, not photographs")


if __name__ == "__main__":
    run(main)
