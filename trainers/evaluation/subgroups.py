"""Which patients an image came from: age bands, sex, the source and its own diagnosis, real or synthetic."""

from __future__ import annotations

import numpy as np

from datasets_scripts.sources import tables
from trainers.metrics.predictions import Predictions

UNKNOWN = "unknown"
AGE_BANDS = (("0-29", 0.0, 30.0), ("30-44", 30.0, 45.0), ("45-59", 45.0, 60.0), ("60-74", 60.0, 75.0))
AGE_OPEN = ("75+", 75.0)
AGE_VALUES = (*(name for name, _, _ in AGE_BANDS), AGE_OPEN[0], UNKNOWN)
SEX_VALUES = ("female", "male", UNKNOWN)


def age_bands(age: np.ndarray) -> np.ndarray:
    """Age in years -> one of ``AGE_VALUES``: (N,) float -> (N,) str.

    NaN, a negative or an infinite age is unknown. Age 0 stands in the first band: HAM10000 has 39 such rows, infants or
    gaps, without naming which.
    """
    age = np.asarray(age, dtype=np.float64)
    bands = np.full(age.shape, UNKNOWN, dtype=object)
    for name, low, high in AGE_BANDS:
        bands[(age >= low) & (age < high)] = name
    bands[(age >= AGE_OPEN[1]) & np.isfinite(age)] = AGE_OPEN[0]
    return bands


def sexes(sex: np.ndarray) -> np.ndarray:
    """Any case of female, f, male and m -> female and male; everything else -> unknown: (N,) -> (N,) str."""
    return np.array([tables.sex(str(value).strip()) for value in sex], dtype=object)


def subgroup_columns(
    columns: dict[str, np.ndarray], label: np.ndarray
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The subgroups of a report: name -> (its values in order, the value of each of the N images).

    The source's own diagnosis is one where a class has more than one (how a benign-or-malignant model does on
    melanoma is not how it does on basal cell carcinoma), and so are provenance where there are synthetic images, and
    the archive where there are several.

    Args:
        columns: of the predictions file; a column that is missing leaves everyone unknown.
        label: (N,) class indices.
    """
    n = len(label)
    age = columns["age"] if "age" in columns else np.full(n, np.nan)
    sex = columns["sex"] if "sex" in columns else np.full(n, UNKNOWN, dtype=object)
    groups: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        "age": (AGE_VALUES, age_bands(age)),
        "sex": (SEX_VALUES, sexes(sex)),
    }
    for name in ("diagnosis", "provenance"):
        found = {str(value) for value in columns.get(name, ())}
        if found - {UNKNOWN} and (name != "diagnosis" or _is_finer(columns[name], label)):
            groups[name] = ((*sorted(found - {UNKNOWN}), *sorted(found & {UNKNOWN})), columns[name])
    sources = {str(value) for value in columns.get("source", ())}
    if len(sources) > 1:
        groups["source"] = (tuple(sorted(sources)), columns["source"])
    return groups


def _is_finer(diagnosis: np.ndarray, label: np.ndarray) -> bool:
    """Whether some class holds more than one known diagnosis."""
    pairs = {(int(of), str(name)) for of, name in zip(label, diagnosis, strict=True) if str(name) != UNKNOWN}
    return len(pairs) > len({of for of, _ in pairs})


def abstention_columns(predictions: Predictions) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """As ``subgroup_columns``, with the site and the class: name -> (its values in order, that of each image).

    A value of no image is left out, and so is a column that is unknown of everyone.
    """
    sites = predictions.columns.get("localization", np.full(len(predictions), UNKNOWN, dtype=object)).astype(str)
    classes = np.array(predictions.labels, dtype=object)[predictions.label]
    columns = {
        **subgroup_columns(predictions.columns, predictions.label),
        "site": ((*sorted(set(sites) - {UNKNOWN}), UNKNOWN), sites),
        "class": (tuple(predictions.labels), classes),
    }
    present = {
        name: (tuple(value for value in values if (of_image == value).any()), of_image)
        for name, (values, of_image) in columns.items()
    }
    return {name: found for name, found in present.items() if set(found[0]) - {UNKNOWN}}
