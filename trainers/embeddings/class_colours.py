"""How classes look in maps and charts: a colour and a shape each, so that neither is the only sign.

Okabe and Ito's colours are distinguished with any colour vision. The commonest class is grey: thousands of its points
would drown the others in colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainers.metrics.predictions import MALIGNANT_GROUPS

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1F2933")
COMMON = "#9AA5B1"
# Matplotlib's names; the page draws the same.
SHAPES = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class ClassLook:
    """One class of a map.

    Attributes:
        name: its short name.
        long_name: for people.
        group: ``benign``, ``premalignant``, ``malignant`` or empty.
        colour: ``#RRGGBB``.
        shape: a marker of matplotlib.
    """

    name: str
    long_name: str
    group: str
    colour: str
    shape: str

    @property
    def starred(self) -> str:
        """The short name, with a star where the class is malignant or premalignant."""
        return f"{self.name} *" if self.group in MALIGNANT_GROUPS else self.name


def class_looks(
    labels: Sequence[str], counts: np.ndarray, long_names: dict[str, str], groups: dict[str, str]
) -> list[ClassLook]:
    """The look of each of C classes.

    Args:
        labels: C short names.
        counts: (C,) images; the class with most becomes grey dots.
        long_names: short -> long name; absent = the short one.
        groups: short name -> group.
    """
    common, other, looks = int(np.argmax(counts)), 0, []
    for index, name in enumerate(labels):
        if index == common:
            colour, shape = COMMON, SHAPES[0]
        else:
            # A second round of the colours comes with other shapes.
            colour = COLOURS[other % len(COLOURS)]
            shape = SHAPES[1 + (other + other // len(COLOURS)) % (len(SHAPES) - 1)]
            other += 1
        looks.append(ClassLook(name, long_names.get(name, name), groups.get(name, ""), colour, shape))
    return looks
