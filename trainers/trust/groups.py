"""Sets and bands of groups of patients: by age band, sex, site or source, where a group has enough lesions.

Mondrian conformal prediction (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005, section 4.5):
the lesions of a category give the thresholds of that category, so that its promise holds within it. The bands of a
group are tested by ``bands.fit_bands`` on its lesions alone. Each group has the confidence of one test; nothing is
promised about all groups at once.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.sources import tables
from trainers.metrics.predictions import TEXT_COLUMNS, Predictions
from trainers.trust.bands import LEAST, BandsFit, Misses, fit_bands, least_n
from trainers.trust.conformal import ConformalFit, fit_conformal
from trainers.trust.conformal import least_n as least_of_sets
from trainers.trust.options import TrustOptions

UNKNOWN = "unknown"
AGE_BANDS = (("0-29", 0.0, 30.0), ("30-44", 30.0, 45.0), ("45-59", 45.0, 60.0), ("60-74", 60.0, 75.0))
AGE_OPEN = ("75+", 75.0)
# Name of a group column -> the column of a predictions file that it is read from.
GROUP_COLUMNS = {"age_band": "age", "site": "localization"}
# They follow from the diagnosis, which is not known when the model answers; ``provenance`` is of synthetic images.
NOT_KNOWN = ("diagnosis", "dx_type")
MOST_GROUPS = 20


def age_bands(age: np.ndarray) -> np.ndarray:
    """Age in years -> the name of one of ``AGE_BANDS``, of ``AGE_OPEN``, or ``unknown``: (N,) float -> (N,) str.

    NaN, a negative or an infinite age is unknown. Age 0 stands in the first band: HAM10000 has 39 such rows, infants or
    gaps, without naming which.
    """
    age = np.asarray(age, dtype=np.float64)
    bands = np.full(age.shape, UNKNOWN, dtype=object)
    for name, low, high in AGE_BANDS:
        bands[(age >= low) & (age < high)] = name
    bands[(age >= AGE_OPEN[1]) & np.isfinite(age)] = AGE_OPEN[0]
    return bands


def sexes(sex: np.ndarray) -> np.ndarray:
    """Any case of female, f, male and m -> female and male; everything else -> unknown: (N,) -> (N,) str."""
    return np.array([tables.sex(str(value).strip()) for value in sex], dtype=object)


def group_values(column: str, columns: Mapping[str, np.ndarray], n: int) -> np.ndarray:
    """The group of each of N images, ``unknown`` where the column lacks it: (N,) str.

    Args:
        column: one of ``GROUP_COLUMNS``, or a text column of a predictions file.
        columns: of the predictions file.
        n: N.
    """
    found = columns.get(GROUP_COLUMNS.get(column, column))
    if found is None:
        return np.full(n, UNKNOWN, dtype=object)
    if column == "age_band":
        return age_bands(found)
    return sexes(found) if column == "sex" else np.array([str(value) for value in found], dtype=object)


def check_subgroup_column(column: str, columns: Mapping[str, np.ndarray], n: int, where: str) -> None:
    """Check that a column divides the images into groups.

    Args:
        column: ``--subgroup_column``.
        columns: of the predictions file.
        n: N.
        where: what the images are, for the message.

    Raises:
        UserError: there is no such column, or it is unknown of every image; it is not known when a model answers; it
            has one group, or more than ``MOST_GROUPS``.
    """
    names = [*GROUP_COLUMNS, *(name for name in TEXT_COLUMNS if name not in (*GROUP_COLUMNS.values(), *NOT_KNOWN))]
    present = [name for name in names if set(group_values(name, columns, n)) - {UNKNOWN}]
    has = f"{where} has {', '.join(present) or 'none that can be used'}"
    if column in NOT_KNOWN:
        raise UserError(f"subgroup_column {column!r} is not known when a model answers: {has}")
    values = sorted(set(group_values(column, columns, n)) - {UNKNOWN})
    if column not in names or not values:
        aliases = {**dict.fromkeys(names), **dict.fromkeys(columns)}
        near = difflib.get_close_matches(column, aliases, 1, 0.5) if column not in names else []
        meant = {read: name for name, read in GROUP_COLUMNS.items()}.get(near[0], near[0]) if near else ""
        nearest = f"; do you mean {meant!r}?" if meant in present else ""
        problem = "is unknown of every image" if column in names else "is no column of groups"
        raise UserError(f"subgroup_column {column!r} {problem}: {has}{nearest}")
    if len(values) == 1:
        raise UserError(f"subgroup_column {column!r} has the one value {values[0]!r} in {where}: leave it out")
    if len(values) > MOST_GROUPS:
        raise UserError(
            f"subgroup_column {column!r} has {len(values)} values in {where} ({', '.join(values[:3])}, ...): give one "
            f"of at most {MOST_GROUPS}, since each group needs lesions of its own ({has})"
        )


@dataclass(frozen=True)
class Answered:
    """A half of the calibration split, answered.

    Attributes:
        rows: accepted images, one per lesion.
        probs: (N, C) their calibrated probabilities.
        named: (N,) the class that the decision rule names.
    """

    rows: Predictions
    probs: np.ndarray
    named: np.ndarray

    def select(self, mine: np.ndarray) -> Answered:
        """The same of some of the images, (N,) bool."""
        return Answered(self.rows.select(mine), self.probs[mine], self.named[mine])


def sets_of(two: Answered, options: TrustOptions) -> ConformalFit:
    """The sets, from the second half."""
    return fit_conformal(
        two.probs,
        two.rows.label,
        two.rows.labels,
        two.rows.label_groups,
        method=options.sets,
        class_conditional=options.class_conditional,
        alpha=options.alpha,
    )


def bands_of(one: Answered, two: Answered, options: TrustOptions) -> BandsFit:
    """The bands, from both halves."""
    doubt = [1 - half.probs[np.arange(len(half.rows)), half.named] for half in (one, two)]
    wrong = [half.named != half.rows.label for half in (one, two)]
    return fit_bands(
        doubt[0],
        wrong[0],
        doubt[1],
        wrong[1],
        low_risk=options.low_risk,
        moderate_risk=options.moderate_risk,
        confidence=options.confidence,
        misses=_misses(one, two),
        low_missed=options.low_missed,
        moderate_missed=options.moderate_missed,
    )


def fit_groups(one: Answered, two: Answered, pooled: ConformalFit, options: TrustOptions) -> dict[str, Any]:
    """Fit sets and bands of each group of ``options.subgroup_column``.

    A class has a threshold of its own in a group where the second half has ``least_n(alpha)`` of its lesions there;
    otherwise it takes that of all groups. Bands need, of the group alone, what the pooled ones need.

    Args:
        one: the first half.
        two: the second half.
        pooled: the sets of all groups together.
        options: of the fit.

    Returns:
        JSON-ready ``config.trust["groups"]``, which ``hub_models.groups_lesion`` describes; of each group also ``n``
        (lesions of the halves), ``n_malignant`` (of the second half) and ``pooled`` (part -> why it has none of its
        own).
    """
    column = options.subgroup_column
    of_one, of_two = (group_values(column, half.rows.columns, len(half.rows)) for half in (one, two))
    values: dict[str, dict[str, Any]] = {}
    for name in sorted({*of_one, *of_two} - {UNKNOWN}):
        first, second = one.select(of_one == name), two.select(of_two == name)
        malignant = int(np.isin(second.rows.label, second.rows.malignant_columns()).sum())
        found: dict[str, Any] = {"n": [len(first.rows), len(second.rows)], "n_malignant": malignant}
        sets, why_no_sets = _own_sets(second, pooled, options)
        why_no_bands = _too_few(len(first.rows), len(second.rows), malignant, one.rows, options)
        found |= {} if sets is None else {"conformal": sets.as_config()}
        found |= {} if why_no_bands else {"bands": bands_of(first, second, options).as_config()}
        why = {"conformal": why_no_sets, "bands": why_no_bands}
        values[name] = {**found, "pooled": {part: text for part, text in why.items() if text}}
    edges = {name: [low, high] for name, low, high in AGE_BANDS} | {AGE_OPEN[0]: [AGE_OPEN[1], None]}
    return {
        "column": column,
        "read_from": GROUP_COLUMNS.get(column, column),
        **({"edges": edges} if column == "age_band" else {}),
        "values": values,
    }


def _own_sets(two: Answered, pooled: ConformalFit, options: TrustOptions) -> tuple[ConformalFit | None, str]:
    """The sets of a group, with the thresholds of all groups where it has too few lesions; or why there are none."""
    least = least_of_sets(options.alpha)
    counts = np.bincount(two.rows.label, minlength=len(two.rows.labels)) if len(two.rows) else np.zeros(1)
    most = int(counts.max()) if options.class_conditional else len(two.rows)
    if most < least:
        of = " of a class" if options.class_conditional else ""
        return None, f"at most {most} lesions{of} in the second half, {least} are needed"
    own = sets_of(two, options)
    if not options.class_conditional:
        return own, ""
    names, qhat, groups, n = two.rows.labels, own.qhat.copy(), {}, {}
    for index, name in enumerate(names):
        mine = counts[index] >= least
        of_all = pooled.groups[name]
        groups[name] = name if mine else f"all groups: {of_all}"
        n[groups[name]] = int(counts[index]) if mine else pooled.n[of_all]
        qhat[index] = own.qhat[index] if mine else pooled.qhat[index]
    without = [name for name in names if groups[name] != name]
    malignant = [names[index] for index in two.rows.malignant_columns()]
    found = replace(own, qhat=qhat, groups=groups, n=n, without_own_promise=without)
    return replace(found, malignant_without_own_promise=[name for name in without if name in malignant]), ""


def _too_few(first: int, second: int, malignant: int, rows: Predictions, options: TrustOptions) -> str:
    """Why a group has too few lesions for bands of its own; "" where it has enough."""
    if first < LEAST:
        return f"{first} lesions in the first half, {LEAST} are needed"
    needed = least_n(options.low_risk, options.confidence) or math.inf
    if second < needed:
        return f"{second} lesions in the second half, {needed:g} are needed"
    if options.low_missed == 1 or not len(rows.malignant_columns()):
        return ""
    needed = least_n(options.low_missed, options.confidence) or math.inf
    return f"{malignant} malignant lesions in the second half, {needed:g} are needed" if malignant < needed else ""


def _misses(one: Answered, two: Answered) -> Misses | None:
    """Which malignant lesions are named benign; None where no class is malignant."""
    columns = one.rows.malignant_columns()
    if not len(columns):
        return None
    malignant = [np.isin(half.rows.label, columns) for half in (one, two)]
    first, second = (are & ~np.isin(half.named, columns) for are, half in zip(malignant, (one, two), strict=True))
    return Misses(first, second, (int(malignant[0].sum()), int(malignant[1].sum())))
