"""A linear head on features: multinomial logistic regression, its L2 penalty chosen by grouped cross-validation."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from datasets_scripts.command import UserError

# Penalties lambda of |W|^2 / 2 beside the mean loss of an image, on standardised features; the strongest first.
PENALTIES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
STEPS = 300
# A class that a fold's training part lacks has this probability there.
LEAST_PROBABILITY = 1e-4


@dataclass(frozen=True)
class Head:
    """A fitted head on the features as they are (not standardised).

    Attributes:
        weight: (C, D) float32.
        bias: (C,) float32.
        about: ``l2``, ``at_the_edge`` (whether it is the strongest or the weakest that was tried), ``cv_log_loss``
            (penalty -> mean log loss in nats of the held-out folds), ``folds``, ``images``, ``groups``, ``per_class``.
    """

    weight: np.ndarray
    bias: np.ndarray
    about: dict[str, Any]


def choose_labelled(groups: Sequence[Any] | np.ndarray, labels: np.ndarray, fraction: float) -> np.ndarray:
    """Which images keep their label: (N,) bool, whole groups, the same ones in every run and on every machine.

    A group is chosen where the hash of its id, read as a number in [0, 1), is below ``fraction``: so a smaller fraction
    is part of a larger one. Of a class without a chosen group, the group with the smallest hash is added.

    Args:
        groups: (N,) ids.
        labels: (N,) class indices.
        fraction: share of the groups, in (0, 1].
    """
    names = np.array([str(group) for group in groups], dtype=object)
    value = {name: _number(name) for name in set(names)}
    hashes = np.array([value[name] for name in names])
    chosen = hashes < fraction
    for label in np.unique(labels):
        own = labels == label
        if not (own & chosen).any():
            chosen |= names == names[own][np.argmin(hashes[own])]
    return chosen


def _number(name: str) -> float:
    return int(hashlib.sha256(name.encode()).hexdigest()[:13], 16) / 16**13


def fit_head(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: int,
    *,
    folds: int = 5,
    balanced: bool = False,
    seed: int = 0,
    penalties: Sequence[float] = PENALTIES,
) -> Head:
    """Fit the head on all images, with the penalty of the least mean log loss in grouped cross-validation.

    Args:
        features: (N, D).
        labels: (N,) class indices.
        groups: (N,) ids of lesions or patients; none is in two folds.
        classes: C.
        folds: number of folds, at least 2.
        balanced: weigh each class by N / (C n_c).
        seed: of the folds.
        penalties: L2 penalties to choose from, the strongest first.

    Raises:
        UserError: fewer than two classes have labels, or there are too few groups for two folds.
    """
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < 2:
        raise UserError(f"the labelled images are of {len(present)} class; give a larger label_fraction")
    names = np.array([str(group) for group in groups], dtype=object)
    folds = min(folds, len(set(names)))
    if folds < 2:
        raise UserError("the labelled images are of one group; give a larger label_fraction")
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 1e-8, deviation, np.inf)  # a constant feature has no weight
    scaled = (features - mean) / scale
    with warnings.catch_warnings():
        # A class may be in fewer groups than there are folds; the last steps of a weak penalty change no answer.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        parts = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(scaled, labels, names))
        losses = held_out_losses(scaled, labels, parts, classes, penalties, balanced)
        best = int(np.argmin(losses))
        fitted = list(_path(scaled, labels, penalties[: best + 1], balanced))[-1]
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, -30.0)  # a class without labels: no answer
    rows, offsets = _rows(fitted)
    weight[fitted.classes_], bias[fitted.classes_] = rows / scale, offsets - rows @ (mean / scale)
    about = {
        "l2": penalties[best],
        "at_the_edge": best in (0, len(penalties) - 1),
        "cv_log_loss": {f"{penalty:g}": float(loss) for penalty, loss in zip(penalties, losses, strict=True)},
        "folds": folds,
        "images": len(labels),
        "groups": len(set(names)),
        "per_class": {int(label): int(count) for label, count in zip(present, counts, strict=True)},
    }
    return Head(weight.astype(np.float32), bias.astype(np.float32), about)


def held_out_losses(
    features: np.ndarray,
    labels: np.ndarray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    classes: int,
    penalties: Sequence[float],
    balanced: bool,
) -> np.ndarray:
    """Mean log loss in nats of the held-out images, by penalty.

    Args:
        features: (N, D), standardised.
        labels: (N,) class indices.
        folds: of each the indices that it fits on, and those that it holds out.
        classes: C.
        penalties: P of them, the strongest first.
        balanced: weigh each class by N / (C n_c).
    """
    losses = np.zeros(len(penalties))
    for train, held_out in tqdm(folds, desc="choose the penalty", unit="fold", disable=None):
        for number, model in enumerate(_path(features[train], labels[train], penalties, balanced)):
            losses[number] += _log_losses(model, features[held_out], labels[held_out], classes).sum()
    return losses / len(labels)


def _path(features: np.ndarray, labels: np.ndarray, penalties: Sequence[float], balanced: bool) -> Any:
    """The fits of all penalties, each started at the one before; one object, changed in place."""
    kind = "balanced" if balanced else None
    model = LogisticRegression(max_iter=STEPS, tol=1e-3, warm_start=True, class_weight=kind)
    for penalty in penalties:
        model.C = 1.0 / (penalty * len(labels))
        yield model.fit(features, labels)


def _rows(model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias with one row per class, also of two classes."""
    if len(model.classes_) > 2:
        return model.coef_, model.intercept_
    return np.concatenate([-model.coef_, model.coef_]) / 2, np.concatenate([-model.intercept_, model.intercept_]) / 2


def _log_losses(model: Any, features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    probs = np.full((len(labels), classes), LEAST_PROBABILITY)
    probs[:, model.classes_] = model.predict_proba(features)
    return -np.log(np.maximum(probs[np.arange(len(labels)), labels], LEAST_PROBABILITY))
