"""The ISIC 2017 challenge's measures as files: ``results.csv`` (Id, task_1, task_2), ROC curves, confusion matrices."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datasets_scripts.output import whole_file
from datasets_scripts.sources.tables import TableWriter
from trainers.evaluation.figures.charts import BLUE, DPI, FAINT, FOLDER, INK, LOOK, ORANGE, QUIET, SHARES
from trainers.evaluation.isic2017 import roc_points, task_columns
from trainers.evaluation.sample import Sample
from trainers.metrics.predictions import Predictions

RESULTS = "results.csv"
COLUMNS = ("Id", "task_1", "task_2")


def write_challenge(
    report: Mapping[str, Any], predictions_by_split: Mapping[str, Predictions], folder: Path
) -> list[dict[str, str]]:
    """Write ``results.csv`` and the ROC figure of the test split, where it was evaluated by the challenge's measures.

    Args:
        report: ``report.json``; read are ``evaluation`` and ``trust.temperature``.
        predictions_by_split: split name -> its predictions.
        folder: the model's folder; the chart goes to ``folder/figures``.

    Returns:
        The chart as the report lists it: ``[{"file", "caption"}]``, or nothing.
    """
    test = predictions_by_split.get("test")
    numbers = report["evaluation"].get("test", {}).get("isic2017")
    if test is None or numbers is None:
        return []
    temperature = report.get("trust", {}).get("temperature", 1.0)
    columns = task_columns(test.labels)
    if columns is None:
        return []
    scores = Sample.at(test, temperature).probs[:, list(columns)]
    write_whole(folder / RESULTS, results_csv(test.image_id.tolist(), scores).encode())
    truth = np.stack([test.label == column for column in columns], axis=1)
    if truth.any(axis=0).all() and not truth.all(axis=0).any():
        figure = draw_roc(truth, scores, numbers, (numbers["melanoma"], numbers["keratosis"]))
        (folder / FOLDER).mkdir(exist_ok=True)
        write_whole(folder / FOLDER / "roc_test.png", png(figure))
        return [{"file": f"{FOLDER}/roc_test.png", "caption": roc_caption(numbers)}]
    return []


def results_csv(ids: Sequence[str], scores: np.ndarray) -> str:
    """The challenge's submission: one line per image, task_1 = p(melanoma), task_2 = p(seborrheic keratosis).

    Args:
        ids: N image ids.
        scores: (N, 2) probabilities.
    """
    out = io.StringIO()
    writer = TableWriter(out)
    writer.writerow(COLUMNS)
    # Every digit: rounding would make ties, and an AUC of the file another one than the report's.
    writer.writerows([name, repr(float(one)), repr(float(two))] for name, (one, two) in zip(ids, scores, strict=True))
    return out.getvalue()


@style.context(LOOK)
def draw_roc(truth: np.ndarray, scores: np.ndarray, numbers: Mapping[str, Any], names: tuple[str, str]) -> Figure:
    """Both tasks' ROC curves, and on melanoma's the point of the stated threshold.

    Args:
        truth: (N, 2) bool, both kinds in each task.
        scores: (N, 2).
        numbers: what :func:`trainers.evaluation.isic2017.measure` returned.
        names: what the two positive classes are called.
    """
    figure = Figure(figsize=(5.6, 5.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    shown = ((ORANGE, "-", "auc_melanoma"), (BLUE, (0, (6, 2)), "auc_keratosis"))
    for task, (colour, line, key) in enumerate(shown):
        rates = roc_points(truth[:, task], scores[:, task])
        label = f"task {task + 1}, {names[task]} against the rest: AUC {_with_interval(numbers[key])}"
        axes.plot(*rates, color=colour, linestyle=line, linewidth=1.8, label=label)
    here = numbers["at_threshold"]
    axes.plot(
        1 - here["specificity"]["value"],
        here["recall"]["value"],
        "o",
        color=ORANGE,
        markeredgecolor=INK,
        markersize=8,
        label=f"{names[0]} called at p ≥ {numbers['threshold']:g}",
        clip_on=False,
        zorder=3,
        linestyle="none",
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="1 - specificity", ylabel="Recall")
    axes.set_title(f"ROC, mean AUC {_with_interval(numbers['auc_mean'])}")
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, loc="lower right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.85)
    return figure


@style.context(LOOK)
def draw_decisions(truth: np.ndarray, scores: np.ndarray, threshold: float, names: tuple[str, str]) -> Figure:
    """The two tasks' 2 x 2 confusion matrices at a threshold: rows true, columns called.

    Args:
        truth: (N, 2) bool.
        scores: (N, 2).
        threshold: called positive at or above it.
        names: what the two positive classes are called.
    """
    figure = Figure(figsize=(8.6, 4.2), layout="constrained")
    for task, axes in enumerate(figure.subplots(1, 2)):
        counts = two_by_two(truth[:, task], scores[:, task] >= threshold)
        _matrix(axes, counts, ["rest", names[task]])
        axes.set_title(f"Task {task + 1}: {names[task]} called at p ≥ {threshold:g}")
    return figure


def two_by_two(truth: np.ndarray, called: np.ndarray) -> np.ndarray:
    """(2, 2) counts, rows true (rest, positive), columns called (rest, positive)."""
    counts = np.zeros((2, 2), dtype=int)
    np.add.at(counts, (truth.astype(int), called.astype(int)), 1)
    return counts


def roc_caption(numbers: Mapping[str, Any]) -> str:
    """The caption of the ROC figure of the test split."""
    return (
        f"ROC curves of the ISIC 2017 challenge's two tasks on the test split: {numbers['melanoma']} and "
        f"{numbers['keratosis']}, each against the rest, with the area under each and its 95 % interval by lesion. The "
        f"dot is where melanoma is called at a probability of at least {numbers['threshold']:g}."
    )


@style.context(LOOK)
def png(figure: Figure) -> bytes:
    """A figure as PNG bytes, the same for the same figure."""
    out = io.BytesIO()
    figure.savefig(out, dpi=DPI, metadata={"Software": None})
    return out.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def _matrix(axes: Axes, counts: np.ndarray, names: list[str]) -> None:
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    axes.imshow(shares, cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    for row in range(2):
        for column in range(2):
            colour = "white" if shares[row, column] > 0.65 else INK
            text = f"{100 * shares[row, column]:.0f} %\n{counts[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(2), names)
    axes.set_yticks(range(2), [f"{name}\nn = {n:,}" for name, n in zip(names, counts.sum(axis=1), strict=True)])
    axes.set(xlabel="Called", ylabel="True")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT)


def _with_interval(number: Mapping[str, Any]) -> str:
    text = f"{number['value']:.3f}"
    return text if number["low"] is None else f"{text} ({number['low']:.3f}–{number['high']:.3f})"
