"""What is logged of a failure: where it arose and its kind, never its message, which can name a visitor's files."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Any


def log_no_values() -> None:
    """Bound what Gradio prints, what any library logs (Uvicorn, asyncio), and what a thread says when it dies."""
    traceback.print_exc = _print_frames
    threading.excepthook = lambda died: _write("A thread failed:", died.exc_type, died.exc_traceback)
    logging.setLogRecordFactory(_Record)


def _print_frames(*_: Any, **__: Any) -> None:
    kind, _error, frames = sys.exc_info()
    _write("A request failed:", kind, frames)


def _write(what: str, kind: type[BaseException] | None, frames: TracebackType | None) -> None:
    # One write: `print` writes the line break by itself, and another thread's line can come between.
    sys.stderr.write(f"{what}\n{_frames(kind, frames)}\n")


def _frames(kind: type[BaseException] | None, frames: TracebackType | None) -> str:
    return "".join(traceback.format_tb(frames)) + (kind.__name__ if kind else "")


class _Record(logging.LogRecord):
    """A record whose exception is its frames alone."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if isinstance(self.exc_info, tuple):
            self.exc_text = _frames(self.exc_info[0], self.exc_info[2])
            self.exc_info = None
        if self.name == "asyncio":
            # From the second line on it describes the task or the protocol, and its exception.
            self.msg, self.args = self.getMessage().partition("\n")[0], ()
