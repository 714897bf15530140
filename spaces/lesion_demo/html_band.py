"""What is seen first of an answer, as HTML: sign and word of its band, what was measured, a fold for the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from classifier import Classifier
from measured import least_percent, measured
from words import (
    BAND_TITLES,
    NOT_MEASURED_SENTENCE,
    band_title,
    clash,
    promise,
    set_promise,
    state,
    what_was_counted,
    what_was_measured,
    why_declined,
    why_no_promise,
)

# One shape a band, so that it is read without colours, with one, two or no steps of three filled; no tick and no
# cross, since low uncertainty is not low risk. The barred octagon declines, the dashed ring promises nothing.
_STEPS_IN = '<path class="{0}" d="M19 36v9"/><path class="{1}" d="M32 28v17"/><path class="{2}" d="M45 20v25"/>'
_SHAPES = {
    "low": '<circle cx="32" cy="32" r="29"/>' + _STEPS_IN.format("mark", "faint", "faint"),
    "moderate": '<path d="M32 1l31 31-31 31L1 32z"/>' + _STEPS_IN.format("mark", "mark", "faint"),
    "high": '<path d="M20 3h24l17 17v24L44 61H20L3 44V20z"/><path class="mark" d="M18 32h28"/>',
    "none": '<circle class="open" cx="32" cy="32" r="27"/><path class="ink" d="M20 32h24"/>',
    "tick": '<circle cx="32" cy="32" r="28"/><path class="mark" d="M19 33l9 9 18-20"/>',
}
_SHAPES["declined"] = _SHAPES["high"]
_STEPS = ("low", "moderate", "high")


def shape(name: str) -> str:
    """A sign for the eye only: the word stands beside it."""
    return f'<svg class="sign" viewBox="0 0 64 64" aria-hidden="true" focusable="false">{_SHAPES[name]}</svg>'


def band(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """Sign, rating, and what was measured of it; the first thing to be seen."""
    name = state(answer)
    eyebrow = "No class is given" if name == "declined" else "Rating of this answer"
    own_id = ' id="declined"' if name == "declined" else ""
    steps = ""
    for step in _STEPS:
        now = ' class="now" aria-current="true"' if step == name else ""
        steps += f"<li{now}>{BAND_TITLES[step].lower()}</li>"
    scale = f'<ol class="steps" aria-label="Rating, in three steps">{steps}</ol>' if name in _STEPS else ""
    return (
        f'<div class="band {escape(name)}" id="band">{shape(name if name in _SHAPES else "none")}'
        f'<div><p class="eyebrow">{eyebrow}</p><h2{own_id}>{escape(band_title(answer))}</h2>'
        f"{what_stands_behind(answer, classifier)}{scale}</div></div>"
    )


def what_stands_behind(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """What was measured of a band, and the guarantee in a fold; why there is none, or why it declines."""
    name = state(answer)
    if name not in _STEPS:
        sentence = why_declined(answer, classifier.groups) if name == "declined" else why_no_promise(answer)
        return f'<p class="promise">{_unbroken(sentence)}</p>'
    sentence = _strong(rating_in_words(answer, classifier))
    return f'<p class="promise measured">{sentence}</p>{_how_known(answer, classifier)}'


def rating_in_words(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """What was measured of the answer's band, in plain words; that nothing was, where nothing was."""
    found = measured(classifier, state(answer))
    return NOT_MEASURED_SENTENCE if found is None else what_was_measured(found, classifier.at_risk_name)


def guarantee(answer: Mapping[str, Any], classifier: Classifier) -> list[str]:
    """The sentences behind "How is this known?": limit, what was counted, and what the prediction set holds."""
    name = state(answer)
    found = measured(classifier, name)
    holds = set_promise(classifier.trust, classifier.long_names)
    sentences = [
        promise(classifier.trust, name),
        what_was_counted(found, classifier.trust, name) if found is not None else None,
        f"Classes that cannot be ruled out: {holds[:1].lower()}{holds[1:]}" if holds else None,
    ]
    return [text for text in sentences if text]


def _how_known(answer: Mapping[str, Any], classifier: Classifier) -> str:
    items = "".join(f"<p>{_unbroken(text)}</p>" for text in guarantee(answer, classifier))
    return f'<details class="known"><summary>How is this known?</summary>{items}</details>' if items else ""


def clash_box(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """A loud box where the prediction set leaves out the class that is named; else nothing."""
    found = clash(answer, classifier.long_names, classifier.groups, least_percent(classifier))
    if found is None:
        return ""
    heading, sentence = found
    return f'<div class="clash" role="note"><h3>{escape(heading)}</h3><p>{_unbroken(sentence)}</p></div>'


def _unbroken(text: str) -> str:
    """Text, escaped, in which no line ends between a number and its percent sign."""
    return re.sub(r"([\d.]+ %)", r'<span class="whole">\1</span>', escape(text))


def _strong(text: str) -> str:
    """Text, escaped, with its shares in bold and unbroken."""
    return re.sub(r"(\d+ (?:in|of) \d+)", r'<b class="whole">\1</b>', escape(text))
