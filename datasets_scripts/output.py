"""Folders and files that appear complete or not at all, and that one process at a time writes.

Part of the ground floor: every folder of the project may import it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets_scripts.command import UserError


def beside(out: Path) -> Path:
    """Where the folder ``out`` is written before it is renamed."""
    out = _renamable(out)
    return out.with_name(out.name + ".partial")


def _renamable(out: Path) -> Path:
    """The same folder by a path that can be renamed: not ``.``, ``..`` or a link."""
    return Path(os.path.realpath(out)) if out.is_symlink() or out.name in ("", "..") else out


def check_empty(out: Path, option: str = "--out") -> None:
    """Refuse an output folder that holds something.

    Args:
        out: absent, or an empty folder.
        option: its option on the command line.

    Raises:
        UserError: names the folder and says what to do.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{option} {str(out)!r} is a file, not a folder: choose another {option} or delete it")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"the output folder {str(out)!r} is not empty: choose another {option} or delete it")


def check_free(out: Path, option: str = "--out") -> None:
    """As :func:`check_empty`; also refuse a folder that another process writes. For the start of a command.

    Raises:
        UserError: names the folder and says what to do.
    """
    check_empty(out, option)
    if _lock_file(out).exists():  # without a lock file no process holds the lock
        with locked(out):
            pass


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let no other process write ``path``, a file or a folder, until the block ends.

    The system frees the lock when the process ends, also when it is killed: a lock file that is left locks nothing.
    Not reentrant: one process locks a path once.

    Raises:
        UserError: another process holds the lock; names the path.
    """
    from filelock import FileLock, Timeout  # imported late for a fast --help

    file = _lock_file(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0.5, poll_interval=0.05)
    except Timeout:
        raise UserError(
            f"another process writes {str(path)!r}: wait until it has ended, or choose another output"
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: filelock refuses a lock whose file is gone
        lock.release()


def _lock_file(path: Path) -> Path:
    target = Path(os.path.realpath(path))  # one lock, whatever link or relative path names the output
    return target.with_name(f".{target.name}.lock")


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``out`` when the block ends; after an error nothing of it is left.

    A killed process leaves ``<out>.partial`` behind, and the next one that writes ``out`` removes it.

    Args:
        out: absent, or an empty folder.

    Raises:
        UserError: ``out`` holds something, or another process writes it.
    """
    partial = beside(out)
    with locked(out):
        check_empty(out)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            put_in_place(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def put_in_place(folder: Path, out: Path) -> None:
    """Rename a finished folder to ``out``, which is absent or an empty folder."""
    out = _renamable(out)
    if out.is_dir():
        out.rmdir()
    os.replace(folder, out)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The name of a file to write, which replaces ``path`` when the block ends; after an error nothing of it is left.

    Raises:
        UserError: another process writes ``path``.
    """
    partial = path.with_name(path.name + ".partial")
    with locked(path):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
