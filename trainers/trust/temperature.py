"""Calibration of logits: a few numbers, fitted on held-out images, that make probabilities match frequencies.

Three kinds, from few numbers to many:

* ``scalar``: ``softmax(logits / T)``, one temperature T > 0 (Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern
  Neural Networks", ICML 2017, equation 9). T > 1 softens an overconfident model, T < 1 sharpens an underconfident
  one. A single model's answers stay as they are.
* ``bias_corrected``: ``softmax(logits / T + b)``, a bias per class beside it (BCTS: Alexandari, Kundaje, Shrikumar,
  "Maximum Likelihood with Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation", ICML 2020). What
  oversampling in training did to the prior is a bias, which no scalar can undo.
* ``vector``: ``softmax(scale * logits + b)``, a scale per class too (Guo et al. 2017, section 4.2).

For an ensemble of M members one set of numbers is shared and the likelihood is that of the mean of the members'
probabilities, which is what the model answers with.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

from trainers.metrics.weighting import as_labels, check_values, group_weights

KINDS = ("scalar", "vector", "bias_corrected")
LOWEST, HIGHEST = 0.01, 100.0
GRID = 41
# Standard deviations of the normal priors that hold what data leave open: of a bias, in nats, and of a class's log
# scale about the mean of all. Both weigh as one image does, so the ridge on the mean loss is 1 / (2 sd^2 N). A bias of
# 3 is a twentyfold change of odds: a class with 5 images is drawn towards 0 by a few per cent, one without images
# stops at some -3 instead of minus infinity, which would rule it out for ever.
BIAS_SD = 3.0
LOG_SCALE_SD = 1.0


# T > 0, or a fitted calibration as a model's config holds it: ``value``, and ``scale`` and ``bias`` where there are.
Calibration = float | Mapping[str, Any]


class TemperatureWarning(UserWarning):
    """The data do not determine a calibration; the message gives the value that was kept and the reason."""


def calibrated(logits: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Raw logits (..., C) -> calibrated logits (..., C), float64; a test holds it to what the models ship."""
    fitted = calibration if isinstance(calibration, Mapping) else {"value": calibration}
    scale, bias = fitted.get("scale"), fitted.get("bias")
    logits = np.asarray(logits, dtype=np.float64)
    scaled = logits / float(fitted["value"]) if scale is None else logits * np.asarray(scale)
    return scaled if bias is None else scaled + np.asarray(bias)


@dataclass(frozen=True, eq=False)
class CalibrationFit:
    """A fitted calibration: ``logits / value + bias``, or ``logits * scale + bias`` where ``scale`` is given.

    Attributes:
        value: T > 0, without unit; with ``vector`` the geometric mean of 1 / scale, for information only.
        nll_before: mean negative log-likelihood at T = 1 without bias, in nats per image.
        nll_after: the same as fitted; never above ``nll_before``.
        n: number of images it was fitted on.
        kind: ``scalar``, ``vector`` or ``bias_corrected``.
        scale: (C,) all > 0, of ``vector`` only; it multiplies raw logits, which are not centred before.
        bias: (C,) in nats, mean 0 since only differences matter; None for ``scalar``.
    """

    value: float
    nll_before: float
    nll_after: float
    n: int
    kind: str = "scalar"
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Raw logits (..., C) -> calibrated logits of the same shape, float64."""
        return calibrated(logits, {"value": self.value, "scale": self.scale, "bias": self.bias})

    def log_probs(self, logits: np.ndarray) -> np.ndarray:
        """Raw logits (N, C) or (N, M, C) -> log of the (mean) calibrated probability: (N, C)."""
        return log_probs(self.apply(logits))


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


def fit_temperature(logits: np.ndarray, labels: np.ndarray, *, groups: np.ndarray | None = None) -> CalibrationFit:
    """Find the temperature with the least negative log-likelihood (Guo et al. 2017, equation 9).

    ``fit_calibration`` of kind ``scalar``; see there for arguments, warnings and errors.
    """
    fit, why = _fit(logits, labels, "scalar", groups)
    if why:
        warnings.warn(why, TemperatureWarning, stacklevel=2)
    return fit


def fit_calibration(
    logits: np.ndarray, labels: np.ndarray, kind: str = "scalar", *, groups: np.ndarray | None = None
) -> CalibrationFit:
    """Fit one kind of calibration by maximum likelihood.

    The temperature: a coarse grid over log T in [log 0.01, log 100] finds the valley, a bounded search its floor; with
    one member the likelihood is convex in 1/T, with several it need not be. Biases and scales start from there (L-BFGS
    with exact gradients, scales by their logarithm so that they stay above 0) under a ridge that weighs as one image
    (``BIAS_SD``, ``LOG_SCALE_SD``), so they never have a higher loss than the scalar has.

    Some data leave the fit open and are answered with a ``TemperatureWarning`` and no change (T = 1, biases 0): logits
    that are equal within every row, and a model that is right on every image with ever less loss as T falls (sharpening
    without end is not evidence). Biases that would put every image right are left out for the same reason, and the
    scalar's T is kept. Where the loss still falls at T = 100 that T is kept. Each with a warning.

    Args:
        logits: (N, C) or (N, M, C), raw, before any temperature.
        labels: (N,) integers in [0, C).
        kind: ``scalar``, ``vector`` or ``bias_corrected``.
        groups: (N,) lesion group ids, each then weighing 1; None weighs each image 1. Fitted biases make the mean
            probability of a class its share in just these weights, so a fit that is to go with ``class_prior`` of the
            lesions needs them.

    Returns:
        The fit; ``nll_after <= nll_before`` always.

    Raises:
        ValueError: an unknown kind, no images, shapes that do not agree, a logit that is NaN or infinite, a label
            out of range.
    """
    fit, why = _fit(logits, labels, kind, groups)
    if why:
        warnings.warn(why, TemperatureWarning, stacklevel=2)
    return fit


def _fit(
    logits: np.ndarray, labels: np.ndarray, kind: str, groups: np.ndarray | None
) -> tuple[CalibrationFit, str | None]:
    """The fit, and what to warn of."""
    if kind not in KINDS:
        raise ValueError(f"calibration {kind!r} is unknown: give one of {', '.join(KINDS)}")
    logits, labels = _checked(logits, labels)
    n, weights = len(labels), _weights(groups, len(labels))
    before = _nll(logits, labels, weights)
    unchanged = _without_bias(CalibrationFit(1.0, before, before, n, kind), logits.shape[-1])
    if np.ptp(logits, axis=-1).max() == 0:
        return unchanged, (
            f"all logits of an image are equal on each of the {n} images, so no temperature changes the answer: "
            "T = 1 is kept; check the training"
        )
    value, after, edge = _search_temperature(logits, labels, weights)
    if edge == "low":
        return unchanged, (
            f"the loss still falls at T = {LOWEST}: the model is right on every image ({n} images): T = 1 is kept"
        )
    fit = _without_bias(CalibrationFit(value, before, after, n, kind), logits.shape[-1])
    if kind != "scalar":
        biased = _search_bias(logits, labels, weights, fit)
        if (biased.log_probs(logits).argmax(axis=1) == labels).all():
            return fit, (
                f"with biases the model is right on every one of the {n} images, so nothing holds them back: "
                f"T = {value:.4f} is kept without them"
            )
        # Within the last step of the grid, as for the scalar.
        fit, edge = biased, "high" if biased.value > HIGHEST * (LOWEST / HIGHEST) ** (1 / (GRID - 1)) else None
    if fit.nll_after > before:
        return unchanged, (
            f"the best temperature found, {fit.value:.4f}, has a higher loss than T = 1 ({n} images): T = 1 is kept"
        )
    if edge == "high":
        return fit, (
            f"the loss still falls at T = {HIGHEST} on {n} images: the model does no better than chance; "
            "its logits are made to count almost nothing"
        )
    return fit, None


def _without_bias(fit: CalibrationFit, n_classes: int) -> CalibrationFit:
    """The same temperature, in the layout of the fit's kind, biases 0."""
    scale = np.full(n_classes, 1 / fit.value) if fit.kind == "vector" else None
    return replace(fit, scale=scale, bias=None if fit.kind == "scalar" else np.zeros(n_classes))


def _weights(groups: np.ndarray | None, n: int) -> np.ndarray:
    """(N,) weights of the images, their sum the number of what counts as independent: images, or groups."""
    if groups is None:
        return np.ones(n)
    if np.shape(groups) != (n,):
        raise ValueError(f"group ids have shape {np.shape(groups)} for {n} images: give one group id per image")
    return group_weights(groups)


def _nll(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, temperature: float = 1.0) -> float:
    """Weighted mean negative log-likelihood, in nats."""
    losses = -log_probs(logits, temperature)[np.arange(len(labels)), labels]
    return float(weights @ losses / weights.sum())


def _search_temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float, str | None]:
    """The best T, its loss, and the end of the range that it lies at: ``low``, ``high`` or None."""

    def nll(log_temperature: float) -> float:
        return _nll(logits, labels, weights, float(np.exp(log_temperature)))

    grid = np.linspace(np.log(LOWEST), np.log(HIGHEST), GRID)
    best = int(np.argmin([nll(point) for point in grid]))
    bracket = (grid[max(best - 1, 0)], grid[min(best + 1, GRID - 1)])
    found = minimize_scalar(nll, bounds=bracket, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)), float(found.fun), {0: "low", GRID - 1: "high"}.get(best)


def _search_bias(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, start: CalibrationFit) -> CalibrationFit:
    """Biases, and one scale or one per class, from a temperature on; no worse than it on these images."""
    n_classes = logits.shape[-1]
    n_scales = n_classes if start.kind == "vector" else 1

    def unpack(point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Only differences of biases matter: the centred ones are as good, and the ridge is least for them.
        return np.exp(point[:n_scales]), point[n_scales:] - point[n_scales:].mean()

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        """The ridged loss and its slopes by log scale and bias."""
        scale, bias = unpack(point)
        nll, slopes = _nll_slopes(logits * scale + bias, labels, weights)
        by_scale = (slopes * logits).sum(axis=tuple(range(logits.ndim - 1))) * scale
        by_bias = slopes.sum(axis=tuple(range(logits.ndim - 1)))
        apart = point[:n_scales] - point[:n_scales].mean()
        ridge = ((bias / BIAS_SD) ** 2).sum() + ((apart / LOG_SCALE_SD) ** 2).sum()
        gradient = np.concatenate(
            [
                (by_scale if n_scales > 1 else by_scale.sum(keepdims=True)) + apart / LOG_SCALE_SD**2 / weights.sum(),
                by_bias - by_bias.mean() + bias / BIAS_SD**2 / weights.sum(),
            ]
        )
        return nll + ridge / (2 * weights.sum()), gradient

    ends = (-np.log(HIGHEST), -np.log(LOWEST))
    found = minimize(
        loss,
        np.concatenate([np.full(n_scales, -np.log(start.value)), np.zeros(n_classes)]),
        jac=True,
        method="L-BFGS-B",
        bounds=[ends] * n_scales + [(None, None)] * n_classes,
        options={"maxiter": 2000, "maxfun": 4000, "ftol": 1e-14, "gtol": 1e-9},
    )
    scale, bias = unpack(found.x)
    value = float(np.exp(-found.x[:n_scales].mean()))
    fit = replace(start, value=value, scale=scale if start.kind == "vector" else None, bias=bias)
    return replace(fit, nll_after=_nll(fit.apply(logits), labels, weights))


def _nll_slopes(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The weighted mean loss of the members' mean probability, and its derivative by each logit (same shape).

    With p_m the members' probabilities and r_m = p_m[label] / sum of them, the derivative is r_m (p_m - onehot).
    """
    logs = log_softmax(logits if logits.ndim == 3 else logits[:, None], axis=-1)
    true = np.take_along_axis(logs, labels[:, None, None], axis=-1)
    shares = softmax(true, axis=1)
    slopes = shares * (np.exp(logs) - np.eye(logs.shape[-1])[labels][:, None])
    slopes *= (weights / weights.sum())[:, None, None]
    losses = np.log(logs.shape[1]) - logsumexp(true[..., 0], axis=1)
    return float(weights @ losses / weights.sum()), slopes.reshape(logits.shape)


def _checked(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim not in (2, 3):
        raise ValueError(f"logits have shape {logits.shape}: give (N, C) or (N, members, C)")
    if not all(logits.shape):
        raise ValueError(
            f"logits have shape {logits.shape}: a temperature needs at least one image; check the calibration split"
        )
    check_values(logits, "logit")
    return logits, as_labels(labels, len(logits), logits.shape[-1])
