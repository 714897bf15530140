"""The charts of patients' own effects and of the residuals."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import norm

from trainers.evaluation.figures.charts import BLUE, FAINT, INK, LOOK, ORANGE, QUIET
from trainers.longitudinal.analysis import Analysis
from trainers.longitudinal.mixed import MixedFit
from trainers.longitudinal.patients import BETTER, HIGHER, LOWER, UNCLEAR, WORSE
from trainers.longitudinal.shrinking import PatientEffect

# Colour and marker of each verdict: the markers point to where severity went.
VERDICTS = {BETTER: (BLUE, "v"), UNCLEAR: (QUIET, "o"), WORSE: (ORANGE, "^")}
DRIFTING = {LOWER: (QUIET, "v"), UNCLEAR: (QUIET, "o"), HIGHER: (QUIET, "^")}
HOLLOW: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "markeredgecolor": INK}
MOST_NAMES = 40  # patients whose names and plain differences are drawn


@style.context(LOOK)
def draw_patients(analysis: Analysis) -> Figure:
    """A panel a treatment: each patient's shrunken effect with its interval, and the plain difference."""
    treatments = analysis.study.treatments[1:]
    by_treatment = [
        sorted(
            (row for row in analysis.patients if row.treatment == name and row.shrunken is not None),
            key=lambda row: row.shrunken[0] if row.shrunken else 0.0,
        )
        for name in treatments
    ]
    most = max(len(rows) for rows in by_treatment)
    height = 0.31 * min(most, MOST_NAMES) + 1.9
    figure = Figure(figsize=(max(4.3 * len(treatments), 6.5), height), layout="constrained")
    panels = figure.subplots(1, len(treatments), sharex=True, squeeze=False)[0]
    for axes, name, rows in zip(panels, treatments, by_treatment, strict=True):
        for place, row in enumerate(rows):
            _patient(axes, place, row, most > MOST_NAMES)
        axes.axvline(0, color=QUIET, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
        if len(rows) <= MOST_NAMES:
            axes.set_yticks(range(len(rows)), [row.patient for row in rows], fontsize=9)
        else:
            axes.set_yticks([])
            axes.set_ylabel(f"{len(rows)} patients")
        axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set_title(name)
        axes.set_xlabel(f"Change against {analysis.study.treatments[0]}, points")
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=6, linewidth=1.8, label=label)
        for label, (colour, marker) in (
            DRIFTING if analysis.diagnostics["baseline_drift"]["drifts"] else VERDICTS
        ).items()
    ]
    if most <= MOST_NAMES:
        handles.append(Line2D([], [], label="plain difference", markersize=4.5, linestyle="none", **HOLLOW))
    figure.legend(handles=handles, loc="outside upper left", ncols=4)
    return figure


def _patient(axes: Axes, place: int, row: PatientEffect, crowded: bool) -> None:
    if row.shrunken is None:
        return
    colour, marker = {**VERDICTS, **DRIFTING}[row.verdict]
    mean, low, high = row.shrunken
    if crowded:
        axes.plot([low, high], [place, place], color=colour, linewidth=0.7, alpha=0.55, zorder=2)
        axes.plot(mean, place, marker="o", markersize=2, color=colour, zorder=3)
        return
    axes.plot([low, high], [place, place], color=colour, linewidth=1.8, solid_capstyle="round", zorder=2)
    axes.plot(mean, place, marker=marker, markersize=6.5, color=colour, zorder=3)
    axes.plot(row.difference, place, markersize=4.5, markeredgewidth=0.8, zorder=4, **HOLLOW)


@style.context(LOOK)
def draw_checks(analysis: Analysis) -> Figure:
    """Residuals against predictions, against a normal law, and their autocorrelation."""
    fits = [analysis.models[name] for name in ("random_effects", "random_intercept")]
    fit = next((one for one in fits if isinstance(one, MixedFit)), None)
    study = analysis.study
    residuals = study.residuals() if fit is None else fit.residuals
    fitted = study.severity - residuals
    figure = Figure(figsize=(11, 3.7), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    dots: dict[str, Any] = {
        "linestyle": "none",
        "marker": "o",
        "markersize": 3,
        "color": BLUE,
        "alpha": 0.35,
        "markeredgewidth": 0,
    }
    left.plot(fitted, residuals, **dots)
    left.axhline(0, color=QUIET, linewidth=0.9)
    left.set(xlabel="Predicted severity, points", ylabel="Residual, points", title="Residuals")
    spread = float(residuals.std()) or 1.0
    expected = norm.ppf((np.arange(len(residuals)) + 0.5) / len(residuals))
    middle.plot(expected, np.sort(residuals) / spread, **dots)
    ends = np.array([expected[0], expected[-1]])
    middle.plot(ends, ends, color=QUIET, linewidth=0.9)
    middle.set(xlabel="Normal quantile", ylabel="Residual, standard deviations", title="Against a normal law")
    _autocorrelation(right, analysis)
    return figure


def _autocorrelation(axes: Axes, analysis: Analysis) -> None:
    rows = [row for row in analysis.diagnostics["autocorrelation"]["by_lag"] if row["correlation"] is not None]
    axes.set(xlabel="Lag, days", ylabel="Autocorrelation", title="How days resemble each other")
    axes.axhline(0, color=QUIET, linewidth=0.9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not rows:
        axes.text(0.5, 0.5, "no pairs of days", transform=axes.transAxes, ha="center", color=QUIET)
        return
    lags = np.array([row["lag"] for row in rows])
    bound = 1.96 / np.sqrt([row["pairs"] for row in rows])
    axes.fill_between(lags, -bound, bound, color=FAINT, alpha=0.8, linewidth=0, zorder=0)
    values = [row["correlation"] for row in rows]
    axes.vlines(lags, 0, values, color=BLUE, linewidth=2)
    axes.plot(lags, values, linestyle="none", marker="o", markersize=4.5, color=BLUE)
