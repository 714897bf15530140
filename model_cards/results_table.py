"""Write the results table of the README from the reports of the released models.

``python -m model_cards.results_table README.md hub_models/released/*`` replaces the lines between the two marks
``<!-- results table`` and ``<!-- end of results table -->``; ``--check`` compares them only and ends with exit code 2
where they differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run
from model_cards.card import read_report
from model_cards.manifest import write_text
from model_cards.report_view import ReportNode, count, num, number, path_of, percent, rate

START, END = "<!-- results table", "<!-- end of results table -->"


def _images(report: ReportNode) -> str:
    test = report["evaluation"]["test"]
    return f"{count(test['n'])} ({count(test['n_groups'])})"


def _coverage(report: ReportNode) -> str:
    overall = report["trust_evaluation"]["sets"]["overall"]
    low, high = (100 * number(overall["expected"][key]) for key in ("low", "high"))
    return f"{rate(overall['coverage'])}; expected {low:.1f}–{high:.1f}"


def _missed(report: ReportNode) -> str:
    found = report["trust_evaluation"]["bands"]["missed_in_low"]["of_malignant"]
    return f"{percent(found['value'])} (at most {percent(found['upper'])})"


def _at(*path: str, written: Callable[[ReportNode], str] = rate) -> Callable[[ReportNode], str]:
    def cell(report: ReportNode) -> str:
        for key in path:
            report = report[key]
        return written(report)

    return cell


ROWS: dict[str, Callable[[ReportNode], str]] = {
    "Test images (lesions)": _images,
    "Accuracy": _at("evaluation", "test", "discrimination", "accuracy"),
    "Balanced accuracy": _at("evaluation", "test", "discrimination", "balanced_accuracy"),
    "AUROC, malignant against benign": _at("evaluation", "test", "discrimination", "auroc_malignant", written=num),
    "Sensitivity for malignant at 90 % specificity": _at(
        "evaluation", "test", "discrimination", "sensitivity_malignant_at_specificity", "0.90"
    ),
    "Answered, of lesions": _at("trust_evaluation", "verdicts", "test", "answered"),
    "Wrong, of the answered": _at("trust_evaluation", "verdicts", "test", "error_answered"),
    "Low band: wrong (promise 5 %)": _at("trust_evaluation", "bands", "promises", "low", "measured"),
    "Malignant lesions called benign in the low band": _missed,
    "Prediction sets: coverage (promise 90 %)": _coverage,
}


def table(reports: Sequence[ReportNode]) -> str:
    """The table as Markdown: one row per number, one column per model.

    Raises:
        MissingNumberError: a report lacks a number of ``ROWS``.
        UserError: a report promises other rates than the row names state.
    """
    for report in reports:
        low = report["trust_evaluation"]["bands"]["promises"]["low"]["risk"]
        promised = report["trust_evaluation"]["sets"]["promised"]
        for node, stated in ((low, 0.05), (promised, 0.9)):
            if abs(number(node) - stated) > 1e-9:
                raise UserError(f"report.json: {path_of(node)} is {number(node)}, and the table states {stated}")
    names = [str(report["model"]["name"]) for report in reports]
    lines = ["| | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|" + "---:|" * len(names)]
    lines += [f"| {title} | " + " | ".join(cell(report) for report in reports) + " |" for title, cell in ROWS.items()]
    return "\n".join(lines)


def replaced(text: str, content: str, where: str) -> str:
    """The text with the lines between the two marks replaced.

    Raises:
        UserError: the marks are missing.
    """
    before, start, rest = text.partition(START)
    mark, newline, rest = rest.partition("\n")
    _, end, after = rest.partition(END)
    if not (start and newline and end):
        raise UserError(f"{where} has no lines between {START!r} and {END!r}: add both marks")
    return f"{before}{start}{mark}\n{content}\n{end}{after}"


def main() -> None:
    """Parse the command line, then write or check the table."""
    parser = OneLineParser(
        prog="python -m model_cards.results_table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="README.md", help="the document that holds the two marks")
    parser.add_argument("models", nargs="+", type=Path, metavar="DIR", help="folders of finished models, in order")
    parser.add_argument("--check", action="store_true", help="compare only (default: write)")
    given = parser.parse_args()
    if not given.file.is_file():
        raise UserError(f"there is no file {str(given.file)!r}: give the README")
    text = given.file.read_text(encoding="utf-8")
    new = replaced(text, table([ReportNode(read_report(folder)) for folder in given.models]), given.file.name)
    if given.check:
        if new != text:
            raise UserError(f"the results table of {given.file.name} is stale: run the command without --check")
        return
    if new != text:
        write_text(given.file, new)


if __name__ == "__main__":
    run(main)
