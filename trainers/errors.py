"""The errors a user of the training commands can fix; the base class and the main wrapper are the shared ones."""

from __future__ import annotations

from datasets_scripts.command import UserError
from datasets_scripts.command import run as report_user_errors

__all__ = ["DatasetError", "OutputError", "RecipeError", "UserError", "report_user_errors"]


class RecipeError(UserError):
    """A recipe that cannot be read, or with a value that no trainer understands."""


class DatasetError(UserError):
    """A dataset that is missing or lacks what training needs."""


class OutputError(UserError):
    """An output folder that must not be written to."""
