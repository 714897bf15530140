"""The metrics that the Trainer computes after each epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import EvalPrediction

from trainers.metrics import calibration, discrimination
from trainers.trust.temperature import log_probs


class DivergedError(ValueError):
    """Logits that are NaN or infinite."""


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
    n_classes = len(labels)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        """The metrics of one evaluation."""
        logits, truth = _arrays(prediction, n_classes)
        probs = np.exp(log_probs(logits))
        confusion = discrimination.confusion_matrix(truth, probs.argmax(axis=1), n_classes)
        # A probability can round to 0; its log is cut off where doubles end.
        logs = np.log(probs.clip(min=np.finfo(np.float64).tiny))
        return {
            "accuracy": float(discrimination.accuracy(confusion)),
            "balanced_accuracy": float(discrimination.balanced_accuracy(confusion)),
            "macro_f1": float(discrimination.macro_f1(confusion)),
            "weighted_f1": float(discrimination.weighted_f1(confusion)),
            "nll": float(calibration.nll(logs, truth)),
        }

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
