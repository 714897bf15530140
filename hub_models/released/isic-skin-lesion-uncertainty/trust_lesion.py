"""Applying trust: temperature, uncertainty, class priors, conformal sets and risk bands.

Pure functions of tensors and of the numbers under ``config.trust``. These numbers are fitted by the suite's
``trainers/trust``, on images that the weights never saw.

A conformal set holds every class y whose score s(x, y) is at most that class's threshold qhat[y]; low scores conform.
The promise of a set is a share of sets that hold the true class, over images like those of the fit. It is no promise
about one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .configuration_lesion import CONFORMAL_METHODS
from .groups_lesion import trust_of

SUM_TOLERANCE = 1e-6
RAPS_SETTINGS = {"penalty": 0.01, "k_reg": 2}
# Thresholds are fitted in float64 and applied in float32: a score that equals its threshold must not fall out of the
# set by rounding. The slack only ever adds a class, so it cannot break the promise.
ROUNDING = 1e-6
# Half-precision softmax rows miss 1 by about this much; logits miss by far more.
NOT_A_PROBABILITY = 1e-2


class TrustNotFittedError(RuntimeError):
    """Trust was requested of a model for which none was fitted."""


class NotFiniteError(ValueError):
    """Inputs, logits or weights that are NaN or infinite: no class follows from them."""


class PriorError(ValueError):
    """Class frequencies that are no distribution, or not over the model's classes."""


class ConformalError(ValueError):
    """Probabilities, scores, thresholds or settings from which no set or band follows."""


class TrustBuffers(nn.Module):
    """The fitted matrices of the gate: float32 buffers of the shapes that ``config.trust`` names."""

    def __init__(self, trust: Mapping[str, Any]) -> None:
        super().__init__()
        for name, shape in trust.get("ood", {}).get("buffers", {}).items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float32))

    def as_dict(self) -> dict[str, torch.Tensor]:
        """Name -> matrix."""
        return dict(self.named_buffers())


def check_finite(name: str, values: torch.Tensor, what_to_do: str) -> None:
    """Check that values are finite: an argmax over NaN would still name a class.

    Args:
        name: of the values, for the message.
        values: (N, ...), one row per image.
        what_to_do: the second half of the message.

    Raises:
        NotFiniteError: names the number of rows and the first one.
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
    """Raw logits (..., C) -> calibrated logits (..., C); their softmax is the calibrated probability.

    ``raw / T`` (Guo et al. 2017, equation 9), plus one bias per class where it was fitted (Alexandari et al. 2020);
    or ``raw * scale + bias`` (vector scaling). Unchanged where nothing was fitted.
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
    """Raw logits (N, C) unchanged, or of M members (N, M, C) -> log of their mean probability (N, C) at T = 1."""
    return raw_logits if raw_logits.ndim == 2 else mean_log_probs(functional.log_softmax(raw_logits, dim=-1))


def entropy(log_probs: torch.Tensor) -> torch.Tensor:
    """Log probabilities (..., C) -> entropy (...) in nats, in [0, log C]; a class of probability 0 adds 0."""
    return torch.special.entr(log_probs.exp()).sum(dim=-1)


def uncertainty_parts(log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Members' log probabilities (N, M, C) -> total, aleatoric and epistemic uncertainty, each (N,) in nats.

    Total is the entropy of the mean probability, aleatoric the mean of the members' entropies, epistemic their
    difference, the mutual information between the answer and the member (Depeweg et al. 2018, equation 9): total =
    aleatoric + epistemic exactly, and epistemic >= 0 (a rounding error below 0 is set to 0 and taken from aleatoric).
    """
    total = entropy(mean_log_probs(log_probs))
    epistemic = (total - entropy(log_probs).mean(dim=1)).clamp(min=0.0)
    return total, total - epistemic, epistemic


def check_prior(prior: Mapping[str, float] | Sequence[float], labels: Sequence[str]) -> torch.Tensor:
    """A user's prior -> its shares in the order of the classes.

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
    """Log probabilities (N, C) at one class prior (C,) -> at another: p * prior / calibrated_at, normalised to sum 1.

    Saerens, Latinne and Decaestecker 2002, equation 2.4. Correct where only the frequencies of the classes differ, and
    not the images within a class.
    """
    return functional.log_softmax(log_probs + (prior / calibrated_at).log().to(log_probs), dim=-1)


def conformal_scores(
    probs: torch.Tensor, method: str = "lac", settings: Mapping[str, float] | None = None
) -> torch.Tensor:
    """Nonconformity score of each class for each image; higher = a worse fit.

    ``lac``: 1 - p_y, in [0, 1] (Sadinle, Lei, Wasserman 2019, equation 4). The smallest sets on average; they may be
    empty, where no class is probable enough.

    ``aps``: the probability of y and of all classes more probable than y, in (0, 1] (Romano, Sesia, Candes 2020,
    equation 7, with u = 1). Deterministic: their random u, which makes the coverage exact, would give the
    same image two different sets. The cost: the sets cover more and are larger, and the score of the first class is
    its own probability, so the most confident answers have high scores and can leave their own set empty.

    ``raps``: aps + penalty * max(rank - k_reg, 0), rank 1 for the most probable class (Angelopoulos, Bates, Malik,
    Jordan 2021, equation 4, with u = 1); at least 0, no upper bound. Shortens the long tails of aps sets.

    Args:
        probs: (N, C) probabilities, rows sum to 1; float64 stays, everything else is taken to float32.
        method: ``lac``, ``aps`` or ``raps``.
        settings: of ``raps``: ``penalty`` >= 0 and ``k_reg`` >= 0; ``RAPS_SETTINGS`` where missing. Others take none.

    Returns:
        (N, C) scores. Classes of equal probability are ranked by their index.

    Raises:
        ConformalError: another shape, a NaN or infinite value, rows that are no probabilities, an unknown method or
            setting, a negative penalty or k_reg.
    """
    penalty, k_reg = _checked_settings(method, settings)
    probs = _checked_probs(probs)
    if method == "lac":
        return 1.0 - probs
    order = probs.argsort(dim=1, descending=True, stable=True)
    # A class's place in its row's order is the inverse of that permutation.
    place = order.argsort(dim=1)
    down_to = probs.gather(1, order).cumsum(dim=1).gather(1, place)
    if method == "aps":
        return down_to
    return down_to + penalty * (place + 1 - k_reg).clamp(min=0).to(probs.dtype)


def prediction_sets(scores: torch.Tensor, qhat: Sequence[float | None] | torch.Tensor) -> torch.Tensor:
    """The classes in the set of each image: score <= qhat of that class.

    The comparison allows ``ROUNDING`` (1e-6) so that a score fitted in float64 and recomputed in float32 still meets
    its own threshold.

    Args:
        scores: (N, C) of ``conformal_scores``, by the method that the thresholds were fitted with.
        qhat: C thresholds; None or infinite where the fit had too few lesions: that class is in every set.

    Returns:
        (N, C) bool; a row may be all False (an empty set) or all True.

    Raises:
        ConformalError: shapes that do not agree, or a NaN among scores or thresholds.
    """
    thresholds = torch.as_tensor(
        [math.inf if value is None else float(value) for value in qhat], dtype=scores.dtype, device=scores.device
    )
    if scores.ndim != 2 or thresholds.shape != scores.shape[1:]:
        raise ConformalError(
            f"scores have shape {tuple(scores.shape)} and qhat {tuple(thresholds.shape)}: "
            "give (N, C) scores and one threshold a class"
        )
    for name, values in (("scores", scores), ("qhat", thresholds)):
        if bool(values.isnan().any()):
            raise ConformalError(f"{int(values.isnan().sum())} of the {name} are NaN: no set can be made of them")
    return scores <= thresholds + ROUNDING


def sets_and_bands(
    probs: torch.Tensor,
    trust: Mapping[str, Any],
    named: torch.Tensor,
    groups: Sequence[str | None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Calibrated probabilities (N, C) -> conformal sets, uncertainty and risk bands.

    Args:
        probs: (N, C).
        trust: a model's ``config.trust``.
        named: (N,) the class that is named for each image.
        groups: N names of ``groups_lesion.group_names``; None = the thresholds of all groups together.

    Returns:
        The sets (N, C) bool; the uncertainty (N,), 1 - the probability of the named class; the N bands.
    """
    if groups is not None and trust.get("groups"):
        sets, uncertainty = torch.zeros_like(probs, dtype=torch.bool), torch.zeros_like(probs[:, 0])
        names = [""] * len(probs)
        for group in dict.fromkeys(groups):
            rows = [row for row, name in enumerate(groups) if name == group]
            sets[rows], uncertainty[rows], mine = sets_and_bands(probs[rows], trust_of(trust, group), named[rows])
            for row, band in zip(rows, mine, strict=True):
                names[row] = band
        return sets, uncertainty, names
    fitted, bands = trust["conformal"], trust["bands"]
    sets = prediction_sets(conformal_scores(probs, fitted["method"], fitted["settings"]), fitted["qhat"])
    uncertainty = 1 - probs.gather(1, named[:, None])[:, 0]
    return sets, uncertainty, risk_bands(uncertainty, bands["low"]["threshold"], bands["moderate"]["threshold"])


def risk_bands(uncertainty: torch.Tensor, low: float | None, moderate: float | None) -> list[str]:
    """The risk band of each answer.

    ``low`` where the uncertainty is at most the low threshold, ``moderate`` where it is above that and at most the
    moderate one, ``high`` elsewhere. The moderate promise was tested on both bands together.

    Args:
        uncertainty: (N,), of the kind that the thresholds were fitted on (1 - the probability of the named class).
        low: threshold of the low band, None = no promise was possible: the band is empty.
        moderate: the same of the moderate band; None leaves it empty.

    Returns:
        N names.

    Raises:
        ConformalError: another shape, a NaN, or a moderate threshold below the low one.
    """
    if uncertainty.ndim != 1 or bool(uncertainty.isnan().any()):
        raise ConformalError(
            f"uncertainty has shape {tuple(uncertainty.shape)} and {int(uncertainty.isnan().sum())} NaN: "
            "give one number an image"
        )
    for name, value in (("low", low), ("moderate", moderate)):
        if value is not None and math.isnan(value):
            raise ConformalError(f"the {name} threshold is NaN: give a number, or None for an empty band")
    if low is not None and moderate is not None and moderate < low:
        raise ConformalError(f"the moderate threshold {moderate} is below the low one {low}: fit the bands again")
    lowest = -math.inf if low is None else low
    middle = -math.inf if moderate is None else moderate
    return ["low" if u <= lowest else "moderate" if u <= middle else "high" for u in uncertainty.tolist()]


def _checked_settings(method: str, settings: Mapping[str, float] | None) -> tuple[float, float]:
    if method not in CONFORMAL_METHODS:
        raise ConformalError(f"method {method!r}: give one of {', '.join(CONFORMAL_METHODS)}")
    given = dict(settings or {})
    unknown = sorted(set(given) - set(RAPS_SETTINGS if method == "raps" else ()))
    if unknown:
        raise ConformalError(f"method {method!r} knows no setting {unknown[0]!r}: leave it out")
    penalty, k_reg = (float(given.get(name, default)) for name, default in RAPS_SETTINGS.items())
    for name, value in (("penalty", penalty), ("k_reg", k_reg)):
        if not (math.isfinite(value) and value >= 0):
            raise ConformalError(f"{name} {value}: give a finite number of at least 0")
    return penalty, k_reg


def _checked_probs(probs: torch.Tensor) -> torch.Tensor:
    if probs.ndim != 2:
        raise ConformalError(f"probabilities have shape {tuple(probs.shape)}: give (N, C)")
    probs = probs if probs.dtype == torch.float64 else probs.float()
    if not bool(probs.isfinite().all()):
        bad = int((~probs.isfinite()).any(dim=1).sum())
        raise ConformalError(f"{bad} of {len(probs)} images have a probability that is NaN or infinite")
    if probs.numel() and not bool((probs >= 0).all() & ((probs.sum(dim=1) - 1).abs() <= NOT_A_PROBABILITY).all()):
        raise ConformalError("rows are no probabilities (each at least 0, sum 1): give softmax, not logits")
    return probs
