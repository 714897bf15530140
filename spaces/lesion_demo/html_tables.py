"""Many answers as a sortable table, as HTML. Pure; everything from outside is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from classifier import Classifier
from html_band import shape
from many import Row
from words import clash, percent, state, why_declined

# Order of the bands when a table is sorted by them.
_RANK = {"low": 0, "moderate": 1, "high": 2, "none": 3, "declined": 4}
_SHORT = {
    "low": "low uncertainty",
    "moderate": "moderate uncertainty",
    "high": "high uncertainty",
    "none": "no promise",
    "declined": "declined",
}


def no_files() -> str:
    """What stands where the table will be."""
    return (
        '<section class="panel empty small-empty"><p><b>Choose several pictures or a zip archive.</b></p>'
        "<p>Each becomes a row: band, class, probability, or that the model declines. Files that cannot be read are "
        "listed and hold nothing up.</p></section>"
    )


def progress(done: int, total: int) -> str:
    """How far a batch is."""
    share = 100 * done / total if total else 100
    return (
        f'<div class="progress"><p>{done} of {total} files</p><div class="meter total" role="progressbar" '
        f'aria-label="Files looked at" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}">'
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
    unreadable = [row for row in rows if row.error]
    declined = sum(bool((row.answer or {}).get("abstain")) for row in rows)
    answered = len(rows) - declined - len(unreadable)
    summary = f"<b>{answered}</b> answered, <b>{declined}</b> declined, <b>{len(unreadable)}</b> not readable"
    link = ""
    if csv_text is not None:
        data = base64.b64encode(csv_text.encode("utf-8")).decode("ascii")
        link = (
            f'<a class="download" id="csv" download="answers.csv" href="data:text/csv;base64,{data}">Download CSV</a>'
        )
    head = progress(len(rows), total) if csv_text is None else ""
    columns = (
        ("File", "text"),
        ("Band", "number"),
        ("Most likely class", "text"),
        ("Probability", "number"),
        (classifier.at_risk_name.capitalize(), "number"),
        ("Cannot be ruled out", "number"),
    )
    heads = '<th scope="col"><span class="spoken">Picture</span></th>' + "".join(
        f'<th scope="col" aria-sort="none"><button type="button" data-sort="{kind}">{name}</button></th>'
        for name, kind in columns
    )
    body = "".join(_row(row, classifier) for row in rows)
    ready = csv_text is not None
    spoken = (
        f"<p hidden data-spoken>{answered} answered, {declined} declined, {len(unreadable)} not readable.</p>"
        if ready
        else ""
    )
    return (
        f'<section class="panel many" data-done="{str(ready).lower()}">{head}<div class="summary">'
        f"<p>{summary}</p>{link}"
        '</div><div class="scroll" tabindex="0" role="region" aria-label="Answers"><table '
        f'class="answers"><thead><tr>{heads}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>{spoken}</section>"
    )


def _row(row: Row, classifier: Classifier) -> str:
    """A row; what it does not have has an empty key, by which it is sorted last."""
    picture = (
        f'<img src="{row.picture}" alt="" width="48" height="48">' if row.picture else '<span class="nothing"></span>'
    )
    name = f'<td class="file">{escape(row.name)}</td>'
    if row.answer is None:
        return (
            f'<tr class="unreadable"><td>{picture}</td>{name}<td data-key=""><span class="tag error">not readable'
            f"</span></td>{_instead(row.error or '')}</tr>"
        )
    kind = state(row.answer)
    sign = (
        f'<td data-key="{_RANK.get(kind, 5)}"><span '
        f'class="tag {kind}">{shape(kind)}{_SHORT.get(kind, kind)}</span></td>'
    )
    if kind == "declined":
        return f'<tr class="declined"><td>{picture}</td>{name}{sign}{_instead(why_declined(row.answer))}</tr>'
    label = str(row.answer["predicted"])
    p, at_risk = max(row.answer["probabilities"].values()), row.answer.get("p_malignant")
    return (
        f"<tr><td>{picture}</td>{name}{sign}<td>{escape(classifier.long_names[label])}</td>"
        f"{_share(p)}{_share(at_risk)}{_set(row, classifier)}</tr>"
    )


def _instead(why: str) -> str:
    """Why there is neither class nor probability nor set."""
    return f'<td colspan="4" class="why" data-key="">{escape(why)}</td>'


def _share(p: float | None) -> str:
    if p is None:
        return '<td class="number" data-key=""></td>'
    return f'<td class="number" data-key="{p:.9f}">{escape(percent(p))}</td>'


def _set(row: Row, classifier: Classifier) -> str:
    """The prediction set, sorted by its size; loud where it leaves out the class that is named."""
    answer = row.answer or {}
    names = answer.get("prediction_set")
    if names is None:
        return '<td data-key=""></td>'
    listed = ", ".join(classifier.long_names[name] for name in names)
    against = clash(answer, classifier.long_names)
    loud = '<strong class="against">Not the class named:</strong> ' if against else ""
    return f'<td class="set-cell" data-key="{len(names)}">{loud}{escape(listed)}</td>'
