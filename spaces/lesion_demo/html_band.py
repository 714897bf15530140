"""What is seen first of an answer, as HTML: the band's sign, its word, the promise, and what was measured of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from classifier import Classifier
from measured import measured
from words import band_title, clash, promise, state, what_was_measured, why_declined, why_no_promise

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
    """Sign, word, promise, and what was measured; the first thing to be seen."""
    name = state(answer)
    eyebrow = "No class is given" if name == "declined" else "How uncertain is it?"
    own_id = ' id="declined"' if name == "declined" else ""
    steps = ""
    for step in _STEPS:
        now = ' class="now" aria-current="true"' if step == name else ""
        steps += f"<li{now}>{step}{', declines' if step == 'high' else ''}</li>"
    scale = f'<ol class="steps" aria-label="Uncertainty, in three bands">{steps}</ol>' if name in _STEPS else ""
    return (
        f'<div class="band {escape(name)}" id="band">{shape(name if name in _SHAPES else "none")}'
        f'<div><p class="eyebrow">{eyebrow}</p><h2{own_id}>{escape(band_title(answer))}</h2>'
        f"{what_stands_behind(answer, classifier)}{scale}</div></div>"
    )


def what_stands_behind(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The promise of a band and what was measured of it; why there is none, or why it declines."""
    name = state(answer)
    if name == "declined":
        said = why_declined(answer)
    elif name == "none":
        said = why_no_promise(answer)
    else:
        said = promise(classifier.trust, name) or str(answer.get("message") or "")
    found = measured(classifier, name) if name in _STEPS else None
    line = (
        ""
        if found is None
        else f'<p class="promise measured">{_unbroken(what_was_measured(found, name, classifier.at_risk_name))}</p>'
    )
    return f'<p class="promise">{_unbroken(said)}</p>{line}'


def clash_box(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """A loud box where the prediction set leaves out the class that is named; else nothing."""
    found = clash(answer, classifier.long_names)
    if found is None:
        return ""
    heading, said = found
    return f'<div class="clash" role="note"><h4>But: {escape(heading)}</h4><p>{escape(said)}</p></div>'


def _unbroken(text: str) -> str:
    """Text, escaped, in which no line ends between a number and its percent sign."""
    return re.sub(r"([\d.]+ %)", r'<span class="whole">\1</span>', escape(text))
