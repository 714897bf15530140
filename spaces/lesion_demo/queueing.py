"""Requests: one model works at a time (two at once would each take twice as long), and who is next."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

MOST_WAITING = 40  # requests in the queue; more are refused politely, at once
# Gradio keeps about 3 MB a visitor, long after they left, and 10,000 of them; nothing of ours is in there.
MOST_SESSIONS = 64
# For every event in which a model works: one after the other, across all tabs and endpoints. Batches wait in a line of
# their own, whose head takes turns with the head of the other (`in_turn`): one image waits for a few of theirs.
QUEUED_API: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
QUEUED_API_BATCH: dict[str, Any] = {"concurrency_id": "batch", "concurrency_limit": 1}
# `always_last`: of the requests of a visitor before the answer has come, only the last runs. Gradio's other
# default, `once`, drops it. No `cancels`: Gradio awaits an event before it cancels others of the same trigger, so that
# it can cancel the newest; what is late is hidden by page.js instead.
QUEUED: dict[str, Any] = {**QUEUED_API, "api_visibility": "private", "trigger_mode": "always_last"}
QUEUED_BATCH: dict[str, Any] = {**QUEUED_API_BATCH, "api_visibility": "private", "trigger_mode": "always_last"}
# For what takes no time, such as to clear an answer whose image is gone: it waits for nobody.
AT_ONCE: dict[str, Any] = {
    "queue": False,
    "api_visibility": "private",
    "show_progress": "hidden",
    "trigger_mode": "multiple",
}


class Turns:
    """A lock that goes to whoever has waited longest; Python's own goes back to whoever has just released it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._line: deque[threading.Event] = deque()

    @contextlib.contextmanager
    def mine(self) -> Iterator[None]:
        """Wait for the turn, and keep it inside; a second wait inside would never end."""
        turn = threading.Event()
        with self._guard:
            self._line.append(turn)
            self._line[0].set()
        turn.wait()
        try:
            yield
        finally:
            with self._guard:
                self._line.popleft()
                if self._line:
                    self._line[0].set()


TURNS = Turns()


P = ParamSpec("P")
T = TypeVar("T")


def in_turn(work: Callable[P, T]) -> Callable[P, T]:
    """Let a function work only while it is its turn; a generator has one turn for each thing that it yields."""
    if not inspect.isgeneratorfunction(work):

        @functools.wraps(work)
        def whole(*args: P.args, **options: P.kwargs) -> T:
            with TURNS.mine():
                return work(*args, **options)

        return whole

    @functools.wraps(work)
    def stepwise(*args: P.args, **options: P.kwargs) -> Any:
        with contextlib.closing(work(*args, **options)) as steps:
            while True:
                with TURNS.mine():
                    try:
                        step = next(steps)
                    except StopIteration:
                        return
                yield step

    return cast(Callable[P, T], stepwise)
