"""The charts of trust: what is declined, how wrong the rest is, and whether the sets hold what they promise.

Drawn from numbers only, in the look of ``figures``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from trainers.evaluation.decisions import decisions
from trainers.evaluation.figures.charts import (
    BLUE,
    FAINT,
    FOLDER,
    GREEN,
    INK,
    LOOK,
    MOST_CLASSES,
    ORANGE,
    QUIET,
    drawable,
    save_figure,
    title_of,
)
from trainers.metrics.predictions import Predictions
from trainers.metrics.weighting import group_weights

BINS = 60
LEAST_SHOWN = 0.02
SHOWN = (0.002, 0.998)  # quantiles of the scores that the axis spans
OOD_IMAGES = (ORANGE, "#CC79A7", "#56B4E9", "#E69F00")


def draw_trust(
    report: Mapping[str, Any],
    predictions: Mapping[str, Predictions],
    ood_sets: Mapping[str, Predictions],
    folder: Path,
) -> list[dict[str, str]]:
    """Draw every chart of ``report["trust_evaluation"]``.

    Args:
        report: ``report.json``; without ``trust_evaluation`` nothing is drawn.
        predictions: split -> predictions with ``ood_score``.
        ood_sets: name -> predictions of images of none of the classes.
        folder: the model's folder; charts go to ``folder/figures``.

    Returns:
        ``[{"file", "caption"}]`` in the order in which a card shows them.
    """
    evaluated = report.get("trust_evaluation")
    if not evaluated:
        return []
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    rows, trust = predictions[evaluated["split"]], report["trust"]
    split = evaluated["split"]
    drawn = []
    if evaluated["sets"]:  # else the gate accepts no image, of which there is no curve either
        risk = draw_risk(trust, rows)
        drawn.append(save_figure(risk, folder, f"risk_coverage_{split}.png", _risk_caption(split)))
        sets = draw_sets(evaluated["sets"], rows)
        drawn.append(save_figure(sets, folder, f"prediction_sets_{split}.png", _sets_caption(evaluated["sets"], split)))
    gate = draw_gate(rows, ood_sets, trust["ood"])
    drawn.append(save_figure(gate, folder, f"gate_{split}.png", _gate_caption(trust["ood"], split)))
    return drawn


@style.context(LOOK)
def draw_risk(trust: Mapping[str, Any], rows: Predictions) -> Figure:
    """Error of the answers with the lowest uncertainty against their share, by lesion, with both bands and promises.

    Args:
        trust: what was fitted.
        rows: predictions with ``ood_score``; those that the gate accepts, at least one, are drawn.
    """
    made = decisions(rows, trust)
    kept = made.accepted
    wrong = (made.predicted != rows.label)[kept]
    order = np.argsort(made.uncertainty[kept], kind="stable")
    weights = group_weights(rows.group_id[kept])[order]
    coverage = weights.cumsum() / weights.sum()
    risk = (weights * wrong[order]).cumsum() / weights.cumsum()
    limits = made.uncertainty[kept][order]
    from_here = coverage >= LEAST_SHOWN  # the first few answers make no share
    coverage, risk, limits = coverage[from_here], risk[from_here], limits[from_here]
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(coverage, risk, color=BLUE, linewidth=2)
    top = max(0.1, float(risk.max())) * 1.15
    start = 0.0
    for name, colour in (("low", GREEN), ("moderate", ORANGE)):
        band = trust["bands"][name]
        if band["threshold"] is None:
            continue
        inside = coverage[limits <= band["threshold"]]
        end = float(inside.max()) if len(inside) else 0.0
        axes.axvspan(start, end, color=colour, alpha=0.10, linewidth=0)
        axes.hlines(band["risk"], 0, end, color=colour, linestyle="--", linewidth=1.2)
        axes.annotate(
            f"{name}: at most {100 * band['risk']:g} %",
            (0, band["risk"]),
            xytext=(6, 4),
            textcoords="offset points",
            ha="left",
            color=INK,
            fontsize=9,
        )
        start = max(start, end)
    axes.set(
        xlim=(0, 1),
        ylim=(0, top),
        xlabel="Share of the accepted lesions that is answered, lowest uncertainty first",
        ylabel="Share of these answers that is wrong",
    )
    _in_percent(axes)
    title_of(figure, "Risk and coverage", rows, int(kept.sum()), len(np.unique(rows.group_id[kept].astype(str))))
    return figure


@style.context(LOOK)
def draw_sets(sets: Mapping[str, Any], rows: Predictions) -> Figure:
    """Coverage of the prediction sets by class beside what is expected at these numbers, and their mean size."""
    shown = dict(zip(rows.labels, drawable(rows.labels), strict=True))
    classes = sorted(sets["per_class"], key=lambda row: -row["n_groups"])[:MOST_CLASSES]
    lines = [("all classes", sets["overall"]), *((row["name"], row) for row in sets["per_class"] if row in classes)]
    figure = Figure(figsize=(8.2, 1.7 + 0.42 * len(lines)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2.2, 1])
    names = []
    for height, (name, row) in enumerate(lines):
        own = row.get("group", name) == name
        names.append(f"{shown.get(name, name)}{'' if own else ' †'}  ({row['n_groups']})")
        expected, found = row["expected"], row["coverage"]
        if expected["value"] is not None:
            left.barh(height, expected["high"] - expected["low"], left=expected["low"], height=0.62, color=FAINT)
        if found["value"] is not None:
            left.hlines(height, found["low"], found["high"], color=BLUE, linewidth=1.6)
            left.plot(found["value"], height, "o" if own else "D", color=BLUE, markersize=6)
            right.barh(height, row["mean_set_size"]["value"], height=0.55, color=BLUE, alpha=0.75)
            right.annotate(
                f"{row['mean_set_size']['value']:.2f}",
                (row["mean_set_size"]["value"], height),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
    left.axvline(sets["promised"], color=ORANGE, linestyle="--", linewidth=1.2)
    left.set_yticks(range(len(lines)), names)
    left.invert_yaxis()
    lowest = min((row["coverage"]["low"] for _, row in lines if row["coverage"]["value"] is not None), default=0.5)
    left.set_xlim(max(0.0, min(lowest, 0.75) - 0.03), 1.005)
    left.set_xlabel("Share of lesions whose set holds the true class")
    right.set_xlabel("Mean set size")
    right.set_xlim(
        0, max(row["mean_set_size"]["value"] for _, row in lines if row["coverage"]["value"] is not None) * 1.25
    )
    figure.legend(  # of the figure: one of the axes would push the two panels apart
        handles=[
            Line2D([], [], color=ORANGE, linestyle="--", label="promised"),
            Patch(color=FAINT, label="expected at these numbers, 95 %"),
            Line2D([], [], color=BLUE, marker="o", label="measured, exact 95 %"),
        ],
        loc="outside lower center",
        ncols=3,
        fontsize=8.5,
    )
    title_of(figure, "Prediction sets", rows, sets["overall"]["n"], sets["overall"]["n_groups"])
    return figure


@style.context(LOOK)
def draw_gate(rows: Predictions, ood_sets: Mapping[str, Predictions], gate: Mapping[str, Any]) -> Figure:
    """The gate's scores of the split's images and of ood images."""
    scores = {"images of the split": rows.ood_score, **{name: other.ood_score for name, other in ood_sets.items()}}
    known = {name: np.asarray(values, dtype=float) for name, values in scores.items() if values is not None}
    both = np.concatenate([*known.values(), [gate["threshold"]]])
    low, high = np.quantile(both, SHOWN)
    low, high = min(low, gate["threshold"]), max(high, gate["threshold"])
    edges = np.linspace(low, high + 1e-9, BINS + 1).tolist()
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    axes = figure.subplots()
    for (name, values), (colour, line) in zip(known.items(), _strokes(), strict=False):
        weights = np.full(len(values), 1 / len(values))
        clipped = values.clip(edges[0], edges[-1])
        axes.hist(clipped, edges, weights=weights, color=colour, alpha=0.25, linewidth=0)
        axes.hist(
            clipped,
            edges,
            weights=weights,
            histtype="step",
            color=colour,
            linestyle=line,
            linewidth=1.6,
            label=f"{name} ({len(values):,})",
        )
    axes.axvline(gate["threshold"], color=INK, linestyle="--", linewidth=1.2, label="declined beyond this line")
    axes.set(
        xlabel=f"OOD score ({gate['detector'].replace('_', ' ')})",
        ylabel="Share of the images",
        xlim=(edges[0], edges[-1]),
    )
    axes.tick_params(colors=QUIET)
    axes.legend(fontsize=9)
    title_of(figure, "What the gate lets pass", rows, len(rows), len(np.unique(rows.group_id.astype(str))))
    return figure


def _strokes() -> Iterator[tuple[str, str]]:
    """Colour and line of the split's images, then of one set of ood images after the other, without end."""
    yield BLUE, "-"
    for line in cycle(("-", "--", ":")):
        yield from ((colour, line) for colour in OOD_IMAGES)


def _in_percent(axes: Any) -> None:
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def _risk_caption(split: str) -> str:
    return (
        f"Risk and coverage on the {split} split, of the images that the gate accepts, by lesion: the error of "
        "the answers with the lowest uncertainty against their share. Shaded: the low and the moderate band; dashed: "
        "the error promised for all answers up to there."
    )


def _sets_caption(sets: Mapping[str, Any], split: str) -> str:
    pooled = (
        " † a class with too few calibration lesions for a threshold of its own." if sets["without_own_promise"] else ""
    )
    return (
        f"Prediction sets on the {split} split, images that the gate accepts, by lesion (their number in brackets): "
        f"the promise is {100 * sets['promised']:g} %; a measured coverage inside the grey bar is what chance "
        f"allows.{pooled}"
    )


def _gate_caption(gate: Mapping[str, Any], split: str) -> str:
    return (
        f"OOD scores of the {split} split and of images of none of the classes. The line is the gate's threshold, set "
        f"so that it accepts {100 * gate['acceptance']:g} % of calibration images. Values beyond the axis are drawn at "
        "its ends."
    )
