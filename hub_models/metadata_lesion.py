"""What is known of a patient beside the image, as numbers: age, sex, and the lesion's site.

A record is ``{"image": ..., "age": 45, "sex": "female", "localization": "back"}``. Whatever is unknown (None, NaN, "",
"unknown", or left out) is a state of its own with an input of its own: a patient is never dropped for it. Nothing here
is fitted: ages are centred and scaled by constants, so the same record is the same numbers everywhere.

``fields`` below is a dictionary, field name -> its vocabulary, saved with the image processor and the model::

    {"age": {"lowest": 0, "highest": 120, "centre": 50, "scale": 25}, "sex": {"values": ["female", "male", "unknown"]}}

A number is encoded as (value - centre) / scale and 0, or 0 and 1 when it is unknown; a value out of a list
as one 1 among zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .checks_lesion import IMAGE, RecordError, brief, is_number

UNKNOWN = "unknown"
# None, NaN and the missing values of common table readers as text.
UNKNOWN_WORDS = {"", UNKNOWN, "none", "nan", "null", "na", "n/a", "<na>"}

# The vocabulary of HAM10000: ages in years, its three states of sex, its 15 sites.
STANDARD_FIELDS: dict[str, dict[str, Any]] = {
    "age": {"lowest": 0, "highest": 120, "centre": 50, "scale": 25},
    "sex": {"values": ["female", "male", UNKNOWN]},
    "localization": {
        "values": [
            "abdomen",
            "acral",
            "back",
            "chest",
            "ear",
            "face",
            "foot",
            "genital",
            "hand",
            "lower extremity",
            "neck",
            "scalp",
            "trunk",
            "upper extremity",
            UNKNOWN,
        ]
    },
}
# Limits of a config from elsewhere.
MOST_FIELDS, MOST_VALUES = 100, 1000
NUMBER_KEYS = ("lowest", "highest", "centre", "scale")
LEAKS = {
    "dx_type": "it says how the diagnosis was made, and so leaks it (in HAM10000 every melanoma has a histology)",
}


class MetadataFieldsError(ValueError):
    """Metadata fields that cannot be encoded. The message names the value and what to do."""


def resolve_fields(fields: Mapping[str, Any] | Sequence[str]) -> dict[str, dict[str, Any]]:
    """Write fields out in full and check them.

    Args:
        fields: names of standard fields (``["age"]``), or name -> vocabulary; the vocabulary None = the standard one. A
            list of values without ``unknown`` gets it as its last.

    Returns:
        Name -> vocabulary by name, which is the order of the encoding (the files that it is saved in are sorted).

    Raises:
        MetadataFieldsError: no field, an unknown name, one that leaks the label, or a vocabulary that is none.
    """
    if isinstance(fields, str) or not isinstance(fields, (Mapping, Sequence)) or not fields:
        raise MetadataFieldsError(
            f"metadata_fields is {brief(fields)}; give a list out of {', '.join(STANDARD_FIELDS)}."
        )
    if len(fields) > MOST_FIELDS:
        raise MetadataFieldsError(f"metadata_fields has {len(fields)} entries; give at most {MOST_FIELDS}.")
    given = dict(fields) if isinstance(fields, Mapping) else {str(name): None for name in fields}
    return {name: _resolve_field(name, given[name]) for name in sorted(given)}


def _resolve_field(name: str, vocabulary: Any) -> dict[str, Any]:
    if name in LEAKS:
        raise MetadataFieldsError(f"metadata_fields has {name!r}: {LEAKS[name]}. Leave it out.")
    if name == IMAGE:
        raise MetadataFieldsError(f"metadata_fields has {name!r}: that is the image's own name; choose another.")
    if vocabulary is None:
        if name not in STANDARD_FIELDS:
            raise MetadataFieldsError(
                f"metadata_fields has {name!r}; choose from {', '.join(STANDARD_FIELDS)}, or say what it may hold."
            )
        vocabulary = STANDARD_FIELDS[name]
    if isinstance(vocabulary, Mapping) and set(vocabulary) == {"values"}:
        values = vocabulary["values"]
        if not isinstance(values, (list, tuple)) or len(values) > MOST_VALUES:
            raise MetadataFieldsError(
                f"metadata_fields[{name!r}] has the values {brief(values)}; give a list of at most {MOST_VALUES}."
            )
        values = [str(value).strip().lower() for value in values]
        values += [] if UNKNOWN in values else [UNKNOWN]
        if len(set(values)) == len(values) > 1:
            return {"values": values}
    elif isinstance(vocabulary, Mapping) and set(vocabulary) == set(NUMBER_KEYS):
        numbers = [vocabulary[key] for key in NUMBER_KEYS]
        if all(is_number(n) and abs(n) <= 1e9 for n in numbers):
            lowest, highest, _, scale = numbers
            if lowest < highest and scale > 0:
                return dict(zip(NUMBER_KEYS, numbers, strict=True))
    raise MetadataFieldsError(
        f"metadata_fields[{name!r}] is {brief(vocabulary)}; give {{'values': [different texts]}}, or lowest < "
        "highest, centre and scale > 0."
    )


def metadata_width(fields: Mapping[str, Mapping[str, Any]]) -> int:
    """M, the length of an encoded record: two for a number, one a value for a list."""
    return sum(len(vocabulary["values"]) if "values" in vocabulary else 2 for vocabulary in fields.values())


def encode_record(record: Mapping[str, Any], fields: Mapping[str, Mapping[str, Any]]) -> list[float]:
    """Check a record and encode its fields.

    Args:
        record: any of ``image``, the standard fields and ``fields``; what is left out is unknown.
        fields: as :func:`resolve_fields` returns them. Standard fields that are not among them are checked all the
            same: one input form for every model.

    Returns:
        M numbers.

    Raises:
        RecordError: an unknown key, one that leaks the label, or a value outside its vocabulary.
    """
    if not isinstance(record, Mapping):
        raise RecordError(f"{record!r} is no record; give a dictionary such as {{'image': ..., 'age': 45}}.")
    known = {**STANDARD_FIELDS, **fields}
    for key in record:
        if key in LEAKS:
            raise RecordError(f"{key!r} must not be given: {LEAKS[key]}. Leave it out.")
        if key != IMAGE and key not in known:
            raise RecordError(f"{key!r} is no key of a record; give {', '.join([IMAGE, *known])}.")
    encoded = {name: encode_value(name, record.get(name), vocabulary) for name, vocabulary in known.items()}
    return [number for name in fields for number in encoded[name]]


def encode_value(name: str, value: Any, vocabulary: Mapping[str, Any]) -> list[float]:
    """One field's value -> its numbers.

    Raises:
        RecordError: the value is outside the vocabulary.
    """
    text = str(value).strip().lower()
    if "values" in vocabulary:
        values = vocabulary["values"]
        state = UNKNOWN if text in UNKNOWN_WORDS else text
        if state not in values:
            raise RecordError(f"{name} is {value!r}; give one of {', '.join(values)}.")
        return [1.0 if state == other else 0.0 for other in values]
    if text in UNKNOWN_WORDS:
        return [0.0, 1.0]
    lowest, highest, centre, scale = (vocabulary[key] for key in NUMBER_KEYS)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not lowest <= number <= highest:
        raise RecordError(f"{name} is {value!r}; give a number from {lowest} to {highest}, or {UNKNOWN!r}.")
    return [(number - centre) / scale, 0.0]
