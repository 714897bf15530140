"""The image that similar cases are found for, a file or an image of the dataset; and the model's output for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from datasets_scripts.command import UserError
from datasets_scripts.images import ImageError, decode
from trainers.embeddings.cases import load_cases
from trainers.embeddings.near_duplicates import Looks, look
from trainers.embeddings.representations import Encoder, checked
from trainers.model_folder.data import Splits


@dataclass(frozen=True)
class Query:
    """One image to compare.

    Attributes:
        name: the file's name, or the image id; names no path of the machine.
        image: upright RGB.
        looks: its pixels' hash and thumbnail, N = 1.
        split: where it stands in the dataset; None for a file.
        label: its class there; None for a file.
        group_id: its lesion group there; None for a file.
        record: what else the dataset knows of it; empty for a file.
    """

    name: str
    image: Image.Image
    looks: Looks
    split: str | None
    label: str | None
    group_id: str | None
    record: Mapping[str, Any]


@dataclass(frozen=True)
class ModelOutput:
    """The model's output for a query.

    Attributes:
        features: (D,) float32.
        answer: as ``predict`` gives it; band, set and gate are None where trust was never fitted.
        notes: what the user must know about the answer.
    """

    features: np.ndarray
    answer: dict[str, Any]
    notes: list[str]


def find_query(image: str, splits: Splits) -> Query:
    """A file, or else the image of the dataset of that id.

    Args:
        image: path or ``image_id``.
        splits: the dataset; all its splits are searched.

    Raises:
        UserError: neither, or it cannot be read.
    """
    path = Path(image)
    try:
        if path.is_file():
            data = path.read_bytes()
            return Query(path.name, decode(data)[0], look(data, path.name), None, None, None, {})
        ids = {split: splits.column(split, "image_id").astype(str) for split in splits.splits}
        found = {split: np.flatnonzero(names == image) for split, names in ids.items()}
        several = sum(map(len, found.values()))
        if several > 1:
            raise UserError(f"--image {image!r} is the image_id of {several} images of {splits.name!r}: give a file")
        for split, rows in found.items():
            if len(rows):
                case = load_cases(splits, split).select(rows)
                data, record = case.stored(0), case.rows.remove_columns("image")[0]
                label, group = case.labels[case.label[0]], str(case.group_id[0])
                return Query(image, decode(data)[0], look(data, image), split, label, group, record)
    except (ImageError, OSError) as error:
        raise UserError(f"--image {path.name!r} cannot be read ({error}): give a whole image file") from error
    raise UserError(
        f"--image {image!r} is neither a file nor the image_id of one of the {sum(map(len, splits.splits.values())):,} "
        f"images of {splits.name!r}: give one of them"
    )


@torch.inference_mode()
def answer_query(encoder: Encoder, query: Query) -> ModelOutput:
    """Features and answer of one image.

    Raises:
        UserError: the model gives it no features, or the record holds a value that the model does not know.
    """
    model, processor = encoder.model, encoder.processor
    fields = list(getattr(processor, "metadata_fields", None) or ())
    reads = "metadata" in model.input_names
    notes: list[str] = []
    if reads and not query.record:
        notes.append(f"The model also reads {', '.join(fields)}: unknown for a file, known for the dataset's cases.")
    record = {name: query.record.get(name) for name in fields} if reads else {}
    try:
        item = {"image": query.image, **record} if reads else query.image
        inputs = dict(processor(images=item, return_tensors="pt"))
    except ValueError as error:
        raise UserError(f"--image {query.name!r}: {error}") from error
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    output = model.infer(inputs)
    trusted = all(model.config.trust.get(part) for part in ("temperature", "prior", "ood", "conformal", "bands"))
    withdrawn = model.why_withdrawn(inputs, "plain", None, processor.pixel_settings())
    answer = model.answer_in_words(output, trust=trusted, withdrawn=withdrawn)[0]
    if not trusted:
        notes.append("This model has no fitted gate: nothing says whether the image is like those it knows.")
    features = checked(output.features.float().cpu().numpy(), [query.name], encoder.name)
    return ModelOutput(features[0], answer, notes)
