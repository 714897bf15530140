"""Deletion and insertion on a model whose probability is known for every image."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from trainers.explaining import measure
from trainers.explaining.measure import blurred, curves, places


class Sum:
    """Logits (sum of the pixels, extra input): the probability of class 0 hangs on every pixel alone."""

    def __call__(self, pixel_values: torch.Tensor, extra: torch.Tensor, return_dict: bool) -> Any:
        assert return_dict
        assert len(pixel_values) == len(extra)
        return SimpleNamespace(logits=torch.stack([pixel_values.sum((1, 2, 3)), extra[:, 0]], dim=1))


IMAGE = torch.tensor([[[[3.0, 1.0], [2.0, 0.0]]]])
INPUTS = {"pixel_values": IMAGE, "extra": torch.tensor([[0.5]])}


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_curves_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "blurred", torch.zeros_like)
    best = places(IMAGE[0, 0].numpy(), np.random.default_rng(0))
    assert best.tolist() == [[0, 2], [1, 3]]
    deletion, insertion = curves(Sum(), INPUTS, 0, [best, 3 - best], steps=4)
    # 3, 2, 1 and 0 are taken away one after the other from a sum of 6; then in the opposite order.
    assert deletion[0] == pytest.approx([sigmoid(left - 0.5) for left in (6, 3, 1, 0, 0)])
    assert deletion[1] == pytest.approx([sigmoid(left - 0.5) for left in (6, 6, 5, 3, 0)])
    assert insertion[0] == pytest.approx([sigmoid(there - 0.5) for there in (0, 3, 5, 6, 6)])
    assert insertion[1] == pytest.approx([sigmoid(there - 0.5) for there in (0, 0, 1, 3, 6)])
    other, _ = curves(Sum(), INPUTS, 1, [best], steps=2)
    assert other[0] == pytest.approx([1 - sigmoid(5.5), 1 - sigmoid(0.5), 1 - sigmoid(-0.5)])


def test_many_images_are_predicted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "blurred", torch.zeros_like)
    order = places(IMAGE[0, 0].numpy(), np.random.default_rng(0))
    whole = curves(Sum(), INPUTS, 0, [order] * 3, steps=4)
    monkeypatch.setattr(measure, "AT_ONCE", 5)
    for one, other in zip(whole, curves(Sum(), INPUTS, 0, [order] * 3, steps=4), strict=True):
        assert np.array_equal(one, other)


def test_equal_pixels_come_in_an_order_of_chance() -> None:
    heat = np.zeros((8, 8))
    heat[3, 4] = 1.0
    found = [places(heat, np.random.default_rng(seed)) for seed in range(200)]
    for one in found:
        assert one[3, 4] == 0
        assert sorted(one.ravel().tolist()) == list(range(64))
    assert np.mean([one[0, 0] for one in found]) == pytest.approx(32, abs=4)
    assert np.array_equal(places(heat, np.random.default_rng(7)), found[7])


@pytest.mark.parametrize("size", [(40, 40), (32, 48), (8, 8)])
def test_the_blur_keeps_the_light_and_takes_the_detail(size: tuple[int, int]) -> None:
    even = torch.full((1, 3, *size), 0.7)
    assert torch.allclose(blurred(even), even, atol=1e-5)
    checks = torch.from_numpy(np.indices(size).sum(axis=0) % 2).float().expand(1, 3, *size)
    assert (blurred(checks) - 0.5).abs().max() < 0.16
    spot = torch.zeros(1, 1, *size)
    spot[..., size[0] // 2, size[1] // 2] = 1.0
    weights = blurred(spot)[0, 0].numpy()
    down, across = np.indices(size)
    width = measure.BLUR * min(size)
    for axis, middle in ((down, size[0] // 2), (across, size[1] // 2)):
        assert (weights * (axis - middle) ** 2).sum() / weights.sum() == pytest.approx(width**2, rel=0.1, abs=0.15)
