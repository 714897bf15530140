"""Output folders that appear whole or not at all: written beside, renamed at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainers.errors import OutputError


def check_empty(out: Path, option: str = "--output_dir") -> None:
    """Refuse a folder that holds something, or that cannot be made: before the work, not after it.

    Args:
        out: absent, or an empty folder.
        option: what to choose another one with.

    Raises:
        OutputError: names the folder and the mend.
    """
    with suppress(OSError):  # check_writable says what is wrong with it
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise OutputError(f"the output folder {str(out)!r} is not empty: choose another {option} or delete it")
    check_writable(out, option)


def check_writable(out: Path, option: str) -> None:
    """Try whether something can be made in the folder nearest to ``out`` that there is; nothing is left behind.

    Raises:
        OutputError: names the place, what the system says of it, and the mend.
    """
    folder = Path(os.path.abspath(out)).parent
    try:
        while not os.path.lexists(folder):
            folder = folder.parent
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"{str(out)!r} cannot be written ({error.strerror}): choose another {option}") from error


def check_file(out: Path, example: str, option: str = "--out") -> None:
    """Refuse a file that cannot be written: before the work, not after it.

    Args:
        out: the file; one that is there will be replaced.
        example: a file name to propose where a folder was given.
        option: what it was given with.

    Raises:
        OutputError: names the file and the mend.
    """
    if out.is_dir():
        raise OutputError(f"{option} {str(out)!r} is a folder: name a file, for example {str(out / example)!r}")
    if not out.absolute().parent.is_dir():
        raise OutputError(f"{option} {str(out)!r}: its folder does not exist, create it first")
    check_writable(out, option)


def check_new_file(out: Path, option: str = "--out") -> None:
    """Refuse a file that is there, or that cannot be written; its folder need not be there.

    Raises:
        OutputError: names the file and the mend.
    """
    if os.path.lexists(out):
        raise OutputError(f"{option} {str(out)!r} exists already: choose another name or delete it")
    check_writable(out, option)


def beside(out: Path) -> Path:
    """Where ``out`` is written before it is renamed."""
    return out.with_name(out.name + ".partial")


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``out`` at the end; after an error nothing of it is left."""
    partial = beside(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.is_dir():
            out.rmdir()  # empty, or it would have been refused
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
