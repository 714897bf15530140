"""Answers, messages and facts about a model as HTML. Pure functions; everything from outside is escaped."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from answering import entropy_share
from model_loading import Classifier

NOTICE = (
    '<div id="notice" role="note"><strong>Not a medical device.</strong> For research and teaching only. It must not '
    "be used to diagnose or treat anybody. Show a doctor any spot that worries you.</div>"
)
HEADER = (
    '<header id="masthead"><p class="eyebrow">Lesion Suite</p><h1>Skin-lesion classifier</h1>'
    "<p>Choose one close-up photo of a lesion. The model answers with its most likely class, the probability of every "
    "class it knows, and how undecided it is.</p></header>"
)
EMPTY = (
    '<section class="panel empty" role="status"><p>The answer appears here once an image is chosen.</p>'
    "<p>The image is read by this page's server, is not shown to anybody else, is not logged, and is deleted within "
    "the hour.</p></section>"
)


def percent(p: float) -> str:
    """0.8342 -> "83.4 %"; what is not quite nothing or everything does not look like it."""
    if 0 < p < 0.001:
        return "&lt; 0.1 %"
    if 0.999 < p < 1:
        return "&gt; 99.9 %"
    return f"{100 * p:.1f} %"


def message(text: str) -> str:
    """A plain message in the place of the answer."""
    return f'<section class="panel message" role="alert"><h2>No answer</h2><p>{escape(text)}</p></section>'


def answer_panel(answer: dict[str, Any], classifier: Classifier) -> str:
    """The whole answer: band, class, probabilities, entropy; of a model that declines only that, and why."""
    if answer.get("abstain"):
        return (
            '<section class="panel answer declined" role="status" aria-live="polite"><p class="eyebrow">Declined</p>'
            f'<h2 id="declined">The model does not answer</h2><p>{escape(str(answer["message"]))}</p></section>'
        )
    shown = (_trust, _headline, _bars)
    parts = [*(part(answer, classifier) for part in shown), _entropy(answer), _limits(classifier)]
    return f'<section class="panel answer" role="status" aria-live="polite">{"".join(parts)}</section>'


def _trust(answer: dict[str, Any], classifier: Classifier) -> str:
    """Band, promise and prediction set; or that nothing is promised."""
    said = f"<p>{escape(str(answer.get('message') or ''))}</p>"
    if answer.get("band") is None:
        return f'<div class="band none" id="band">{said}</div>'
    names = ", ".join(escape(classifier.long_names[label]) for label in answer["prediction_set"])
    band = escape(str(answer["band"]))
    return (
        f'<div class="band {band}" id="band"><p class="eyebrow">Uncertainty</p><h2>{band}</h2>{said}'
        f"<p>Prediction set: <b>{names}</b></p></div>"
    )


def _headline(answer: dict[str, Any], classifier: Classifier) -> str:
    label = str(answer["predicted"])
    group = classifier.groups.get(label)
    chip = f'<span class="chip {escape(group)}">{escape(group)}</span>' if group else ""
    at_risk = answer.get("p_malignant")
    risk = "" if at_risk is None else (
        f'<p class="risk">All malignant and premalignant classes together: <b>{percent(at_risk)}</b></p>'
    )  # fmt: skip
    return (
        '<p class="eyebrow">Most likely class</p>'
        f'<h2><span id="predicted">{escape(classifier.long_names[label])}</span> '
        f"<code>{escape(label)}</code>{chip}</h2>"
        f"{risk}"
    )


def _bars(answer: dict[str, Any], classifier: Classifier) -> str:
    rows = []
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    for rank, (label, p) in enumerate(ranked):
        top = " top" if rank == 0 else ""
        rows.append(
            f'<li class="bar{top}" data-label="{escape(label)}" data-probability="{p:.9f}">'
            f'<span class="name">{escape(classifier.long_names[label])} <code>{escape(label)}</code></span>'
            f'<span class="value">{percent(p)}</span>'
            f'<span class="track" aria-hidden="true"><span style="width:{100 * p:.2f}%"></span></span></li>'
        )
    return f'<h3>Probabilities</h3><ol class="bars">{"".join(rows)}</ol>'


def _entropy(answer: dict[str, Any]) -> str:
    nats, share = answer["predictive_entropy"], entropy_share(answer)
    n = len(answer["probabilities"])
    most = math.log(n)
    return (
        f'<h3>Predictive entropy</h3><div id="entropy" data-entropy="{nats:.9f}">'
        f"<p><b>{nats:.2f} nats</b>, {100 * share:.0f} % of the maximum of {most:.2f} for {n} classes.</p>"
        f'<div class="meter" aria-hidden="true"><span style="width:{100 * share:.2f}%"></span></div>'
        '<p class="scale" aria-hidden="true"><span>one class is certain</span><span>all classes alike</span></p></div>'
    )


def _limits(classifier: Classifier) -> str:
    return (
        f'<p class="limits">The model names one of these {len(classifier.labels)} classes whatever the image shows, '
        "also where the true answer is none of them.</p>"
    )


def model_facts(classifier: Classifier) -> str:
    """One line about the model: its name, how many classes, the size it looks at."""
    size = f", looks at {classifier.image_size} x {classifier.image_size} pixels" if classifier.image_size else ""
    return (
        f'<p class="facts">Model <b>{escape(classifier.source.title)}</b>: {len(classifier.labels)} classes{size}.</p>'
    )
