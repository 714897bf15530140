"""Two models of one recipe, one of them trained on a split that leaks: read, checked, compared, written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from datasets_scripts.command import UserError, shown_path
from datasets_scripts.output import locked, put_in_place, written_whole
from model_cards.card import read_report
from model_cards.manifest import write_manifest, write_text
from trainers.evaluation.leak_cost import Side, leak_cost, markdown
from trainers.evaluation.pooling import OF_THE_FOLD
from trainers.metrics.predictions import Predictions, read_predictions
from trainers.model_folder.data import load_splits
from trainers.model_folder.output import check_empty
from trainers.model_folder.provenance import command_line
from trainers.training.cross_validation import STATE, Plan, train_configs

OTHERS = ("calibration", "validation")


def train_and_compare(plan: Plan, dataset: str) -> list[str]:
    """Train both configs of a plan, compare them, and put the finished folder in place; returns the page's lines.

    Raises:
        UserError: a run failed, or was changed since it was finished; what is well is kept.
    """
    with locked(plan.out):
        train_configs(plan)
        leaking, grouped = plan.names
        folders = (plan.partial / leaking, plan.partial / grouped)
        lines = write_result(folders, (leaking, grouped), dataset, plan.partial, plan.replicates)
        (plan.partial / STATE).unlink()
        write_manifest(plan.partial)
        put_in_place(plan.partial, plan.out)
    return lines


def compare_finished(
    folders: tuple[Path, Path], names: tuple[str, str], dataset: str, out: Path, replicates: int
) -> list[str]:
    """Compare two finished models; returns the page's lines.

    Args:
        folders: of the leaking and of the grouped split.
        names: the configs that they were trained on.
        dataset: of both.
        out: absent, or an empty folder.
        replicates: of the intervals.

    Raises:
        UserError: a folder is no finished model of that config, or the recipes or classes differ.
    """
    check_empty(out)
    with written_whole(out) as partial:
        return write_result(folders, names, dataset, partial, replicates)


def write_result(
    folders: tuple[Path, Path], names: tuple[str, str], dataset: str, out: Path, replicates: int
) -> list[str]:
    """Write ``README.md`` and ``leak_cost.json``; arguments and errors as :func:`compare_finished`."""
    reports = [read_report(folder) for folder in folders]
    for folder, report, name in zip(folders, reports, names, strict=True):
        config = report.get("provenance", {}).get("dataset", {}).get("config_name")
        if config != name:
            raise UserError(f"{shown_path(folder)} was trained on the config {config!r}: give the model of {name!r}")
    check_one_recipe(folders, reports)
    splits = load_splits(dataset, names[0])
    sides = [side_of(folder, report) for folder, report in zip(folders, reports, strict=True)]
    check_of_dataset(sides[0].test, splits, folders[0], dataset)
    if sides[0].test.labels != sides[1].test.labels:
        raise UserError(
            f"{shown_path(folders[0])} has the classes {', '.join(sides[0].test.labels)}, {shown_path(folders[1])} "
            f"{', '.join(sides[1].test.labels)}: give two models of the same classes"
        )
    trained_on = {str(group) for group in groups_of(splits, "train")}
    found = leak_cost(sides[0], sides[1], trained_on, replicates=replicates, seed=reports[0]["provenance"]["seed"])
    title = reports[0]["model"]["title"]
    lines = [*markdown(found, title), f"Made by `{command_line(sys.argv)}`."]
    content = {"model": title, "dataset": splits.name, "configs": list(names), **found}
    write_text(out / "leak_cost.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_text(out / "README.md", "\n".join(lines) + "\n")
    return lines


def check_one_recipe(folders: tuple[Path, Path], reports: list[dict[str, Any]]) -> None:
    """Refuse two models whose settings differ: the difference would not be that of the splits.

    Raises:
        UserError: names the setting and both values.
    """
    first, second = (
        {
            **{
                name: value for name, value in report["provenance"].get("recipe", {}).items() if name not in OF_THE_FOLD
            },
            "seed": report["provenance"]["seed"],
            "dataset": report["provenance"]["dataset"]["name"],
        }
        for report in reports
    )
    for name in sorted({*first, *second}):
        if first.get(name) != second.get(name):
            raise UserError(
                f"{shown_path(folders[0])} was trained with {name} {first.get(name)!r}, {shown_path(folders[1])} with "
                f"{second.get(name)!r}: give two models of one recipe"
            )


def side_of(folder: Path, report: dict[str, Any]) -> Side:
    """The predictions of a finished model's folder.

    Raises:
        UserError: it has none of the test split.
    """
    others = [read_predictions(path) for name in OTHERS if (path := folder / f"predictions_{name}.parquet").is_file()]
    return Side(read_predictions(folder / "predictions_test.parquet"), others, report["trust"]["temperature"])


def groups_of(splits: Any, split: str) -> np.ndarray:
    """The group of each image of a split; its own id where it has none."""
    groups, ids = splits.column(split, "group_id"), splits.column(split, "image_id")
    return np.array([i if g in (None, "", "unknown") else g for g, i in zip(groups, ids, strict=True)], dtype=object)


def check_of_dataset(test: Predictions, splits: Any, folder: Path, dataset: str) -> None:
    """Refuse a model whose test images are not those of the dataset.

    Raises:
        UserError: names both.
    """
    if set(test.image_id.tolist()) != {str(name) for name in splits.column("test", "image_id")}:
        raise UserError(
            f"{shown_path(folder)} was tested on {test.dataset!r}, and the test split of {dataset!r} has other images: "
            "give the dataset that both were trained on"
        )
