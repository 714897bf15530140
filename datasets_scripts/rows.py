"""What a reader hands on: one row an image, whose pixels are only read when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

UNKNOWN = "unknown"


@dataclass
class Row:
    """One image with what its source knows of it.

    Attributes:
        image_id: unique within a dataset.
        label: short name of the taxonomy.
        read: gives the image file's bytes as the source holds them.
        lesion_id: images of one lesion share it; never split between train and test in a grouped config.
        age: years, ``None`` = unknown.
        sex: ``female``, ``male`` or ``unknown``.
        localization: body site, ``unknown`` when missing.
        dx_type: how the diagnosis was made; it leaks the label and is never a feature.
        source: archive's name, e.g. ``HAM10000``.
        license: the image's licence, ``unknown`` when none was given.
        attribution: whom to name.
        read_mask: gives the segmentation mask's bytes; ``None`` when the image has none.
    """

    image_id: str
    label: str
    read: Callable[[], bytes]
    lesion_id: str
    age: float | None = None
    sex: str = UNKNOWN
    localization: str = UNKNOWN
    dx_type: str = UNKNOWN
    source: str = UNKNOWN
    license: str = UNKNOWN
    attribution: str = UNKNOWN
    read_mask: Callable[[], bytes] | None = None


@dataclass
class Archive:
    """Rows of one archive, and what its reader had to warn of (one sentence each)."""

    rows: list[Row]
    warnings: list[str] = field(default_factory=list)
