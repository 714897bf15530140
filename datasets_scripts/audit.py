"""Counts of problems in the data: leakage between splits, duplicates, missing values. Pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from datasets_scripts.command import UserError
from datasets_scripts.duplicates import CORRELATION, DETAIL_CORRELATION, Duplicates
from datasets_scripts.rows import SYNTHETIC, UNKNOWN, Row
from datasets_scripts.splits import GIVEN

# Configs whose splits were made elsewhere: they may leak, and that is counted.
AS_THEY_ARE = ("published", GIVEN)
MOST_COLUMNS = 20

DUPLICATE_METHOD = (
    "exact: equal decoded pixels; near: grey 32x32 thumbnails, also mirrored or turned by quarter turns, "
    f"correlate by {CORRELATION} or more, and their fine detail by {DETAIL_CORRELATION} or more"
)


def leak_audit(train_groups: Sequence[str], groups: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Count the images of a split whose group (lesion, or its duplicates) is also in train.

    Args:
        train_groups: group ids of the training images.
        groups: (N,) group ids of the audited split.
        labels: (N,) class names of the audited split.

    Returns:
        ``{"n", "leaking", "share", "per_class": {label: {"n", "leaking", "share"}}}``; share in 0..1, lower is better,
        ``None`` when there are no images.

    Raises:
        ValueError: ``groups`` and ``labels`` differ in length.
    """
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups for {len(labels)} labels; give one of each per image")
    known = set(train_groups)
    n: Counter[str] = Counter(labels)
    leaking: Counter[str] = Counter(label for group, label in zip(groups, labels, strict=True) if group in known)

    def entry(of: int, count: int) -> dict[str, Any]:
        return {"n": of, "leaking": count, "share": count / of if of else None}

    per_class = {label: entry(n[label], leaking[label]) for label in sorted(n)}
    return {**entry(len(groups), sum(leaking.values())), "per_class": per_class}


def leak_by_config(
    configs: Mapping[str, Mapping[str, Sequence[int]]], groups: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Leak audit of every config's splits against its train split.

    Args:
        configs: config -> split -> row numbers.
        groups: (N,) group ids of all rows.
        labels: (N,) class names of all rows.

    Raises:
        UserError: a config other than ``published`` and ``given`` leaks.
    """
    result: dict[str, dict[str, Any]] = {}
    for config, splits in configs.items():
        train = [groups[i] for i in splits["train"]]
        result[config] = {
            split: leak_audit(train, [groups[i] for i in members], [labels[i] for i in members])
            for split, members in splits.items()
            if split != "train"
        }
        for split, found in result[config].items():
            if config not in AS_THEY_ARE and found["leaking"]:
                raise UserError(
                    f"config {config!r}: {found['leaking']} of {found['n']} images of {split} have their lesion in "
                    "train too; all images of a group must be in one split"
                )
    return result


def leaks_between_splits(
    configs: Mapping[str, Mapping[str, Sequence[int]]],
    groupings: Mapping[str, Sequence[str]],
    labels: Sequence[str],
) -> list[dict[str, Any]]:
    """Leaks between every two splits of every config, by each kind of group.

    Args:
        configs: config -> split -> row numbers.
        groupings: kind (lesion, patient, ...) -> group id of each of the N rows.
        labels: (N,) class names.

    Returns:
        For each config, pair of splits and kind: as :func:`leak_audit` of the later split against the earlier.
    """
    found = []
    for config, splits in configs.items():
        names = list(splits)
        for place, split in enumerate(names):
            for other in names[:place]:
                for kind, groups in groupings.items():
                    before = [groups[i] for i in splits[other]]
                    after = [groups[i] for i in splits[split]]
                    audit = leak_audit(before, after, [labels[i] for i in splits[split]])
                    found.append({"config": config, "split": split, "against": other, "by": kind, **audit})
    return found


def lesions_of_several_labels(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Lesion id -> its labels, where its images have more than one."""
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row.lesion_id, set()).add(row.label)
    return {lesion: sorted(of) for lesion, of in sorted(labels.items()) if len(of) > 1}


def license_report(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Images by source, licence and attribution, the most frequent first."""
    count = Counter((row.source, row.license, row.attribution) for row in rows)
    return [
        {"source": source, "license": license, "attribution": attribution, "images": n}
        for (source, license, attribution), n in sorted(count.items(), key=lambda item: (-item[1], item[0]))
    ]


def duplicate_report(rows: Sequence[Row], found: Duplicates, groups: Sequence[str]) -> dict[str, Any]:
    """Counts of duplicate pairs, and by image id those across lesion ids and those with different labels."""
    pairs = sorted(found.exact + found.near)
    across = [(i, j) for i, j in pairs if rows[i].lesion_id != rows[j].lesion_id]
    contradicting = [(i, j) for i, j in pairs if rows[i].label != rows[j].label]

    def names(of: list[tuple[int, int]]) -> list[list[str]]:
        return sorted(sorted((rows[i].image_id, rows[j].image_id)) for i, j in of)

    return {
        "exact_pairs": len(found.exact),
        "near_pairs": len(found.near),
        "exact": names(found.exact),
        "across_lesions": names(across),
        "contradicting_labels": names(contradicting),
        "lesions": len({row.lesion_id for row in rows}),
        "groups": len(set(groups)),
        "method": DUPLICATE_METHOD,
    }


def missing_report(rows: Sequence[Row]) -> dict[str, int]:
    """Images without an age, sex, site or mask, and those with the age 0, which in HAM10000 rarely means a newborn.

    Also those without a skin tone, where the source records it.
    """
    toned = [row.skin_tone is not None for row in rows]
    return {
        "age": sum(row.age is None for row in rows),
        "age_zero": sum(row.age == 0 for row in rows),
        "sex": sum(row.sex == UNKNOWN for row in rows),
        "localization": sum(row.localization == UNKNOWN for row in rows),
        "mask": sum(row.read_mask is None for row in rows),
        **({"skin_tone": toned.count(False)} if any(toned) else {}),
    }


def synthetic_report(rows: Sequence[Row], configs: Mapping[str, Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """Counts of synthetic images: all, by class, and by config those in train, in other splits, and in no split.

    Returns:
        ``{"synthetic": {"images", "per_class", "configs": {config: {"train", "elsewhere", "left_out"}}}}``; empty when
        no row says whether it is synthetic.
    """
    if all(row.provenance is None for row in rows):
        return {}
    synthetic = {number for number, row in enumerate(rows) if row.provenance == SYNTHETIC}
    by_config = {}
    for config, splits in configs.items():
        train = len(synthetic.intersection(splits["train"]))
        elsewhere = sum(len(synthetic.intersection(of)) for split, of in splits.items() if split != "train")
        by_config[config] = {
            "train": train,
            "elsewhere": elsewhere,
            "left_out": len(synthetic) - train - elsewhere,
        }
    count = Counter(rows[i].label for i in sorted(synthetic))
    return {"synthetic": {"images": len(synthetic), "per_class": dict(sorted(count.items())), "configs": by_config}}


def leak_table(leak: Mapping[str, Mapping[str, Any]], labels: Sequence[str]) -> list[list[str]]:
    """Rows of text, the header first: images, leaking images and shares by class of `grouped`, `given`, `published`.

    The folds are left out: :func:`leak_by_config` refuses any that leaks, so each of their rows would be zeros. Of more
    than :data:`MOST_COLUMNS` classes the shares of each are left out.
    """
    labels = labels if len(labels) <= MOST_COLUMNS else []
    table = [["config", "split", "images", "leaking", "share", *labels]]
    for config in ("grouped", *AS_THEY_ARE):
        for split, found in leak.get(config, {}).items():
            shares = [found["per_class"].get(label, {}).get("share") for label in labels]
            table.append(
                [config, split, str(found["n"]), str(found["leaking"]), percent(found["share"]), *map(percent, shares)]
            )
    return table


def percent(share: float | None) -> str:
    """``0.394`` -> ``39.4 %``; a share of nothing is ``-``."""
    return "-" if share is None else f"{100 * share:.1f} %"
