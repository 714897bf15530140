"""How much a leaking split flatters a model: one recipe on a leaking and on a grouped split.

The two test splits hold other images, so a difference between them has two parts: the test images whose lesion was
trained on, and everything else (another training set, other test images). Images that neither model was trained on,
and those that one has the lesion of, are compared on the same images as well.

Intervals: one resample of lesions, over the images of both sides, serves both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_cards.report_view import cell
from trainers.evaluation.sample import Sample
from trainers.metrics.intervals import bootstrap_weights, can_resample, replicate
from trainers.metrics.number import Number, bootstrapped, undefined
from trainers.metrics.predictions import Predictions
from trainers.trust.temperature import Calibration

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc_malignant": "AUROC, malignant",
}
WHY = "too few classes on one of the sides"
CONVENTIONS = (
    "Leaked: a test image of the leaking split whose lesion, or a near-duplicate, is in its train split; clean: the "
    "others. Leaked lesions are those with several images, which is more often so for some classes: compare leaked and "
    "clean images on the same images, where both models answered images that the grouped model was not trained on. "
    "95 % percentile intervals, lesions resampled within each class, one resample for both sides."
)


@dataclass(frozen=True)
class Side:
    """One model on the images that were kept from it.

    Attributes:
        test: predictions of its test split.
        others: predictions of its other splits that were not trained on (calibration, validation).
        temperature: of its trust.
    """

    test: Predictions
    others: list[Predictions]
    temperature: Calibration

    def held_out(self) -> tuple[dict[str, tuple[int, int]], list[Predictions]]:
        """Image id -> (number of the split, row) of all images that were not trained on, and the splits."""
        splits = [self.test, *self.others]
        places: dict[str, tuple[int, int]] = {}
        for number, rows in enumerate(splits):
            for row, name in enumerate(rows.image_id.tolist()):
                places.setdefault(str(name), (number, row))
        return places, splits


def leak_cost(
    leaking: Side, grouped: Side, trained_on: set[str], *, replicates: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The cost of a leak, with intervals.

    Args:
        leaking: the model of the leaking split.
        grouped: the model of the grouped split, of the same classes.
        trained_on: the groups (lesions with their near-duplicates) of the train split of ``leaking``.
        replicates: of the intervals.
        seed: of the resamples.

    Returns:
        JSON-ready: ``leaked_share`` of the test images; ``sides``: ``published``, ``published, leaked``, ``published,
        clean`` and ``grouped``, each with ``n``, ``n_groups`` and the metrics; ``differences``: ``total`` (published
        less grouped), ``of leaked images`` (published less its clean images) and ``of the rest`` (the clean images less
        grouped), which add up to the total; ``same_images``: for ``leaked`` and ``clean`` the gain of the leaking
        model over the grouped one on the same images, and ``leak``, the first less the second.

    Raises:
        ValueError: the classes differ, or a test split is empty.
    """
    if leaking.test.labels != grouped.test.labels:
        raise ValueError(f"classes {leaking.test.labels} and {grouped.test.labels} differ")
    parts = _parts(leaking, grouped, np.isin(leaking.test.group_id.astype(str), sorted(trained_on)))
    drawn = _drawn([(rows.select(of), at) for rows, at, of in parts.values()], replicates, seed)
    values = dict(zip(parts, drawn, strict=True))
    counts = {
        name: {"n": int(of.sum()), "n_groups": len(set(rows.group_id[of].tolist()))}
        for name, (rows, _, of) in parts.items()
    }

    def gap(*names: str, signs: tuple[int, ...] = (1, -1)) -> dict[str, Any]:
        return {metric: _signed([values[name][metric] for name in names], signs) for metric in METRICS}

    same = {
        name: {
            **counts[f"same {name}, published"],
            "published": _described(values[f"same {name}, published"]),
            "grouped": _described(values[f"same {name}, grouped"]),
            "gain": gap(f"same {name}, published", f"same {name}, grouped"),
        }
        for name in ("leaked", "clean")
    }
    four = [f"same {name}, {side}" for name in ("leaked", "clean") for side in ("published", "grouped")]
    return {
        "leaked_share": round(counts["published, leaked"]["n"] / counts["published"]["n"], 6),
        "sides": {name: {**counts[name], **_described(values[name])} for name in list(parts)[:4]},
        "differences": {
            "total": gap("published", "grouped"),
            "of leaked images": gap("published", "published, clean"),
            "of the rest": gap("published, clean", "grouped"),
        },
        "same_images": {**same, "leak": gap(*four, signs=(1, -1, -1, 1))},
        "conventions": CONVENTIONS,
    }


# Predictions, their temperature, and which rows of them a part consists of.
_Part = tuple[Predictions, Calibration, np.ndarray]


def _parts(leaking: Side, grouped: Side, leaks: np.ndarray) -> dict[str, _Part]:
    """The images that are compared; ``leaks`` (N,) says which test images of ``leaking`` show a trained lesion."""
    places, splits = grouped.held_out()
    shared = np.array([str(name) in places for name in leaking.test.image_id], dtype=bool)
    mine = leaking.test.select(shared)
    theirs = _rows_of([places[str(name)] for name in mine.image_id], splits)
    parts: dict[str, _Part] = {
        "published": (leaking.test, leaking.temperature, np.ones(len(leaking.test), dtype=bool)),
        "published, leaked": (leaking.test, leaking.temperature, leaks),
        "published, clean": (leaking.test, leaking.temperature, ~leaks),
        "grouped": (grouped.test, grouped.temperature, np.ones(len(grouped.test), dtype=bool)),
    }
    for name, chosen in (("leaked", leaks[shared]), ("clean", ~leaks[shared])):
        parts[f"same {name}, published"] = (mine, leaking.temperature, chosen)
        parts[f"same {name}, grouped"] = (theirs, grouped.temperature, chosen)
    return parts


# The value of the sample, and those of the resamples where there are any.
_Values = dict[str, tuple[float, np.ndarray | None]]


def _rows_of(places: list[tuple[int, int]], splits: list[Predictions]) -> Predictions:
    """The rows of several splits in a given order, as one; without the gate and the features."""
    starts = np.cumsum([0, *(len(rows) for rows in splits)])
    arrays = ("image_id", "lesion_id", "group_id", "label", "logits")
    whole = {name: np.concatenate([getattr(rows, name) for rows in splits]) for name in arrays}
    order = np.array([starts[number] + row for number, row in places], dtype=int)
    about = splits[0]
    return Predictions(
        **{name: values[order] for name, values in whole.items()},
        **{name: getattr(about, name) for name in ("labels", "label_names", "label_groups", "split")},
    )


def _drawn(parts: list[tuple[Predictions, Calibration]], replicates: int, seed: int) -> list[_Values]:
    """Each metric of each part, with resamples of lesions that are the same for all parts."""
    groups = np.concatenate([rows.group_id.astype(str) for rows, _ in parts])
    labels = np.concatenate([rows.label for rows, _ in parts])
    weights = bootstrap_weights(groups, labels, replicates, seed) if can_resample(groups, labels) else None
    found: list[_Values] = []
    start = 0
    for rows, temperature in parts:
        own = None if weights is None else weights[:, start : start + len(rows)]
        start += len(rows)
        if not len(rows):
            found.append(dict.fromkeys(METRICS, (float("nan"), None)))
            continue
        sample = Sample.at(rows, temperature)
        point = sample.brief(np.ones((1, len(rows))))
        spread = {} if own is None else replicate(sample.brief, own)
        found.append({name: (float(point[name][0]), spread.get(name)) for name in METRICS})
    return found


def _described(values: _Values) -> dict[str, Any]:
    return {
        name: undefined(WHY) if np.isnan(value) else bootstrapped(value, spread)
        for name, (value, spread) in values.items()
    }


def _signed(values: list[tuple[float, np.ndarray | None]], signs: tuple[int, ...]) -> dict[str, Any]:
    total = float(sum(sign * value for sign, (value, _) in zip(signs, values, strict=True)))
    if np.isnan(total):
        return undefined(WHY)
    terms = [sign * spread for sign, (_, spread) in zip(signs, values, strict=True) if spread is not None]
    resampled = np.sum(terms, axis=0) if len(terms) == len(values) else None
    return bootstrapped(total, resampled, floor=None, ceiling=None, paired=True)


def markdown(found: Mapping[str, Any], title: str) -> Iterator[str]:
    """The result as a page, a line each."""
    sides, same = found["sides"], found["same_images"]
    share = 100 * found["leaked_share"]
    yield from (f"# Leak cost: {title}", "")
    yield (
        f"{share:.1f} % of the {sides['published']['n']:,} test images of the leaking split show a lesion that is also "
        "in its train split."
    )
    yield from (
        "",
        f"| model, test images | images (lesions) | {' | '.join(METRICS.values())} |",
        "|---|---:|---:|---:|---:|",
    )
    for name, side in sides.items():
        yield f"| {cell(name)} | {_size(side)} | {_numbers(side)} |"
    yield from ("", f"| difference | {' | '.join(METRICS.values())} |", "|---|---:|---:|---:|")
    names = {
        "total": "published less grouped",
        "of leaked images": "of this: the leaked images (published less its clean images)",
        "of the rest": "of this: the rest (clean images less grouped)",
    }
    for name, text in names.items():
        yield f"| {text} | {_numbers(found['differences'][name], signed=True)} |"
    yield from (
        "",
        "The same images, answered by both models; neither the images nor, for the clean ones, their lesions",
    )
    yield from ("were trained on.", "")
    yield from (f"| images | images (lesions) | {' | '.join(METRICS.values())} |", "|---|---:|---:|---:|---:|")
    for name in ("leaked", "clean"):
        for side in ("published", "grouped"):
            yield f"| {name}, model of {side} | {_size(same[name])} | {_numbers(same[name][side])} |"
        yield f"| {name}, gain of published | | {_numbers(same[name]['gain'], signed=True)} |"
    yield f"| **cost of the leak**: gain on leaked less gain on clean | | {_numbers(same['leak'], signed=True)} |"
    yield from ("", found["conventions"], "")


def _size(counts: Mapping[str, Any]) -> str:
    return f"{counts['n']:,} ({counts['n_groups']:,})"


def _numbers(of: Mapping[str, Any], signed: bool = False) -> str:
    return " | ".join(Number.read(of[name]).text(signed=signed) for name in METRICS)
