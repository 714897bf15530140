"""From stored reconstructions to the report's numbers, each with a 95 % interval by lesion. No model, no torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainers.autoencoding.reconstructing import Reconstructions
from trainers.evaluation.paired import signed
from trainers.metrics.intervals import bootstrap_weights, can_resample, replicate
from trainers.metrics.number import bootstrapped, undefined

EVALUATED_SPLITS = ("validation", "test")
# Upper ends of what the scores can be; None = none.
CEILINGS = {"ssim": 1.0, "ssim_linear": 1.0}


def evaluate(found: Reconstructions, *, replicates: int = 1000, seed: int = 0) -> dict[str, Any]:
    """The ``evaluation`` section of one split.

    Args:
        found: what the model made of it.
        replicates: of the bootstrap over lesions, within each class.
        seed: of the resamples.

    Returns:
        ``n, n_groups, psnr, ssim, psnr_8bit, per_class, checkerboard`` and, where they were measured, ``denoising`` and
        ``linear`` (with the gain over it, paired). Means over images.
    """
    groups = np.asarray(found.group_id).astype(str)
    weights = bootstrap_weights(groups, found.label, replicates, seed) if can_resample(groups, found.label) else None
    section: dict[str, Any] = {"n": len(found), "n_groups": len(np.unique(groups))}
    for name in ("psnr", "ssim", "psnr_8bit"):
        section[name] = mean_score(found, name, weights)
    section["per_class"] = [class_row(found, index, groups, weights) for index in range(len(found.labels))]
    section["checkerboard"] = [grid_row(found, period, weights) for period in found.periods]
    if "psnr_denoised" in found.scores:
        section["denoising"] = {
            "noisy": mean_score(found, "psnr_noisy", weights),
            "denoised": mean_score(found, "psnr_denoised", weights),
            "gain": mean_gain(found.scores["psnr_noisy"], found.scores["psnr_denoised"], weights),
        }
    if "psnr_linear" in found.scores:
        section["linear"] = {
            name: {
                "linear": mean_score(found, f"{name}_linear", weights),
                "gain": mean_gain(found.scores[f"{name}_linear"], found.scores[name], weights),
            }
            for name in ("psnr", "ssim")
        }
    return section


def mean_score(found: Reconstructions, name: str, weights: np.ndarray | None) -> dict[str, Any]:
    """Mean of one score over the images, with its interval."""
    values = found.scores[name]
    resampled = None if weights is None else resampled_mean(values, weights)
    return bootstrapped(float(values.mean()), resampled, ceiling=CEILINGS.get(name))


def mean_gain(before: np.ndarray, after: np.ndarray, weights: np.ndarray | None) -> dict[str, Any]:
    """Mean of ``after - before`` (N,) over the images, with its paired interval."""
    gain = np.asarray(after) - np.asarray(before)
    return signed(float(gain.mean()), None if weights is None else resampled_mean(gain, weights))


def class_row(found: Reconstructions, index: int, groups: np.ndarray, weights: np.ndarray | None) -> dict[str, Any]:
    """Images, lesions, PSNR and SSIM of one class."""
    own = found.label == index
    row: dict[str, Any] = {"name": found.labels[index], "n": int(own.sum()), "n_groups": len(np.unique(groups[own]))}
    for name in ("psnr", "ssim"):
        if not own.any():
            row[name] = undefined("no image of this class")
            continue
        values = found.scores[name][own]
        resampled = None if weights is None or row["n_groups"] < 2 else resampled_mean(values, weights[:, own])
        row[name] = bootstrapped(float(values.mean()), resampled, ceiling=CEILINGS.get(name))
    return row


def grid_row(found: Reconstructions, period: int, weights: np.ndarray | None) -> dict[str, Any]:
    """The grid of one period: in the images, in their reconstructions, and what the reconstruction adds."""
    row: dict[str, Any] = {"period": period}
    for unit in ("db", "rms"):
        name = f"grid_{period}_{unit}"
        drawn, original = found.scores[name], found.scores[f"{name}_original"]
        row[unit] = {
            "original": signed_mean(original, weights),
            "reconstruction": signed_mean(drawn, weights),
            "added": mean_gain(original, drawn, weights),
        }
    return row


def signed_mean(values: np.ndarray, weights: np.ndarray | None) -> dict[str, Any]:
    """Mean of a score that may be negative, with its interval."""
    return mean_gain(np.zeros_like(values), values, weights)


def resampled_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of (N,) values in each resample (R, N) of lesions: (R,)."""

    def mean(counts: np.ndarray) -> dict[str, np.ndarray]:
        return {"mean": counts @ values / counts.sum(axis=1)}

    return replicate(mean, weights)["mean"]
