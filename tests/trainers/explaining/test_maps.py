"""Numbers of single heat maps, against values worked out by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import spearmanr

from trainers.explaining.maps import (
    agreement,
    blob_as_spread_as,
    centred_blob,
    energy_inside,
    likeness,
    pointing_hit,
    random_map,
    rank_rows,
    spread_of,
)

HEAT = np.array([[1.0, 3.0], [0.0, 4.0]], dtype=np.float32)
MASK = np.array([[True, False], [False, True]])


def test_energy_is_the_share_of_the_sum_on_the_lesion() -> None:
    assert energy_inside(HEAT, MASK) == pytest.approx(5 / 8)
    assert energy_inside(HEAT, np.ones((2, 2), dtype=bool)) == 1
    assert energy_inside(HEAT, np.zeros((2, 2), dtype=bool)) == 0
    assert energy_inside(np.full((4, 5), 0.3), np.arange(20).reshape(4, 5) < 7) == pytest.approx(7 / 20)
    assert math.isnan(energy_inside(np.zeros((2, 2)), MASK))


def test_the_pointing_game_asks_for_the_highest_point_alone() -> None:
    assert pointing_hit(HEAT, MASK) == 1
    assert pointing_hit(HEAT, ~MASK) == 0
    assert pointing_hit(np.array([[2.0, 2.0], [2.0, 0.0]]), MASK) == pytest.approx(1 / 3)
    assert math.isnan(pointing_hit(np.zeros((2, 2)), MASK))


def test_spread_is_the_share_of_the_image_that_is_lit() -> None:
    lit = np.zeros((6, 10))
    lit[1:4, 2:4] = 0.7
    assert spread_of(lit) == pytest.approx(6 / 60)
    assert spread_of(np.full((3, 3), 0.2)) == pytest.approx(1)
    assert spread_of(HEAT) == pytest.approx(2.0**2 / ((1 + 9 + 16) / 4))
    assert math.isnan(spread_of(np.zeros((3, 3))))


def test_likeness_is_spearmans_with_ties() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 6, (2, 4, 7, 9)).astype(float)
    found = likeness(rank_rows(one), rank_rows(other))
    for row in range(4):
        assert found[row] == pytest.approx(spearmanr(one[row].ravel(), other[row].ravel()).statistic)
    assert likeness(rank_rows(one), rank_rows(one**3)) == pytest.approx(np.ones(4))
    assert likeness(rank_rows(one), rank_rows(-one)) == pytest.approx(-np.ones(4))
    assert np.isnan(likeness(rank_rows(one), rank_rows(np.zeros_like(one)))).all()


def test_members_agree_by_the_mean_of_all_pairs() -> None:
    members = np.random.default_rng(1).random((3, 2, 5, 5))
    members[2, 1] = 0.0  # one member saw nothing in the second image
    flat = members.reshape(3, 2, -1)
    pairs = [spearmanr(flat[a, 0], flat[b, 0]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
    assert agreement(members) == pytest.approx([np.mean(pairs), spearmanr(flat[0, 1], flat[1, 1]).statistic])
    assert np.isnan(agreement(members[:1])).all()


def test_noise_has_the_energy_of_a_map_without_preference() -> None:
    mask = centred_blob((96, 128), 0.2) > 0.5
    rng = np.random.default_rng(2)
    drawn = [random_map((96, 128), rng) for _ in range(400)]
    assert drawn[0].shape == (96, 128)
    assert drawn[0].max() == 1
    assert drawn[0].min() >= 0
    assert np.mean([energy_inside(one, mask) for one in drawn]) == pytest.approx(mask.mean(), abs=0.01)
    assert np.mean([pointing_hit(one, mask) for one in drawn]) == pytest.approx(mask.mean(), abs=0.06)
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("size", [(64, 64), (48, 90)])
@pytest.mark.parametrize("spread", [0.02, 0.2, 0.5, 0.9])
def test_the_blob_has_the_given_spread_and_is_in_the_middle(size: tuple[int, int], spread: float) -> None:
    blob = blob_as_spread_as(spread, size)
    assert spread_of(blob) == pytest.approx(spread, rel=0.03)
    rows, columns = np.indices(size)
    assert (blob * rows).sum() / blob.sum() == pytest.approx((size[0] - 1) / 2)
    assert (blob * columns).sum() / blob.sum() == pytest.approx((size[1] - 1) / 2)
    highest = np.argwhere(blob == blob.max())
    assert highest.mean(axis=0) == pytest.approx([(side - 1) / 2 for side in size])
    assert len(highest) == 4
    assert blob == pytest.approx(blob[::-1, ::-1])


def test_a_gaussian_falls_to_exp_minus_a_half_at_one_deviation() -> None:
    blob = centred_blob((101, 101), 20 / 101)
    assert blob[50, 50] == 1
    assert blob[50, 70] == pytest.approx(math.exp(-0.5))
    assert blob[30, 50] == pytest.approx(math.exp(-0.5))
