"""The shipped scores: values by hand, finite for what is finite, the same however a batch is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hub_models.ood_lesion import (
    BUFFERS,
    DETECTORS,
    EARLY,
    DetectorBufferError,
    UnknownDetectorError,
    channel_statistics,
)
from hub_models.ood_lesion import ood_score as scored

WIDTH, DIMENSIONS, CLASSES = 24, 5, 3


def ood_score(name, features, raw_logits, temperature=1.0, settings=None, buffers=None):
    """The score of detectors that look at an early layer too: the features stand for it."""
    early = features if name in EARLY else None
    return scored(name, features, raw_logits, temperature, settings, buffers, early)


def fitted(seed: int = 0) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Settings and buffers that every detector can work with."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(WIDTH, DIMENSIONS, generator=generator)).Q
    buffers = {
        "mean": torch.randn(WIDTH, generator=generator) / 10,
        "projection": axes,
        "class_means": torch.randn(CLASSES, DIMENSIONS, generator=generator) / 5,
        "bank": torch.randn(40, DIMENSIONS, generator=generator) / 5,
    }
    return {"k": 4, "alpha": 0.7}, buffers


def drawn(n: int, members: int = 0, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (n, members, CLASSES) if members else (n, CLASSES)
    return torch.randn(n, WIDTH, generator=generator).relu(), 3 * torch.randn(shape, generator=generator)


def test_logit_scores_by_hand():
    logits = torch.log(torch.tensor([[[8.0, 2.0], [1.0, 3.0]]]))
    features = torch.zeros(1, 2)
    # Mean of the members' probabilities (0.8, 0.2) and (0.25, 0.75).
    assert ood_score("max_softmax", features, logits).item() == pytest.approx(1 - 0.525)
    assert ood_score("max_logit", features, logits).item() == pytest.approx(-(math.log(8) + math.log(3)) / 2)
    assert ood_score("energy", features, logits).item() == pytest.approx(-(math.log(10) + math.log(4)) / 2)


def test_temperature_moves_max_softmax_alone():
    features, logits = drawn(6)
    settings, buffers = fitted()
    for name in DETECTORS:
        one, two = (ood_score(name, features, logits, t, settings, buffers) for t in (1.0, 2.0))
        assert torch.equal(one, two) == (name != "max_softmax")
    halved = torch.softmax(logits / 2, dim=-1).amax(dim=-1)
    assert ood_score("max_softmax", features, logits, 2.0).numpy() == pytest.approx(1 - halved.numpy())


def test_mahalanobis_by_hand():
    # (3, 4) scaled to length 1 is (0.6, 0.8); twice the second axis stands for a deviation of a half along it.
    buffers = {
        "mean": torch.tensor([0.1, 0.3]),
        "projection": torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
        "class_means": torch.tensor([[0.5, 0.0], [0.0, 0.8]]),
    }
    score = ood_score("mahalanobis", torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), 1.0, {}, buffers)
    assert score.item() == pytest.approx(min(0.0**2 + 1.0**2, 0.5**2 + 0.2**2))


def test_mahalanobis_of_statistics_keeps_their_length():
    buffers = {"mean": torch.tensor([1.0, 2.0]), "projection": torch.eye(2), "class_means": torch.tensor([[0.0, 1.0]])}
    early, logits = torch.tensor([[3.0, 4.0], [3e30, -3e30]]), torch.zeros(2, 2)
    score = scored("early_mahalanobis", early, logits, 1.0, {"unit_length": 0}, buffers, early)
    assert score[0].item() == pytest.approx(2.0**2 + 1.0**2)
    assert torch.isfinite(score).all()
    assert score[1] > 1e20


def test_nearest_neighbours_by_hand():
    buffers = {
        "mean": torch.zeros(2),
        "projection": torch.eye(2),
        "bank": torch.tensor([[0.6, 0.8], [0.6, 0.7], [0.6, 0.3], [-0.6, -0.8]]),
    }
    features = torch.tensor([[30.0, 40.0]])
    for k, distance in ((1, 0.0), (2, 0.1), (3, 0.5), (4, 2.0)):
        score = ood_score("nearest_neighbours", features, torch.zeros(1, 2), 1.0, {"k": k}, buffers)
        assert score.item() == pytest.approx(distance, abs=1e-6)


def test_vim_by_hand():
    buffers = {"mean": torch.tensor([1.0, 1.0, 0.0]), "projection": torch.tensor([[0.6], [0.8], [0.0]])}
    # (4, 5, 12) less the mean is (3, 4, 12): 5 along the axis, 12 outside it.
    features, logits = torch.tensor([[4.0, 5.0, 12.0]]), torch.log(torch.tensor([[2.0, 6.0]]))
    score = ood_score("vim", features, logits, 1.0, {"alpha": 0.5}, buffers)
    assert score.item() == pytest.approx(6.0 - math.log(8))


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("members", [0, 4])
def test_a_batch_may_be_cut_anywhere(name, members):
    features, logits = drawn(33, members)
    settings, buffers = fitted()
    with torch.inference_mode():
        whole = ood_score(name, features, logits, 1.3, settings, buffers)
        for size in (1, 7, 32):
            parts = [
                ood_score(name, f, r, 1.3, settings, buffers)
                for f, r in zip(features.split(size), logits.split(size), strict=True)
            ]
            assert torch.cat(parts).numpy() == pytest.approx(whole.numpy(), rel=1e-5, abs=1e-6)
    assert whole.shape == (33,)
    assert whole.dtype == torch.float32


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("size", [0.0, 1e-20, 1.0, 1e4, 1e15])
def test_finite_stays_finite(name, size):
    features, logits = drawn(9, 2)
    settings, buffers = fitted()
    score = ood_score(name, size * features, size * logits, 0.5, settings, buffers)
    assert torch.isfinite(score).all()


@pytest.mark.parametrize("name", DETECTORS)
def test_an_empty_batch_has_no_score(name):
    settings, buffers = fitted()
    assert ood_score(name, torch.zeros(0, WIDTH), torch.zeros(0, CLASSES), 1.0, settings, buffers).shape == (0,)


@pytest.mark.parametrize("name", DETECTORS)
def test_one_member_is_as_good_as_none(name):
    features, logits = drawn(5)
    settings, buffers = fitted()
    alone, one = (ood_score(name, features, raw, 1.0, settings, buffers) for raw in (logits, logits[:, None]))
    assert torch.equal(alone, one)


@pytest.mark.parametrize("name", DETECTORS)
def test_half_precision_and_autocast_are_scored_in_float32(name):
    features, logits = drawn(12)
    settings, buffers = fitted()
    features, logits = features.half(), logits.half()
    plain = ood_score(name, features.float(), logits.float(), 1.0, settings, buffers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ood_score(name, features, logits, 1.0, settings, buffers)
    assert torch.equal(cast, plain)


def test_early_statistics_are_looked_at_in_the_place_of_features():
    features, logits = drawn(6)
    settings, buffers = fitted()
    early = scored("early_mahalanobis", torch.zeros(6, 2), logits, 1.0, settings, buffers, features)
    assert torch.equal(early, scored("mahalanobis", features, logits, 1.0, settings, buffers))
    assert torch.equal(
        scored("vim", features, logits, 1.0, settings, buffers, early),
        ood_score("vim", features, logits, 1.0, settings, buffers),
    )
    with pytest.raises(DetectorBufferError, match="early_mahalanobis needs the statistics of an early layer"):
        scored("early_mahalanobis", features, logits, 1.0, settings, buffers)


def test_channel_statistics_by_hand():
    # One channel holds 1, 3, 1, 3 (mean 2, deviation 1), the other 0, 0, 0, 4 (mean 1, deviation the root of 3).
    maps = torch.tensor([[[[1.0, 3.0], [1.0, 3.0]], [[0.0, 0.0], [0.0, 4.0]]]])
    expected = [2.0, 1.0, 1.0, math.sqrt(3)]
    assert channel_statistics(maps)[0].tolist() == pytest.approx(expected)
    assert channel_statistics(maps.flatten(2).transpose(1, 2))[0].tolist() == pytest.approx(expected)
    turned = channel_statistics(maps.flip(3).transpose(2, 3))
    assert turned[0].tolist() == pytest.approx(expected)


def test_channel_statistics_of_half_precision_do_not_overflow():
    maps = torch.full((2, 3, 64, 64), 300.0, dtype=torch.float16)
    maps[:, :, ::2] = -300.0
    found = channel_statistics(maps)
    assert found.dtype == torch.float32
    assert found[0].tolist() == pytest.approx([0.0] * 3 + [300.0] * 3)


def test_channel_statistics_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"activations have the shape \(2, 3\)"):
        channel_statistics(torch.zeros(2, 3))


@pytest.mark.parametrize("name", ["mahalanobis", "nearest_neighbours"])
def test_the_length_of_the_features_plays_no_part(name):
    features, logits = drawn(8)
    settings, buffers = fitted()
    one, ten = (ood_score(name, scale * features, logits, 1.0, settings, buffers) for scale in (1, 10))
    assert ten.numpy() == pytest.approx(one.numpy(), rel=1e-4)


def test_an_unknown_detector_is_named():
    with pytest.raises(UnknownDetectorError, match=r"called 'odin'; known: max_softmax, .*vim"):
        ood_score("odin", *drawn(1))


@pytest.mark.parametrize("name", [name for name, needed in BUFFERS.items() if needed])
def test_a_missing_matrix_is_named(name):
    settings, buffers = fitted()
    last = BUFFERS[name][-1]
    with pytest.raises(DetectorBufferError, match=f"{name} needs '{last}'"):
        ood_score(name, *drawn(1), 1.0, settings, {key: value for key, value in buffers.items() if key != last})


def test_features_of_another_width_are_named():
    settings, buffers = fitted()
    with pytest.raises(DetectorBufferError, match="fitted on 24 features and the model gives 10"):
        ood_score("vim", torch.zeros(2, 10), torch.zeros(2, 3), 1.0, settings, buffers)


def test_every_detector_says_what_it_needs():
    assert set(BUFFERS) == set(DETECTORS)
    settings, buffers = fitted()
    features, logits = drawn(4)
    for name, needed in BUFFERS.items():
        score = ood_score(name, features, logits, 1.0, settings, {key: buffers[key] for key in needed})
        assert np.isfinite(score.numpy()).all()
