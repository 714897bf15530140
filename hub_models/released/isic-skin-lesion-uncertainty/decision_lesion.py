"""Decision rules: from calibrated probabilities to the class that is named, and to the flag of possible malignancy.

``most_probable``: the class of the largest probability. Fewest errors at the class frequencies of the calibration.

``balanced``: every class at the same prior, argmax p_y / pi_y. The largest mean recall over classes (Menon et al. 2021,
"Long-tail learning via logit adjustment").

``cost``: the class of the least expected cost, argmin_j sum_y p_y cost[y][j] (Elkan 2001, equation 1).

``sensitivity``: the most probable class is named, and the flag is stated first. The flag itself is part of every
answer: ``p_malignant`` is at least a threshold that finds a promised share of malignant lesions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .configuration_lesion import DECISION_RULES, MALIGNANT_GROUPS
from .trust_lesion import TrustNotFittedError

FLAGGED, NOT_FLAGGED = "flagged", "not flagged"
# The threshold is fitted in float64 and applied to float32 logits; the slack only ever flags one more.
ROUNDING = 1e-6


class DecisionError(ValueError):
    """A decision rule that there is not, or not for this model."""


def chosen_rule(requested: str | None, trust: Mapping[str, Any]) -> str:
    """The rule of a call: the requested one, else the model's own, else ``most_probable``.

    Raises:
        DecisionError: there is no such rule, or the model has no threshold that could keep the promise.
        TrustNotFittedError: what the rule needs was not fitted.
    """
    fitted = trust.get("decision") or {}
    rule = fitted.get("rule", "most_probable") if requested is None else requested
    if rule not in DECISION_RULES:
        raise DecisionError(f"decision {rule!r}: choose one of {', '.join(DECISION_RULES)}")
    lacks = {
        "balanced": None if trust.get("prior") else "class frequencies",
        "cost": None if fitted.get("cost") else "cost matrix",
        "sensitivity": None if fitted.get("sensitivity") else "threshold on p_malignant",
    }.get(rule)
    if lacks:
        raise TrustNotFittedError(
            f"decision {rule!r} needs a fitted {lacks}, and this model has none: fit it with `python -m "
            "trainers.fit_trust` on classes that are marked as benign or malignant, or choose most_probable."
        )
    if rule == "sensitivity" and fitted["sensitivity"]["threshold"] is None:
        raise DecisionError(f"decision 'sensitivity' promises nothing here: {fitted['sensitivity']['reason']}")
    return str(rule)


def same_class(rule: str, other: str) -> bool:
    """Whether two rules name the same class of every image, so that the error rates of one hold for the other."""
    return rule == other or {rule, other} == {"most_probable", "sensitivity"}


def named_class(
    probs: torch.Tensor, rule: str, trust: Mapping[str, Any], prior: torch.Tensor | None = None
) -> torch.Tensor:
    """The class that a rule names for each image.

    Args:
        probs: (N, C) calibrated probabilities.
        rule: one of ``DECISION_RULES``, of :func:`chosen_rule`.
        trust: a model's ``config.trust``.
        prior: (C,) class frequencies at which ``probs`` hold; None = those of the calibration.

    Returns:
        (N,) class indices; of equals the lowest.
    """
    if rule == "balanced":
        shares = trust["prior"]["value"] if prior is None else prior
        return (probs / torch.as_tensor(shares, dtype=probs.dtype)).argmax(dim=1)
    if rule == "cost":
        return (probs @ torch.as_tensor(trust["decision"]["cost"], dtype=probs.dtype)).argmin(dim=1)
    return probs.argmax(dim=1)


def p_malignant(probs: torch.Tensor, labels: Sequence[str], groups: Mapping[str, str]) -> torch.Tensor | None:
    """The probability of all malignant and premalignant classes together, (N, C) -> (N,); None without groups."""
    columns = [index for index, label in enumerate(labels) if groups.get(label) in MALIGNANT_GROUPS]
    return probs[:, columns].sum(dim=1) if groups else None


def flags(probs: torch.Tensor, config: Any) -> list[str | None]:
    """``flagged`` where ``p_malignant`` is at least the fitted threshold, ``not flagged`` below it; (N, C) -> N.

    None where the classes have no groups, nothing was fitted, or nothing can be promised.
    """
    threshold = ((config.trust.get("decision") or {}).get("sensitivity") or {}).get("threshold")
    malignant = p_malignant(probs, config.labels, config.label_groups)
    if malignant is None or threshold is None:
        return [None] * len(probs)
    return [FLAGGED if p >= threshold - ROUNDING else NOT_FLAGGED for p in malignant.tolist()]
