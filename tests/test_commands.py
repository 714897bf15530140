"""Every command: help that names its options, and one line with exit code 2 when it is called wrongly."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from datasets_scripts.command import run
from trainers.__main__ import COMMANDS as LESION

COMMANDS = sorted(module for group in LESION.values() for module, _ in group.values() if ".train_" not in module)


def call(command: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", [command, *words])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(command).main()
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(command, monkeypatch, "somewhere", "--no_such_option") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_it_does(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(command, monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert f"python -m {command}" in shown
    assert "default" in shown or command in {"model_cards.build", "model_cards.verify"}


RELEASED = "hub_models/released/derm-x-mobilenetv2-ham7"
OUT = ("--out", "{out}")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_arguments_are_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if command in ("trainers.demo", "trainers.longitudinal.coverage"):  # they need none
        return
    monkeypatch.setattr("sys.argv", [command])
    with pytest.raises(SystemExit) as stopped:
        run(importlib.import_module(command).main)
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "work", "words"),
    [
        (
            "trainers.score",
            "trainers.scoring.folder.score_folder",
            ("--model", RELEASED, "--images", "spaces/lesion_demo/examples", *OUT),
        ),
        (
            "trainers.fit_trust",
            "trainers.model_folder.folder.load_splits",
            (RELEASED, "--dataset", "spaces", "--output_dir", "{out}"),
        ),
    ],
)
def test_a_full_disk_is_one_line(
    command: str,
    work: str,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "rows.parquet")

    monkeypatch.setattr(work, full)
    monkeypatch.setattr("sys.argv", [command, *(word.format(out=tmp_path / "out") for word in words)])
    with pytest.raises(SystemExit) as stopped:
        run(importlib.import_module(command).main)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "rows.parquet" in lines[0]


def test_help_imports_nothing_slow(repo_root: Path) -> None:
    code = (
        "import contextlib, importlib, io, sys\n"
        "for name in sys.argv[1:]:\n"
        "    sys.argv = [name, '--help']\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        importlib.import_module(name).main()\n"
        "    found = {'torch', 'transformers'} & set(sys.modules)\n"
        "    assert not found, (name, found)\n"
    )
    command = [sys.executable, "-c", code, *COMMANDS]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
