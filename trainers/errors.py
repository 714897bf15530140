"""The errors a user of the training commands can mend, and how a command reports them."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake of the caller's: the message names the value received and the mend."""


class RecipeError(UserError):
    """A recipe that cannot be read or says something no trainer understands."""


class DatasetError(UserError):
    """A dataset that is missing or lacks what training needs."""


class OutputError(UserError):
    """An output folder that must not be written to."""


def report_user_errors(main: Callable[[], object]) -> None:
    """Run a command; a user's mistake becomes one line on stderr and exit code 2, never a traceback."""
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
