"""The table of explanations -> ``report["explanations"]``: every number with its interval. A pure function.

Two of the measures need a lesion mask: the share of the heat that lies on the lesion, and whether its highest point
does. A dermoscopic lesion fills the middle of its image, so neither is enough by itself: each stands beside the
lesion's share of the image, noise, a blob in the middle, and the heat map of another lesion's image.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainers.evaluation.explanation_table import BASELINES, ORDERS, STAGES, ExplanationTable
from trainers.evaluation.paired import signed
from trainers.metrics.intervals import bootstrap_weights, can_resample, exact_by_lesion
from trainers.metrics.number import bootstrapped, measured, plain, undefined
from trainers.metrics.weighting import divide_or_nan, weighted_mean

VERDICTS = ("right", "wrong", "declined")
NOTHING = "no such image was measured"


@dataclass(frozen=True)
class Part:
    """Some rows of a table, with the resamples of their lesions.

    Attributes:
        table: all rows.
        rows: (N,) bool.
        weights: (R, K) of the K rows; None where they cannot be resampled.
    """

    table: ExplanationTable
    rows: np.ndarray
    weights: np.ndarray | None

    @classmethod
    def of(cls, table: ExplanationTable, rows: np.ndarray, replicates: int, seed: int) -> Part:
        """Draw the resamples of some rows."""
        groups, labels = table.group_id[rows], table.label[rows]
        can = can_resample(groups, labels)
        return cls(table, rows, bootstrap_weights(groups, labels, replicates, seed) if can else None)

    def column(self, name: str) -> np.ndarray:
        """A column of ``NUMBERS``: (K,)."""
        return self.table.numbers[name][self.rows]

    def areas(self, game: str, order: str) -> np.ndarray:
        """Area under each image's curve, in [0, 1]: (K,)."""
        lines = self.table.curves[f"{game}_{order}"][self.rows]
        points = lines.shape[1]
        return np.trapezoid(lines, dx=1 / (points - 1), axis=1) if points else np.full(len(lines), np.nan)

    def counts(self, values: np.ndarray) -> dict[str, int]:
        """Images and lesions of which there is a value (K,)."""
        there = ~np.isnan(values)
        return {"n": int(there.sum()), "n_groups": len(set(self.table.group_id[self.rows][there].tolist()))}

    def mean(self, values: np.ndarray) -> dict[str, Any]:
        """Mean of shares in [0, 1] over the images that have one: values (K,), NaN = none."""
        there = ~np.isnan(values)
        if not there.any():
            return undefined(NOTHING)
        value = float(values[there].mean())
        if value in (0.0, 1.0):
            groups = self.table.group_id[self.rows][there]
            return measured(value, *exact_by_lesion(values[there] == 1, groups), "exact 95 % by lesion")
        return bootstrapped(value, self._resampled(values, there))

    def signed_mean(self, values: np.ndarray) -> dict[str, Any]:
        """Mean of numbers that may be negative: values (K,), NaN = none."""
        there = ~np.isnan(values)
        if not there.any():
            return undefined(NOTHING)
        return signed(float(values[there].mean()), self._resampled(values, there))

    def ratio(self, above: np.ndarray, below: np.ndarray) -> dict[str, Any]:
        """Mean over mean, of the images that have both: (K,) each, not negative."""
        there = ~np.isnan(above) & ~np.isnan(below)
        if not there.any() or not below[there].any():
            return undefined(NOTHING)
        parts = [self._resampled(values, there) for values in (above, below)]
        resampled = None if self.weights is None else divide_or_nan(parts[0], parts[1])
        return bootstrapped(float(above[there].mean() / below[there].mean()), resampled, ceiling=None)

    def _resampled(self, values: np.ndarray, there: np.ndarray) -> Any:
        return None if self.weights is None else weighted_mean(values[there], self.weights[:, there].astype(np.float64))


def explanations_section(table: ExplanationTable, *, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Evaluate the heat maps of a split.

    Args:
        table: what was measured.
        replicates: of the intervals.
        seed: of the resamples.

    Returns:
        JSON-ready: the description of the table (``split``, ``method``, ``examples``, ...), ``n``, ``n_groups``,
        ``masks``, ``blank``, ``overall``, ``per_class``, ``per_verdict``, ``random_weights``, ``members``,
        ``repeated`` and ``conventions``.
    """

    def part(rows: np.ndarray) -> Part:
        return Part.of(table, rows, replicates, seed)

    everything = part(np.ones(len(table), dtype=bool))
    members = _members(everything)
    notes = conventions(table.about, replicates)
    if members is None:
        del notes["members"]
    return {
        **table.about,
        "n": len(table),
        "n_groups": len(set(table.group_id.tolist())),
        "masks": _masks(table),
        "blank": int(np.isnan(table.numbers["spread"]).sum()),
        "overall": evaluated(everything),
        "per_class": [
            {"name": name, **evaluated(part(table.label == number))} for number, name in enumerate(table.labels)
        ],
        "per_verdict": [
            {"name": name, "images": int(rows.sum()), **evaluated(part(rows))}
            for name, rows in verdict_rows(table).items()
        ],
        "random_weights": _random_weights(everything),
        "members": members,
        "repeated": _repeated(table),
        "conventions": notes,
    }


def evaluated(part: Part) -> dict[str, Any]:
    """Both games with masks, and both without, of some images."""
    return {"inside": inside(part), "faithful": faithful(part)}


def inside(part: Part) -> dict[str, Any]:
    """Energy and pointing of some images beside every baseline, of those that have a mask and a heat map."""
    energy, area = part.column("energy"), part.column("area")
    shown = np.where(np.isnan(energy), np.nan, area)
    found: dict[str, Any] = {**part.counts(energy), "area": part.mean(shown)}
    for name in ("energy", "pointing"):
        own = part.column(name)
        other = {baseline: part.column(f"{name}_{baseline}") for baseline in BASELINES}
        found[name] = {
            "heat_map": part.mean(own),
            **{baseline: part.mean(values) for baseline, values in other.items()},
            "minus_area": part.signed_mean(own - area),
            **{f"minus_{baseline}": part.signed_mean(own - values) for baseline, values in other.items()},
        }
    found["energy"]["times_area"] = part.ratio(energy, shown)
    return found


def faithful(part: Part) -> dict[str, Any]:
    """Areas under the curves of deletion and insertion beside the baselines, of the images that were played with."""
    own = part.areas("deletion", "heat_map")
    lines = part.table.curves["deletion_heat_map"][part.rows]
    ends = lines[:, [0, -1]] if lines.shape[1] else np.full((len(lines), 2), np.nan)
    found: dict[str, Any] = {
        **part.counts(own),
        "whole": part.mean(ends[:, 0]),
        "blurred": part.mean(ends[:, 1]),
    }
    for game in ("deletion", "insertion"):
        areas = {order: part.areas(game, order) for order in ORDERS}
        found[game] = {order: part.mean(values) for order, values in areas.items()}
        found[game] |= {
            f"minus_{order}": part.signed_mean(areas["heat_map"] - areas[order])
            for order in ORDERS
            if order != "heat_map"
        }
    return found


def verdict_rows(table: ExplanationTable) -> dict[str, np.ndarray]:
    """The rows of right answers, of wrong ones, and of those that the model keeps to itself; without trust two."""
    right = table.predicted == table.label
    if table.abstain is None:
        return {"right": right, "wrong": ~right}
    kinds = (right & ~table.abstain, ~right & ~table.abstain, table.abstain)
    return dict(zip(VERDICTS, kinds, strict=True))


def _masks(table: ExplanationTable) -> dict[str, Any]:
    """How many images have a mask, and of which classes those are that have none."""
    missing = Counter(table.labels[label] for label in table.label[table.mask == "none"])
    return {
        "there": int((table.mask == "there").sum()),
        "empty": int((table.mask == "empty").sum()),
        "none": {name: missing[name] for name in table.labels if missing[name]},
    }


def _random_weights(part: Part) -> dict[str, Any]:
    """How like the heat maps are to those of the model with random weights; a map without anything is like none."""
    played = ~np.isnan(part.column("repeat_difference")) & ~np.isnan(part.column("spread"))

    def like(name: str) -> dict[str, Any]:
        values = np.nan_to_num(part.column(name), nan=0.0)
        blank = np.isnan(part.column(name))[played]
        found = part.signed_mean(np.where(played, values, np.nan))
        return {"likeness": found, "blank": plain(blank.mean()) if len(blank) else 0.0}

    return {
        **part.counts(np.where(played, 1.0, np.nan)),
        "stages": [{"name": name, **like(f"likeness_{name}")} for name in STAGES],
        "other_picture": like("likeness_other")["likeness"],
    }


def _members(part: Part) -> dict[str, Any] | None:
    """How like the members' heat maps are to each other; None of a single model."""
    values = part.column("members")
    if np.isnan(values).all():
        return None
    return {**part.counts(values), "likeness": part.signed_mean(values)}


def _repeated(table: ExplanationTable) -> dict[str, Any]:
    """The largest difference between two heat maps of one image by the same method."""
    values = table.numbers["repeat_difference"]
    there = values[~np.isnan(values)]
    return {"n": len(there), "largest_difference": plain(there.max()) if len(there) else None}


def conventions(about: dict[str, Any], replicates: int) -> dict[str, str]:
    """What the numbers mean; goes into the report and the card."""
    return {
        "explained": "The class that the model predicts, right or wrong, also where it declines to answer.",
        "energy": "Share of the heat map's sum that lies on the lesion (Wang et al., Score-CAM, CVPR Workshops 2020). "
        "A map that is the same everywhere has the lesion's share of the image.",
        "pointing": "Whether the highest point lies on the lesion, without any tolerance around it (Zhang et al., IJCV "
        "126, 2018).",
        "masks": "Brought to the model's view by the crop and the resize of its image. Images without a mask, or "
        "with an empty one, count in neither of the two.",
        "random": f"Noise with one value a square of {about['cell']} pixels, enlarged as heat maps are; mean of "
        f"{about['draws']} an image.",
        "blob": "A Gaussian in the middle of the image that takes up the same share of it as the heat map does "
        "(square of the mean over mean of the square), so that only the place is compared.",
        "other": "The heat map of an image of another lesion, drawn by chance: what the model does with any image.",
        "deletion, insertion": f"Petsiuk et al., RISE, BMVC 2018: the most important pixels are blurred first, or come "
        f"first into the blurred image, in {about['steps']} equal steps; area under the calibrated probability of "
        f"the explained class. Blur: Gaussian, standard deviation {about['blur']:g} of the shorter side. Low is good "
        "for deletion, high for insertion. One image a lesion.",
        "random_weights": "Adebayo et al., NeurIPS 2018, cascading randomisation: first the layers behind the backbone "
        "get fresh weights, then the backbone from its end. Spearman correlation between the heat maps before and "
        "after, of the same class; a heat map that is 0 everywhere counts as 0. A method that shows what was learned "
        "falls to the correlation with another image's heat map, or below.",
        "members": "Mean Spearman correlation between the heat maps of two members.",
        "intervals": f"Lesion groups are drawn with replacement within each class, with all their images; {replicates} "
        "resamples, 95 % percentile; differences are of the same images.",
    }
