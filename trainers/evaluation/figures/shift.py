"""The chart of a comparison of new images with calibration images: two distributions and the named classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from trainers.evaluation.figures.charts import BLUE, FAINT, LOOK, ORANGE
from trainers.trust.shift import CERTAINTY, CLASSES, GATE, Answers

WIDEST = 12  # classes with a bar of their own


@style.context(LOOK)
def draw_shift(result: Mapping[str, Any], calibration: Answers, new: Answers, labels: Sequence[str]) -> Figure:
    """Draw a result of ``trust.shift.find_shift``.

    Args:
        result: with ``tests``, ``sentence`` and ``images``.
        calibration: what the images were compared with.
        new: the images.
        labels: the C class names.
    """
    p_values = {test["test"]: test["adjusted"] for test in result["tests"]}
    pairs = [("Largest probability", CERTAINTY, calibration.largest, new.largest)]
    if calibration.gate is not None and new.gate is not None:
        pairs.insert(0, ("Gate score", GATE, calibration.gate, new.gate))
    figure = Figure(figsize=(3.4 * (len(pairs) + 1) + 0.6, 3.9), layout="constrained")
    panels = figure.subplots(1, len(pairs) + 1)
    for axes, (title, test, before, now) in zip(panels, pairs, strict=False):
        for values, colour, words, line in _both(before, now, calibration, new):
            axes.ecdf(values, color=colour, label=words, linestyle=line, linewidth=1.8)
        axes.set_xlabel(title.lower())
        axes.set_title(f"{title}, {_p(p_values[test])}", fontsize=10)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        if test == GATE and min(before.min(), now.min()) > 0 and max(before.max(), now.max()) > 20 * np.median(before):
            axes.set_xscale("log")
    panels[0].set_ylabel("share of images at or below")
    panels[0].legend(loc="lower right", fontsize=8)
    _bars(panels[-1], calibration, new, labels)
    panels[-1].set_title(f"Most probable class, {_p(p_values[CLASSES])}", fontsize=10)
    figure.suptitle(fill(result["sentence"], 46 * len(panels)), fontsize=10, x=0.01, ha="left")
    return figure


def _both(before: np.ndarray, now: np.ndarray, calibration: Answers, new: Answers) -> list[tuple[Any, str, str, str]]:
    return [
        (before, BLUE, f"calibration ({len(calibration):,})", "-"),
        (now, ORANGE, f"these images ({len(new):,})", "--"),
    ]


def _bars(axes: Axes, calibration: Answers, new: Answers, labels: Sequence[str]) -> None:
    """The share of each class, the most frequent ones where there are many."""
    shares = np.stack([np.bincount(part.predicted, minlength=len(labels)) / len(part) for part in (calibration, new)])
    shown = np.sort(np.argsort(-shares.sum(axis=0), kind="stable")[:WIDEST])
    places = np.arange(len(shown))
    for part, colour, offset, hatch in zip(shares, (BLUE, ORANGE), (-0.2, 0.2), ("", "//"), strict=True):
        axes.barh(places + offset, part[shown], 0.38, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
    axes.set_yticks(places, [labels[index] for index in shown], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
