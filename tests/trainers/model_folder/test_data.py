from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from datasets_scripts.command import UserError
from hub_models import LesionImageProcessor
from trainers.embeddings.cases import load_cases
from trainers.model_folder.data import (
    EpochSampler,
    LesionImages,
    Splits,
    collate,
    load_splits,
    without_classes,
)
from trainers.model_folder.provenance import describe_dataset
from trainers.training.batches import augmentation

LABELS = np.array([0] * 12 + [1] * 4 + [2] * 2)


def indices(sampler: EpochSampler) -> list[int]:
    return [index for index, _ in sampler]


def test_uniform_sampling_takes_each_image_once() -> None:
    assert sorted(indices(EpochSampler(LABELS, "uniform", 0))) == list(range(18))


def test_oversampling_fills_each_class_to_the_largest_and_drops_nobody() -> None:
    sampler = EpochSampler(LABELS, "oversample", 0)
    drawn = indices(sampler)
    assert len(sampler) == len(drawn) == 36
    assert np.bincount(LABELS[drawn]).tolist() == [12, 12, 12]
    assert set(drawn) == set(range(18))


def test_square_root_sampling_draws_classes_by_the_root_of_their_count() -> None:
    labels = np.repeat([0, 1], [900, 100])
    drawn = np.concatenate([labels[indices(_at(EpochSampler(labels, "square_root", 0), e))] for e in range(20)])
    assert len(drawn) == 20_000
    assert np.mean(drawn == 1) == pytest.approx(10 / (30 + 10), abs=0.01)


def _at(sampler: EpochSampler, epoch: int) -> EpochSampler:
    sampler.set_epoch(epoch)
    return sampler


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    first = list(_at(EpochSampler(LABELS, "oversample", 7), 3))
    assert first == list(_at(EpochSampler(LABELS, "oversample", 7), 3))
    assert first != list(_at(EpochSampler(LABELS, "oversample", 7), 4))
    assert first != list(_at(EpochSampler(LABELS, "oversample", 8), 3))


def test_unknown_sampling_and_augmentation_are_named() -> None:
    with pytest.raises(UserError, match="'twice' is unknown"):
        EpochSampler(LABELS, "twice", 0)
    with pytest.raises(UserError, match="'mixup' is unknown"):
        augmentation("mixup", 32)


@pytest.fixture(scope="module")
def images() -> LesionImages:
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(3):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(buffer, format="PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = datasets.Dataset.from_dict({"image": encoded, "label": [0, 1, 0]}, features=features)
    processor = LesionImageProcessor(size={"height": 32, "width": 32})
    return LesionImages(rows, processor, augmentation("crops_colour", 32))


def test_augmentation_follows_its_seed_and_leaves_the_global_generator_alone(images: LesionImages) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (images[(0, seed)]["pixel_values"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_without_augmentation_training_sees_what_the_processor_makes(images: LesionImages) -> None:
    plain = LesionImages.__new__(LesionImages)
    plain.__dict__.update(images.__dict__, augment=augmentation("none", 32))
    seen, expected = plain[(1, 9)]["pixel_values"], images[1]["pixel_values"]
    assert seen.shape == expected.shape == (3, 32, 32)
    assert (seen - expected).abs().max() < 0.06  # two resize implementations, rounded to 8 bits


def test_a_config_that_does_not_exist_is_named_with_the_known_ones(phantom_dataset: Path) -> None:
    with pytest.raises(UserError, match=r"no config 'fold9': choose one of .*grouped"):
        load_splits(str(phantom_dataset), "fold9")


def test_a_missing_dataset_says_which_command_builds_it() -> None:
    with pytest.raises(UserError, match=r"'data/none' does not exist: build it with `python -m b`"):
        load_splits("data/none", "grouped", "python -m b")
    with pytest.raises(UserError, match="give --dataset the folder"):
        load_splits("/no/where", "grouped")


def test_a_hub_dataset_that_cannot_be_reached_is_one_clear_error() -> None:
    with pytest.raises(UserError, match="'nobody/nothing' cannot be loaded"):
        load_splits("nobody/nothing", "grouped")


@pytest.mark.parametrize(("label", "says"), [([1], "ClassLabel"), (1, r"has one class, \['1'\]")])
def test_a_label_column_of_lists_or_of_one_number_is_refused(tmp_path: Path, label: Any, says: str) -> None:
    for split in ("train", "validation"):
        rows = datasets.Dataset.from_dict({"image": [{"bytes": b"x", "path": None}], "label": [label]})
        rows.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(UserError, match=says):
        load_splits(str(tmp_path), "default")


def test_splits_come_in_order_with_their_labels(phantom_dataset: Path) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    assert list(splits.splits) == ["train", "validation", "calibration", "test"]
    assert splits.labels[-1] == "acne"
    assert splits.name == "phantoms"
    assert splits.column("train", "no_such_column").tolist() == ["unknown"] * len(splits.splits["train"])


# ---------------------------------------------------------------------------- classes in another order


def test_classes_are_put_into_another_order_by_name(phantom_dataset: Path) -> None:
    splits = load_splits(str(phantom_dataset), "grouped", leave_out="acne")
    turned = splits.in_order(splits.labels[::-1])
    assert turned.labels == splits.labels[::-1]
    assert turned.left_out is not None
    for split, rows in turned.splits.items():
        assert rows.features["label"].names == turned.labels
        assert turned.column(split, "image_id").tolist() == splits.column(split, "image_id").tolist()
        names = [splits.labels[label] for label in splits.splits[split]["label"][:]]
        assert [turned.labels[label] for label in rows["label"][:]] == names
    assert describe_dataset(turned)["fingerprint"] == describe_dataset(splits)["fingerprint"]
    assert splits.in_order(list(splits.labels)) is splits
    for other in (splits.labels[1:], [*splits.labels[1:], "scc"], [*splits.labels, splits.labels[0]]):
        with pytest.raises(UserError, match="the model has the labels"):
            splits.in_order(other)


def test_cases_follow_their_classes(phantom_dataset: Path) -> None:
    cases = load_cases(load_splits(str(phantom_dataset), "grouped"), "test")
    turned = cases.in_order(cases.labels[::-1])
    assert turned.labels == cases.labels[::-1]
    assert [turned.labels[label] for label in turned.label] == [cases.labels[label] for label in cases.label]


# ------------------------------------------------------------------------------ classes left out


def test_left_out_classes_go_aside_with_their_images(phantom_dataset: Path) -> None:
    whole = load_splits(str(phantom_dataset), "grouped")
    splits = load_splits(str(phantom_dataset), "grouped", leave_out="vasc, df")
    assert splits.labels == [name for name in whole.labels if name not in ("vasc", "df")]
    assert splits.left_out_classes == ("vasc", "df")
    assert splits.left_out is not None
    away = [whole.labels.index(name) for name in ("vasc", "df")]
    gone: list[str] = []
    for split, rows in whole.splits.items():
        old = np.array(rows["label"][:])
        inside = ~np.isin(old, away)
        assert splits.column(split, "image_id").tolist() == whole.column(split, "image_id")[inside].tolist()
        names = [splits.labels[label] for label in splits.splits[split]["label"][:]]
        assert names == [whole.labels[label] for label in old[inside]]
        assert splits.splits[split].features["label"].names == splits.labels
        gone += whole.column(split, "image_id")[~inside].tolist()
    assert splits.left_out["image_id"][:] == gone
    assert splits.left_out[0]["image"]["bytes"] == _row(whole, gone[0])["image"]["bytes"]
    assert whole.left_out is None


def _row(splits: Splits, image_id: str) -> dict[str, Any]:
    for split, rows in splits.splits.items():
        found = np.flatnonzero(splits.column(split, "image_id") == image_id)
        if len(found):
            return dict(rows[int(found[0])])
    raise AssertionError(image_id)


def test_a_split_may_hold_nothing_of_the_class_left_out(phantom_dataset: Path) -> None:
    whole = load_splits(str(phantom_dataset), "grouped")
    vasc = whole.labels.index("vasc")
    counts = {split: int((np.array(rows["label"][:]) == vasc).sum()) for split, rows in whole.splits.items()}
    assert counts["calibration"] == 0
    splits = without_classes(whole, ["vasc"])
    assert len(splits.splits["calibration"]) == len(whole.splits["calibration"])
    assert splits.left_out is not None
    assert len(splits.left_out) == sum(counts.values())


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("vasc,scc", "the class 'scc' cannot be left out: the labels are akiec, bcc"),
        ("vasc,", "the class '' cannot be left out"),
        ("akiec,bcc,bkl,df,mel,nv,vasc", "only 1 class is left: leave fewer out"),
    ],
)
def test_classes_that_cannot_be_left_out_are_named(phantom_dataset: Path, names: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_splits(str(phantom_dataset), "grouped", leave_out=names)


# ------------------------------------------------------------------ records beside the images


@pytest.fixture
def patients() -> datasets.Dataset:
    """Three rows whose images cannot be decoded: whoever reads them fails."""
    features = datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "image_id": datasets.Value("string"),
            "age": datasets.Value("float32"),
            "sex": datasets.Value("string"),
        }
    )
    values = {
        "image": [{"bytes": b"no image", "path": None}] * 3,
        "label": [0, 1, 0],
        "image_id": ["one", "two", "three"],
        "age": [75.0, None, 25.0],
        "sex": ["female", "unknown", "male"],
    }
    return datasets.Dataset.from_dict(values, features=features)


def test_metadata_is_encoded_and_no_image_is_read(patients: datasets.Dataset) -> None:
    processor = LesionImageProcessor(model_input_names=["metadata"], metadata_fields=["age", "sex"])
    rows = LesionImages(patients, processor, augmentation("crops_colour", 32))
    batch = collate([rows[0], rows[(1, 9)], rows[2]])
    assert set(batch) == {"metadata", "labels"}
    assert batch["metadata"].tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [-1, 0, 0, 1, 0]]
    assert batch["metadata"].dtype == torch.float32
    assert batch["labels"].tolist() == [0, 1, 0]


def test_images_and_metadata_go_side_by_side(images: LesionImages, patients: datasets.Dataset) -> None:
    stored = [images.images[i]["image"] for i in range(3)]
    rows = patients.remove_columns("image").add_column("image", stored, feature=datasets.Image(decode=False))
    processor = LesionImageProcessor(
        size={"height": 32, "width": 32}, model_input_names=["pixel_values", "metadata"], metadata_fields=["sex"]
    )
    both = LesionImages(rows, processor, images.augment)
    batch = collate([both[(0, 4)], both[1]])
    assert torch.equal(batch["pixel_values"][0], images[(0, 4)]["pixel_values"])
    assert torch.equal(batch["pixel_values"][1], images[1]["pixel_values"])
    assert batch["metadata"].tolist() == [[1, 0, 0], [0, 0, 1]]


def test_bad_metadata_names_its_image(patients: datasets.Dataset) -> None:
    processor = LesionImageProcessor(model_input_names=["metadata"], metadata_fields=["age", "sex"])
    for column, value, says in (
        ("age", -3.0, "image two: age is -3.0"),
        ("sex", "x", "image two: sex is 'x'; give one"),
    ):
        wrong = patients.map(lambda row, c=column, v=value: {c: v if row["image_id"] == "two" else row[c]})
        with pytest.raises(UserError, match=says):
            LesionImages(wrong, processor)


def test_a_dataset_without_the_models_columns_is_refused(patients: datasets.Dataset) -> None:
    processor = LesionImageProcessor(model_input_names=["metadata"], metadata_fields=["age", "localization"])
    with pytest.raises(UserError, match=r"no column 'localization', which this model uses \(it has image"):
        LesionImages(patients, processor)


@pytest.mark.parametrize(
    ("content", "named"),
    [(b"", "0 bytes"), (b"version https://git-lfs.github.com/spec/v1\nsize 99\n", "LFS"), (b"<html>", "web page")],
)
def test_a_pointer_in_place_of_the_rows_is_named(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.parquet").write_bytes(content)
    with pytest.raises(UserError, match=rf"train-00000\.parquet holds no rows; .*{named}"):
        load_splits(str(tmp_path), "grouped")
