"""Applying trust: what raw logits say once something was fitted on lesions that the weights never saw.

Pure functions of tensors and of the numbers under ``config.trust``. The fits stand in the suite's ``trainers/trust``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

SUM_TOLERANCE = 1e-6
# Why an answer is as it is: one code each, stable, for programs to read.
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
MOST_SERIOUS_FIRST = ("malignant", "premalignant", "benign")


class TrustNotFittedError(RuntimeError):
    """A model was asked how far it can be trusted, and nobody ever measured that."""


class NotFiniteError(ValueError):
    """Inputs, logits or weights that are NaN or infinite: no class follows from them."""


class PriorError(ValueError):
    """Class frequencies that are none, or not those of the model's classes."""


def check_finite(name: str, values: torch.Tensor, what_to_do: str) -> None:
    """Refuse values of which no answer can be made: an argmax over NaN would still name a class.

    Args:
        name: of the values, for the message.
        values: (N, ...), a row an image.
        what_to_do: the message's second half.

    Raises:
        NotFiniteError: says in how many rows, and in which first.
    """
    if torch.compiler.is_compiling() or values.is_meta:
        return
    bad = ~torch.isfinite(values).flatten(1).all(dim=1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise NotFiniteError(
            f"{name} of {int(bad.sum())} of {len(values)} images (the first: {first}) are NaN or infinite: {what_to_do}"
        )


def calibrate(raw_logits: torch.Tensor, fitted: Mapping[str, Any] | None) -> torch.Tensor:
    """Raw logits (..., C) -> calibrated logits (..., C), whose softmax means what it says.

    ``raw / T`` (Guo et al. 2017, equation 9), plus a bias a class where one was fitted (Alexandari et al. 2020); or
    ``raw * scale + bias`` (vector scaling). Nothing fitted: as they are.
    """
    if not fitted:
        return raw_logits
    if fitted.get("scale"):
        logits = raw_logits * raw_logits.new_tensor(fitted["scale"])
    else:
        logits = raw_logits / float(fitted["value"])
    return logits + logits.new_tensor(fitted["bias"]) if fitted.get("bias") else logits


def mean_log_probs(log_probs: torch.Tensor) -> torch.Tensor:
    """Members' log probabilities (N, M, C) -> log of their mean probability (N, C).

    A uniformly weighted mixture (Lakshminarayanan et al. 2017, section 2.4). Its softmax is itself.
    """
    return torch.logsumexp(log_probs, dim=1) - math.log(log_probs.shape[1])


def joint_logits(raw_logits: torch.Tensor) -> torch.Tensor:
    """Raw logits (N, C) as they are, or of M members (N, M, C) -> log of their mean probability (N, C) at T = 1."""
    return raw_logits if raw_logits.ndim == 2 else mean_log_probs(functional.log_softmax(raw_logits, dim=-1))


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Log probabilities (..., C) -> entropy (...) in nats, in [0, log C]; a class of probability 0 adds nothing."""
    return torch.special.entr(log_probs.exp()).sum(dim=-1)


def uncertainty_parts(log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Members' log probabilities (N, M, C) -> total, aleatoric and epistemic uncertainty, each (N,) in nats.

    Total is the entropy of the mean probability, aleatoric the mean of the members' entropies, epistemic their
    difference, the mutual information between the answer and the member (Depeweg et al. 2018, equation 9): total =
    aleatoric + epistemic exactly, and epistemic >= 0 (rounding below 0 is cut off, and taken from aleatoric).
    """
    total = entropy(mean_log_probs(log_probs))
    epistemic = (total - entropy(log_probs).mean(dim=1)).clamp(min=0.0)
    return total, total - epistemic, epistemic


def check_prior(prior: Mapping[str, float] | Sequence[float], labels: Sequence[str]) -> torch.Tensor:
    """A prior as a user gives it -> its shares in the order of the classes.

    Args:
        prior: class name -> share, or C shares in the order of ``labels``; all above 0, sum 1 within 1e-6.
        labels: the C class names.

    Returns:
        (C,) shares, float64.

    Raises:
        PriorError: other classes, a share that is no number, NaN, infinite, 0 or negative, another sum; the message
            names the value and what to do.
    """
    names = list(labels)
    if isinstance(prior, Mapping):
        unknown = [str(name) for name in prior if name not in names]
        missing = [name for name in names if name not in prior]
        if unknown or missing:
            wrong = [f"has the unknown class {', '.join(unknown)}"] if unknown else []
            wrong += [f"lacks {', '.join(missing)}"] if missing else []
            raise PriorError(f"the prior {' and '.join(wrong)}: give one share for each of {', '.join(names)}")
        prior = [float("nan") if prior[name] is None else prior[name] for name in names]
    try:
        values = torch.as_tensor(prior, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise PriorError(f"the prior {prior!r} is not numbers: give one share for each of {', '.join(names)}") from None
    if values.shape != (len(names),):
        raise PriorError(
            f"the prior has shape {tuple(values.shape)} for {len(names)} classes: give one share for each of "
            f"{', '.join(names)}, in this order"
        )
    for name, value in zip(names, values.tolist(), strict=True):
        if not math.isfinite(value) or value <= 0:
            raise PriorError(
                f"the prior of {name} is {value:g}: give a share above 0, a small one such as 0.001 for a class that "
                "hardly ever comes (at 0 no image could change the answer)"
            )
    total = float(values.sum())
    if abs(total - 1) > SUM_TOLERANCE:
        raise PriorError(f"the prior sums to {total:.6g}: divide each share by {total:.6g}, so that they sum to 1")
    return values


def shift_prior(log_probs: torch.Tensor, calibrated_at: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """Log probabilities (N, C) at one class prior (C,) -> at another: p * prior / calibrated_at, made to sum to 1.

    Saerens, Latinne and Decaestecker 2002, equation 2.4. Right where only the frequencies of the classes differ,
    and not what a class looks like.
    """
    return functional.log_softmax(log_probs + (prior / calibrated_at).log().to(log_probs), dim=-1)


@dataclass(frozen=True)
class Verdict:
    """Whether the model answers, and why.

    Attributes:
        abstain: it declines. None where trust was not asked for.
        reason: a code of this file.
        message: one plain sentence or two.
    """

    abstain: bool | None
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
    """The one policy: gate, then set, then band.

    Args:
        trust: what was fitted.
        predicted: the most probable class.
        is_ood: the gate's verdict.
        band: ``low``, ``moderate`` or ``high``; None when withdrawn.
        prediction_set: names in it; None when withdrawn.
        withdrawn: why there is neither band nor set: a key of ``WITHDRAWN``.
        long_names: short name -> long name, for the message; a class without one is called by its short name.
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
        why = WITHDRAWN[withdrawn or OTHER_INFERENCE]
        return Verdict(False, withdrawn or OTHER_INFERENCE, f"{likeliest}, without a tested error rate: {why}.")
    if not prediction_set:
        return Verdict(
            True,
            EMPTY_SET,
            "The model declines: no class is as probable as the true one usually is for such lesions, not even the "
            f"most probable, {likeliest}.",
        )
    # Malignant classes first: whoever reads only the beginning must not miss them.
    ordered = sorted(prediction_set, key=lambda name: MOST_SERIOUS_FIRST.index((groups or {}).get(name, "benign")))
    possible = [class_in_words(name, long_names, groups) for name in ordered]
    if band == "high":
        return Verdict(
            True,
            HIGH_UNCERTAINTY,
            "The model declines. High uncertainty: it is less sure of this image than of those for which an error rate "
            f"was tested. Not ruled out: {listed(possible, 'and')}.",
        )
    uncertainty = f"{band.capitalize()} uncertainty"
    if len(possible) > trust["policy"]["max_set_size"]:
        those = listed(possible, "and")
        apart = f"{those} apart" if len(possible) == 2 else f"{len(possible)} classes apart: {those}"
        return Verdict(True, SET_TOO_LARGE, f"The model declines: it cannot tell {apart}. {uncertainty}.")
    if list(prediction_set) == [predicted]:
        answer = likeliest
    else:
        ruled_out = {1: " is not ruled out", 2: ": neither is ruled out"}.get(len(possible), ": none is ruled out")
        answer = f"{listed(possible, 'or')}{ruled_out}, and {likeliest} is the most probable"
    return Verdict(False, ANSWERED, f"{answer}. {uncertainty}: {promise(trust['bands'][band], band)}")


def class_in_words(label: str, long_names: Mapping[str, str] | None, groups: Mapping[str, str] | None) -> str:
    """A class by its long name, with its group where the name does not contain it: ``Melanoma (malignant)``."""
    name, group = (long_names or {}).get(label) or label, (groups or {}).get(label)
    return name if not group or group in name.lower() else f"{name} ({group})"


def listed(names: Sequence[str], last: str) -> str:
    """``A``, ``A or B``, ``A, B or C``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def promise(band: Mapping[str, Any], name: str) -> str:
    """The error rate that was tested for a band, in words."""
    among = "such answers" if name == "low" else "answers with low or moderate uncertainty"
    return (
        f"at most {band['risk'] * 100:g} % of {among} are expected to be wrong, with {band['confidence'] * 100:g} % "
        "confidence, on lesions like those it was calibrated on."
    )
