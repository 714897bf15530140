"""The figures of explanations: the share of heat on the lesion, its faithfulness, and examples.

The two charts are drawn from the table of explanations alone, like everything in ``figures``. Images are shown by the
examples alone, which have a folder of their own since they cannot be rebuilt without the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from trainers.evaluation.explanation_table import ORDERS, STAGES, ExplanationTable
from trainers.evaluation.figures.charts import BLUE, DPI, FAINT, FOLDER, GREEN, INK, LOOK, ORANGE, QUIET, save_figure

# From blue to turquoise, and see-through: skin and lesions are red and brown, and stay to be seen below.
HEAT = LinearSegmentedColormap.from_list("heat", ["#2B5FA8", "#1E8FC0", "#20C4C0", "#5BF0D0"])
STRONGEST = 0.62  # opacity of the heat where it is 1
NAMES = {
    "heat_map": "heat map",
    "area": "the same everywhere",
    "random": "noise",
    "blob": "blob in the middle",
    "other": "another image's heat map",
}
SIGNS: dict[str, tuple[str, str]] = {
    "heat_map": (BLUE, "o"),
    "area": (QUIET, "|"),
    "random": (QUIET, "x"),
    "blob": (ORANGE, "D"),
    "other": (GREEN, "^"),
}
EXAMPLES_FOLDER = "examples"
METHODS = {"grad_cam": "Grad-CAM", "hires_cam": "HiResCAM", "attention_rollout": "attention roll-out"}
STAGE_NAMES = ("head", "+ 1/3", "+ 2/3", "all")
CELL_SHAPE = 4 / 3  # width over height of the frame that each image is fitted into
GAP = 0.05


@dataclass(frozen=True)
class Example:
    """One image and what the model made of it.

    Attributes:
        label: true class.
        kind: of ``VERDICTS``.
        predicted: the class that the model predicts, and that the heat map explains.
        image: (H, W, 3) uint8, what the model sees, not resized.
        heat: (h, w) in [0, 1].
        mask: (h, w) bool; None where there is none.
        energy: share of the heat on the lesion; None where there is no heat, or no mask.
    """

    label: str
    kind: str
    predicted: str
    image: np.ndarray
    heat: np.ndarray
    mask: np.ndarray | None
    energy: float | None


@dataclass(frozen=True)
class Examples:
    """What is shown of a model.

    Attributes:
        found: (class, kind) -> its example, where there is one.
        labels: the C short class names, in order.
        kinds: those of ``VERDICTS`` of the model.
        caption: where the images come from and how they were chosen, in a sentence or two.
    """

    found: dict[tuple[str, str], Example]
    labels: list[str]
    kinds: tuple[str, ...]
    caption: str

    @property
    def shown(self) -> list[str]:
        """The classes with an example of some kind."""
        return [label for label in self.labels if any((label, kind) in self.found for kind in self.kinds)]

    def missing(self) -> list[str]:
        """What there is no example of: ``["df wrong", ...]``; of a class without any ``"acne of any kind"``."""
        found = []
        for label in self.labels:
            lacking = [kind for kind in self.kinds if (label, kind) not in self.found]
            found += [f"{label} {kind}" for kind in lacking] if label in self.shown else [f"{label} of any kind"]
        return found


def draw_explanations(section: Mapping[str, Any], table: ExplanationTable, folder: Path) -> list[dict[str, str]]:
    """Draw the two charts, and list them with the examples that lie in the folder already.

    Args:
        section: ``report["explanations"]``.
        table: what it was computed from.
        folder: the model's folder; charts go to ``folder/figures``.

    Returns:
        ``[{"file", "caption"}]`` in the order in which a card shows them.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    split, drawn = section["split"], []
    if section["overall"]["inside"]["n"]:
        chart = draw_inside(section)
        drawn.append(save_figure(chart, folder, f"heat_on_lesion_{split}.png", _inside_caption(section)))
    if section["overall"]["faithful"]["n"]:
        chart = draw_faithful(section, table)
        drawn.append(save_figure(chart, folder, f"heat_map_checks_{split}.png", _faithful_caption(section)))
    return [*drawn, *section.get("examples", [])]


@style.context(LOOK)
def draw_inside(section: Mapping[str, Any]) -> Figure:
    """Energy on the lesion and pointing game, of all images, each class and each verdict, beside the baselines."""
    rows = [("all", section["overall"])]
    rows += [(row["name"], row) for row in section["per_class"]]
    rows += [(row["name"], row) for row in section["per_verdict"]]
    rows = [(name, row["inside"]) for name, row in rows if row["inside"]["n"]]
    figure = Figure(figsize=(9.2, 1.9 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for panel, game, title in zip(
        axes, ("energy", "pointing"), ("Share of the heat on the lesion", "Highest point on the lesion"), strict=True
    ):
        for height, (_, row) in enumerate(rows):
            _inside_row(panel, height, row, game)
        panel.set(xlim=(0, 1.02), title=title)
        panel.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        panel.grid(axis="x", color=FAINT, linewidth=0.8)
        panel.set_axisbelow(True)
        for border in (0.5, len(rows) - 0.5 - sum(row["inside"]["n"] > 0 for row in section["per_verdict"])):
            panel.axhline(border, color=FAINT, linewidth=0.8)
    axes[0].set_yticks(range(len(rows)), [f"{name}  ({row['n_groups']:,})" for name, row in rows])
    axes[0].invert_yaxis()
    shown = [name for name in SIGNS if name != "area"]
    handles = [_sign(name) for name in ("heat_map", "area", *shown[1:])]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8.5)
    _title(figure, "Where the heat lies", section, section["overall"]["inside"])
    return figure


@style.context(LOOK)
def draw_faithful(section: Mapping[str, Any], table: ExplanationTable) -> Figure:
    """Mean probability while pixels are deleted and inserted, and how like the heat maps stay under random weights."""
    figure = Figure(figsize=(10.2, 3.9), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = ("Deletion (low is good)", "Insertion (high is good)")
    for panel, game, title in zip(panels, ("deletion", "insertion"), titles, strict=False):
        for order in ORDERS:
            lines = table.curves[f"{game}_{order}"]
            mean = np.nanmean(lines, axis=0)
            colour, marker = SIGNS[order]
            at = np.arange(len(mean)) / (len(mean) - 1)
            panel.plot(at, mean, color=colour, marker=marker, markersize=3.5, linewidth=1.5, label=NAMES[order])
        panel.set(title=title, xlim=(0, 1), ylim=(0, 1), xlabel="Share of the pixels", ylabel="Mean probability")
        panel.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        panel.legend(fontsize=8)
    _stages(panels[2], section["random_weights"])
    for panel in panels:
        panel.grid(color=FAINT, linewidth=0.8)
        panel.set_axisbelow(True)
    _title(figure, "Deletion, insertion and random weights", section, section["overall"]["faithful"])
    return figure


@style.context(LOOK)
def draw_examples(examples: Examples) -> Figure:
    """Rows: true classes; columns: right, wrong, declined. Each cell: the image, and the heat map over it.

    Args:
        examples: at least one of them found.
    """
    kinds, labels = examples.kinds, examples.shown
    figure = Figure(figsize=(0.9 + 3.5 * len(kinds), 0.6 + 1.55 * len(labels)), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)  # type: ignore[union-attr, call-arg]
    grid = figure.subplots(len(labels), len(kinds), squeeze=False)
    for row, label in enumerate(labels):
        for column, kind in enumerate(kinds):
            axes = grid[row, column]
            axes.set_axis_off()
            axes.set(xlim=(0, 2 * CELL_SHAPE + GAP), ylim=(1, 0), aspect="equal")
            example = examples.found.get((label, kind))
            if example is None:
                axes.text(CELL_SHAPE + GAP / 2, 0.5, "no example", ha="center", va="center", color=QUIET, fontsize=9)
            else:
                _cell(axes, example)
            if column == 0:
                axes.text(-0.08, 0.5, label, ha="right", va="center", fontsize=11, weight="bold")
            if row == 0:
                axes.set_title(kind.capitalize(), loc="center", fontsize=12, pad=18)
    return figure


@style.context(LOOK)
def save_examples(examples: Examples, folder: Path, about: Mapping[str, Any]) -> dict[str, str]:
    """Draw the examples into ``folder/examples``; returns them as the report lists them.

    Args:
        examples: at least one of them found.
        folder: the model's folder.
        about: of the table of explanations: ``split`` and ``method``.
    """
    (folder / EXAMPLES_FOLDER).mkdir(exist_ok=True)
    file = f"{EXAMPLES_FOLDER}/heat_maps_{about['split']}.jpg"
    draw_examples(examples).savefig(folder / file, dpi=DPI, pil_kwargs={"quality": 88, "optimize": True})
    return {"file": file, "caption": examples_caption(examples, about["method"])}


def examples_caption(examples: Examples, method: str) -> str:
    """What the figure of examples shows, where it is from, and what there was no example of."""
    none = examples.missing()
    lacking = f" There was no example of: {', '.join(none)}." if none else ""
    return (
        f"Rows: the true class; columns: {', '.join(examples.kinds)}. Left the image as it is prepared for the "
        f"model, right the heat map ({METHODS[method]}) for the class that it predicts, from blue (little) to "
        "turquoise (the most in this image); the white line is the border of the lesion mask, and the percentage "
        f"the share of the heat inside it. {examples.caption}{lacking} Read it as where the model looked, not as a "
        "reason."
    )


def _inside_row(axes: Axes, height: int, row: Mapping[str, Any], game: str) -> None:
    values = {"area": row["area"], **{name: row[game][name] for name in NAMES if name != "area"}}
    found = values["heat_map"]
    if found["low"] is not None:
        axes.hlines(height, found["low"], found["high"], color=BLUE, linewidth=5, alpha=0.3)
    for name, value in values.items():
        if value["value"] is not None:
            colour, marker = SIGNS[name]
            size = 12 if name == "area" else 6.5 if name == "heat_map" else 5.5
            axes.plot(value["value"], height, marker, color=colour, markersize=size, markeredgewidth=1.6, clip_on=False)


def _sign(name: str) -> Line2D:
    colour, marker = SIGNS[name]
    return Line2D(
        [], [], color=colour, marker=marker, linestyle="", markersize=6, markeredgewidth=1.6, label=NAMES[name]
    )


def _stages(axes: Axes, checked: Mapping[str, Any]) -> None:
    """Rank correlation with the heat map of the whole model, stage by stage, and with that of another image."""
    at = np.arange(len(STAGES) + 1)
    found = [row["likeness"] for row in checked["stages"]]
    axes.plot(at, [1.0, *(row["value"] for row in found)], color=BLUE, marker="o", markersize=5, linewidth=1.5)
    for place, row in enumerate(found, start=1):
        if row["low"] is not None:
            axes.vlines(place, row["low"], row["high"], color=BLUE, linewidth=4, alpha=0.3)
    other = checked["other_picture"]
    if other["value"] is not None:
        axes.axhline(other["value"], color=GREEN, linestyle="--", linewidth=1.3, label=NAMES["other"])
        axes.legend(fontsize=8)
    lowest = min([0.0, *(row["low"] if row["low"] is not None else row["value"] for row in found)])
    axes.set(title="Random weights", ylim=(min(-0.2, lowest - 0.05), 1.05), ylabel="Rank correlation of heat maps")
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.set_xticks(at, ["none", *STAGE_NAMES])
    axes.set_xlabel("Part of the model that is random")


def _cell(axes: Axes, example: Example) -> None:
    """An image, the same with its heat map, and a line of text above."""
    height, width = example.image.shape[:2]
    shape = width / height
    wide, tall = (CELL_SHAPE, CELL_SHAPE / shape) if shape > CELL_SHAPE else (shape, 1.0)
    top = (1 - tall) / 2
    for start in ((CELL_SHAPE - wide) / 2, CELL_SHAPE + GAP + (CELL_SHAPE - wide) / 2):
        where = (start, start + wide, top + tall, top)
        axes.imshow(example.image, extent=where, interpolation="bilinear")
    colours = HEAT(example.heat)
    colours[..., 3] = STRONGEST * example.heat
    axes.imshow(colours, extent=where, interpolation="bilinear")
    if example.mask is not None:
        rows, columns = example.mask.shape
        across = start + (np.arange(columns) + 0.5) / columns * wide
        down = top + (np.arange(rows) + 0.5) / rows * tall
        for colour, line in (("#000000", 1.6), ("#FFFFFF", 0.9)):
            axes.contour(across, down, example.mask.astype(float), [0.5], colors=colour, linewidths=line)
    axes.set(xlim=(0, 2 * CELL_SHAPE + GAP), ylim=(1, 0))
    answer = f"{'declined, leaning to' if example.kind == 'declined' else 'predicts'} {example.predicted}"
    share = "" if example.energy is None else f" · {100 * example.energy:.0f} % of the heat inside"
    blank = "" if example.heat.any() else " · no heat"
    axes.text(CELL_SHAPE + GAP / 2, -0.05, answer + share + blank, ha="center", va="bottom", fontsize=8.5, color=INK)


def _title(figure: Figure, what: str, section: Mapping[str, Any], counted: Mapping[str, Any]) -> None:
    parts = [f"{section['split']} split", METHODS[section["method"]]]
    parts.append(f"{counted['n']:,} images of {counted['n_groups']:,} lesions")
    figure.suptitle(f"{what}: {', '.join(parts)}", fontsize=10.5, x=0.01, ha="left", color=INK)


def _inside_caption(section: Mapping[str, Any]) -> str:
    return (
        f"Where the heat lies on the {section['split']} split, for the class that the model predicts, by class and by "
        "verdict (lesions in brackets): share of the heat on the lesion, and how often its highest point is there, "
        "with 95 % intervals. Compare each with the other signs, since a lesion fills the middle of its "
        "image."
    )


def _faithful_caption(section: Mapping[str, Any]) -> str:
    return (
        "Deletion and insertion: mean probability of the predicted class while the most important pixels are blurred "
        "(left) or come into a blurred image (middle), against noise and a blob in the middle; right, how like the "
        "heat maps are to those of the same model with random weights in a part of it, and to another image's."
    )
