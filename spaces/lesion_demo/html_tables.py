"""Many answers as a sortable table, as HTML. Pure; everything from outside is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from classifier import Classifier
from html_answer import still_possible
from html_band import shape
from many import Row
from measured import least_percent, measured
from words import BAND_TITLES, at_risk_first, band_title, chance, clash, state, what_was_measured, why_declined

# Order of the ratings when a table is sorted by them.
_RANK = {"low": 0, "moderate": 1, "high": 2, "none": 3, "declined": 4}


def no_files() -> str:
    """What stands where the table will be."""
    return (
        '<section class="panel empty small-empty"><p><b>Choose several images or a zip archive.</b></p>'
        "<p>Each becomes a row: class, what cannot be ruled out, and the rating, or that it is not answered. Files "
        "that cannot be read are listed and hold nothing up.</p></section>"
    )


def progress(done: int, total: int) -> str:
    """How far a batch is."""
    share = 100 * done / total if total else 100
    return (
        f'<div class="progress"><p>{done} of {total} files</p><div class="meter total" role="progressbar" '
        f'aria-label="Files done" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}">'
        f'<span style="width:{share:.1f}%"></span></div></div>'
    )


def table(rows: Sequence[Row], classifier: Classifier, total: int, csv_text: str | None = None) -> str:
    """A sortable table of the rows so far.

    Args:
        rows: done so far.
        classifier: which model.
        total: how many files there are.
        csv_text: the same as CSV, to download; None while not all are done.
    """
    counts = _counts(rows)
    summary = ", ".join(f"<b>{amount}</b> {name}" for name, amount in counts.items())
    link = ""
    if csv_text is not None:
        data = base64.b64encode(csv_text.encode("utf-8")).decode("ascii")
        link = (
            f'<a class="download" id="csv" download="answers.csv" href="data:text/csv;base64,{data}">Download CSV</a>'
        )
    head = progress(len(rows), total) if csv_text is None else ""
    # The class first: on a phone only the first columns are in view, and a rating without its class misleads.
    columns = (
        ("Most likely class", "text"),
        ("Rating", "number"),
        (classifier.at_risk_name.capitalize(), "number"),
        ("Cannot be ruled out", "number"),
        ("Probability of the class", "number"),
        ("File", "text"),
    )
    heads = '<th scope="col"><span class="spoken">Image</span></th>' + "".join(
        f'<th scope="col" aria-sort="none"><button type="button" data-sort="{kind}">{name}</button></th>'
        for name, kind in columns
    )
    body = "".join(_row(row, classifier) for row in rows)
    ready = csv_text is not None
    spoken = (
        f"<p hidden data-spoken>{', '.join(f'{amount} {name}' for name, amount in counts.items())}.</p>"
        if ready
        else ""
    )
    return (
        f'<section class="panel many" data-done="{str(ready).lower()}">{head}<div class="summary">'
        f"<p>{summary}</p>{link}</div>{_legend(rows, classifier)}"
        '<div class="scroll" tabindex="0" role="region" aria-label="Answers">'
        f'<table class="answers"><thead><tr>{heads}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>{spoken}</section>"
    )


def _counts(rows: Sequence[Row]) -> dict[str, int]:
    """How many rows have each rating, in the words of the page; that of unrated answers only where there are some."""
    counts = {"answered": 0, "uncertain": 0, "not answered": 0, "without a rating": 0, "not readable": 0}
    for row in rows:
        name = BAND_TITLES.get(state(row.answer), "Not answered") if row.answer is not None else "Not readable"
        if row.answer is not None and state(row.answer) == "none":
            name = "Without a rating"
        counts[name.lower()] += 1
    if not counts["without a rating"]:
        del counts["without a rating"]
    return counts


def _legend(rows: Sequence[Row], classifier: Classifier) -> str:
    """What was measured of each rating that occurs in the table."""
    seen = {state(row.answer) for row in rows if row.answer is not None}
    lines = ""
    for name in ("low", "moderate"):
        found = measured(classifier, name) if name in seen else None
        if found is not None:
            sentence = what_was_measured(found, classifier.at_risk_name)
            lines += f"<li><b>{BAND_TITLES[name]}</b>: {escape(sentence)}</li>"
    return f'<ul class="legend">{lines}</ul>' if lines else ""


def _row(row: Row, classifier: Classifier) -> str:
    """A row; what it does not have has an empty key, by which it is sorted last."""
    image = f'<img src="{row.image}" alt="" width="48" height="48">' if row.image else '<span class="nothing"></span>'
    name = f'<td class="file">{escape(row.name)}</td>'
    if row.answer is None:
        return f'<tr class="unreadable"><td>{image}</td>{_instead("Not readable", row.error or "")}{name}</tr>'
    kind = state(row.answer)
    if kind == "declined":
        why = why_declined(row.answer, classifier.groups)
        return f'<tr class="declined"><td>{image}</td>{_instead(band_title(row.answer), why)}{name}</tr>'
    rating = (
        f'<td data-key="{_RANK.get(kind, 5)}"><span class="tag {escape(kind)}">'
        f"{shape(kind)}{escape(band_title(row.answer).lower())}</span></td>"
    )
    least = least_percent(classifier)
    p, at_risk = max(row.answer["probabilities"].values()), row.answer.get("p_malignant")
    return (
        f"<tr><td>{image}</td>{_class(row.answer, classifier)}{rating}{_share(at_risk, least)}{_set(row, classifier)}"
        f"{_share(p, least)}{name}</tr>"
    )


def _class(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The class, with what else cannot be ruled out; where the set leaves the class out, the set instead of it."""
    named = classifier.long_names[str(answer["predicted"])]
    against = clash(answer, classifier.long_names, classifier.groups)
    if against:
        return (
            f'<td class="class" data-key="{escape(named)}"><strong class="against">{escape(against[0])}</strong>'
            f'<span class="small">most likely: {escape(named)}</span></td>'
        )
    others = still_possible(answer, classifier)
    loud = f'<strong class="against">{escape(others)}</strong>' if others else ""
    return f'<td class="class" data-key="{escape(named)}"><b>{escape(named)}</b>{loud}</td>'


def _instead(title: str, why: str) -> str:
    """Why there is neither class nor rating nor probability nor set."""
    return f'<td class="class why" colspan="5" data-key=""><div><b>{escape(title)}</b> {escape(why)}</div></td>'


def _share(p: float | None, least: int) -> str:
    if p is None:
        return '<td class="number" data-key=""></td>'
    return f'<td class="number" data-key="{p:.9f}">{escape(chance(p, least))}</td>'


def _set(row: Row, classifier: Classifier) -> str:
    """The prediction set, those at risk first, sorted by its size."""
    answer = row.answer or {}
    names = answer.get("prediction_set")
    if names is None:
        return '<td data-key=""></td>'
    listed = ", ".join(classifier.long_names[name] for name in at_risk_first(names, answer, classifier.groups))
    return f'<td class="set-cell" data-key="{len(names)}">{escape(listed)}</td>'
