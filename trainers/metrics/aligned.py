"""Predictions of several models brought onto the same images, in the same order, with the same classes and lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datasets_scripts.command import UserError
from datasets_scripts.taxonomy import class_order
from trainers.metrics.predictions import Predictions


def align(named: Sequence[tuple[str, Predictions]], *, shared: bool = False) -> list[Predictions]:
    """The same images in the first one's order, for each of several predictions.

    Classes in another order are put into the first one's. Lesion groups that differ between files are merged: images
    that any file holds for one lesion are never independent.

    Args:
        named: what a message calls each, and the predictions; at least one.
        shared: keep the images that all have in common, instead of refusing different ones.

    Raises:
        UserError: other classes, other images, no image in common, another label for an image, or an image twice
            in one file; the message names the file and what to do.
    """
    first_name, first = named[0]
    ids = [_ids(name, predictions) for name, predictions in named]
    common = [image for image in ids[0] if all(image in other for other in ids[1:])]
    for (name, _), other in zip(named[1:], ids[1:], strict=True):
        if other and ids[0] and not set(other) & set(ids[0]):
            raise UserError(
                f"{name} and {first_name} have no image in common: give predictions of one dataset and split"
            )
        if set(other) != set(ids[0]) and not shared:
            only = len(set(ids[0]) - set(other)), len(set(other) - set(ids[0]))
            raise UserError(
                f"{name} is of other images than {first_name}: {len(ids[0]) - only[0]} shared, {only[0]} only in "
                f"{first_name}, {only[1]} only in {name}: add --shared to compare on the shared ones"
            )
    for (name, _), rows in zip(named, ids, strict=True):
        if not rows:
            raise UserError(f"{name} holds no image: give the predictions of a split that has some")
    if not common:
        raise UserError(
            f"{', '.join(name for name, _ in named)} have no image in common: give predictions of one dataset and split"
        )
    found = []
    for (name, predictions), rows in zip(named, ids, strict=True):
        chosen = predictions.select(np.array([rows[image] for image in common]))
        found.append(_same_classes(name, chosen, first_name, first))
    for (name, _), predictions in zip(named, found, strict=True):
        unlike = np.flatnonzero(predictions.label != found[0].label)
        if len(unlike):
            image = predictions.image_id[unlike[0]]
            labels = [first.labels[p.label[unlike[0]]] for p in (found[0], predictions)]
            raise UserError(
                f"image {image!r} is {labels[0]!r} in {first_name} and {labels[1]!r} in {name} ({len(unlike)} such "
                "images): give predictions of one dataset"
            )
    groups = merged_groups([predictions.group_id for predictions in found])
    return [replace(predictions, group_id=groups) for predictions in found]


def in_order_of(labels: Sequence[str], predictions: Predictions) -> Predictions | None:
    """The same predictions with the classes in the order of ``labels``; None where they are other classes."""
    order = class_order(labels, predictions.labels)
    if order is None:
        return None
    inside = predictions.label >= 0
    return replace(
        predictions,
        label=np.where(inside, np.argsort(order)[predictions.label], predictions.label),
        logits=predictions.logits[:, :, order],
        labels=list(labels),
    )


def merged_groups(groups: Sequence[np.ndarray]) -> np.ndarray:
    """The finest groups that no file's groups cut: several (N,) ids of the same images -> (N,) str.

    Ids that agree everywhere are returned as they are.
    """
    texts = [np.asarray(ids).astype(str) for ids in groups]
    if all((ids == texts[0]).all() for ids in texts):
        return np.asarray(groups[0])
    n, offset, rows, columns = len(texts[0]), len(texts[0]), [], []
    for ids in texts:
        names, index = np.unique(ids, return_inverse=True)
        rows.append(np.arange(n))
        columns.append(offset + index)
        offset += len(names)
    links = (np.ones(n * len(texts)), (np.concatenate(rows), np.concatenate(columns)))
    _, component = connected_components(coo_array(links, shape=(offset, offset)), directed=False)
    return np.array([f"group {number}" for number in component[:n]], dtype=object)


def _ids(name: str, predictions: Predictions) -> dict[str, int]:
    """Image id -> row."""
    rows: dict[str, int] = {}
    for row, image in enumerate(predictions.image_id.tolist()):
        if image in rows:
            raise UserError(f"{name} holds image {image!r} twice: give predictions with one row per image")
        rows[image] = row
    return rows


def _same_classes(name: str, predictions: Predictions, first_name: str, first: Predictions) -> Predictions:
    """The classes in the first one's order."""
    ordered = in_order_of(first.labels, predictions)
    if ordered is None:
        raise UserError(
            f"{name} has the classes {', '.join(predictions.labels)}, {first_name} has {', '.join(first.labels)}: "
            "only models of the same classes compare"
        )
    return replace(ordered, label_groups=first.label_groups)
