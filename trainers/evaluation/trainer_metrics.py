"""The metrics that the Trainer computes after each epoch, through the suite's local ``evaluate`` modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
from transformers import EvalPrediction

from trainers.trust.temperature import log_probs


class DivergedError(ValueError):
    """Logits that are NaN or infinite."""


MODULES = Path(__file__).parent / "modules"


def load_module(name: str) -> evaluate.EvaluationModule:
    """Load one of the suite's ``evaluate`` modules from its folder, offline.

    Args:
        name: ``lesion_classification`` or ``lesion_calibration``.

    Raises:
        ValueError: no module of that name.
    """
    folder = MODULES / name
    if not folder.is_dir():
        known = ", ".join(sorted(path.name for path in MODULES.iterdir() if path.is_dir()))
        raise ValueError(f"no evaluate module {name!r}; give one of: {known}")
    # In memory, as the processes of one run would otherwise meet in one cache file.
    return evaluate.load(str(folder), keep_in_memory=True)


# What ``trainer_metrics`` gives.
TRAINER_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "nll")


def trainer_metrics(labels: Sequence[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the Trainer's ``compute_metrics``.

    The returned function gives ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``weighted_f1`` and ``nll`` (nats, of
    the raw logits, before any temperature); the Trainer puts ``eval_`` before each name.

    Args:
        labels: the class names in the order of the logits.

    Returns:
        A function of an ``EvalPrediction`` whose predictions are raw logits (N, C), or a tuple that begins with them.
    """
    classification, calibration = load_module("lesion_classification"), load_module("lesion_calibration")
    n_classes = len(labels)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits, truth = _arrays(prediction, n_classes)
        logs = log_probs(logits)
        found = classification.compute(predictions=logs.argmax(axis=1), references=truth, n_classes=n_classes)
        honest = calibration.compute(predictions=np.exp(logs), references=truth)
        return {**found, "nll": honest["nll"]}

    return compute_metrics


def _arrays(prediction: EvalPrediction, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    logits: Any = prediction.predictions
    truth: Any = prediction.label_ids
    if isinstance(logits, (tuple, list)):
        logits = logits[0]
    if isinstance(truth, (tuple, list)):
        truth = truth[0]
    logits, truth = np.asarray(logits, dtype=np.float64), np.asarray(truth)
    if logits.ndim not in (2, 3) or logits.shape[-1] != n_classes or truth.shape != logits.shape[:1]:
        raise ValueError(
            f"logits have shape {logits.shape} and labels {truth.shape}; expected (N, {n_classes}) and (N,): "
            "the model must put its raw logits first"
        )
    if not np.isfinite(logits).all():
        images = int((~np.isfinite(logits)).reshape(len(logits), -1).any(axis=1).sum())
        raise DivergedError(f"{images} of {len(logits)} images have a logit that is NaN or infinite")
    return logits, truth
