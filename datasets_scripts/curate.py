"""From rows to a finished dataset folder: checked images, groups, splits, audit, Parquet shards, card, manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts import id_list, shards
from datasets_scripts.audit import duplicate_report, leak_by_config, missing_report, synthetic_report
from datasets_scripts.command import UserError, warn
from datasets_scripts.dataset_card import Description, Stored, render
from datasets_scripts.duplicates import Duplicates, find_duplicates, group_ids
from datasets_scripts.images import Scan, file_warnings, scan_all
from datasets_scripts.output import check_free, written_whole
from datasets_scripts.rows import SYNTHETIC, Row
from datasets_scripts.splits import (
    GIVEN,
    PUBLISHED_SPLITS,
    RELEASE,
    SPLITS,
    base_folds,
    dealt_splits,
    grouped_configs,
)
from datasets_scripts.taxonomy import long_names

Configs = dict[str, dict[str, list[int]]]
check_out = check_free  # what a build command calls before any work


def curate(
    rows: list[Row],
    out: Path,
    about: Description,
    *,
    published: list[str | None] | None,
    seed: int,
    warnings: Sequence[str] = (),
    split_by_source: bool = False,
    folds_of: Mapping[str, int] | None = None,
    texts: Mapping[str, str] | None = None,
    given: Sequence[str | None] | None = None,
    ids: str | None = None,
    ids_only: str | None = None,
) -> dict[str, Any]:
    """Write the dataset folder ``out`` and return its audit.

    Args:
        rows: one per image, in the order to be stored.
        out: a folder that does not exist or is empty.
        about: what the card says about the dataset.
        published: the split of each row in config `published`, or ``None``; ``None`` alone: no such config.
        seed: of the grouped splits.
        warnings, texts: of the reader, for the audit and the card; further files of the folder by name.
        split_by_source: draw the grouped splits of each source on its own; a group of several follows its first image.
        folds_of: base fold of each image id, in place of drawing them.
        given: the split of each row in config `given`, in place of `grouped`; splits that it lacks are made of train.
        ids: a list of ids (:mod:`datasets_scripts.id_list`): its rows, in its splits, each image compared with it.
        ids_only: write ids, splits and hashes in place of the images, and this command, which rebuilds them.

    Raises:
        UserError: ``out`` or ``ids`` cannot be used; images are too few, unusable, leaking or not as listed.
    """
    listed = id_list.read(ids, folds_of)
    if listed is not None:
        rows, seed, folds_of = listed.rows(rows), listed.seed, listed.folds()
        published, given = listed.splits(rows, "published"), listed.splits(rows, GIVEN)
    check_rows(rows, about.labels, own_classes=about.own_classes)
    with written_whole(out) as folder:  # locks out, so that two builds never do the same work
        scans = scan_all(rows) if listed is None else listed.checked(rows, scan_all(rows))
        found = find_duplicates([scan.pixels_sha256 for scan in scans], np.stack([scan.thumb for scan in scans]))
        groups = _groups(rows, found)
        warn(said := [*file_warnings(scans), *(_contradictions(rows, found, groups) if about.own_classes else [])])
        folds = _folds_of(rows, groups, seed, split_by_source, folds_of)
        own = given if given is None or listed else _completed(rows, groups, given, seed)
        configs = _configs(rows, folds, published, own)
        files = shards.cells(rows, folds, published if own is None else own)
        audit = {
            "name": about.name,
            "version": shards.content_version(rows, scans, groups, files),
            "seed": seed,
            **_findings(rows, scans, found, groups, configs, about.labels),
            "warnings": [*warnings, *said, *_lacking(configs, rows, about.labels)],
            **({"ids_only": ids_only} if ids_only else {}),
        }
        sizes = shards.write_shards(folder, rows, scans, groups, about.labels, files, ids_only=bool(ids_only))
        stored = Stored(_listed(configs, files), *sizes, converted=sum(not scan.verbatim for scan in scans))
        _write_texts(folder, {"README.md": render(audit, about, rows, configs, stored), **(texts or {})}, audit)
    id_list.warn_of_version(listed, audit["version"])
    return audit


def check_rows(rows: Sequence[Row], labels: Sequence[str], own_classes: bool = False) -> None:
    """Refuse rows that no dataset can be made of.

    Args:
        rows: of the dataset.
        labels: its classes.
        own_classes: they need not be of the taxonomy.

    Raises:
        UserError: no rows, two rows with one image id, or a label outside ``labels``.
    """
    if not rows:
        raise UserError("0 images; give an archive that has some")
    if not own_classes:
        long_names(labels)
    twice = [image_id for image_id, count in Counter(row.image_id for row in rows).items() if count > 1]
    if twice:
        raise UserError(f"{len(twice)} image ids occur more than once, the first is {twice[0]!r}; ids must be unique")
    unknown = sorted({row.label for row in rows} - set(labels))
    if unknown:
        raise UserError(f"label {unknown[0]!r} is not among {', '.join(labels)}; choose the task that has it")


def _groups(rows: Sequence[Row], found: Duplicates) -> list[str]:
    """Group ids (N,): the images of one lesion, patient or group, and duplicates, are in one group."""
    pairs = found.exact + found.near + _same(rows, "patient_id")
    if all(row.group is None for row in rows):
        return group_ids([row.lesion_id for row in rows], pairs)
    taken = {row.group for row in rows}
    alone = [f"image {row.image_id}" if row.image_id in taken else row.image_id for row in rows]
    named = [row.group or own for row, own in zip(rows, alone, strict=True)]
    return group_ids(named, pairs + _same(rows, "lesion_id"))


def _same(rows: Sequence[Row], name: str) -> list[tuple[int, int]]:
    """Pairs of row numbers that join the images of each patient or lesion."""
    first: dict[str, int] = {}
    ids = [getattr(row, name) for row in rows]
    return [(first.setdefault(own, number), number) for number, own in enumerate(ids) if own is not None]


def _completed(rows: Sequence[Row], groups: Sequence[str], given: Sequence[str | None], seed: int) -> list[str | None]:
    """The given splits (N,), with those that are lacking made of the train split."""
    train = [i for i, split in enumerate(given) if split == "train"]
    lacking = [split for split in SPLITS if split not in given]
    made = dealt_splits(
        [rows[i].image_id for i in train], [rows[i].label for i in train], [groups[i] for i in train], lacking, seed
    )
    result = list(given)
    for i, split in zip(train, made, strict=True):
        result[i] = split
    return result


def _contradictions(rows: Sequence[Row], found: Duplicates, groups: Sequence[str]) -> list[str]:
    """Sentences that name an image which is there under two labels, and count the groups of several labels."""
    sentences = []
    twice = [(i, j) for i, j in found.exact if rows[i].label != rows[j].label]
    if twice:
        i, j = twice[0]
        sentences.append(
            f"{len(twice)} pairs of identical images have two labels, the first is {rows[i].image_id!r} "
            f"({rows[i].label}) and {rows[j].image_id!r} ({rows[j].label}): one of the two is wrong."
        )
    labels: dict[str, set[str]] = {}
    for row, group in zip(rows, groups, strict=True):
        labels.setdefault(group, set()).add(row.label)
    several = sum(len(found) > 1 for found in labels.values())
    if several:
        sentences.append(f"{several} of {len(labels)} groups have images of two or more classes.")
    return sentences


def _folds(rows: Sequence[Row], groups: Sequence[str], seed: int) -> np.ndarray:
    """Base folds (N,), assigned in the order of image ids, so that every copy of an archive gets the same split.

    Real and synthetic images of a class are stratified as two classes: test splits hold real ones only.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i].image_id)
    folds = np.empty(len(rows), dtype=np.int64)
    kinds = [row.label if row.provenance != SYNTHETIC else f"{row.label}, synthetic" for row in rows]
    folds[order] = base_folds([kinds[i] for i in order], [groups[i] for i in order], seed)
    return folds


def _folds_by_source(rows: Sequence[Row], groups: Sequence[str], seed: int) -> np.ndarray:
    """As :func:`_folds`, each source on its own."""
    folds = np.empty(len(rows), dtype=np.int64)
    for source in dict.fromkeys(row.source for row in rows):
        own = [i for i, row in enumerate(rows) if row.source == source]
        folds[own] = _folds([rows[i] for i in own], [groups[i] for i in own], seed)
    first: dict[str, int] = {}
    for i, group in enumerate(groups):
        folds[i] = first.setdefault(group, int(folds[i]))
    return folds


def _folds_of(
    rows: Sequence[Row], groups: Sequence[str], seed: int, by_source: bool, folds_of: Mapping[str, int] | None
) -> np.ndarray:
    """The base folds (N,) that are given, else drawn."""
    if folds_of is not None:
        return _given_folds(rows, folds_of)
    return _folds_by_source(rows, groups, seed) if by_source else _folds(rows, groups, seed)


def _given_folds(rows: Sequence[Row], folds_of: Mapping[str, int]) -> np.ndarray:
    """The folds (N,) that are given.

    Raises:
        UserError: an image has none.
    """
    missing = [row.image_id for row in rows if row.image_id not in folds_of]
    if missing:
        raise UserError(
            f"{len(missing)} images are in no split of the dataset whose splits are to be used, the first is "
            f"{missing[0]!r}; give a dataset of the same archives"
        )
    return np.array([folds_of[row.image_id] for row in rows], dtype=np.int64)


def _configs(
    rows: Sequence[Row],
    folds: np.ndarray,
    published: Sequence[str | None] | None,
    given: Sequence[str | None] | None = None,
) -> Configs:
    """Config -> split -> row numbers, `grouped` (or `given`) first, then `published`, `release` and the folds.

    In a grouped config synthetic images are in train or in no split: in a test split they would make a model look
    better, and those made from a test image are in its fold, thus outside train.

    Raises:
        UserError: a split would have no image.
    """
    real = np.array([row.provenance != SYNTHETIC for row in rows])
    configs = {
        config: {
            split: np.nonzero(np.isin(folds, base) & (real | (split == "train")))[0].tolist()
            for split, base in splits.items()
        }
        for config, splits in grouped_configs().items()
    }
    if published is not None:
        own = {split: [i for i, value in enumerate(published) if value == split] for split in PUBLISHED_SPLITS}
        configs = {"grouped": configs.pop("grouped"), "published": own, **configs}
    if not all(configs[RELEASE].values()):
        del configs[RELEASE]  # of very few lesions a twentieth can be no image
    if given is not None:
        del configs["grouped"]
        configs.pop(RELEASE, None)
        configs = {GIVEN: {split: [i for i, own in enumerate(given) if own == split] for split in SPLITS}, **configs}
    for config, splits in configs.items():
        for split, members in splits.items():
            if not members:
                raise UserError(
                    f"config {config}: split {split} of {len(folds)} images would be empty; give an archive with more "
                    "lesions"
                )
    return configs


def _listed(configs: Configs, files: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """Config -> split -> its Parquet files."""
    return {
        config: {split: sorted({files[i] for i in members}) for split, members in splits.items()}
        for config, splits in configs.items()
    }


def _findings(
    rows: Sequence[Row],
    scans: Sequence[Scan],
    found: Duplicates,
    groups: Sequence[str],
    configs: Configs,
    labels: Sequence[str],
) -> dict[str, Any]:
    """The audit of the rows.

    Raises:
        UserError: a grouped config leaks.
    """
    return {
        **_class_counts(rows, labels),
        "duplicates": duplicate_report(rows, found, groups),
        "missing": missing_report(rows),
        "image_sizes": _sizes(scans),
        "leak": leak_by_config(configs, groups, [row.label for row in rows]),
        **synthetic_report(rows, configs),
    }


def _class_counts(rows: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    count = Counter(row.label for row in rows)
    return {"rows": len(rows), "labels": list(labels), "per_class": {label: count[label] for label in labels}}


def _lacking(configs: Configs, rows: Sequence[Row], labels: Sequence[str]) -> list[str]:
    """One sentence for each split in which a class does not occur."""
    sentences = []
    for config, splits in configs.items():
        for split, members in splits.items():
            present = {rows[i].label for i in members}
            absent = [label for label in labels if label not in present]
            if absent:
                more = f" and {len(absent) - 10} other classes" if len(absent) > 10 else ""
                sentences.append(f"Config {config}, split {split} has no image of {', '.join(absent[:10])}{more}.")
    return sentences


def _sizes(scans: Sequence[Scan]) -> dict[str, int]:
    """``"WxH"`` in pixels -> count, the most frequent first."""
    count = Counter(scan.size for scan in scans)
    return {f"{w}x{h}": n for (w, h), n in sorted(count.items(), key=lambda item: (-item[1], item[0]))}


def _write_texts(folder: Path, texts: Mapping[str, str], audit: Mapping[str, Any]) -> None:
    """Write the text files of a folder, its audit, then its manifest."""
    for name, text in {**texts, "audit.json": _json(audit)}.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / shards.MANIFEST).write_text(_json(shards.manifest(folder)), encoding="utf-8")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
