"""The shared ground floor under this folder's earlier name; new code imports ``datasets_scripts.command``."""

from datasets_scripts.command import OneLineParser, UserError, fail, run

__all__ = ["OneLineParser", "UserError", "fail", "run"]
