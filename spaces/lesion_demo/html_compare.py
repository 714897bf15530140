"""Several models side by side as HTML, and what they have in common. Pure; everything from outside is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from classifier import Classifier
from html_answer import bars, headline, message, prediction_set
from html_band import shape, what_stands_behind
from measured import least_percent
from words import band_title, chance, in_a_row, state

Result = tuple[Classifier | None, Mapping[str, Any] | str, str]


def no_comparison(models: int = 2) -> str:
    """What stands where the comparison will be.

    Args:
        models: on offer.
    """
    wanted = {0: "No model is set, so there is nothing to compare.", 1: "Only one model is on offer here."}
    first = wanted.get(models, "Choose an image and at least two models.")
    rest = "" if models < 2 else "<p>Each answers for itself, or declines; what they agree on is above them.</p>"
    return f'<section class="panel empty small-empty"><p><b>{first}</b></p>{rest}</section>'


def comparison(answers: Sequence[Result]) -> str:
    """Models side by side.

    Args:
        answers: model (None where it could not be loaded), its answer or why there is none, and its title.
    """
    cards = "".join(_card(classifier, answer, title) for classifier, answer, title in answers)
    shared = agreement([(title, answer) for _, answer, title in answers if not isinstance(answer, str)], answers)
    return (
        f'<section class="comparison"><div class="agreement panel" id="agreement"><p>{escape(shared)}</p>'
        f'{_common(answers)}</div><p hidden data-spoken>{escape(shared)}</p><div class="cards">{cards}</div></section>'
    )


def _common(answers: Sequence[Result]) -> str:
    """What can be compared across different classes: the probability of all that is at risk, a row a model."""
    rows = [
        (title, classifier.at_risk_name, chance(float(answer["p_malignant"]), least_percent(classifier)))
        for classifier, answer, title in answers
        if classifier is not None
        and not isinstance(answer, str)
        and not answer.get("abstain")
        and answer.get("p_malignant") is not None
    ]
    if len(rows) < 2:
        return ""
    items = "".join(
        f"<li><span>{escape(title)}: {escape(name)}</span><b>{escape(p)}</b></li>" for title, name, p in rows
    )
    return f'<ul class="common" aria-label="Probability of malignancy">{items}</ul>'


def _card(classifier: Classifier | None, answer: Mapping[str, Any] | str, title: str) -> str:
    name = f'<h3 class="model-name">{escape(title)}</h3>'
    if classifier is None or isinstance(answer, str):
        return f'<article class="card panel" data-state="error">{name}{message(str(answer), spoken=False)}</article>'
    kind = state(answer)
    parts = (headline, prediction_set, lambda a, c: bars(a, c, most=4))
    rest = "" if kind == "declined" else "".join(part(answer, classifier) for part in parts)
    # The page's ids belong to the first tab.
    rest = rest.replace(' id="predicted"', "").replace(' id="set"', "")
    return (
        f'<article class="card panel" data-state="{escape(kind)}" data-model="{escape(title)}">{name}'
        f'<div class="band {escape(kind)}">{shape(kind)}<div><h4>{escape(band_title(answer))}</h4>'
        f"{what_stands_behind(answer, classifier)}</div></div>{rest}</article>"
    )


def agreement(valid: Sequence[tuple[str, Mapping[str, Any]]], everyone: Sequence[Any]) -> str:
    """What the models have in common, in a sentence; classes of different vocabularies are not compared."""
    answered = [(title, answer) for title, answer in valid if not answer.get("abstain")]
    declined = [title for title, answer in valid if answer.get("abstain")]
    failed = len(everyone) - len(valid)
    parts = []
    if declined:
        nobody = len(declined) == len(valid) > 1
        parts.append("None of them answers." if nobody else f"{in_a_row(declined)} did not answer.")
    if len(answered) > 1:
        vocabularies = {tuple(answer["probabilities"]) for _, answer in answered}
        if len(vocabularies) > 1:
            groups_known = sum(answer.get("p_malignant") is not None for _, answer in answered) > 1
            what = "their probabilities of malignancy" if groups_known else "nothing but whether they answer"
            parts.append(f"Those that answer know different classes; compare {what}.")
        elif len({answer["predicted"] for _, answer in answered}) == 1:
            who = "Those that answer name" if declined else "They name"
            parts.append(f"{who} the same class, which does not make it right.")
        else:
            parts.append("They name different classes: do not read more into any one of them.")
    elif len(answered) == 1 and len(valid) > 1:
        parts.append(f"Only {answered[0][0]} answers.")
    if failed:
        parts.append(f"{failed} gave no answer.")
    return " ".join(parts) or "One model alone; choose another to compare with."
