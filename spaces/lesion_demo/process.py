"""Settings of the page's process: freed memory goes back to the system, and no log holds a visitor's values.

The message of an error can name a visitor's files, so a log holds the place and the kind of an error alone.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
BLOCK = 128 * 1024  # bytes


def give_memory_back() -> None:
    """Have glibc ask the system for every block of 128 kB and more, and return it when it is freed.

    By default it raises that limit, up to 32 MB, each time it has freed such a block, and keeps the pieces of hundreds
    of images between others. Where there is no glibc nothing changes.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, BLOCK)
        mallopt(M_MMAP_THRESHOLD, BLOCK)


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
