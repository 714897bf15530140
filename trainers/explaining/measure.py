"""From a model and a split with masks to the table of explanations: every number that a heat map is evaluated by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from hub_models.explain_lesion import GRADIENT_METHODS
from trainers.evaluation.explanation_table import CURVES, MASKS, NUMBERS, ORDERS, STAGES, ExplanationTable
from trainers.explaining import maps
from trainers.explaining.faithfulness import BLUR, curves, places
from trainers.explaining.masks import MaskedImages
from trainers.explaining.members import member_maps
from trainers.explaining.randomised import randomised
from trainers.model_folder.data import collate

BATCH = 32


@dataclass(frozen=True)
class Options:
    """How explanations are measured.

    Attributes:
        method: one of the model's ``explanation_methods``.
        images: lesions, one image each, on which the costly parts are measured: deletion and insertion, random weights.
        steps: in which the pixels are deleted and inserted.
        draws: random maps an image; their mean is its baseline, the first is also deleted by.
        seed: of all that is drawn.
    """

    method: str = "grad_cam"
    images: int = 300
    steps: int = 10
    draws: int = 8
    seed: int = 0


@dataclass
class Subject:
    """What is explained: a model, the N images of a split, and what was said of each.

    Attributes:
        model: in eval mode.
        images: the split with its masks.
        image_id: (N,) str.
        group_id: (N,) str.
        label: (N,) int64.
        predicted: (N,) int64, the class to explain.
        abstain: (N,) bool; None where no trust was fitted.
        labels: the C short class names.
        about: what is written beside the table.
    """

    model: Any
    images: MaskedImages
    image_id: np.ndarray
    group_id: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    abstain: np.ndarray | None
    labels: list[str]
    about: dict[str, Any] = field(default_factory=dict)

    def batches(self, rows: Sequence[int] | np.ndarray, title: str, progress: bool) -> Iterator[Batch]:
        """Some images of the split in batches."""
        parts = [np.asarray(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
        for part in tqdm(parts, desc=title, unit="batch", disable=None if progress else True):
            items = collate([self.images[int(row)] for row in part])
            taken = {name: items.pop(name) for name in ("mask", "mask_state", "labels")}
            inputs = {name: value.to(self.model.device) for name, value in items.items()}
            target = torch.from_numpy(self.predicted[part]).to(self.model.device)
            yield Batch(part, inputs, target, taken["mask"].numpy(), taken["mask_state"].numpy())


@dataclass(frozen=True)
class Batch:
    """B images: their rows, what the model receives, the class to explain (B,), masks (B, H, W) and their states."""

    rows: np.ndarray
    inputs: dict[str, torch.Tensor]
    target: torch.Tensor
    masks: np.ndarray
    states: np.ndarray

    def heat(self, model: Any, method: str) -> np.ndarray:
        """The model's heat maps (B, H, W)."""
        return model.explain(**self.inputs, target=self.target, method=method).heat_maps.cpu().numpy()


def measure(subject: Subject, options: Options, *, progress: bool = True) -> ExplanationTable:
    """Explain every image of a split, and measure the heat maps.

    Args:
        subject: what is explained; its model is left as it was.
        options: how.
        progress: show progress bars.
    """
    n = len(subject.label)
    numbers = {name: np.full(n, np.nan) for name in NUMBERS}
    found = {name: np.full((n, options.steps + 1), np.nan) for name in CURVES}
    states = np.full(n, MASKS.index("none"))
    # In an order of chance: a neighbour is then any other image.
    order = np.random.default_rng(options.seed).permutation(n)
    for batch in subject.batches(order, "explain", progress):
        states[batch.rows] = batch.states
        place_of(batch, subject, options, numbers)
    chosen = one_of_each(subject.group_id, options.images, options.seed)
    for batch in subject.batches(chosen, "delete and insert", progress):
        faithfulness_of(batch, subject, options, numbers, found)
    for stage in STAGES:
        altered = randomised(subject.model, stage, options.seed)
        for batch in subject.batches(chosen, f"random weights: {stage}", progress):
            before, after = (maps.rank_rows(batch.heat(one, options.method)) for one in (subject.model, altered))
            numbers[f"likeness_{stage}"][batch.rows] = maps.likeness(before, after)
    size = subject.images[int(order[0])]["pixel_values"].shape[-2:] if n else (0, 0)
    how = {**asdict(options), "blur": BLUR, "cell": maps.CELL, "pixels": list(size)}
    return ExplanationTable(
        image_id=subject.image_id,
        group_id=subject.group_id,
        label=subject.label,
        predicted=subject.predicted,
        abstain=subject.abstain,
        mask=np.array(MASKS, dtype=object)[states],
        numbers=numbers,
        curves=found,
        labels=list(subject.labels),
        about={**subject.about, **how},
    )


def place_of(batch: Batch, subject: Subject, options: Options, numbers: dict[str, np.ndarray]) -> None:
    """Where the heat of a batch lies, beside where the baselines' lies; written into ``numbers``."""
    seen = subject.model.explain(**batch.inputs, target=batch.target, method=options.method)
    heat = seen.heat_maps.cpu().numpy()
    if seen.spread is not None and options.method in GRADIENT_METHODS:
        alone = member_maps(subject.model, batch.inputs, batch.target, options.method).cpu().numpy()
        numbers["members"][batch.rows] = maps.agreement(alone)
    partners = neighbours(subject.group_id[batch.rows])
    ranks = maps.rank_rows(heat)
    for place, row in enumerate(batch.rows):
        spread = maps.spread_of(heat[place])
        numbers["spread"][row] = spread
        partner = partners[place]
        if partner is not None:
            numbers["likeness_other"][row] = maps.likeness(ranks[[place]], ranks[[partner]])[0]
        if MASKS[batch.states[place]] != "there":
            continue
        mask = batch.masks[place]
        numbers["area"][row] = mask.mean()
        if np.isnan(spread):
            continue  # no heat map: nothing to compare
        rng = np.random.default_rng([options.seed, int(row)])
        compared = {
            "": [heat[place]],
            "_random": [maps.random_map(mask.shape, rng) for _ in range(options.draws)],
            "_blob": [maps.blob_as_spread_as(spread, mask.shape)],
            "_other": [] if partner is None or not heat[partner].any() else [heat[partner]],
        }
        for name, several in compared.items():
            if several:
                numbers[f"energy{name}"][row] = np.mean([maps.energy_inside(one, mask) for one in several])
                numbers[f"pointing{name}"][row] = np.mean([maps.pointing_hit(one, mask) for one in several])


def faithfulness_of(
    batch: Batch, subject: Subject, options: Options, numbers: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> None:
    """Deletion and insertion of a batch, and whether it is explained alike a second time; written into both."""
    heat = batch.heat(subject.model, options.method)
    again = batch.heat(subject.model, options.method)
    numbers["repeat_difference"][batch.rows] = np.abs(heat - again).max(axis=(1, 2))
    for place, row in enumerate(batch.rows):
        spread = maps.spread_of(heat[place])
        if np.isnan(spread):
            continue
        size = heat[place].shape
        rng = np.random.default_rng([options.seed, int(row)])
        compared = {
            "heat_map": heat[place],
            "random": maps.random_map(size, rng),
            "blob": maps.blob_as_spread_as(spread, size),
        }
        orders = [places(compared[name], rng) for name in ORDERS]
        alone = {name: value[place : place + 1] for name, value in batch.inputs.items()}
        target = int(batch.target[place])
        games = zip(("deletion", "insertion"), curves(subject.model, alone, target, orders, options.steps), strict=True)
        for game, lines in games:
            for name, line in zip(ORDERS, lines, strict=True):
                found[f"{game}_{name}"][row] = line


def one_of_each(groups: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Rows of one image of each lesion, of ``most`` lesions at most, all by chance: (K,) int, in order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(groups))
    _, first = np.unique(np.asarray(groups).astype(str)[order], return_index=True)
    return np.sort(order[rng.permutation(first)[:most]])


def neighbours(groups: np.ndarray) -> list[int | None]:
    """For each of some images the next one that shows another lesion, round in a circle; None where there is none."""
    n = len(groups)
    return [
        next((other % n for other in range(place + 1, place + n) if groups[other % n] != groups[place]), None)
        for place in range(n)
    ]
