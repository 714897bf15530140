"""The start of every ``train_*.py``: check the command line, then import torch and train.

Importing torch and transformers takes many seconds. So ``--help`` and every error that the command line alone shows
come first, from a copy of the real parser: the suite's options are plain dataclasses, and the fields of
``transformers.TrainingArguments`` are read from its source file without importing it. The real parser runs after this
one; a test compares the two.

``accelerate launch`` adds a traceback of its own (CalledProcessError) to our line whenever a script ends with another
exit code than 0: no script, configuration file or environment variable can change that, only ``accelerate launch
--quiet``. On Ctrl-C it adds one also with ``--quiet`` (KeyboardInterrupt, in the launcher's process). With one process,
``python trainers/train_<x>.py`` does the same without a launcher.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import json
import os
import sys
from argparse import ArgumentDefaultsHelpFormatter, Namespace
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from datasets_scripts.command import OneLineParser, UserError, run, shown_path
from datasets_scripts.output import beside
from trainers.model_folder.output import check_empty
from trainers.training.arguments import (
    LesionArguments,
    as_typed,
    check_dataset,
    check_trainer_values,
    chosen_recipe,
    given_precision,
    load_recipe,
)
from trainers.training.inherited import REFUSED, refuse

TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


@dataclass(frozen=True)
class Option:
    """One option as argparse needs it.

    Attributes:
        name: of the field.
        annotation: its type, as written.
        default: None where the source does not state it as a constant.
        metadata: words for argparse, ``help`` above all.
    """

    name: str
    annotation: str
    default: Any
    metadata: Mapping[str, Any]


def start(recipe: str, options_class: type[LesionArguments], runner: str, **more: Any) -> None:
    """Check the command line, then hand over to a runner; the entry point of every ``train_*.py``.

    Args:
        recipe: the default recipe's name.
        options_class: the suite's options of this trainer.
        runner: module whose ``main(recipe, **more)`` trains.
        more: for the runner.
    """

    def main() -> None:
        check(sys.argv[1:], recipe, options_class)
        try:
            importlib.import_module(runner).main(recipe, **more)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(how_to_resume(sys.argv[1:], recipe, options_class)) from None

    run(main)


def how_to_resume(argv: list[str], recipe: str, options_class: type[LesionArguments]) -> str:
    """What to do after Ctrl-C: the same command, with ``--resume_from_checkpoint`` where there is a checkpoint."""
    parser = quick_parser(recipe, options_class)
    parser.set_defaults(**load_recipe(chosen_recipe(argv, recipe), {action.dest for action in parser._actions}))
    out = Path(parser.parse_args(argv).output_dir)
    for partial in (beside(out), *sorted(out.with_name(f"{out.name}.members").glob("*.partial"))):
        if any((partial / "checkpoints").glob("checkpoint-*/complete")):  # COMPLETE_FILE of a module that imports torch
            return f"add --resume_from_checkpoint true to the same command to go on from {shown_path(partial)}"
    return "run the same command again"


def check(argv: list[str], recipe: str, options_class: type[LesionArguments]) -> None:
    """Print ``--help``, or refuse what the command line alone shows to be wrong.

    Raises:
        UserError: a value, a recipe, a dataset or an output folder; the message names it.
    """
    parser = quick_parser(recipe, options_class)
    usual = parser.parse_args([])
    values = load_recipe(chosen_recipe(argv, recipe), {action.dest for action in parser._actions})
    parser.set_defaults(**{name: as_typed(value) for name, value in values.items()})
    given: Namespace = parser.parse_args(argv)
    own = {option.name for option in fields(options_class) if option.init}
    options_class(**{name: value for name, value in vars(given).items() if name in own})
    refuse(given, usual)
    given_precision(given)
    check_trainer_values(vars(given))
    if not given.output_dir:
        raise UserError("no output folder was given: add --output_dir DIR")
    if os.environ.get("RANK", "0") == "0":  # another process of this run may hold the folder already
        check_empty(Path(given.output_dir))
    check_dataset(given.dataset, given.dataset_command if given.dataset == values.get("dataset") else "")
    check_paths(given)
    try:
        json.loads(given.model_config or "{}")
    except json.JSONDecodeError as error:
        example = """give e.g. '{"backbone_kwargs": {"drop_path_rate": 0.2}}'"""
        raise UserError(f"model_config {given.model_config!r} is not JSON ({error}): {example}") from error


def check_paths(given: Namespace) -> None:
    """Refuse files and folders that are named and do not exist.

    Raises:
        UserError: names the option and the path.
    """
    for name in ("backbone_weights", "perceptual_weights"):
        for path in str(getattr(given, name, "")).split(","):
            if path.strip().endswith(".safetensors") and not Path(path.strip()).is_file():
                raise UserError(f"{name} {path.strip()!r} does not exist: give a .safetensors file, timm or none")
    checkpoint = str(given.resume_from_checkpoint or "")
    if checkpoint.lower() not in ("", "true", "false", "none") and not Path(checkpoint).is_dir():
        raise UserError(
            f"checkpoint {checkpoint!r} does not exist or is not complete: give `true` for this run's newest"
        )


def quick_parser(recipe: str, options_class: type[LesionArguments]) -> OneLineParser:
    """The options of a training command, as ``transformers.HfArgumentParser`` makes them of the same dataclasses."""
    parser = OneLineParser(formatter_class=ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    for option in own_options(options_class):
        add(parser, option, {})
    enums, trainer = trainer_options()
    for option in trainer:
        if option.name in REFUSED:
            option = replace(option, metadata={**option.metadata, "help": argparse.SUPPRESS})
        add(parser, option, enums)
    parser.add_argument("--recipe", default=recipe, help="Recipe file, or the name of one of trainers/recipes.")
    return parser


def own_options(options_class: type[LesionArguments]) -> list[Option]:
    """The suite's options, in order."""
    options = []
    for field in fields(options_class):
        # The text of the annotation, or the type itself once HfArgumentParser has read the dataclass.
        kind = field.type.__name__ if isinstance(field.type, type) else str(field.type)
        default = None if field.default is MISSING else field.default
        if field.init:
            options.append(Option(field.name, kind, default, field.metadata))
    return options


def trainer_options() -> tuple[dict[str, list[str]], list[Option]]:
    """The Trainer's options with the suite's defaults, read from the two source files.

    Returns:
        Name of an enumeration -> its values; the options in order.
    """
    found = importlib.util.find_spec("transformers")
    assert found is not None
    assert found.origin is not None
    folder = Path(found.origin).parent
    theirs = ast.parse((folder / "training_args.py").read_text(encoding="utf-8"))
    ours = ast.parse(Path(__file__).with_name("training_arguments.py").read_text(encoding="utf-8"))
    enums = enumerations(theirs) | enumerations(ast.parse((folder / "trainer_utils.py").read_text(encoding="utf-8")))
    options = {option.name: option for option in dataclass_options(theirs, "TrainingArguments")}
    for option in dataclass_options(ours, "LesionTrainingArguments"):
        known = options.get(option.name)
        if known is not None:  # transformers' own type has the choices
            option = Option(option.name, known.annotation, option.default, option.metadata or known.metadata)
        options[option.name] = option
    return enums, list(options.values())


def dataclass_options(tree: ast.Module, name: str) -> list[Option]:
    """The fields of a dataclass in a source file."""
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    options = []
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        words: Mapping[str | None, ast.expr] = {}
        if isinstance(node.value, ast.Call):
            words = {word.arg: word.value for word in node.value.keywords}
        default, metadata = constant(words.get("default")), constant(words.get("metadata"))
        options.append(Option(node.target.id, ast.unparse(node.annotation), default, metadata or {}))
    return options


def enumerations(tree: ast.Module) -> dict[str, list[str]]:
    """The values of each enumeration of words in a source file."""
    return {
        node.name: [constant(line.value) for line in node.body if isinstance(line, ast.Assign)]
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and "Enum" in base.id for base in node.bases)
    }


def constant(node: ast.expr | None) -> Any:
    """The value of an expression of constants; None for every other."""
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:
        return None


def add(parser: argparse.ArgumentParser, option: Option, enums: Mapping[str, list[str]]) -> None:
    """Add one option to a parser."""
    kind = kind_of(option.annotation)
    names = [f"--{option.name}"]
    if "_" in option.name:
        names.append(f"--{option.name.replace('_', '-')}")
    words: dict[str, Any] = {"default": option.default, **option.metadata}
    if kind == "bool" or (kind == "bool | None" and option.default is not None):
        words |= {"type": boolean, "nargs": "?", "const": True}
    elif kind == "bool | None":
        words |= {"type": boolean}
    elif kind in enums:
        words |= {"choices": enums[kind]}
    elif kind.startswith("list["):
        words |= {"nargs": "+", "default": None}
    else:
        words |= {"type": {"int": int, "float": float}.get(kind, str)}
    parser.add_argument(*names, **words)
    if option.default is True and "bool" in kind:
        off = [f"--no_{option.name}", f"--no-{option.name.replace('_', '-')}"]
        parser.add_argument(*off, action="store_false", dest=option.name, default=True, **option.metadata)


def kind_of(annotation: str) -> str:
    """The type that ``HfArgumentParser`` takes of a union."""
    parts = [part.strip() for part in annotation.split("|")]
    if len(parts) == 1:
        return parts[0]
    if "None" not in parts:
        return parts[0] if parts[1] == "str" else parts[1]
    if "bool" not in parts:
        return parts[0] if parts[1] == "None" else parts[1]
    return "bool | None" if len(parts) == 2 else "str"


def boolean(text: str) -> bool:
    """``true`` or ``false`` in any of the usual spellings.

    Raises:
        argparse.ArgumentTypeError: neither.
    """
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
