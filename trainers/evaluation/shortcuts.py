"""What a model answers without the lesion, with marks drawn on the image, and what the patient's data alone say.

Each image is paired with itself: a resample of lesions is drawn once and counts for all conditions. A model that reads
the lesion alone falls to chance where the lesion is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from trainers.evaluation.robustness import Evaluated, described, drop, evaluated_on, lesion_weights, lesions_of
from trainers.metrics.number import bootstrapped, plain, undefined
from trainers.metrics.predictions import FRAMED_BY, FRAMING, SHORTCUT, Predictions
from trainers.metrics.weighting import divide_or_nan

HIDDEN = ("lesion_hidden", "box_hidden", "border_only")
DRAWN = ("ruler", "ink", "bubbles", "dark_corners", "hairs")
METADATA = "metadata_alone"
SHORTCUTS = (*HIDDEN, *DRAWN, METADATA)
COMPARED = ("accuracy", "balanced_accuracy", "auroc_malignant")


def shortcut_section(
    clean: Predictions,
    changed: Predictions,
    trust: Mapping[str, Any],
    kinds: list[str],
    drawn: int,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate a model on images without their lesion or with marks, beside the images as they are.

    Args:
        clean: N images.
        changed: rows of each condition, named in ``columns["shortcut"]``, in the order of ``clean``; an image whose
            lesion was not found is left out where the lesion is hidden. The rows of ``metadata_alone`` are of another
            model, with probabilities at temperature 1 and without a gate.
        trust: the model's ``config.trust``.
        kinds: of ``SHORTCUTS``, those that were asked for.
        drawn: how many images were to be changed.
        replicates: of the intervals.
        seed: of the resamples.

    Returns:
        JSON-ready: ``split``, ``n``, ``n_groups``, ``drawn``, ``framed_by``, ``clean``, ``chance`` (metric -> the value
        of always naming the most frequent class) and ``conditions``: for each kind ``n``, ``n_groups``, ``left_out``,
        the metrics of ``robustness_section``, ``lost`` (metric -> what the same images lose, paired) and ``kept``, see
        :func:`kept`.

    Raises:
        ValueError: a condition holds images that are not among ``clean``, or in another order.
    """
    weights = lesion_weights(clean, replicates, seed)
    framed = changed.columns[FRAMING]
    chance = by_chance(clean)
    conditions: list[dict[str, Any]] = []
    for kind in kinds:
        part = changed.select(changed.columns[SHORTCUT] == kind)
        rows = rows_of(clean, part, kind)
        conditions.append({"kind": kind, "n": len(rows), "n_groups": lesions_of(part), "left_out": drawn - len(rows)})
        if len(rows):
            same = evaluated_on(clean.select(rows), rows, trust, weights)
            conditions[-1] |= against_the_same(same, evaluated_condition(kind, part, rows, trust, weights), chance)
    return {
        "split": clean.split,
        "n": len(clean),
        "n_groups": lesions_of(clean),
        "drawn": drawn,
        "seed": seed,
        "kinds": list(kinds),
        "framed_by": {name: len(set(changed.image_id[framed == name].tolist())) for name in FRAMED_BY},
        "chance": chance,
        "clean": described(*evaluated_on(clean, np.arange(len(clean)), trust, weights)),
        "conditions": conditions,
    }


def evaluated_condition(
    kind: str, part: Predictions, rows: np.ndarray, trust: Mapping[str, Any], weights: np.ndarray | None
) -> Evaluated:
    """The metrics of one condition; those of ``metadata_alone`` at temperature 1 and without a gate."""
    if kind == METADATA:
        return evaluated_on(replace(part, ood_score=None), rows, {"temperature": {"value": 1.0}}, weights)
    return evaluated_on(part, rows, trust, weights)


def against_the_same(same: Evaluated, values: Evaluated, chance: Mapping[str, float]) -> dict[str, Any]:
    """The metrics of a condition, and what they are beside those of the same images as they are."""
    losses = {name: lost(same, values, name) for name in COMPARED}
    return {**described(*values), "lost": losses, "kept": kept(same, values, chance)}


def rows_of(clean: Predictions, part: Predictions, kind: str) -> np.ndarray:
    """The rows of ``clean`` that a condition shows, (K,).

    Raises:
        ValueError: an image that is not among ``clean``, or in another order.
    """
    number = {name: row for row, name in enumerate(clean.image_id.tolist())}
    rows = np.array([number.get(name, -1) for name in part.image_id.tolist()], dtype=int)
    if len(rows) and (rows[0] < 0 or (np.diff(rows) <= 0).any()):
        raise ValueError(f"{kind!r} holds other images than the clean ones: measure again")
    return rows


def by_chance(rows: Predictions) -> dict[str, float]:
    """What always naming the most frequent class reaches, by metric of ``COMPARED``; a constant score for AUROC."""
    counts = np.bincount(rows.label, minlength=len(rows.labels))
    return {
        "accuracy": plain(counts.max() / counts.sum()),
        "balanced_accuracy": plain(1 / (counts > 0).sum()),
        "auroc_malignant": 0.5,
    }


def lost(clean: Evaluated, other: Evaluated, metric: str) -> dict[str, Any]:
    """A metric of the clean images minus that of the changed ones, paired."""
    if np.isnan(clean[0][metric][0] - other[0][metric][0]):
        return undefined("the metric itself is not, on these images")
    return drop(clean, other, metric)


def kept(clean: Evaluated, other: Evaluated, chance: Mapping[str, float]) -> dict[str, Any]:
    """What is left of the advantage over chance: (changed - chance) / (clean - chance), paired; 1 = all of it.

    Returns:
        Of AUROC where it is defined, otherwise of balanced accuracy: the share with its interval, ``metric``, and
        ``above_chance``: the interval of the changed images' own metric lies above chance.
    """
    metric = "balanced_accuracy" if np.isnan(clean[0]["auroc_malignant"][0]) else "auroc_malignant"
    level = chance[metric]
    share = float(divide_or_nan(other[0][metric] - level, clean[0][metric] - level)[0])
    found: dict[str, Any] = {"metric": metric, "above_chance": False}
    if np.isnan(share) or clean[0][metric][0] <= level:
        return {**found, **undefined("the clean images are at chance")}
    if other[1] is None or clean[1] is None:
        return {**found, **bootstrapped(share, None, floor=None, ceiling=None)}
    low = float(np.nanquantile(other[1][metric], 0.025))
    shares = divide_or_nan(other[1][metric] - level, np.where(clean[1][metric] > level, clean[1][metric] - level, 0.0))
    number = bootstrapped(share, shares, floor=None, ceiling=None, paired=True)
    return {**found, "above_chance": low > level, **number}
