"""The quick check of a training command line: the same options as the real parser, and no slow import."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from datasets_scripts.command import UserError
from trainers.autoencoding.options import AutoencoderArguments
from trainers.evaluation import robustness
from trainers.model_folder import evaluate as evaluating
from trainers.model_folder import perturbations
from trainers.training import arguments
from trainers.training.arguments import EnsembleArguments, LesionArguments
from trainers.training.command_line import check, how_to_resume, quick_parser
from trainers.training.image_arguments import ImageArguments
from trainers.training.trainer import COMPLETE_FILE
from trainers.training.training_arguments import LesionTrainingArguments, OneLineHfParser

CLASSES = [LesionArguments, EnsembleArguments, ImageArguments, AutoencoderArguments]


@pytest.mark.parametrize("options_class", CLASSES)
def test_the_quick_parser_is_a_copy_of_the_real_one(options_class: type[LesionArguments]) -> None:
    real = OneLineHfParser([options_class, LesionTrainingArguments])  # type: ignore[list-item]
    real.add_argument("--recipe", default="vit", help="")

    def seen(parser: argparse.ArgumentParser) -> dict[str, tuple[object, ...]]:
        return {
            option: (action.dest, action.nargs, action.const, action.choices and sorted(action.choices))
            for option, action in parser._option_string_actions.items()
        }

    quick, expected = seen(quick_parser("vit", options_class)), seen(real)
    assert set(quick) == set(expected)
    for option, (dest, nargs, const, choices) in expected.items():
        assert quick[option][:3] == (dest, nargs, const), option
        if dest not in OVERRIDDEN:
            assert quick[option][3] == choices, option


# Words to the suite's dataclass, an enumeration to transformers: the quick parser knows the choices.
OVERRIDDEN = {"lr_scheduler_type", "eval_strategy", "save_strategy", "logging_strategy"}
# The reverse: the choices are computed when transformers is imported.
OVERRIDDEN |= {"log_level", "log_level_replica"}


@pytest.mark.parametrize("options_class", CLASSES)
def test_the_defaults_are_the_real_ones(options_class: type[LesionArguments]) -> None:
    real = OneLineHfParser([options_class, LesionTrainingArguments])  # type: ignore[list-item]
    copy = quick_parser("vit", options_class)._option_string_actions
    computed = {"optim", "include_for_metrics", "help"}  # by a call, not by a constant
    for option, action in real._option_string_actions.items():
        if action.dest not in computed and not option.startswith("--no"):
            assert copy[option].default == getattr(action.default, "value", action.default), option


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--learning_rat", "1"], "did you mean --learning_rate?"),
        (["--num_train_epoch=2"], "did you mean --num_train_epochs?"),
        (["--image_size", "x"], "'x'"),
        (["--lr_scheduler_type", "cosin"], "'cosin'"),
        (["--fp16", "perhaps"], "'perhaps'"),
    ],
)
def test_a_wrong_option_is_one_line(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        check(words, "resnet", LesionArguments)
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert named in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--image_size", "1"], "image_size 1"),
        (["--sampling", "all"], "sampling 'all'"),
        (["--augmentation", "flip"], "augmentation 'flip'"),
        (["--loss", "hinge"], "loss 'hinge'"),
        (["--class_weights", "some"], "class_weights 'some'"),
        (["--precision", "fp8"], "precision 'fp8'"),
        (["--layer_decay", "2"], "layer_decay 2.0"),
        (["--learning_rate", "-1"], "learning_rate -1.0"),
        (["--learning_rate", "nan"], "learning_rate nan"),
        (["--num_train_epochs", "0"], "num_train_epochs 0.0"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size 0"),
        (["--seed", "-1"], "seed -1"),
        (["--recipe", "nothing"], "recipe 'nothing'"),
        (["--dataset", "/no/such"], "'/no/such'"),
        (["--backbone_weights", "/no/such.safetensors"], "'/no/such.safetensors'"),
        (["--resume_from_checkpoint", "/no/such"], "'/no/such'"),
        (["--model_config", "{"], "model_config '{'"),
    ],
)
def test_a_wrong_value_is_named(words: list[str], named: str, tmp_path: Path) -> None:
    dataset = [] if "--dataset" in words else ["--dataset", str(tmp_path)]
    with pytest.raises(UserError) as caught:
        check([*dataset, "--output_dir", str(tmp_path / "out"), *words], "resnet", LesionArguments)
    assert named in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_with_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(UserError, match="is not empty"):
        check(["--dataset", str(tmp_path), "--output_dir", str(tmp_path / "out")], "resnet", LesionArguments)


def test_what_is_right_passes(tmp_path: Path) -> None:
    words = ["--dataset", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--fp16", "--no_keep_features"]
    words += ["--resume-from-checkpoint", "true", "--image-size=64"]
    check(words, "resnet", LesionArguments)
    assert list(tmp_path.iterdir()) == []
    given = quick_parser("resnet", LesionArguments).parse_args(words)
    assert (given.fp16, given.keep_features, given.image_size, given.resume_from_checkpoint) == (
        True,
        False,
        64,
        "true",
    )


def test_the_names_are_those_of_the_code() -> None:
    assert arguments.EVALUATED_SPLITS == evaluating.EVALUATED_SPLITS
    assert tuple(perturbations.CORRUPTIONS) == arguments.CORRUPTIONS
    assert tuple(perturbations.SEVERITIES) == arguments.SEVERITIES
    assert tuple(robustness.VIEWS) == arguments.VIEWS


SCRIPTS = ["autoencoder", "efficientnet", "ensemble", "fusion", "metadata", "mobilenet", "resnet", "vit"]


def test_help_of_every_script_imports_nothing_slow(repo_root: Path) -> None:
    code = textwrap.dedent("""
        import contextlib, io, runpy, sys
        for name in sys.argv[1:]:
            sys.argv = [f"trainers/train_{name}.py", "--help"]
            shown = io.StringIO()
            with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
                runpy.run_path(sys.argv[0], run_name="__main__")
            assert "--image_size" in shown.getvalue() and "--learning_rate" in shown.getvalue()
        print(sorted({"torch", "transformers", "datasets", "pyarrow", "pandas"} & set(sys.modules)))
    """)
    env = {**os.environ, "PYTHONPATH": str(repo_root)}
    done = subprocess.run(
        [sys.executable, "-c", code, *SCRIPTS], cwd=repo_root, env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    words = ["--output_dir", str(tmp_path / "out"), "--recipe", "demo"]
    assert how_to_resume(words, "mobilenet", LesionArguments) == "run the same command again"
    checkpoint = tmp_path / "out.partial" / "checkpoints" / "checkpoint-12"
    checkpoint.mkdir(parents=True)
    assert "resume" not in how_to_resume(words, "mobilenet", LesionArguments)  # killed while it was written
    (checkpoint / COMPLETE_FILE).touch()
    assert "--resume_from_checkpoint true" in how_to_resume(words, "mobilenet", LesionArguments)
    ensemble = tmp_path / "ens.members" / "member_0.partial" / "checkpoints" / "checkpoint-3"
    ensemble.mkdir(parents=True)
    (ensemble / COMPLETE_FILE).touch()
    words[1] = str(tmp_path / "ens")
    assert "--resume_from_checkpoint true" in how_to_resume(words, "ensemble", EnsembleArguments)
