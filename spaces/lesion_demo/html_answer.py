"""One answer as HTML: band first, then class, probabilities, set, uncertainty, gate. Pure; all is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from answering import entropy_share
from classifier import AT_RISK, Classifier
from html_band import band, clash_box, shape
from words import (
    GLOSSARY,
    NOT_A_DEVICE,
    PRIVACY,
    WHAT_TO_DO,
    band_title,
    clash,
    percent,
    set_promise,
    state,
    why_declined,
)


def notice() -> str:
    """The line that is always in view."""
    head, *rest = NOT_A_DEVICE
    return f'<div id="notice" role="note"><strong>{head}</strong> <span>{" ".join(rest)}</span></div>'


def empty() -> str:
    """What stands where the answer will be; no section, so that Gradio does not make the one out of the other."""
    return (
        '<div class="panel empty" data-state="empty"><div class="signs" aria-hidden="true">'
        f"{shape('low')}{shape('moderate')}{shape('high')}</div>"
        "<p><b>Choose a picture, and the answer appears here.</b></p>"
        "<p>First how uncertain the model is, then what it sees. It may also decline.</p>"
        f'<p class="small">{PRIVACY}</p></div>'
    )


def message(text: str, title: str = "No answer", spoken: bool = True) -> str:
    """A plain message in the place of the answer; ``spoken`` to screen readers as well, unless others do that."""
    aloud = f"<p hidden data-spoken>{title}. {escape(text)}</p>" if spoken else ""
    return f'<section class="panel message" data-state="error"><h2>{title}</h2><p>{escape(text)}</p>{aloud}</section>'


def answer_panel(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The whole answer; of a model that declines only that, why, and what to do."""
    name = state(answer)
    if name == "declined":
        return (
            '<section class="panel answer declined" data-state="declined">'
            f"{band(answer, classifier)}{gate(answer, classifier)}<h3>What you can do</h3>"
            f'<ul class="advice">{"".join(f"<li>{text}</li>" for text in WHAT_TO_DO)}</ul></section>'
        )
    parts = (band, headline, clash_box, bars, prediction_set, uncertainty, gate, _limits)
    body = "".join(part(answer, classifier) for part in parts)
    return f'<section class="panel answer" data-state="{escape(name)}">{body}</section>'


def spoken(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The answer in a sentence, for screen readers."""
    if answer.get("abstain"):
        return f"{band_title(answer)}. {why_declined(answer)}"
    long_name = classifier.long_names.get(str(answer["predicted"]), str(answer["predicted"]))
    likely = f"Most likely class: {long_name}, {percent(max(answer['probabilities'].values()))}."
    against = clash(answer, classifier.long_names)
    return f"{band_title(answer)}. {likely}{f' But {against[0]}: {against[1]}' if against else ''}"


def headline(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The most likely class, its group, and all that is malignant together."""
    label = str(answer["predicted"])
    group = classifier.groups.get(label)
    chip = f'<span class="chip {escape(group)}">{escape(group)}</span>' if group and group != label else ""
    code = "" if classifier.long_names[label] == label else f" <code>{escape(label)}</code>"
    at_risk = answer.get("p_malignant")
    several = sum(group in AT_RISK for group in classifier.groups.values()) > 1
    name = classifier.at_risk_name
    together = f"All {name.replace(' or ', ' and ')} classes together" if several else f"Probability of {name}"
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
    said = set_promise(classifier.trust, classifier.long_names) or ""
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
    side = classifier.image_size if classifier.looks_at_pictures else None
    size = f", looks at {side} × {side} pixels" if side else ""
    trust = "calibrated, may decline" if classifier.trust_is_fitted else "never calibrated for trust, cannot decline"
    blind = "" if classifier.looks_at_pictures else " It looks at age, sex and site alone, not at the picture."
    return (
        f'<p class="facts"><b>{escape(classifier.title)}</b>: {len(classifier.labels)} '
        f"classes{size}; {trust}.{blind}</p>"
    )
