"""Whether sets and bands kept their promises on a split that they were not fitted on.

Sets and bands are calibrated on one image per lesion, so a lesion counts once here too, whatever its number of images:
each image weighs 1 / (images of its lesion), which is what drawing one image of each would give on average.

A set's promise is an average over calibrations. The coverage of one fit with n lesions follows Beta(k, n + 1 - k),
k = ceil((n + 1)(1 - alpha)), and the number covered of m test lesions the beta-binomial distribution of these
(Vovk, "Conditional Validity of Inductive Conformal Predictors", 2012; Angelopoulos and Bates, "Conformal Prediction: A
Gentle Introduction", 2023, section 3.2 and appendix C). A measured coverage is read against that interval: with few
lesions, 0.84 where 0.90 was promised may be no failure, and 0.90 no success.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import betabinom

from trainers.evaluation.subgroups import subgroup_columns
from trainers.metrics.intervals import LEVEL, exact_interval, exact_upper, lesion_shares
from trainers.metrics.number import measured, plain, undefined
from trainers.metrics.predictions import Predictions
from trainers.metrics.weighting import group_weights
from trainers.trust.conformal import ALL_CLASSES, quantile_rank

BANDS = ("low", "moderate", "high")
BY_LESION = "exact 95 % by lesion"
SLACK = 1e-9


def expected_coverage(
    parts: Sequence[tuple[int, int]], alpha: float, level: float = LEVEL
) -> tuple[float, float, float]:
    """The coverage to expect on a test split, given how many lesions each threshold was fitted on.

    Each threshold's number of covered lesions is beta-binomial (exactly so for scores without ties; with ties more are
    covered), thresholds fitted on different lesions are independent, so their sum is distributed as the convolution.

    Args:
        parts: one pair per threshold: n lesions of the calibration, m of the test split.
        alpha: in (0, 1).
        level: least share of test splits within the interval.

    Returns:
        ``(mean, low, high)`` of the share covered among all m. A threshold of too few lesions is infinite: it covers
        all of its own.

    Raises:
        ValueError: no test lesion, or alpha outside (0, 1).
    """
    total = sum(m for _, m in parts)
    if total < 1:
        raise ValueError(f"parts {list(parts)} hold no test lesion: there is no coverage to expect")
    chances, mean = np.ones(1), 0.0
    for n, m in parts:
        k = quantile_rank(n, alpha)
        if k > n:
            one = np.r_[np.zeros(m), 1.0]
        else:
            one = betabinom.pmf(np.arange(m + 1), m, k, n + 1 - k)
        chances = np.convolve(chances, one)
        mean += m * min(k / (n + 1), 1.0)
    below = np.cumsum(chances)
    low, high = (int(np.searchsorted(below, tail).clip(max=total)) for tail in ((1 - level) / 2, (1 + level) / 2))
    return mean / total, low / total, high / total


def coverage_section(predictions: Predictions, sets: np.ndarray, conformal: Mapping[str, Any]) -> dict[str, Any]:
    """Coverage and size of prediction sets on one split, for the report.

    Args:
        predictions: of the images that are answered (those that the OOD gate accepts), at least one.
        sets: (N, C) bool, the sets of ``trust_lesion.prediction_sets``.
        conformal: ``config.trust["conformal"]``: method, alpha, class_conditional, groups, n.

    Returns:
        JSON-ready: ``method``, ``alpha``, ``promised``, ``overall``, ``per_class``, ``pools`` (classes that share a
        threshold), ``subgroups``, ``set_sizes``, ``without_own_promise``, ``conventions``. A row holds ``n``,
        ``n_groups``, ``coverage`` by lesion with its exact interval, ``expected``, ``inside`` (is the coverage in the
        expected interval; None where none can be given) and ``mean_set_size``.

    Raises:
        ValueError: no image, or sets of another shape.
    """
    sets = np.asarray(sets, dtype=bool)
    if sets.shape != (len(predictions), len(predictions.labels)) or not len(predictions):
        raise ValueError(
            f"sets have shape {sets.shape}; expected ({len(predictions)}, {len(predictions.labels)}), N above 0"
        )
    names, labels = predictions.labels, predictions.label
    group_of_class = [conformal["groups"][name] for name in names]
    pools = [group for group in dict.fromkeys(group_of_class) if group not in (*names, ALL_CLASSES)]

    def row(rows: np.ndarray, why_no_law: str | None = None) -> dict[str, Any]:
        return coverage_row(predictions, sets, conformal, rows, why_no_law)

    # A marginal threshold promises the average over everyone; what it gives to a part of them follows no law.
    of_a_part = None if conformal["class_conditional"] else "the promise is an average over all classes"
    everyone = np.ones(len(predictions), dtype=bool)
    weights = group_weights(predictions.group_id)
    sizes = np.bincount(sets.sum(axis=1), weights=weights, minlength=len(names) + 1) / weights.sum()
    in_pool = {pool: np.array([group == pool for group in group_of_class])[labels] for pool in pools}
    return {
        "method": conformal["method"],
        "alpha": conformal["alpha"],
        "promised": plain(1 - conformal["alpha"]),
        "class_conditional": conformal["class_conditional"],
        "overall": row(everyone),
        "per_class": [
            {"name": name, "group": group, **row(labels == index, _why_not(name, group))}
            for index, (name, group) in enumerate(zip(names, group_of_class, strict=True))
        ],
        "pools": [{"name": pool, **row(in_pool[pool])} for pool in pools],
        "subgroups": {
            name: [{"value": value, **row(column == value, of_a_part)} for value in values]
            for name, (values, column) in subgroup_columns(predictions.columns, predictions.label).items()
        },
        "set_sizes": {
            "mean": plain((sizes * np.arange(len(sizes))).sum()),
            "distribution": [plain(share) for share in sizes],
            "empty": plain(sizes[0]),
            "single": plain(sizes[1]),
        },
        "without_own_promise": [name for name, group in zip(names, group_of_class, strict=True) if name != group],
        "conventions": _set_conventions(),
    }


def bands_section(
    predictions: Predictions, bands: np.ndarray, predicted: np.ndarray, fitted: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Risk bands on one split, for the report.

    Args:
        predictions: of the images that are answered, at least one.
        bands: (N,) ``low`` | ``moderate`` | ``high``.
        predicted: (N,) indices of the named classes.
        fitted: ``config.trust["bands"]``: ``low`` and ``moderate``, each with threshold, risk, confidence, n.

    Returns:
        JSON-ready: ``bands`` (of each: n, n_groups, share of the lesions, error and accuracy by lesion with exact
        intervals), ``promises`` (of low, and of moderate, which is about low and moderate together: measured error,
        ``kept`` when it is at most the promised risk, ``contradicted`` when even the lower end of its exact interval is
        above; where a second promise was fitted also ``missed``, the same of the share of all malignant lesions that
        are named benign in it), ``missed_in_low`` (see :func:`missed_in_low`), ``missed_in_moderate`` (the same of that
        band) and ``conventions``.

    Raises:
        ValueError: no image, or lengths that differ.
    """
    bands, predicted = np.asarray(bands), np.asarray(predicted)
    if not len(predictions) or bands.shape != (len(predictions),) or predicted.shape != bands.shape:
        raise ValueError(
            f"{bands.shape} bands and {predicted.shape} named classes for {len(predictions)} images: "
            "give one of each per image, and at least one image"
        )
    weights = group_weights(predictions.group_id)
    wrong = predicted != predictions.label

    def share(hits: np.ndarray, among: np.ndarray) -> dict[str, Any]:
        return weighted_share(hits, among, weights)

    rows = {}
    for name in BANDS:
        mine = bands == name
        rows[name] = {
            "n": int(mine.sum()),
            "n_groups": len(np.unique(predictions.group_id[mine].astype(str))),
            "share": share(mine, np.ones_like(mine)),
            "error": share(wrong, mine),
            "accuracy": share(~wrong, mine),
        }
    within = {"low": bands == "low", "moderate": np.isin(bands, ("low", "moderate"))}
    malignant, benign = _malignant(predictions, predicted)
    return {
        "bands": rows,
        "promises": {
            name: _promise(fitted[name], share(wrong, inside), share(benign & inside, malignant))
            for name, inside in within.items()
        },
        **{f"missed_in_{name}": _missed(predictions, predicted, bands, weights, name) for name in ("low", "moderate")},
        "conventions": _band_conventions(),
    }


def missed_in_low(
    malignant: np.ndarray,
    answered_benign: np.ndarray,
    in_low: np.ndarray,
    weights: np.ndarray | None = None,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """How many malignant lesions are missed: answered with a benign class, in the low band.

    The band's promise averages over mostly nevi and does not cover this. The bound is exact on a split that
    played no part in choosing the threshold (test); on the half it was selected with, it is too low.

    Args:
        malignant: (N,) bool, the truth is malignant or premalignant.
        answered_benign: (N,) bool, the answer is a benign class.
        in_low: (N,) bool.
        weights: (N,) each image's share of its lesion; None where every lesion has one image.
        confidence: of each one-sided bound.

    Returns:
        JSON-ready: ``missed``, ``confidence``, and the share with its denominator ``n`` and bound ``upper`` three
        ways: ``of_malignant`` (all malignant lesions), ``of_malignant_in_low``, and ``of_benign_answers_in_low`` (of
        the lesions that are called benign with low risk, those that are not). A share of nothing is None, its bound 1.

    Raises:
        ValueError: lengths that differ, no image, or a confidence outside (0, 1).
    """
    malignant, answered_benign, in_low = (
        np.asarray(values, dtype=bool) for values in (malignant, answered_benign, in_low)
    )
    weights = np.ones(len(malignant)) if weights is None else np.asarray(weights, dtype=np.float64)
    shapes = {values.shape for values in (malignant, answered_benign, in_low, weights)}
    if len(shapes) > 1 or not malignant.size:
        raise ValueError(f"shapes {sorted(shapes)}: give truth, answer, band and weight of each of at least one image")
    missed = malignant & answered_benign & in_low

    def share(among: np.ndarray) -> dict[str, float | None]:
        # Guards k <= n against the rounding of thirds.
        n = float(weights[among].sum())
        k = min(float(weights[missed].sum()), n)
        return {"n": n, "value": k / n if n else None, "upper": exact_upper(k, n, confidence)}

    return {
        "missed": float(weights[missed].sum()),
        "confidence": confidence,
        "of_malignant": share(malignant),
        "of_malignant_in_low": share(malignant & in_low),
        "of_benign_answers_in_low": share(answered_benign & in_low),
    }


def coverage_row(
    predictions: Predictions, sets: np.ndarray, conformal: Mapping[str, Any], rows: np.ndarray, why_no_law: str | None
) -> dict[str, Any]:
    """Coverage, what to expect of it, and mean size of the sets of some rows; see :func:`coverage_section`."""
    labels, groups = predictions.label[rows], predictions.group_id[rows].astype(str)
    found: dict[str, Any] = {"n": len(labels), "n_groups": len(np.unique(groups))}
    if not len(labels):
        return {
            **found,
            **dict.fromkeys(("coverage", "expected", "mean_set_size"), undefined("no images")),
            "inside": None,
        }
    covered, lesions = lesion_shares(sets[rows][np.arange(len(labels)), labels], groups)
    expected = undefined(why_no_law) if why_no_law else _expected(predictions.labels, labels, groups, conformal)
    inside = None
    if expected["value"] is not None:
        inside = bool(expected["low"] - SLACK <= covered / lesions <= expected["high"] + SLACK)
    return {
        **found,
        "coverage": measured(covered / lesions, *exact_interval(covered, lesions), BY_LESION),
        "expected": expected,
        "inside": inside,
        "mean_set_size": {"value": plain(np.average(sets[rows].sum(axis=1), weights=group_weights(groups)))},
    }


def _expected(
    names: Sequence[str], labels: np.ndarray, groups: np.ndarray, conformal: Mapping[str, Any]
) -> dict[str, Any]:
    """The beta-binomial interval for these images, or why their coverage follows no known law."""
    lesions: dict[str, set[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        lesions.setdefault(conformal["groups"][names[label]], set()).add(group)
    if ALL_CLASSES in lesions and conformal["class_conditional"]:
        without = [name for name, group in conformal["groups"].items() if group == ALL_CLASSES]
        return undefined(f"these may hold classes without any promise: {', '.join(without)}")
    parts = [(int(conformal["n"][group]), len(members)) for group, members in lesions.items()]
    value, low, high = expected_coverage(parts, conformal["alpha"])
    count = " + ".join(str(n) for n, _ in parts)
    return measured(value, low, high, f"beta-binomial, 95 %, calibrated on {count} lesions")


def _why_not(name: str, group: str) -> str | None:
    """Why a class has no law of its own, or None when it has."""
    if name == group:
        return None
    if group == ALL_CLASSES:
        return "the class takes the threshold of all classes, which promises nothing about it"
    return f"promised on average over {group}, not for the class"


def weighted_share(hits: np.ndarray, among: np.ndarray, weights: np.ndarray) -> dict[str, Any]:
    """The share of hits among some images, each (N,) bool, with its exact interval; weights (N,) sum to the lesions."""
    n = float(weights[among].sum())
    if not n:
        return undefined("no image")
    # Guards k <= n against the rounding of thirds.
    k = min(float(weights[among & hits].sum()), n)
    return measured(k / n, *exact_interval(k, n), BY_LESION) | {"lesions": plain(n)}


def _malignant(predictions: Predictions, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which images are malignant or premalignant, and which are named benign: two (N,) bool."""
    columns = predictions.malignant_columns()
    return np.isin(predictions.label, columns), ~np.isin(predicted, columns)


def _promise(fitted: Mapping[str, Any], found: dict[str, Any], missed: dict[str, Any]) -> dict[str, Any]:
    promise = {name: fitted[name] for name in ("threshold", "risk", "confidence", "n")}
    if fitted.get("missed_risk"):
        share = undefined("the band is empty") if fitted["threshold"] is None else missed
        counted = {name: fitted[name] for name in ("n_malignant", "limited_by")}
        promise["missed"] = {"risk": fitted["missed_risk"], **counted, **promise_held(share, fitted["missed_risk"])}
    if fitted["threshold"] is None:
        why = fitted.get("reason") or "no threshold was fitted"
        return promise | {
            "wording": f"nothing is promised: {why}",
            "measured": undefined("the band is empty"),
            "kept": None,
            "contradicted": None,
        }
    wording = (
        f"at most {100 * fitted['risk']:g} % expected, with {100 * fitted['confidence']:g} % confidence, "
        "on lesions like those it was calibrated on"
    )
    return promise | {"wording": wording, **promise_held(found, fitted["risk"])}


def promise_held(found: dict[str, Any], risk: float) -> dict[str, Any]:
    """A measured share beside its bound."""
    known = found["value"] is not None
    return {
        "measured": found,
        "kept": bool(found["value"] <= risk) if known else None,
        "contradicted": bool(found["low"] > risk) if known else None,
    }


def _missed(
    predictions: Predictions, predicted: np.ndarray, bands: np.ndarray, weights: np.ndarray, band: str
) -> dict[str, Any]:
    if not len(predictions.malignant_columns()):
        return undefined("no class of this vocabulary is malignant or premalignant")
    found = missed_in_low(*_malignant(predictions, predicted), bands == band, weights)
    shares = {
        name.replace("in_low", f"in_{band}"): {
            key: None if value is None else plain(value) for key, value in found[name].items()
        }
        for name in ("of_malignant", "of_malignant_in_low", "of_benign_answers_in_low")
    }
    return {"missed": plain(found["missed"]), "confidence": found["confidence"], **shares}


def _set_conventions() -> dict[str, str]:
    return {
        "coverage": "Share of lesions whose set holds the true class, a lesion of several images counting the share of "
        "them that is covered; Clopper-Pearson 95 % over lesions.",
        "expected": "Where the coverage of at least 95 % of test splits of this size falls, given the number of "
        "calibration lesions (beta-binomial; convolved over the classes). About one row in twenty falls outside by "
        "chance. In a subgroup it is what to expect if the subgroup were like the whole: nothing is promised for it.",
        "pools": "Classes with too few lesions for a threshold of their own share one; the promise is about them "
        "together.",
        "set_sizes": "Shares of lesions by number of classes in the set, from 0 (empty) to all.",
    }


def _band_conventions() -> dict[str, str]:
    return {
        "error": "Share of wrong answers, each image weighing 1 / (images of its lesion) as if one were drawn; "
        "Clopper-Pearson 95 % with the sum of the weights ('lesions') as n.",
        "moderate": "The moderate promise is about low and moderate answers together.",
        "kept": "The measured error is at most the promised risk; 'contradicted': its interval lies above it.",
        "missed": "Share of all malignant or premalignant lesions that the gate accepts, also those outside the band, "
        "that are named benign within it.",
        "missed_in_low": "Malignant or premalignant lesions that are answered with a benign class in the low band; "
        "'upper' is a one-sided 95 % Clopper-Pearson bound. The band's error averages over all lesions, most of which "
        "are benign, and says little about this. 'missed_in_moderate': the same in the moderate band.",
    }
