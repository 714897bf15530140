"""What the commands of this folder share: a user's mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(ValueError):
    """A mistake of the caller's, or of the world outside; the message says the value received and the mend."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like every other error; ``--help`` says the rest."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint and leave with exit code 2."""
        print(f"error: {message} (see --help)", file=sys.stderr)
        sys.exit(2)


def run(main: Callable[[], None]) -> None:
    """Call a command's ``main`` and end the process: 0 on success, 2 on a user's mistake, 130 when interrupted."""
    try:
        main()
    except (UserError, OSError) as error:
        fail([str(error)])
    except KeyboardInterrupt:
        print("interrupted: running the same command again is safe", file=sys.stderr)
        sys.exit(130)


def fail(problems: list[str]) -> None:
    """Print each problem as one line on stderr and end the process with exit code 2."""
    for problem in problems:
        print(f"error: {' '.join(problem.split())}", file=sys.stderr)
    sys.exit(2)
