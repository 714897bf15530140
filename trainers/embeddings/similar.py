"""Similar cases of one image, how good they are on a whole split, and a gallery of them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from datasets_scripts.images import open_image
from datasets_scripts.output import written_whole
from datasets_scripts.rows import Columns
from trainers.embeddings.cases import Cases, load_cases
from trainers.embeddings.gallery import at_most_per_class, build_gallery
from trainers.embeddings.index import CaseIndex, check_faiss, check_k
from trainers.embeddings.query import answer_query, find_query
from trainers.embeddings.representations import Encoder, encode, load_classifier
from trainers.embeddings.retrieval import (
    CSV_NAME,
    FIGURE_NAME,
    MARKDOWN_NAME,
    draw_retrieval,
    lesion_shares,
    precision_at_k,
    retrieval_csv,
    retrieval_markdown,
)
from trainers.embeddings.search import described, own_groups, search
from trainers.evaluation.figures.charts import DPI, FOLDER, INK, LOOK, ORANGE, QUIET, save_figure
from trainers.model_folder.data import Splits
from trainers.model_folder.folder import load_splits_of
from trainers.model_folder.output import check_empty
from trainers.model_folder.provenance import origin

COLUMNS = 4
DECLINED = "Declined: the model does not know images like this one. The cases are near in numbers, not similar."
SCHEMA_VERSION = 1
RESULT_NAME, SHEET_NAME, REPORT_NAME = "similar.json", "similar.png", "report.json"
QUERIES_AT_ONCE = 500


@dataclass(frozen=True)
class Settings:
    """The options of the command with the same names."""

    dataset: str
    config_name: str = "grouped"
    columns: Columns | None = None
    split: str = "train"
    per_class: int | None = None
    k: int = 8
    seed: int = 0
    batch_size: int = 64


@dataclass(frozen=True)
class Prepared:
    """Dataset, index and model, checked before the first image is read.

    Attributes:
        splits: the dataset.
        cases: of the index.
        encoder: the model.
    """

    splits: Splits
    cases: Cases
    encoder: Encoder

    def features(self, settings: Settings) -> np.ndarray:
        """(N, D) of the cases."""
        return encode(self.encoder, self.cases, batch_size=settings.batch_size)


def prepare(model: str, settings: Settings) -> Prepared:
    """Load dataset and model, and refuse what cannot work.

    Raises:
        UserError: no such dataset, split or model; the model looks at no image, or has other labels.
    """
    splits = load_splits_of(model, settings.dataset, settings.config_name, columns=settings.columns)
    cases = at_most_per_class(load_cases(splits, settings.split), settings.per_class, settings.seed)
    encoder = load_classifier(model)
    labels = encoder.model.config.labels
    return Prepared(splits.in_order(labels), cases.in_order(labels), encoder)


def similar(model: str, image: str, settings: Settings, out: Path | None = None) -> dict[str, Any]:
    """The k most similar cases of one image; with ``out`` also as similar.json and similar.png.

    Args:
        model: folder or Hub id.
        image: a file, or an ``image_id`` of the dataset.
        settings: of the index.
        out: absent or empty folder, or None.

    Raises:
        UserError: whatever the user can fix.
    """
    check_faiss()
    if out is not None:
        check_empty(out, "--out")
    ready = prepare(model, settings)
    query = find_query(image, ready.splits)
    check_k(settings.k, ready.cases.group_id, set() if query.group_id is None else {query.group_id})
    output = answer_query(ready.encoder, query)
    own = own_groups(query, ready.splits)
    check_k(settings.k, ready.cases.group_id, own.groups)
    index = CaseIndex(ready.features(settings), ready.cases.group_id)
    found = search(index, ready.cases, own, output.features, settings.k)
    result = described(query, output, found, ready.cases, dict(ready.encoder.model.config.label_names))
    result |= {"index": about(ready), "origin": origin()}
    if out is not None:
        images = images_of([ready.cases.stored(case.row) for case in found.found])
        with written_whole(out) as folder:
            _write_json(folder / RESULT_NAME, result)
            write_sheet(draw_sheet(result, query.image, images, ready.encoder.name), folder / SHEET_NAME)
    return result


def evaluate(
    model: str, query_split: str, settings: Settings, out: Path | None = None, replicates: int = 1000
) -> dict[str, Any]:
    """Precision at 1 and at k of every image of a split as a query; with ``out`` also as report, tables and a chart.

    Args:
        model: folder or Hub id.
        query_split: whose images are the queries.
        settings: of the index.
        out: absent or empty folder, or None.
        replicates: resamples of the intervals.

    Raises:
        UserError: whatever the user can fix.
    """
    check_faiss()
    if out is not None:
        check_empty(out, "--out")
    ready = prepare(model, settings)
    queries, cases = load_cases(ready.splits, query_split), ready.cases
    # The strictest query is one whose own lesion stands in the index.
    both = set(queries.group_id.tolist()) & set(cases.group_id.tolist())
    check_k(settings.k, cases.group_id, {next(iter(both))} if both else set())
    index = CaseIndex(ready.features(settings), cases.group_id)
    vectors = encode(ready.encoder, queries, batch_size=settings.batch_size)
    found = np.zeros((len(queries), settings.k), dtype=np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        own = [{str(group)} for group in queries.group_id[rows]]
        found[rows] = [[case.row for case in of_one] for of_one in index.nearest(vectors[rows], settings.k, own)]
    report = {
        "schema_version": SCHEMA_VERSION,
        "kind": "retrieval",
        "title": f"Similar cases by {ready.encoder.name}: queries {query_split}, index {settings.split}",
        "index": about(ready),
        "queries": {
            "split": query_split,
            "n": len(queries),
            "n_groups": queries.n_groups,
            "per_class": queries.counts(),
        },
        "precision_at_k": measure(cases.label[found], queries, cases, replicates, settings.seed),
        "notes": notes(ready, bool(both), settings.per_class),
        "origin": origin(),
    }
    if out is not None:
        write_report(report, out)
    return report


def measure(found: np.ndarray, queries: Cases, cases: Cases, replicates: int, seed: int) -> list[dict[str, Any]]:
    """Precision at 1 and at k.

    Args:
        found: (Q, k) class indices of the cases found, the nearest first.
        queries: the Q queries.
        cases: of the index.
        replicates: resamples of the intervals.
        seed: of the resamples.
    """
    shares = lesion_shares(cases.label, cases.group_id, len(cases.labels))
    return [
        precision_at_k(
            found[:, :k], queries.label, queries.group_id, cases.labels, shares, replicates=replicates, seed=seed
        )
        for k in sorted({1, found.shape[1]})
    ]


def gallery(model: str, settings: Settings, out: Path) -> dict[str, Any]:
    """Write a gallery folder; returns what its gallery.json says.

    Raises:
        UserError: whatever the user can fix.
    """
    check_empty(out, "--build_gallery")
    ready = prepare(model, settings)
    return build_gallery(ready.cases, ready.features(settings), ready.encoder, out)


def about(ready: Prepared) -> dict[str, Any]:
    """Of which dataset and model an index is."""
    cases, encoder = ready.cases, ready.encoder
    return {
        "model": {"name": encoder.name, "commit": encoder.commit},
        "dataset": {"name": cases.splits.name, "config_name": cases.splits.config_name, "split": cases.split},
        "n": len(cases),
        "n_groups": cases.n_groups,
        "per_class": cases.counts(),
        "similarity": "cosine",
    }


def notes(ready: Prepared, shared: bool, per_class: int | None) -> list[str]:
    """What a reader of the numbers must know.

    Args:
        ready: dataset, index and model.
        shared: whether a query has its lesion in the index.
        per_class: images per class that the index was cut to; None = it was not.
    """
    lines = [
        "A case counts as right where its label is the query's; a lesion is found once, a query's own lesion and its "
        "near-duplicates never. Intervals are 95 % by the queries' lesions, the index as it is; chance is the class's "
        "share among the lesions of the index.",
        "Not a medical device: similar is no diagnosis.",
    ]
    if ready.cases.splits.ids.get("column") != "group_id":
        lines.append("The dataset has no group_id: duplicates under two lesion ids may flatter these numbers.")
    if per_class is not None:
        lines.append(
            f"The index was cut to {per_class} images per class, so that the rare classes weigh more than they do."
        )
    if shared:
        lines.append(
            "Some queries have their lesion in the index. It was left out for each, but a model trained on the index "
            "knows these lesions: the numbers are no evidence."
        )
    return lines


def write_report(report: dict[str, Any], out: Path) -> None:
    """Write report, tables and chart into ``out``, which appears whole."""
    where = report["index"]["dataset"]
    with written_whole(out) as folder:
        (folder / FOLDER).mkdir()
        title = f"Similar cases: {where['name']} ({where['config_name']}), queries {report['queries']['split']}"
        figure = draw_retrieval(report["precision_at_k"][-1], f"{title}, index {where['split']}")
        caption = "Precision at k by class, with 95 % intervals by lesion, beside a draw without looking."
        report["figures"] = [save_figure(figure, folder, FIGURE_NAME, caption)]
        (folder / CSV_NAME).write_text(retrieval_csv(report["precision_at_k"]), encoding="utf-8", newline="")
        (folder / MARKDOWN_NAME).write_text(retrieval_markdown(report), encoding="utf-8")
        _write_json(folder / REPORT_NAME, report)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


@style.context(LOOK)
def draw_sheet(result: Mapping[str, Any], image: Image.Image, cases: Sequence[Image.Image], model: str) -> Figure:
    """The sheet.

    Args:
        result: of ``search.described``.
        image: the query.
        cases: the k cases' images, the nearest first.
        model: its name.
    """
    columns = min(COLUMNS, len(cases))
    rows = -(-len(cases) // columns)
    figure = Figure(figsize=(3.3 + 2.3 * columns, 1.2 + 2.05 * max(rows, 1.8)), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[3.3, 2.3 * columns])[0]
    _show(left.subplots(), image)
    answer, query = result["answer"], result["query"]
    verdict = (
        "declined"
        if answer["is_ood"]
        else f"{answer['predicted']} ({answer['probabilities'][answer['predicted']]:.2f})"
    )
    known = f"{query['split']} split, labelled {query['label']}" if query["split"] else "a file"
    head = left.axes[0]
    head.set_title("Query", fontsize=11, pad=6)
    lines = [_short(query["image"], 30), known, f"{model}: {verdict}"]
    head.text(
        0, -0.05, "\n".join(textwrap.fill(line, 36) for line in lines), va="top", transform=head.transAxes, size=9
    )
    if answer["is_ood"]:
        figure.suptitle(DECLINED, fontsize=10.5, color=ORANGE, weight="bold", x=0.01, ha="left")
    grid = right.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes, shown, case in zip(grid, cases, result["cases"], strict=False):
        _show(axes, shown)
        axes.set_title(f"{case['rank']}. {case['label']}", fontsize=11, pad=4)
        text = f"cosine {case['cosine']:.3f}\n{_short(case['image_id'], 24)}"
        axes.text(0, -0.04, text, va="top", transform=axes.transAxes, fontsize=8, color=QUIET, linespacing=1.35)
    for axes in grid[len(cases) :]:
        axes.set_axis_off()
    figure.supxlabel(_credit(result), fontsize=7.5, color=QUIET, x=0.01, ha="left")
    return figure


def write_sheet(figure: Figure, path: Path) -> None:
    """Write it as PNG."""
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def images_of(stored: Sequence[bytes]) -> list[Image.Image]:
    """Image files as RGB images."""
    return [open_image(data).convert("RGB") for data in stored]


def _show(axes: Axes, image: Image.Image) -> None:
    axes.imshow(np.asarray(image))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=INK, linewidth=0.6)


def _credit(result: Mapping[str, Any]) -> str:
    credits = sorted({(case["attribution"], case["license"]) for case in result["cases"]})
    text = "Cases: " + "; ".join(f"{attribution} ({licence})" for attribution, licence in credits)
    return "\n".join([textwrap.shorten(text, 220), "Research software, not a medical device: similar is no diagnosis."])


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
