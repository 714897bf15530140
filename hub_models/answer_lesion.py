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

from .configuration_lesion import LABEL_GROUPS, MALIGNANT_GROUPS
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
TRUST_NOT_ASKED = "trust_not_asked"
WITHDRAWN = {
    OTHER_PREPROCESSING: "the image was prepared with other settings than the images of the calibration",
    OTHER_INFERENCE: "the model was run in another way than at its calibration",
    OTHER_PRIOR: "the classes are assumed to be more or less frequent than at its calibration",
}
UNTRUSTED = {
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
    withdrawn: str | None = None,
) -> list[dict[str, Any]]:
    """The dictionary of each image; ``predict`` describes its keys.

    Args:
        output: of ``forward`` in eval mode, or of ``infer``.
        config: the model's.
        trust: as in ``predict``.
        prior: as in ``predict``.
        withdrawn: why there is no band and no set, a key of ``WITHDRAWN``; None = there are.

    Raises:
        TrustNotFittedError: trust was requested and is not fitted, or a prior was given and the one of the calibration
            is not known.
        PriorError: ``prior`` is no distribution over the labels.
    """
    log_probs = functional.log_softmax(output.logits.double(), dim=-1).cpu()
    parts = {name: output[name] for name in ("aleatoric", "epistemic") if output.get(name) is not None}
    if prior is not None:
        if not config.trust.get("prior"):
            raise TrustNotFittedError(
                "a prior was given, but how frequent the classes were where this model was calibrated is not known: "
                "fit it with `python -m trainers.fit_trust`."
            )
        calibrated_at = check_prior(config.trust["prior"]["value"], config.labels)
        log_probs = shift_prior(log_probs, calibrated_at, check_prior(prior, config.labels))
        parts = {}  # they add up to the entropy before the shift
        withdrawn = withdrawn or OTHER_PRIOR
    found = [class_probabilities(row, config) for row in log_probs]
    for name in ("aleatoric", "epistemic"):
        values = parts[name].tolist() if name in parts else [None] * len(found)
        for answer, value in zip(found, values, strict=True):
            answer[name] = value
    if trust:
        trusted = trust_of_each(output.ood_score, log_probs.exp(), config, withdrawn)
        return [answer | verdict for answer, verdict in zip(found, trusted, strict=True)]
    names = [class_in_words(answer["predicted"], config.label_names, config.label_groups) for answer in found]
    return [
        answer | UNTRUSTED | {"message": f"{name}. {UNTRUSTED['message']}"}
        for answer, name in zip(found, names, strict=True)
    ]


def class_probabilities(log_probs: torch.Tensor, config: Any) -> dict[str, Any]:
    """Log probabilities (C,) of one image -> the keys that need no trust."""
    labels, groups = config.labels, config.label_groups
    probabilities = dict(zip(labels, log_probs.exp().tolist(), strict=True))
    malignant = [value for label, value in probabilities.items() if groups.get(label) in MALIGNANT_GROUPS]
    return {
        "predicted": labels[int(log_probs.argmax())],
        "probabilities": probabilities,
        "p_malignant": sum(malignant) if groups else None,
        "predictive_entropy": float(entropy(log_probs)),
    }


def trust_of_each(
    ood_score: torch.Tensor, probs: torch.Tensor, config: Any, withdrawn: str | None
) -> list[dict[str, Any]]:
    """The keys of trust for each image.

    Args:
        ood_score: (N,), higher = more OOD.
        probs: (N, C).
        config: the model's.
        withdrawn: as in :func:`answers`.

    Raises:
        TrustNotFittedError: a part of trust is not fitted.
    """
    check_trust_is_fitted(config.trust)
    trust, labels = config.trust, config.labels
    members, _, bands = sets_and_bands(probs, trust)
    rows = []
    for row, score in enumerate(ood_score.double().tolist()):
        is_ood = not score <= trust["ood"]["threshold"]  # NaN counts as OOD
        nothing = is_ood or withdrawn is not None
        names = [label for label, inside in zip(labels, members[row].tolist(), strict=True) if inside]
        band, prediction_set = (None, None) if nothing else (bands[row], names)
        verdict = decide(
            trust,
            labels[int(probs[row].argmax())],
            is_ood=is_ood,
            band=band,
            prediction_set=prediction_set,
            withdrawn=withdrawn,
            long_names=config.label_names,
            groups=config.label_groups,
        )
        rows.append(
            {
                "band": band,
                "prediction_set": prediction_set,
                "ood_score": score if math.isfinite(score) else None,  # JSON has no NaN
                "is_ood": is_ood,
                "abstain": verdict.abstain,
                "reason": verdict.reason,
                "message": verdict.message,
            }
        )
    return rows


@dataclass(frozen=True)
class Verdict:
    """The decision of the policy for one image.

    Attributes:
        abstain: the model declines to answer.
        reason: a code of this file.
        message: one or two plain sentences.
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
) -> Verdict:
    """The policy: gate, then set, then band.

    Args:
        trust: ``config.trust``.
        predicted: the most probable class.
        is_ood: the score is above the gate's threshold.
        band: ``low``, ``moderate`` or ``high``; None when withdrawn.
        prediction_set: names in it; None when withdrawn.
        withdrawn: why there is neither band nor set: a key of ``WITHDRAWN``.
        long_names: short name -> long name, for the message; a class without one keeps its short name.
        groups: short name -> ``benign`` | ``premalignant`` | ``malignant``, for the message.
    """
    likeliest = class_in_words(predicted, long_names, groups)
    if is_ood:
        return Verdict(
            True,
            OUT_OF_DISTRIBUTION,
            "The model declines: this image is unlike those it was calibrated on, so its answer would mean nothing.",
        )
    if withdrawn or band is None or prediction_set is None:
        code = withdrawn or OTHER_INFERENCE
        return Verdict(False, code, f"{likeliest}, without a tested error rate: {WITHDRAWN[code]}.")
    if not prediction_set:
        return Verdict(
            True,
            EMPTY_SET,
            "The model declines: no class is as probable as the true one usually is for such lesions, not even the "
            f"most probable, {likeliest}.",
        )
    possible = [class_in_words(name, long_names, groups) for name in most_serious_first(prediction_set, groups)]
    if band == "high":
        return Verdict(
            True,
            HIGH_UNCERTAINTY,
            "The model declines. High uncertainty: it is less sure of this image than of those for which an error rate "
            f"was tested. Not ruled out: {listed(possible, 'and')}.",
        )
    uncertainty = f"{band.capitalize()} uncertainty"
    if len(possible) > trust["policy"]["max_set_size"]:
        return Verdict(
            True, SET_TOO_LARGE, f"The model declines: it cannot tell {indistinct(possible)}. {uncertainty}."
        )
    answer = likeliest if list(prediction_set) == [predicted] else not_ruled_out(possible, likeliest)
    return Verdict(False, ANSWERED, f"{answer}. {uncertainty}: {promise(trust['bands'][band], band)}")


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


def not_ruled_out(possible: Sequence[str], likeliest: str) -> str:
    """The classes of a set that is small enough: ``A or B: neither is ruled out, and B is the most probable``."""
    ruled_out = {1: " is not ruled out", 2: ": neither is ruled out"}.get(len(possible), ": none is ruled out")
    return f"{listed(possible, 'or')}{ruled_out}, and {likeliest} is the most probable"


def promise(band: Mapping[str, Any], name: str) -> str:
    """The tested error rate of a band, in words."""
    among = "such answers" if name == "low" else "answers with low or moderate uncertainty"
    return (
        f"at most {band['risk'] * 100:g} % of {among} are expected to be wrong, with {band['confidence'] * 100:g} % "
        "confidence, on lesions like those it was calibrated on."
    )
