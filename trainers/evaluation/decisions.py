"""Answers of a model with fitted trust to stored predictions: the shipped policy, on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from hub_models.answer_lesion import decide, trust_of_each
from hub_models.decision_lesion import FLAGGED, chosen_rule, flags, named_class
from hub_models.trust_lesion import calibrate, mean_log_probs, sets_and_bands
from trainers.metrics.predictions import Predictions


@dataclass(frozen=True)
class Decisions:
    """N answers over C classes, by the very functions that the model ships.

    Attributes:
        probs: (N, C) calibrated.
        predicted: (N,) the class that the model's own decision rule names.
        flagged: (N,) bool, whether ``p_malignant`` is at least the fitted threshold; None where there is none.
        uncertainty: (N,) 1 - the probability of that class.
        sets: (N, C) bool, the prediction set, whether or not the gate accepts.
        bands: (N,) ``low``, ``moderate`` or ``high``, whether or not the gate accepts.
        accepted: (N,) bool, whether the gate accepts the image.
        reasons: (N,) code of the verdict.
        abstains: (N,) bool.
    """

    probs: np.ndarray
    predicted: np.ndarray
    flagged: np.ndarray | None
    uncertainty: np.ndarray
    sets: np.ndarray
    bands: np.ndarray
    accepted: np.ndarray
    reasons: np.ndarray
    abstains: np.ndarray


def decisions(
    predictions: Predictions, trust: Mapping[str, Any], groups: Sequence[str | None] | None = None
) -> Decisions:
    """Apply fitted trust to stored predictions.

    Args:
        predictions: with ``ood_score``.
        trust: a model's ``config.trust``.
        groups: N names of groups that sets and bands were fitted for, None = not known; None = those of all together.

    Raises:
        ValueError: no gate has scored these predictions.
    """
    scores = gate_scores(predictions)
    probs = calibrated_probs(predictions, trust)
    config = _config(predictions, trust)
    named = named_class(probs, chosen_rule(None, trust), trust)
    sets, uncertainty, bands = sets_and_bands(probs, trust, named, groups)
    flagged = np.array(flags(probs, config), dtype=object)
    accepted = scores <= trust["ood"]["threshold"]
    verdicts = []
    for row, band in enumerate(bands):
        inside = [name for name, there in zip(predictions.labels, sets[row].tolist(), strict=True) if there]
        predicted = predictions.labels[int(named[row])]
        verdicts.append(decide(trust, predicted, is_ood=not accepted[row], band=band, prediction_set=inside))
    return Decisions(
        probs=probs.numpy(),
        predicted=named.numpy(),
        flagged=None if any(flag is None for flag in flagged) else flagged == FLAGGED,
        uncertainty=uncertainty.numpy(),
        sets=sets.numpy(),
        bands=np.array(bands, dtype=object),
        accepted=accepted,
        reasons=np.array([verdict.reason for verdict in verdicts], dtype=object),
        abstains=np.array([bool(verdict.abstain) for verdict in verdicts]),
    )


def example_answers(predictions: Predictions, trust: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The first image that the model answers and the first that it declines, as the model would answer them.

    Args:
        predictions: with ``ood_score`` and a label for each image.
        trust: a model's ``config.trust``.

    Returns:
        For each: ``label`` (the true class) and the keys of an answer that are shown: ``predicted``, ``band``,
        ``prediction_set``, ``malignancy``, ``abstain``, ``reason``, ``message``. No more than one of each kind.

    Raises:
        ValueError: no gate has scored these predictions.
    """
    labels, probs = predictions.labels, calibrated_probs(predictions, trust)
    rule = chosen_rule(None, trust)
    named = named_class(probs, rule, trust)
    scores = torch.tensor(gate_scores(predictions))
    answers = trust_of_each(scores, probs, named, _config(predictions, trust), None, rule)
    abstains = [answer["abstain"] for answer in answers]
    rows = [abstains.index(declined) for declined in (False, True) if declined in abstains]
    shown = ("band", "prediction_set", "malignancy", "abstain", "reason", "message")
    return [
        {
            "label": labels[int(predictions.label[row])],
            "predicted": labels[int(named[row])],
            **{name: answers[row][name] for name in shown},
        }
        for row in rows
    ]


def _config(predictions: Predictions, trust: Mapping[str, Any]) -> SimpleNamespace:
    """What the shipped functions read of a model's config."""
    return SimpleNamespace(
        trust=trust,
        labels=predictions.labels,
        label_names=predictions.label_names,
        label_groups=predictions.label_groups,
    )


def gate_scores(predictions: Predictions) -> np.ndarray:
    """``ood_score`` (N,), higher = more OOD.

    Raises:
        ValueError: there is none.
    """
    if predictions.ood_score is None:
        raise ValueError(f"the predictions of {predictions.split!r} have no ood_score: fit trust first")
    return predictions.ood_score


def calibrated_probs(predictions: Predictions, trust: Mapping[str, Any]) -> torch.Tensor:
    """Calibrated mean probabilities (N, C) float64 of stored member logits."""
    logits = calibrate(torch.from_numpy(predictions.logits), trust.get("temperature"))
    return mean_log_probs(functional.log_softmax(logits, dim=-1)).exp()
