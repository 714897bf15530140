"""Which patients an image came from: age bands, sex, skin tone, the source and its diagnosis, real or synthetic."""

from __future__ import annotations

import numpy as np

from trainers.metrics.predictions import Predictions
from trainers.trust.groups import AGE_BANDS, AGE_OPEN, UNKNOWN, age_bands, sexes

AGE_VALUES = (*(name for name, _, _ in AGE_BANDS), AGE_OPEN[0], UNKNOWN)
SEX_VALUES = ("female", "male", UNKNOWN)


def subgroup_columns(
    columns: dict[str, np.ndarray], label: np.ndarray
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The subgroups of a report: name -> (its values in order, the value of each of the N images).

    The source's own diagnosis is one where a class has more than one (how a benign-or-malignant model does on
    melanoma is not how it does on basal cell carcinoma), and so are provenance where there are synthetic images, the
    skin tone and the image type where the source records them, and the archive where there are several.

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
    for name in ("diagnosis", "provenance", "skin_tone", "skin_tone_estimate", "image_type"):
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
