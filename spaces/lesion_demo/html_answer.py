"""One answer as HTML: band first, then class, probabilities, set, uncertainty, gate. Pure; all is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from answering import entropy_share
from classifier import AT_RISK, Classifier
from words import (
    GLOSSARY,
    NOT_A_DEVICE,
    PRIVACY,
    WHAT_TO_DO,
    band_title,
    percent,
    promise,
    set_promise,
    state,
    why_declined,
    why_no_promise,
)

# One shape a band, so that it is read without colours: ticked disc, waved diamond, barred octagon, dashed ring.
_SHAPES = {
    "low": '<circle cx="32" cy="32" r="28"/><path class="mark" d="M19 33l9 9 18-20"/>',
    "moderate": '<path d="M32 3l29 29-29 29L3 32z"/><path class="mark" d="M18 34c5-9 9-9 14-2s9 7 14-2"/>',
    "high": '<path d="M20 3h24l17 17v24L44 61H20L3 44V20z"/><path class="mark" d="M18 32h28"/>',
    "none": '<circle class="open" cx="32" cy="32" r="27"/><path class="ink" d="M20 32h24"/>',
}
_SHAPES["declined"] = _SHAPES["high"]
_STEPS = ("low", "moderate", "high")


def shape(name: str) -> str:
    """The sign of a band, for the eye only: the word stands beside it."""
    return f'<svg class="sign" viewBox="0 0 64 64" aria-hidden="true" focusable="false">{_SHAPES[name]}</svg>'


def notice() -> str:
    """The line that is always in view."""
    head, *rest = NOT_A_DEVICE
    return f'<div id="notice" role="note"><strong>{head}</strong> <span>{" ".join(rest)}</span></div>'


def empty() -> str:
    """What stands where the answer will be."""
    return (
        '<section class="panel empty" data-state="empty"><div class="signs" aria-hidden="true">'
        f"{shape('low')}{shape('moderate')}{shape('high')}</div>"
        "<p><b>Choose a picture, and the answer appears here.</b></p>"
        "<p>First how sure the model is, then what it sees. It may also decline.</p>"
        f'<p class="small">{PRIVACY}</p></section>'
    )


def message(text: str) -> str:
    """A plain message in the place of the answer."""
    return (
        '<section class="panel message" role="alert" data-state="error"><h2>No answer</h2>'
        f"<p>{escape(text)}</p><p hidden data-spoken>No answer. {escape(text)}</p></section>"
    )


def answer_panel(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The whole answer; of a model that declines only that, why, and what to do."""
    name = state(answer)
    if name == "declined":
        return (
            '<section class="panel answer declined" data-state="declined">'
            f"{_band(answer, classifier)}{gate(answer, classifier)}<h3>What you can do</h3>"
            f'<ul class="advice">{"".join(f"<li>{text}</li>" for text in WHAT_TO_DO)}</ul></section>'
        )
    parts = (_band, headline, bars, prediction_set, uncertainty, gate, _limits)
    body = "".join(part(answer, classifier) for part in parts)
    return f'<section class="panel answer" data-state="{escape(name)}">{body}</section>'


def spoken(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The answer in a sentence, for screen readers."""
    if answer.get("abstain"):
        return f"{band_title(answer)}. {why_declined(answer)}"
    long_name = classifier.long_names.get(str(answer["predicted"]), str(answer["predicted"]))
    return f"{band_title(answer)}. Most likely class: {long_name}, {percent(max(answer['probabilities'].values()))}."


def _band(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """Sign, word and promise; the first thing to be seen."""
    name = state(answer)
    if name == "declined":
        said, eyebrow, heading = (
            why_declined(answer),
            "No class is given",
            f'<h2 id="declined">{band_title(answer)}</h2>',
        )
    elif name == "none":
        said, eyebrow, heading = why_no_promise(answer), "How sure is it?", f"<h2>{band_title(answer)}</h2>"
    else:
        said = promise(classifier.trust, name) or str(answer.get("message") or "")
        eyebrow, heading = "How sure is it?", f"<h2>{escape(band_title(answer))}</h2>"
    steps = ""
    for step in _STEPS:
        now = ' class="now" aria-current="true"' if step == name else ""
        steps += f"<li{now}>{step}{', declines' if step == 'high' else ''}</li>"
    scale = f'<ol class="steps" aria-label="The three bands">{steps}</ol>' if name in _STEPS else ""
    return (
        f'<div class="band {escape(name)}" id="band">{shape(name if name in _SHAPES else "none")}'
        f'<div><p class="eyebrow">{eyebrow}</p>{heading}<p class="promise">{_unbroken(said)}</p>{scale}</div></div>'
    )


def _unbroken(text: str) -> str:
    """Text, escaped, in which no line ends between a number and its percent sign."""
    return re.sub(r"([\d.]+ %)", r'<span class="whole">\1</span>', escape(text))


def headline(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The most likely class, its group, and all that is malignant together."""
    label = str(answer["predicted"])
    group = classifier.groups.get(label)
    chip = f'<span class="chip {escape(group)}">{escape(group)}</span>' if group and group != label else ""
    code = "" if classifier.long_names[label] == label else f" <code>{escape(label)}</code>"
    at_risk = answer.get("p_malignant")
    several = sum(group in AT_RISK for group in classifier.groups.values()) > 1
    together = "All malignant and premalignant classes together" if several else "Probability of malignant"
    risk = "" if at_risk is None else f'<p class="risk">{together}: <b>{escape(percent(at_risk))}</b></p>'
    return (
        '<div class="headline"><p class="eyebrow">Most likely class</p>'
        f'<h3><span id="predicted">{escape(classifier.long_names[label])}</span>{code}{chip}</h3>{risk}</div>'
    )


def bars(answer: Mapping[str, Any], classifier: Classifier, most: int | None = None) -> str:
    """Probabilities as bars, the largest first; ``most`` of them where that is given."""
    rows = []
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    for rank, (label, p) in enumerate(ranked[:most]):
        top = " top" if rank == 0 else ""
        long_name = classifier.long_names[label]
        code = "" if long_name == label else f" <code>{escape(label)}</code>"
        rows.append(
            f'<li class="bar{top}" data-label="{escape(label)}" data-probability="{p:.9f}">'
            f'<span class="name">{escape(long_name)}{code}</span>'
            f'<span class="value">{escape(percent(p))}</span>'
            f'<span class="track" aria-hidden="true"><span style="width:{100 * p:.2f}%"></span></span></li>'
        )
    rest = len(ranked) - len(rows)
    more = f'<p class="small">and {rest} less likely</p>' if rest > 0 else ""
    return f'<h4>Probabilities</h4><ol class="bars">{"".join(rows)}</ol>{more}'


def prediction_set(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The classes that cannot be ruled out; nothing where there is no set."""
    names = answer.get("prediction_set")
    if names is None:
        return ""
    chips = "".join(f"<li>{escape(classifier.long_names[label])}</li>" for label in names)
    said = set_promise(classifier.trust) or ""
    return (
        f'<h4>Prediction set <span class="small">cannot be ruled out</span></h4><ul class="set" id="set">{chips}</ul>'
        f'<p class="small">{escape(said)}</p>'
    )


def uncertainty(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """Predictive entropy, and its two parts as small bars where the model has members."""
    nats, classes = float(answer["predictive_entropy"]), len(answer["probabilities"])
    most = math.log(classes) if classes > 1 else 0.0
    share = 100 * entropy_share(nats, classes)
    parts = ""
    rows = (
        ("aleatoric", "In the picture", "aleatoric"),
        ("epistemic", "Between the members", "epistemic"),
    )
    if answer.get("aleatoric") is not None and answer.get("epistemic") is not None:
        for key, words, term in rows:
            value = float(answer[key])
            parts += (
                f'<div class="part" data-part="{key}" data-nats="{value:.9f}"><span>{words} <i>{term}</i></span>'
                f"<span>{value:.2f} nats</span>{_meter(100 * entropy_share(value, classes), key)}</div>"
            )
    else:
        why = (
            "They belong to the probabilities before the re-weighting."
            if answer.get("reason") == "other_prior"
            else "This model has one member, so what lies in the picture and what in the model cannot be told apart."
        )
        parts = f'<p class="small">Aleatoric and epistemic parts: not given. {why}</p>'
    return (
        f'<h4>Uncertainty</h4><div id="entropy" data-entropy="{nats:.9f}">'
        f'<div class="part"><span>Altogether <i>predictive entropy</i></span><span>{nats:.2f} nats</span>'
        f'{_meter(share, "total")}</div><p class="small">{share:.0f} % of the maximum of {most:.2f} nats '
        f"for {classes} classes, at which all are alike.</p>{parts}</div>"
    )


def _meter(share: float, kind: str) -> str:
    return f'<span class="meter {kind}" aria-hidden="true"><span style="width:{share:.2f}%"></span></span>'


def gate(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """What the gate says: a bar of strangeness with the limit marked; nothing where there is no gate."""
    if answer.get("is_ood") is None or answer.get("ood_score") is None:
        return ""
    fitted = classifier.trust.get("ood") or {}
    strange = bool(answer["is_ood"])
    verdict = "Strange: turned away" if strange else "Familiar: let through"
    bar = ""
    limit = fitted.get("threshold")
    if isinstance(limit, (int, float)) and limit > 0 and math.isfinite(float(answer["ood_score"])):
        share = min(100.0, 50.0 * max(0.0, float(answer["ood_score"])) / limit)
        bar = (
            f'<span class="meter gate{" over" if strange else ""}" aria-hidden="true"><span '
            f'style="width:{share:.1f}%"></span><i></i></span>'
        )
    passed = fitted.get("acceptance")
    said = (
        f"The mark is the limit: {passed * 100:g} of 100 lesion pictures like those of the calibration stay below it."
        if bar and passed is not None
        else ""
    )
    return (
        f'<h4>Does the picture look familiar?</h4><div class="part gate" id="gate" data-ood="{str(strange).lower()}">'
        f'<span>{verdict}</span>{bar}</div><p class="small">{escape(said)}</p>'
    )


def _limits(answer: Mapping[str, Any], classifier: Classifier) -> str:
    return (
        f'<p class="limits">{escape(classifier.title)} knows these {len(classifier.labels)} classes and no other. The '
        "true answer may be none of them.</p>"
    )


def glossary() -> str:
    """What the parts of an answer mean, folded away."""
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in GLOSSARY)
    return (
        '<details class="panel glossary" id="meaning"><summary>What does this mean?</summary>'
        f"<dl>{items}</dl></details>"
    )


def model_facts(classifier: Classifier) -> str:
    """One line about the model: how many classes, the size it looks at, whether it can decline."""
    size = f", looks at {classifier.image_size} × {classifier.image_size} pixels" if classifier.image_size else ""
    trust = "calibrated, may decline" if classifier.trust_is_fitted else "never calibrated for trust, cannot decline"
    blind = "" if classifier.looks_at_pictures else " It looks at age, sex and site alone, not at the picture."
    return (
        f'<p class="facts"><b>{escape(classifier.title)}</b>: {len(classifier.labels)} '
        f"classes{size}; {trust}.{blind}</p>"
    )
