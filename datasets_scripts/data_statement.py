"""The data statement of a dataset card: who is shown, how the labels were made, what was changed, what it is not for.

Its questions are those of Gebru et al., Datasheets for Datasets, Communications of the ACM 64(12), 2021.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from datasets_scripts.rows import SYNTHETIC, UNKNOWN, Row

MOST = 8


def data_statement(rows: Sequence[Row], own_classes: bool, converted: int | None) -> str:
    """The statement as a Markdown list; every number is counted from the rows.

    Args:
        rows: of the dataset.
        own_classes: the images are a user's, of which nothing is known beside their columns.
        converted: images stored as PNG of the same pixels instead of the archive's own bytes; None: no image is stored.
    """
    topics = {
        "Purpose": "training and testing image classifiers in research. Not for diagnosis. Not a sample of a "
        "population: the shares of its classes are no prevalences.",
        "Origin": _origin(rows),
        "Who is shown": _people(rows),
        "Skin tone": _skin_tone(rows),
        "Labels": _labels(rows, own_classes),
        "Changes": _changes(rows, converted),
        "Personal data": _personal(rows, converted),
    }
    return "\n".join(f"- **{topic}**: {text}" for topic, text in topics.items())


def counted(values: Iterable[str | None]) -> str:
    """``nv 40, mel 14 and 3 other values (5)``: values by frequency."""
    count = Counter(UNKNOWN if value is None else value for value in values).most_common()
    rest = count[MOST:]
    more = f" and {len(rest)} other values ({sum(n for _, n in rest):,})" if rest else ""
    return ", ".join(f"{value} {n:,}" for value, n in count[:MOST]) + more


def _origin(rows: Sequence[Row]) -> str:
    kinds = f" Image types: {counted(row.image_type for row in rows)}." if any(row.image_type for row in rows) else ""
    return f"{counted(row.source for row in rows)}; licence and attribution of each image are columns.{kinds}"


def _people(rows: Sequence[Row]) -> str:
    patients = {row.patient_id for row in rows if row.patient_id is not None}
    people = f"{len(patients):,} patients" if patients else "the number of patients is not known"
    ages = [row.age for row in rows if row.age is not None]
    age = "no ages"
    if ages:
        low, middle, high = np.percentile(ages, [25, 50, 75])
        age = (
            f"median age {middle:.0f} years (quartiles {low:.0f} and {high:.0f}; unknown for {len(rows) - len(ages):,})"
        )
    sites = counted(row.localization for row in rows)
    return f"{people}; {age}; sex: {counted(row.sex for row in rows)}; body site: {sites}."


def _skin_tone(rows: Sequence[Row]) -> str:
    if all(row.skin_tone is None for row in rows):
        return "not recorded. Results on this dataset do not show how a model works on darker skin."
    return f"as the source recorded it, never estimated: {counted(row.skin_tone for row in rows)}."


def _labels(rows: Sequence[Row], own_classes: bool) -> str:
    known = [row for row in rows if row.dx_type != UNKNOWN]
    if not known:
        whose = "the labels are those of the images as they were given" if own_classes else "not stated by the source"
        return f"{whose}; how each diagnosis was made is not known."
    return f"how each diagnosis was made (`dx_type`): {counted(row.dx_type for row in rows)}."


def _changes(rows: Sequence[Row], converted: int | None) -> str:
    synthetic = sum(row.provenance == SYNTHETIC for row in rows)
    drawn = f" {synthetic:,} images are synthetic." if synthetic else ""
    if converted is None:
        return f"no image is stored here.{drawn}"
    how = f"{len(rows) - converted:,} images are the source's own bytes"
    return f"{how}, {converted:,} were converted to upright 8-bit RGB PNG; nothing was resized or cropped here.{drawn}"


def _personal(rows: Sequence[Row], converted: int | None) -> str:
    patients = "`patient_id` is the source's own pseudonym. " if any(row.patient_id for row in rows) else ""
    files = "" if converted is None else "Image files may hold camera data (EXIF), as in the source. "
    return f"{patients}{files}Do not try to identify a person."
