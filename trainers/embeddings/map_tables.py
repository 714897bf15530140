"""The numbers of a report as a table for spreadsheets and one for people; nothing is computed again."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

from datasets_scripts.sources.tables import TableWriter
from trainers.embeddings.map_figures import TITLES
from trainers.metrics.number import Number

CSV_NAME, MARKDOWN_NAME = "cluster_quality.csv", "cluster_quality.md"
MEASURES = (
    ("knn_balanced_accuracy", ("knn", "balanced_accuracy"), ("knn", "chance")),
    ("silhouette_over_classes", ("silhouette", "mean_over_classes"), ("silhouette", "chance")),
    ("silhouette_over_images", ("silhouette", "mean_over_images"), None),
    ("sibling_first", ("sibling_first",), None),
    ("trustworthiness", ("map", "trustworthiness"), None),
    ("neighbours_kept", ("map", "neighbours_kept"), None),
)


def spaces(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(split, representation, its numbers) of everything that was measured."""
    for split, of_split in report["splits"].items():
        for kind, numbers in of_split["representations"].items():
            yield split, kind, numbers


def quality_csv(report: Mapping[str, Any]) -> str:
    """One line per split, representation and measure: value, low, high, chance; then recall and silhouette by class.

    An empty cell is a number that does not exist.
    """
    out = io.StringIO()
    writer = TableWriter(out)
    writer.writerow(["split", "representation", "dimensions", "measure", "class", "value", "low", "high", "chance"])
    for split, kind, numbers in spaces(report):
        start = [split, kind, numbers["dimensions"]]
        for name, place, chance in MEASURES:
            by_chance = None if chance is None else _at(numbers, chance)["value"]
            writer.writerow([*start, name, "", *_cells(_at(numbers, place)), _cell(by_chance)])
        for name, of_class in (
            ("knn_recall", numbers["knn"]["recall"]),
            ("silhouette", numbers["silhouette"]["by_class"]),
        ):
            for label, number in of_class.items():
                writer.writerow([*start, name, label, *_cells(number), ""])
    return out.getvalue()


def quality_markdown(report: Mapping[str, Any]) -> str:
    """The numbers in short, what they mean, and how they were made."""
    settings = report["settings"]
    rows = [
        f"| | k-NN balanced accuracy (k = {settings['k']}) | with shuffled labels | Silhouette, mean over classes | "
        "with shuffled labels | Same lesion is nearest | Trustworthiness of the map | Neighbours kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for split, kind, numbers in spaces(report):
        cells = [
            f"{split}: {TITLES[kind].lower()}, {numbers['dimensions']:,} dimensions",
            Number.read(numbers["knn"]["balanced_accuracy"]).text(),
            Number.read(numbers["knn"]["chance"]).text(),
            Number.read(numbers["silhouette"]["mean_over_classes"]).text(),
            Number.read(numbers["silhouette"]["chance"]).text(),
            Number.read(numbers["sibling_first"]).text(),
            f"{numbers['map']['trustworthiness']:.3f}",
            f"{numbers['map']['neighbours_kept']:.3f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    lines = [f"# {report['title']}", "", *rows, ""]
    for split, of_split in report["splits"].items():
        for name, number in of_split["differences"].items():
            lines.append(f"- {split}, balanced accuracy, {name}: {Number.read(number).text(signed=True)}")
    lines += ["", *(f"- {note}" for note in report["notes"]), "", f"    {report['origin']['command']}", ""]
    return "\n".join(lines)


def _at(numbers: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    found: Any = numbers
    for name in place:
        found = found[name]
    return found


def _cells(number: Any) -> list[str]:
    if not isinstance(number, Mapping):
        return [_cell(number), "", ""]
    return [_cell(number.get(name)) for name in ("value", "low", "high")]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
