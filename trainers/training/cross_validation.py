"""Train every fold with one command, then evaluate all test images together.

``python -m trainers.cross_validate trainers/train_mobilenet.py --dataset data/dermx --output_dir outputs/dermx-folds
--recipe mobilenet_cpu``: any train_*.py (or its name, ``mobilenet``) runs once a fold, on the dataset's configs fold0,
fold1 and so on; every further option is the train script's own. The same command again goes on where it was stopped:
finished folds are checked against their manifests and kept, an unfinished one is resumed.

The finished folder holds each fold's complete model (fold0/ and so on), the pooled predictions_test.parquet,
report.json with intervals by lesion and the spread over folds, figures/ and a README.md.
"""

from __future__ import annotations

import argparse
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
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from datasets_scripts.command import OneLineParser, UserError, run, shown_path
from model_cards.card import read_report
from model_cards.manifest import write_manifest, write_text
from model_cards.verify import verify_folder
from trainers.model_folder.output import beside, check_empty, locked, put_in_place
from trainers.training.arguments import EnsembleArguments, LesionArguments
from trainers.training.command_line import quick_parser

if TYPE_CHECKING:
    from trainers.evaluation.pooling import Fold


NO_CLASSIFIER = "train_autoencoder.py"
HERE = Path(__file__).resolve().parent
STATE = "cross_validate.json"
PREDICTIONS = "predictions_test.parquet"
OURS = ("--config_name", "--resume_from_checkpoint")
IN_LOGITS = " 'As it is' means: each fold's own temperature is in the pooled logits already."


@dataclass(frozen=True)
class Plan:
    """What was asked for.

    Attributes:
        script: the train script.
        options: its options, without those that are set for each fold.
        out: the finished folder; while working, everything stands in ``partial``.
        folds: number of folds.
        replicates: bootstrap resamples of the pooled report.
        launcher: words before the script.
    """

    script: Path
    options: list[str]
    out: Path
    folds: int
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
        unfinished = folder.with_name(f"{name}.partial").exists()
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
    prepare(plan)
    names = [f"fold{k}" for k in range(plan.folds)]
    failed: dict[str, str] = {}
    with tqdm(names, unit="fold", disable=None, leave=False) as bar:
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
    folds = [read_fold(plan.partial / name, name) for name in names]
    report = evaluate_folds(folds, plan.partial, plan.replicates)
    (plan.partial / STATE).unlink()
    write_manifest(plan.partial)
    put_in_place(plan.partial, plan.out)
    return report


def failure(plan: Plan, failed: dict[str, str]) -> str:
    """One line about the folds that failed; where nothing was begun, nothing is left behind."""
    problems = "; ".join(f"{name} failed: {problem}" for name, problem in failed.items())
    begun = sorted(path.name for path in plan.partial.glob("fold*"))
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
    asked = {"script": plan.script.name, "options": plan.options}
    state = plan.partial / STATE
    if plan.partial.exists():
        try:
            found = json.loads(state.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            raise UserError(
                f"{shown_path(plan.partial)} is of another command than this: choose another --output_dir or delete it"
            ) from None
        if found != asked:
            earlier = shlex.join([found["script"], *found["options"]])
            raise UserError(
                f"{shown_path(plan.partial)} holds folds of other options ({earlier}): give these again, or delete it"
            )
        return
    plan.partial.mkdir(parents=True)
    write_text(state, json.dumps(asked, indent=1, allow_nan=False) + "\n")


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
    from trainers.evaluation.pooling import Fold
    from trainers.metrics.predictions import read_predictions

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
    from trainers.evaluation.figures.charts import draw_all
    from trainers.evaluation.pooling import check_alike, pool, pooled_report, summary
    from trainers.evaluation.tables import write_tables
    from trainers.metrics.predictions import read_predictions, write_predictions
    from trainers.model_folder.evaluate import evaluate_splits, write_report

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
    from trainers.model_folder.provenance import (
        command_line,  # imports torch, which --help and errors need not wait for
    )

    return {"created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "command": command_line(sys.argv)}


def headline(report: dict[str, Any]) -> str:
    """A fold's test figures in one line."""
    from trainers.evaluation.pooling import fold_values

    values = fold_values(report["evaluation"]["test"])
    names = (("accuracy", "accuracy"), ("balanced accuracy", "balanced_accuracy"), ("NLL", "nll"))
    return ", ".join(f"{shown_name} {values[name]:.3f}" for shown_name, name in names)


def find_script(text: str) -> Path:
    """A classifier's train script by its path or its name.

    Raises:
        UserError: neither, or the autoencoder's, which predicts nothing that could be pooled.
    """
    for path in (Path(text), HERE / f"train_{text}.py", HERE / f"{text}.py"):
        if path.is_file() and path.suffix == ".py" and path.name != NO_CLASSIFIER:
            return path
    scripts = {path.name for path in HERE.glob("train_*.py")} - {NO_CLASSIFIER}
    known = ", ".join(sorted(name.removeprefix("train_").removesuffix(".py") for name in scripts))
    if Path(text).stem.removeprefix("train_") == "autoencoder":
        raise UserError(f"train script {text!r} predicts no class, so folds cannot be pooled: give one of {known}")
    raise UserError(f"train script {text!r} does not exist: give a train_*.py, or one of {known}")


def make_plan(argv: list[str]) -> Plan:
    """Parse the command line.

    Raises:
        UserError: a number out of range, no such script, or an option that is set for each fold.
    """
    parser = OneLineParser(
        prog="python -m trainers.cross_validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="Every other option goes to the train script, e.g. --dataset, --recipe, --seed, --num_train_epochs.",
    )
    add = parser.add_argument
    add("script", metavar="SCRIPT", help="a train_*.py, or its name, e.g. mobilenet")
    add("--output_dir", type=Path, required=True, metavar="DIR", help="finished folder; work stands in DIR.partial")
    add("--folds", type=int, default=5, help="fold0 to fold(K-1) of the dataset's configs (default: %(default)s)")
    add(
        "--bootstrap_replicates",
        type=int,
        default=1000,
        help="resamples behind the intervals, of each fold and of the pooled report (default: %(default)s)",
    )
    add(
        "--launcher",
        default="",
        metavar="WORDS",
        help="what starts the script, e.g. 'accelerate launch --num_processes 2' (default: this Python, one process)",
    )
    known, options = parser.parse_known_args(argv)
    script = find_script(known.script)
    for word in options:
        if word.split("=")[0] in OURS:
            raise UserError(f"{word.split('=')[0]} is set for each fold: leave it out")
    if script.resolve().parent == HERE:  # of any other script only itself knows its options
        kind = EnsembleArguments if script.name == "train_ensemble.py" else LesionArguments
        theirs = quick_parser("", kind)
        for action in parser._actions:
            if not set(action.option_strings) & set(theirs._option_string_actions) and action.option_strings:
                theirs.add_argument(*action.option_strings, dest=action.dest)
        theirs.refuse_unknown(options)
    if known.folds < 2:
        raise UserError(f"--folds {known.folds}: give 2 or more, as many as the dataset has configs fold0, fold1, ...")
    if known.bootstrap_replicates < 1:
        raise UserError(f"--bootstrap_replicates {known.bootstrap_replicates}: give at least 1")
    return Plan(
        script=script,
        options=[*options, "--bootstrap_replicates", str(known.bootstrap_replicates)],
        out=known.output_dir,
        folds=known.folds,
        replicates=known.bootstrap_replicates,
        launcher=shlex.split(known.launcher) or [sys.executable],
    )


def main() -> None:
    """Parse the command line and cross-validate."""
    plan = make_plan(sys.argv[1:])
    try:
        report = cross_validate(plan)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command goes on from {shown_path(plan.partial)}") from None
    from trainers.evaluation.pooling import metric_table

    print("\n".join(["", *metric_table(report), ""]))
    print(f"finished: {shown_path(plan.out)} (README.md, report.json, and each fold's model)")


if __name__ == "__main__":
    run(main)
