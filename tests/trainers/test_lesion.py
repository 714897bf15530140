"""The console script ``lesion``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trainers.__main__ import COMMANDS, entry

MODULES = {name: module for group in COMMANDS.values() for name, (module, _) in group.items()}


def lesion(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lesion", *words])
    try:
        entry()
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_every_command_of_the_folders_is_listed(repo_root: Path) -> None:
    there = {
        path.relative_to(repo_root).with_suffix("").as_posix().replace("/", ".")
        for folder in ("datasets_scripts", "model_cards", "trainers")
        for path in (repo_root / folder).rglob("*.py")
        if path.parent.name != "jobs"  # scripts for other machines, which install the suite themselves
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8") and path.name != "__main__.py"
    }
    assert set(MODULES.values()) == there


def test_help_lists_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert lesion(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in [*MODULES, "env"])


def test_a_misspelt_command_suggests_the_right_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lesion(monkeypatch, "SCOER") == 2
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1
    assert "'SCOER'" in line
    assert "did you mean score?" in line


@pytest.mark.parametrize("name", ["score", "fit-trust", "verify", "build_phantom", "train_vit"])
def test_a_command_ends_as_its_module_does(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lesion(monkeypatch, name, "--no_such_option") == 2
    assert "--no_such_option" in capsys.readouterr().err
    assert lesion(monkeypatch, name, "--help") == 0
    assert "usage: " in capsys.readouterr().out


def test_env_states_versions_device_cores_and_extras(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lesion(monkeypatch, "env") == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"python", "torch", "transformers", "device", "cores", "faiss"} <= set(rows)
    assert int(rows["cores"]) >= 1
