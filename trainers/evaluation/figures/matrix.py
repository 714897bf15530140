"""Models by datasets as a chart: a row a pair, a panel a metric, a point with its interval in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure

from trainers.evaluation.figures.charts import BLUE, FAINT, INK, LOOK, QUIET
from trainers.evaluation.matrix import METRICS

LONGEST = 34


@style.context(LOOK)
def draw_matrix(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the rows of ``matrix.matrix_row``; a value that is not defined is left blank."""
    shown = [row for row in rows if "why" not in row]
    figure = Figure(figsize=(4.2 + 1.9 * len(METRICS), 1.1 + 0.42 * max(len(shown), 1)), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        for place, row in enumerate(shown):
            number = row[metric]
            if number["value"] is None:
                axes.text(0.5, place, "n/a", ha="center", va="center", fontsize=8, color=QUIET)
                continue
            if number.get("low") is not None:
                axes.hlines(place, number["low"], number["high"], color=BLUE, linewidth=1.6, alpha=0.6)
            axes.plot(number["value"], place, "o", color=BLUE, markersize=4.5)
            axes.text(number["value"], place - 0.2, f"{number['value']:.2f}", ha="center", va="bottom", fontsize=7.5)
        axes.set(xlim=(0, 1), ylim=(len(shown) - 0.4, -0.7), xticks=[0, 0.5, 1])
        axes.set_title(title, fontsize=9)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.tick_params(labelsize=8, length=0)
    names = [f"{_short(row['model'])}\non {_short(row['dataset'])}, {row['n_groups']:,} lesions" for row in shown]
    panels[0].set_yticks(range(len(shown)), names, fontsize=8, color=INK)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
