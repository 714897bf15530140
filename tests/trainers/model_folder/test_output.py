"""Output folders: refused before the work where they cannot be written, and whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datasets_scripts.command import UserError
from datasets_scripts.output import beside, locked, written_whole
from trainers.model_folder import rebuild as rebuilding
from trainers.model_folder.output import check_empty, check_writable


@pytest.mark.parametrize("name", ["new", "a/b/c/new", "./new", "empty"])
def test_what_can_be_written_passes_and_nothing_is_left(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for out in (Path(name), tmp_path / name):
        check_empty(out)
        check_writable(out, "--out")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("file/new", "cannot be written (Not a directory): choose another --out"),
        ("file/a/b/new", "cannot be written (Not a directory): choose another --out"),
        ("n" * 300, "cannot be written (File name too long): choose another --out"),
        ("/proc/nowhere/new", "cannot be written (No such file or directory): choose another --out"),
        ("file", "is a file, not a folder: choose another --out or delete it"),
        ("full", "is not empty: choose another --out or delete it"),
    ],
)
def test_what_cannot_is_one_clear_error(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full" / "something").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as refused:
        check_empty(tmp_path / name, "--out")
    assert message in str(refused.value)
    assert name in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with pytest.raises(OSError, match="Is a directory"), written_whole(out) as partial:
        partial.write_text("half")
    assert not out.exists()
    assert not beside(out).exists()
    with written_whole(out) as partial:
        (partial / "whole").write_text("x")
        assert not out.exists()
    assert os.listdir(out) == ["whole"]
    assert os.listdir(out.parent) == ["out"]


def test_a_rebuild_finds_its_folder_again_and_shares_it_with_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(rebuilding, "_rebuild", lambda folder, old, replicates: seen.append(folder.is_dir()))
    (tmp_path / "model.old").mkdir()  # a rebuild was killed between its two renames
    rebuilding.rebuild(tmp_path / "model", 1)
    assert os.listdir(tmp_path) == ["model"]
    with locked(tmp_path / "model"), pytest.raises(UserError, match="another process writes"):
        rebuilding.rebuild(tmp_path / "model", 1)
    assert seen == [True]
    rebuilding.rebuild(tmp_path / "none" / "model", 1)
    assert os.listdir(tmp_path) == ["model"]
