"""One process at a time writes an output, and what it writes appears whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datasets_scripts.command import UserError
from datasets_scripts.output import beside, check_free, locked, put_in_place, whole_file, written_whole

HOLDER = """
import sys
from pathlib import Path
from datasets_scripts.output import written_whole
with written_whole(Path(sys.argv[1])) as partial:
    (partial / "first").write_text("first")
    print("writing", flush=True)
    sys.stdin.readline()
"""
SLOW_BUILD = """
import sys, time
from pathlib import Path
from datasets_scripts import build_phantom, shards
from datasets_scripts.command import run
record = shards._record
def slow(*args):
    time.sleep(0.01)
    return record(*args)
shards._record = slow
run(lambda: build_phantom.main(sys.argv[1:]))
"""


def start(code: str, *words: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def holder(out: Path, repo_root: Path) -> subprocess.Popen[str]:
    process = start(HOLDER, out, cwd=repo_root)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_a_second_writer_is_refused_until_the_first_has_ended(tmp_path: Path, repo_root: Path) -> None:
    out = tmp_path / "new" / "out"
    first = holder(out, repo_root)
    (tmp_path / "link").symlink_to(out.parent)
    for name in (out, tmp_path / "link" / "out", out.parent / ".." / "new" / "out"):
        with pytest.raises(UserError, match=r"another process writes '.*out'"), written_whole(name):
            pass
        with pytest.raises(UserError, match="another process writes"):
            check_free(name)
    assert (beside(out) / "first").is_file()
    assert first.communicate("go on\n", timeout=60)[1] == ""
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]
    assert (out / "first").read_text() == "first"
    with pytest.raises(UserError, match="not empty"), written_whole(out):
        pass


def test_a_killed_writer_leaves_no_lock_and_the_next_one_removes_its_folder(tmp_path: Path, repo_root: Path) -> None:
    out = tmp_path / "out"
    first = holder(out, repo_root)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert (beside(out) / "first").is_file()
    check_free(out)
    with written_whole(out) as partial:
        (partial / "second").write_text("second")
    assert [path.name for path in out.iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), written_whole(tmp_path / "out") as partial:
        partial.write_text("half")
    with pytest.raises(TypeError), whole_file(tmp_path / "file") as partial:
        partial.write_text(b"half")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_by_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with whole_file(path) as partial:
        partial.write_text("after")
        assert path.read_text() == "before"
        with pytest.raises(UserError, match="another process writes"), whole_file(path):
            pass
    assert path.read_text() == "after"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_the_current_folder_and_a_link_can_be_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "target"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with written_whole(Path(".")) as partial:
        (partial / "file").write_text("x")
    assert (tmp_path / "here" / "file").is_file()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with written_whole(tmp_path / "link") as partial:
        (partial / "file").write_text("x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target" / "file").is_file()


def test_what_came_into_the_output_meanwhile_is_kept(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        put_in_place(tmp_path / "work", tmp_path / "out")
    assert (tmp_path / "work").is_dir()
    assert (tmp_path / "out" / "mine").read_text() == "mine"
    with locked(tmp_path / "out"):
        pass


def test_two_builds_into_one_folder_never_mix(tmp_path: Path, repo_root: Path) -> None:
    out = tmp_path / "out"
    builds = [
        start(
            SLOW_BUILD, *f"--task isic2017 --images 150 --size 32x32 --seed {seed}".split(), "--out", out, cwd=repo_root
        )
        for seed in (1, 2)
    ]
    ended = [(build.communicate(timeout=300), build.returncode) for build in builds]
    codes = sorted(code for _, code in ended)
    assert codes == [0, 2], ended
    refused = next(error for (_, error), code in ended if code == 2)
    last = refused.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert str(out) in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]

    from model_cards.verify import verify_folder

    assert verify_folder(out) == []
