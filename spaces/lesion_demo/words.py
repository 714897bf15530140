"""Every sentence that depends on an answer, and the fixed ones that the pages share. Plain text, not HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from measured import Measured

BAND_TITLES = {"low": "Low uncertainty", "moderate": "Moderate uncertainty", "high": "High uncertainty"}
DECLINED = "The model declines to answer"
# Why it declines, by the answer's code. The model's own sentence may name classes, which must not be seen here.
WHY_DECLINED = {
    "out_of_distribution": "This picture is unlike the lesion pictures that the model was calibrated on, so whatever "
    "it said about it would mean nothing.",
    "high_uncertainty": "It is less sure of this picture than of those for which anything can be promised.",
    "set_too_large": "It cannot tell several classes apart on this picture.",
    "empty_set": "No class fits this picture as well as the true one usually does.",
}
WHY_DECLINED_OTHERWISE = "It gives no class for this picture."
WITHDRAWN = {
    "other_prior": "You assumed another prevalence than the one it was calibrated at. The probabilities below are "
    "re-weighted for yours; the band and the prediction set were promised for the other one, so they are withdrawn.",
    "other_preprocessing": "The picture was prepared otherwise than those it was calibrated with, so band and "
    "prediction set do not hold and are withdrawn.",
    "other_inference": "The model was run otherwise than it was calibrated, so band and set are withdrawn.",
    "trust_not_asked": "It was never measured how far this model can be trusted: it has no band, no prediction set, "
    "and it cannot decline. It names a class whatever the picture shows.",
    "not_our_model": "Nothing is known of how far this model can be trusted: it has no band, no prediction set, and "
    "it cannot decline. It names a class whatever the picture shows.",
}
WHAT_TO_DO = (
    "Use one sharp close-up of a single spot, evenly lit, that fills much of the picture.",
    "The models were trained on dermatoscope pictures. A phone photo or a drawing is something else.",
    "Declining says nothing about the spot: neither that it is harmless nor that it is not.",
)
NOT_A_DEVICE = (
    "Not a medical device.",
    "For research and teaching only, not to diagnose or treat anybody.",
    "Show a doctor any spot that is new, changes or worries you.",
)
PRIVACY = (
    "The picture goes to this page's server and nowhere else. It is not logged, what lies in it beside its pixels "
    "(place, camera, date) is dropped, and it is deleted within the hour."
)
# What each part of an answer means; shown in "What does this mean?".
GLOSSARY = (
    (
        "Band",
        "How uncertain the model is, in three steps; low uncertainty is not low risk: a melanoma can be named with "
        "little doubt, and missed with little doubt. Behind low and moderate stands a promise that was tested on "
        "lesions which the model never learned from: at most so many of such answers are wrong. It holds on average, "
        "over lesions like those; not for one picture, and not for another camera or another clinic. What was "
        "measured of this band alone stands below it where the model's report has it. In the high band the model "
        "declines.",
    ),
    (
        "Probabilities",
        "The model's belief in each class it knows, calibrated: of pictures with 80 % about 80 in 100 are right, at "
        "the frequencies of the classes where it was calibrated. It knows no other classes than these.",
    ),
    (
        "Prediction set",
        "The classes that cannot be ruled out. Over many lesions the true class is in the set as often as promised, "
        "and outside it in the others. A set of one class is therefore no certainty; a large one says that the picture "
        "does not decide. Classes have limits of their own, so the set can leave out the most likely class and hold a "
        "rarer one: then the page says so.",
    ),
    (
        "In the picture, between the members",
        "What makes the answer unsure. In the picture (aleatoric): the picture itself leaves it open, and more of the "
        "same training would not help. Between the members (epistemic): the models of the ensemble disagree, as they "
        "do about what they have seen little of. A model of one member cannot tell the two apart.",
    ),
    (
        "Familiar or strange",
        "A gate compares the picture with those of the calibration. What is stranger than 95 in 100 of them (or what "
        "the bar says) is turned away. A picture that passes may still be wrong for the model, and some proper ones "
        "are turned away.",
    ),
    (
        "Heat map",
        "What the named class drew on in the picture. It shows where the model looked, not where the lesion is, and it "
        "is no reason to believe it.",
    ),
    (
        "Prevalence",
        "The same picture means less cancer where cancer is rare. The slider re-weights the probabilities (Saerens and "
        "others, 2002). What was promised at one prevalence is not promised at another, so band and set go.",
    ),
)


def percent(p: float) -> str:
    """0.8342 -> "83.4 %"; what is not quite nothing or everything does not look like it."""
    if 0 < p < 0.001:
        return "< 0.1 %"
    if 0.999 < p < 1:
        return "> 99.9 %"
    return f"{100 * p:.1f} %"


def promise(trust: Mapping[str, Any], band: str) -> str | None:
    """What stands behind a band, from what the model's own trust says; None where it says nothing."""
    fitted = (trust.get("bands") or {}).get(band) or {}
    if fitted.get("risk") is None or fitted.get("confidence") is None:
        return None
    such = "such answers" if band == "low" else "answers in the low and moderate bands together"
    return (
        f"At most {fitted['risk'] * 100:g} % of {such} are expected to be wrong, with {fitted['confidence'] * 100:g} % "
        "confidence, on lesions like those it was calibrated on."
    )


def what_was_measured(found: Measured, band: str, at_risk: str) -> str:
    """The same as it came out on lesions that nothing was fitted on, for this band alone.

    Args:
        found: from the model's report.
        band: ``low`` or ``moderate``.
        at_risk: what the classes at risk are called.
    """
    alone = "" if band == "low" else " alone"
    said = f"Measured on the {found.split} split: {percent(found.wrong)} of the answers in this band{alone} were wrong."
    if found.missed is None:
        return said
    of_all = "" if found.missed_of_all is None else f": {percent(found.missed_of_all)} of all such lesions"
    return f"{said} Of the {at_risk} lesions in it, {percent(found.missed)} were called benign{of_all}."


def set_promise(trust: Mapping[str, Any], long_names: Mapping[str, str]) -> str | None:
    """How often a prediction set holds the true class, and of which classes not; None where that is not known."""
    fitted = trust.get("conformal") or {}
    alpha = fitted.get("alpha")
    if alpha is None:
        return None
    of = " of each class" if fitted.get("class_conditional") else ""
    said = f"Meant to hold the true class in {(1 - alpha) * 100:g} of 100 lesions{of}, on average"
    without = [long_names.get(label, label) for label in fitted.get("without_own_promise") or []]
    if of and without:
        own = "its" if len(without) == 1 else "their"
        return f"{said}. Not so for {in_a_row(without)}, with too few calibration lesions for a promise of {own} own."
    return f"{said}."


def clash(answer: Mapping[str, Any], long_names: Mapping[str, str]) -> tuple[str, str] | None:
    """Heading and sentence where the prediction set leaves out the class that is named; None where it does not."""
    names, label = answer.get("prediction_set"), answer.get("predicted")
    if not names or label in names or answer.get("abstain"):
        return None
    held, named = in_a_row([long_names.get(name, name) for name in names]), long_names.get(str(label), str(label))
    return (
        f"{held} cannot be ruled out",
        f"The prediction set, which is what was promised, leaves out the most likely class and holds {held}. Each "
        f"class has a limit of its own, and {percent(answer['probabilities'][label])} is too little for {named}. Do "
        f"not read this answer as “{named}”.",
    )


def in_a_row(names: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def why_declined(answer: Mapping[str, Any]) -> str:
    """Why the model declines, without naming any class."""
    return WHY_DECLINED.get(str(answer.get("reason")), WHY_DECLINED_OTHERWISE)


def why_no_promise(answer: Mapping[str, Any]) -> str:
    """Why an answer has neither band nor set."""
    return WITHDRAWN.get(str(answer.get("reason")), str(answer.get("message") or WITHDRAWN["not_our_model"]))


def state(answer: Mapping[str, Any]) -> str:
    """``declined``, ``low``, ``moderate``, ``high``, or ``none`` where nothing is promised."""
    if answer.get("abstain"):
        return "declined"
    return str(answer["band"]) if answer.get("band") else "none"


def band_title(answer: Mapping[str, Any]) -> str:
    """The band in two or three words."""
    name = state(answer)
    if name == "declined":
        return DECLINED
    return BAND_TITLES.get(name, "No promise")
