"""What every detector's fit has in common: what it returns, what it refuses, and applying it as a model does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hub_models.ood_lesion import EARLY, ood_score

BATCH = 512
# Beyond it float32 overflows where the model applies what was fitted.
LARGEST = 1e30


class OODFitError(ValueError):
    """Features, logits or labels from which an out-of-distribution detector cannot be fitted."""


@dataclass(frozen=True)
class OODFit:
    """A fitted detector.

    Attributes:
        settings: its numbers, for ``config.trust``.
        buffers: its matrices, float32, for the model's buffers.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    buffers: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, values in self.buffers.items():
            if values.dtype != np.float32 or not np.isfinite(values).all():
                raise OODFitError(f"buffer {name!r} is of type {values.dtype} or not finite: give finite float32")

    @property
    def n_bytes(self) -> int:
        """Size of the buffers in bytes."""
        return sum(values.nbytes for values in self.buffers.values())


def apply(name: str, fit: OODFit, features: np.ndarray, raw_logits: np.ndarray, temperature: float) -> np.ndarray:
    """Score with the function that the model ships, so that what is fitted is what is applied.

    Args:
        name: the detector.
        fit: its fit.
        features: (N, D); of the detectors in ``EARLY`` the early statistics (N, E).
        raw_logits: (N, C) or (N, M, C).
        temperature: T > 0.

    Returns:
        (N,) float64, finite; higher = more OOD.

    Raises:
        OODFitError: a score is NaN or infinite.
    """
    buffers = {key: torch.from_numpy(values) for key, values in fit.buffers.items()}
    parts = []
    with torch.inference_mode():
        for start in range(0, len(features), BATCH):
            rows = slice(start, start + BATCH)
            batch = torch.from_numpy(np.ascontiguousarray(features[rows], dtype=np.float32))
            logits = torch.from_numpy(np.ascontiguousarray(raw_logits[rows], dtype=np.float32))
            early = batch if name in EARLY else None
            parts.append(ood_score(name, batch, logits, temperature, fit.settings, buffers, early).numpy())
    scores = np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
    bad = ~np.isfinite(scores)
    if bad.any():
        raise OODFitError(
            f"{name} gives {int(bad.sum())} of {len(scores)} images a score that is NaN or infinite: their features or "
            "logits are enormous; look at the training"
        )
    return scores


def check(
    features: np.ndarray, raw_logits: np.ndarray, labels: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Features as float64 and logits as (N, M, C) float64.

    Raises:
        OODFitError: fewer than two images, lengths that differ, or a value that is NaN or infinite.
    """
    features, logits = np.asarray(features, dtype=np.float64), np.asarray(raw_logits, dtype=np.float64)
    if features.ndim != 2 or logits.ndim not in (2, 3) or len(features) != len(logits):
        raise OODFitError(
            f"features have shape {features.shape} and logits {logits.shape}: give (N, D) and (N, C) or (N, M, C)"
        )
    if labels is not None and np.shape(labels) != (len(features),):
        raise OODFitError(f"labels have shape {np.shape(labels)}, features {features.shape}: give one label an image")
    if len(features) < 2:
        raise OODFitError(f"{len(features)} images: an out-of-distribution detector needs at least two")
    check_values(features, "feature")
    check_values(logits, "logit")
    return features, logits[:, None] if logits.ndim == 2 else logits


def check_values(values: np.ndarray | None, name: str, images: str = "images") -> None:
    """Refuse values of which no score can be made.

    Args:
        values: (N, ...), or None where there are none.
        name: what one of them is, for the message.
        images: what they are of, for the message.

    Raises:
        OODFitError: counts the images with a value that is NaN, infinite or above ``LARGEST``.
    """
    if values is None or not len(values):
        return
    bad = ~(np.abs(np.asarray(values, dtype=np.float64)) <= LARGEST).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise OODFitError(
            f"{int(bad.sum())} of {len(values)} {images} have a {name} that is NaN, infinite or above {LARGEST:g}: the "
            "training diverged; lower the learning rate or train in fp32"
        )
