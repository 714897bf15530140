"""Many images through one model: a row each, also for those that cannot be read, and the same as CSV."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from answering import classify_many
from archives import Entry
from classifier import Classifier
from image_files import ImageUnusableError
from page_images import thumbnail
from PIL import Image
from queueing import in_turn

# No key of an answer begins with it, so no class name can make a column that an answer has already.
PROBABILITY = "prob_"
AT_ONCE = 8  # images in one pass of the model: enough to keep two cores busy, little memory
# Larger images than this are classified one by one, so that no eight of them are in memory together.
LARGE_PIXELS = 6_000_000
# A batch is worked at for minutes, not hours: 200 photographs of 6 million, or 30 of the largest there may be.
MOST_PIXELS_TOGETHER = 1_200_000_000
TOO_MANY_TOGETHER = (
    f"It was not classified: the images before it have {MOST_PIXELS_TOGETHER / 1e6:,.0f} million pixels together, and "
    "no more are taken at a time. Send it with the next ones."
)
# A spreadsheet takes a cell that begins with one of these for a formula; the last four are the full-width forms.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# Line separators, and characters that change the direction of the text around them.
_INVISIBLE = frozenset("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Row:
    """One file of a batch: its answer, or why there is none.

    Attributes:
        name: of the file.
        answer: as ``classify`` gives it; None where the file could not be read.
        error: what is wrong with the file; None where there is an answer.
        image: thumbnail as a data URI; empty where there is none.
    """

    name: str
    answer: dict[str, Any] | None = None
    error: str | None = None
    image: str = ""


@in_turn
def classify_files(
    entries: Sequence[Entry], classifier: Classifier, read: Callable[[Entry], Image.Image]
) -> Iterator[list[Row]]:
    """The rows of a batch, a few at a time, in the order of the entries. A file that cannot be read is a row too.

    Between those few rows other requests have their turn.

    Args:
        entries: the files.
        classifier: which model.
        read: the pixels of a file, or an ImageUnusableError.
    """
    waiting: list[tuple[Entry, Image.Image | None, str | None]] = []
    pixels = together = 0
    for entry in entries:
        image, error = None, None
        if together >= MOST_PIXELS_TOGETHER:
            error = TOO_MANY_TOGETHER
        else:
            try:
                image = read(entry)
                pixels += image.width * image.height
                together += image.width * image.height
            except ImageUnusableError as problem:
                error = str(problem)
        waiting.append((entry, image, error))
        if len(waiting) >= AT_ONCE or pixels > LARGE_PIXELS:
            yield _rows(waiting, classifier)
            waiting, pixels = [], 0
    if waiting:
        yield _rows(waiting, classifier)


def _rows(waiting: list[tuple[Entry, Image.Image | None, str | None]], classifier: Classifier) -> list[Row]:
    images = [image for _, image, _ in waiting if image is not None]
    try:
        answers: list[Any] = classify_many(images, classifier) if images else []
    except ImageUnusableError:
        answers = [_alone(image, classifier) for image in images]  # one of them spoils the batch: find out which
    found = iter(answers)
    rows = []
    for entry, image, error in waiting:
        answer = next(found) if image is not None else None
        if isinstance(answer, str):
            answer, error = None, answer
        rows.append(Row(entry.name, answer, error, thumbnail(image) if image is not None else ""))
    return rows


def _alone(image: Image.Image, classifier: Classifier) -> dict[str, Any] | str:
    try:
        return classify_many([image], classifier)[0]
    except ImageUnusableError as error:
        return str(error)


def as_table(rows: Sequence[Row], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Rows as flat dictionaries of one set of keys. Of a declined image no class, no probability."""
    table = []
    for row in rows:
        answer = row.answer or {}
        declined = bool(answer.get("abstain"))
        shown = {} if declined else answer
        names = shown.get("prediction_set")
        table.append(
            {
                "image": row.name,
                "declined": None if row.answer is None or answer.get("abstain") is None else declined,
                "reason": "unreadable" if row.error else answer.get("reason"),
                "predicted": shown.get("predicted"),
                "band": shown.get("band"),
                "prediction_set": None if names is None else _spaced(names),
                "malignancy": answer.get("malignancy"),
                "p_malignant": shown.get("p_malignant"),
                "predictive_entropy": shown.get("predictive_entropy"),
                "aleatoric": shown.get("aleatoric"),
                "epistemic": shown.get("epistemic"),
                "ood_score": answer.get("ood_score"),
                "is_ood": answer.get("is_ood"),
                **{f"{PROBABILITY}{label}": (shown.get("probabilities") or {}).get(label) for label in labels},
                "model": answer.get("model"),
                "error": row.error,
            }
        )
    return table


def as_csv(table: Sequence[dict[str, Any]]) -> str:
    """A table as CSV; a text that a spreadsheet would run as a formula gets a leading apostrophe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([_cell(name) for name in (table[0] if table else ["image"])])
    writer.writerows([_cell(value) for value in row.values()] for row in table)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) == "Cc" or char in _INVISIBLE else char
        for char in str(value)
    )
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def _spaced(names: Sequence[str]) -> str:
    """Names separated by spaces; a name that holds a space or a quote is in double quotes."""
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=" ", lineterminator="").writerow(names)
    return buffer.getvalue()
