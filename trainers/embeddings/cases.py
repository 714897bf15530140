"""One split of a dataset as cases: which image, of which lesion, of which class; no model needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import datasets
import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets_scripts.command import UserError
from datasets_scripts.command import UserError as ImageUserError
from datasets_scripts.images import decode
from trainers.model_folder.data import Splits

# Values of an id column that say nothing: such a row is a lesion of its own.
NO_ID = (None, "", "unknown")
SHOW_PROGRESS_FROM = 500


@dataclass(frozen=True)
class Cases:
    """The images of one split, or some of them.

    Attributes:
        splits: the dataset, narrowed to these rows of this split, so that whatever reads a split reads these.
        split: its name.
        image_id: (N,) str.
        lesion_id: (N,) str.
        group_id: (N,) str; a lesion with its near-duplicates. Images of one group are never independent.
        label: (N,) int64 in [0, C).
    """

    splits: Splits
    split: str
    image_id: np.ndarray
    lesion_id: np.ndarray
    group_id: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def rows(self) -> datasets.Dataset:
        """The rows themselves, images undecoded."""
        return self.splits.splits[self.split]

    @property
    def labels(self) -> list[str]:
        """The C short class names."""
        return self.splits.labels

    @property
    def n_groups(self) -> int:
        """Number of lesion groups."""
        return len(np.unique(self.group_id))

    def counts(self) -> dict[str, int]:
        """Class -> images."""
        return {name: int((self.label == index).sum()) for index, name in enumerate(self.labels)}

    def column(self, name: str) -> list[str]:
        """A text column, ``unknown`` where there is none."""
        return ["unknown" if value is None else str(value) for value in self.splits.column(self.split, name)]

    def select(self, rows: np.ndarray) -> Cases:
        """Some of the cases, by their numbers (K,)."""
        rows = np.asarray(rows, dtype=np.int64)
        table = self.rows.select(rows)
        narrowed = replace(self.splits, splits={self.split: table})
        arrays = {name: getattr(self, name)[rows] for name in ("image_id", "lesion_id", "group_id", "label")}
        return Cases(splits=narrowed, split=self.split, **arrays)

    def in_order(self, labels: Sequence[str]) -> Cases:
        """The same cases with the classes in another order, such as that of a model's logits.

        Raises:
            UserError: other classes.
        """
        splits = self.splits.in_order(labels)
        return replace(self, splits=splits, label=np.array(splits.splits[self.split]["label"][:], dtype=np.int64))

    def stored(self, number: int) -> bytes:
        """The bytes of one image, as they lie in the dataset."""
        image = self.rows[int(number)]["image"]
        if image["bytes"]:
            return bytes(image["bytes"])
        with open(image["path"], "rb") as file:
            return file.read()

    def images(self, what: str) -> Iterator[Image.Image]:
        """Every image as upright RGB, in order, with a progress bar named ``what``.

        Raises:
            UserError: one cannot be read; it is named.
        """
        numbers = range(len(self))
        for number in tqdm(
            numbers, desc=what, unit="image", disable=len(self) < SHOW_PROGRESS_FROM or None, mininterval=1.0
        ):
            try:
                yield decode(self.stored(number))[0]
            except (ImageUserError, OSError) as error:
                raise UserError(
                    f"image {self.image_id[number]} of the {self.split} split cannot be read ({error}): build the "
                    "dataset again without it"
                ) from error


def load_cases(splits: Splits, split: str) -> Cases:
    """All cases of a split.

    Raises:
        UserError: there is no such split, or it is empty.
    """
    if split not in splits.splits:
        raise UserError(
            f"config {splits.config_name!r} of {splits.name!r} has no split {split!r}: choose among "
            f"{', '.join(splits.splits)}"
        )
    rows = splits.splits[split]
    if not len(rows):
        raise UserError(f"the split {split!r} of {splits.name!r} holds no image: choose another one")
    numbered = [f"{split}-{number:06d}" for number in range(len(rows))]
    image_id = _or(splits.column(split, "image_id"), numbered)
    lesion_id = _or(splits.column(split, "lesion_id"), image_id)
    return Cases(
        splits=replace(splits, splits={split: rows}),
        split=split,
        image_id=image_id,
        lesion_id=lesion_id,
        group_id=_or(splits.column(split, "group_id"), lesion_id),
        label=np.array(rows["label"][:], dtype=np.int64),
    )


def whole_lesions(cases: Cases, at_most: int, seed: int) -> Cases:
    """All cases, or where there are more than ``at_most`` a draw of whole lesion groups that does not exceed it.

    Args:
        cases: of one split.
        at_most: images; at least 1.
        seed: of the draw.
    """
    if len(cases) <= at_most:
        return cases
    names, index, images = np.unique(cases.group_id.astype(str), return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    taken = order[np.cumsum(images[order]) <= at_most]
    return cases.select(np.flatnonzero(np.isin(index, taken)))


def _or(values: np.ndarray, fallback: list[str] | np.ndarray) -> np.ndarray:
    """(N,) ids, the fallback's where there is none."""
    return np.array([f if v in NO_ID else str(v) for v, f in zip(values, fallback, strict=True)], dtype=object)
