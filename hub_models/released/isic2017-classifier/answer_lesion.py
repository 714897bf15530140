"""From a model's output to ``predict``'s dictionary: probabilities, trust, the decision to abstain, and the message.

Pure functions of tensors and of a model's config; pipeline, scoring, Space and documents show the same dictionary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from .configuration_lesion import LABEL_GROUPS
from .decision_lesion import FLAGGED, chosen_rule, flags, named_class, p_malignant, same_class
from .explain_lesion import ExplainedPass, ExplanationError, explained_pass
from .groups_lesion import group_names, scope, trust_of
from .infer_lesion import dropout_layers, infer, sample_head
from .preprocess_lesion import FIRST_SETTINGS
from .trust_lesion import TrustNotFittedError, check_prior, entropy, sets_and_bands, shift_prior

# The reason of an answer: stable codes, for programs to read.
ANSWERED = "answered"
OUT_OF_DISTRIBUTION = "out_of_distribution"
HIGH_UNCERTAINTY = "high_uncertainty"
SET_TOO_LARGE = "set_too_large"
EMPTY_SET = "empty_set"
OTHER_PREPROCESSING = "other_preprocessing"
OTHER_INFERENCE = "other_inference"
OTHER_PRIOR = "other_prior"
OTHER_DECISION = "other_decision"
TRUST_NOT_ASKED = "trust_not_asked"
WITHDRAWN = {
    OTHER_PREPROCESSING: "the image was prepared with other settings than the images of the calibration",
    OTHER_INFERENCE: "the model was run in another way than at its calibration",
    OTHER_PRIOR: "the classes are assumed to be more or less frequent than at its calibration",
    OTHER_DECISION: "its error rates were tested with another decision rule",
}
# What a rule's class is, in a sentence.
CHOSEN_AS = {
    "most_probable": "the most probable",
    "balanced": "the most probable if all classes were equally frequent",
    "cost": "the one of the lowest expected cost",
    "sensitivity": "the most probable",
}
UNTRUSTED = {
    "malignancy": None,
    "band": None,
    "prediction_set": None,
    "ood_score": None,
    "is_ood": None,
    "abstain": None,
    "reason": TRUST_NOT_ASKED,
    "message": "Nothing states how far this answer can be trusted: it was requested without trust.",
}


def check_trust_is_fitted(trust: Mapping[str, Any]) -> None:
    """Check that every part of ``config.trust`` was fitted.

    Raises:
        TrustNotFittedError: names the missing parts, how to fit them, and how to predict without them.
    """
    missing = [name for name in ("temperature", "prior", "ood", "conformal", "bands") if not trust.get(name)]
    if missing:
        raise TrustNotFittedError(
            f"this model has no fitted {', '.join(missing)}: fit them with `python -m trainers.fit_trust`, or ask "
            "without: predict(..., trust=False)."
        )


def why_withdrawn(
    config: Any,
    inputs: Mapping[str, torch.Tensor],
    inference: str,
    prior: Any = None,
    prepared_as: Mapping[str, Any] | None = None,
) -> str | None:
    """Reason code why band and set do not hold for this use of a model; None where they hold.

    Args:
        config: the model's.
        inputs: of ``forward``.
        inference: one of ``INFERENCES``.
        prior: as in ``predict``.
        prepared_as: settings of the image processor; None = only the size is compared.
    """
    fitted_for = config.trust.get("fitted_for", {})
    settings = fitted_for.get("preprocessing") or {}
    if settings and prepared_as is not None:
        then, now = ({**FIRST_SETTINGS, **given} for given in (settings, prepared_as))
        if any((then[name] or False) != (now.get(name) or False) for name in then):
            return OTHER_PREPROCESSING
    pixels, size = inputs.get("pixel_values"), (config.image_size, config.image_size)
    if pixels is not None and pixels.ndim == 4 and tuple(pixels.shape[2:]) != size:
        return OTHER_PREPROCESSING
    if inference != fitted_for.get("inference", "plain"):
        return OTHER_INFERENCE
    return None if prior is None else OTHER_PRIOR


def answers(
    output: Any,
    config: Any,
    *,
    trust: bool = True,
    prior: Mapping[str, float] | Sequence[float] | None = None,
    decision: str | None = None,
    withdrawn: str | None = None,
    group: Any = None,
) -> list[dict[str, Any]]:
    """The dictionary of each image; ``predict`` describes its keys.

    Args:
        output: of ``forward`` in eval mode, or of ``infer``.
        config: the model's.
        trust, prior, decision: as in ``predict``.
        withdrawn: why there is no band and no set, a key of ``WITHDRAWN``; None = there are.
        group: as in ``predict``.

    Raises:
        GroupError: as :func:`groups_lesion.group_names`.
        TrustNotFittedError: trust, prior or decision rule need what was not fitted.
        PriorError: ``prior`` is no distribution over the labels.
        DecisionError: there is no such decision rule, or it can promise nothing for this model.
    """
    rule = chosen_rule(decision, config.trust)
    log_probs = functional.log_softmax(output.logits.double(), dim=-1).cpu()
    parts = {name: output[name] for name in ("aleatoric", "epistemic") if output.get(name) is not None}
    shares = None
    if prior is not None:
        log_probs, shares = _at_prior(log_probs, prior, config)
        parts = {}  # they add up to the entropy before the shift
        withdrawn = withdrawn or OTHER_PRIOR
    probs = log_probs.exp()
    named = named_class(probs, rule, config.trust, shares)
    at_risk = p_malignant(probs, config.labels, config.label_groups)
    found = [
        {
            "predicted": config.labels[int(named[row])],
            "probabilities": dict(zip(config.labels, share_of_each, strict=True)),
            "p_malignant": None if at_risk is None else float(at_risk[row]),
            "predictive_entropy": float(entropy(log_probs[row])),
            **{name: float(parts[name][row]) if name in parts else None for name in ("aleatoric", "epistemic")},
            "decision": rule,
        }
        for row, share_of_each in enumerate(probs.tolist())
    ]
    if trust:
        groups = group_names(group, len(probs), config.trust)
        trusted = trust_of_each(output.ood_score, probs, named, config, withdrawn, rule, groups)
        return [answer | verdict for answer, verdict in zip(found, trusted, strict=True)]
    names = [class_in_words(answer["predicted"], config.label_names, config.label_groups) for answer in found]
    return [
        answer | UNTRUSTED | {"message": f"{chosen(name, rule)}. {UNTRUSTED['message']}"}
        for answer, name in zip(found, names, strict=True)
    ]


def _at_prior(
    log_probs: torch.Tensor, prior: Mapping[str, float] | Sequence[float], config: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (N, C) where the classes are as frequent as ``prior``, and its shares in the labels' order."""
    if not config.trust.get("prior"):
        raise TrustNotFittedError(
            "a prior was given, but how frequent the classes were where this model was calibrated is not known: "
            "fit it with `python -m trainers.fit_trust`."
        )
    calibrated_at = check_prior(config.trust["prior"]["value"], config.labels)
    shares = check_prior(prior, config.labels)
    return shift_prior(log_probs, calibrated_at, shares), shares


def trust_of_each(
    ood_score: torch.Tensor,
    probs: torch.Tensor,
    named: torch.Tensor,
    config: Any,
    withdrawn: str | None,
    rule: str,
    groups: Sequence[str | None] | None = None,
) -> list[dict[str, Any]]:
    """The keys of trust for each image.

    Args:
        ood_score: (N,), higher = more OOD.
        probs: (N, C).
        named: (N,) class indices, as ``rule`` names them.
        config: the model's.
        withdrawn: as in :func:`answers`.
        rule: the decision rule of this call. Where it names other classes than the model's own, band and set are
            withdrawn.
        groups: N names of ``groups_lesion.group_names``; None = not known of any image.

    Raises:
        TrustNotFittedError: a part of trust is not fitted.
    """
    check_trust_is_fitted(config.trust)
    trust, labels = config.trust, config.labels
    members, _, bands = sets_and_bands(probs, trust, named, groups)
    flagged: list[str | None] = [None] * len(probs) if withdrawn else flags(probs, config)
    if not withdrawn and not same_class(rule, chosen_rule(None, trust)):
        withdrawn = OTHER_DECISION
    rows = []
    for row, score in enumerate(ood_score.double().tolist()):
        is_ood = not score <= trust["ood"]["threshold"]  # NaN counts as OOD
        nothing = is_ood or withdrawn is not None
        names = [label for label, inside in zip(labels, members[row].tolist(), strict=True) if inside]
        group = None if groups is None else groups[row]
        found: dict[str, Any] = {
            "malignancy": None if is_ood else flagged[row],
            "band": None if nothing else bands[row],
            "prediction_set": None if nothing else names,
            "ood_score": score if math.isfinite(score) else None,  # JSON has no NaN
            "is_ood": is_ood,
        }
        verdict = decide(
            trust_of(trust, group),
            labels[int(named[row])],
            **{name: value for name, value in found.items() if name != "ood_score"},
            withdrawn=withdrawn,
            long_names=config.label_names,
            groups=config.label_groups,
            rule=rule,
            group=group,
        )
        rows.append(found | {"abstain": verdict.abstain, "reason": verdict.reason, "message": verdict.message})
    return rows


@dataclass(frozen=True)
class Verdict:
    """The decision of the policy for one image.

    Attributes:
        abstain: the model declines to answer.
        reason: a code of this file.
        message: a few plain sentences.
    """

    abstain: bool
    reason: str
    message: str


def decide(
    trust: Mapping[str, Any],
    predicted: str,
    *,
    is_ood: bool,
    band: str | None = None,
    prediction_set: Sequence[str] | None = None,
    withdrawn: str | None = None,
    long_names: Mapping[str, str] | None = None,
    groups: Mapping[str, str] | None = None,
    rule: str = "most_probable",
    malignancy: str | None = None,
    group: str | None = None,
) -> Verdict:
    """The policy: gate, then set, then band. The flag of malignancy changes the message alone.

    Args:
        trust: ``config.trust``.
        predicted: the class that the decision rule names.
        is_ood: the score is above the gate's threshold.
        band: ``low``, ``moderate`` or ``high``; None when withdrawn.
        prediction_set: names in it; None when withdrawn.
        withdrawn: why there is neither band nor set: a key of ``WITHDRAWN``.
        long_names: short name -> long name, for the message; a class without one keeps its short name.
        groups: short name -> ``benign`` | ``premalignant`` | ``malignant``, for the message.
        rule: the decision rule, for the message.
        malignancy: ``flagged`` or ``not flagged``, for the message; None = nothing is promised.
        group: of the image, for the message; None = not known.
    """
    abstain, reason, message = _policy(
        trust, predicted, is_ood, band, prediction_set, withdrawn, long_names, groups, rule
    )
    if prediction_set is not None and (whose := scope(trust, group)):
        message = f"{message} {whose}"
    if malignancy is not None:
        flag = flag_in_words(malignancy, trust["decision"]["sensitivity"])
        message = f"{flag} {message}" if rule == "sensitivity" and not abstain else f"{message} {flag}"
    return Verdict(abstain, reason, message)


def _policy(
    trust: Mapping[str, Any],
    predicted: str,
    is_ood: bool,
    band: str | None,
    prediction_set: Sequence[str] | None,
    withdrawn: str | None,
    long_names: Mapping[str, str] | None,
    groups: Mapping[str, str] | None,
    rule: str,
) -> tuple[bool, str, str]:
    likeliest = class_in_words(predicted, long_names, groups)
    if is_ood:
        return (
            True,
            OUT_OF_DISTRIBUTION,
            "The model declines: this image is unlike those it was calibrated on, so its answer would mean nothing.",
        )
    if withdrawn or band is None or prediction_set is None:
        code = withdrawn or OTHER_INFERENCE
        return False, code, f"{chosen(likeliest, rule)}, without a tested error rate: {WITHDRAWN[code]}."
    if not prediction_set:
        return (
            True,
            EMPTY_SET,
            "The model declines: no class is as probable as the true one usually is for such lesions, not even "
            f"{CHOSEN_AS[rule]}, {likeliest}.",
        )
    possible = [class_in_words(name, long_names, groups) for name in most_serious_first(prediction_set, groups)]
    if band == "high":
        return (
            True,
            HIGH_UNCERTAINTY,
            "The model declines. High uncertainty: it is less sure of this image than of those for which an error rate "
            f"was tested. Not ruled out: {listed(possible, 'and')}.",
        )
    uncertainty = f"{band.capitalize()} uncertainty"
    if len(possible) > trust["policy"]["max_set_size"]:
        return True, SET_TOO_LARGE, f"The model declines: it cannot tell {indistinct(possible)}. {uncertainty}."
    alone = list(prediction_set) == [predicted]
    answer = chosen(likeliest, rule) if alone else not_ruled_out(possible, likeliest, rule)
    return False, ANSWERED, f"{answer}. {uncertainty}: {promise(trust['bands'][band], band)}"


def chosen(name: str, rule: str) -> str:
    """A class, with the rule that names it where that is not the plain one."""
    return name if same_class(rule, "most_probable") else f"{name}, {CHOSEN_AS[rule]}"


def most_serious_first(names: Sequence[str], groups: Mapping[str, str] | None) -> list[str]:
    """Classes by group, malignant ones first: the beginning of a message must not omit them."""
    return sorted(names, key=lambda name: -LABEL_GROUPS.index((groups or {}).get(name, "benign")))


def class_in_words(label: str, long_names: Mapping[str, str] | None, groups: Mapping[str, str] | None) -> str:
    """A class by its long name, with its group where the name does not contain it: ``Melanoma (malignant)``."""
    name, group = (long_names or {}).get(label) or label, (groups or {}).get(label)
    return name if not group or group in name.lower() else f"{name} ({group})"


def listed(names: Sequence[str], last: str) -> str:
    """``A``, ``A or B``, ``A, B or C``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def indistinct(possible: Sequence[str]) -> str:
    """The classes of a set that is too large: ``A and B apart``, ``3 classes apart: A, B and C``."""
    those = listed(possible, "and")
    return f"{those} apart" if len(possible) == 2 else f"{len(possible)} classes apart: {those}"


def not_ruled_out(possible: Sequence[str], named: str, rule: str) -> str:
    """The classes of a set that is small enough: ``A or B: neither is ruled out, and B is the most probable``."""
    ruled_out = {1: " is not ruled out", 2: ": neither is ruled out"}.get(len(possible), ": none is ruled out")
    return f"{listed(possible, 'or')}{ruled_out}, and {named} is {CHOSEN_AS[rule]}"


def promise(band: Mapping[str, Any], name: str) -> str:
    """The tested error rate of a band, and the share of malignant lesions that it may miss, a sentence each."""
    among = "such answers" if name == "low" else "answers with low or moderate uncertainty"
    errors = (
        f"at most {band['risk'] * 100:g} % of {among} are expected to be wrong, with {band['confidence'] * 100:g} % "
        "confidence, on lesions like those it was calibrated on."
    )
    if not band.get("missed_risk"):
        return errors
    these = "low" if name == "low" else "low or moderate"
    return (
        f"{errors} At most {band['missed_risk'] * 100:g} % of all malignant lesions are expected to be called benign "
        f"with {these} uncertainty, with the same confidence."
    )


def flag_in_words(malignancy: str, fitted: Mapping[str, Any]) -> str:
    """Whether the lesion is flagged, and the share of malignant lesions that are."""
    lesion = "Flagged" if malignancy == FLAGGED else "Not flagged"
    return (
        f"{lesion} as possibly malignant: at least {fitted['target'] * 100:g} % of malignant lesions are expected to "
        f"be flagged, with {fitted['confidence'] * 100:g} % confidence, on lesions like those it was calibrated on."
    )


class PredictSteps:
    """The steps of a classifier's ``predict``, for programs that run them apart; one of its bases."""

    config: Any

    def infer(
        self, inputs: Mapping[str, torch.Tensor], inference: str = "plain", *, samples: int = 30, seed: int = 0
    ) -> Any:
        """The output of :func:`infer_lesion.infer`, which describes the arguments."""
        return infer(self, inputs, inference, samples, seed)

    def explained_pass(self, inputs: Mapping[str, torch.Tensor], method: str, inference: str) -> ExplainedPass:
        """The output of a plain pass, from which heat maps follow.

        Raises:
            ExplanationError: ``inference`` is another than ``plain``, or there is no such heat map.
        """
        if inference != "plain":
            raise ExplanationError(
                f"inference is {inference!r}; a heat map is of one plain pass: leave one of them out."
            )
        return explained_pass(self, None, inputs, method)

    def sample_head(self, features: torch.Tensor, samples: int, seed: int) -> torch.Tensor:
        """MC dropout on the head alone: one pass of the backbone, many of the layers after it."""
        return sample_head(self, features, samples, seed)

    def can_sample_head(self) -> bool:
        """Whether MC dropout on the head alone is all of MC dropout: dropout after the backbone, none inside."""
        inside, after = dropout_layers(self)
        return bool(after) and not inside

    def check_trust_is_fitted(self) -> None:
        """Raise TrustNotFittedError where a part of trust is missing."""
        check_trust_is_fitted(self.config.trust)

    def why_withdrawn(
        self, inputs: Mapping[str, torch.Tensor], inference: str, prior: Any, prepared_as: Mapping[str, Any] | None
    ) -> str | None:
        """Reason code why band and set do not hold for this use; None where they hold."""
        return why_withdrawn(self.config, inputs, inference, prior, prepared_as)

    def answer_in_words(self, output: Any, **options: Any) -> list[dict[str, Any]]:
        """The dictionaries of :meth:`predict`, from an output in eval mode and the options of ``answers``."""
        return answers(output, self.config, **options)
