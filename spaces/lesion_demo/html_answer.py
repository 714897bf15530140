"""One answer as HTML: rating first, then class, set, probabilities; entropies and gate in a fold. All is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from answering import entropy_share
from classifier import MALIGNANT_GROUPS, Classifier
from html_band import band, clash_box, rating_in_words, shape
from measured import least_percent, recognised, sources
from words import (
    GLOSSARY,
    NOT_A_DEVICE,
    PRIVACY,
    advice,
    at_risk_first,
    band_title,
    chance,
    clash,
    flag,
    in_a_row,
    named_as,
    of_100,
    rate,
    reweighted,
    state,
    times,
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
        "<p><b>Choose an image, and the answer appears here.</b></p>"
        "<p>First how often such answers were wrong in testing, then the class. The model may also decline.</p>"
        f'<p class="small">{PRIVACY}</p></div>'
    )


def message(text: str, title: str = "No answer", spoken: bool = True) -> str:
    """A plain message in the place of the answer; ``spoken`` to screen readers as well, unless others do that."""
    aloud = f"<p hidden data-spoken>{title}. {escape(text)}</p>" if spoken else ""
    return f'<section class="panel message" data-state="error"><h2>{title}</h2><p>{escape(text)}</p>{aloud}</section>'


def working() -> str:
    """What stands where an answer will be as soon as its image, or the model, is another."""
    text = "Working on this image… If no answer comes, choose it again."
    return f'<div class="panel working" data-state="working" aria-busy="true"><p>{text}</p></div>'


def belonging(content: str, *paths: str | None, model: str | None = None) -> str:
    """Content with the uploads that it is about, and the model: page.js hides it while others are on the page.

    On a busy machine an answer can come after its image was replaced. Beside another image it would be a wrong answer.
    """
    marks = " ".join(sorted(f"{Path(path).parent.name[:12]}/{Path(path).name}" for path in paths if path))
    of_model = "" if model is None else f' data-model="{escape(model)}"'
    return f'<div data-of="{escape(marks)}"{of_model}>{content}</div>'


def answer_panel(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The whole answer; of a model that declines only that, why, and what to do."""
    name = state(answer)
    if name == "declined":
        advised = advice(answer, classifier.trust, sources(classifier))
        return (
            '<section class="panel answer declined" data-state="declined">'
            f"{band(answer, classifier)}<h3>What you can do</h3>"
            f'<ul class="advice">{"".join(f"<li>{escape(text)}</li>" for text in advised)}</ul>'
            f"{_fold('More numbers', gate(answer, classifier))}</section>"
        )
    if reweighted(answer):
        parts: tuple[Any, ...] = (against_prevalence, band, _bars_folded, numbers, _limits)
    else:
        parts = (band, headline, prediction_set, bars, numbers, _limits)
    body = "".join(part(answer, classifier) for part in parts)
    return f'<section class="panel answer" data-state="{escape(name)}">{body}</section>'


def spoken(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The answer in a few sentences, for screen readers; in the order in which they are seen."""
    title = band_title(answer)
    if answer.get("abstain"):
        return f"{title}. {why_declined(answer, classifier.groups)}"
    if reweighted(answer):
        number, compared = _against(answer, classifier)
        return f"{number} {classifier.at_risk_name}: {compared}. {title}."
    rating = f" {rating_in_words(answer, classifier)}" if answer.get("band") else ""
    least = least_percent(classifier)
    against = clash(answer, classifier.long_names, classifier.groups, least)
    if against:
        return f"{title}.{rating} {against[0]}. {against[1]}"
    share = chance(answer["probabilities"][str(answer["predicted"])], least)
    likely = f"{named_as(answer)}: {_long_name(answer, classifier)}, {share}."
    flagged = " ".join(flag(answer, classifier.trust) or ())
    return " ".join(filter(None, [f"{title}.{rating}", likely, still_possible(answer, classifier), flagged]))


def headline(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The most likely class, and all that is malignant together; what cannot be ruled out where that is another.

    Only a class at risk has a chip: "benign" beside a class would say more than was measured.
    """
    label = str(answer["predicted"])
    box = clash_box(answer, classifier)
    if box:
        return f"{box}{_risk(answer, classifier)}"
    group = classifier.groups.get(label)
    chip = f'<span class="chip {group}">{group}</span>' if group in MALIGNANT_GROUPS and group != label else ""
    others = still_possible(answer, classifier)
    loud = f'<p class="possible">{escape(others)}</p>' if others else ""
    return (
        f'<div class="headline"><p class="eyebrow">{named_as(answer)}</p>'
        f'<h3><span id="predicted">{escape(classifier.long_names[label])}</span>{_code(label, classifier)}{chip}</h3>'
        f"{loud}</div>{_risk(answer, classifier)}"
    )


def still_possible(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """ "Melanoma cannot be ruled out." for the classes at risk in the set of another class; "" where there are none."""
    label, names = str(answer["predicted"]), answer.get("prediction_set") or []
    if classifier.groups.get(label) in MALIGNANT_GROUPS or label not in names:
        return ""
    risky = [name for name in names if classifier.groups.get(name) in MALIGNANT_GROUPS]
    if not risky:
        return ""
    ordered = at_risk_first(risky, answer, classifier.groups)
    return f"{in_a_row([classifier.long_names[name] for name in ordered])} cannot be ruled out."


def _risk(answer: Mapping[str, Any], classifier: Classifier) -> str:
    at_risk = answer.get("p_malignant")
    if at_risk is None:
        return ""
    several = sum(group in MALIGNANT_GROUPS for group in classifier.groups.values()) > 1
    name = classifier.at_risk_name
    together = f"All {name.replace(' or ', ' and ')} classes together" if several else f"Probability that it is {name}"
    shown = chance(at_risk, least_percent(classifier))
    flagged = flag(answer, classifier.trust)
    sentences = "" if flagged is None else f'<p class="risk flag"><b>{escape(flagged[0])}</b> {escape(flagged[1])}</p>'
    return f'<p class="risk">{escape(together)}: <b>{escape(shown)}</b></p>{sentences}'


def against_prevalence(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """With another prevalence: the probability of all that is at risk against the assumed rate; no class, no chip."""
    number, compared = _against(answer, classifier)
    was = answer.get("at_calibration") or {}
    home = ""
    if was.get("predicted") in classifier.long_names:
        named = clash(was, classifier.long_names, classifier.groups, least_percent(classifier))
        ruled = still_possible(was, classifier)
        sentence = f"{named[0]}." if named else " ".join(filter(None, [f"{_long_name(was, classifier)}.", ruled]))
        home = f'<p class="home">Without this assumption: {escape(band_title(was))}. {escape(sentence)}</p>'
    return (
        f'<div class="headline assumed"><p class="eyebrow">Probability that it is {escape(classifier.at_risk_name)}</p>'
        f'<h3><span id="assumed-risk">{escape(number)}</span></h3><p class="times">{escape(compared)}</p>{home}</div>'
    )


def _against(answer: Mapping[str, Any], classifier: Classifier) -> tuple[str, str]:
    """The probability of all that is at risk, and that against the assumed rate, in words."""
    at_risk, assumed = float(answer.get("p_malignant") or 0.0), answer.get("assumed_share")
    if not assumed:
        return chance(at_risk), "at the assumed prevalence"
    compared = f"{times(at_risk, assumed)} of {rate(assumed)}"
    return chance(at_risk), compared[:1].upper() + compared[1:]


def _long_name(answer: Mapping[str, Any], classifier: Classifier) -> str:
    return classifier.long_names.get(str(answer["predicted"]), str(answer["predicted"]))


def _code(label: str, classifier: Classifier) -> str:
    return "" if classifier.long_names[label] == label else f" <code>{escape(label)}</code>"


def bars(answer: Mapping[str, Any], classifier: Classifier, most: int | None = None) -> str:
    """Probabilities as bars, the largest first; ``most`` of them where that is given."""
    rows = []
    other = reweighted(answer)
    least = 1 if other else least_percent(classifier)
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    for rank, (label, p) in enumerate(ranked[:most]):
        top = " top" if rank == 0 and not other else ""
        rows.append(
            f'<li class="bar{top}" data-label="{escape(label)}" data-probability="{p:.9f}">'
            f'<span class="name">{escape(classifier.long_names[label])}{_code(label, classifier)}</span>'
            f'<span class="value">{escape(chance(p, least))}</span>'
            f'<span class="track" aria-hidden="true"><span style="width:{100 * p:.2f}%"></span></span></li>'
        )
    rest = len(ranked) - len(rows)
    more = f'<p class="small">and {rest} less likely</p>' if rest > 0 else ""
    return f'<h4>Probabilities</h4><ol class="bars">{"".join(rows)}</ol>{more}'


def _bars_folded(answer: Mapping[str, Any], classifier: Classifier) -> str:
    return _fold("Probabilities of the classes at this prevalence", bars(answer, classifier))


def prediction_set(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """The classes that cannot be ruled out, those at risk first; nothing where there is no set."""
    names = answer.get("prediction_set")
    if names is None:
        return ""
    chips = ""
    for label in at_risk_first(names, answer, classifier.groups):
        risky = ' class="risky"' if classifier.groups.get(label) in MALIGNANT_GROUPS else ""
        chips += f"<li{risky}>{escape(classifier.long_names[label])}</li>"
    alpha = (classifier.trust.get("conformal") or {}).get("alpha")
    # A list of one class reads as if all others were ruled out.
    outside = f"In about {of_100(alpha)} lesions the true class is not in this list." if alpha is not None else ""
    return f'<h4>Cannot be ruled out</h4><ul class="set" id="set">{chips}</ul><p class="small">{outside}</p>'


def numbers(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """Entropies and gate, for readers who know what these are; folded away."""
    return _fold("More numbers", uncertainty(answer, classifier) + gate(answer, classifier))


def _fold(title: str, content: str) -> str:
    return f'<details class="more"><summary>{title}</summary>{content}</details>' if content else ""


def uncertainty(answer: Mapping[str, Any], classifier: Classifier) -> str:
    """Predictive entropy, and its two parts as small bars where the model has members."""
    nats, classes = float(answer["predictive_entropy"]), len(answer["probabilities"])
    most = math.log(classes) if classes > 1 else 0.0
    share = 100 * entropy_share(nats, classes)
    parts = ""
    rows = (
        ("aleatoric", "In the image", "aleatoric"),
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
            if reweighted(answer)
            else "This model has one member, so the two cannot be distinguished."
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
    """The gate's score: a bar of unfamiliarity with the limit marked; nothing where there is no gate."""
    if answer.get("is_ood") is None or answer.get("ood_score") is None:
        return ""
    fitted = classifier.trust.get("ood") or {}
    is_ood = bool(answer["is_ood"])
    verdict = "Unfamiliar: declined" if is_ood else "Familiar enough to be answered"
    bar = ""
    limit = fitted.get("threshold")
    if isinstance(limit, (int, float)) and limit > 0 and math.isfinite(float(answer["ood_score"])):
        share = min(100.0, 50.0 * max(0.0, float(answer["ood_score"])) / limit)
        bar = (
            f'<span class="meter gate{" over" if is_ood else ""}" aria-hidden="true"><span '
            f'style="width:{share:.1f}%"></span><i></i></span>'
        )
    passed = fitted.get("acceptance")
    sentence = (
        f"The mark is the limit: {passed * 100:g} of 100 images like those of the calibration stay below it."
        if bar and passed is not None
        else ""
    )
    return (
        "<h4>Does the image look familiar to the model?</h4>"
        f'<div class="part gate" id="gate" data-ood="{str(is_ood).lower()}">'
        f'<span>{verdict}</span>{bar}</div><p class="small">{escape(sentence)}</p>'
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
    """Two lines about the model: what it distinguishes, whether it can decline, and what it found in testing."""
    can = "may decline to answer" if classifier.trust_is_fitted else "was never tested for trust and cannot decline"
    blind = "" if classifier.reads_images else " It uses age, sex and site alone, not the image."
    found = recognised(classifier)
    name = escape(classifier.at_risk_name)
    tested = (
        ""
        if found is None
        else f" In testing it recognised {of_100(found.sensitivity)} {name} images, and called "
        f"{of_100(found.specificity)} benign images benign."
    )
    title = escape(classifier.title)
    return f'<p class="facts" data-model="{title}"><b>{title}</b>: {escape(classifier.kind)}; {can}.{blind}{tested}</p>'
