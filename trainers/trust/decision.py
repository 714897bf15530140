"""Fitting decision rules: the cost matrix, and the threshold on ``p_malignant`` that finds a promised share.

The threshold is the (k + 1)-th smallest ``p_malignant`` of the n malignant lesions of the second half, k the largest
number of missed lesions with P(Bin(n, 1 - target) <= k) <= 1 - confidence. The share that it misses is then at most
1 - target with that confidence, whatever the distribution (a tolerance bound, Wilks 1941). Learn-then-Test ends there,
too, when it tests all thresholds in ascending order (Angelopoulos et al., "Learn then Test", arXiv 2110.01052): the
p-value is the exact binomial one of Clopper and Pearson (1934). The rows are one image per lesion, those that the gate
accepts.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom

from datasets_scripts.command import UserError
from hub_models.decision_lesion import named_class
from trainers.metrics.predictions import Predictions
from trainers.trust.bands import DECIMALS, least_n
from trainers.trust.options import TrustOptions

NO_MALIGNANT = "no class is marked as malignant or premalignant, so that there is no p_malignant"


def fit_decision(two: Predictions, probs: np.ndarray, options: TrustOptions) -> dict[str, Any]:
    """Fit what the decision rules need.

    Args:
        two: accepted images of the second half, one per lesion.
        probs: (N, C) their calibrated probabilities.
        options: of the fit.

    Returns:
        JSON-ready ``config.trust["decision"]``: ``rule``, ``cost`` (None without malignant classes, unless a whole
        matrix was given) and ``sensitivity`` (None without them).

    Raises:
        UserError: a cost matrix that is none; no malignant class, or too few malignant lesions, for what was requested.
    """
    malignant = np.isin(np.arange(len(two.labels)), two.malignant_columns())
    cost = check_decision(two.labels, malignant, options)
    sensitivity = None
    if malignant.any():
        p = probs[np.ix_(malignant[two.label], malignant)].sum(axis=1)
        sensitivity = fit_sensitivity(p, options.sensitivity, options.confidence)
        if sensitivity["threshold"] is None and _requested(options):
            raise UserError(f"sensitivity {options.sensitivity}: {sensitivity['reason']}")
    return {"rule": options.decision, "cost": cost, "sensitivity": sensitivity}


def check_decision(
    labels: Sequence[str], malignant: np.ndarray, options: TrustOptions, most: int | None = None
) -> list[list[float]] | None:
    """The cost matrix; refuses what no prediction could make possible, so that it may come before the first one.

    Args:
        labels: the C class names.
        malignant: (C,) bool.
        options: of the fit.
        most: malignant lesions that the second half has at most; None = not counted yet.

    Raises:
        UserError: as :func:`fit_decision`.
    """
    cost = cost_matrix(options.cost, labels, malignant)
    if _requested(options) and not malignant.any():
        raise UserError(f"decision sensitivity: {NO_MALIGNANT}; choose another rule, or mark the classes")
    if options.decision == "cost" and cost is None:
        raise UserError(f"decision cost: {NO_MALIGNANT}; give a whole matrix as --cost FILE, or choose another rule")
    if _requested(options) and most is not None:
        reason = fit_sensitivity(np.ones(most), options.sensitivity, options.confidence)["reason"]
        if reason is not None:
            raise UserError(f"sensitivity {options.sensitivity}: {reason}")
    return cost


def _requested(options: TrustOptions) -> bool:
    """Whether a promised sensitivity was asked for."""
    return options.decision == "sensitivity" or options.sensitivity != TrustOptions.sensitivity


def fit_sensitivity(p_malignant: np.ndarray, target: float, confidence: float) -> dict[str, Any]:
    """Find the largest threshold that finds at least ``target`` of malignant lesions with the given confidence.

    Args:
        p_malignant: (n,) of malignant lesions, one image each.
        target: least share of malignant lesions with ``p_malignant`` at or above the threshold, in (0, 1).
        confidence: in (0, 1).

    Returns:
        ``target``, ``confidence``, ``threshold`` (None where n is too small), ``n``, ``missed`` of them, ``p_value``,
        and ``reason``, None where there is a threshold.

    Raises:
        ValueError: target or confidence outside (0, 1).
    """
    needed, n = least_n(1 - target, confidence), len(p_malignant)
    found = {"target": target, "confidence": confidence, "threshold": None, "n": n, "missed": 0, "p_value": 1.0}
    chances = binom.cdf(np.arange(n + 1), n, 1 - target)
    missed = int((chances <= 1 - confidence).sum()) - 1
    if missed < 0:
        most = math.floor(1000 * (1 - confidence) ** (1 / n)) / 1000 if n else 0.0
        instead = f", or ask for at most {most:g}" if most else ""
        reason = (
            f"{n} malignant calibration lesions are too few to promise that {target:g} of them are found with "
            f"confidence {confidence:g}: {needed} are needed in the second half of the split, so about "
            f"{2 * (needed or 0)} in all{instead}"
        )
        return {**found, "reason": reason}
    threshold = math.floor(np.sort(p_malignant)[missed] * 10**DECIMALS) / 10**DECIMALS
    found |= {"threshold": threshold, "missed": int((p_malignant < threshold).sum()), "p_value": float(chances[missed])}
    return {**found, "reason": None}


def cost_matrix(given: str, labels: Sequence[str], malignant: np.ndarray) -> list[list[float]] | None:
    """The cost matrix that ``--cost`` names: rows are the true class, columns the named one.

    Args:
        given: a number, the cost of calling a malignant lesion benign where any other confusion costs 1; or a file: a
            JSON list of C rows, or a CSV table of C rows and no header.
        labels: the C class names, in the order of rows and columns.
        malignant: (C,) bool.

    Returns:
        C rows of C costs; None for a number where no class is malignant, or all are.

    Raises:
        UserError: no number and no such file, another shape, a cost that is negative, NaN or infinite.
    """
    try:
        missed = float(given)
    except ValueError:
        return _checked(_read(given), labels, given)
    if not (math.isfinite(missed) and missed > 0):
        raise UserError(f"cost {given}: give a number above 0, or a file that holds a matrix")
    if not malignant.any() or malignant.all():
        return None
    cost = np.ones((len(labels), len(labels)))
    cost[np.ix_(malignant, ~malignant)] = missed
    np.fill_diagonal(cost, 0.0)
    return cost.tolist()


def names_of(probs: np.ndarray, trust: Mapping[str, Any]) -> np.ndarray:
    """The classes (N,) that a model's own rule names for calibrated probabilities (N, C)."""
    rule = (trust.get("decision") or {}).get("rule", "most_probable")
    return named_class(torch.from_numpy(probs), rule, trust).numpy()


def _read(path: str) -> Any:
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"cost {path!r}: give a number such as 10, or a JSON or CSV file that holds a matrix") from None
    try:
        return json.loads(text) if text.lstrip().startswith("[") else list(csv.reader(io.StringIO(text)))
    except ValueError as error:
        raise UserError(f"cost {path!r} is no JSON ({error}): give a list of rows") from error


def _checked(rows: Any, labels: Sequence[str], where: str) -> list[list[float]]:
    classes = len(labels)
    try:
        cost = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"cost {where!r} is no matrix of numbers: give {classes} rows of {classes} costs") from None
    if cost.shape != (classes, classes):
        raise UserError(
            f"cost {where!r} has shape {cost.shape}: give {classes} rows of {classes} costs, true class by named "
            f"class, in the order {', '.join(labels)}"
        )
    wrong = ~(np.isfinite(cost) & (cost >= 0))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(
            f"cost {where!r} has {cost[row, column]:g} for {labels[row]} called {labels[column]}: give finite costs of "
            "at least 0"
        )
    return cost.tolist()
