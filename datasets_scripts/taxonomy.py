"""The label vocabulary: every class of the suite once, its malignancy group, and its name in each source.

``p_malignant`` everywhere in the suite sums the groups ``malignant`` and ``premalignant``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datasets_scripts.command import UserError

GROUPS = ("benign", "premalignant", "malignant")


class UnknownLabelError(UserError):
    """A diagnosis that the taxonomy does not know."""


@dataclass(frozen=True)
class LesionClass:
    """One class: its short name (the dataset's label), its long name, and its malignancy group."""

    name: str
    long_name: str
    group: str


CLASSES: dict[str, LesionClass] = {
    name: LesionClass(name, long_name, group)
    for name, long_name, group in (
        ("akiec", "Actinic keratosis / intraepithelial carcinoma", "premalignant"),
        ("bcc", "Basal cell carcinoma", "malignant"),
        ("bkl", "Benign keratosis-like lesion", "benign"),
        ("df", "Dermatofibroma", "benign"),
        ("mel", "Melanoma", "malignant"),
        ("nv", "Melanocytic nevus", "benign"),
        ("vasc", "Vascular lesion", "benign"),
        ("acne", "Acne", "benign"),
        ("ak", "Actinic keratosis", "premalignant"),
        ("clear", "Clear skin", "benign"),
        ("met", "Melanoma metastasis", "malignant"),
        ("random", "Not a skin lesion", "benign"),
        ("sk", "Seborrheic keratosis", "benign"),
        ("sl", "Solar lentigo", "benign"),
        ("scc", "Squamous cell carcinoma", "malignant"),
        ("benign", "Benign lesion", "benign"),
        ("malignant", "Malignant lesion", "malignant"),
        ("other_benign", "Other benign lesion", "benign"),
        ("other_malignant", "Other malignant lesion", "malignant"),
        ("inflammatory", "Inflammatory or infectious condition", "benign"),
    )
}

TASKS: dict[str, tuple[str, ...]] = {
    "ham10000": ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
    "dermx": ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc", "acne"),
    "lesions12": ("ak", "bcc", "clear", "df", "mel", "met", "nv", "random", "sk", "sl", "scc", "vasc"),
    "isic_binary": ("benign", "malignant"),
    "isic2017": ("mel", "nv", "sk"),
    # The same task made of HAM10000. Its bkl includes more than seborrheic keratosis, so it is another class.
    "isic2017_ham": ("mel", "nv", "bkl"),
}

# Class -> its class in a task, where that has another name. A class that is neither here nor in the task has no
# equivalent there: benign keratosis-like lesions (bkl) are more than seborrheic keratoses, akiec is more than ak.
_IN_TASK: dict[str, dict[str, str]] = {
    "ham10000": {"ak": "akiec", "sk": "bkl", "sl": "bkl"},
    "dermx": {"ak": "akiec", "sk": "bkl", "sl": "bkl"},
    "isic2017_ham": {"sk": "bkl", "sl": "bkl"},
}

# Spellings beside a class's own short and long name; compared after `_plain`.
_OTHER_NAMES: dict[str, dict[str, str]] = {
    "ham10000": {
        "actinic keratoses": "akiec",
        "actinic keratosis": "akiec",
        "actinic keratoses and intraepithelial carcinoma": "akiec",
        "actinic keratoses and intraepithelial carcinoma bowen s disease": "akiec",
        "bowen s disease": "akiec",
        "benign keratosis": "bkl",
        "benign keratosis like lesions": "bkl",
        "basal cell carcinomas": "bcc",
        "dermatofibromas": "df",
        "melanomas": "mel",
        "melanocytic nevi": "nv",
        "nevus": "nv",
        "nevi": "nv",
        "vascular lesions": "vasc",
    },
    "dermnet": {"acne and rosacea photos": "acne", "acne and rosacea": "acne"},
    "lesions12": {
        "actinic keratoses": "ak",
        "clear": "clear",
        "melanoma metastasis": "met",
        "nevus": "nv",
        "melanocytic nevi": "nv",
        "random": "random",
        "lentigo": "sl",
        "vascular lesions": "vasc",
    },
    "isic_binary": {},
    "isic2017": {"nevus": "nv", "nevi": "nv", "seborrheic keratoses": "sk"},
}
_SOURCE_CLASSES = {**TASKS, "dermnet": ("acne",)}


def _plain(name: str) -> str:
    """Lower case, with one space for every run of characters that are no letters or digits."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


def canonical(source: str, name: str) -> str:
    """Translate a source's own label into the suite's short name.

    Args:
        source: ``ham10000``, ``dermnet``, ``lesions12``, ``isic_binary`` or ``isic2017``.
        name: the label as the source writes it, in any case, with spaces, hyphens or underscores.

    Raises:
        UnknownLabelError: the source or the label is not known.
    """
    if source not in _OTHER_NAMES:
        raise UnknownLabelError(f"unknown source {source!r}; known: {', '.join(sorted(_OTHER_NAMES))}")
    known = dict(_OTHER_NAMES[source])
    for short in _SOURCE_CLASSES[source]:
        known[_plain(short)] = short
        known.setdefault(_plain(CLASSES[short].long_name), short)
    plain = _plain(name)
    if plain not in known:
        raise UnknownLabelError(
            f"unknown diagnosis {name!r} for {source}; known: {', '.join(_SOURCE_CLASSES[source])} and their long names"
        )
    return known[plain]


def classes_named(name: str) -> set[str]:
    """The short names of all classes that have this name in any source; empty where there is none."""
    found = set()
    for source in _OTHER_NAMES:
        try:
            found.add(canonical(source, name))
        except UnknownLabelError:
            continue
    return found


def in_task(label: str, task: str) -> str | None:
    """The class of a task that a class of the taxonomy belongs to; ``None``: it has no equivalent there.

    In ``isic_binary`` the group decides. Premalignant classes have no equivalent: the ISIC Archive calls them
    Indeterminate.

    Raises:
        UnknownLabelError: the label is not in the vocabulary, or there is no such task.
    """
    group = _lookup(label).group
    if task not in TASKS:
        raise UnknownLabelError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    if task == "isic_binary":
        return group if group in TASKS[task] else None
    name = _IN_TASK.get(task, {}).get(label, label)
    return name if name in TASKS[task] else None


def class_order(labels: Sequence[str], others: Sequence[str]) -> list[int] | None:
    """The place of each of ``labels`` in ``others``: ``[others[place] for place in places] == labels``.

    Two lists are of the same classes if they have the same names in any order. Every comparison of classes uses this.

    Returns:
        The places (C,), a permutation; None where one list has a class that the other lacks, or has it twice.
    """
    place = {name: index for index, name in enumerate(others)}
    if len(place) != len(others) or len(labels) != len(others) or set(labels) != set(place):
        return None
    return [place[name] for name in labels]


def _lookup(label: str) -> LesionClass:
    if label not in CLASSES:
        raise UnknownLabelError(f"unknown label {label!r}; known: {', '.join(CLASSES)}")
    return CLASSES[label]


def long_names(labels: Iterable[str]) -> dict[str, str]:
    """Map short names to long names, in the order given.

    Raises:
        UnknownLabelError: a label is not in the vocabulary.
    """
    return {label: _lookup(label).long_name for label in labels}


def malignancy_groups(labels: Iterable[str]) -> dict[str, str]:
    """Map short names to ``benign``, ``premalignant`` or ``malignant``, in the order given.

    Raises:
        UnknownLabelError: a label is not in the vocabulary.
    """
    return {label: _lookup(label).group for label in labels}
