"""The release of a finished model: a copy without photographs, features and paths of this machine, then rebuilt."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets_scripts.command import UserError
from datasets_scripts.output import written_whole
from hub_models import SUITE_VERSION
from hub_models.checks_lesion import SEMANTIC_VERSION
from model_cards.card import REPORT, read_report
from trainers.evaluation.figures.explanations import EXAMPLES_FOLDER
from trainers.metrics.predictions import read_predictions, write_predictions
from trainers.model_folder.finish import save
from trainers.model_folder.folder import EvaluatedModel, read_finished
from trainers.model_folder.output import check_empty
from trainers.model_folder.rebuild import rebuild

VARIABLES = ("LESION_DATA_DIR", "LESION_WEIGHTS_DIR")
LEFT_OUT = ("*.py", "__pycache__", ".*", EXAMPLES_FOLDER)


def release(
    folder: Path,
    out: Path,
    redraw: Callable[[EvaluatedModel, Path], None],
    *,
    replicates: int = 1000,
    versions: list[dict[str, str]] | None = None,
) -> None:
    """Write the release of a finished model.

    Args:
        folder: the finished model; left as it is.
        out: absent, or an empty folder.
        redraw: replaces the examples of heat maps in the copy, since they show images of the dataset.
        replicates: bootstrap resamples behind each interval.
        versions: of the model, the newest first, see :func:`versions`; None = as the report says.

    Raises:
        UserError: ``out`` holds something; ``folder`` is no finished model of ours, or was changed since, or its
            report names a folder of this machine.
    """
    check_empty(out, "OUT")
    finished = read_finished(folder, str(folder))
    if versions:
        finished.report["versions"] = versions
        finished.report["model"]["version"] = versions[0]["version"]
        finished.model.config.model_version = versions[0]["version"]
    with written_whole(out) as partial:
        shutil.copytree(folder, partial, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
        dtype = finished.report["model"].get("weights_dtype", "float32")
        save(finished.model, finished.processor, partial, dtype)
        for path in partial.glob("predictions_*.parquet"):
            write_predictions(read_predictions(path), path, with_features=False)
        redraw(finished, partial)
        report = without_places(finished.report, str(folder))
        (partial / REPORT).write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        rebuild(partial, replicates)


def versions(folder: Path, after: Path | None, version: str | None, changes: str) -> list[dict[str, str]] | None:
    """The list of the model's versions with the new one first; None where no version is given.

    Args:
        folder: the finished model.
        after: the release before, whose list goes on; None = that of ``folder``, if it has one.
        version: the new one, ``X.Y.Z``.
        changes: what is new in it.

    Raises:
        UserError: it is no semantic version, or not higher than the last one; changes without a version.
    """
    if version is None:
        if changes or after:
            raise UserError("--changes and --after belong to a new version: give --version X.Y.Z, or leave them out")
        return None
    if not SEMANTIC_VERSION.fullmatch(version):
        raise UserError(f"--version {version!r} is no semantic version: give three numbers such as 1.2.0")
    before = read_report(after or folder).get("versions", [])
    if before and numbers_of(version) <= numbers_of(before[0]["version"]):
        raise UserError(
            f"--version {version} is not higher than {before[0]['version']}, the last one: give a higher one"
        )
    text = " ".join(changes.split()) or ("First version." if not before else "Not stated.")
    today = datetime.now(UTC).date().isoformat()
    return [{"version": version, "date": today, "suite": SUITE_VERSION, "changes": text}, *before]


def numbers_of(version: str) -> tuple[int, ...]:
    """``1.2.0`` -> (1, 2, 0)."""
    return tuple(map(int, version.split(".")))


def without_places(content: dict[str, Any], named: str) -> dict[str, Any]:
    """The same content with paths below the variables' folders written as these variables.

    Args:
        content: JSON-ready.
        named: what it is of, for messages.

    Raises:
        UserError: it names this folder or this user's home in another way.
    """
    text = json.dumps(content)
    for name in VARIABLES:
        if value := os.environ.get(name):
            for place in (value.rstrip("/"), os.path.relpath(value)):
                text = text.replace(f"{json.dumps(place)[1:-1]}/", f"${name}/")
    for place in {str(Path.cwd()), str(Path.home())} - {"/"}:
        if (at := text.find(f"{json.dumps(place)[1:-1]}/")) >= 0:
            path = re.split(r'["\s]', text[at:], maxsplit=1)[0]
            raise UserError(
                f"{named} names a place of this machine ({path}): set {' or '.join(VARIABLES)} to its folder, or train "
                "and fit with paths relative to the folder that you work in"
            )
    return dict(json.loads(text))
