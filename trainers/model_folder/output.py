"""Checks of an output folder or file before the work; ``datasets_scripts.output`` writes them whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from datasets_scripts import output
from datasets_scripts.command import UserError


def check_empty(out: Path, option: str = "--output_dir", *, held: bool = False) -> None:
    """Refuse a folder that holds something, cannot be made, or is being written: before the work, not after it.

    Args:
        out: absent, or an empty folder.
        option: what to choose another one with.
        held: this run holds the folder's lock.

    Raises:
        UserError: names the folder and says what to do.
    """
    with suppress(OSError):  # check_writable says what is wrong with it
        output.check_empty(out, option) if held else output.check_free(out, option)
    check_writable(out, option)


def check_writable(out: Path, option: str) -> None:
    """Try whether something can be made in the folder nearest to ``out`` that there is; nothing is left behind.

    Raises:
        UserError: names the place, what the system says of it, and what to do.
    """
    folder = Path(os.path.abspath(out)).parent
    try:
        while not os.path.lexists(folder):
            folder = folder.parent
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{str(out)!r} cannot be written ({error.strerror}): choose another {option}") from error


def check_file(out: Path, example: str, option: str = "--out") -> None:
    """Refuse a file that cannot be written: before the work, not after it.

    Args:
        out: the file; one that is there will be replaced.
        example: a file name to propose where a folder was given.
        option: what it was given with.

    Raises:
        UserError: names the file and what to do.
    """
    if out.is_dir():
        raise UserError(f"{option} {str(out)!r} is a folder: name a file, for example {str(out / example)!r}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{option} {str(out)!r}: its folder does not exist, create it first")
    check_writable(out, option)


def check_new_file(out: Path, option: str = "--out") -> None:
    """Refuse a file that is there, or that cannot be written; its folder need not be there.

    Raises:
        UserError: names the file and what to do.
    """
    if os.path.lexists(out):
        raise UserError(f"{option} {str(out)!r} exists already: choose another name or delete it")
    check_writable(out, option)
