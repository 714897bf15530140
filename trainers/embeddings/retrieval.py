"""How often similar cases are of the query's class: precision at k, by class, with intervals by lesion, beside chance.

Every image of one split is a query for its k nearest cases in another. A lesion's own images, and its near-duplicates,
are never among them, and each lesion counts once.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from datasets_scripts.sources.tables import TableWriter
from model_cards.report_view import cell
from trainers.evaluation.figures.charts import BLUE, FAINT, INK, LOOK
from trainers.metrics.intervals import bootstrap_weights, can_resample, group_strata, replicate
from trainers.metrics.number import Number, bootstrapped, plain, undefined
from trainers.metrics.weighting import mean_defined, weighted_mean

CSV_NAME, MARKDOWN_NAME, FIGURE_NAME = "precision_at_k.csv", "precision_at_k.md", "precision_at_k.png"


def lesion_shares(labels: np.ndarray, groups: np.ndarray, n_classes: int) -> np.ndarray:
    """Share of each class among the lesions of an index: (C,), sum 1; a lesion of several classes has its commonest."""
    _, strata = group_strata(groups, labels)
    return np.bincount(strata, minlength=n_classes) / len(strata)


def precision_at_k(
    found: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    index_shares: np.ndarray,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Precision at k of Q queries.

    Args:
        found: (Q, k) class indices of the cases found.
        labels: (Q,) class indices of the queries.
        groups: (Q,) group ids of the queries.
        names: the C class names.
        index_shares: (C,) share of each class among the lesions of the index: what a draw without looking gives.
        replicates: resamples of the intervals.
        seed: of the resamples.

    Returns:
        ``{"k", "n", "n_groups", "macro", "micro", "per_class", "found"}``: ``macro`` is the mean over the classes,
        ``micro`` over the queries; each number has its ``chance``. ``found[a][b]`` is the share of class b among the
        cases found for queries of class a.
    """
    hits = (found == labels[:, None]).mean(axis=1)
    weights = bootstrap_weights(groups, labels, replicates, seed) if can_resample(groups, labels) else None
    members = [labels == index for index in range(len(names))]

    def means(w: np.ndarray) -> dict[str, np.ndarray]:
        by_class = np.stack([weighted_mean(hits[of], w[:, of]) for of in members], axis=-1)
        return {"by_class": by_class, "macro": mean_defined(by_class), "micro": weighted_mean(hits, w)}

    resampled = {} if weights is None else replicate(means, weights)
    plainly = means(np.ones((1, len(labels))))
    per_class: dict[str, Any] = {}
    for index, (name, of) in enumerate(zip(names, members, strict=True)):
        counts = {"n": int(of.sum()), "lesions": len(np.unique(groups[of].astype(str)))}
        if not of.any():
            per_class[name] = {**undefined("no queries"), **counts}
            continue
        own = resampled["by_class"][:, index] if resampled else None
        number = bootstrapped(float(plainly["by_class"][0, index]), own)
        per_class[name] = {**number, "chance": plain(float(index_shares[index])), **counts}
    present = [bool(of.any()) for of in members]
    chances = {"macro": float(index_shares[present].mean()), "micro": float(index_shares[labels].mean())}
    overall = {
        name: {**bootstrapped(float(plainly[name][0]), resampled.get(name)), "chance": plain(chance)}
        for name, chance in chances.items()
    }
    counted = {"k": int(found.shape[1]), "n": len(labels), "n_groups": len(np.unique(groups.astype(str)))}
    return {**counted, **overall, "per_class": per_class, "found": composition(found, labels, names)}


def composition(found: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Of the cases found for the queries of each class that has some, the share of each class.

    Args:
        found: (Q, k) class indices of the cases.
        labels: (Q,) class indices of the queries.
        names: the C class names.
    """
    shares = {}
    for index, name in enumerate(names):
        cases = found[labels == index].reshape(-1)
        if len(cases):
            counts = np.bincount(cases, minlength=len(names)) / len(cases)
            shares[name] = {other: plain(float(share)) for other, share in zip(names, counts, strict=True)}
    return shares


def retrieval_csv(results: Sequence[Mapping[str, Any]]) -> str:
    """One line per class and k: value, low, high, chance, queries, lesions; ``(macro)`` and ``(micro)`` are means."""
    out = io.StringIO()
    writer = TableWriter(out)
    writer.writerow(["k", "class", "precision", "low", "high", "chance", "queries", "lesions"])
    for result in results:
        whole = {"n": result["n"], "lesions": result["n_groups"]}
        rows = {**result["per_class"], "(macro)": {**result["macro"], **whole}, "(micro)": {**result["micro"], **whole}}
        for name, number in rows.items():
            cells = [
                "" if number.get(key) is None else f"{number[key]:.6f}" for key in ("value", "low", "high", "chance")
            ]
            writer.writerow([result["k"], name, *cells, number["n"], number["lesions"]])
    return out.getvalue()


def retrieval_markdown(report: Mapping[str, Any]) -> str:
    """The numbers for people: precision at each k beside chance, and what is found instead."""
    results, names = report["precision_at_k"], list(report["precision_at_k"][0]["per_class"])
    head = [f"precision@{result['k']}" for result in results]
    lines = [f"# {report['title']}", "", f"| | queries (lesions) | chance | {' | '.join(head)} |"]
    lines.append("|---" * (3 + len(head)) + "|")
    for name in [*names, "macro", "micro"]:
        numbers = [result["per_class"].get(name) or result[name] for result in results]
        n = f"{numbers[0].get('n', results[0]['n']):,} ({numbers[0].get('lesions', results[0]['n_groups']):,})"
        title = {"macro": "mean over classes", "micro": "mean over queries"}.get(name, cell(name))
        chance = "n/a" if numbers[0].get("chance") is None else f"{numbers[0]['chance']:.3f}"
        lines.append(f"| {title} | {n} | {chance} | {' | '.join(Number.read(number).text() for number in numbers)} |")
    last = results[-1]
    lines += ["", f"Of the {last['k']} cases found for a query of the class on the left, the share of each class:", ""]
    lines += [f"| | {' | '.join(map(cell, names))} |", "|---" * (1 + len(names)) + "|"]
    for name, shares in last["found"].items():
        lines.append(f"| {cell(name)} | {' | '.join(f'{shares[other]:.2f}' for other in names)} |")
    lines += ["", *(f"- {note}" for note in report["notes"]), "", f"    {report['origin']['command']}", ""]
    return "\n".join(lines)


def print_precision(report: dict[str, Any]) -> None:
    """Print precision by class."""
    for result in report["precision_at_k"]:
        print(f"precision@{result['k']}, {result['n']:,} queries of {result['n_groups']:,} lesions:")
        rows = {**result["per_class"], "mean over classes": result["macro"], "mean over queries": result["micro"]}
        for name, number in rows.items():
            if number["value"] is not None:
                print(f"  {name:<18} {Number.read(number).text()}, chance {number['chance']:.3f}")


@style.context(LOOK)
def draw_retrieval(result: Mapping[str, Any], title: str) -> Figure:
    """Precision at k of each class with its interval, and what chance gives, as a dot chart; no image of anybody."""
    rows = [(name, number) for name, number in result["per_class"].items() if number["value"] is not None]
    rows.append(("mean over classes", result["macro"]))
    figure = Figure(figsize=(7.4, 1.9 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, number) in enumerate(rows):
        colour = INK if place == len(rows) - 1 else BLUE
        if number["low"] is not None:
            axes.plot([number["low"], number["high"]], [place, place], color=colour, lw=1.8, solid_capstyle="butt")
        axes.plot(number["value"], place, "o", color=colour, markersize=7, markeredgecolor="white", zorder=3)
        axes.plot(number["chance"], place, "|", color=INK, markersize=12, markeredgewidth=1.4)
        where = (number["high"] or number["value"], place)
        text = f"{number['value']:.2f}"
        axes.annotate(text, where, xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5)
    names = [f"{name} (n = {number['n']:,})" if "n" in number else name for name, number in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(f"Share of the {result['k']} most similar cases that are of the query's class")
    handles = [
        Line2D([], [], color=BLUE, marker="o", label="95 % interval by lesion"),
        Line2D([], [], color=INK, marker="|", ls="", markersize=12, markeredgewidth=1.4, label="drawn without looking"),
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=2, fontsize=9)
    figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", color=INK)
    return figure
