from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from trainers.training.losses import balanced_class_weights, focal_loss, make_loss


def test_balanced_weights_are_the_published_ones() -> None:
    counts = torch.tensor([261, 411, 871, 92, 889, 5328, 114])  # the published EfficientNetV2-S training split
    expected = [4.3602, 2.7689, 1.3065, 12.3696, 1.2801, 0.2136, 9.9825]
    assert balanced_class_weights(counts).tolist() == pytest.approx(expected, abs=5e-5)


def test_a_class_without_images_weighs_nothing() -> None:
    assert balanced_class_weights(torch.tensor([4, 0])).tolist() == [0.5, 0.0]


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0]])  # p = 0.75, 0.25
    assert focal_loss(logits, torch.tensor([0]), gamma=2.0).item() == pytest.approx(0.25**2 * -math.log(0.75), rel=1e-5)
    assert focal_loss(logits, torch.tensor([1]), gamma=1.0).item() == pytest.approx(0.75 * -math.log(0.25), rel=1e-5)


@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0, 1.0])])
def test_focal_loss_without_focus_is_cross_entropy(weight: torch.Tensor | None) -> None:
    logits, labels = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
    expected = F.cross_entropy(logits, labels, weight=weight)
    assert focal_loss(logits, labels, gamma=0.0, weight=weight).item() == pytest.approx(expected.item(), rel=1e-5)


def test_make_loss_uses_the_weights() -> None:
    counts, logits, labels = torch.tensor([9, 1]), torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1])
    plain, weighted = make_loss("cross_entropy", counts), make_loss("cross_entropy", counts, "balanced")
    w = torch.tensor([10 / 18, 5.0])
    assert plain(logits, labels).item() == pytest.approx(F.cross_entropy(logits, labels).item())
    assert weighted(logits, labels).item() == pytest.approx(F.cross_entropy(logits, labels, weight=w).item())


def test_half_precision_logits_are_evaluated_in_float32() -> None:
    loss = make_loss("focal", torch.tensor([1, 1]))(torch.zeros(2, 2, dtype=torch.bfloat16), torch.tensor([0, 1]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.25 * math.log(2))


@pytest.mark.parametrize(("kind", "weights", "named"), [("hinge", "none", "hinge"), ("focal", "heavy", "heavy")])
def test_unknown_choices_are_named(kind: str, weights: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_loss(kind, torch.tensor([1, 1]), weights)
