"""Trust by group of patients: the sets and bands of the group that an image is of, where they were fitted for it.

Mondrian conformal prediction (Vovk, Gammerman, Shafer 2005, section 4.5): thresholds of their own for each group keep
the promise within the group. ``config.trust["groups"]`` holds ``column`` (such as ``age_band``), ``read_from`` (the key
of a record that holds it, such as ``age``), ``edges`` of age bands (name -> [from, below], null = no limit) and
``values``: name of a group -> its ``conformal`` and ``bands``, as in ``config.trust``. A group without one of these
takes that of all groups together; ``pooled`` has the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .checks_lesion import PATIENT

# The key of a record that holds the group itself; that of its index among the model's inputs.
GROUP = "group"
OWN = ("conformal", "bands")


class GroupError(ValueError):
    """Groups that do not fit the images, or a model without any."""


def group_name(value: Any, groups: Mapping[str, Any]) -> str | None:
    """The group that a value means: its name in any case, or an age of its band; None where it means none."""
    text = str(value).strip().lower()
    for name in groups["values"]:
        if name.lower() == text:
            return str(name)
    try:
        number = float(text)
    except ValueError:
        return None
    for name, (low, below) in (groups.get("edges") or {}).items():
        if name in groups["values"] and number >= low and (below is None or number < below):
            return str(name)
    return None


def group_of_record(record: Any, groups: Mapping[str, Any]) -> tuple[Any, int]:
    """A record without what only its group is read from -> the record, and the index of its group; -1 = not known."""
    if not isinstance(record, Mapping):
        return record, -1
    keys = (GROUP, groups["column"], groups["read_from"])
    names = [group_name(record[key], groups) for key in keys if record.get(key) is not None]
    known = [name for name in names if name is not None]
    # Age, sex and site are keys of every record; the others are not.
    rest = {key: value for key, value in record.items() if key not in keys or key in PATIENT}
    return rest, list(groups["values"]).index(known[0]) if known else -1


def group_names(given: Any, n: int, trust: Mapping[str, Any]) -> list[str | None] | None:
    """The groups of N images by name.

    Args:
        given: a name or an age for all images, or one per image; None = not known. Or a tensor (N,) of
            :func:`group_of_record`.
        n: N.
        trust: ``config.trust``.

    Returns:
        N names, None where the group is not known; None for a model without groups.

    Raises:
        GroupError: there are groups for another number of images, or for a model that has none.
    """
    groups = trust.get("groups")
    if not groups:
        if given is not None:
            raise GroupError(f"group {given!r} was given, but nothing was fitted by group for this model: leave it out")
        return None
    if isinstance(given, torch.Tensor):
        names = [*groups["values"], None]
        found: list[str | None] = [names[index] for index in given.tolist()]
    elif isinstance(given, Sequence) and not isinstance(given, str):
        found = [group_name(value, groups) for value in given]
    else:
        found = [group_name(given, groups)] * n
    if len(found) != n:
        raise GroupError(f"{len(found)} groups were given for {n} images: give one for all, or one per image")
    return found


def trust_of(trust: Mapping[str, Any], group: str | None) -> Mapping[str, Any]:
    """``config.trust`` with the sets and bands of a group, where they were fitted for it."""
    fitted = trust["groups"]["values"].get(group) if trust.get("groups") else None
    return trust if not fitted else {**trust, **{name: fitted[name] for name in OWN if fitted.get(name)}}


def scope(trust: Mapping[str, Any], group: str | None) -> str:
    """Whose sets and bands an answer has, a sentence; "" for a model without groups."""
    groups = trust.get("groups")
    if not groups:
        return ""
    column = str(groups["column"]).replace("_", " ")
    together = "all groups together"
    if group is None:
        return f"Uncertainty band and prediction set are those of {together}: the {column} is not known."
    fitted, of_group = groups["values"][group], f"{column} {group}"
    own = [bool(fitted.get(name)) for name in OWN]
    if all(own):
        return f"Uncertainty band and prediction set are those of {of_group}."
    if not any(own):
        return (
            f"Uncertainty band and prediction set are those of {together}: there are too few calibration lesions of "
            f"{of_group}."
        )
    mine, pooled = ("prediction set", "uncertainty band") if own[0] else ("uncertainty band", "prediction set")
    return (
        f"The {mine} is that of {of_group}, the {pooled} that of {together}: there are too few calibration lesions for "
        "one of its own."
    )
