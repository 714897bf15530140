"""Many answers as a table, and several models side by side, as HTML. Pure; everything from outside is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from classifier import Classifier
from html_answer import bars, headline, message, shape
from many import Row
from words import BAND_TITLES, percent, promise, state, why_declined, why_no_promise

# Order of the bands when a table is sorted by them.
_RANK = {"low": 0, "moderate": 1, "high": 2, "none": 3, "declined": 4}
_SHORT = {"low": "low", "moderate": "moderate", "high": "high", "none": "no promise", "declined": "declined"}


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
        ("", None),
        ("File", "none"),
        ("Band", "none"),
        ("Most likely class", "none"),
        ("Probability", "none"),
        ("Malignant", "none"),
    )
    heads = "".join(
        f'<th scope="col" aria-sort="{sort}"><button type="button" data-sort>{name}</button></th>'
        if sort
        else '<th scope="col"><span class="spoken">Picture</span></th>'
        for name, sort in columns
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
    picture = (
        f'<img src="{row.picture}" alt="" width="48" height="48">' if row.picture else '<span class="nothing"></span>'
    )
    name = f'<td class="file">{escape(row.name)}</td>'
    if row.answer is None:
        why = escape(row.error or "")
        cells = (
            f'<td data-key="9"><span class="tag error">not readable</span></td><td colspan="3" class="why">{why}</td>'
        )
        return f"<tr class=unreadable><td>{picture}</td>{name}{cells}</tr>"
    kind = state(row.answer)
    sign = (
        f'<td data-key="{_RANK.get(kind, 5)}"><span '
        f'class="tag {kind}">{shape(kind)}{_SHORT.get(kind, kind)}</span></td>'
    )
    if kind == "declined":
        why = escape(why_declined(row.answer))
        return f'<tr class=declined><td>{picture}</td>{name}{sign}<td colspan="3" class="why">{why}</td></tr>'
    label = str(row.answer["predicted"])
    p, at_risk = max(row.answer["probabilities"].values()), row.answer.get("p_malignant")
    return (
        f"<tr><td>{picture}</td>{name}{sign}<td>{escape(classifier.long_names[label])}</td>"
        f'<td class="number" data-key="{p:.9f}">{escape(percent(p))}</td>'
        f'<td class="number" data-key="{"" if at_risk is None else f"{at_risk:.9f}"}">'
        f"{'' if at_risk is None else escape(percent(at_risk))}</td></tr>"
    )


def no_comparison() -> str:
    """What stands where the comparison will be."""
    return (
        '<section class="panel empty small-empty"><p><b>Choose a picture and at least two models.</b></p>'
        "<p>Each answers for itself, or declines; what they agree on is said above them.</p></section>"
    )


def comparison(answers: Sequence[tuple[Classifier | None, Mapping[str, Any] | str, str]]) -> str:
    """Models side by side.

    Args:
        answers: model (None where it could not be loaded), its answer or why there is none, and its title.
    """
    cards = "".join(_card(classifier, answer, title) for classifier, answer, title in answers)
    said = agreement([(title, answer) for _, answer, title in answers if not isinstance(answer, str)], answers)
    return (
        f'<section class="comparison"><p class="agreement panel" id="agreement">{escape(said)}</p>'
        f'<p hidden data-spoken>{escape(said)}</p><div class="cards">{cards}</div></section>'
    )


def _card(classifier: Classifier | None, answer: Mapping[str, Any] | str, title: str) -> str:
    name = f'<h3 class="model-name">{escape(title)}</h3>'
    if classifier is None or isinstance(answer, str):
        return f'<article class="card panel" data-state="error">{name}{message(str(answer))}</article>'
    kind = state(answer)
    if kind == "declined":
        heading, said, rest = "Declines to answer", why_declined(answer), ""
    else:
        heading = BAND_TITLES.get(kind, "No promise")
        said = why_no_promise(answer) if kind == "none" else promise(classifier.trust, kind) or ""
        rest = headline(answer, classifier) + bars(answer, classifier, most=4)
    # The page's ids belong to the first tab.
    rest = rest.replace(' id="predicted"', "")
    return (
        f'<article class="card panel" data-state="{escape(kind)}" data-model="{escape(title)}">{name}'
        f'<div class="band {escape(kind)}">{shape(kind)}<div><h4>{escape(heading)}</h4>'
        f'<p class="promise">{escape(said)}</p></div></div>{rest}</article>'
    )


def agreement(told: Sequence[tuple[str, Mapping[str, Any]]], everyone: Sequence[Any]) -> str:
    """What the models have in common, in a sentence; classes of different vocabularies are not compared."""
    answered = [(title, answer) for title, answer in told if not answer.get("abstain")]
    declined = [title for title, answer in told if answer.get("abstain")]
    failed = len(everyone) - len(told)
    parts = []
    if declined:
        parts.append("All decline." if len(declined) == len(told) > 1 else f"{_names(declined)} declined.")
    if len(answered) > 1:
        vocabularies = {tuple(answer["probabilities"]) for _, answer in answered}
        if len(vocabularies) > 1:
            parts.append("Those that answer know different classes; compare what they say of malignancy.")
        elif len({answer["predicted"] for _, answer in answered}) == 1:
            parts.append("Those that answer name the same class." if declined else "They name the same class.")
        else:
            parts.append("They name different classes: do not read more into any one of them.")
    elif len(answered) == 1 and len(told) > 1:
        parts.append(f"Only {answered[0][0]} answers.")
    if failed:
        parts.append(f"{failed} could not be asked.")
    return " ".join(parts) or "One model alone; choose another to compare with."


def _names(titles: Sequence[str]) -> str:
    return titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"
