"""A sheet of drawn phantoms and their reconstructions by autoencoders: an image that may be shown anywhere.

``python -m trainers.autoencoding.sheet A [B ...] --out FILE.png`` draws one phantom a class (``--classes``: of these)
and has each finished autoencoder press it into its codes and draw it again. No photograph is looked at.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import style

from datasets_scripts.command import OneLineParser, UserError, run
from datasets_scripts.output import whole_file
from model_cards.card import read_report
from trainers.evaluation.figures.charts import LOOK
from trainers.model_folder.output import check_new_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


def load(path: Path) -> tuple[str, Any, Any]:
    """A finished autoencoder: its title, the model in eval mode, its image processor.

    Raises:
        UserError: there is none.
    """
    from safetensors import SafetensorError
    from transformers import AutoImageProcessor, AutoModel

    from hub_models import AutoencoderLesionModel
    from trainers.model_folder.source import check_files

    try:
        report = read_report(path)
    except UserError as error:
        raise UserError(f"{str(path)!r} cannot be loaded: {error}") from error
    try:
        check_files(str(path), None)
        model = AutoModel.from_pretrained(path)
        processor = AutoImageProcessor.from_pretrained(path)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{str(path)!r} cannot be loaded: {error}") from error
    if not isinstance(model, AutoencoderLesionModel):
        raise UserError(f"{str(path)!r} holds a {type(model).__name__}: give the folder of a trained autoencoder")
    return str(report["model"]["title"]), model.eval(), processor


def redraw(model: Any, processor: Any, images: Sequence[Image.Image]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the model saw and what it drew, (K, S, S, 3) in [0, 1] each, and the PSNR (K,) in dB."""
    pixels = processor(list(images), return_tensors="pt")["pixel_values"]
    import torch

    from trainers.autoencoding.losses import psnr

    with torch.inference_mode():
        seen, drawn = model.to_images(pixels), model.to_images(model.decode(model.encode(pixels)))
    shown = [part.permute(0, 2, 3, 1).numpy() for part in (seen, drawn)]
    return shown[0], shown[1], psnr(drawn, seen).numpy()


@style.context(LOOK)
def draw_sheet(images: Sequence[Image.Image], names: Sequence[str], models: Sequence[tuple[str, Any, Any]]) -> Figure:
    """One row of phantoms, at the first model's size, and one row per model."""
    from matplotlib.figure import Figure

    from trainers.evaluation.figures.charts import FAINT, INK

    figure = Figure(figsize=(1.45 * len(images) + 1.2, 1.75 * (len(models) + 1) + 0.3), layout="constrained")
    grid = figure.subplots(len(models) + 1, len(images), squeeze=False)
    for line, (title, model, processor) in enumerate(models, start=1):
        seen, drawn, quality = redraw(model, processor, images)
        for column in range(len(images)):
            if line == 1:
                grid[0, column].imshow(seen[column], interpolation="nearest")
                grid[0, column].set_title(names[column], fontsize=10, loc="center")
            grid[line, column].imshow(drawn[column], interpolation="nearest")
            grid[line, column].set_xlabel(f"{quality[column]:.1f} dB", fontsize=9)
        words = [*textwrap.wrap(title, 20), f"{model.config.code_size} codes"]
        grid[line, 0].set_ylabel("\n".join(words), fontsize=9, color=INK)
    grid[0, 0].set_ylabel("drawn phantom", fontsize=9, color=INK)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(visible=True, color=FAINT)
    return figure


def main() -> None:
    """Parse the command line, draw, and write the image."""
    parser = OneLineParser(prog="python -m trainers.autoencoding.sheet", description=__doc__)
    parser.add_argument("models", type=Path, nargs="+", metavar="DIR", help="folders of finished autoencoders")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write; must not exist yet")
    parser.add_argument("--seed", type=int, default=0, help="which phantoms are drawn (default: %(default)s)")
    from datasets_scripts.phantom import PHANTOM_LABELS, draw
    from trainers.evaluation.figures.charts import DPI

    parser.add_argument(
        "--classes", nargs="+", default=list(PHANTOM_LABELS), choices=PHANTOM_LABELS, metavar="NAME",
        help=f"of {', '.join(PHANTOM_LABELS)} (default: all)",
    )  # fmt: skip
    given = parser.parse_args()
    check_new_file(given.out)
    if given.seed < 0:
        raise UserError(f"--seed {given.seed}: give 0 or more")
    models = [load(path) for path in given.models]
    images = [draw(label, given.seed).image for label in given.classes]
    figure = draw_sheet(images, given.classes, models)
    with style.context(LOOK), whole_file(given.out) as partial:
        figure.savefig(partial, dpi=DPI, format="png", metadata={"Software": None})
    print(f"wrote {given.out}")


if __name__ == "__main__":
    run(main)
