"""Two models on the same images: which is better, by how much, and how sure that is.

Each side is one model or several of one recipe (seeds, ensemble members); a side's metric is the mean over its models.

Interval: the cluster bootstrap of ``intervals``, paired: one resample of lesions serves both sides, so what is common
to them cancels (Davison & Hinkley 1997, section 3.8). ECE's resamples are centred on the value. Chance
lifts the ECE of a small sample, more so that of the better calibrated model; a relative change is fairer on
``ece_debiased``.

p value: approximate randomisation (Noreen, "Computer-Intensive Methods for Testing Hypotheses", 1989; Yeh, COLING 2000,
for metrics that are no means). Were the two sides interchangeable within a lesion, exchanging their predictions there
would change nothing; every lesion is exchanged with chance 1/2, with all its images, and
``p = (1 + #{exchanges whose |difference| reaches the observed one}) / (1 + #{exchanges})`` (Phipson & Smyth 2010). With
few lesions all 2^G exchanges are made and p is exact. For AUROC each model's scores are replaced by their ranks first,
which changes no AUROC and lets models of other scales be exchanged (Bandos, Rockette & Gur, Statistics in Medicine 24,
2005).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import binomtest, rankdata

from trainers.evaluation.sample import Sample
from trainers.metrics import calibration as cal
from trainers.metrics import discrimination as dis
from trainers.metrics.intervals import replicate
from trainers.metrics.number import bootstrapped, plain, undefined
from trainers.metrics.weighting import divide_or_nan

ERRORS = ("nll", "brier", "ece", "ece_debiased")
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc_macro", "auroc_malignant", *ERRORS)
RELATIVE = ("nll", "ece", "ece_debiased")
CENTRED = ("ece", "ece_debiased")
RECALL = "recall "
CEILINGS = {"nll": None, "brier": 2.0}
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Drawn:
    """One metric of one side.

    Attributes:
        each: (K,) of each of the side's models on the sample itself.
        resampled: (R,) mean over the models in each resample of lesions; None when the sample cannot be resampled.
    """

    each: np.ndarray
    resampled: np.ndarray | None

    @property
    def value(self) -> float:
        """Mean over the side's models; NaN where the metric is not defined."""
        return float(np.mean(self.each))


def metrics(
    sample: Sample, weights: np.ndarray, classes: Mapping[str, int] | None = None, scores: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Every metric that two models are compared by.

    Args:
        sample: N images, C classes.
        weights: (R, N) counts.
        classes: name -> column of the classes whose recall is wanted, as ``recall NAME``.
        scores: (N, C + 1) what AUROC ranks instead of the probabilities; the last column stands for p_malignant.

    Returns:
        (R,) each of ``METRICS`` and the recalls. Calibration errors are better when lower, all else when higher.
    """
    confusion = sample.margins(weights)
    ranked = auroc_scores(sample) if scores is None else scores
    by_class = [dis.auroc(sample.labels == c, ranked[:, c], weights) for c in range(sample.probs.shape[1])]
    found = dis.recall(confusion)
    bins = cal.reliability_bins(sample.confidence, sample.correct, weights)
    return {
        "accuracy": dis.accuracy(confusion),
        "balanced_accuracy": dis.balanced_accuracy(confusion),
        "macro_f1": dis.macro_f1(confusion),
        "auroc_macro": dis.mean_defined(np.stack(by_class, axis=-1)),
        "auroc_malignant": dis.auroc(sample.malignant, ranked[:, -1], weights),
        "nll": cal.nll(sample.log_probs, sample.labels, weights),
        "brier": cal.brier(sample.probs, sample.labels, weights),
        "ece": cal.ece(bins),
        "ece_debiased": cal.ece_debiased(bins),
        **{f"{RECALL}{name}": found[:, column] for name, column in (classes or {}).items()},
    }


def auroc_scores(sample: Sample) -> np.ndarray:
    """What AUROC ranks: each class's probability, then p_malignant: (N, C + 1)."""
    return np.column_stack([sample.probs, sample.p_malignant])


def draw(
    models: Sequence[Sample], weights: np.ndarray | None, classes: Mapping[str, int] | None = None
) -> dict[str, Drawn]:
    """Every metric of one side, on the sample and on its resamples.

    Args:
        models: K models on the same N images in the same order.
        weights: (R, N) of ``bootstrap_weights``, the same for every side that is compared; None gives no resamples.
        classes: as for ``metrics``.
    """
    ones = np.ones((1, len(models[0])))
    points = [metrics(sample, ones, classes) for sample in models]
    each = {name: np.array([point[name][0] for point in points]) for name in points[0]}
    if weights is None:
        return {name: Drawn(values, None) for name, values in each.items()}
    many = []
    for sample in models:

        def of(block: np.ndarray, sample: Sample = sample) -> dict[str, np.ndarray]:
            return metrics(sample, block, classes)

        many.append(replicate(of, weights))
    drawn = {}
    for name, values in each.items():
        resampled = np.mean([one[name] for one in many], axis=0)
        if name in CENTRED:
            resampled = resampled - resampled.mean() + values.mean()
        drawn[name] = Drawn(values, resampled)
    return drawn


def described(metric: str, drawn: Drawn) -> dict[str, Any]:
    """One side's value with its interval; of several models also each one's value, their range and sd."""
    if math.isnan(drawn.value):
        return undefined("these images are not of the kinds that it needs")
    ceiling = CEILINGS.get(metric, 1.0)
    cell = bootstrapped(drawn.value, drawn.resampled, centred=metric in CENTRED, ceiling=ceiling)
    if len(drawn.each) == 1:
        return cell
    found = spread(drawn.each)
    return {**cell, "each": [plain(value) for value in drawn.each], **{key: found[key] for key in ("min", "max", "sd")}}


def difference(a: Drawn, b: Drawn) -> dict[str, Any]:
    """``b - a`` with its paired interval; positive when b is larger, which for an error means worse."""
    resampled = None if a.resampled is None or b.resampled is None else b.resampled - a.resampled
    return signed(b.value - a.value, resampled)


def relative_change(a: Drawn, b: Drawn) -> dict[str, Any]:
    """``b / a - 1`` with its paired interval, for metrics above 0: -0.2 is a fifth less than a."""
    if not a.value > 0:
        return undefined(f"the first side's value is {a.value:g}")
    resampled = None
    if a.resampled is not None and b.resampled is not None:
        # A centred error can fall to 0 or below in a resample; there the ratio is not defined.
        resampled = divide_or_nan(b.resampled, np.where(a.resampled > 0, a.resampled, 0.0)) - 1
    return signed(b.value / a.value - 1, resampled)


def signed(value: float, resampled: np.ndarray | None) -> dict[str, Any]:
    """A number that may be negative, with the percentile interval of its resamples, or with what is missing and why."""
    if math.isnan(value):
        return undefined("the metric itself is not, on these images")
    return bootstrapped(value, resampled, floor=None, ceiling=None, paired=True)


def share_of_gain(base: Drawn, partial: Drawn, full: Drawn) -> dict[str, Any]:
    """Which share of the gain of ``full`` over ``base`` the step to ``partial`` alone carries.

    ``share = (partial - base) / (full - base)``, e.g. base = image only, partial = image and age, full = image and all
    of the metadata. It is 1 when the part carries the whole gain, 0 when nothing of it, and may lie outside [0, 1].

    Returns:
        ``gain`` and ``partial_gain`` with paired intervals, and ``share`` with its own; the share is not defined where
        the gain's interval contains 0 (or there is none), since a share of nothing has no size.
    """
    gain, part = difference(base, full), difference(base, partial)
    result = {"gain": gain, "partial_gain": part}
    if gain["value"] is None:
        return {**result, "share": undefined("the gain is not")}
    if gain["low"] is None:
        return {**result, "share": undefined("the gain has no interval")}
    if gain["low"] <= 0 <= gain["high"]:
        return {**result, "share": undefined("the interval of the gain contains 0")}
    assert base.resampled is not None  # the gain has an interval
    assert partial.resampled is not None
    assert full.resampled is not None
    shares = divide_or_nan(partial.resampled - base.resampled, full.resampled - base.resampled)
    return {**result, "share": signed((partial.value - base.value) / (full.value - base.value), shares)}


def lesion_swaps(groups: np.ndarray, replicates: int, seed: int) -> tuple[np.ndarray, bool]:
    """In which exchanges each image's predictions change sides.

    Args:
        groups: (N,) lesion group ids; the images of one change sides together.
        replicates: F random exchanges; all 2^G of them where these are no more.
        seed: of the random numbers.

    Returns:
        (F, N) uint8 of 0 and 1, and whether they are all 2^G exchanges.
    """
    _, index = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    n_groups = int(index.max()) + 1
    if 2**n_groups <= replicates:
        every = (np.arange(2**n_groups)[:, None] >> np.arange(n_groups)) & 1
        return every.astype(np.uint8)[:, index], True
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, size=(replicates, n_groups), dtype=np.uint8)[:, index], False


def swap_test(
    a: Sequence[Sample], b: Sequence[Sample], swaps: tuple[np.ndarray, bool], classes: Mapping[str, int] | None = None
) -> dict[str, float | None]:
    """Two-sided p values of every metric's difference by exchanging the sides within lesions (see the module).

    Models are exchanged in pairs: the first of a with the first of b and so on, the shorter side again from its start,
    so that each model of a side stands in equally many pairs and the observed value is the difference of the means.

    Args:
        a: K models.
        b: L models on the same images in the same order.
        swaps: what ``lesion_swaps`` returned.
        classes: as for ``metrics``.

    Returns:
        Metric -> p in (0, 1], None where the metric is not defined.
    """
    chosen, every = swaps
    pairs = [(a[k % len(a)], b[k % len(b)]) for k in range(math.lcm(len(a), len(b)))]
    none = np.zeros((1, chosen.shape[1]), dtype=chosen.dtype)
    totals: dict[str, np.ndarray] = {}
    for first, second in pairs:
        both = stacked(first, second)
        scores = np.concatenate([rankdata(auroc_scores(sample), axis=0) for sample in (first, second)])

        def gap(block: np.ndarray, both: Sample = both, scores: np.ndarray = scores) -> dict[str, np.ndarray]:
            # An exchange is a choice of rows: the first side keeps its own row or takes the other's.
            mine, other = np.hstack([1 - block, block]), np.hstack([block, 1 - block])
            left, right = metrics(both, mine, classes, scores), metrics(both, other, classes, scores)
            return {name: right[name] - left[name] for name in left}

        for name, values in replicate(gap, np.concatenate([none, chosen])).items():
            totals[name] = totals.get(name, 0.0) + values
    # The random exchanges are joined by the one that was observed; all 2^G hold it already.
    return {name: _p_value(values[1:] if every else values, values[0]) for name, values in totals.items()}


def _p_value(exchanged: np.ndarray, observed: float) -> float | None:
    if np.isnan(observed):
        return None
    return float(np.mean(np.abs(exchanged) >= abs(observed) - TOLERANCE))


def stacked(first: Sample, second: Sample) -> Sample:
    """The images of both, one after the other."""
    arrays = [field.name for field in fields(Sample) if field.name != "has_malignant_classes"]
    return Sample(
        **{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in arrays},
        has_malignant_classes=first.has_malignant_classes,
    )


def one_per_lesion(groups: np.ndarray, image_ids: np.ndarray) -> np.ndarray:
    """Indices of one image per lesion, the first by its id: (G,) int."""
    order = np.argsort(np.asarray(image_ids).astype(str), kind="stable")
    _, first = np.unique(np.asarray(groups).astype(str)[order], return_index=True)
    return np.sort(order[first])


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> dict[str, Any]:
    """Exact McNemar test of two models' accuracy on independent images (Psychometrika 12, 1947; binomial form).

    Of the images on which just one of the two is right, half would go to each were they equally good.

    Args:
        correct_a: (N,) bool; the images must be independent, so one per lesion.
        correct_b: (N,) bool.

    Returns:
        ``n``, ``both``, ``only_a``, ``only_b``, ``neither`` (images) and ``p``, two-sided.
    """
    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"{a.shape} and {b.shape} outcomes: give both models' on the same images")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    counts = {"n": len(a), "both": int((a & b).sum()), "only_a": only_a, "only_b": only_b}
    return {**counts, "neither": int((~a & ~b).sum()), "p": float(p)}


def spread(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Mean, standard deviation (n - 1), least and greatest of one number over seeds, members or folds; NaN left out.

    Returns:
        ``mean, sd, min, max, n``; sd is None for fewer than two values, all are None for none.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return {"mean": None, "sd": None, "min": None, "max": None, "n": 0}
    sd = plain(known.std(ddof=1)) if len(known) > 1 else None
    return {
        "mean": plain(known.mean()),
        "sd": sd,
        "min": plain(known.min()),
        "max": plain(known.max()),
        "n": len(known),
    }
