"""Predictions that are drawn by a random generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from trainers.metrics.predictions import Predictions

PREDICTED_LABELS = ["akiec", "bcc", "df", "mel", "nv", "acne"]
GROUPS = {
    "akiec": "premalignant",
    "bcc": "malignant",
    "mel": "malignant",
    "df": "benign",
    "nv": "benign",
    "acne": "benign",
}


def _make(
    lesions: int = 120, *, labels: list[str] | None = None, members: int = 1, seed: int = 0, strength: float = 2.0
) -> Predictions:
    """One to three images per lesion; ``df`` never occurs, so its support is 0."""
    names = PREDICTED_LABELS if labels is None else labels
    rng = np.random.default_rng(seed)
    possible = [index for index, name in enumerate(names) if name != "df"]
    of_lesion = rng.choice(possible, lesions)
    lesion = np.repeat(np.arange(lesions), rng.integers(1, 4, lesions))
    label, n = of_lesion[lesion], len(lesion)
    noise = rng.normal(size=(lesions, 1, len(names)))[lesion] + rng.normal(size=(n, members, len(names)))
    logits = strength * np.eye(len(names))[label][:, None] + noise
    age = rng.uniform(0, 90, n)
    age[rng.random(n) < 0.1] = np.nan
    source = np.array(["DermNet" if names[index] == "acne" else "HAM10000" for index in label], dtype=object)
    ids = np.array([f"L{index}" for index in lesion], dtype=object)
    return Predictions(
        image_id=np.array([f"I{index}" for index in range(n)], dtype=object),
        lesion_id=ids,
        group_id=ids,
        label=label.astype(np.int64),
        logits=logits,
        labels=list(names),
        label_names={name: name.upper() for name in names},
        label_groups={name: GROUPS.get(name, "benign") for name in names},
        split="test",
        config_name="grouped",
        dataset="drawn",
        columns={
            "age": age,
            "sex": rng.choice(np.array(["female", "male", "unknown"], dtype=object), n),
            "source": source,
        },
    )


@pytest.fixture(scope="session")
def make_predictions() -> Callable[..., Predictions]:
    """A factory: ``make_predictions(lesions, labels=, members=, seed=, strength=)``."""
    return _make
