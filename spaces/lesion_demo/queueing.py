"""Requests: one model works at a time (two at once would each take twice as long), and what is logged of a failure."""

from __future__ import annotations

import sys
import traceback
from types import SimpleNamespace
from typing import Any

import gradio.queueing
import gradio.routes

MOST_WAITING = 40  # requests in the queue; more are refused politely, at once
# Gradio keeps about 3 MB a visitor, long after they left, and 10,000 of them; nothing of ours is in there.
MOST_SESSIONS = 64
# For every event in which a model works: one after the other, across all tabs and endpoints.
QUEUED: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
QUEUED_API: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}


def log_no_values() -> None:
    """Let Gradio log where an error arose and its kind, not its message, which can name a visitor's files."""
    for module in (gradio.queueing, gradio.routes):
        vars(module)["traceback"] = SimpleNamespace(print_exc=_print_frames)


def _print_frames() -> None:
    kind, _, frames = sys.exc_info()
    said = "".join(traceback.format_tb(frames))
    print(f"A request failed:\n{said}{kind.__name__ if kind else ''}", file=sys.stderr)
