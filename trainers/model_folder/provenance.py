"""Where a run came from: packages, commit, command, hardware, dataset. Nothing here names a path of the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets_scripts.audit import leak_audit
from hub_models import LEAST_TRANSFORMERS, SUITE_VERSION
from model_cards.code_files import code_files
from trainers.model_folder.data import LesionImages, Splits

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "datasets",
    "accelerate",
    "timm",
    "huggingface_hub",
    "scikit-learn",
    "numpy",
    "pillow",
)
CODE_LICENCE = "apache-2.0"
NOT_RECORDED = "not recorded"
HELD_OUT = ("validation", "calibration", "test")
NO_IDS = "Leaks could not be checked: the dataset has no lesion or patient ids, so each image counts as its own lesion."


def provenance(splits: Splits, resolved: dict[str, Any], seed: int, precision: str) -> dict[str, Any]:
    """The ``provenance`` section of ``report.json``."""
    recipe = {key: _without_machine(value) for key, value in resolved.items() if key != "recipe_name"}
    return {
        **origin(),
        "recipe": recipe,
        "recipe_name": resolved["recipe_name"],
        "seed": seed,
        "hardware": _hardware(precision),
        "dataset": describe_dataset(splits),
    }


def origin() -> dict[str, Any]:
    """When, by which command, with which packages and from which commit something was made."""
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command_line(sys.argv),
        "packages": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        **_git(),
    }


def describe_dataset(splits: Splits) -> dict[str, Any]:
    """Counts, sources, licences and a fingerprint of the dataset a model was trained on."""
    texts: dict[str, set[str]] = {"license": set(), "source": set(), "attribution": set()}
    counts = {}
    for split, rows in splits.splits.items():
        labels = np.array(rows["label"][:], dtype=int)
        groups = splits.column(split, "group_id")
        for column, seen in texts.items():
            seen.update(str(value) for value in splits.column(split, column))
        per_class = Counter(splits.labels[label] for label in labels)
        counts[split] = {
            "n": len(rows),
            "groups": len(set(groups)),
            "per_class": {name: per_class.get(name, 0) for name in splits.labels},
        }
    made = {} if splits.made is None else {"made_splits": dict(splits.made)}
    return {
        "name": splits.name,
        "config_name": splits.config_name,
        **({"group_ids": group_ids(splits)} if splits.ids else {}),
        **made,
        "fingerprint": fingerprint(splits),
        "license": sorted(texts["license"]),
        "sources": sorted(texts["source"]),
        "attribution": sorted(texts["attribution"]),
        "image_sizes": image_sizes(splits),
        "splits": counts,
    }


def fingerprint(splits: Splits) -> str:
    """A hash of every image's split, id, group and class."""
    digest = hashlib.sha256()
    for split, rows in splits.splits.items():
        ids, groups = splits.column(split, "image_id"), splits.column(split, "group_id")
        for row in sorted(zip(ids, groups, np.array(rows["label"][:], dtype=int), strict=True)):
            digest.update(f"{split}\t{row[0]}\t{row[1]}\t{splits.labels[row[2]]}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def group_ids(splits: Splits) -> dict[str, Any]:
    """The column that holds the lesion or patient of an image, and how many images of each split lack it."""
    alone = splits.ids["alone"]
    missing = {split: sum(group in alone for group in splits.column(split, "group_id")) for split in splits.splits}
    found = {"column": splits.ids["column"], "missing": missing}
    return {**found, "duplicates": True} if splits.ids.get("duplicates") else found


def image_sizes(splits: Splits, at_most: int = 3) -> dict[str, int]:
    """How many images have which size, ``{"200x150": 10015}``, the commonest first; rarer ones summed as ``other``."""
    sizes: Counter[str] = Counter()
    for rows in splits.splits.values():
        images = LesionImages(rows, processor=None)
        for index in range(len(images)):
            width, height = images.read(index).size  # reads the header alone
            sizes[f"{width}x{height}"] += 1
    common = dict(sizes.most_common(at_most))
    rest = sum(sizes.values()) - sum(common.values())
    return {**common, "other": rest} if rest else common


def audit_leaks(splits: Splits) -> dict[str, Any]:
    """For each held-out split, how many of its images share a lesion or duplicate group with train.

    Without any id of a lesion or patient it is ``unknown``: counts would be zeros without meaning.
    """
    if splits.ids and splits.ids["column"] is None:
        return {"unknown": NO_IDS}
    train = splits.column("train", "group_id").tolist()
    audit = {}
    for split in HELD_OUT:
        if split in splits.splits:
            labels = [splits.labels[label] for label in splits.splits[split]["label"][:]]
            audit[split] = leak_audit(train, splits.column(split, "group_id").tolist(), labels)
    return audit


VARIABLE = "$LESION_"
# What stands before a folder in the source of a backbone.
BEFORE_A_PATH = ("transformers/", "local-dir:")


def command_line(argv: list[str]) -> str:
    """The command as a reader elsewhere could type it: absolute paths shortened, variables of ours put back."""
    program = Path(argv[0])
    words = [f"trainers/{program.name}" if program.suffix == ".py" else program.name]
    words += [str(_without_machine(word)) for word in argv[1:]]
    # A variable is put in only between double quotes.
    return " ".join(f'"{word}"' if word.startswith(VARIABLE) else shlex.quote(word) for word in words)


def _without_machine(value: Any) -> Any:
    """A path that leads out of the working folder becomes ``$LESION_..._DIR/rest`` or its last part; the rest stays."""
    prefix = next((one for one in BEFORE_A_PATH if isinstance(value, str) and value.startswith(one)), "")
    if prefix:
        return prefix + str(_without_machine(value.removeprefix(prefix)))
    if not isinstance(value, str) or not (os.path.isabs(value) or Path(value).parts[:1] == ("..",)):
        return value
    path = Path(os.path.abspath(value))
    for variable in ("LESION_DATA_DIR", "LESION_WEIGHTS_DIR"):
        root = os.environ.get(variable)
        if root and path.is_relative_to(os.path.abspath(root)):
            return f"${variable}/{path.relative_to(os.path.abspath(root)).as_posix()}"
    return path.name


def _git() -> dict[str, Any]:
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, timeout=20, check=False)
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return {
        "git_commit": commit,
        "git_dirty": bool(git("status", "--porcelain", "--untracked-files=no")) if commit else None,
    }


def _hardware(precision: str) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    return {
        "device": "cuda" if cuda else "mps" if torch.backends.mps.is_available() else "cpu",
        "name": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "precision": precision,
    }


def of_the_suite(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Sections of the report that follow from the suite and the folder: version, needed libraries, code, licences.

    Args:
        report: ``model`` and ``provenance`` are read.
        folder: with the code in it.
    """
    least = ".".join(map(str, LEAST_TRANSFORMERS))
    return {
        "suite_version": SUITE_VERSION,
        "requires": {"transformers": least},
        "code": code_files(folder),
        "licences": licence_chain(report),
    }


def licence_chain(report: dict[str, Any]) -> list[dict[str, str]]:
    """The licence of each thing that the model was made from, and its own: rows of ``part`` and ``licence``."""
    model, dataset = report["model"], report["provenance"]["dataset"]
    own = {"part": "weights of this model", "licence": model.get("license") or "not stated"}
    rows = [{"part": "code of this repository", "licence": CODE_LICENCE}]
    if "imported" in report:  # the weights are as their authors published them
        return [*rows, own]
    bases = model.get("base_model") or []
    for base in [bases] if isinstance(bases, str) else bases:
        rows.append({"part": f"weights that training started from: {base}", "licence": licence_of(base)})
    if not bases and model.get("initialised_from") not in (None, "random"):
        rows.append({"part": "weights that training started from", "licence": NOT_RECORDED})
    trained_on = report.get("trained_on") or dataset
    for licence in trained_on.get("license") or ["unknown"]:
        rows.append({"part": "images of the training", "licence": NOT_RECORDED if licence == "unknown" else licence})
    return [*rows, own]


def licence_of(repo_id: str) -> str:
    """The licence of pretrained weights, where timm states it."""
    if not repo_id.startswith("timm/"):
        return NOT_RECORDED
    import timm  # a second

    known = timm.get_pretrained_cfg(repo_id.removeprefix("timm/"), allow_unregistered=True)
    return str(getattr(known, "license", None) or NOT_RECORDED)
