"""A model's classes, and what the rows of a table say: its labels, and the groups of its patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.sources.tables import MetadataError, age, known, with_nearest
from datasets_scripts.taxonomy import CLASSES, classes_named
from trainers.metrics.predictions import MALIGNANCY, TEXT_COLUMNS
from trainers.scoring.files import Row, Table

LABEL = "label"


@dataclass(frozen=True)
class Classes:
    """A model's classes as a report needs them.

    Attributes:
        labels: the C names, in the order of the logits.
        long_names: name -> long name.
        groups: name -> ``benign`` | ``premalignant`` | ``malignant``; empty where they are not known.
        on_malignancy: the model's answers are evaluated as benign against malignant, because the labels say no more.
    """

    labels: list[str]
    long_names: dict[str, str]
    groups: dict[str, str]
    on_malignancy: bool = False

    @classmethod
    def of(cls, labels: list[str], config: Any) -> Classes:
        """The classes of a model; of one that is not ours, what this suite knows of classes of these names."""
        groups = dict(getattr(config, "label_groups", None) or {})
        if not hasattr(config, "label_groups"):
            by_name = {spelt.lower(): one.group for one in CLASSES.values() for spelt in (one.name, one.long_name)}
            found = {label: by_name.get(label.lower()) for label in labels}
            groups = {label: group for label, group in found.items() if group} if all(found.values()) else {}
        long_names = dict(getattr(config, "label_names", None) or {})
        return cls(labels, {label: str(long_names.get(label, label)) for label in labels}, groups)

    def index(self, text: str) -> int | None:
        """The index of the class that a label names; None where there is none.

        A label is a class's short or long name in any case, else a name of the taxonomy that means one of the classes.
        Where the classes are benign and malignant alone, it is any diagnosis of the taxonomy, by its malignancy group;
        premalignant counts as malignant.
        """
        if self.on_malignancy:
            return _plain_malignancy(text)
        exact = {label: place for place, label in enumerate(self.labels)}
        lowered = {name.lower(): exact[label] for label in self.labels for name in (self.long_names[label], label)}
        found = exact.get(text, lowered.get(text.lower()))
        if found is not None:
            return found
        meant = {place for name in classes_named(text) for label, place in exact.items() if name == label.lower()}
        if len(meant) == 1:
            return meant.pop()
        group = _malignancy(text)
        if set(lowered) >= set(MALIGNANCY) and len(self.labels) == len(MALIGNANCY) and group is not None:
            return lowered[MALIGNANCY[group]]
        return None

    def for_labels(self, texts: Iterable[str]) -> Classes:
        """The classes to evaluate on: the model's own, or benign and malignant where the labels name no other."""
        texts = set(texts)
        known = len(self.groups) == len(self.labels)
        only_malignancy = texts and all(_plain_malignancy(text) is not None for text in texts)
        if known and only_malignancy and any(self.index(text) is None for text in texts):
            return replace(self, on_malignancy=True)
        return self

    def translated(self, texts: Iterable[str]) -> dict[str, str]:
        """Label -> the model's class, for the labels that are no name of a class themselves."""
        if self.on_malignancy:
            return {}
        own = {name.lower() for label in self.labels for name in (label, self.long_names[label])}
        found = {text: self.index(text) for text in sorted(set(texts)) if text.lower() not in own}
        return {text: self.labels[index] for text, index in found.items() if index is not None}


def _plain_malignancy(text: str) -> int | None:
    """The place in ``MALIGNANCY`` of a label that says no more than benign or malignant."""
    names = {name: index for index, name in enumerate(MALIGNANCY)}
    by_name = {spelt.lower(): names[name] for name in MALIGNANCY for spelt in (name, CLASSES[name].long_name)}
    return by_name.get(text.lower())


def _malignancy(text: str) -> int | None:
    """The place in ``MALIGNANCY`` of any diagnosis of the taxonomy; None where its group is not known or not one."""
    plain = _plain_malignancy(text)
    if plain is not None:
        return plain
    groups = {CLASSES[name].group != "benign" for name in classes_named(text)}
    return int(groups.pop()) if len(groups) == 1 else None


def check_labels(table: Table, classes: Classes) -> None:
    """Check every row of ``--labels`` before the first image is scored.

    Raises:
        UserError: a class that the model does not know, or an age that is none.
    """
    texts = Counter(row[LABEL] for row in table.rows.values())
    unknown = Counter({text: n for text, n in texts.items() if classes.index(text) is None})
    if unknown:
        names = [*classes.labels, *(classes.long_names[label] for label in classes.labels)]
        raise UserError(
            f"{table.where} has {len(unknown)} label{'s' if len(unknown) > 1 else ''} that the model does not know: "
            f"{with_nearest(unknown, names)}; it knows {', '.join(classes.labels)}: name them so, or leave the rows out"
        )
    for image, row in table.rows.items():
        try:
            age(row.get("age", ""), image)
        except MetadataError as error:
            raise UserError(f"{table.where}: {error}") from error


def subgroup_columns(rows: list[Row]) -> dict[str, np.ndarray]:
    """The subgroup columns that any row has, with gaps as unknown."""
    there = set().union(*rows) if rows else set()
    columns = {
        name: np.array([known(row.get(name, "")) for row in rows], dtype=object)
        for name in TEXT_COLUMNS
        if name in there
    }
    if "age" in there:
        years = [age(row.get("age", ""), "") for row in rows]
        columns["age"] = np.array([np.nan if value is None else value for value in years], dtype=np.float64)
    return columns
