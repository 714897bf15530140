"""What the build commands share: their common options, their last words, and one line for a mistake of the user."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn


class UserError(ValueError):
    """Something the user can mend; the message says the value received and the mend."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like every other error; ``--help`` says the rest."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint and leave with exit code 2."""
        print(f"error: {message} (see --help)", file=sys.stderr)
        sys.exit(2)


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options of every build command: ``--out`` and ``--seed``."""
    result = OneLineParser(prog=f"python -m datasets_scripts.{name}", description=description)
    result.add_argument(
        "--out", required=True, type=Path, help="dataset folder to write; must not exist yet, or be empty"
    )
    result.add_argument("--seed", type=_seed, default=42, help="seed of all splits, 0 or more (default: %(default)s)")
    return result


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {2**32 - 1}")
    return value


def warn(warnings: Sequence[str]) -> None:
    """Write each warning as one line to stderr."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def run(main: Callable[[], None]) -> None:
    """Run ``main``; leave the process with exit code 2 after one ``error:`` line on stderr when the user can mend it.

    Besides :class:`UserError`, an ``OSError`` (disk full, no permission, Hub unreachable) is the outside world's doing
    and gets the same treatment. Everything else is a fault of ours and keeps its traceback.
    """
    try:
        main()
    except (UserError, OSError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written to --out, start the command again", file=sys.stderr)
        sys.exit(130)
