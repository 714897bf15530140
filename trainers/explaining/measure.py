"""From a model and a split with masks to the table of explanations: every number that a heat map is evaluated by.

Deletion takes the most important pixels out of the image first: the sooner the probability falls, the better, so a
small area under the curve is good. Insertion puts them into an empty image first: a large area is good (Petsiuk et al.
2018, RISE, section 4.1). Empty means blurred here, in both: a patch of one colour would be a thing of its own.

The sanity check of Adebayo et al. 2018, section 3.1 (cascading randomisation): weights are replaced by fresh random
ones from the output towards the input. A map that stays as it was shows the image's edges and not what the model
learned.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from hub_models.explain_lesion import explained_pass
from trainers.evaluation.explanation_table import CURVES, MASKS, NUMBERS, ORDERS, STAGES, ExplanationTable
from trainers.explaining import maps
from trainers.explaining.masks import MaskedImages
from trainers.model_folder.data import collate

# The blur that stands for "nothing to see", as standard deviation in shares of the image's shorter side.
BLUR = 0.1
# Small parts with the channels last are twice as fast on a CPU as large ones with the channels first.
AT_ONCE = 16
# Stage -> share of each backbone that is random, counted from its end.
SHARES = dict(zip(STAGES, (0.0, 1 / 3, 2 / 3, 1.0), strict=True))
BATCH = 32


@dataclass(frozen=True)
class Options:
    """How explanations are measured.

    Attributes:
        method: one of the model's ``explanation_methods``.
        images: lesions, one image each, on which the costly parts are measured: deletion and insertion, random weights.
        steps: in which the pixels are deleted and inserted.
        draws: random maps per image; their mean is its baseline, the first is also deleted by.
        seed: of all that is drawn.
    """

    method: str = "grad_cam"
    images: int = 300
    steps: int = 10
    draws: int = 8
    seed: int = 0


@dataclass
class Subject:
    """A model, the N images of a split, and the predictions to explain.

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
        changed = randomised(subject.model, stage, options.seed)
        for batch in subject.batches(chosen, f"random weights: {stage}", progress):
            before, after = (maps.rank_rows(batch.heat(one, options.method)) for one in (subject.model, changed))
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
    seen = explained_pass(subject.model, None, batch.inputs, options.method)
    by_member = seen.member_maps(batch.target)
    heat = by_member.mean(dim=0).cpu().numpy()
    if seen.has_members:
        numbers["members"][batch.rows] = maps.agreement(by_member.cpu().numpy())
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


def randomised(model: Any, stage: str, seed: int) -> Any:
    """A copy of a model, on its device and in eval mode, with fresh weights in a part of it; the model stays as it is.

    Args:
        model: a classifier of the suite.
        stage: of ``STAGES``: ``head`` = all that is not a backbone; ``third``, ``two_thirds``, ``all`` = that, and so
            much of each backbone, by its layers from the last to the first.
        seed: of the fresh weights; they are those that a training without pretrained weights would start from.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = type(model)(copy.deepcopy(model.config)).state_dict()
    changed = copy.deepcopy(model).eval()
    state = changed.state_dict()
    with torch.no_grad():
        for name in random_entries(model, SHARES[stage]):
            state[name].copy_(fresh[name])
    return changed


def random_entries(model: Any, share: float) -> list[str]:
    """Names of the entries of a model's state that are made random; what was fitted for trust is never among them.

    Args:
        model: a classifier of the suite.
        share: of each backbone's layers, from its end, in [0, 1].
    """
    names = {id(module): name for name, module in model.named_modules()}
    chosen: set[str] = set()
    backbones: list[str] = []
    for part in model.pretrained_parts():
        prefix = names[id(part)]
        backbones.append(f"{prefix}.")
        layers = [name for name, module in part.named_modules(prefix=prefix) if module.state_dict() and _own(module)]
        chosen.update(layers[len(layers) - round(share * len(layers)) :])
    found = []
    for entry in model.state_dict():
        in_backbone = entry.startswith(tuple(backbones))
        layer = entry.rpartition(".")[0]
        if layer in chosen if in_backbone else not entry.startswith("trust."):
            found.append(entry)
    return found


def _own(module: torch.nn.Module) -> bool:
    """Whether a module has weights or statistics itself, not only in its parts."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return bool(own)


def blurred(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (..., H, W) under a Gaussian blur of ``BLUR``."""
    width = BLUR * min(pixels.shape[-2:])
    soft = gaussian_filter(pixels.cpu().numpy(), width, axes=(-2, -1), mode="nearest", truncate=3.0)
    return torch.from_numpy(soft).to(pixels.device)


def places(heat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The place of each pixel in a heat map's order, 0 = the most important; equal ones in an order of chance: (H, W).

    Args:
        heat: (H, W).
        rng: decides between equal pixels.
    """
    order = np.lexsort((rng.random(heat.size), -heat.ravel()))
    found = np.empty(heat.size, dtype=np.int64)
    found[order] = np.arange(heat.size)
    return found.reshape(heat.shape)


def curves(
    model: Any, inputs: Mapping[str, torch.Tensor], target: int, orders: Sequence[np.ndarray], steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probability of a class while pixels are taken away, and while they are put in.

    Args:
        model: a classifier, in eval mode.
        inputs: of one image: ``pixel_values`` (1, 3, H, W), and whatever else the model takes.
        target: the class.
        orders: K orders, each (H, W) of :func:`places`.
        steps: after each of so many equal shares of the pixels the model is run.

    Returns:
        Deletion and insertion: (K, steps + 1) each, calibrated probability of the class after 0, 1, ..., all shares.
    """
    pixels = inputs["pixel_values"]
    empty = blurred(pixels)
    size = pixels.shape[-2] * pixels.shape[-1]
    limits = torch.tensor([round(size * step / steps) for step in range(1, steps)], device=pixels.device)
    # The ends are the same in every order: the whole image, and nothing of it.
    images = [pixels, empty]
    for order in orders:
        gone = torch.from_numpy(order).to(pixels.device)[None] < limits[:, None, None]
        images += [torch.where(gone[:, None], empty, pixels), torch.where(gone[:, None], pixels, empty)]
    probs = _probabilities(model, inputs, torch.cat(images), target)
    between = probs[2:].reshape(len(orders), 2, steps - 1)
    whole, nothing = (np.full((len(orders), 1), probs[end]) for end in (0, 1))
    deletion = np.concatenate([whole, between[:, 0], nothing], axis=1)
    insertion = np.concatenate([nothing, between[:, 1], whole], axis=1)
    return deletion, insertion


@torch.inference_mode()
def _probabilities(model: Any, inputs: Mapping[str, torch.Tensor], images: torch.Tensor, target: int) -> np.ndarray:
    """Calibrated probability (K,) of a class for images (K, 3, H, W), all else as in the inputs."""
    found = []
    for part in images.contiguous(memory_format=torch.channels_last).split(AT_ONCE):
        same = {name: value.expand(len(part), *value.shape[1:]) for name, value in inputs.items()}
        logits = model(**{**same, "pixel_values": part}, return_dict=True).logits
        found.append(logits.double().softmax(dim=-1)[:, target].cpu().numpy())
    return np.concatenate(found)
