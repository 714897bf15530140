"""A sheet of images: the query on the left, its similar cases beside it. It shows real images: an output of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from datasets_scripts.images import open_image
from trainers.evaluation.figures.charts import DPI, INK, LOOK, ORANGE, QUIET

COLUMNS = 4
DECLINED = "Declined: the model does not know images like this one. The cases are near in numbers, not similar."


@style.context(LOOK)
def draw_sheet(result: Mapping[str, Any], picture: Image.Image, cases: Sequence[Image.Image], model: str) -> Figure:
    """The sheet.

    Args:
        result: of ``search.described``.
        image: the query.
        cases: the k cases' images, the nearest first.
        model: its name.
    """
    columns = min(COLUMNS, len(cases))
    rows = -(-len(cases) // columns)
    figure = Figure(figsize=(3.3 + 2.3 * columns, 1.2 + 2.05 * max(rows, 1.8)), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[3.3, 2.3 * columns])[0]
    _show(left.subplots(), picture)
    answer, query = result["answer"], result["query"]
    said = (
        "declined"
        if answer["is_ood"]
        else f"{answer['predicted']} ({answer['probabilities'][answer['predicted']]:.2f})"
    )
    known = f"{query['split']} split, labelled {query['label']}" if query["split"] else "a file"
    head = left.axes[0]
    head.set_title("Query", fontsize=11, pad=6)
    lines = [_short(query["image"], 30), known, f"{model}: {said}"]
    head.text(
        0, -0.05, "\n".join(textwrap.fill(line, 36) for line in lines), va="top", transform=head.transAxes, size=9
    )
    if answer["is_ood"]:
        figure.suptitle(DECLINED, fontsize=10.5, color=ORANGE, weight="bold", x=0.01, ha="left")
    grid = right.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes, shown, case in zip(grid, cases, result["cases"], strict=False):
        _show(axes, shown)
        axes.set_title(f"{case['rank']}. {case['label']}", fontsize=11, pad=4)
        text = f"cosine {case['cosine']:.3f}\n{_short(case['image_id'], 24)}"
        axes.text(0, -0.04, text, va="top", transform=axes.transAxes, fontsize=8, color=QUIET, linespacing=1.35)
    for axes in grid[len(cases) :]:
        axes.set_axis_off()
    figure.supxlabel(_credit(result), fontsize=7.5, color=QUIET, x=0.01, ha="left")
    return figure


def write_sheet(figure: Figure, path: Path) -> None:
    """Write it as PNG."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def pictures_of(stored: Sequence[bytes]) -> list[Image.Image]:
    """Image files as RGB images."""
    return [open_image(data).convert("RGB") for data in stored]


def _show(axes: Axes, picture: Image.Image) -> None:
    axes.imshow(np.asarray(picture))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=INK, linewidth=0.6)


def _credit(result: Mapping[str, Any]) -> str:
    credits = sorted({(case["attribution"], case["license"]) for case in result["cases"]})
    text = "Cases: " + "; ".join(f"{attribution} ({licence})" for attribution, licence in credits)
    return "\n".join([textwrap.shorten(text, 220), "Research software, not a medical device: similar is no diagnosis."])


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
