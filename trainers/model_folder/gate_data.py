"""Images of further sources, labelled or not, that the gate alone is fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from datasets_scripts.command import UserError
from datasets_scripts.duplicates import find_duplicates
from datasets_scripts.images import images_in, scan_all
from datasets_scripts.rows import Row
from trainers.metrics.predictions import NO_LABEL, Predictions
from trainers.model_folder.data import Splits, load_tables, note, stored_bytes
from trainers.model_folder.missing_splits import check_images, no_id, usual_name
from trainers.model_folder.predict import predict_ood, predict_split
from trainers.trust.options import TrustOptions

# Images of one source; of more a sample is drawn, so that no source outweighs the calibration split by far.
MOST = 2000
IDS = ("image_id", "lesion_id", "group_id")


def gate_sets(
    model: Any,
    processor: Any,
    sources: Sequence[str],
    splits: Splits,
    options: TrustOptions,
    split: str = "",
) -> dict[str, Predictions]:
    """Name -> predictions of the images of a source, without labels.

    Args:
        model: a model of the suite.
        processor: its image processor.
        sources: dataset folders, folders of images at any depth, or Hub dataset ids.
        splits: the dataset whose test split none of these images may be in.
        options: how the model is run; the seed of the sample, where there are more than ``MOST``.
        split: of the datasets; empty = all but test.

    Raises:
        UserError: a model without image input, an absent dataset or split, no images, two of one name, or an image, a
            lesion or a group of the test split.
    """
    if sources and "pixel_values" not in model.input_names:
        raise UserError("--gate_dataset was given, but this model has no image input: leave it out")
    found: dict[str, Predictions] = {}
    for source in sources:
        folder = Path(source).is_dir() and not any(Path(source).rglob("*.parquet"))
        name = Path(source).resolve().name if Path(source).is_dir() else source
        if name in found:
            raise UserError(f"--gate_dataset names {name!r} twice: rename one, the report identifies it by its name")
        if folder:
            paths = images_in(Path(source).resolve())[0]
            _refuse_shared(name, [path.read_bytes for path in paths], splits)
            rows = predict_ood(model, processor, Path(source).resolve(), inference=options.inference)
        else:
            rows = _predict_table(model, processor, source, name, splits, options, split)
        found[name] = replace(rows, split=f"ood_{name}", label=np.full(len(rows), NO_LABEL, dtype=np.int64))
    return found


def _predict_table(
    model: Any, processor: Any, source: str, name: str, splits: Splits, options: TrustOptions, split: str
) -> Predictions:
    """Predictions of a dataset's images; the label is 0 and means nothing."""
    try:
        config_name, loaded = load_tables(source, splits.config_name, "")
    except UserError as error:
        raise UserError(f"--gate_dataset: {error}") from error
    tables = {usual_name(key, loaded): rows for key, rows in loaded.items()}
    chosen = [key for key in tables if (key == split if split else key != "test")]
    if not chosen:
        raise UserError(f"--gate_dataset {source!r} has no split {split or 'but test'!r}: it has {', '.join(loaded)}")
    if any("image" not in tables[key].column_names for key in chosen):
        raise UserError(f"--gate_dataset {source!r} has no column 'image'")
    kept = {key: tables[key].cast_column("image", datasets.Image(decode=False)) for key in chosen}
    check_images(kept, source)
    bare = [rows.remove_columns("label") if "label" in rows.column_names else rows for rows in kept.values()]
    rows = datasets.concatenate_datasets(bare)
    if not len(rows):
        raise UserError(f"--gate_dataset {source!r} holds no image: leave it out")
    if len(rows) > MOST:
        note(f"of the {len(rows):,} images of {name!r} the gate is fitted on {MOST:,}, drawn with seed {options.seed}")
        rows = rows.select(np.sort(np.random.default_rng(options.seed).permutation(len(rows))[:MOST]))
    _refuse_shared(name, _readers(rows), splits, {key: _ids(rows, key) for key in IDS})
    named = datasets.ClassLabel(names=list(splits.labels))
    rows = rows.add_column("label", [0] * len(rows)).cast_column("label", named)
    part = Splits({"gate": rows}, list(splits.labels), name, config_name)
    return predict_split(model, processor, part, "gate", named=f"gate_{name}", inference=options.inference)


def _refuse_shared(
    name: str, readers: Sequence[Callable[[], bytes]], splits: Splits, ids: dict[str, set[str]] | None = None
) -> None:
    """Compare with the test split, by ids and by content.

    Raises:
        UserError: they share an image, a lesion or a group.
    """
    test = splits.splits.get("test")
    if test is None or not readers:
        return
    for key, values in (ids or {}).items():
        if shared := values & _ids(test, key):
            raise UserError(
                f"--gate_dataset {name!r} shares {len(shared)} {key} with the test split (such as {min(shared)!r}): "
                "the gate would be evaluated on images that it was fitted on; leave them out"
            )
    every = [*_readers(test), *readers]
    rows = [Row(f"{name}, number {number}", "", read, "") for number, read in enumerate(every, -len(test))]
    scans = scan_all(rows)
    pairs = find_duplicates([scan.pixels_sha256 for scan in scans], np.stack([scan.thumb for scan in scans]))
    shared_images = {second for first, second in [*pairs.exact, *pairs.near] if first < len(test) <= second}
    if shared_images:
        raise UserError(
            f"--gate_dataset {name!r} shares {len(shared_images)} images with the test split (the same pixels, or a "
            f"near duplicate; the first is number {min(shared_images) - len(test)}): the gate would be evaluated on "
            "images that it was fitted on; leave them out"
        )


def _readers(rows: datasets.Dataset) -> list[Callable[[], bytes]]:
    """The content of each image, read when called."""
    images = rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))
    return [partial(_read, images, number) for number in range(len(images))]


def _read(images: datasets.Dataset, number: int) -> bytes:
    return stored_bytes(images[number]["image"])


def _ids(rows: datasets.Dataset, key: str) -> set[str]:
    values = rows.with_format(None)[key][:] if key in rows.column_names else []
    return {str(value) for value in values if not no_id(value)}
