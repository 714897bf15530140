"""Phantoms can be learnt, but not perfectly: what the demo and the trust methods rest on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from datasets_scripts.phantom import draw
from datasets_scripts.taxonomy import TASKS

LABELS = TASKS["dermx"]
SIDE = 36


class TinyNetwork(nn.Module):
    """Three convolutions; mean and maximum of their features; one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 64)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
                for a, b in itertools.pairwise(widths)
            )
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * widths[-1], len(LABELS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(x)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))


def drawn(seeds: range) -> tuple[torch.Tensor, torch.Tensor]:
    left = (SIDE * 4 // 3 - SIDE) // 2
    images = [
        np.asarray(draw(label, seed, (SIDE * 4 // 3, SIDE)).image)[:, left : left + SIDE]
        for label in LABELS
        for seed in seeds
    ]
    labels = torch.arange(len(LABELS)).repeat_interleave(len(seeds))
    return torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1, labels


def train(images: torch.Tensor, labels: torch.Tensor, epochs: int, batch: int = 32) -> TinyNetwork:
    torch.manual_seed(0)
    network = TinyNetwork()
    optimizer = torch.optim.AdamW(network.parameters(), lr=8e-3, weight_decay=1e-2)
    steps = epochs * -(-len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(batch):
            x = images[rows]
            flips = [side for side in (2, 3) if torch.rand(1) < 0.5]
            x = x.flip(flips) if torch.rand(1) < 0.5 else x.flip(flips).transpose(2, 3)
            loss = nn.functional.cross_entropy(network(x), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@pytest.mark.slow
def test_a_tiny_network_learns_phantoms_but_not_all_of_them() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = train(*drawn(range(60)), epochs=16)
        images, labels = drawn(range(10_000, 10_025))  # other lesions than those trained on
        with torch.no_grad():
            predicted = network(images).argmax(1)
    finally:
        torch.set_num_threads(threads)
    score = balanced_accuracy_score(labels, predicted)
    assert 0.8 < score < 1.0
