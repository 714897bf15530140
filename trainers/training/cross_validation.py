"""Train every fold of a dataset, each in a process of its own, then evaluate all test images together."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets_scripts.command import UserError, shown_path
from datasets_scripts.output import beside, locked, put_in_place
from model_cards.card import read_report
from model_cards.manifest import write_manifest, write_text
from model_cards.verify import verify_folder
from trainers.evaluation.figures.charts import draw_all
from trainers.evaluation.pooling import Fold, check_alike, fold_values, pool, pooled_report, summary
from trainers.evaluation.tables import write_tables
from trainers.metrics.predictions import read_predictions, write_predictions
from trainers.model_folder.evaluate import evaluate_splits, write_report
from trainers.model_folder.output import check_empty
from trainers.model_folder.provenance import command_line
from trainers.training.scripts import PROBE

STATE = "cross_validate.json"
PREDICTIONS = "predictions_test.parquet"
IN_LOGITS = " 'As it is' means: each fold's own temperature is in the pooled logits already."


@dataclass(frozen=True)
class Plan:
    """What to train, and where.

    Attributes:
        script: the train script.
        options: its options, without those that are set for each fold.
        out: the finished folder; while working, everything stands in ``partial``.
        names: of the dataset's configs, one a run: ``fold0`` and so on.
        replicates: bootstrap resamples of the pooled report.
        launcher: words before the script.
    """

    script: Path
    options: list[str]
    out: Path
    names: tuple[str, ...]
    replicates: int
    launcher: list[str]

    @property
    def partial(self) -> Path:
        """``<out>.partial``."""
        return beside(self.out)

    def command(self, name: str) -> list[str]:
        """The command line of one fold; an unfinished run of it is resumed."""
        folder = self.partial / name
        words = [*self.launcher, str(self.script), *self.options, "--config_name", name, "--output_dir", str(folder)]
        unfinished = folder.with_name(f"{name}.partial").exists() and self.script.name != PROBE
        return [*words, "--resume_from_checkpoint", "true"] if unfinished else words


def cross_validate(plan: Plan) -> dict[str, Any]:
    """Run or resume all folds, pool them, and put the finished folder in place; returns the pooled report.

    Raises:
        UserError: a fold failed, or was changed since it was finished; the folds that are well are kept.
    """
    with locked(plan.out):
        return run_folds(plan)


def run_folds(plan: Plan) -> dict[str, Any]:
    """As :func:`cross_validate`, for an output folder that this process holds."""
    train_configs(plan)
    folds = [read_fold(plan.partial / name, name) for name in plan.names]
    report = evaluate_folds(folds, plan.partial, plan.replicates)
    (plan.partial / STATE).unlink()
    write_manifest(plan.partial)
    put_in_place(plan.partial, plan.out)
    return report


def train_configs(plan: Plan) -> None:
    """Train every config of a plan into ``plan.partial``, or go on with it.

    Raises:
        UserError: a run failed, or was changed since it was finished.
    """
    prepare(plan)
    failed: dict[str, str] = {}
    with tqdm(plan.names, unit="fold", disable=None, leave=False) as bar:
        for name in bar:
            kept = (plan.partial / name).exists()
            if not kept:
                started = time.perf_counter()
                stop, problem = run_fold(plan, name, bar)
                if problem:
                    failed[name] = problem
                    if stop:
                        break
                    continue
            report = checked_report(plan.partial / name, name)
            how = "kept, every file is as its manifest says" if kept else f"{time.perf_counter() - started:.0f} s"
            tqdm.write(f"{name}: {headline(report)} ({how})", file=sys.stdout)
    if failed:
        raise UserError(failure(plan, failed))


def failure(plan: Plan, failed: dict[str, str]) -> str:
    """One line about the folds that failed; where nothing was begun, nothing is left behind."""
    problems = "; ".join(f"{name} failed: {problem}" for name, problem in failed.items())
    begun = [path.name for name in plan.names for path in sorted(plan.partial.glob(f"{name}*"))]
    if not begun:
        shutil.rmtree(plan.partial)
        return problems
    well = [name for name in begun if not name.endswith(".partial")]
    kept = f"{', '.join(well)} kept" if well else "the unfinished fold is kept"
    return f"{problems}; {kept} in {shown_path(plan.partial)}, to go on run the same command again"


def prepare(plan: Plan) -> None:
    """Make the working folder, or find an earlier run of the same command in it.

    Raises:
        UserError: the finished folder is not empty, or the working folder is of something else.
    """
    check_empty(plan.out, held=True)
    command = {"script": plan.script.name, "options": plan.options}
    state = plan.partial / STATE
    if plan.partial.exists():
        try:
            found = json.loads(state.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            raise UserError(
                f"{shown_path(plan.partial)} is of another command than this: choose another --output_dir or delete it"
            ) from None
        if found != command:
            earlier = shlex.join([found["script"], *found["options"]])
            raise UserError(
                f"{shown_path(plan.partial)} holds folds of other options ({earlier}): give these again, or delete it"
            )
        return
    plan.partial.mkdir(parents=True)
    write_text(state, json.dumps(command, indent=1, allow_nan=False) + "\n")


def run_fold(plan: Plan, name: str, bar: Any) -> tuple[bool, str]:
    """Run the train script for one fold, its output in a log.

    Returns:
        Whether the others would fail alike (the script refused what it was given), and what went wrong, or "".
    """
    log = plan.partial / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    tqdm.write(f"{name}: training, log in {shown_path(log)}", file=sys.stdout)
    sys.stdout.flush()
    complaint, last = "", ""
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "2"}
    with log.open("w", encoding="utf-8") as file:
        try:
            process = subprocess.Popen(
                plan.command(name),
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            return True, f"{plan.launcher[0]!r} cannot be started ({error.strerror})"
        try:
            assert process.stdout is not None
            # Universal newlines: a progress bar's redraws come as lines, and the last one shows that it lives.
            for line in process.stdout:
                file.write(line)
                last = line.strip() or last
                complaint = line[len("error: ") :].strip() if line.startswith("error: ") else complaint
                bar.set_postfix_str(f"{name} {last[:60]}", refresh=True)
            code = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if code == 0 and not (plan.partial / name).is_dir():
        return True, f"{plan.script.name} ended well but wrote no {shown_path(plan.partial / name)}"
    if code == 0:
        return False, ""
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    # What a script says of a user's mistake is whole; anything else needs the log.
    return (
        (True, complaint)
        if code == 2 and complaint
        else (False, f"{last or 'no message'} ({how}, see {shown_path(log)})")
    )


def checked_report(folder: Path, name: str) -> dict[str, Any]:
    """The report of a finished fold whose files are all as its manifest says.

    Raises:
        UserError: a byte was changed, or it is of another config.
    """
    try:
        problems = verify_folder(folder)
        report = read_report(folder)
    except UserError as error:
        problems = [str(error)]
    if problems:
        raise UserError(
            f"{name} is not as it was finished: {problems[0]}; delete {shown_path(folder)} to train it again"
        )
    config = report["provenance"]["dataset"]["config_name"]
    if config != name:
        raise UserError(f"{shown_path(folder)} was trained on the config {config!r}: delete it to train {name}")
    return report


def read_fold(folder: Path, name: str) -> Fold:
    """A checked fold's report and predictions.

    Raises:
        UserError: it has no test predictions.
    """
    report = read_report(folder)
    try:
        return Fold(name, report, read_predictions(folder / PREDICTIONS))
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def evaluate_folds(folds: list[Fold], folder: Path, replicates: int) -> dict[str, Any]:
    """Pool the folds and write predictions, tables, figures, ``report.json`` and ``README.md`` into ``folder``.

    Raises:
        UserError: folds that do not belong together.
    """
    check_alike(folds)
    write_predictions(pool(folds), folder / PREDICTIONS)
    # Read back: the report then follows from the stored file to the last digit.
    pooled = read_predictions(folder / PREDICTIONS)
    report = pooled_report(folds, pooled, _provenance())
    evaluated = evaluate_splits({"test": pooled}, report["trust"], replicates, report["provenance"]["seed"])
    report.update(evaluated)
    write_tables(
        evaluated["evaluation"]["test"], folder, title=f"{report['model']['title']}, {len(folds)} folds pooled"
    )
    report["figures"] = draw_all(report, {"test": pooled}, folder)
    for figure in report["figures"]:
        figure["caption"] += IN_LOGITS if "reliability" in figure["file"] else ""
    write_report(report, folder)
    write_text(folder / "README.md", summary(report))
    return report


def _provenance() -> dict[str, Any]:
    return {"created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "command": command_line(sys.argv)}


def headline(report: dict[str, Any]) -> str:
    """A fold's test figures in one line."""
    values = fold_values(report["evaluation"]["test"])
    names = (("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy"), ("NLL", "nll"))
    return ", ".join(f"{shown_name} {values[name]:.3f}" for shown_name, name in names)
