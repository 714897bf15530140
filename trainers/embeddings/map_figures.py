"""The maps and the numbers as charts: points, lines and letters only, no image of anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from trainers.embeddings.class_colours import ClassLook
from trainers.embeddings.representations import CODES, FEATURES, PIXELS
from trainers.evaluation.figures.charts import BLUE, FAINT, GREEN, INK, LOOK, ORANGE, QUIET
from trainers.metrics.number import Number

TITLES = {PIXELS: "Plain pixels", CODES: "Autoencoder codes", FEATURES: "Classifier features"}
SPLIT_COLOURS = (QUIET, BLUE, ORANGE, GREEN)
SPLIT_MARKERS = ("o", "s", "^", "D")
LESION_LINE = "#52606D"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Panel:
    """One map as it is drawn.

    Attributes:
        kind: ``pixels``, ``codes`` or ``features``.
        points: (N, 2).
        numbers: of the space, as the report has them, with ``map`` among them.
    """

    kind: str
    points: np.ndarray
    numbers: Mapping[str, Any]


def lesion_lines(groups: np.ndarray) -> np.ndarray:
    """(L, 2) pairs of row numbers that tie the images of each lesion together, from its first to each of the others."""
    first: dict[str, int] = {}
    pairs = [(first.setdefault(group, row), row) for row, group in enumerate(np.asarray(groups).astype(str).tolist())]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], dtype=np.int64).reshape(-1, 2)


@style.context(LOOK)
def draw_maps(
    panels: Sequence[Panel], labels: np.ndarray, groups: np.ndarray, looks: Sequence[ClassLook], title: str
) -> Figure:
    """The maps of one split side by side, coloured by class; thin lines tie the images of one lesion.

    Args:
        panels: one a representation, all of the same N images.
        labels: (N,) class indices.
        groups: (N,) group ids.
        looks: of the C classes.
        title: what is shown.
    """
    wide = 4.9 * len(panels)
    figure = Figure(figsize=(max(wide, 6.4), 6.0), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        _draw_map(axes, panel, labels, groups, looks)
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", color=INK)
    order = np.argsort([-int((labels == index).sum()) for index in range(len(looks))], kind="stable")
    handles = [_handle(looks[i], int((labels == i).sum())) for i in order if (labels == i).any()]
    handles.append(Line2D([], [], color=LESION_LINE, linewidth=0.8, alpha=0.7, label="images of one lesion"))
    columns = len(panels)  # a column holds the longest of the class names
    note = "* malignant or premalignant. Axes of t-SNE have no unit, and distances between clusters no meaning."
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, fontsize=9, title=note, alignment="left")
    figure.legends[0].get_title().set(fontsize=8.5, color=QUIET)
    return figure


@style.context(LOOK)
def draw_quality(evaluated: Mapping[str, Mapping[str, Mapping[str, Any]]], title: str) -> Figure:
    """k-NN balanced accuracy and silhouette of each representation, with intervals, beside what chance gives.

    Args:
        evaluated: split -> representation -> its numbers.
        title: what is shown.
    """
    kinds = [kind for kind in TITLES if any(kind in of_split for of_split in evaluated.values())]
    figure = Figure(figsize=(9.6, 1.9 + 0.42 * len(kinds) * len(evaluated)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, read, name in (
        (left, lambda numbers: (numbers["knn"]["balanced_accuracy"], numbers["knn"]["chance"]), "Balanced accuracy"),
        (right, lambda numbers: (numbers["silhouette"]["mean_over_classes"], numbers["silhouette"]["chance"]), "Mean"),
    ):
        for place, (split, of_split) in enumerate(evaluated.items()):
            colour, marker = SPLIT_COLOURS[place % 4], SPLIT_MARKERS[place % 4]
            for row, kind in enumerate(kinds):
                if kind in of_split:
                    at = row + (place - (len(evaluated) - 1) / 2) * 0.26
                    _mark(axes, *read(of_split[kind]), at, colour, marker, split if row == 0 else None)
        axes.grid(axis="x", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{name} over the classes")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.07)
    k = next(iter(next(iter(evaluated.values())).values()))["knn"]["k"]
    left.set_title(f"Class by the vote of the {k} nearest other lesions")
    right.set_title("Silhouette")
    left.set_xlim(left=0)
    right.axvline(0, color=QUIET, linewidth=0.8)
    left.set_yticks(range(len(kinds)), [TITLES[kind] for kind in kinds])
    left.set_ylim(len(kinds) - 0.5, -0.5)
    handles, names = left.get_legend_handles_labels()
    handles.append(Line2D([], [], color=INK, marker="|", linestyle="", markersize=11, label="chance"))
    figure.legend(handles, [*names, "chance (labels shuffled)"], loc="outside lower right", ncols=4, fontsize=9)
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", color=INK)
    return figure


def _draw_map(axes: Axes, panel: Panel, labels: np.ndarray, groups: np.ndarray, looks: Sequence[ClassLook]) -> None:
    pairs = lesion_lines(groups)
    if len(pairs):
        # Thousands of lines would hide the points: the more there are, the fainter each is.
        alpha = float(np.clip(8 / np.sqrt(len(pairs)), 0.16, 0.5))
        ties = LineCollection(list(panel.points[pairs]), colors=LESION_LINE, linewidths=0.4, alpha=alpha, zorder=1)
        axes.add_collection(ties)
    counts = np.array([(labels == index).sum() for index in range(len(looks))])
    size = float(np.clip(9000 / max(len(labels), 1), 6.5, 26))
    for index in np.argsort(-counts, kind="stable"):
        look, chosen = looks[index], panel.points[labels == index]
        rare = counts[index] < counts.max()
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=size * (1.6 if rare else 0.7),
            marker=look.shape,
            c=look.colour,
            alpha=0.9 if rare else 0.55,
            linewidths=0.25 if rare else 0,
            edgecolors="white",
            zorder=3 if rare else 2,
        )
    knn, silhouette = panel.numbers["knn"], panel.numbers["silhouette"]["mean_over_classes"]
    accuracy, apart = (
        Number.read(found).text(2).replace("-", MINUS) for found in (knn["balanced_accuracy"], silhouette)
    )
    lines = [
        f"{knn['k']}-NN balanced accuracy {accuracy}, chance {knn['chance']['value']:.2f}",
        f"silhouette {apart}; trustworthiness of the map {panel.numbers['map']['trustworthiness']:.2f}",
    ]
    axes.set_title(f"{TITLES[panel.kind]} ({panel.numbers['dimensions']:,} dimensions)", pad=34)
    axes.text(0, 1.02, "\n".join(lines), transform=axes.transAxes, va="bottom", fontsize=8.5, linespacing=1.4)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT)
    axes.margins(0.03)
    axes.set_aspect("equal", adjustable="datalim")


def _handle(look: ClassLook, images: int) -> Line2D:
    return Line2D(
        [],
        [],
        color=look.colour,
        marker=look.shape,
        linestyle="",
        markersize=6.5,
        label=f"{look.starred}: {look.long_name} ({images:,})",
    )


def _mark(
    axes: Axes,
    number: Mapping[str, Any],
    chance: Mapping[str, Any],
    at: float,
    colour: str,
    marker: str,
    name: str | None,
) -> None:
    if number.get("low") is not None:
        axes.plot([number["low"], number["high"]], [at, at], color=colour, linewidth=1.8, solid_capstyle="butt")
    axes.plot(
        number["value"], at, marker, color=colour, markersize=7, markeredgecolor="white", label=name, linestyle=""
    )
    axes.plot(chance["value"], at, "|", color=INK, markersize=11, markeredgewidth=1.4)
    axes.annotate(
        f"{number['value']:.2f}".replace("-", MINUS),
        (number["value"], at),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8.5,
        color=INK,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )
