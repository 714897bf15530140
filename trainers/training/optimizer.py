"""Layer-wise decay of the learning rate: early layers, whose features are general, move less than late ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any


def layer_rates(groups: list[list[str]], learning_rate: float, layer_decay: float) -> dict[str, float]:
    """The learning rate of each parameter: the last group's is ``learning_rate``, each earlier one's a decay smaller.

    Rate of group i of L: ``learning_rate * layer_decay ** (L - 1 - i)`` (Clark et al. 2020, ELECTRA; Bao et al. 2022,
    BEiT, for vision transformers).

    Args:
        groups: parameter names from the input to the output.
        learning_rate: > 0.
        layer_decay: in (0, 1].
    """
    last = len(groups) - 1
    return {name: learning_rate * layer_decay ** (last - i) for i, group in enumerate(groups) for name in group}


def parameter_groups(
    model: Any, learning_rate: float, layer_decay: float, weight_decay: float, decayed: Collection[str]
) -> list[dict[str, Any]]:
    """What an optimizer takes: parameters by learning rate and weight decay, the output's layers first.

    The first group's rate is the one that the Trainer logs: the full one, since the head is always trained.

    Args:
        model: answers ``layer_groups()``; parameters without gradients are left out.
        learning_rate: of the last layers, > 0.
        layer_decay: factor a group towards the input, in (0, 1].
        weight_decay: >= 0.
        decayed: names of the parameters that weight decay shrinks (no norms, no biases).

    Returns:
        Dictionaries with ``params``, ``lr`` and ``weight_decay``.

    Raises:
        ValueError: the model's groups leave out a parameter, or name one twice or one that it does not have.
    """
    groups = model.layer_groups()
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    named = Counter(name for group in groups for name in group)
    wrong = sorted(set(named) ^ {name for name, _ in model.named_parameters()}) + [n for n in named if named[n] > 1]
    if wrong:
        raise ValueError(
            f"layer_groups() of {type(model).__name__} must name each parameter once; wrong is first {wrong[0]!r}"
        )
    rates = layer_rates(groups, learning_rate, layer_decay)
    found = []
    for group in reversed(groups):
        for shrinks in (True, False):
            names = [name for name in group if name in trained and (name in decayed) == shrinks]
            if names:
                values = [trained[name] for name in names]
                found.append(
                    {"params": values, "lr": rates[names[0]], "weight_decay": weight_decay if shrinks else 0.0}
                )
    return found
