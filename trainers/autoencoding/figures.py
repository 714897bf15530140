"""The charts of an autoencoder's report, in the house's look; and one sheet of images beside their reconstructions.

The sheet shows images of the dataset: it belongs into the folder of a run, and into a release only where the images'
licence and their people allow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainers.autoencoding.reconstructing import Reconstructions
from trainers.evaluation.figures.charts import BLUE, FAINT, FOLDER, GREEN, INK, LOOK, ORANGE, QUIET, save_figure

SHOWN = 8


def quantile_rows(found: Reconstructions, amount: int = SHOWN) -> np.ndarray:
    """Rows at evenly spaced quantiles of PSNR, from the worst to the best: no choice by taste. (K,) int."""
    order = np.argsort(found.scores["psnr"], kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(amount, len(order))).round().astype(int))
    return order[places]


def draw_all(
    report: Mapping[str, Any], found: Reconstructions, images: tuple[np.ndarray, np.ndarray], folder: Path
) -> list[dict[str, str]]:
    """Draw every chart into ``folder/figures``.

    Args:
        report: read are ``evaluation``, ``training`` and ``model``.
        found: of the split that is shown.
        images: of the rows of :func:`quantile_rows`, (K, S, S, 3) each.
        folder: the model's folder.

    Returns:
        ``[{"file": ..., "caption": ...}]`` in the order in which a card shows them.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    numbers, rows = report["evaluation"][found.split], quantile_rows(found)
    size = report["model"]["code_size"]
    sheet = draw_sheet(found, rows, images)
    drawn = [
        save_figure(
            sheet,
            folder,
            f"reconstructions_{found.split}.png",
            f"Images of the {found.split} split (top), drawn again from {size} numbers each (middle), and where they "
            "differ (bottom, darker = more, mean over the colours, black at 0.25). Taken at evenly spaced quantiles of "
            "PSNR, from the worst image to the best.",
        )
    ]
    if numbers["checkerboard"]:
        drawn.append(
            save_figure(
                draw_checkerboard(found, numbers["checkerboard"]),
                folder,
                f"checkerboard_{found.split}.png",
                "The grid of the decoder's strides: how much more power the reconstructions have at its frequencies "
                "than right beside them (left, mean over images; about 0 dB or less = no grid), and the root mean "
                "square of what stands there beyond it (right); bars are 95 % intervals by lesion.",
            )
        )
    drawn.append(
        save_figure(
            draw_classes(numbers["per_class"], found),
            folder,
            f"psnr_by_class_{found.split}.png",
            f"PSNR by class on the {found.split} split: each point an image; the bar is the class's mean with its 95 % "
            "interval by lesion.",
        )
    )
    training = report["training"]
    drawn.append(
        save_figure(
            draw_training(training["history"], training["kept_epoch"]),
            folder,
            "training_curves.png",
            "Training curves. The training loss is of augmented images, and of noisy ones where the model learns to "
            f"denoise. The dotted line marks the epoch that was kept ({training['kept_epoch']}).",
        )
    )
    return drawn


@style.context(LOOK)
def draw_sheet(found: Reconstructions, rows: np.ndarray, images: tuple[np.ndarray, np.ndarray]) -> Figure:
    """Images, reconstructions, differences: three rows of K."""
    originals, drawn = images
    figure = Figure(figsize=(1.5 * len(rows) + 0.9, 5.3), layout="constrained")
    grid = figure.subplots(3, len(rows), squeeze=False)
    differences = np.abs(originals - drawn).mean(axis=-1)
    for column, row in enumerate(rows):
        grid[0, column].imshow(originals[column], interpolation="nearest")
        grid[1, column].imshow(drawn[column], interpolation="nearest")
        grid[2, column].imshow(differences[column], cmap="gray_r", vmin=0, vmax=0.25, interpolation="nearest")
        grid[0, column].set_title(found.labels[found.label[row]], fontsize=10, loc="center")
        grid[1, column].set_xlabel(
            f"{found.scores['psnr'][row]:.1f} dB\nSSIM {found.scores['ssim'][row]:.2f}", fontsize=9
        )
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(visible=True, color=FAINT)
    for line, name in enumerate(("image", "reconstruction", "difference")):
        grid[line, 0].set_ylabel(name, fontsize=10)
    figure.suptitle(
        f"Reconstructions: {found.split} split, {found.dataset} ({found.config_name}), worst to best by PSNR",
        fontsize=10.5,
        x=0.01,
        ha="left",
        color=INK,
    )
    return figure


@style.context(LOOK)
def draw_checkerboard(found: Reconstructions, rows: list[Mapping[str, Any]]) -> Figure:
    """The grid's power over its neighbours' in dB, and its strength in grey levels, by period."""
    figure = Figure(figsize=(8.8, 3.9), layout="constrained")
    panels = figure.subplots(1, 2)
    units = (("db", "Power at the grid over beside it (dB)"), ("rms", "Strength of the grid (grey levels of 255)"))
    places = np.arange(len(rows))
    for axes, (unit, title) in zip(panels, units, strict=True):
        shown = (("original", "pictures", QUIET, -0.17), ("reconstruction", "reconstructions", BLUE, 0.17))
        for kind, name, colour, shift in shown:
            cells = [row[unit][kind] for row in rows]
            values = np.array([cell["value"] for cell in cells])
            ends = np.array([[cell["low"], cell["high"]] for cell in cells], dtype=float)
            spread = np.abs(ends - values[:, None]).T if not np.isnan(ends).any() else None
            axes.bar(places + shift, values, 0.32, color=colour, label=name, yerr=spread, ecolor=INK, capsize=3)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_title(title)
        axes.set_xticks(places, [f"every {row['period']}\npixels" for row in rows])
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
    panels[1].set_ylim(bottom=0)
    panels[0].legend(fontsize=9)
    figure.suptitle(
        f"Checkerboard: {found.split} split, {found.dataset}, {len(found):,} images", fontsize=10.5, x=0.01, ha="left"
    )
    return figure


@style.context(LOOK)
def draw_classes(rows: list[Mapping[str, Any]], found: Reconstructions) -> Figure:
    """PSNR of every image by class, with the class's mean and interval."""
    figure = Figure(figsize=(max(6.2, 1.6 + 0.85 * len(rows)), 3.9), layout="constrained")
    axes = figure.add_subplot()
    rng = np.random.default_rng(0)
    for place, row in enumerate(rows):
        values = found.scores["psnr"][found.label == place]
        axes.plot(place + rng.uniform(-0.28, 0.28, len(values)), values, ".", color=BLUE, markersize=2.5, alpha=0.35)
        cell = row["psnr"]
        if cell["value"] is None:
            continue
        axes.plot([place - 0.32, place + 0.32], [cell["value"]] * 2, color=ORANGE, linewidth=2.2, zorder=3)
        if cell["low"] is not None:
            axes.plot([place, place], [cell["low"], cell["high"]], color=ORANGE, linewidth=2.2, zorder=3)
    axes.set_xticks(range(len(rows)), [f"{row['name']}\nn = {row['n']:,}" for row in rows], fontsize=9)
    axes.set_ylabel("PSNR (dB)")
    axes.set_title("Reconstruction by class")
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure


@style.context(LOOK)
def draw_training(history: list[Mapping[str, Any]], kept_epoch: float | None) -> Figure:
    """Losses on the left, PSNR and SSIM of validation on the right, over epochs; the kept epoch is marked."""
    figure = Figure(figsize=(11.4, 3.7), layout="constrained")
    panels = figure.subplots(1, 3)
    curves = (
        ("Loss", (("train_loss", "training", QUIET, "s"), ("eval_loss", "validation", BLUE, "o"))),
        ("PSNR (dB)", (("eval_psnr", "validation", BLUE, "o"),)),
        ("SSIM", (("eval_ssim", "validation", GREEN, "^"),)),
    )
    for axes, (title, lines) in zip(panels, curves, strict=True):
        for key, name, colour, marker in lines:
            points = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=name)
        if kept_epoch is not None:
            axes.axvline(kept_epoch, color=INK, linewidth=1, linestyle=(0, (2, 3)), zorder=0, label="kept epoch")
        axes.set_title(title)
        axes.set_xlabel("Epoch")
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(fontsize=9)
    # The first epoch's loss is many times the last one's: on a plain axis the rest would lie on the floor.
    panels[0].set_yscale("log")
    return figure
