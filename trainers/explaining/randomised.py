"""The sanity check of heat maps: a model with random weights must give other ones.

Adebayo et al. 2018, section 3.1 (cascading randomisation): weights are replaced by fresh random ones from the output
towards the input. A map that stays as it was shows the image's edges and not what the model learned.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from trainers.evaluation.explanation_table import STAGES

# Stage -> share of each backbone that is random, counted from its end.
SHARES = dict(zip(STAGES, (0.0, 1 / 3, 2 / 3, 1.0), strict=True))


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
    altered = copy.deepcopy(model).eval()
    state = altered.state_dict()
    with torch.no_grad():
        for name in random_entries(model, SHARES[stage]):
            state[name].copy_(fresh[name])
    return altered


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
