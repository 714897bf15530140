"""The train scripts by name, and the check of options that a command passes on to one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError
from trainers.training.arguments import EnsembleArguments, LesionArguments
from trainers.training.command_line import quick_parser
from trainers.training.image_arguments import ImageArguments

AUTOENCODER, PROBE = "train_autoencoder.py", "train_probe.py"
OPTIONS = {"train_ensemble.py": EnsembleArguments, "train_image_classifier.py": ImageArguments}
HERE = Path(__file__).resolve().parents[1]
OURS = ("--config_name", "--resume_from_checkpoint")


def find_script(text: str, without: Sequence[str] = (AUTOENCODER, PROBE)) -> Path:
    """A classifier's train script by its path or its name.

    Args:
        text: the path or the name.
        without: file names of scripts that do not fit; by default the autoencoder, which predicts no class, and the
            probe, which trains nothing that a fold could continue.

    Raises:
        UserError: neither, or one that does not fit.
    """
    for path in (Path(text), HERE / f"train_{text}.py", HERE / f"{text}.py"):
        if path.is_file() and path.suffix == ".py" and path.name not in without:
            return path
    scripts = {path.name for path in HERE.glob("train_*.py")} - set(without)
    known = ", ".join(sorted(name.removeprefix("train_").removesuffix(".py") for name in scripts))
    if Path(text).stem.removeprefix("train_") == "autoencoder":
        raise UserError(f"train script {text!r} predicts no class, so folds cannot be pooled: give one of {known}")
    raise UserError(f"train script {text!r} does not exist: give a train_*.py, or one of {known}")


def check_passed_on(script: Path, options: Sequence[str], parser: OneLineParser, each: str) -> None:
    """Refuse options that are set for each run, or that the script does not have (of one of ours).

    Args:
        script: the train script.
        options: the words for it.
        parser: of the command, whose own options are known too.
        each: what a run is called in the message.

    Raises:
        UserError: names the option.
    """
    for word in options:
        if word.split("=")[0] in OURS:
            raise UserError(f"{word.split('=')[0]} is set for each {each}: leave it out")
    if script.resolve().parent == HERE and script.name != PROBE:  # of any other script only itself knows its options
        theirs = quick_parser("", OPTIONS.get(script.name, LesionArguments))
        for action in parser._actions:
            if not set(action.option_strings) & set(theirs._option_string_actions) and action.option_strings:
                theirs.add_argument(*action.option_strings, dest=action.dest)
        theirs.refuse_unknown(options)
