"""Every sentence that depends on an answer, and the fixed ones that the pages share. Plain text, not HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from measured import Measured

# What a reader in a hurry sees of a band. "Low uncertainty" was read as low risk, so no band is called that here.
BAND_TITLES = {"low": "Answered", "moderate": "Uncertain", "high": "Not answered"}
DECLINED = "Not answered"
NOT_MEASURED = "Reliability not measured"
NOT_TESTED = {
    "other_prior": "Not tested at this prevalence",
    "other_preprocessing": "Not tested with this preprocessing",
    "other_inference": "Not tested with this inference",
    "other_decision": "Not tested with this decision rule",
}
# Why it declines, by the answer's code. The model's own sentence may name classes, which must not be seen here.
WHY_DECLINED = {
    "out_of_distribution": "This image is unlike the images that the model was calibrated on, so any class it named "
    "would mean nothing.",
    "high_uncertainty": "The model is too unsure of this lesion to name a class.",
    "set_too_large": "It cannot tell several classes apart on this image.",
    "empty_set": "No class fits this image as well as the true class usually does.",
}
WHY_DECLINED_OTHERWISE = "It gives no class for this image."
WITHDRAWN = {
    "other_prior": "You assumed another prevalence than the one the model was tested at. The rating and the classes "
    "that cannot be ruled out are withdrawn: they were not tested at yours.",
    "other_preprocessing": "The image was prepared otherwise than in testing, so the rating and the classes that "
    "cannot be ruled out are withdrawn.",
    "other_inference": "The model was run otherwise than in testing, so the rating and the classes that cannot be "
    "ruled out are withdrawn.",
    "other_decision": "The class was named by another decision rule than in testing, so the rating and the classes "
    "that cannot be ruled out are withdrawn.",
    "trust_not_asked": "It was never measured how often this model is wrong, and it cannot decline: it names a class "
    "whatever the image shows.",
    "not_our_model": "It is not known how often this model is wrong, and it cannot decline: it names a class whatever "
    "the image shows.",
}
NOT_MEASURED_SENTENCE = "How often such answers are wrong was not measured."
ALREADY_FAMILIAR = (
    "The image looked familiar to the model, so a sharper or closer one of the same kind may not help. Do not try "
    "images or crops until one is answered.",
    "Decide as if there were no answer.",
)
SAYS_NOTHING = "Not answering says nothing about the lesion: neither that it is harmless nor that it is not."
# The card says it in the same words (model_cards/templates/explanations.md.j2).
HEAT_IS_WORSE = "In testing, this map was less accurate than always looking at the centre of the image."
NOT_A_DEVICE = (
    "Not a medical device.",
    "For research and teaching only, not to diagnose or treat anybody.",
    "Show a doctor any spot that is new, changes or worries you.",
)
PRIVACY = (
    "The image goes to this page's server and nowhere else. It is not logged, everything in the file beside the pixels "
    "(place, camera, date) is dropped, and it is deleted within the hour."
)
# What each part of an answer means; shown in "What does this mean?".
GLOSSARY = (
    (
        "Rating: answered, uncertain, not answered",
        "How sure the model is, in three steps. It is not how dangerous the lesion is: a melanoma can be named with "
        "little doubt, and missed with little doubt. The first numbers below the rating were counted on test lesions "
        "that the model never learned from. They hold on average, over lesions and cameras like those; not for one "
        "image, and not for another clinic.",
    ),
    (
        "Probabilities",
        "How the model divides its belief among the classes it knows, at the frequencies of the classes where it was "
        "calibrated. It knows no other classes than these. No probability is shown as smaller than the share of its "
        "surest answers that were wrong in testing.",
    ),
    (
        "Cannot be ruled out",
        "The prediction set: over many lesions the true class is in it as often as stated under “How is this known?”, "
        "and outside it in the others. A set of one class is therefore no certainty. Each class has a limit of its "
        "own, so the set can leave out the most likely class and hold a rarer one: then the page says so first.",
    ),
    (
        "Aleatoric, epistemic",
        "What makes the answer unsure, in nats. Aleatoric: the image itself leaves it open, and more of the same "
        "training would not help. Epistemic: the members of the ensemble disagree, as they do about what they have "
        "seen little of. A model of one member cannot tell the two apart.",
    ),
    (
        "Familiar or unfamiliar",
        "A gate compares the image with those of the calibration, and declines what is too unlike them. An image that "
        "passes may still be wrong for the model, and some proper images are declined.",
    ),
    (
        "Heat map",
        "Which parts of the image counted for the named class. It is neither the outline of the lesion nor a reason to "
        "believe the answer.",
    ),
    (
        "Prevalence",
        "The same image means less cancer where cancer is rare. The slider re-weights the probabilities (Saerens and "
        "others, 2002). What was tested at one prevalence was not tested at another, so rating and prediction set are "
        "withdrawn.",
    ),
)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_MOST_TIMES = 20  # a larger ratio than this is more than the test lesions can show
_HALF_PERCENT = 0.005


def percent(p: float) -> str:
    """A measured share: 0.0577 -> "5.8 %"; what is not quite nothing or everything does not look like it."""
    if 0 < p < 0.001:
        return "< 0.1 %"
    if 0.999 < p < 1:
        return "> 99.9 %"
    return f"{100 * p:.1f} %"


def chance(p: float, least: int = 1) -> str:
    """A probability in whole percent, never surer than was measured: 0.0004 -> "under 6 %", 0.9996 -> "over 94 %".

    Args:
        p: in [0, 1].
        least: percent below which nothing is distinguished, see ``measured.least_percent``.
    """
    if 100 * p < least:
        return f"under {least} %"
    if 100 * p > 100 - least:
        return f"over {100 - least} %"
    return f"{100 * p:.0f} %"


def about_in(p: float) -> str:
    """A share in plain words: 0.306 -> "about 3 in 10", 0.0577 -> "about 6 in 100"."""
    if p < _HALF_PERCENT:
        return "fewer than 1 in 100"
    if p > 1 - _HALF_PERCENT:
        return "more than 99 in 100"
    tenths = round(10 * p)
    if 0 < tenths < 10 and abs(p - tenths / 10) < 0.015:
        return f"about {tenths} in 10"
    return f"about {100 * p:.0f} in 100"


def of_100(p: float) -> str:
    """A share with one denominator: 0.1714 -> "17 of 100"."""
    if p < _HALF_PERCENT:
        return "none of 100" if p == 0 else "fewer than 1 of 100"
    return f"{100 * p:.0f} of 100"


def times(p: float, assumed: float) -> str:
    """A probability against the assumed rate, in words: 0.19 and 0.02 -> "more than nine times the assumed rate"."""
    ratio = p / assumed
    if ratio < 0.5:
        return "less than half the assumed rate"
    if ratio < 0.8:
        return "below the assumed rate"
    if ratio < 1.25:
        return "about the assumed rate"
    if ratio < 2:
        return "above the assumed rate, less than twice"
    whole = int(ratio)
    if whole >= _MOST_TIMES:
        return f"more than {_MOST_TIMES} times the assumed rate"
    how = "about" if ratio - whole < 0.05 else "more than"
    often = "twice" if whole == 2 else f"{_NUMBERS[whole] if whole < len(_NUMBERS) else whole} times"
    return f"{how} {often} the assumed rate"


def rate(share: float) -> str:
    """An assumed share: 0.02 -> "2 in 100", 0.005 -> "0.5 in 100"."""
    return f"{100 * share:.3g} in 100"


def promise(trust: Mapping[str, Any], band: str) -> str | None:
    """The limit behind a band, from what the model's own trust says; None where it says nothing."""
    fitted = (trust.get("bands") or {}).get(band) or {}
    if fitted.get("risk") is None or fitted.get("confidence") is None:
        return None
    such = "such answers" if band == "low" else "“answered” and “uncertain” answers together"
    sentence = (
        f"At most {fitted['risk'] * 100:g} % of {such} are expected to be wrong, with {fitted['confidence'] * 100:g} % "
        "confidence, on lesions like those it was calibrated on."
    )
    if not fitted.get("missed_risk"):
        return sentence
    rating = "“answered”" if band == "low" else "“answered” or “uncertain”"
    return (
        f"{sentence} At most {fitted['missed_risk'] * 100:g} % of all malignant lesions are expected to be called "
        f"benign and rated {rating}, with the same confidence."
    )


def flag(answer: Mapping[str, Any], trust: Mapping[str, Any]) -> tuple[str, str] | None:
    """Whether the lesion is flagged as possibly malignant, and the promise behind it; None where there is none."""
    fitted = (trust.get("decision") or {}).get("sensitivity") or {}
    if not answer.get("malignancy") or fitted.get("target") is None or fitted.get("confidence") is None:
        return None
    return (
        f"{str(answer['malignancy']).capitalize()} as possibly malignant.",
        f"At least {fitted['target'] * 100:g} % of malignant lesions are expected to be flagged, with "
        f"{fitted['confidence'] * 100:g} % confidence, on lesions like those it was calibrated on.",
    )


def what_was_measured(found: Measured, at_risk: str) -> str:
    """How answers of this band alone came out on lesions that nothing was fitted on, in plain words.

    Args:
        found: from the model's report.
        at_risk: what the classes at risk are called.
    """
    wrong = f"{about_in(found.wrong).capitalize()} such answers were wrong in testing."
    if found.missed is None:
        return wrong
    return f"{wrong} In testing, {of_100(found.missed)} {at_risk} lesions with this rating were called benign."


def what_was_counted(found: Measured, trust: Mapping[str, Any], band: str) -> str:
    """The measured share as a number, and whether it is above the limit; the rest of "How is this known?"."""
    risk = ((trust.get("bands") or {}).get(band) or {}).get("risk")
    compared = found.wrong if band == "low" else found.together
    sentence = f"Counted by lesion on the {found.split} split, {percent(found.wrong)} of such answers were wrong."
    if band != "low" and found.together is not None:
        sentence += f" Of “answered” and “uncertain” answers together it was {percent(found.together)}."
    if risk is not None and compared is not None and compared > risk:
        sentence += " This is more than the limit."
    return sentence


def set_promise(trust: Mapping[str, Any], long_names: Mapping[str, str]) -> str | None:
    """How often a prediction set holds the true class, and of which classes not; None where that is not known."""
    fitted = trust.get("conformal") or {}
    alpha = fitted.get("alpha")
    if alpha is None:
        return None
    of = " of each class" if fitted.get("class_conditional") else ""
    sentence = f"Meant to hold the true class in {(1 - alpha) * 100:g} of 100 lesions{of}, on average"
    without = [long_names.get(label, label) for label in fitted.get("without_own_promise") or []]
    if of and without:
        own = "its" if len(without) == 1 else "their"
        return (
            f"{sentence}. Not so for {in_a_row(without)}, with too few calibration lesions for a promise of {own} own."
        )
    return f"{sentence}."


def clash(
    answer: Mapping[str, Any], long_names: Mapping[str, str], groups: Mapping[str, str], least: int = 1
) -> tuple[str, str] | None:
    """Heading and sentence where the prediction set leaves out the class that is named; None where it does not."""
    names, label = answer.get("prediction_set"), answer.get("predicted")
    if not names or label in names or answer.get("abstain"):
        return None
    held = in_a_row([long_names.get(name, name) for name in at_risk_first(names, answer, groups)])
    named, rule = long_names.get(str(label), str(label)), named_as(answer)
    return (
        f"{held} cannot be ruled out",
        f"The {rule[:1].lower()}{rule[1:]} is {named}, but {chance(answer['probabilities'][label], least)} is too "
        f"little to accept it: each class has a limit of its own. Do not read this answer as “{named}”.",
    )


def named_as(answer: Mapping[str, Any]) -> str:
    """What the named class is, by the model's decision rule."""
    return {
        "balanced": "Most likely class if all classes were equally frequent",
        "cost": "Class of the lowest expected cost",
    }.get(str(answer.get("decision")), "Most likely class")


def at_risk_first(names: Sequence[str], answer: Mapping[str, Any], groups: Mapping[str, str]) -> list[str]:
    """Classes in the order in which they matter: malignant, premalignant, the others; the likeliest first in each."""
    order = {"malignant": 0, "premalignant": 1}
    probabilities = answer.get("probabilities") or {}
    return sorted(names, key=lambda name: (order.get(groups.get(name, ""), 2), -probabilities.get(name, 0.0)))


def in_a_row(names: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def why_declined(answer: Mapping[str, Any], groups: Mapping[str, str] | None = None) -> str:
    """Why the model declines, without naming any class of a longer list.

    Args:
        answer: of a model that declines.
        groups: class -> benign, premalignant or malignant, as far as known.
    """
    reason, names = str(answer.get("reason")), answer.get("prediction_set") or []
    if reason == "set_too_large" and names:
        known = {(groups or {}).get(name, name) for name in names}
        if len(answer.get("probabilities") or names) == 2:
            two = "benign and malignant" if known == {"benign", "malignant"} else "its two classes"
            return f"It cannot tell {two} apart on this image."
        among = ", malignant ones among them" if known & {"malignant", "premalignant"} else ""
        return f"It cannot tell {len(names)} of its classes apart on this image{among}."
    return WHY_DECLINED.get(reason, WHY_DECLINED_OTHERWISE)


def advice(answer: Mapping[str, Any], trust: Mapping[str, Any], sources: Sequence[str]) -> tuple[str, ...]:
    """What to do where the model declines: it follows the reason.

    Args:
        answer: of a model that declines.
        trust: the model's.
        sources: names of the datasets it was calibrated on; empty where not known.
    """
    if answer.get("reason") != "out_of_distribution":
        return (SAYS_NOTHING, *ALREADY_FAMILIAR)
    whose = f"from {in_a_row(list(sources))}" if sources else "of one kind"
    passed = (trust.get("ood") or {}).get("acceptance")
    some = f"about {of_100(1 - passed)}" if isinstance(passed, (int, float)) else "some"
    return (
        SAYS_NOTHING,
        f"The model knows images {whose} only. A phone photo, another kind of camera or a drawing is something else.",
        "Use one sharp close-up of a single lesion, evenly lit, that fills much of the image.",
        f"If this already is one: {some} such images are declined for no visible reason. Decide as if you had not "
        "used this page.",
    )


def why_no_promise(answer: Mapping[str, Any]) -> str:
    """Why an answer has neither band nor set."""
    return WITHDRAWN.get(str(answer.get("reason")), WITHDRAWN["not_our_model"])


def state(answer: Mapping[str, Any]) -> str:
    """``declined``, ``low``, ``moderate``, ``high``, or ``none`` where nothing is promised."""
    if answer.get("abstain"):
        return "declined"
    return str(answer["band"]) if answer.get("band") else "none"


def reweighted(answer: Mapping[str, Any]) -> bool:
    """Whether another prevalence than that of the calibration was assumed."""
    return answer.get("assumed_share") is not None or answer.get("reason") == "other_prior"


def band_title(answer: Mapping[str, Any]) -> str:
    """The band in a few words."""
    name = state(answer)
    if name == "declined":
        return DECLINED
    return BAND_TITLES.get(name) or NOT_TESTED.get(str(answer.get("reason")), NOT_MEASURED)
