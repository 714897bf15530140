"""What a reader is told, and what it returns: one row per image, whose pixels are read only when needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

UNKNOWN = "unknown"
REAL, SYNTHETIC = "real", "synthetic"
# Column of a dataset of a user's images: whose values join the images of one group, beside near-duplicates.
GROUPED_BY, NO_COLUMN = "grouped_by", "none"


@dataclass(frozen=True)
class Columns:
    """Which columns of somebody's table mean what; empty = the usual ones (``image``, ``label``, ``group_id``).

    Attributes:
        image: of the images or of their files.
        label: of the classes, text or numbers.
        group: images with one value of it are never split.
        split: names the split of each image.
        keep: further columns to keep.
    """

    image: str = ""
    label: str = ""
    group: str = ""
    split: str = ""
    keep: tuple[str, ...] = ()


@dataclass
class Row:
    """One image with the facts that its source states.

    Attributes:
        image_id: unique within a dataset.
        label: short name of the taxonomy.
        read: returns the bytes of the image file as the source holds them.
        lesion_id: images of one lesion share it; never split between train and test in a grouped config.
        age: years, ``None`` = unknown.
        sex: ``female``, ``male`` or ``unknown``.
        localization: body site, ``unknown`` when missing.
        dx_type: how the diagnosis was made; it reveals the label and is never a feature.
        source: archive's name, e.g. ``HAM10000``.
        license: the image's licence, ``unknown`` when none was given.
        attribution: whom to name.
        read_mask: returns the bytes of the segmentation mask; ``None`` when the image has none.
        diagnosis: the source's own finer diagnosis, for subgroup reports, never a feature; ``None``: it is the label.
        patient_id: images of one patient are never split in a grouped config; ``None`` when not known.
        provenance: ``real`` or ``synthetic``; ``None``: the source holds photographs only. Synthetic images are in
            no validation, calibration or test split of a grouped config.
        skin_tone: the source's own record, with its scale: ``Fitzpatrick 3``; ``None`` = unknown. Never estimated.
        image_type: ``dermoscopic`` or ``clinical``, as the source calls it, where it has both.
        malignancy: ``benign``, ``premalignant`` or ``malignant``, of a class that the taxonomy does not have.
        group: images of one group, whatever it is (a visit, a ward), are never split in a grouped config.
        extra: further columns, as the source has them: text, numbers, booleans, ``None`` = unknown.

    The six before ``group`` become columns of a dataset only where one of its rows has them.
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
    diagnosis: str | None = None
    patient_id: str | None = None
    provenance: str | None = None
    skin_tone: str | None = None
    image_type: str | None = None
    malignancy: str | None = None
    group: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Archive:
    """Rows of one archive, the warnings of its reader (one sentence each), and the archive's own splits.

    ``splits`` holds for each row ``train``, ``validation``, ``test`` or ``None``; ``None`` alone: the archive has none.
    ``missing`` names the images that the archive's table lists and that are not there.
    """

    rows: list[Row]
    warnings: list[str] = field(default_factory=list)
    splits: list[str | None] | None = None
    missing: list[str] = field(default_factory=list)
