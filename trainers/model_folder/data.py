"""From a Hub dataset to batches: loading and checking the splits, sampling, augmentation.

Every random choice follows from (seed, epoch, position in the epoch) alone, so a run that is resumed, or spread over
other workers or processes, sees the same images cut the same way.
"""

from __future__ import annotations

import io
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from datasets_scripts.command import UserError, what_bytes_are, what_file_is
from datasets_scripts.images import known_formats
from datasets_scripts.rows import Columns
from datasets_scripts.sources.columns import is_saved, load, with_usual_columns
from datasets_scripts.sources.tables import sex_warnings
from datasets_scripts.splits import GIVEN
from datasets_scripts.taxonomy import class_order
from hub_models.image_processing_pixels import PREPARED
from trainers.model_folder.missing_splits import (
    PUBLISHED,
    SPLITS,
    SPLITS_FILE,
    check_images,
    check_labelled,
    no_id,
    split_folders,
    stated_groups,
    usual_name,
    with_all_splits,
    with_class_labels,
    with_every_image,
    with_ids,
)

SAMPLING = ("uniform", "oversample", "square_root")
REQUIRED_COLUMNS = ("image", "label")
# What recipes and commands name where the user names no config.
DEFAULT_CONFIGS = ("grouped", PUBLISHED)
UNKNOWN = "unknown"
# Id -> the one that takes its place where it is missing; in the end the row's own number.
INSTEAD = {"group_id": "lesion_id", "lesion_id": "image_id", "image_id": ""}


@dataclass(frozen=True)
class Splits:
    """The splits of one config, images undecoded.

    Attributes:
        splits: split name -> ``datasets.Dataset``; train and validation are always there.
        labels: the C short class names in label order.
        name: the dataset's name (folder name or repo id).
        config_name: its config.
        left_out: rows of all splits whose class was left out (their ``label`` is 0 and means nothing), or None.
        left_out_classes: the names of these classes.
        ids: ``column``: the column of the groups (None: there is none, each image is a group of its own);
            ``alone``: the groups that are one image without such an id; ``duplicates``: near-duplicates are in one
            group. Empty where nobody looked.
        made: which splits were made here from which, and how; None where all were given.
        label_groups: class -> ``benign``, ``premalignant`` or ``malignant``, where the dataset states it of its own
            classes (column ``malignancy``).
    """

    splits: dict[str, datasets.Dataset]
    labels: list[str]
    name: str
    config_name: str
    left_out: datasets.Dataset | None = None
    left_out_classes: tuple[str, ...] = ()
    ids: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, Any] | None = None
    label_groups: Mapping[str, str] = field(default_factory=dict)
    _read: dict[tuple[str, str], list[Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def column(self, split: str, name: str, default: str = UNKNOWN) -> np.ndarray:
        """One column of one split, (N,); missing values are ``default``, each missing id is the row's own."""
        rows = self.splits[split]
        if (split, name) not in self._read:
            there = name in rows.column_names
            # Reading a column copies the whole table's description: once is enough.
            self._read[split, name] = rows.with_format(None)[name][:] if there else [None] * len(rows)
        values = self._read[split, name]
        if name in INSTEAD:
            numbers = [f"{split}-{row:06d}" for row in range(len(rows))]
            others = self.column(split, INSTEAD[name]) if INSTEAD[name] else numbers
            filled = [other if no_id(value) else value for value, other in zip(values, others, strict=True)]
        else:
            filled = [default if value is None else value for value in values]
        return np.array(filled, dtype=object)

    def in_order(self, labels: Sequence[str], whose: str = "the model") -> Splits:
        """The same splits with the classes in another order, such as that of a model's logits.

        Args:
            labels: the same C class names.
            whose: the owner of the labels, for the message.

        Raises:
            UserError: other classes.
        """
        if list(labels) == self.labels:
            return self
        number = class_order(self.labels, labels)
        if number is None:
            raise UserError(
                f"{whose} has the labels {', '.join(labels)}, the dataset {', '.join(self.labels)}: give a dataset of "
                "the same classes"
            )
        named = datasets.ClassLabel(names=list(labels))

        def renumbered(rows: datasets.Dataset) -> datasets.Dataset:
            # No class of its own (none, or -1) stays so.
            old = rows["label"][:]
            return with_labels(rows, [label if label is None or label < 0 else number[label] for label in old], named)

        ordered = {split: renumbered(rows) for split, rows in self.splits.items()}
        left = None if self.left_out is None else renumbered(self.left_out)
        return replace(self, splits=ordered, labels=list(labels), left_out=left)


def load_splits(
    dataset: str, config_name: str, built_by: str = "", leave_out: str = "", columns: Columns | None = None
) -> Splits:
    """Load a config's splits from a folder or a Hub dataset; those that it lacks are made of its train split.

    Args:
        dataset: folder written by a build_* command, folder with a folder of images for each class, or Hub dataset id.
        config_name: e.g. ``grouped``.
        built_by: the command that builds it, for the message when it is missing.
        leave_out: classes to leave out, separated by commas; empty = none.
        columns: the columns of image, label and group where they have other names; None = the usual names.

    Raises:
        UserError: no such dataset or config, no train split or one too small to make the others of, a missing
            column, one class, or images without a label.
    """
    columns = columns or Columns()
    config_name, loaded = load_tables(dataset, config_name, built_by)
    local = Path(dataset).is_dir()
    tables = {usual_name(name, loaded): rows for name, rows in loaded.items()}
    if "train" not in tables:
        raise UserError(f"config {config_name!r} of {dataset!r} has no train split: it has {', '.join(loaded)}")
    tables = with_usual_columns(tables, columns, Path(dataset) if local else None, repr(dataset))
    features = tables["train"].features
    for column in REQUIRED_COLUMNS:
        if column not in features:
            raise UserError(
                f"dataset {dataset!r} has no column {column!r}: it has {', '.join(features)}; name it with "
                f"--{column}_column; class folders are read where each image lies directly in the folder of its class, "
                "of two classes or more (DIR/CLASS/IMAGE or DIR/SPLIT/CLASS/IMAGE): nothing deeper, no zip file"
            )
    if not isinstance(features["label"], datasets.ClassLabel):
        tables = with_class_labels(tables, dataset)
        features = tables["train"].features
        note(f"column 'label' of {dataset!r}: its {features['label'].num_classes} values are the classes")
    if features["label"].num_classes < 2:
        raise UserError(f"dataset {dataset!r} has one class, {features['label'].names}: give images of two or more")
    check_labelled(tables, dataset)
    undecoded = {name: rows.cast_column("image", datasets.Image(decode=False)) for name, rows in tables.items()}
    check_images(undecoded, dataset)
    if local:
        undecoded, notes = with_every_image(undecoded, Path(dataset))
        for text in notes:
            note(text)
    named, ids = with_ids(undecoded, Path(dataset).resolve() if local else None, columns.group)
    whole, made = with_all_splits(named, ids, config_name, dataset)
    for rows in tables.values():
        if "sex" in rows.column_names:
            for warning in sex_warnings(str(value or "").strip() for value in rows.with_format(None)["sex"][:]):
                note(warning)
    ordered = {name: whole[name] for name in (*SPLITS, *sorted(set(whole) - set(SPLITS))) if name in whole}
    name = Path(dataset).resolve().name if local else dataset
    labels = list(features["label"].names)
    stated = stated_groups(ordered, labels, dataset)
    splits = Splits(ordered, labels, name, config_name, ids=ids, made=made, label_groups=stated)
    if made:
        note(made_in_words(splits))
    return without_classes(splits, [word.strip() for word in leave_out.split(",")]) if leave_out else splits


def load_tables(dataset: str, config_name: str, built_by: str) -> tuple[str, datasets.DatasetDict]:
    """The config's name and its splits as they are stored.

    Raises:
        UserError: no such dataset or config, or it cannot be loaded.
    """
    advice = (
        f"build it with `{built_by}`"
        if built_by
        else "give --dataset the folder a build_* command wrote, a folder with a folder of images for each class, or a "
        "Hub dataset id"
    )
    if not dataset:
        raise UserError(f"no dataset was given: {advice}")
    local = Path(dataset).is_dir()
    if not local and (built_by or dataset.count("/") != 1 or dataset.startswith((".", "/", "~"))):
        what = "is a file" if Path(dataset).is_file() else "does not exist"
        raise UserError(f"the dataset folder {dataset!r} {what}: {advice}")
    for path in sorted(Path(dataset).rglob("*.parquet")) if local else ():
        if instead := what_file_is(path):
            raise UserError(f"dataset {dataset!r}: {path.relative_to(dataset)} holds no rows; {instead}")
    try:
        if is_saved(Path(dataset)):
            return "default", load(dataset)
        config_name = choose_config(dataset, config_name, datasets.get_dataset_config_names(dataset))
        files = split_folders(Path(dataset)) if local else None
        return config_name, datasets.load_dataset(dataset, config_name, data_files=files)
    except UserError:
        raise
    # RuntimeError: a loading script; the others: an answer or a card that datasets runs into.
    except (datasets.exceptions.DatasetsError, OSError, RuntimeError, ValueError, LookupError, TypeError) as error:
        cause = error.__cause__ or error
        raise UserError(f"dataset {dataset!r} cannot be loaded ({type(cause).__name__}: {cause}): {advice}") from error


def choose_config(dataset: str, config_name: str, known: Sequence[str]) -> str:
    """The config to load: the named one; where nobody named another than the usual, the only one, or ``given``.

    Raises:
        UserError: there is no such config; those that there are are named.
    """
    if config_name in known:
        return config_name
    if len(known) == 1 and config_name in DEFAULT_CONFIGS:
        note(f"dataset {dataset!r} has no config {config_name!r}: taken is the only one it has, {known[0]!r}")
        return known[0]
    if GIVEN in known and config_name in DEFAULT_CONFIGS:
        note(f"dataset {dataset!r} has no config {config_name!r}: taken are its own splits, {GIVEN!r}")
        return GIVEN
    raise UserError(
        f"dataset {dataset!r} has no config {config_name!r}: choose one of {', '.join(known)} with --config_name"
    )


def made_in_words(splits: Splits) -> str:
    """One line: which splits were made, of what, how large, and where they are written down."""
    made = splits.made or {}
    sizes = ", ".join(f"{split} {len(splits.splits[split])}" for split in (made["of"], *made["splits"]))
    by = f"grouped by {made['grouped_by']}" if made["grouped_by"] else "by image, as there are no lesion or patient ids"
    return (
        f"the dataset has no {' and no '.join(made['splits'])} split: made of its {made['of']} split, {by}, seed "
        f"{made['seed']} ({sizes} images); {made['file']} of the finished folder names the split of each image"
    )


def write_splits(splits: Splits, folder: Path) -> None:
    """``splits.parquet``: image, group and split of each row, where splits were made here."""
    if splits.made:
        columns: dict[str, list[str]] = {"image_id": [], "group_id": [], "split": []}
        for split, rows in splits.splits.items():
            columns["image_id"] += [str(value) for value in splits.column(split, "image_id")]
            columns["group_id"] += [str(value) for value in splits.column(split, "group_id")]
            columns["split"] += [split] * len(rows)
        pq.write_table(pa.table(columns), folder / SPLITS_FILE, compression="zstd")


def note(text: str) -> None:
    """One line on stderr, by the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {text}", file=sys.stderr, flush=True)


def with_labels(rows: datasets.Dataset, labels: list[int], named: datasets.ClassLabel) -> datasets.Dataset:
    """The same rows with other labels (N,), numbered as ``named`` names them."""
    return rows.remove_columns("label").add_column("label", labels).cast_column("label", named)


def without_classes(splits: Splits, names: Sequence[str]) -> Splits:
    """The same splits without some classes; their rows go into ``left_out``, as ood images of a model that was trained
    without them.

    Raises:
        UserError: a class that is not among the labels, or fewer than two left.
    """
    unknown = [name for name in names if name not in splits.labels]
    if unknown:
        raise UserError(f"the class {unknown[0]!r} cannot be left out: the labels are {', '.join(splits.labels)}")
    kept = [name for name in splits.labels if name not in names]
    if len(kept) < 2:
        raise UserError(f"without {', '.join(names)} only {len(kept)} class is left: leave fewer out")
    number = {splits.labels.index(name): new for new, name in enumerate(kept)}
    inside: dict[str, datasets.Dataset] = {}
    outside: list[datasets.Dataset] = []
    named = datasets.ClassLabel(names=kept)

    def part(rows: datasets.Dataset, labels: np.ndarray, chosen: np.ndarray) -> datasets.Dataset:
        new = [number.get(int(label), 0) for label in labels[chosen]]
        return with_labels(rows.select(np.flatnonzero(chosen)), new, named)

    for split, rows in splits.splits.items():
        labels = np.array(rows["label"][:], dtype=int)
        known = np.isin(labels, list(number))
        inside[split] = part(rows, labels, known)
        outside.append(part(rows, labels, ~known))
    left = datasets.concatenate_datasets(outside)
    groups = {name: group for name, group in splits.label_groups.items() if name in kept}
    return replace(
        splits, splits=inside, labels=kept, left_out=left, left_out_classes=tuple(names), label_groups=groups
    )


class LesionImages(Dataset):
    """One split as tensors: the inputs of the processor's ``model_input_names``, and the label.

    ``{"pixel_values": (3, S, S) float32, "metadata": (M,) float32, "labels": int}``; where a model has no image
    input, no image is read. Indexed by an int (evaluation: no augmentation) or by ``(index, seed)`` as
    ``EpochSampler`` yields (training).

    Raises:
        UserError: a metadata column is missing, or a value in it is outside its vocabulary.
    """

    def __init__(self, rows: datasets.Dataset, processor: Any, augment: Callable | None = None) -> None:
        self.images = rows.select_columns(["image"])
        self.labels = np.array(rows["label"][:], dtype=np.int64)
        self.processor = processor
        self.augment = augment
        self.inputs = list(getattr(processor, "model_input_names", ["pixel_values"]))
        self.metadata = encoded_metadata(rows, processor) if "metadata" in self.inputs else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, seed = key if isinstance(key, tuple) else (key, None)
        item: dict[str, Any] = {"labels": int(self.labels[index])}
        if self.metadata is not None:
            item["metadata"] = self.metadata[index]
        if "pixel_values" in self.inputs:
            item["pixel_values"] = self.pixels(index, seed)
        return item

    def pixels(self, index: int, seed: int | None) -> Tensor:
        """One image (3, S, S), augmented where there is a seed and an augmentation."""
        image = self.read(index)
        if self.augment is not None and seed is not None:
            prepared = self.processor.prepare(image)
            with torch.random.fork_rng(devices=[]):
                # All three: what a worker drew before differs between a resumed run and an uninterrupted one. Of torch
                # the generator of the CPU alone: torch.manual_seed costs more than the augmentation.
                torch.default_generator.manual_seed(seed)
                np.random.seed(seed % 2**32)
                random.seed(seed)
                image = self.augment(prepared)
            # Prepared already: what is left to the processor is what it does to every image, resize and normalise.
            inputs = self.processor(images=image, **PREPARED, return_tensors="pt")
        else:
            inputs = self.processor(images=image, return_tensors="pt")
        return inputs["pixel_values"][0]

    def read(self, index: int) -> Image.Image:
        """The stored image, decoded but otherwise as it lies in the dataset."""
        stored = self.images[int(index)]["image"]
        data = stored_bytes(stored)
        try:
            return Image.open(io.BytesIO(data), formats=known_formats())
        except Image.UnidentifiedImageError as error:
            why = what_bytes_are(data[:1024], len(data)) or "it is no image that is known here: leave it out"
            raise UserError(f"image {int(index)} of the dataset ({stored['path']}): {why}") from error


def stored_bytes(stored: Mapping[str, Any]) -> bytes:
    """The content of an image of a dataset that is not decoded: ``bytes``, or those of the file at ``path``."""
    return bytes(stored["bytes"] or Path(stored["path"]).read_bytes())


def encoded_metadata(rows: datasets.Dataset, processor: Any) -> Tensor:
    """The metadata of a split as the processor encodes it: (N, M) float32.

    Raises:
        UserError: a column is missing, or a value is outside its vocabulary (the image is named).
    """
    fields = list(processor.metadata_fields)
    missing = [name for name in fields if name not in rows.column_names]
    if missing:
        raise UserError(
            f"the dataset has no column {missing[0]!r}, which this model uses (it has "
            f"{', '.join(rows.column_names)}): add it, null where it is unknown, or leave it out of metadata_fields"
        )
    records = rows.select_columns(fields).with_format(None)
    encoded = []
    for number, record in enumerate(records):
        try:
            encoded.append(torch.from_numpy(processor.encode([record])[0]))
        except ValueError as error:
            known = "image_id" in rows.column_names
            name = rows.select_columns(["image_id"])[number]["image_id"] if known else f"number {number}"
            raise UserError(f"image {name}: {error}") from error
    return torch.stack(encoded) if encoded else torch.zeros(0, 0)


class EpochSampler(Sampler):
    """Yields ``(index, seed)`` for one epoch; both follow from (seed, epoch, position) alone.

    ``uniform``: each image once, shuffled. ``oversample``: every class is drawn to the largest class's count, each of
    its images at least once, the rest with replacement (the published Derm-X recipe). ``square_root``: N draws with
    class probability proportional to the square root of its count.

    Args:
        labels: (N,) int.
        mode: one of ``SAMPLING``.
        seed: the run's seed.

    Raises:
        UserError: an unknown mode.
    """

    def __init__(self, labels: np.ndarray, mode: str, seed: int) -> None:
        if mode not in SAMPLING:
            raise UserError(f"sampling {mode!r} is unknown: choose one of {', '.join(SAMPLING)}")
        self.labels, self.mode, self.seed, self.epoch = labels, mode, seed, 0
        self.left_out = 0  # images at the end of each epoch's order
        self.counts = np.bincount(labels)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        drawn = int(self.counts.max() * (self.counts > 0).sum()) if self.mode == "oversample" else len(self.labels)
        return drawn - self.left_out

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = self._order(rng)[: len(self)]
        seeds = rng.integers(0, 2**62, size=len(order))
        return iter(zip(order.tolist(), seeds.tolist(), strict=True))

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        n = len(self.labels)
        if self.mode == "uniform":
            return rng.permutation(n)
        if self.mode == "square_root":
            share = np.sqrt(self.counts) / np.sqrt(self.counts).sum()
            weight = share[self.labels] / self.counts[self.labels]
            return rng.choice(n, size=n, p=weight / weight.sum())
        largest = self.counts.max()
        drawn = []
        for members in (np.flatnonzero(self.labels == c) for c in np.flatnonzero(self.counts)):
            drawn.append(np.concatenate([members, rng.choice(members, size=largest - len(members))]))
        return rng.permutation(np.concatenate(drawn))


def collate(items: list[dict[str, Any]] | dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack items: ``pixel_values`` (B, 3, S, S), ``metadata`` (B, M), whichever there are, and ``labels`` (B,).

    A dataset that returns whole batches has stacked them already.
    """
    return items if isinstance(items, dict) else default_collate(items)
