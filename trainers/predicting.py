"""What a finished model says of a split: plain float32 inference on the stored weights, no Trainer needed.

Predictions are made after the weights were stored and read back, so that a card speaks of the model a reader downloads
(rounded to fp16 where it is stored so), not of the one that was in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from trainers.data import LesionImages, Splits, collate
from trainers.predictions import TEXT_COLUMNS, Predictions


def predict_split(
    model: Any,
    processor: Any,
    splits: Splits,
    split: str,
    *,
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = True,
) -> Predictions:
    """Predict one split.

    Args:
        model: a model of the suite; moved to no other device, put in eval mode and left so.
        processor: its image processor.
        splits: the dataset.
        split: which of its splits.
        batch_size: images a forward pass.
        workers: data loading processes.
        progress: show a progress bar.

    Returns:
        Raw member logits (N, M, C), pooled features (N, D) and the subgroup columns.
    """
    model.eval()
    images = LesionImages(splits.splits[split], processor)
    loader = DataLoader(images, batch_size=batch_size, num_workers=workers, collate_fn=collate)
    logits, features = [], []
    with torch.inference_mode():
        for batch in tqdm(loader, desc=f"predict {split}", disable=not progress, unit="batch"):
            output = model(**{name: value.to(model.device) for name, value in batch.items() if name != "labels"})
            logits.append(output.raw_logits.float().cpu().numpy())
            features.append(output.features.float().cpu().numpy())
    ids = splits.column(split, "image_id") if "image_id" in splits.splits[split].column_names else None
    image_id = np.array([f"{split}-{i:06d}" for i in range(len(images))], dtype=object) if ids is None else ids
    raw = np.concatenate(logits).astype(np.float64)
    columns: dict[str, np.ndarray] = {name: splits.column(split, name) for name in TEXT_COLUMNS}
    columns["age"] = _ages(splits.column(split, "age", default="nan"))
    return Predictions(
        image_id=image_id,
        lesion_id=_or(splits.column(split, "lesion_id"), image_id),
        group_id=_or(splits.column(split, "group_id"), image_id),
        label=images.labels,
        logits=raw[:, None, :] if raw.ndim == 2 else raw,
        labels=splits.labels,
        label_names=dict(model.config.label_names),
        label_groups=dict(model.config.label_groups),
        split=split,
        config_name=splits.config_name,
        dataset=splits.name,
        columns=columns,
        features=np.concatenate(features),
    )


def _ages(values: np.ndarray) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)


def _or(values: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """A row without a lesion or group is its own: two unknowns are not the same lesion."""
    return np.array(
        [f if v in (None, "", "unknown") else v for v, f in zip(values, fallback, strict=True)], dtype=object
    )
