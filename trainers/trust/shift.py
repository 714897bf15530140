"""Tests whether new images, without labels, are exchangeable with the calibration images of a model.

Four tests of the null hypothesis that the new and the calibration images are exchangeable, each by what the model
answers: the gate score and the largest calibrated probability (two-sample Kolmogorov and Smirnov; the second is a test
of the conformal p-values of ``1 - largest probability`` for uniformity), the share of images in the tail of the gate
scores (conformal p-value at most ``TAIL``; their number is exactly negative hypergeometric, as in Bates, Candes, Lei,
Romano, Sesia, "Testing for outliers with conformal p-values", Annals of Statistics 2023), and the classes that are
named (chi-squared statistic, p-value by random relabelling). The p-values are adjusted by Holm (1979): the chance that
any test rejects where the images are exchangeable is at most alpha.

The rows are one image per lesion, drawn by the caller: images of one lesion are not exchangeable with those of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import ks_2samp, nhypergeom

from trainers.metrics.number import plain

# A calibration image's conformal p-value is at most this for one image in twenty.
TAIL = 0.05
RELABELLINGS = 1999
# Above this product of the sample sizes the p-value of Kolmogorov and Smirnov is the asymptotic one.
EXACT_UP_TO = 200_000
GATE, UNUSUAL, CERTAINTY, CLASSES = "gate_score", "unusual_images", "largest_probability", "predicted_class"


@dataclass(frozen=True)
class Answers:
    """What the tests read of the answers to N images.

    Attributes:
        gate: (N,) score of the gate, higher = more OOD; None where the model has none.
        largest: (N,) largest calibrated probability.
        predicted: (N,) index of the class that it belongs to.
    """

    gate: np.ndarray | None
    largest: np.ndarray
    predicted: np.ndarray

    def __len__(self) -> int:
        return len(self.largest)

    @classmethod
    def of(cls, probs: np.ndarray, gate: np.ndarray | None) -> Answers:
        """Of calibrated probabilities (N, C) and gate scores (N,)."""
        return cls(gate, probs.max(axis=1), probs.argmax(axis=1))


def find_shift(
    calibration: Answers, new: Answers, labels: Sequence[str], alpha: float = 0.05, seed: int = 0
) -> dict[str, Any]:
    """Compare new images with calibration images.

    Args:
        calibration: of calibration images that neither the model nor its gate was fitted on, one per lesion.
        new: of the new images, one per lesion.
        labels: the C class names.
        alpha: largest chance that any test rejects where the images are exchangeable, in (0, 1).
        seed: of the relabelling.

    Returns:
        JSON-ready: ``alpha``, ``n``, ``n_calibration``, ``shifted``, ``sentence``, ``tests`` (of each ``test``,
        ``p_value``, ``adjusted`` by Holm, ``rejected``, ``finding`` in words and its numbers), and
        ``visible_difference``: the least difference of two distribution functions that the first test rejects.

    Raises:
        ValueError: alpha outside (0, 1), or a sample without images.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha}: give a number between 0 and 1, both excluded")
    for name, sample in (("calibration", calibration), ("new", new)):
        if not len(sample):
            raise ValueError(f"0 {name} images: there is nothing to compare")
    tests = [_certainty(calibration, new), _classes(calibration, new, labels, seed)]
    if calibration.gate is not None and new.gate is not None:
        tests = [_gate(calibration.gate, new.gate), _unusual(calibration.gate, new.gate), *tests]
    adjusted = holm([test["p_value"] for test in tests])
    for test, value in zip(tests, adjusted, strict=True):
        test |= {"p_value": plain(test["p_value"]), "adjusted": plain(value), "rejected": bool(value <= alpha)}
    found = sorted((test for test in tests if test["rejected"]), key=lambda test: test["adjusted"])
    effective = len(calibration) * len(new) / (len(calibration) + len(new))
    return {
        "alpha": alpha,
        "n": len(new),
        "n_calibration": len(calibration),
        "shifted": bool(found),
        "sentence": sentence([test["finding"] for test in found], len(new)),
        "tests": tests,
        "visible_difference": plain(float(min(1.0, np.sqrt(-np.log(alpha / len(tests) / 2) / 2 / effective)))),
    }


def sentence(findings: Sequence[str], n: int) -> str:
    """The answer in one sentence; ``findings`` of the rejected tests, the least p-value first."""
    if not findings:
        return f"No shift was found in {n:,} images; this does not prove there is none."
    return f"The promises may not hold here, because {'; '.join(findings)}."


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979): at most alpha where the step-down procedure rejects at alpha; in [0, 1]."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    adjusted = np.empty(len(values))
    adjusted[order] = stepped
    return [float(value) for value in adjusted]


def conformal_p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(N,) conformal p-values: the share of the n calibration scores and the image itself that are as high, in (0, 1].

    Args:
        calibration: (n,) scores, higher = more unusual.
        scores: (N,) of the new images.
    """
    ordered = np.sort(calibration)
    return (1 + len(ordered) - np.searchsorted(ordered, scores, side="left")) / (len(ordered) + 1)


def _gate(calibration: np.ndarray, new: np.ndarray) -> dict[str, Any]:
    found = _two_samples(calibration, new)
    direction = "higher" if found["median"] >= found["median_calibration"] else "lower"
    words = (
        f"the gate scores are {direction} (median {found['median']:.3g}, of the calibration images "
        f"{found['median_calibration']:.3g})"
    )
    return {"test": GATE, "finding": words, **found}


def _certainty(calibration: Answers, new: Answers) -> dict[str, Any]:
    found = _two_samples(calibration.largest, new.largest)
    direction = "more" if found["median"] >= found["median_calibration"] else "less"
    words = (
        f"the model is {direction} certain (median of the largest probability {found['median']:.2f}, of the "
        f"calibration images {found['median_calibration']:.2f})"
    )
    return {"test": CERTAINTY, "finding": words, **found}


def _two_samples(calibration: np.ndarray, new: np.ndarray) -> dict[str, Any]:
    """Kolmogorov and Smirnov; ties make the p-value larger, not smaller."""
    exact = len(calibration) * len(new) <= EXACT_UP_TO
    test = ks_2samp(calibration, new, method="exact" if exact else "asymp")
    return {
        "p_value": float(test.pvalue),
        "statistic": plain(float(test.statistic)),
        "median": plain(float(np.median(new))),
        "median_calibration": plain(float(np.median(calibration))),
    }


def _unusual(calibration: np.ndarray, new: np.ndarray) -> dict[str, Any]:
    """How many new images are above the r-th largest calibration score, r = floor(TAIL (n + 1)).

    All orders of the n + m scores have the same chance: the number of new ones that come before the r-th calibration
    score is negative hypergeometric. Fewer than 1 / TAIL - 1 calibration images have no such tail: p = 1.
    """
    n, m = len(calibration), len(new)
    rank = int(np.floor(TAIL * (n + 1) + 1e-9))
    count = int((conformal_p_values(calibration, new) <= TAIL).sum()) if rank else 0
    p_value = float(nhypergeom.sf(count - 1, n + m, m, rank)) if count else 1.0
    words = (
        f"{100 * count / m:.0f} % of the images have a gate score that {100 * TAIL:.0f} % of calibration images reach"
    )
    return {"test": UNUSUAL, "finding": words, "p_value": p_value, "share": plain(count / m), "expected": TAIL}


def _classes(calibration: Answers, new: Answers, labels: Sequence[str], seed: int) -> dict[str, Any]:
    """Homogeneity of the named classes; the null distribution by random relabelling of the images."""
    counts = np.stack([np.bincount(part.predicted, minlength=len(labels)) for part in (calibration, new)])
    rng = np.random.default_rng(seed)
    dealt = rng.multivariate_hypergeometric(counts.sum(axis=0), len(new), RELABELLINGS, method="marginals")
    statistic = float(_chi_squared(counts[1][None], counts.sum(axis=0))[0])
    exceeded = int((_chi_squared(dealt, counts.sum(axis=0)) >= statistic - 1e-9).sum())
    shares = counts / counts.sum(axis=1, keepdims=True)
    most = int(np.abs(shares[1] - shares[0]).argmax())
    words = (
        f"{labels[most]} is the most probable class for {100 * shares[1, most]:.0f} % of the images and for "
        f"{100 * shares[0, most]:.0f} % of the calibration images"
    )
    rows = {
        name: [plain(float(new_share)), plain(float(old))]
        for name, old, new_share in zip(labels, *shares.tolist(), strict=True)
    }
    p_value = (1 + exceeded) / (1 + RELABELLINGS)
    return {"test": CLASSES, "finding": words, "p_value": p_value, "statistic": plain(statistic), "shares": rows}


def _chi_squared(new: np.ndarray, total: np.ndarray) -> np.ndarray:
    """(K,) statistics of K tables, from the counts (K, C) of the new images and (C,) of both samples."""
    there = total > 0
    share = new.sum(axis=1, keepdims=True) / total.sum()
    expected = share * total[there]
    apart = (new[:, there] - expected) ** 2
    return np.asarray((apart / expected + apart / (total[there] - expected)).sum(axis=1))
