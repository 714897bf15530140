"""A finished model run in every way that gives an uncertainty: a new folder with the table in its report and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets_scripts.command import UserError
from hub_models.infer_lesion import InferenceError
from trainers.evaluation.uncertainty import Way, uncertainty_section
from trainers.metrics.predictions import Predictions
from trainers.model_folder.data import Splits
from trainers.model_folder.folder import finished_model, rewritten
from trainers.model_folder.mc_dropout import head_samples
from trainers.model_folder.predict import predict_split
from trainers.model_folder.trust import fitted_split
from trainers.trust.halves import halve
from trainers.trust.laplace import fit_laplace
from trainers.trust.options import TrustOptions

VIEWS = 8
CLOSE = 1e-3
# Predictions of the calibration and of the test split.
Pair = tuple[Predictions, Predictions]


def measure_uncertainty(
    source: str,
    splits: Splits,
    out: Path,
    *,
    samples: int = 30,
    views: bool = True,
    seed: int = 0,
    replicates: int = 1000,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the folder ``out``, which appears whole or not at all; returns its report.

    Args:
        source: a finished model of ours that was evaluated on this dataset: a folder, or ``ORG/NAME[@REVISION]``.
        splits: the dataset.
        out: absent, or an empty folder.
        samples: passes of MC dropout on the head.
        views: also test-time augmentation, eight passes an image.
        seed: of the dropout masks and the resamples.
        replicates: of the intervals.
        progress: show progress bars.

    Raises:
        UserError: ``out`` is not empty; there is no such model, or it was evaluated on other images or has no image
            input; there is no test split.
    """
    with finished_model(source, splits, out) as (finished, splits):
        if "pixel_values" not in finished.model.input_names:
            raise UserError(f"{source!r} has no image input: its uncertainty can only be taken in one way")
        finished.evaluated(splits, "test")
        calibration = fitted_split(finished.predictions)

        def predicted(split: str, inference: str) -> Predictions:
            return predict_split(
                finished.model, finished.processor, splits, split, inference=inference, progress=progress
            )

        inferences = ("plain", "tta") if views else ("plain",)
        both = {name: (predicted(calibration, name), predicted("test", name)) for name in inferences}
        options = options_of(finished.report["trust"])
        n = len(splits.splits["train"])
        ways = all_ways(finished.model, both, n=n, options=options, samples=samples, seed=seed)
        with rewritten(finished, out, split="test", purpose="measurement of uncertainty") as (_, report):
            reference = "single" if "single" in ways else "plain"
            report["uncertainty"] = uncertainty_section(ways, reference, options, replicates=replicates, seed=seed)
    return report


def options_of(trust: Mapping[str, Any]) -> TrustOptions:
    """Bounds, confidence and seed of the halves as the model's own trust was fitted; the defaults where it has none."""
    low, moderate = ((trust.get("bands") or {}).get(name) or {} for name in ("low", "moderate"))
    given = {
        "low_risk": low.get("risk"),
        "low_missed": low.get("missed_risk"),
        "moderate_risk": moderate.get("risk"),
        "moderate_missed": moderate.get("missed_risk"),
        "confidence": low.get("confidence"),
        "seed": trust["temperature"].get("seed"),
    }
    names = {field.name for field in fields(TrustOptions)}
    return TrustOptions(**{name: value for name, value in given.items() if name in names and value is not None})


def all_ways(
    model: Any,
    predictions: Mapping[str, Pair],
    *,
    n: int,
    options: TrustOptions,
    samples: int,
    seed: int,
) -> dict[str, Way]:
    """Every way that a model has.

    Args:
        model: the classifier.
        predictions: inference -> those of the calibration and the test split; ``plain`` with features.
        n: training images.
        options: for the halves of the calibration split.
        samples: passes of MC dropout on the head.
        seed: of the dropout masks.

    Returns:
        ``plain`` (of several members ``ensemble``, and ``single``); ``mc_dropout`` where there is dropout before the
        head alone; ``tta`` where it was predicted; ``laplace`` where the head is linear.
    """
    plain, members = predictions["plain"], predictions["plain"][0].logits.shape[1]
    seen = [features_of(part) for part in plain]
    ways = {}

    def with_logits(logits: Sequence[np.ndarray]) -> Pair:
        return replace(plain[0], logits=logits[0]), replace(plain[1], logits=logits[1])

    if members > 1:
        alone = [with_logits([part.logits[:, m : m + 1] for part in plain]) for m in range(members)]
        ways["single"] = Way(alone, "1 pass")
        ways["ensemble"] = Way([plain], f"{members} passes")
    else:
        ways["plain"] = Way([plain], "1 pass")
    of = f"{members} passes" if members > 1 else "1 pass"
    if model.can_sample_head():
        try:
            drawn = [head_samples(model, features, samples, seed) for features in seen]
            joined = [logits.reshape(len(logits), -1, logits.shape[-1]) for logits in drawn]
            ways["mc_dropout"] = Way([with_logits(joined)], f"{of} and {samples} of the head")
        except InferenceError:
            pass
    if "tta" in predictions:
        ways["tta"] = Way([predictions["tta"]], f"{VIEWS * members} passes")
    heads = linear_heads(model, seen[0].shape[1])
    if heads is not None:
        first = halve(plain[0].label, plain[0].group_id, options.seed)[0]
        settled = []
        for read, weight, bias in heads:
            fit = fit_laplace(seen[0][first][:, read], plain[0].label[first], weight, bias, n)
            settled.append([fit.logits(features[:, read])[:, None] for features in seen])
        ways["laplace"] = Way([with_logits(logits) for logits in settled], "1 pass")
        if members > 1:
            joined = [np.concatenate([logits[side] for logits in settled], axis=1) for side in (0, 1)]
            ways["ensemble_laplace"] = Way([with_logits(joined)], of)
    return ways


def features_of(part: Predictions) -> np.ndarray:
    """Features (N, D).

    Raises:
        UserError: there are none.
    """
    if part.features is None:
        raise UserError(f"the predictions of {part.split!r} hold no features: predict them again")
    return part.features


def linear_heads(model: Any, width: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None:
    """Of each member the features that its head reads (indices), weight (C, D), bias (C,); None where it is not linear.

    Read off ``classify`` itself: its value at 0, at each unit vector, and a check at random features.
    """
    device = model.device
    model.eval()
    with torch.inference_mode():
        bias = _classified(model, torch.zeros(1, width, device=device))[0]
        weight = _classified(model, torch.eye(width, device=device)) - bias
        trial = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(device)
        found, expected = _classified(model, trial), torch.einsum("nd,dmc->nmc", trial, weight) + bias
    if not torch.allclose(found, expected, atol=CLOSE * float(expected.abs().max().clamp(min=1))):
        return None
    heads = []
    for member in range(weight.shape[1]):
        mine = weight[:, member]
        read = torch.nonzero(mine.abs().sum(dim=1)).flatten()
        heads.append((read.cpu().numpy(), mine[read].T.double().cpu().numpy(), bias[member].double().cpu().numpy()))
    return heads


def _classified(model: Any, features: torch.Tensor) -> torch.Tensor:
    """Raw logits (N, M, C)."""
    logits = model.classify(features).float()
    return logits[:, None] if logits.ndim == 2 else logits
