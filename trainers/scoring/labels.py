"""A model's classes, and whether a table of labels speaks of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasets_scripts.sources.tables import MetadataError, age
from datasets_scripts.taxonomy import CLASSES
from trainers.errors import UserError
from trainers.scoring.files import Table

LABEL = "label"


class LabelError(UserError):
    """Labels that the model's answers cannot be compared with."""


@dataclass(frozen=True)
class Classes:
    """A model's classes as a report needs them.

    Attributes:
        labels: the C names, in the order of the logits.
        long_names: name -> long name.
        groups: name -> ``benign`` | ``premalignant`` | ``malignant``; empty where they are not known.
    """

    labels: list[str]
    long_names: dict[str, str]
    groups: dict[str, str]

    @classmethod
    def of(cls, labels: list[str], config: Any) -> Classes:
        """The classes of a model; of one that is not ours, what this suite knows of classes of these names."""
        groups = dict(getattr(config, "label_groups", None) or {})
        if not groups:
            by_name = {spelt.lower(): one.group for one in CLASSES.values() for spelt in (one.name, one.long_name)}
            found = {label: by_name.get(label.lower()) for label in labels}
            groups = {label: group for label, group in found.items() if group} if all(found.values()) else {}
        long_names = dict(getattr(config, "label_names", None) or {})
        return cls(labels, {label: str(long_names.get(label, label)) for label in labels}, groups)

    def index(self, text: str) -> int | None:
        """The index of a class by its short or long name, in any case; None where there is none."""
        exact = {label: place for place, label in enumerate(self.labels)}
        lowered = {name.lower(): exact[label] for label in self.labels for name in (self.long_names[label], label)}
        return exact.get(text, lowered.get(text.lower()))


def check_labels(table: Table, classes: Classes) -> None:
    """Check every row of ``--labels`` before the first image is scored.

    Raises:
        LabelError: a class that the model does not know, or an age that is none.
    """
    for image, row in table.rows.items():
        if classes.index(row[LABEL]) is None:
            raise LabelError(
                f"{table.where}, image {image!r}, has the label {row[LABEL]!r}: the model knows "
                f"{', '.join(classes.labels)}; name it so, or leave the row out"
            )
        try:
            age(row.get("age", ""), image)
        except MetadataError as error:
            raise LabelError(f"{table.where}: {error}") from error
