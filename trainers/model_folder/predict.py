"""Predictions of a finished model for a split, changed copies of it, or a folder of files: plain float32 inference.

Predictions are made after the weights were stored and read back, so that a card describes the model a reader downloads
(rounded to fp16 where it is stored so), not of the one that was in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets_scripts.command import UserError
from datasets_scripts.images import IMAGE_SUFFIXES, images_in, passed_over_text
from hub_models.infer_lesion import InferenceError
from hub_models.trust_lesion import NotFiniteError
from trainers.metrics.predictions import NO_LABEL, RECORDED_COLUMNS, TEXT_COLUMNS, Predictions
from trainers.model_folder.data import LesionImages, Splits, collate

# (image, number of the image) -> image.
Alter = Callable[[Image.Image, int], Image.Image]


def predict_split(
    model: Any,
    processor: Any,
    splits: Splits,
    split: str,
    *,
    rows: np.ndarray | None = None,
    alter: Alter | None = None,
    named: str = "",
    inference: str = "plain",
    batch_size: int = 64,
    progress: bool = True,
) -> Predictions:
    """Predict one split, or some of its rows, from the images as they are or changed.

    Args:
        model: a model of the suite; moved to no other device, put in eval mode and left so.
        processor: its image processor.
        splits: the dataset.
        split: which of its splits.
        rows: (K,) indices of the rows to predict; None = all.
        alter: the change of each image before the processor.
        named: the name of the split in the predictions; empty = ``split``.
        inference: one of the model's ways of answering; views and samples come out as members.
        batch_size: images a forward pass.
        progress: show a progress bar.

    Returns:
        Raw member logits (N, M, C) and labels in the order of the model's classes, features (N, D), statistics of an
        early layer (N, E), and the subgroup columns.

    Raises:
        UserError: there is no image, the dataset has other classes, or the model cannot be run in that way.
        UserError: it answers with NaN or infinity.
    """
    splits = splits.in_order(model.config.labels)
    table = splits.splits[split]
    chosen = np.arange(len(table)) if rows is None else np.asarray(rows)
    images = ChangedImages(table if rows is None else table.select(chosen), processor, alter, chosen)
    loader = DataLoader(images, batch_size=batch_size, collate_fn=collate)
    raw, seen = _run(model, loader, inference, f"predict {named or split}", progress)
    ids = ("image_id", "lesion_id", "group_id")
    image_id, lesion_id, group_id = (splits.column(split, name)[chosen] for name in ids)
    return Predictions(
        image_id=image_id,
        lesion_id=_or(lesion_id, image_id),
        group_id=_or(group_id, image_id),
        label=images.labels,
        logits=raw,
        **_vocabulary(model),
        split=named or split,
        config_name=splits.config_name,
        dataset=splits.name,
        columns={name: values[chosen] for name, values in patient_columns(splits, split).items()},
        features=seen["features"],
        early=seen["early"],
    )


def patient_columns(splits: Splits, split: str) -> dict[str, np.ndarray]:
    """The subgroup columns of a split, as a predictions file has them; ``RECORDED_COLUMNS`` where the dataset does."""
    absent = set(RECORDED_COLUMNS) - set(splits.splits[split].column_names)
    columns = {name: splits.column(split, name) for name in TEXT_COLUMNS if name not in absent}
    return {**columns, "age": _ages(splits.column(split, "age", default="nan"))}


def predict_ood(
    model: Any, processor: Any, folder: Path, *, inference: str = "plain", batch_size: int = 64, progress: bool = True
) -> Predictions:
    """Predict a folder of images that are of none of the classes: label ``NO_LABEL``, each a group of its own.

    Raises:
        UserError: no such folder, no image in it, or one that cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"the folder {str(folder)!r} does not exist: give one that holds images")
    paths, passed_over = images_in(folder)
    if not paths:
        raise UserError(f"the folder {str(folder)!r} holds no image ({', '.join(IMAGE_SUFFIXES)}): give one that does")
    if passed_over:
        print(f"{folder.name}: files that are no images were passed over: {passed_over_text(passed_over)}")
    loader = DataLoader(ImageFiles(paths, processor), batch_size=batch_size, collate_fn=collate)
    raw, seen = _run(model, loader, inference, f"predict {folder.name}", progress)
    ids = np.array([path.relative_to(folder).as_posix() for path in paths], dtype=object)
    return Predictions(
        image_id=ids,
        lesion_id=ids,
        group_id=ids,
        label=np.full(len(ids), NO_LABEL, dtype=np.int64),
        logits=raw,
        **_vocabulary(model),
        split=f"ood_{folder.name}",
        dataset=folder.name,
        features=seen["features"],
        early=seen["early"],
    )


def with_ood_scores(model: Any, predictions: Predictions) -> Predictions:
    """The same predictions with the score of the model's fitted gate for each image."""
    if predictions.features is None:
        raise UserError(f"the predictions of {predictions.split!r} hold no features: predict them again")
    seen = [predictions.features, predictions.logits, *([] if predictions.early is None else [predictions.early])]
    tensors = [torch.from_numpy(values.astype(np.float32)).to(model.device).split(1024) for values in seen]
    with torch.inference_mode():
        scores = [model.ood_scores(*parts) for parts in zip(*tensors, strict=True)]
    return replace(predictions, ood_score=torch.cat(scores).double().cpu().numpy())


class ChangedImages(LesionImages):
    """The images of a split, each changed before the processor."""

    def __init__(self, images: Any, processor: Any, alter: Alter | None, numbers: np.ndarray) -> None:
        super().__init__(images, processor)
        self.alter, self.numbers = alter, numbers

    def read(self, index: int) -> Image.Image:
        """The stored image, decoded and changed."""
        image = super().read(index)
        return image if self.alter is None else self.alter(image, int(self.numbers[index]))


class ImageFiles(Dataset):
    """Files as model inputs; their metadata is unknown."""

    def __init__(self, paths: Sequence[Path], processor: Any) -> None:
        self.paths, self.processor = paths, processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            inputs = self.processor(str(self.paths[index]), return_tensors="pt")
        except (OSError, ValueError) as error:
            raise UserError(f"{self.paths[index].name} cannot be read ({error}): take it out of the folder") from error
        return {name: value[0] for name, value in inputs.items()}


def _vocabulary(model: Any) -> dict[str, Any]:
    """The class names of a model, and their groups."""
    config = model.config
    names = {"label_names": dict(config.label_names), "label_groups": dict(config.label_groups)}
    return {"labels": list(config.labels), **names}


def _run(
    model: Any, loader: Any, inference: str, title: str, progress: bool
) -> tuple[np.ndarray, dict[str, np.ndarray | None]]:
    """Raw logits (N, M, C) as float64; ``features`` (N, D) and ``early`` (N, E) as float32, of all in a loader."""
    model.eval()
    logits: list[np.ndarray] = []
    seen: dict[str, list[np.ndarray]] = {"features": [], "early": []}
    give_early, model.give_early = model.give_early, True
    try:
        for batch in tqdm(loader, desc=title, disable=None if progress else True, unit="batch"):
            inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
            try:
                output = model.infer(inputs, inference)
            except (InferenceError, NotFiniteError) as error:
                raise UserError(str(error)) from error
            raw = output.raw_logits.float().cpu().numpy()
            logits.append(raw[:, None, :] if raw.ndim == 2 else raw)
            for name, values in seen.items():
                if output.get(name) is not None:
                    values.append(output[name].float().cpu().numpy())
    finally:
        model.give_early = give_early
    if not logits:
        raise UserError(f"{title}: it holds no image; fill it, or leave it out of the dataset")
    whole = {name: np.concatenate(values) if values else None for name, values in seen.items()}
    return np.concatenate(logits).astype(np.float64), whole


def _ages(values: np.ndarray) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)


def _or(values: np.ndarray, fallback: np.ndarray) -> np.ndarray:
    """A row without a lesion or group is its own: two unknowns are not the same lesion."""
    return np.array(
        [f if v in (None, "", "unknown") else v for v, f in zip(values, fallback, strict=True)], dtype=object
    )
