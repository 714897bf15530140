"""The charts of a study: every patient's days, distributions, effects by each method.

Drawn from numbers only; the same study gives the same bytes with the same matplotlib. A treatment has a colour and a
marker, so that it is distinguished with any colour vision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory
from scipy.stats import gaussian_kde

from trainers.evaluation.figures.charts import BLUE, FAINT, FOLDER, GREEN, INK, LOOK, QUIET, save_figure
from trainers.longitudinal.analysis import DEFAULT, METHODS, Analysis, Effect
from trainers.longitudinal.figures_of_patients import draw_checks, draw_patients
from trainers.longitudinal.study import Study
from trainers.metrics.number import Number

FONT = "DejaVu Sans"  # that matplotlib brings
MOST = 24  # characters of a name
# The baseline is grey, as the thing compared with; no orange, which means worse in the patients' chart.
COLOURS = (QUIET, BLUE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_PANELS = 20  # patients whose days are drawn


def colour_of(treatment: int) -> str:
    """The colour of a treatment by its index; the baseline's is 0."""
    return COLOURS[0] if treatment == 0 else COLOURS[1 + (treatment - 1) % (len(COLOURS) - 1)]


def marker_of(treatment: int) -> str:
    """The marker of a treatment by its index."""
    return MARKERS[treatment % len(MARKERS)]


def draw_all(analysis: Analysis, folder: Path) -> list[dict[str, str]]:
    """Draw every chart into ``folder/figures``.

    Returns:
        ``[{"file": "figures/....png", "caption": "..."}]`` in the order of the README.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    baseline, confidence = analysis.study.treatments[0], f"{100 * analysis.settings.confidence:g} %"
    analysis = with_labels(analysis)
    study = analysis.study
    shown = min(len(study.patients), MOST_PANELS)
    some = "" if shown == len(study.patients) else f" The first {shown} of {len(study.patients)} patients are drawn."
    drawn = [
        save_figure(
            draw_effects(analysis),
            folder,
            "effects.png",
            f"Effect of each treatment against {baseline} with {confidence} intervals, by each method. Left "
            "of the dashed line severity was lower. The default stands out; the others are for comparison.",
        ),
        save_figure(
            draw_trajectories(study),
            folder,
            "trajectories.png",
            "Severity of each patient by day: a point a measured day, a line at the mean of each phase." + some,
        ),
        save_figure(
            draw_distributions(study),
            folder,
            "distributions.png",
            "Severity by treatment. Right: all days, the bar spans the middle half, the white dot marks the median. "
            "Left: the mean of each patient, joined from treatment to treatment.",
        ),
    ]
    if any(row.shrunken is not None for row in analysis.patients):
        drawn.append(
            save_figure(
                draw_patients(analysis),
                folder,
                "patients.png",
                f"Each patient's own effect with its {confidence} interval, shrunken towards what patients do on the "
                "whole; hollow, for up to 40 patients: the plain difference of the patient's means.",
            )
        )
    drawn.append(
        save_figure(
            draw_checks(analysis),
            folder,
            "diagnostics.png",
            "Residuals about what is predicted for each patient: against the prediction, against a normal law, and how "
            "much a day resembles the days before it (band: what independent days would show in 95 of 100 lags; "
            "residuals about fitted means lean a little below 0).",
        )
    )
    return drawn


@style.context(LOOK)
def draw_trajectories(study: Study) -> Figure:
    """A small panel a patient, all with the same axes."""
    shown = min(len(study.patients), MOST_PANELS)
    columns = min(shown, 5 if shown > 4 else 2 if shown > 3 else 3)
    rows = math.ceil(shown / columns)
    figure = Figure(figsize=(max(2.35 * columns, 6.5) + 0.4, 1.95 * rows + 1.1), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= shown:
            axes.set_visible(False)
            continue
        _trajectory(axes, study, place)
        # Panels above an empty place carry the days themselves.
        axes.tick_params(labelbottom=place + columns >= shown)
    figure.supxlabel("Day", fontsize=10)
    figure.supylabel("Severity, points", fontsize=10)
    figure.legend(
        handles=_legend(study),
        loc="outside upper left",
        ncols=min(len(study.treatments), 6),
        title="Severity by day, a panel a patient",
        title_fontproperties={"weight": "bold", "size": 11},
        alignment="left",
    )
    return figure


def _trajectory(axes: Axes, study: Study, patient: int) -> None:
    rows = study.patient == patient
    day, kind, severity = study.day[rows], study.treatment[rows], study.severity[rows]
    starts = np.flatnonzero(np.r_[True, kind[1:] != kind[:-1]])
    for start, stop in zip(starts, [*starts[1:], len(day)], strict=True):
        treatment, phase = int(kind[start]), slice(start, stop)
        colour = colour_of(treatment)
        axes.axvspan(day[start] - 0.5, day[stop - 1] + 0.5, color=colour, alpha=0.07, linewidth=0)
        axes.plot(
            day[phase],
            severity[phase],
            linestyle="none",
            marker=marker_of(treatment),
            markersize=2.6,
            color=colour,
            alpha=0.55,
            markeredgewidth=0,
        )
        mean = float(severity[phase].mean())
        axes.plot([day[start] - 0.5, day[stop - 1] + 0.5], [mean, mean], color=colour, linewidth=2)
    axes.set_title(study.patients[patient], fontsize=9, fontweight="normal", color=INK, pad=3)
    axes.tick_params(labelsize=8, length=2.5)


def _legend(study: Study) -> list[Line2D]:
    return [
        Line2D([], [], color=colour_of(index), marker=marker_of(index), markersize=5, linewidth=2, label=name)
        for index, name in enumerate(study.treatments)
    ]


@style.context(LOOK)
def draw_distributions(study: Study) -> Figure:
    """Half a violin of all days and the patients' means for each treatment."""
    means, treatments = study.cell_means(), len(study.treatments)
    figure = Figure(figsize=(max(6.6, 2.1 * treatments + 0.8), 4.5), layout="constrained")
    axes = figure.add_subplot()
    for patient in range(len(study.patients)):
        known = np.flatnonzero(np.isfinite(means[patient]))
        axes.plot(known - 0.08, means[patient, known], color=QUIET, linewidth=0.8, alpha=0.45, zorder=2)
    for index in range(treatments):
        colour, values = colour_of(index), study.severity[study.treatment == index]
        known = np.isfinite(means[:, index])
        axes.plot(
            np.full(known.sum(), index - 0.08),
            means[known, index],
            linestyle="none",
            marker=marker_of(index),
            color=colour,
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            zorder=4,
        )
        _half_violin(axes, index + 0.1, values, colour)
    counts = [int((study.treatment == index).sum()) for index in range(treatments)]
    labels = [f"{name}\n{count:,} days" for name, count in zip(study.treatments, counts, strict=True)]
    axes.set_xticks(range(treatments), labels)
    axes.set_xlim(-0.45, treatments - 0.4)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("Severity, points")
    axes.set_title("Severity by treatment: patients' means and all days", pad=12)
    return figure


def _half_violin(axes: Axes, left: float, values: np.ndarray, colour: str) -> None:
    if len(values) >= 5 and np.ptp(values) > 0:
        at = np.linspace(values.min(), values.max(), 200)
        density = gaussian_kde(values)(at)
        axes.fill_betweenx(at, left, left + 0.36 * density / density.max(), color=colour, alpha=0.28, linewidth=0)
    low, middle, high = np.percentile(values, [25, 50, 75])
    axes.plot([left + 0.02] * 2, [low, high], color=colour, linewidth=4, solid_capstyle="butt", zorder=3)
    axes.plot(left + 0.02, middle, marker="o", color="white", markeredgecolor=colour, markersize=4.5, zorder=5)


@style.context(LOOK)
def draw_effects(analysis: Analysis) -> Figure:
    """A forest: for each treatment the four methods, the default first and bold."""
    treatments = analysis.study.treatments[1:]
    figure = Figure(figsize=(9.2, 1.5 + 1.45 * len(treatments)), layout="constrained")
    axes = figure.add_subplot()
    step, ticks = len(METHODS) + 1.1, []
    for effect in analysis.effects:
        block = treatments.index(effect.treatment)
        row = block * step + list(METHODS).index(effect.method)
        ticks.append((row, METHODS[effect.method]))
        _effect(axes, effect, row, analysis.decimals, colour_of(block + 1))
    for block, name in enumerate(treatments):
        place = blended_transform_factory(axes.transAxes, axes.transData)
        axes.text(0, block * step - 0.72, name, transform=place, fontweight="bold", va="center", ha="left")
    axes.axvline(0, color=QUIET, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
    axes.set_yticks([row for row, _ in ticks], [label for _, label in ticks])
    for label, effect in zip(axes.get_yticklabels(), analysis.effects, strict=True):
        label.set_fontweight("bold" if effect.method == DEFAULT else "normal")
    axes.set_ylim(len(treatments) * step - 1.4, -1.2)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.margins(x=0.06)
    axes.set_xlabel(f"Change of severity against {analysis.study.treatments[0]}, points (left: lower, better)")
    confidence = f"{100 * analysis.settings.confidence:g} %"
    axes.set_title(f"Effect of each treatment, {confidence} intervals", pad=10)
    return figure


def _effect(axes: Axes, effect: Effect, row: float, decimals: int, colour: str) -> None:
    found, first = effect.found, effect.method == DEFAULT
    place = blended_transform_factory(axes.transAxes, axes.transData)
    text = "withheld"
    if found.estimate is not None and found.low is not None and found.high is not None:
        shade = colour if first else QUIET
        axes.plot([found.low, found.high], [row, row], color=shade, linewidth=2.6 if first else 1.4, zorder=2)
        axes.plot(
            found.estimate,
            row,
            marker="o",
            markersize=8 if first else 5.5,
            color=shade if first else "white",
            markeredgecolor=shade,
            markeredgewidth=1.3,
            zorder=3,
        )
        text = Number(found.estimate, found.low, found.high).text(decimals, signed=True)
    weight = "bold" if first else "normal"
    text = text.replace("-", "\N{MINUS SIGN}")  # as the axis has it
    axes.text(1.02, row, text, transform=place, va="center", ha="left", fontsize=9, fontweight=weight)


def labels(names: Sequence[str]) -> list[str]:
    """A label for each name, all different.

    A long name loses its middle, one with characters that the font lacks becomes its number in the table. A dollar sign
    is escaped, or matplotlib would read formulas.
    """
    known = get_font(findfont(FONT)).get_charmap()
    drawn: list[str] = []
    for number, name in enumerate(names, 1):
        plain = " ".join("".join(mark if mark.isprintable() else " " for mark in name).split())
        if not plain or any(ord(mark) not in known for mark in plain):
            plain = f"no. {number}"
        if len(plain) > MOST:
            plain = f"{plain[: MOST - 9]}…{plain[-8:]}"
        label = plain.replace("$", r"\$")
        # What begins with an underscore is left out of legends.
        label = f" {label}" if label.startswith("_") else label
        drawn.append(f"{label} ({number})" if label in drawn else label)
    return drawn


def with_labels(analysis: Analysis) -> Analysis:
    """The same analysis, its patients and treatments named as they are drawn."""
    study = analysis.study
    patients = dict(zip(study.patients, labels(study.patients), strict=True))
    treatments = dict(zip(study.treatments, labels(study.treatments), strict=True))
    return replace(
        analysis,
        study=replace(study, patients=tuple(patients.values()), treatments=tuple(treatments.values())),
        effects=[replace(effect, treatment=treatments[effect.treatment]) for effect in analysis.effects],
        patients=[
            replace(row, patient=patients[row.patient], treatment=treatments[row.treatment])
            for row in analysis.patients
        ],
    )
