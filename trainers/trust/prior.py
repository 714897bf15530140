"""Class priors: how common each class is, and what a change of that does to calibrated probabilities.

A probability is a statement about one population. Where the classes are as separable as before but more or less common
(a clinic instead of an archive), the probabilities are re-weighted by the ratio of the priors; where the new prior is
not known it is estimated from unlabelled images by expectation-maximisation. Both from Saerens, Latinne, Decaestecker,
"Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple Procedure", Neural Computation 14(1),
2002. Both need probabilities that are calibrated for the prior that they start from, biases included: Alexandari,
Kundaje, Shrikumar, ICML 2020, show that the estimate is only as good as that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets_scripts.command import UserError
from trainers.metrics.weighting import as_labels, group_weights

SUM_TOLERANCE = 1e-6
# Stored probabilities are often float32, whose sums stray further.
ROW_TOLERANCE = 1e-4
FLOOR = 1e-9


@dataclass(frozen=True, eq=False)
class PriorEstimate:
    """A prior estimated from unlabelled images.

    Attributes:
        prior: (C,) shares, all above 0, sum 1.
        iterations: of the expectation-maximisation.
        converged: whether the last iteration moved no share by more than the tolerance; if not, allow more iterations.
        log_likelihood: mean log-likelihood of an image under ``prior`` less that under the calibration prior, in nats;
            0 where the two agree, never negative (but for rounding). Times 2 N it is the statistic of the
            authors' test of whether the prior has changed, chi-squared with C - 1 degrees of freedom if it has not.
    """

    prior: np.ndarray
    iterations: int
    converged: bool
    log_likelihood: float


def class_prior(labels: np.ndarray, groups: np.ndarray, n_classes: int) -> np.ndarray:
    """Share of each class, every lesion group weighing 1 however many images it has.

    A group with images of several classes is shared out between them. A class without images counts half a group
    before the shares are taken: a share of 0 would be the claim that it never comes, and no later evidence could undo
    it. To be the prior of a calibration, both must weigh alike: fit with the same ``groups``.

    Args:
        labels: (N,) integers in [0, n_classes), N at least 1.
        groups: (N,) group ids.
        n_classes: C.

    Returns:
        (C,) shares, all above 0, sum 1.

    Raises:
        ValueError: no images, lengths that differ, a label out of range.
    """
    groups = np.asarray(groups)
    if not groups.size:
        raise ValueError("0 images: a prior needs at least one; check the calibration split")
    labels = as_labels(labels, groups.size, n_classes)
    counts = np.bincount(labels, weights=group_weights(groups), minlength=n_classes)
    counts[counts == 0] = 0.5
    return counts / counts.sum()


def check_prior(prior: Mapping[str, float] | Sequence[float] | np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """A prior as a user gives it -> its shares (C,) in the order of the classes; the models' own check.

    Raises:
        UserError: it is none; the message names the value and what to do.
    """
    from hub_models import trust_lesion  # imports transformers, which the metrics need not wait for

    try:
        return trust_lesion.check_prior(prior, labels).numpy()  # type: ignore[arg-type]
    except trust_lesion.PriorError as error:
        raise UserError(str(error)) from None


def shift(probs: np.ndarray, from_prior: np.ndarray, to_prior: np.ndarray) -> np.ndarray:
    """Probabilities as they would be under another prior (Saerens et al. 2002, equation 2.4).

    Each class is multiplied by ``to / from`` and rows are divided by their sum. It holds where only the prior differs
    and the images of a class look alike in both populations (label shift).

    Args:
        probs: (N, C), calibrated under ``from_prior``; rows sum to 1.
        from_prior: (C,) shares.
        to_prior: (C,) shares.

    Returns:
        (N, C), rows sum to 1.

    Raises:
        UserError: probabilities or priors that are none, or of different numbers of classes.
    """
    probs = _checked(probs)
    ratio = _shares(to_prior, probs, "to_prior") / _shares(from_prior, probs, "from_prior")
    reweighted = probs * ratio
    return reweighted / reweighted.sum(axis=1, keepdims=True)


def estimate_prior(
    probs: np.ndarray,
    calibration_prior: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    max_iterations: int = 2000,
    tolerance: float = 1e-7,
) -> PriorEstimate:
    """The prior under which unlabelled images are likeliest (Saerens et al. 2002, equation 2.9).

    Start from the calibration prior; shift the probabilities to the present estimate (2.4), take their mean as the next
    estimate, repeat. This is expectation-maximisation: no step lowers the likelihood, which is concave in the prior, so
    the start does not matter. The means of several hundred images are needed for shares to a few hundredths.

    Args:
        probs: (N, C) calibrated under ``calibration_prior``, best with biases (``kind="bias_corrected"``); N >= 1.
        calibration_prior: (C,) shares.
        groups: (N,) group ids, each then weighing 1 as in ``class_prior``; None weighs each image 1.
        max_iterations: at least 1.
        tolerance: largest change of a share that counts as none.

    Returns:
        The estimate. A class that no image supports keeps a share of 1e-9, so that another prior can raise it.

    Raises:
        UserError: no images, probabilities or a prior that are none (NaN, negative, another sum), fewer than one
            iteration.
    """
    probs = _checked(probs)
    start = _shares(calibration_prior, probs, "calibration_prior")
    if not len(probs):
        raise UserError("0 images: a prior is estimated from images of the new population; give at least one")
    if max_iterations < 1:
        raise UserError(f"{max_iterations} iterations: give at least 1")
    if groups is not None and np.shape(groups) != (len(probs),):
        raise UserError(f"{np.shape(groups)} group ids for {len(probs)} images: give one group id per image")
    weights = np.ones(len(probs)) if groups is None else group_weights(groups)
    weights = weights / weights.sum()
    evidence = probs / start
    prior, iterations, converged = start, 0, False
    while iterations < max_iterations and not converged:
        # sum_c prior_c p_c / start_c is the likelihood of an image, as a multiple of that under the calibration prior.
        updated = prior * ((weights / (evidence @ prior)) @ evidence)
        updated = updated / updated.sum()
        converged = bool(np.abs(updated - prior).max() <= tolerance)
        prior, iterations = updated, iterations + 1
    prior = prior.clip(min=FLOOR)
    prior = prior / prior.sum()
    return PriorEstimate(prior, iterations, converged, float(weights @ np.log(evidence @ prior)))


def _checked(probs: np.ndarray) -> np.ndarray:
    probs = np.asarray(probs, dtype=np.float64)
    if probs.ndim != 2:
        raise UserError(f"probabilities have shape {probs.shape}: give (N, C)")
    bad = ~np.isfinite(probs).all(axis=1)
    if bad.any():
        raise UserError(
            f"{bad.sum()} of {len(probs)} images have a probability that is NaN or infinite: leave them out"
        )
    if probs.size and (probs.min() < 0 or np.abs(probs.sum(axis=1) - 1).max() > ROW_TOLERANCE):
        raise UserError(
            f"probabilities span {probs.min():g}..{probs.max():g}, rows sum to {probs.sum(axis=1).min():g}.."
            f"{probs.sum(axis=1).max():g}: give softmax, not logits"
        )
    return probs


def _shares(prior: np.ndarray, probs: np.ndarray, name: str) -> np.ndarray:
    """A prior that goes with these probabilities, in a message under its own name."""
    try:
        return check_prior(np.asarray(prior), [f"class {index}" for index in range(probs.shape[1])])
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
