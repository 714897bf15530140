"""Which uncertainty warns of wrong answers: an ensemble's, a single model's, or that of MC dropout on its head.

Each measure is evaluated by its AUROC for the errors of its own answers (Hendrycks & Gimpel, ICLR 2017). A member
 alone and MC dropout are evaluated member by member, and the mean is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from trainers.evaluation.methods import uncertainty
from trainers.metrics.discrimination import auroc
from trainers.metrics.number import bootstrapped, undefined

# (uncertainty (N,), wrong (N,) bool) of each model that a row is the mean of.
Evaluated = list[tuple[np.ndarray, np.ndarray]]


def error_detection(
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    member_temperatures: Sequence[float],
    mc_logits: np.ndarray | None,
    weights: np.ndarray | None,
) -> dict[str, dict[str, Any]]:
    """AUROC of each measure of uncertainty for wrong answers, 0.5 = says nothing.

    Args:
        logits: (N, M, C) raw, of M members.
        labels: (N,).
        temperature: T of the ensemble.
        member_temperatures: T of each member alone, and of its MC dropout.
        mc_logits: (N, M, S, C) raw logits of S passes with dropout on; None leaves these rows out.
        weights: (R, N) bootstrap weights by lesion, or None.

    Returns:
        ``confidence`` is 1 - the largest probability, ``entropy`` that of the answer, ``disagreement`` the mutual
        information between members, or passes. Method -> measure -> value with interval.
    """
    methods: dict[str, dict[str, Evaluated]] = {"single_model": {"confidence": [], "entropy": []}}
    for member, own in enumerate(member_temperatures):
        _add(methods["single_model"], softmax(logits[:, member : member + 1] / own, axis=2), labels)
    methods["ensemble"] = {"confidence": [], "entropy": [], "disagreement": []}
    _add(methods["ensemble"], softmax(logits / temperature, axis=2), labels)
    if mc_logits is not None:
        methods["mc_dropout"] = {"confidence": [], "entropy": [], "disagreement": []}
        for member, own in enumerate(member_temperatures):
            _add(methods["mc_dropout"], softmax(mc_logits[:, member] / own, axis=2), labels)
    return {
        method: {measure: _mean_auroc(evaluated, weights) for measure, evaluated in measures.items()}
        for method, measures in methods.items()
    }


def _add(measures: dict[str, Evaluated], probs: np.ndarray, labels: np.ndarray) -> None:
    """Evaluate one model: probabilities (N, members or passes, C)."""
    answer = probs.mean(axis=1)
    wrong = answer.argmax(axis=1) != labels
    total, _, epistemic = uncertainty(probs)
    found = {"confidence": 1 - answer.max(axis=1), "entropy": total, "disagreement": epistemic}
    for name, evaluated in measures.items():
        evaluated.append((found[name], wrong))


def _mean_auroc(evaluated: Evaluated, weights: np.ndarray | None) -> dict[str, Any]:
    if any(wrong.all() or not wrong.any() for _, wrong in evaluated):
        return undefined("a model is right, or wrong, on every image")
    value = float(np.mean([auroc(wrong, scores) for scores, wrong in evaluated]))
    spread = None
    if weights is not None:
        spread = np.mean([auroc(wrong, scores, weights.astype(np.float64)) for scores, wrong in evaluated], axis=0)
    return bootstrapped(value, spread)
