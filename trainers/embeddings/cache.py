"""What takes minutes to compute, kept for the next run in the cache folder of ``datasets`` (HF_DATASETS_CACHE)."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np

from trainers.embeddings.cases import Cases

FOLDER = "lesion_suite"


def description_of(cases: Cases) -> list[str]:
    """The rows of cases as text: `datasets` knows a table's content by its fingerprint, and a draw by the ids."""
    return [cases.rows._fingerprint, *map(str, cases.image_id)]


def cached(description: Sequence[str], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from the cache, or made and put there.

    Args:
        description: everything that the arrays follow from.
        make: makes them, where they were not made before or the file is damaged.
    """
    name = hashlib.sha256("\n".join(description).encode()).hexdigest()
    path = Path(datasets.config.HF_DATASETS_CACHE) / FOLDER / f"{name}.npz"
    if path.is_file():
        try:
            with np.load(path) as stored:
                return {key: stored[key] for key in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)
    arrays = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{name}.{os.getpid()}.partial.npz")
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    os.replace(partial, path)
    return arrays
