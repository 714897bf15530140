"""What is gained by declining to answer when unsure: plain, weighted functions (see ``discrimination`` for weights).

Images are accepted from the least uncertain on. Images of equal uncertainty are accepted together, since no threshold
can tell them apart; a constant uncertainty thus gives one point, the error of the whole. Selective risk is the share of
the accepted images that is wrong (El-Yaniv and Wiener 2010); generalised risk counts the same errors over all images,
so that it is the share of images with an error that nobody noticed (Traub et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.metrics.discrimination import auroc
from trainers.metrics.intervals import bootstrap_weights, can_resample, exact_by_lesion, replicate
from trainers.metrics.number import bootstrapped, measured, plain, undefined
from trainers.metrics.weighting import as_weights, divide_or_nan

RISK = 0.05
CURVE_POINTS = 50
# Absorbs the rounding of `risk * accepted`, of which the errors are counts.
SLACK = 1e-9


@dataclass(frozen=True)
class RiskCoverage:
    """Images accepted up to each distinct uncertainty; K thresholds ascending.

    Attributes:
        threshold: (K,) uncertainties.
        accepted: (..., K) weight with at most that uncertainty; the last is the weight of all images.
        errors: (..., K) weight of the wrong ones among them.
    """

    threshold: np.ndarray
    accepted: np.ndarray
    errors: np.ndarray

    def coverage(self) -> np.ndarray:
        """Share of the images accepted: (..., K) in [0, 1], never falling."""
        return divide_or_nan(self.accepted, self.accepted[..., -1:])

    def risk(self) -> np.ndarray:
        """Share of the accepted images that is wrong: (..., K) in [0, 1], NaN where none is accepted."""
        return divide_or_nan(self.errors, self.accepted)

    def generalised_risk(self) -> np.ndarray:
        """Share of all images that is accepted and wrong: (..., K) in [0, 1], never falling."""
        return divide_or_nan(self.errors, self.accepted[..., -1:])


def risk_coverage(uncertainty: np.ndarray, wrong: np.ndarray, weights: np.ndarray | None = None) -> RiskCoverage:
    """The risk-coverage curve.

    Args:
        uncertainty: (N,) higher is less sure; any unit.
        wrong: (N,) bool.
        weights: (N,) or (R, N).

    Raises:
        ValueError: no image, lengths that differ, or an uncertainty that is NaN.
    """
    uncertainty, wrong = np.asarray(uncertainty, dtype=np.float64), np.asarray(wrong, dtype=bool)
    if uncertainty.shape != wrong.shape or uncertainty.ndim != 1:
        raise ValueError(f"{uncertainty.shape} uncertainties and {wrong.shape} outcomes: give one each per image")
    if not len(wrong) or np.isnan(uncertainty).any():
        raise ValueError(
            f"{len(wrong)} images, {int(np.isnan(uncertainty).sum())} with an uncertainty that is NaN: "
            "give a number for each of at least one image"
        )
    weights = as_weights(weights, len(wrong))
    order = np.argsort(uncertainty, kind="stable")
    ranked = uncertainty[order]
    last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    return RiskCoverage(
        threshold=ranked[last],
        accepted=np.cumsum(weights[..., order], axis=-1)[..., last],
        errors=np.cumsum(weights[..., order] * wrong[order], axis=-1)[..., last],
    )


def aurc(curve: RiskCoverage) -> np.ndarray:
    """Area under the risk-coverage curve, in [0, 1], lower is better (Geifman and El-Yaniv 2017).

    The finite-sample form: the mean over images of the selective risk at that image's own uncertainty,
    sum_i w_i r(u_i) / sum_i w_i; without weights and ties (1 / N) sum_k errors(k) / k. Early thresholds accept few
    images and weigh much, which makes it noisy; compare ``augrc``.

    Returns:
        One value, or (R,).
    """
    step = np.diff(curve.accepted, axis=-1, prepend=0.0)
    return divide_or_nan(np.where(step > 0, step * curve.risk(), 0.0).sum(axis=-1), curve.accepted[..., -1])


def augrc(curve: RiskCoverage) -> np.ndarray:
    """Area under the generalised-risk-coverage curve, in [0, 0.5], lower is better (Traub et al. 2024, section 3).

    The mean share of images whose error goes unnoticed, over all thresholds. By the trapezoid rule from (0, 0), for
    which their relation holds exactly in every sample, ties counting half:
    AUGRC = (1 - AUROC of the errors) * accuracy * (1 - accuracy) + (1 - accuracy)^2 / 2.

    Returns:
        One value, or (R,).
    """
    step = np.diff(curve.accepted, axis=-1, prepend=0.0)
    before = curve.errors - np.diff(curve.errors, axis=-1, prepend=0.0)
    return divide_or_nan((step * (before + curve.errors)).sum(axis=-1) / 2, curve.accepted[..., -1] ** 2)


def coverage_at_risk(curve: RiskCoverage, risk: float = RISK) -> np.ndarray:
    """Largest share of the images that can be accepted with a selective risk of at most ``risk``, in [0, 1].

    The threshold is chosen on the same images, which flatters; a band's threshold is chosen on others. 0 where no
    threshold will do.

    Returns:
        One value, or (R,).

    Raises:
        ValueError: a risk outside [0, 1].
    """
    if not 0 <= risk <= 1:
        raise ValueError(f"risk {risk}: give a share between 0 and 1")
    allowed = curve.errors <= risk * curve.accepted + SLACK
    return np.where(allowed, curve.coverage(), 0.0).max(axis=-1)


def selective_values(
    uncertainty: np.ndarray, wrong: np.ndarray, weights: np.ndarray | None = None, risk: float = RISK
) -> dict[str, np.ndarray]:
    """Every measure of selective classification, one value each or (R,) for (R, N) weights."""
    curve = risk_coverage(uncertainty, wrong, weights)
    return {
        "error": curve.risk()[..., -1],
        "auroc_errors": auroc(wrong, uncertainty, weights),
        "aurc": aurc(curve),
        "augrc": augrc(curve),
        "coverage_at_risk": coverage_at_risk(curve, risk),
    }


def selective_section(
    uncertainty: np.ndarray,
    wrong: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    risk: float = RISK,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Selective classification of one split, for the report.

    Args:
        uncertainty: (N,) higher is less sure.
        wrong: (N,) bool, the answer is not the label.
        labels: (N,) class indices; lesions are resampled within each class.
        groups: (N,) lesion group ids.
        risk: the risk that ``coverage_at_risk`` allows.
        replicates: bootstrap resamples.
        seed: of them.

    Returns:
        JSON-ready: ``n``, ``n_groups``, ``error``, ``auroc_errors`` (that a wrong answer is less sure than a right
        one), ``aurc``, ``augrc``, ``coverage_at_risk`` with its ``risk``, ``curve`` (up to 50 points of coverage,
        risk and uncertainty) and ``conventions``.

    Raises:
        ValueError: as ``risk_coverage``, or fewer than one replicate.
    """
    uncertainty, wrong = np.asarray(uncertainty, dtype=np.float64), np.asarray(wrong, dtype=bool)
    if replicates < 1:
        raise ValueError(f"{replicates} replicates: give at least 1")
    whole = risk_coverage(uncertainty, wrong)

    def statistic(weights: np.ndarray) -> dict[str, np.ndarray]:
        return selective_values(uncertainty, wrong, weights, risk)

    point = {name: float(value[0]) for name, value in statistic(np.ones((1, len(wrong)))).items()}
    spread: dict[str, np.ndarray] | None = None
    if can_resample(groups, labels):
        spread = replicate(statistic, bootstrap_weights(groups, labels, replicates, seed))

    def of(name: str, ceiling: float = 1.0) -> dict[str, Any]:
        return bootstrapped(point[name], None if spread is None else spread[name], ceiling=ceiling)

    one_kind = "no wrong answer" if not wrong.any() else "no right answer" if wrong.all() else None
    exact = measured(point["error"], *exact_by_lesion(wrong, groups), "exact 95 % by lesion")
    return {
        "n": len(wrong),
        "n_groups": len(np.unique(np.asarray(groups).astype(str))),
        "error": exact if one_kind else of("error"),
        "auroc_errors": undefined(one_kind) if one_kind else of("auroc_errors"),
        "aurc": of("aurc"),
        "augrc": of("augrc", ceiling=0.5),
        "coverage_at_risk": {"risk": risk, **of("coverage_at_risk")},
        "curve": _points(whole),
        "conventions": conventions(risk),
    }


def conventions(risk: float) -> dict[str, str]:
    """The definition of each number that has several in the literature; goes into the report."""
    return {
        "ties": "Images of equal uncertainty are accepted together.",
        "aurc": "Mean over images of the selective risk at their own uncertainty (Geifman and El-Yaniv 2017).",
        "augrc": "Trapezoid rule from (0, 0) (Traub et al. 2024): the mean share of images whose error goes unnoticed.",
        "coverage_at_risk": f"Largest share of images whose error is at most {100 * risk:g} %, its threshold chosen on "
        "these very images: read it as an upper bound of what a band fitted elsewhere reaches.",
        "auroc_errors": "The chance that a wrong answer has a higher uncertainty than a right one, ties counting half.",
    }


def _points(curve: RiskCoverage) -> list[dict[str, float]]:
    """Points of the curve at evenly spaced coverages, the last one always: for a figure."""
    coverage, risk = curve.coverage(), curve.risk()
    wanted = np.linspace(1 / CURVE_POINTS, 1.0, CURVE_POINTS)
    rows = np.unique(np.searchsorted(coverage, wanted - SLACK).clip(max=len(coverage) - 1))
    return [
        {"coverage": plain(coverage[row]), "risk": plain(risk[row]), "uncertainty": plain(curve.threshold[row])}
        for row in rows
    ]
