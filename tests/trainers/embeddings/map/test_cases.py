"""Splits as cases: ids that are missing, splits that are, and draws of whole lesions."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest

from datasets_scripts.command import UserError
from datasets_scripts.phantom import draw
from trainers.embeddings.cases import load_cases, whole_lesions
from trainers.model_folder.data import Splits, load_splits


def splits_of(**columns: list[object]) -> Splits:
    """A dataset of two classes in memory whose ``train`` has these columns."""
    png = draw("nv", 1, (32, 24)).png()
    n = len(next(iter(columns.values())))
    columns = {"image": [{"bytes": png, "path": None}] * n, "label": [i % 2 for i in range(n)], **columns}
    features = datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "label": datasets.ClassLabel(names=["mel", "nv"]),
            **{name: datasets.Value("string") for name in columns if name not in ("image", "label")},
        }
    )
    table = datasets.Dataset.from_dict(columns, features=features)
    return Splits({"train": table, "empty": table.select([])}, ["mel", "nv"], "made", "default")


def test_a_row_without_a_lesion_is_its_own() -> None:
    cases = load_cases(splits_of(image_id=["a", "b", "c", "d"], lesion_id=["L", None, "unknown", "L"]), "train")
    assert cases.lesion_id.tolist() == ["L", "b", "c", "L"]
    assert cases.group_id.tolist() == ["L", "b", "c", "L"]
    assert cases.n_groups == 3
    assert cases.counts() == {"mel": 2, "nv": 2}
    assert cases.column("attribution") == ["unknown"] * 4


def test_rows_without_any_id_are_numbered() -> None:
    cases = load_cases(splits_of(sex=["f", "m"]), "train")
    assert cases.image_id.tolist() == ["train-000000", "train-000001"]
    assert cases.select(np.array([1])).image_id.tolist() == ["train-000001"]


def test_a_split_that_is_absent_or_empty() -> None:
    splits = splits_of(image_id=["a"])
    with pytest.raises(UserError, match=r"config 'default' of 'made' has no split 'tset': choose among train, empty"):
        load_cases(splits, "tset")
    with pytest.raises(UserError, match="'empty' of 'made' holds no image"):
        load_cases(splits, "empty")


def test_a_draw_keeps_lesions_whole(phantom_dataset: Path) -> None:
    cases = load_cases(load_splits(str(phantom_dataset), "grouped"), "train")
    assert whole_lesions(cases, len(cases), 0) is cases
    drawn = whole_lesions(cases, 40, 0)
    assert 30 < len(drawn) <= 40
    for group in set(drawn.group_id.tolist()):
        assert (drawn.group_id == group).sum() == (cases.group_id == group).sum()
    assert drawn.image_id.tolist() == whole_lesions(cases, 40, 0).image_id.tolist()
    assert drawn.image_id.tolist() != whole_lesions(cases, 40, 1).image_id.tolist()
    # What reads a split reads these rows alone.
    assert drawn.rows["image_id"][:] == drawn.image_id.tolist()


def test_an_image_that_cannot_be_read_is_named() -> None:
    splits = splits_of(image_id=["good", "bad"])
    rows = [
        {**row, "image": {"bytes": b"no image", "path": None}} if i else row
        for i, row in enumerate(splits.splits["train"])
    ]
    broken = Splits(
        {"train": datasets.Dataset.from_list(rows, features=splits.splits["train"].features)},
        splits.labels,
        "made",
        "default",
    )
    photos = load_cases(broken, "train").images("look")
    assert next(photos).size == (32, 24)
    with pytest.raises(UserError, match="image bad of the train split cannot be read"):
        next(photos)
