"""Models by datasets: one row a pair, from reports that were written already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from model_cards.report_view import cell
from trainers.evaluation.promises import CONVENTIONS as OF_PROMISES
from trainers.metrics.number import Number, undefined

# Metric -> its title; the arrow is to its better side.
METRICS = {
    "auroc": "AUROC, malignant ↑",
    "balanced_accuracy": "balanced accuracy ↑",
    "sensitivity": "sensitivity ↑",
    "ece": "ECE ↓",
    "coverage": "coverage of sets",
    "answered": "answered",
}
# In place of archives that a report does not name.
EARLIER = "its backbone: those of an earlier model"
CONVENTIONS = (
    "95 % intervals: bootstrap by lesion for AUROC, balanced accuracy and ECE, exact by lesion for the others. "
    "Sensitivity is of the model's stored decision: malignant lesions that are flagged, of those that the gate "
    "accepts; where no flag was fitted, those for which the decision rule names a malignant class. Coverage is of the "
    "images that the gate accepts. Differences between rows of one dataset are paired: test them with `lesion compare`."
)


def matrix_row(report: Mapping[str, Any], model: str, dataset: str) -> dict[str, Any]:
    """One pair, from the ``report.json`` of ``lesion score --labels`` or of a finished model.

    Args:
        report: with ``evaluation`` of the split ``external``, or else ``test``.
        model: its name.
        dataset: its name.

    Returns:
        ``model``, ``dataset``, ``n``, ``n_groups``; ``fitted_on``: the archives that the model was trained or its trust
        fitted on, and ``same_archive``: whether images of the dataset are of one of them (None: not known); each of
        ``METRICS``, with its interval; ``verdicts``: promise -> verdict, where there are any.

    Raises:
        KeyError: the report has neither split.
    """
    split = "external" if "external" in report["evaluation"] else "test"
    found = report["evaluation"][split]
    trusted = report.get("trust_evaluation") or {}
    why = "no trust was evaluated"
    sets = trusted.get("sets")
    verdicts = {row["promise"]: row["verdict"] for row in report.get("promises_here", {"rows": []})["rows"]}
    return {
        "model": model,
        "dataset": dataset,
        "n": found["n"],
        "n_groups": found["n_groups"],
        **_fitted_on(report),
        "auroc": found["discrimination"]["auroc_malignant"],
        "balanced_accuracy": found["discrimination"]["balanced_accuracy"],
        "sensitivity": _sensitivity(trusted.get("decision")),
        "ece": found["calibration"]["after"]["ece"],
        "coverage": undefined(why) if sets is None else sets["overall"]["coverage"],
        "answered": trusted["verdicts"][split]["answered"] if trusted else undefined(why),
        "verdicts": verdicts,
    }


def archives_of(report: Mapping[str, Any]) -> list[str]:
    """The archives that a finished model was trained and its trust fitted on; ``EARLIER`` where its backbone was, too.

    Raises:
        KeyError: the report does not state them.
    """
    places = [report["provenance"]["dataset"], *(report[key] for key in ("trained_on", "imported") if key in report)]
    found = [str(name) for place in places for name in place["sources"]]
    started = str(report["model"].get("initialised_from"))
    return list(dict.fromkeys([*found, *([EARLIER] if "finished model" in started else [])]))


def _fitted_on(report: Mapping[str, Any]) -> dict[str, Any]:
    if "scored" in report:
        archives, sources = report["model"].get("fitted_on", []), report["scored"].get("sources", [])
    else:
        archives = archives_of(report) if "provenance" in report else []
        sources = report["provenance"]["dataset"]["sources"] if archives else []
    same = bool({name.lower() for name in archives} & {name.lower() for name in sources})
    known = archives and set(sources) - {"unknown"} and (same or EARLIER not in archives)
    return {"fitted_on": list(archives), "same_archive": same if known else None}


def _sensitivity(decision: Mapping[str, Any] | None) -> dict[str, Any]:
    if decision is None:
        return undefined("no decision rule was fitted")
    if decision["flag"] is not None:
        return dict(decision["flag"]["sensitivity"])
    # ``sensitivity`` names the same class as ``most_probable``.
    rule = "most_probable" if decision["rule"] == "sensitivity" else decision["rule"]
    return dict(next(row["sensitivity"] for row in decision["rules"] if row["rule"] == rule))


def markdown(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The matrix in Markdown, a line each: the metrics, then the verdicts on the promises, then the conventions."""
    yield f"| model | fitted on | dataset | images (lesions) | {' | '.join(METRICS.values())} |"
    yield f"|---|---|---|---:|{'---:|' * len(METRICS)}"
    for row in rows:
        if "why" in row:
            yield f"| {cell(row['model'])} | | {cell(row['dataset'])} | not scored: {cell(row['why'])} |" + " |" * len(
                METRICS
            )
            continue
        same = {True: "; **images of the same archive**", False: "; another archive", None: ""}[row["same_archive"]]
        fitted = f"{cell(', '.join(row['fitted_on'])) or 'not known'}{same}"
        numbers = [Number.read(row[name]).text() for name in METRICS]
        size = f"{row['n']:,} ({row['n_groups']:,})"
        yield f"| {cell(row['model'])} | {fitted} | {cell(row['dataset'])} | {size} | {' | '.join(numbers)} |"
    yield from ("", CONVENTIONS)
    for row in rows:
        if row.get("left_out"):
            yield ""
            yield (
                f"{row['left_out']:,} images of {row['dataset']} are left out for {row['model']}, which does not know "
                f"their classes: {', '.join(row['left_out_classes'])}."
            )
    promises = list(dict.fromkeys(promise for row in rows for promise in row.get("verdicts", {})))
    if not promises:
        return
    yield from ("", "## Promises", "", f"| model | dataset | {' | '.join(map(cell, promises))} |")
    yield "|---|---|" + "---|" * len(promises)
    for row in (row for row in rows if row.get("verdicts")):
        verdicts = [row["verdicts"].get(promise, "–") for promise in promises]
        yield f"| {cell(row['model'])} | {cell(row['dataset'])} | {' | '.join(verdicts)} |"
    yield from ("", *OF_PROMISES.values())
