"""Temperature scaling: one number that makes a classifier's probabilities honest without changing its answers.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, equation 9: the calibrated
probabilities are ``softmax(logits / T)``, with T > 0 chosen to minimise the negative log-likelihood on data that the
weights never saw. T > 1 softens an overconfident model, T < 1 sharpens a timid one. For an ensemble of M members one T
is shared and the likelihood is that of the mean of the members' probabilities, which is what the model answers with.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp

LOWEST, HIGHEST = 0.01, 100.0
GRID = 41


class TemperatureError(ValueError):
    """Logits or labels from which no temperature can be fitted."""


class TemperatureWarning(UserWarning):
    """The data do not pin a temperature down; the message says which value was kept and why."""


@dataclass(frozen=True)
class TemperatureFit:
    """A fitted temperature.

    Attributes:
        value: T > 0, without unit; logits are divided by it.
        nll_before: mean negative log-likelihood at T = 1, in nats an image.
        nll_after: the same at T = ``value``; never above ``nll_before``.
        n: number of images it was fitted on.
    """

    value: float
    nll_before: float
    nll_after: float
    n: int


def log_probs(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log of the members' mean probability at one temperature.

    Args:
        logits: (N, C) of one model, or (N, M, C) of M members; raw.
        temperature: T > 0.

    Returns:
        (N, C) natural logs; ``exp`` of a row sums to 1. Finite for finite logits, however extreme.
    """
    logits = np.asarray(logits, dtype=np.float64)
    scaled = log_softmax(logits / temperature, axis=-1)
    if logits.ndim == 2:
        return scaled
    return logsumexp(scaled, axis=1) - np.log(logits.shape[1])


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> TemperatureFit:
    """Find the temperature with the least negative log-likelihood (Guo et al. 2017, equation 9).

    A coarse grid over log T in [log 0.01, log 100] finds the valley, a bounded search its floor: with one member the
    likelihood is convex in 1/T, with several it need not be. Every image weighs the same.

    Two cases leave T undetermined and are answered with a ``TemperatureWarning``: logits that are equal within every
    row (any T gives the same answer: T = 1), and a model that is right on every image with ever less loss as T falls
    (sharpening without end is not evidence: T = 1).

    Args:
        logits: (N, C) or (N, M, C), raw, before any temperature.
        labels: (N,) integers in [0, C).

    Returns:
        The fit; ``nll_after <= nll_before`` always.

    Raises:
        TemperatureError: no images, shapes that do not agree, a logit that is NaN or infinite, a label out of range.
    """
    logits, labels = _checked(logits, labels)
    rows = np.arange(len(labels))

    def nll(log_temperature: float) -> float:
        return float(-log_probs(logits, float(np.exp(log_temperature)))[rows, labels].mean())

    before = nll(0.0)
    if np.ptp(logits, axis=-1).max() == 0:
        warnings.warn(
            f"all logits of an image are equal on each of the {len(labels)} images, so no temperature changes the "
            "answer: T = 1 is kept; look at the training",
            TemperatureWarning,
            stacklevel=2,
        )
        return TemperatureFit(1.0, before, before, len(labels))
    grid = np.linspace(np.log(LOWEST), np.log(HIGHEST), GRID)
    best = int(np.argmin([nll(point) for point in grid]))
    bracket = (grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)])
    found = minimize_scalar(nll, bounds=bracket, method="bounded", options={"xatol": 1e-6})
    value, after = float(np.exp(found.x)), float(found.fun)
    if best == 0:
        return _kept(before, len(labels), f"the loss still falls at T = {LOWEST}: the model is right on every image")
    if best == GRID - 1:
        warnings.warn(
            f"the loss still falls at T = {HIGHEST} on {len(labels)} images: the model does no better than chance; "
            "its probabilities are made almost equal",
            TemperatureWarning,
            stacklevel=2,
        )
    if after > before:
        return _kept(before, len(labels), f"the best temperature found, {value:.4f}, has a higher loss than T = 1")
    return TemperatureFit(value, before, after, len(labels))


def _kept(before: float, n: int, why: str) -> TemperatureFit:
    warnings.warn(f"{why} ({n} images): T = 1 is kept", TemperatureWarning, stacklevel=3)
    return TemperatureFit(1.0, before, before, n)


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = np.asarray(logits, dtype=np.float64)
    labels = np.asarray(labels)
    if logits.ndim not in (2, 3):
        raise TemperatureError(f"logits have shape {logits.shape}: give (N, C) or (N, members, C)")
    if labels.shape != logits.shape[:1]:
        raise TemperatureError(f"labels have shape {labels.shape}, logits {logits.shape}: give one label an image")
    if not len(labels) or not all(logits.shape):
        raise TemperatureError(
            f"logits have shape {logits.shape}: a temperature needs at least one image; check the calibration split"
        )
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).reshape(len(logits), -1).any(axis=1).sum())
        raise TemperatureError(
            f"{bad} of {len(logits)} images have a logit that is NaN or infinite: the training diverged; "
            "lower the learning rate or train in fp32"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TemperatureError(f"labels are of type {labels.dtype}: give class indices as integers")
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise TemperatureError(f"labels span {labels.min()}..{labels.max()}; expected 0..{logits.shape[-1] - 1}")
    return logits, labels
