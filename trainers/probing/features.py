"""Features of a split's images, computed once: in chunks, each in the cache under a name that follows from its content.

The name follows from the backbone's weights and code, the image processor's settings and the bytes of the images: a
rebuilt dataset with the same images finds them again, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

import hub_models
from datasets_scripts.command import UserError
from trainers.embeddings.cache import cached
from trainers.model_folder.data import LesionImages, collate, stored_bytes

CHUNK = 256
# Fields of a configuration that the features follow from, beside the weights.
DESCRIBES = ("backbone", "backbone_kwargs", "tower", "projection_dim", "normalise_features", "image_size")


def fingerprint(model: Any, processor: Any) -> str:
    """sha256 over what turns an image into features: weights before the head, configuration, settings, code."""
    digest = hashlib.sha256()
    for part in model.pretrained_parts():
        for name, value in sorted(part.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    about = {name: getattr(model.config, name, None) for name in DESCRIBES}
    digest.update(json.dumps([about, processor.pixel_settings()], sort_keys=True, default=str).encode())
    for path in sorted(Path(hub_models.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def features_of(
    model: Any, processor: Any, rows: datasets.Dataset, *, batch_size: int = 16, title: str = "features"
) -> np.ndarray:
    """Features (N, D) float32 of all rows, as the model's head receives them in eval mode, without augmentation.

    Raises:
        UserError: there is no row, or a feature is not finite.
    """
    if not len(rows):
        raise UserError(f"{title}: there is no image")
    images, made_by = LesionImages(rows, processor), fingerprint(model, processor)
    found = []
    starts = range(0, len(images), CHUNK)
    for start in tqdm(starts, desc=title, unit=f"{CHUNK} images", disable=None):
        numbers = range(start, min(start + CHUNK, len(images)))

        def make(numbers: range = numbers) -> dict[str, np.ndarray]:
            return {"features": _run(model, Subset(images, numbers), batch_size)}

        found.append(cached(["probe", made_by, *(_content(images, number) for number in numbers)], make)["features"])
    features = np.concatenate(found)
    if not np.isfinite(features).all():
        raise UserError(f"{title}: {int((~np.isfinite(features)).sum())} values are not finite: give other weights")
    return features


@torch.inference_mode()
def _run(model: Any, images: Any, batch_size: int) -> np.ndarray:
    model.eval()
    parts = []
    for batch in DataLoader(images, batch_size=batch_size, collate_fn=collate):
        pixels = model.check_pixels(batch["pixel_values"].to(model.device))
        parts.append(model.encode(pixels).float().cpu().numpy())
    return np.concatenate(parts)


def _content(images: LesionImages, number: int) -> str:
    return hashlib.sha256(stored_bytes(images.images[int(number)]["image"])).hexdigest()
