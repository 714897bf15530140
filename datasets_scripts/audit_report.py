"""The audit of one or several datasets: its numbers as a dictionary, and as Markdown. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datasets_scripts.audit import (
    DUPLICATE_METHOD,
    duplicate_report,
    leaks_between_splits,
    lesions_of_several_labels,
    license_report,
    missing_report,
    percent,
    synthetic_report,
)
from datasets_scripts.command import UserError
from datasets_scripts.dataset_card import markdown_table
from datasets_scripts.dataset_folder import Dataset
from datasets_scripts.duplicates import Duplicates, find_duplicates, group_ids
from datasets_scripts.label_errors import Held
from datasets_scripts.label_errors import report as label_errors
from datasets_scripts.rows import UNKNOWN

SHOWN = 20  # pairs and images in a table of the Markdown; the JSON has all
Pairs = list[tuple[int, int]]


def audit(
    datasets: Sequence[Dataset],
    held: Held | None = None,
    gate_threshold: float | None = None,
    known: frozenset[str] | None = None,
) -> dict[str, Any]:
    """Everything that can be counted without a model; with predictions also likely label errors and off-topic images.

    Args:
        datasets: the first is the one that ``held`` is of.
        held: held-out predictions of its images.
        gate_threshold: an image with a higher score of the gate is off-topic.
        known: hashes of images that somebody else has, such as those that a backbone was pretrained on.

    Raises:
        UserError: no image of the predictions is in the first dataset, or their classes are others.
    """
    found = find_duplicates(
        [one for dataset in datasets for one in dataset.hashes], np.concatenate([one.thumbs for one in datasets])
    )
    starts = np.cumsum([0, *(len(one.rows) for one in datasets)])
    report: dict[str, Any] = {"method": DUPLICATE_METHOD, "datasets": {}, "across": []}
    for number, dataset in enumerate(datasets):
        own = Duplicates(_within(found.exact, starts, number, number), _within(found.near, starts, number, number))
        report["datasets"][dataset.name] = _of_one(dataset, own)
        if known is not None:
            report["datasets"][dataset.name]["known_hashes"] = _among(dataset, known)
        for later in range(number + 1, len(datasets)):
            exact = _within(found.exact, starts, number, later)
            near = _within(found.near, starts, number, later)
            report["across"].append(_across(dataset, datasets[later], exact, near))
    if held is not None:
        report |= _with_predictions(datasets[0], held, gate_threshold)
    return report


def _within(pairs: Pairs, starts: np.ndarray, first: int, second: int) -> Pairs:
    """The pairs of an image of one dataset and an image of another, as their own row numbers."""
    low, high, begin, end = starts[first], starts[first + 1], starts[second], starts[second + 1]
    return [(int(i - low), int(j - begin)) for i, j in pairs if low <= i < high and begin <= j < end]


def _of_one(dataset: Dataset, found: Duplicates) -> dict[str, Any]:
    rows, pairs = dataset.rows, found.exact + found.near
    own = [str(number) for number in range(len(rows))]
    alike = group_ids(own, pairs)
    groupings = {"lesion": [row.lesion_id for row in rows], "duplicate": alike}
    if any(row.patient_id is not None for row in rows):
        groupings["patient"] = [row.patient_id or f"unknown {number}" for number, row in enumerate(rows)]
    labels = [row.label for row in rows]
    groups = group_ids(groupings["lesion"], pairs)
    sources = [(i, j) for i, j in sorted(pairs) if rows[i].source != rows[j].source]
    return {
        "images": len(rows),
        "unusable": dataset.unusable,
        "per_class": dict(Counter(labels).most_common()),
        "configs": {name: {split: len(of) for split, of in splits.items()} for name, splits in dataset.configs.items()},
        "leaks": leaks_between_splits(dataset.configs, groupings, labels),
        "duplicates": {
            **duplicate_report(rows, found, groups),
            "near": _names(rows, rows, found.near),
            "across_sources": _names(rows, rows, sources),
        },
        "lesions_of_several_labels": lesions_of_several_labels(rows),
        "missing": missing_report(rows),
        "image_sizes": {f"{w}x{h}": n for (w, h), n in dataset.sizes.most_common()},
        "licenses": license_report(rows),
        **synthetic_report(rows, {name: of for name, of in dataset.configs.items() if "train" in of}),
    }


def _among(dataset: Dataset, known: frozenset[str]) -> dict[str, Any]:
    """The images whose decoded pixels have a known hash, by split of the first config."""
    splits = _default_split(dataset)
    found = [number for number, one in enumerate(dataset.hashes) if one in known]
    counts = Counter(splits[number] for number in found)
    return {
        "hashes": len(known),
        "images": len(found),
        "by_split": {split: {"n": n, "among": counts[split]} for split, n in Counter(splits).items()},
        "image_ids": [dataset.rows[number].image_id for number in found],
    }


def _names(first: Sequence[Any], second: Sequence[Any], pairs: Pairs) -> list[list[str]]:
    return [[first[i].image_id, second[j].image_id] for i, j in pairs]


def _across(first: Dataset, second: Dataset, exact: Pairs, near: Pairs) -> dict[str, Any]:
    """Duplicates between two datasets; by split of the default config, and those whose labels contradict."""
    pairs = sorted(exact + near)
    splits = _default_split(first), _default_split(second)
    both = set(first.labels) & set(second.labels)
    other = [
        (i, j)
        for i, j in pairs
        if {first.rows[i].label, second.rows[j].label} <= both and first.rows[i].label != second.rows[j].label
    ]
    by_split = Counter((splits[0][i], splits[1][j]) for i, j in pairs)
    return {
        "first": first.name,
        "second": second.name,
        "exact_pairs": len(exact),
        "near_pairs": len(near),
        "images_of_first": len({i for i, _ in pairs}),
        "images_of_second": len({j for _, j in pairs}),
        "same_ids": len({row.image_id for row in first.rows} & {row.image_id for row in second.rows}),
        "by_split": [{"first": a, "second": b, "pairs": n} for (a, b), n in sorted(by_split.items())],
        "pairs": _names(first.rows, second.rows, pairs),
        "contradicting_labels": _names(first.rows, second.rows, other),
    }


def _default_split(dataset: Dataset) -> list[str]:
    """The split of each row in the first config."""
    result = [UNKNOWN] * len(dataset.rows)
    for split, numbers in next(iter(dataset.configs.values())).items():
        for number in numbers:
            result[number] = split
    return result


def _with_predictions(dataset: Dataset, held: Held, threshold: float | None) -> dict[str, Any]:
    label_of = {row.image_id: row.label for row in dataset.rows}
    known = [i for i, image_id in enumerate(held.image_ids) if image_id in label_of]
    if not known:
        raise UserError(
            f"none of the {len(held.image_ids)} images of the predictions is in {dataset.name}: give predictions of "
            f"the first dataset (its first image is {dataset.rows[0].image_id!r}, theirs {held.image_ids[0]!r})"
        )
    rows = [i for i in known if held.labels[held.given[i]] == label_of[held.image_ids[i]]]
    if not rows:
        raise UserError(
            f"the predictions have the classes {', '.join(held.labels)}, {dataset.name} has other labels: give "
            "predictions of a model of these classes"
        )
    found: dict[str, Any] = {
        "predictions": {
            "images": len(held.image_ids),
            "in_dataset": len(known),
            "with_another_label": len(known) - len(rows),
            "without_prediction": len(dataset.rows) - len(known),
        },
        "label_errors": label_errors(held, rows),
    }
    gate = held.gate
    if gate is not None and threshold is not None:
        off = sorted((i for i in known if gate[i] > threshold), key=lambda i: -gate[i])
        found["off_topic"] = {
            "threshold": threshold,
            "images": len(known),
            "off_topic": len(off),
            "listed": [{"image_id": held.image_ids[i], "score": round(float(gate[i]), 4)} for i in off],
        }
    return found


def summary(report: Mapping[str, Any]) -> list[str]:
    """A few lines for the terminal."""
    lines = []
    for name, of in report["datasets"].items():
        found, leaking = of["duplicates"], [leak for leak in of["leaks"] if leak["leaking"]]
        lines.append(
            f"{name}: {of['images']} images, {found['exact_pairs']} exact and {found['near_pairs']} near-duplicate "
            f"pairs, {len(found['across_lesions'])} across lesion ids, {len(found['contradicting_labels'])} with "
            f"different labels; {len(of['unusable'])} unusable images; {len(leaking)} leaks between splits"
        )
        lines += [f"  {_known_text(of['known_hashes'])}" for _ in range("known_hashes" in of)]
        lines += [f"  {_leak_text(leak)}" for leak in leaking[:SHOWN]]
        lines += [f"  ... and {len(leaking) - SHOWN} more" for _ in range(len(leaking) > SHOWN)]
    for of in report["across"]:
        lines.append(
            f"{of['first']} and {of['second']}: {of['exact_pairs']} exact and {of['near_pairs']} near-duplicate pairs, "
            f"{len(of['contradicting_labels'])} with different labels; {of['same_ids']} equal image ids"
        )
    if "label_errors" in report:
        of = report["label_errors"]
        lines.append(
            f"likely label errors: {of['likely_errors']} of {of['images']} images with held-out predictions "
            f"({percent(of['share'])})"
        )
    if "off_topic" in report:
        lines.append(f"off-topic by the gate: {report['off_topic']['off_topic']} of {report['off_topic']['images']}")
    return lines


def _known_text(of: Mapping[str, Any]) -> str:
    by_split = ", ".join(f"{one['among']} of {one['n']} of {split}" for split, one in of["by_split"].items())
    return f"{of['images']} images are among the {of['hashes']} known ones, by exact pixels: {by_split}"


def _leak_text(leak: Mapping[str, Any]) -> str:
    return (
        f"{leak['config']}: {leak['leaking']} of {leak['n']} images of {leak['split']} have their {leak['by']} in "
        f"{leak['against']} ({percent(leak['share'])})"
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The report as a document."""
    parts = ["# Audit", f"Duplicates: {report['method']}."]
    for name, of in report["datasets"].items():
        parts += [f"## {name}", *_one_markdown(of)]
    if report["across"]:
        parts += ["## Across datasets", *(_across_markdown(of) for of in report["across"])]
    if "label_errors" in report:
        parts += ["## Likely label errors", *_label_errors_markdown(report)]
    if "off_topic" in report:
        off = report["off_topic"]
        table = [["image", "score"], *([one["image_id"], f"{one['score']:.4g}"] for one in off["listed"][:SHOWN])]
        parts += [
            "## Off-topic images",
            f"{off['off_topic']} of {off['images']} images have a score of the gate above its threshold "
            f"({off['threshold']:.4g}): they look unlike the images that the model was calibrated on.",
            *([markdown_table(table)] if off["listed"] else []),
        ]
    return "\n\n".join(parts) + "\n"


def _one_markdown(of: Mapping[str, Any]) -> list[str]:
    found, leaking = of["duplicates"], [leak for leak in of["leaks"] if leak["leaking"]]
    leaks = [["config", "split", "against", "by", "images", "leaking", "share"]] + [
        [leak["config"], leak["split"], leak["against"], leak["by"], str(leak["n"]), str(leak["leaking"]),
         percent(leak["share"])]
        for leak in leaking
    ]  # fmt: skip
    licenses = [["source", "images", "licence", "attribution"]] + [
        [one["source"], str(one["images"]), one["license"], one["attribution"]] for one in of["licenses"][:SHOWN]
    ]
    unstated = sum(one["images"] for one in of["licenses"] if one["license"] == UNKNOWN)
    several = of["lesions_of_several_labels"]
    missing = ", ".join(f"{key} {n}" for key, n in of["missing"].items() if key != "age_zero")
    unusable = of["unusable"]
    return [
        f"{of['images']} images: {', '.join(f'{label} {n}' for label, n in of['per_class'].items())}. "
        f"{len(unusable)} cannot be used{': ' + '; '.join(unusable[:3]) if unusable else ''}.",
        "### Leaks between splits",
        "An image of a split leaks where its lesion, its patient, or a duplicate of it is also in the split before it.",
        markdown_table(leaks) if leaking else f"None in {len(of['leaks'])} comparisons.",
        "### Duplicates",
        f"{found['exact_pairs']} exact and {found['near_pairs']} near-duplicate pairs; {len(found['across_lesions'])} "
        f"join two lesion ids, {len(found['across_sources'])} two sources, and "
        f"{len(found['contradicting_labels'])} have different labels. {len(several)} lesions have images of different "
        "labels.",
        *_listed("Across lesion ids", found["across_lesions"]),
        *_listed("Across sources", found["across_sources"]),
        *_listed("Different labels", found["contradicting_labels"]),
        *_listed("Lesions of several labels", [[lesion, *labels] for lesion, labels in several.items()]),
        *_known_markdown(of),
        "### Missing values and licences",
        f"Images without a value: {missing}. Images without a stated licence: {unstated}.",
        markdown_table(licenses),
    ]


def _known_markdown(of: Mapping[str, Any]) -> list[str]:
    if "known_hashes" not in of:
        return []
    found = of["known_hashes"]
    note = "An image that was resized or stored again has other pixels, so 0 does not show that none is among them."
    return [
        "### Among the known images",
        f"{_known_text(found)}. {note}",
        *_listed("Images", [[name] for name in found["image_ids"]]),
    ]


def _listed(title: str, pairs: Sequence[Sequence[str]]) -> list[str]:
    if not pairs:
        return []
    more = f" and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
    return [f"{title}: {'; '.join(' = '.join(pair) for pair in pairs[:SHOWN])}{more}."]


def _across_markdown(of: Mapping[str, Any]) -> str:
    splits = ", ".join(f"{one['first']} with {one['second']} {one['pairs']}" for one in of["by_split"])
    text = [
        f"**{of['first']}** and **{of['second']}**: {of['exact_pairs']} exact and {of['near_pairs']} near-duplicate "
        f"pairs ({of['images_of_first']} and {of['images_of_second']} images); {of['same_ids']} equal image ids."
    ]
    text += [f"By split: {splits}."] if splits else []
    return " ".join([*text, *_listed("Pairs", of["pairs"]), *_listed("Different labels", of["contradicting_labels"])])


def _label_errors_markdown(report: Mapping[str, Any]) -> list[str]:
    of, given = report["label_errors"], report["predictions"]
    pairs = [["label", "suggested", "images"]]
    pairs += [[one["label"], one["suggested"], str(one["images"])] for one in of["pairs"]]
    listed = [["image", "label", "p", "suggested", "p"]] + [
        [one["image_id"], one["label"], f"{one['p_label']:.3f}", one["suggested"], f"{one['p_suggested']:.3f}"]
        for one in of["listed"][:SHOWN]
    ]
    return [
        f"Method: {of['method']}",
        f"{of['likely_errors']} of {of['images']} images ({percent(of['share'])}). By the confident joint "
        f"{percent(of['estimated_error_share'])} of the labels are wrong; confident errors of the model count too. "
        f"{given['without_prediction']} images of the dataset have no held-out prediction, "
        f"{given['with_another_label']} have another label in the predictions.",
        *([markdown_table(pairs), markdown_table(listed)] if of["listed"] else []),
    ]
