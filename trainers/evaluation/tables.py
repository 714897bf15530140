"""A split's report as files for people and spreadsheets; the numbers are the report's own, never computed again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.output import whole_file
from datasets_scripts.sources.tables import TableWriter
from trainers.metrics.discrimination import precision, recall
from trainers.metrics.weighting import mean_defined

CSV_NAME, TEXT_NAME = "per_class_metrics.csv", "classification_report.txt"
MEASURES = ("precision", "recall", "f1", "auroc")


def write_tables(split: dict[str, Any], folder: Path, *, title: str = "", suffix: str = "") -> list[str]:
    """Write ``per_class_metrics.csv`` and ``classification_report.txt`` of one split; returns the file names.

    Args:
        split: what ``report.evaluate`` returned.
        folder: the model's folder, which exists.
        title: first line of the text report, e.g. the model's name and the split.
        suffix: goes before the files' endings, e.g. ``_validation``.
    """
    written = []
    for base, text in ((CSV_NAME, per_class_csv(split)), (TEXT_NAME, classification_report(split, title=title))):
        name = f"{Path(base).stem}{suffix}{Path(base).suffix}"
        with whole_file(folder / name) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
        written.append(name)
    return written


def per_class_csv(split: dict[str, Any]) -> str:
    """One line per class: each measure with its 95 % interval, support in images and lesions, and what is not defined.

    Columns: class, precision, precision_low, precision_high, (recall, f1, auroc alike), support, lesions, note. A value
    or a bound that does not exist is an empty cell, and the note has the reason.
    """
    out = io.StringIO()
    writer = TableWriter(out)
    bounds = [f"{measure}{suffix}" for measure in MEASURES for suffix in ("", "_low", "_high")]
    writer.writerow(["class", *bounds, "support", "lesions", "note"])
    for row in split["per_class"]:
        cells = [row[measure].get(key) for measure in MEASURES for key in ("value", "low", "high")]
        notes = [f"{measure}: {_why(row[measure])}" for measure in MEASURES if "why" in row[measure]]
        numbers = ["" if cell is None else f"{cell:.6f}" for cell in cells]
        writer.writerow([row["name"], *numbers, row["support"], row["lesions"], "; ".join(notes)])
    return out.getvalue()


def classification_report(split: dict[str, Any], *, title: str = "") -> str:
    """Precision, recall, F1 and support in the familiar layout of scikit-learn's report, four decimals.

    Unlike there, a value that is not defined prints as ``n/a`` and counts in no average.
    """
    rows = split["per_class"]
    width = max(len(name) for name in ("weighted avg", *(row["name"] for row in rows)))
    lines = [title, ""] if title else []
    lines.append(f"{'':>{width}}" + "".join(f"{head:>11}" for head in ("precision", "recall", "f1-score", "support")))
    lines.append("")
    for row in rows:
        values = [row[measure]["value"] for measure in ("precision", "recall", "f1")]
        lines.append(_line(row["name"], values, row["support"], width))
    lines.append("")
    overall, n = split["discrimination"], split["n"]
    lines.append(_line("accuracy", [None, None, overall["accuracy"]["value"]], n, width, blank=""))
    for name, averages in _averages(split).items():
        f1 = overall["macro_f1" if name == "macro avg" else "weighted_f1"]["value"]
        lines.append(_line(name, [*averages, f1], n, width))
    lines += ["", f"{n} images of {split['n_groups']} lesions; n/a = not defined"]
    return "\n".join(lines) + "\n"


def _why(number: dict[str, Any]) -> str:
    return number["why"] if number["value"] is None else f"no interval: {number['why']}"


def _line(name: str, values: list[float | None], support: int, width: int, blank: str = "n/a") -> str:
    cells = "".join(f"{blank if value is None else f'{value:.4f}':>11}" for value in values)
    return f"{name:>{width}}{cells}{support:>11}"


def _averages(split: dict[str, Any]) -> dict[str, list[float]]:
    """Macro and weighted precision and recall over the classes that have images, from the confusion matrix."""
    confusion = np.asarray(split["confusion_matrix"], dtype=np.float64)
    support = confusion.sum(axis=1)
    there = support > 0
    # A class that has images and is never predicted finds none of them: 0, as in its F1.
    found = [np.nan_to_num(precision(confusion)[there]), recall(confusion)[there]]
    return {
        "macro avg": [float(mean_defined(values)) for values in found],
        "weighted avg": [float(np.average(values, weights=support[there])) for values in found],
    }
