"""MC dropout on a head: the backbone runs once, the dropout before the classifier is drawn again and again.

Gal and Ghahramani 2016, Dropout as a Bayesian Approximation, equation 6: the mean over S passes with dropout switched
on. Where dropout sits only before the head, the features of a pass are those of every pass.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainers.metrics.predictions import Predictions, read_predictions, write_predictions


def head_samples(model: Any, features: np.ndarray, samples: int, seed: int, batch_size: int = 1024) -> np.ndarray:
    """Raw logits of S passes with dropout on.

    Args:
        model: a classifier of the suite; left in the mode it was in.
        features: (N, D) float32, as its ``encode`` gives them.
        samples: S.
        seed: of the dropout masks.
        batch_size: images at a time.

    Returns:
        (N, M, S, C) float64; M = 1 for a single model.
    """
    passes = [
        model.sample_head(torch.from_numpy(part).to(model.device), samples, seed).double().cpu().numpy()
        for part in _batches(features, batch_size)
    ]
    return np.concatenate(passes)


def _batches(features: np.ndarray, size: int) -> list[np.ndarray]:
    return [features[start : start + size].astype(np.float32) for start in range(0, len(features), size)]


def samples_file(folder: Path, split: str) -> Path:
    """Where the passes of a split are stored."""
    return folder / f"mc_dropout_{split}.parquet"


def write_samples(predictions: Predictions, logits: np.ndarray, path: Path) -> None:
    """Store passes (N, M, S, C) as a predictions file of M x S members, beside the predictions they belong to."""
    n, _, _, classes = logits.shape
    alone = replace(predictions, logits=logits.reshape(n, -1, classes), features=None, early=None, ood_score=None)
    write_predictions(alone, path)


def read_samples(predictions: Predictions | None, path: Path) -> np.ndarray | None:
    """The stored passes (N, M, S, C) of these predictions; None where there are none, or of other images.

    Raises:
        UserError: the file cannot be read.
    """
    if predictions is None or not path.is_file():
        return None
    stored = read_predictions(path)
    if not np.array_equal(stored.image_id, predictions.image_id):
        return None
    n, members, classes = predictions.logits.shape
    return stored.logits.reshape(n, members, -1, classes)
