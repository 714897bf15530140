"""The main wrapper and the parser of every command."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from datasets_scripts.command import OneLineParser, UserError, did_you_mean, run

Captured = pytest.CaptureFixture[str]


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


def line_of(error: BaseException, capsys: Captured, code: int = 2) -> str:
    """The one line on stderr with which a command ends after this error."""
    with pytest.raises(SystemExit) as stopped:
        run(raising(error))
    assert stopped.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_user_error_is_one_line(capsys: Captured) -> None:
    assert line_of(UserError("--out 'x'\n is not empty"), capsys) == "error: --out 'x' is not empty"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EMFILE])
def test_an_os_error_names_the_path_and_what_to_do(number: int, capsys: Captured) -> None:
    line = line_of(OSError(number, os.strerror(number), "/data/out/rows.parquet"), capsys)
    assert "/data/out/rows.parquet" in line
    assert line.rpartition(": ")[2].split()[0] in ("free", "raise", "check", "give")


def test_a_safetensors_error_is_one_line(tmp_path: Path, capsys: Captured) -> None:
    from safetensors import SafetensorError

    error = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert "free some space" in line_of(error, capsys)


def test_a_full_disk_under_a_dataset_is_one_line(capsys: Captured) -> None:
    from datasets.exceptions import DatasetGenerationError

    error = DatasetGenerationError("An error occurred while generating the dataset")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "/cache/x.arrow")
    assert "/cache/x.arrow" in line_of(error, capsys)


def test_no_memory_is_one_line(capsys: Captured) -> None:
    import torch

    assert "memory" in line_of(MemoryError(), capsys)
    assert "CUDA out of memory" in line_of(torch.OutOfMemoryError("CUDA out of memory. Tried to ..."), capsys)


@pytest.mark.parametrize(
    "what", ["778] . PytorchStreamWriter failed writing file data/3", "672] . unexpected pos 477632 vs 477520"]
)
def test_a_checkpoint_that_cannot_be_written_is_one_line(what: str, capsys: Captured) -> None:
    error = RuntimeError(f"[enforce fail at inline_container.cc:{what}")
    assert "free some space" in line_of(error, capsys)


def test_an_error_of_a_data_loader_process_is_its_own_line(capsys: Captured) -> None:
    from torch._utils import ExceptionWrapper

    try:
        raise UserError("image ISIC_7 is damaged")
    except UserError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(SystemExit):
        run(wrapped.reraise)
    assert capsys.readouterr().err == "error: image ISIC_7 is damaged\n"


@pytest.mark.parametrize("error", [KeyError("band"), ValueError("shape (3,)"), TypeError("x"), RuntimeError("boom")])
def test_a_fault_of_ours_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(raising(error))


@pytest.mark.parametrize("answer", [{}, {"id": "a/b", "siblings": 5}, {"id": "a/b", "siblings": [{}]}])
def test_an_answer_that_the_hubs_client_cannot_read_is_one_line(answer: dict[str, Any], capsys: Captured) -> None:
    from huggingface_hub import ModelInfo

    with pytest.raises(SystemExit) as stopped:
        run(lambda: ModelInfo(**answer))
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: https://huggingface.co answered")
    assert line.count("\n") == 1


def test_an_interrupt_is_one_line_and_130(capsys: Captured) -> None:
    assert "interrupted" in line_of(KeyboardInterrupt(), capsys, 130)
    assert "answers.partial" in line_of(KeyboardInterrupt("go on from answers.partial"), capsys, 130)


def test_an_interrupted_import_is_an_interrupt(capsys: Captured) -> None:
    """Extension modules turn the KeyboardInterrupt of an import into an ImportError."""

    def main() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("KeyboardInterrupt:") from error

    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stopped:
            run(main)
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_full_disk_behind_stdout_is_one_line(repo_root: Path) -> None:
    code = "from datasets_scripts.command import run; run(lambda: print('answer'))"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=repo_root, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "No space left" in done.stderr


def test_an_interrupt_of_a_process_is_one_line(repo_root: Path) -> None:
    code = textwrap.dedent("""
        import time
        from datasets_scripts.command import run
        def main():
            print("started", flush=True)
            time.sleep(60)
        run(main)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=repo_root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert len(errors.splitlines()) == 1


def example_parser() -> OneLineParser:
    parser = OneLineParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("rest", nargs="*")
    return parser


@pytest.mark.parametrize(
    ("words", "named", "meant"),
    [
        (["--modle", "x"], "--modle", "--model"),
        (["--batch-size", "3", "--model", "x"], "--batch-size", "--batch_size"),
        (["--Model=x"], "--Model", "--model"),
    ],
)
def test_a_misspelt_option_suggests_the_right_one(words: list[str], named: str, meant: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stopped:
        example_parser().parse_args(words)
    assert stopped.value.code == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert named in line
    assert f"did you mean {meant}?" in line


def test_abbreviations_and_values_pass() -> None:
    given = example_parser().parse_args(["--mod", "x", "--batch_size=4", "--", "--nothing"])
    assert (given.model, given.batch_size, given.rest) == ("x", 4, ["--nothing"])


def test_nothing_is_suggested_where_nothing_is_similar() -> None:
    assert did_you_mean("--zzz", ["--model"]) == ""


def test_a_warning_of_the_suite_is_one_line_and_others_are_left(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = type("OursWarning", (UserWarning,), {"__module__": "trainers.trust.fit"})
    others: list[str] = []

    def usual(message: Warning | str, *rest: Any, **more: Any) -> None:
        others.append(str(message))

    def main() -> None:
        warnings.warn("the gate:\n16 images", ours, stacklevel=1)
        warnings.warn("of a library", RuntimeWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", usual)
        run(main)
        assert warnings.showwarning is usual
    assert capsys.readouterr().err == "warning: the gate: 16 images\n"
    assert others == ["of a library"]


def test_an_error_beside_a_progress_bar_has_a_line_of_its_own(capsys: Captured) -> None:
    def main() -> None:
        bar = tqdm(total=720, file=sys.stderr)
        bar.update(18)
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 130
    shown = capsys.readouterr().err
    assert "18/720" in shown
    assert shown.splitlines()[-1] == "error: interrupted: run the same command again"
