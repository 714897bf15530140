from __future__ import annotations

import colorsys
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from small_images import SIDE, encoded, photograph, processor, rows_of
from torch.utils.data import BatchSampler, DataLoader

from trainers.model_folder.data import EpochSampler, collate
from trainers.training.arguments import AUGMENTATIONS
from trainers.training.batches import (
    GREY,
    RECIPES,
    TRIES,
    AugmentedImages,
    colour_matrices,
    coloured,
    coloured_on_cpu,
    crop_boxes,
    normalised,
    to_pixel_values,
    uniforms,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def images(folder: Path | str, augmentation: str = "crops_colour", **more: Any) -> AugmentedImages:
    files = [encoded(photograph(number, (60, 45))) for number in range(10)]
    return AugmentedImages(rows_of(files), processor(**more), augmentation, str(folder))


def loader(dataset: AugmentedImages, batches: Any, workers: int = 0) -> Any:
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers)


def joined(batches: Any) -> torch.Tensor:
    return torch.cat([to_pixel_values(batch)["pixel_values"] for batch in batches])


def test_every_augmentation_has_a_recipe() -> None:
    assert set(AUGMENTATIONS) <= set(RECIPES)


def test_draws_are_uniform_and_follow_from_their_seed_alone() -> None:
    # The first outputs of the generator for seed 1234567, as its authors' C code prints them.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert uniforms([1234567], 3)[0].tolist() == [(value >> 11) * 2.0**-53 for value in published]
    drawn = uniforms(range(20_000), 4)
    assert np.array_equal(drawn[7:9], uniforms([7, 8], 4))
    assert np.abs(drawn.mean(axis=0) - 0.5).max() < 4 * 12**-0.5 / 20_000**0.5
    assert np.abs(np.corrcoef(drawn, rowvar=False) - np.eye(4)).max() < 0.03


def test_crops_have_the_area_and_ratio_of_the_recipe() -> None:
    sizes = np.tile([[400, 300], [300, 300], [900, 100]], (700, 1))
    left, top, width, height = crop_boxes(uniforms(range(2100), 2 * TRIES + 2), sizes, 0.6, 1.25).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= sizes[:, 0]).all()
    assert (top + height <= sizes[:, 1]).all()
    share = (width * height / sizes.prod(axis=1)).reshape(-1, 3)
    ratio = (width / height).reshape(-1, 3)
    assert share[:, :2].min() > 0.59
    assert ratio.min() > 0.79
    assert ratio.max() < 1.26
    assert 0.75 < share[:, 1].mean() < 0.81
    # No crop of a long strip has an allowed ratio: the largest in its middle that has one.
    assert {tuple(box) for box in np.stack([left, top, width, height], axis=1)[2::3]} == {(387, 0, 125, 100)}


def test_colour_is_brightness_contrast_saturation_and_a_turn_of_hue() -> None:
    pixel, mean = np.array([200.0, 80.0, 40.0]), 120.0
    middle = np.full((1, 4), 0.5)

    def changed(column: int, draw: float) -> np.ndarray:
        draws = middle.copy()
        draws[0, column] = draw
        chart = colour_matrices(draws, np.array([mean]), 0.2, 0.05)[0]
        return np.asarray(chart[:, :3] @ pixel + chart[:, 3])

    assert changed(0, 0.5) == pytest.approx(pixel)
    assert changed(0, 1.0) == pytest.approx(1.2 * pixel)
    assert changed(1, 0.0) == pytest.approx(0.8 * pixel + 0.2 * mean)
    assert changed(2, 0.0) == pytest.approx(0.8 * pixel + 0.2 * GREY @ pixel)
    turned = changed(3, 1.0)
    assert GREY @ turned == pytest.approx(GREY @ pixel)
    before, after = (colorsys.rgb_to_hsv(*(colour / 255))[0] for colour in (pixel, turned))
    assert abs((after - before + 0.5) % 1 - 0.5) == pytest.approx(0.05, abs=0.03)
    # All four together: one after the other.
    chart = colour_matrices(np.ones((1, 4)), np.array([mean]), 0.2, 0.05)[0]
    step = 1.2 * pixel
    step = 1.2 * step - 0.2 * 1.2 * mean
    step = 1.2 * step - 0.2 * GREY @ step
    spin = colour_matrices(np.array([[0.5, 0.5, 0.5, 1.0]]), np.zeros(1), 0.2, 0.05)[0, :, :3]
    assert chart[:, :3] @ pixel + chart[:, 3] == pytest.approx(spin @ step)


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
def test_without_augmentation_training_sees_what_the_processor_makes(mode: str, folder: Path) -> None:
    dataset = images(folder, "none", resize_mode=mode)
    seen = to_pixel_values(dataset.__getitems__([(number, 5) for number in range(10)]))
    assert seen["labels"].tolist() == [0, 1] * 5
    expected = [
        dataset.processor(images=photograph(number, (60, 45)), return_tensors="pt")["pixel_values"]
        for number in range(10)
    ]
    assert (seen["pixel_values"] - torch.cat(expected)).abs().max() < 1e-5


def test_a_crop_is_resized_nearly_as_the_processor_does(folder: Path) -> None:
    dataset = images(folder)
    # No wide crop fits, so the largest of ratio 1.25 in the middle is taken: 56 of 60 pixels.
    whole = dataset.cut([dataset.images[3]], np.ones((1, 2 * TRIES + 2)) - 1e-9)[0]
    seen = photograph(3, (60, 45)).crop((2, 0, 58, 45))
    raw = dataset.processor(images=seen, return_tensors="np", do_normalize=False, do_rescale=False)["pixel_values"][0]
    assert np.abs(whole - np.moveaxis(raw, 0, -1).astype(float)).mean() < 2.0  # of 255


@pytest.mark.parametrize("augmentation", RECIPES)
def test_crops_follow_from_seed_epoch_and_position_alone(augmentation: str, folder: Path) -> None:
    dataset = images(folder, augmentation)
    sampler = EpochSampler(dataset.labels, "oversample", 3)
    sampler.set_epoch(2)
    batches = BatchSampler(sampler, 3, drop_last=False)
    whole = list(loader(dataset, batches))
    assert not torch.equal(whole[0]["pixel_values"], whole[1]["pixel_values"])
    pixels = joined(whole)
    # No cache; a batch of another size; a part of the epoch, as after a resume.
    assert torch.equal(joined(loader(images("none", augmentation), BatchSampler(sampler, 4, drop_last=False))), pixels)
    rest = list(itertools.islice(BatchSampler(sampler, 3, drop_last=False), 2, None))
    assert torch.equal(joined(loader(dataset, rest)), pixels[6:])
    # Two processes: every second batch each; the last is filled up from the first images.
    shards = [list(loader(dataset, BatchSamplerShard(batches, 2, number))) for number in (0, 1)]
    again = joined(itertools.chain(*zip(*shards, strict=True)))
    assert torch.equal(again[: len(pixels)], pixels)
    sampler.set_epoch(3)
    assert not torch.equal(joined(loader(dataset, batches)), pixels)


def test_workers_read_the_same_file_and_give_the_same_batches(folder: Path) -> None:
    dataset = images(folder)
    batches = list(BatchSampler(EpochSampler(dataset.labels, "uniform", 0), 4, drop_last=False))
    assert torch.equal(joined(loader(dataset, batches, workers=2)), joined(loader(dataset, batches)))


def test_both_ways_to_colour_agree_and_stay_in_bounds(folder: Path) -> None:
    dataset = images(folder, "wide_crops", image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    batch = dataset.__getitems__([(number, number) for number in range(10)])
    cpu, cuda = (step(batch["pixel_values"], batch["colour"]) for step in (coloured_on_cpu, coloured))
    assert cpu.shape == cuda.shape == (10, 3, SIDE, SIDE)
    assert cpu.is_contiguous(memory_format=torch.channels_last)
    assert (cpu - cuda).abs().max() < 1e-5
    low, high = (-0.4 / 0.2, -0.5 / 0.3, -0.6 / 0.4), (0.6 / 0.2, 0.5 / 0.3, 0.4 / 0.4)
    extreme = batch["colour"] * torch.tensor([9.0, 9, 9, 9, 1, 1])
    clipped = coloured(batch["pixel_values"], extreme)
    assert clipped.amin(dim=(0, 2, 3)).tolist() == pytest.approx(low, abs=1e-5)
    assert clipped.amax(dim=(0, 2, 3)).tolist() == pytest.approx(high, abs=1e-5)
    plain = normalised(np.eye(3, 4)[None], processor(do_normalize=False, do_rescale=False))[0]
    assert plain[:, 4:].tolist() == [[0.0, 255.0]] * 3


def test_flips_turns_and_rotation_move_the_image_as_named(folder: Path) -> None:
    dataset = images(folder, "turns")
    image = dataset.images[0]
    for across, down, turned in itertools.product((False, True), repeat=3):
        moved = image.copy()
        dataset.move(moved, np.array([0.9 - 0.8 * across, 0.9 - 0.8 * down, 0.9 - 0.8 * turned, 0.5]))
        expected = image[::-1] if down else image
        expected = expected[:, ::-1] if across else expected
        assert np.array_equal(moved, np.rot90(expected) if turned else expected)
    rotated = images(folder, "flips_rotation")
    still, most = image.copy(), image.copy()
    rotated.move(still, np.array([0.9, 0.9, 0.9, 0.5]))
    assert np.array_equal(still, image)
    rotated.move(most, np.array([0.9, 0.9, 0.9, 1.0]))
    assert (most[0, 0] == 0).all()
    assert np.abs(most[12:20, 12:20].astype(int) - image[12:20, 12:20]).mean() < 20
