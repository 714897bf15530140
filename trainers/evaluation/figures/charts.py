"""The charts of a report: confusion matrix, reliability diagram, training curves.

Drawn from numbers only, so no chart can show a patient's image. The same report gives the same bytes with the same
matplotlib: no clock, no random number, no font but the one that matplotlib brings. Colours are Okabe and Ito's,
which differ for any colour vision, and never the only sign: malignant classes carry a star, curves their own marker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator

from model_cards.facts import chosen_on
from model_cards.report_view import ReportNode
from trainers.evaluation.sample import Sample
from trainers.metrics.calibration import N_BINS, reliability_bins
from trainers.metrics.discrimination import divide_or_nan
from trainers.metrics.intervals import exact_by_lesion
from trainers.metrics.predictions import Predictions
from trainers.trust.temperature import Calibration

FOLDER = "figures"
BLUE, ORANGE, GREEN, INK, QUIET, FAINT = "#0072B2", "#D55E00", "#009E73", "#1F2933", "#5F6B76", "#D9DEE3"
SHARES = LinearSegmentedColormap.from_list("shares", ["#FFFFFF", "#CFE3F1", "#7FB5D8", BLUE, "#004C78"])
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "legend.frameon": False,
    "hatch.color": FAINT,
}
# Matplotlib's own defaults first, so that nobody's private settings show in a published chart.
LOOK: list[str | Path | dict[str, Any]] = ["default", STYLE]
DPI = 160
# Beside the test split, with tables and a confusion matrix of their own; they are no evidence, as their titles state.
ALSO_SHOWN = ("validation",)
NOTHING_THERE = "not defined: no images"
# A chart of more classes than this names none of them.
MOST_CLASSES = 40


def draw_all(
    report: Mapping[str, Any], predictions_by_split: Mapping[str, Predictions], folder: Path
) -> list[dict[str, str]]:
    """Draw every chart that the report has numbers for.

    The test split is drawn where there is one (and validation's confusion matrix), else every split that was given. A
    report without ``training.history`` (a model that was only scored) gets no training curves.

    Args:
        report: ``report.json``; read are ``evaluation``, ``trust.temperature.value`` and ``training``.
        predictions_by_split: split name -> its predictions, each also in ``report["evaluation"]``.
        folder: the model's folder; charts go to ``folder/figures``.

    Returns:
        ``[{"file": "figures/....png", "caption": "..."}]`` in the order in which a card shows them.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    temperature = report.get("trust", {}).get("temperature", {"value": 1.0})
    drawn = []
    for split in ["test"] if "test" in predictions_by_split else sorted(predictions_by_split):
        predictions, numbers = predictions_by_split[split], report["evaluation"][split]
        diagram = draw_reliability(predictions, numbers["calibration"], temperature)
        drawn.append(_save_matrix(predictions, numbers, folder, split))
        drawn.append(save_figure(diagram, folder, f"reliability_{split}.png", _reliability_caption(split, temperature)))
    for split in ALSO_SHOWN if "test" in predictions_by_split else ():
        if split in predictions_by_split:
            drawn.append(_save_matrix(predictions_by_split[split], report["evaluation"][split], folder, split))
            if chosen_on(ReportNode(report)) == split:
                drawn[-1]["caption"] += " This split chose the epoch: it is no evidence of how well the model does."
    training = report.get("training") or {}
    if training.get("history"):
        curves = draw_training(training["history"], training.get("kept_epoch"))
        drawn.append(save_figure(curves, folder, "training_curves.png", _training_caption(training)))
    return drawn


@style.context(LOOK)
def draw_confusion(confusion: np.ndarray, predictions: Predictions, n_groups: int) -> Figure:
    """Rows true, columns predicted; each cell gives the share of its row and the count of images.

    Args:
        confusion: (C, C) counts.
        predictions: for the names, the malignant classes and the title.
        n_groups: number of lesion groups.
    """
    classes = len(confusion)
    support = confusion.sum(axis=1)
    shares = divide_or_nan(confusion, support[:, None])
    if classes > MOST_CLASSES:
        return _many_classes(shares, predictions, int(support.sum()), n_groups)
    figure = Figure(
        figsize=(
            max(6.2, 1.9 + (0.72 if classes <= 9 else 0.62) * classes),
            max(5.2, 1.7 + (0.62 if classes <= 9 else 0.54) * classes),
        ),
        layout="constrained",
    )
    axes = figure.add_subplot()
    axes.imshow(np.nan_to_num(shares), cmap=SHARES, vmin=0, vmax=1, aspect="auto")
    large = 10 if classes <= 9 else 9
    for row in range(classes):
        if not support[row]:
            axes.axhspan(row - 0.5, row + 0.5, facecolor="white", edgecolor=FAINT, hatch="////", linewidth=0)
            axes.text(
                (classes - 1) / 2, row, NOTHING_THERE, ha="center", va="center", color=QUIET, backgroundcolor="white"
            )
            continue
        for column in range(classes):
            _cell(axes, row, column, int(confusion[row, column]), shares[row, column], large)
    names = _starred(predictions)
    axes.set_xticks(range(classes), names, fontsize=10)
    axes.set_yticks(range(classes), [f"{name}\nn = {n:,}" for name, n in zip(names, support, strict=True)], fontsize=9)
    axes.set_xticks(np.arange(0.5, classes - 1), minor=True)
    axes.set_yticks(np.arange(0.5, classes - 1), minor=True)
    axes.grid(which="minor", color=FAINT, linewidth=0.8)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT)
    note = "   (* malignant or premalignant)" if len(predictions.malignant_columns()) else ""
    axes.set_xlabel(f"Predicted class{note}", labelpad=8)
    axes.set_ylabel("True class", labelpad=8)
    title_of(figure, "Confusion matrix", predictions, int(support.sum()), n_groups)
    return figure


def _many_classes(shares: np.ndarray, predictions: Predictions, n: int, n_groups: int) -> Figure:
    """The same of more classes than a chart can name: shares as colours, classes as their numbers."""
    figure = Figure(figsize=(8.2, 7.6), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(np.nan_to_num(shares), cmap=SHARES, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_xlabel("Predicted class, number", labelpad=8)
    axes.set_ylabel("True class, number", labelpad=8)
    title_of(figure, "Confusion matrix", predictions, n, n_groups)
    return figure


@style.context(LOOK)
def draw_reliability(predictions: Predictions, calibration: Mapping[str, Any], temperature: Calibration) -> Figure:
    """Accuracy against confidence before and after calibration, with the confidences' histogram below.

    Args:
        predictions: of the split.
        calibration: the split's ``{"before": ..., "after": ...}`` of the report, for the printed numbers.
        temperature: T, or a whole ``config.trust["temperature"]``; where it changes nothing there is only one panel.
    """
    named = _in_words(temperature)
    panels: list[tuple[str, Calibration, Mapping[str, Any], str]] = [
        ("Before calibration" if named else "As it is", 1.0, calibration["before"], ORANGE)
    ]
    if named:
        panels.append((f"After, {named}", temperature, calibration["after"], BLUE))
    figure = Figure(figsize=(4.4 * len(panels) + (1.0 if len(panels) == 1 else 0), 5.9), layout="constrained")
    grid = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=[3.4, 1])
    for column, (title, value, numbers, colour) in enumerate(panels):
        sample = Sample.at(predictions, value)
        _reliability_panel(grid[0, column], sample, numbers, colour)
        grid[0, column].set_title(title, pad=36)
        bins = reliability_bins(sample.confidence, sample.correct)
        edges = np.arange(N_BINS) / N_BINS
        grid[1, column].bar(edges, 100 * bins.shares(), width=1 / N_BINS, align="edge", color=colour, edgecolor="white")
        grid[1, column].set_xlabel("Confidence (probability of the predicted class)")
        grid[1, column].set_xlim(0, 1)
        grid[1, column].set_xticks(np.arange(6) / 5, ["0", "0.2", "0.4", "0.6", "0.8", "1"])
    grid[0, 0].set_ylabel("Accuracy")
    grid[1, 0].set_ylabel("% of images")
    title_of(figure, "Reliability", predictions, len(predictions), len(np.unique(predictions.group_id.astype(str))))
    return figure


@style.context(LOOK)
def draw_training(history: list[Mapping[str, Any]], kept_epoch: float | None) -> Figure:
    """Losses on the left, validation metrics on the right, over epochs; the kept epoch is marked.

    Args:
        history: rows with ``epoch`` and any of ``train_loss, eval_loss, eval_accuracy, eval_balanced_accuracy,
            eval_macro_f1``; a row may lack some.
        kept_epoch: the epoch whose weights were kept, or None.
    """
    figure = Figure(figsize=(8.8, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = (("train_loss", "training", QUIET, "s"), ("eval_loss", "validation", BLUE, "o"))
    metrics = (
        ("eval_accuracy", "accuracy", GREEN, "^"),
        ("eval_balanced_accuracy", "balanced accuracy", ORANGE, "s"),
        ("eval_macro_f1", "macro F1", BLUE, "o"),
    )
    for axes, curves, title in ((left, losses, "Loss"), (right, metrics, "Validation metrics")):
        for key, name, colour, marker in curves:
            points = [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True), color=colour, marker=marker, markersize=4, linewidth=1.6, label=name
                )
        if kept_epoch is not None:
            axes.axvline(kept_epoch, color=INK, linewidth=1, linestyle=(0, (2, 3)), zorder=0, label="kept epoch")
        axes.set_title(title)
        axes.set_xlabel("Epoch")
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.set_xlim(history[0]["epoch"] - 0.5, history[-1]["epoch"] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(fontsize=9)
    left.set_ylim(bottom=0)
    return figure


def _cell(axes: Axes, row: int, column: int, count: int, share: float, large: int) -> None:
    if not count:
        axes.text(column, row, "0", ha="center", va="center", fontsize=8, color="#A6AFB8")
        return
    colour = "white" if share > 0.65 else INK
    weight = "bold" if row == column else "normal"
    percent = "<1 %" if share < 0.01 else ">99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"
    place: dict[str, Any] = {
        "xy": (column, row),
        "textcoords": "offset points",
        "ha": "center",
        "va": "center",
        "color": colour,
    }
    axes.annotate(percent, xytext=(0, 6), fontsize=large, weight=weight, **place)
    axes.annotate(f"{count:,}", xytext=(0, -8), fontsize=8, **place)


def _reliability_panel(axes: Axes, sample: Sample, numbers: Mapping[str, Any], colour: str) -> None:
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    bins = reliability_bins(sample.confidence, sample.correct)
    member = np.clip(np.ceil(sample.confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)
    for index in np.flatnonzero(bins.weight):
        here = member == index
        low, high = exact_by_lesion(sample.correct[here], sample.groups[here])
        x, y = float(bins.confidence[index]), float(bins.accuracy[index])
        axes.plot([x, x], [low, high], color=colour, linewidth=1.4, alpha=0.55, solid_capstyle="butt")
        axes.plot(
            x, y, "o", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.8, zorder=3, clip_on=False
        )
    lines = [f"ECE {_with_interval(numbers['ece'])}, floor {_short(numbers['ece_floor'])}"]
    lines.append(f"NLL {_with_interval(numbers['nll'])}")
    # Above the axes, where no point can lie beneath.
    axes.text(0, 1.025, "\n".join(lines), transform=axes.transAxes, va="bottom", fontsize=9, linespacing=1.35)
    axes.set_ylim(0, 1)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _starred(predictions: Predictions) -> list[str]:
    malignant = set(predictions.malignant_columns().tolist())
    names = drawable(predictions.labels)
    return [f"{name} *" if index in malignant else name for index, name in enumerate(names)]


def drawable(labels: Sequence[str]) -> list[str]:
    """The names of classes as the font can show them: one with other letters is called by its number."""
    letters = get_font(findfont(STYLE["font.family"])).get_charmap()
    return [
        name if all(ord(letter) in letters for letter in name) else f"class {number}"
        for number, name in enumerate(labels)
    ]


def title_of(figure: Figure, what: str, predictions: Predictions, n: int, n_groups: int) -> None:
    """Say above a chart what it shows, of which split of which dataset, and of how many images and lesions."""
    where = predictions.dataset + (f" ({predictions.config_name})" if predictions.config_name else "")
    parts = [f"{predictions.split} split", where, f"{n:,} images of {n_groups:,} lesions"]
    figure.suptitle(
        f"{what}: " + ", ".join(part for part in parts if part), fontsize=10.5, x=0.01, ha="left", color=INK
    )


def _short(number: Mapping[str, Any]) -> str:
    return f"{number['value']:.3f}"


def _with_interval(number: Mapping[str, Any]) -> str:
    if number["low"] is None:
        return _short(number)
    return f"{_short(number)} ({number['low']:.3f}–{number['high']:.3f})"


@style.context(LOOK)
def save_figure(figure: Figure, folder: Path, name: str, caption: str) -> dict[str, str]:
    """Write a chart into ``folder/figures``; returns it as the report lists it."""
    # The version of matplotlib would otherwise stand in the file and change its checksum.
    figure.savefig(folder / FOLDER / name, dpi=DPI, metadata={"Software": None})
    return {"file": f"{FOLDER}/{name}", "caption": caption}


def _save_matrix(predictions: Predictions, numbers: Mapping[str, Any], folder: Path, split: str) -> dict[str, str]:
    matrix = draw_confusion(np.asarray(numbers["confusion_matrix"]), predictions, numbers["n_groups"])
    return save_figure(matrix, folder, f"confusion_matrix_{split}.png", _confusion_caption(split, numbers, predictions))


def _confusion_caption(split: str, numbers: Mapping[str, Any], predictions: Predictions) -> str:
    many = len(predictions.labels) > MOST_CLASSES
    cell = (
        "The colour is the share of a row" if many else "Each cell gives the share of its row and the number of images"
    )
    starred = (
        "; * marks malignant and premalignant classes" if len(predictions.malignant_columns()) and not many else ""
    )
    numbered = drawable(predictions.labels) != list(predictions.labels)
    return (
        f"Confusion matrix of the {split} split, {numbers['n']:,} images of {numbers['n_groups']:,} lesions: rows are "
        f"the true classes, columns the predicted ones. {cell}{starred}."
        + (" Classes whose letters the font lacks are called by their number, counted from 0." if numbered else "")
    )


def _in_words(temperature: Calibration) -> str:
    """``T = 1.234``, with what else was fitted; empty where nothing changes."""
    fitted = temperature if isinstance(temperature, Mapping) else {"value": temperature}
    if fitted.get("scale"):
        return "a scale and a bias per class"
    found = f"T = {float(fitted['value']):.3f}"
    return f"{found} and a bias per class" if fitted.get("bias") else found if float(fitted["value"]) != 1.0 else ""


def _reliability_caption(split: str, temperature: Calibration) -> str:
    named = _in_words(temperature)
    panels = f"before and after calibration ({named})" if named else "as its probabilities are"
    return (
        f"Reliability on the {split} split, {panels}: accuracy against confidence in {N_BINS} bins of equal width, "
        "with exact 95 % intervals by lesion; on the dashed line, confidence is honest. Below, the share of images at "
        "each confidence. 'floor' is the ECE that a perfectly calibrated model would show on this many images."
    )


def _training_caption(training: Mapping[str, Any]) -> str:
    kept = training.get("kept_epoch")
    mark = "" if kept is None else f" The dotted line marks the epoch that was kept ({kept:g})."
    return (
        "Training curves. The training loss is of augmented and resampled images and need not be comparable with the "
        f"validation loss.{mark}"
    )
