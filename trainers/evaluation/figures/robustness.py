"""The chart of robustness: how much is right, answered, and wrong where the model was sure, as images worsen."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from trainers.evaluation.figures.charts import BLUE, FOLDER, GREEN, LOOK, ORANGE, QUIET, save_figure, title_of
from trainers.metrics.predictions import Predictions

COLUMNS = 4
LEAST_LESIONS = 20  # among which a share is drawn
LINES = {
    "accuracy": ("right", BLUE, "o"),
    "answered": ("answered", GREEN, "s"),
    "error_low": ("wrong, low", ORANGE, "D"),
}


def draw_robustness(
    report: Mapping[str, Any], predictions: Mapping[str, Predictions], folder: Path
) -> list[dict[str, str]]:
    """Draw ``report["robustness"]``.

    Args:
        report: ``report.json``; without ``robustness`` nothing is drawn.
        predictions: split -> predictions of the images as they are.
        folder: the model's folder; the chart goes to ``folder/figures``.

    Returns:
        ``[{"file", "caption"}]``.
    """
    section = report.get("robustness")
    if not section:
        return []
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    promise = report["trust"].get("bands", {}).get("low", {}).get("risk")
    figure = draw_conditions(section, promise)
    title_of(figure, "Robustness", predictions[section["split"]], section["n"], section["n_groups"])
    return [save_figure(figure, folder, f"robustness_{section['split']}.png", caption(section, promise))]


@style.context(LOOK)
def draw_conditions(section: Mapping[str, Any], promise: float | None) -> Figure:
    """One panel a corruption: shares from the clean images (0) to the worst severity, with their intervals.

    Args:
        section: of ``robustness_section``.
        promise: the low band's risk, drawn as a dashed line; None = no band.
    """
    kinds, rows = section["kinds"], ceil(len(section["kinds"]) / COLUMNS)
    across = min(COLUMNS, len(kinds))
    figure = Figure(figsize=(2.35 * across + 0.6, 2.25 * rows + 0.7), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, across, sharex=True, sharey=True)).ravel()
    shown = [name for name in LINES if name in section["clean"]]
    for axes, kind in zip(panels, kinds, strict=False):
        steps = [(0, section["clean"])]
        steps += [(one["severity"], one) for one in section["conditions"] if one["kind"] == kind]
        for name in shown:
            _, colour, marker = LINES[name]
            points = [(at, numbers[name]) for at, numbers in steps if is_drawn(numbers[name])]
            axes.plot(*zip(*((at, n["value"]) for at, n in points), strict=True), marker, color=colour, linestyle="-",
                      markersize=4, linewidth=1.4)  # fmt: skip
            for at, number in points:
                if number.get("low") is not None:
                    axes.vlines(at, number["low"], number["high"], color=colour, linewidth=1, alpha=0.55)
        if promise is not None and "error_low" in shown:
            axes.axhline(promise, color=ORANGE, linestyle="--", linewidth=0.9)
        axes.set_title(kind.replace("_", " "), fontsize=9.5)
        axes.set(xticks=[0, *section["severities"]], ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(kinds) - COLUMNS) : len(kinds)]:
        axes.set_xlabel("severity (0: as it is)", fontsize=9)
    handles = [Line2D([], [], color=LINES[n][1], marker=LINES[n][2], markersize=5, label=LINES[n][0]) for n in shown]
    if promise is not None and "error_low" in shown:
        handles.append(
            Line2D([], [], color=QUIET, linestyle="--", label=f"promise of the low band, {100 * promise:g} %")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


def is_drawn(number: Mapping[str, Any]) -> bool:
    """Whether a share is defined and of enough lesions to be drawn."""
    return number["value"] is not None and number.get("among", LEAST_LESIONS) >= LEAST_LESIONS


def caption(section: Mapping[str, Any], promise: float | None) -> str:
    """What the chart shows, in words."""
    text = (
        f"Share of the {section['split']} images whose most probable class is right, as corruptions grow more severe "
        "over them; bars are 95 % intervals by bootstrap over lesions."
    )
    if "answered" not in section["clean"]:
        return text
    band = "" if promise is None else f" (promised on images like the clean ones: at most {100 * promise:g} %)"
    return (
        f"{text} Also the share that is answered at all, and the share of the low band that is wrong{band}, where "
        f"{LEAST_LESIONS} lesions or more are left."
    )
