"""Requests to the Hub that are repeated, a bounded number of times, where the Hub or the network fails for a moment.

``huggingface_hub`` repeats uploads and downloads, but not every request, waits for an answer without end, and waits as
long as a server says. Its client is replaced by :func:`patient_client`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub import get_session, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import hf_raise_for_status

from datasets_scripts.command import UserError

# Seconds before each further try.
WAITS = (1.0, 2.0, 4.0, 8.0)
# The longest time that the Hub may ask to wait, in seconds.
LONGEST_WAIT = 120.0
# Seconds after which a request without an answer counts as failed; a large commit takes the Hub about a minute.
ANSWER_WITHIN = 180.0
MOMENTARY = (408, 429, 500, 502, 503, 504)

Result = TypeVar("Result")
http: Any = sys.modules[HTTPError.__module__.partition(".")[0]]  # the library that huggingface_hub sends with
LOST = (http.TimeoutException, http.NetworkError, http.RemoteProtocolError)
_commit_again: list[Callable[[], bool]] = []


class Unreachable(ConnectionError):
    """No answer came after all tries; the client does not repeat what raises it."""


@contextmanager
def commit_repeated_if(unchanged: Callable[[], bool]) -> Iterator[None]:
    """While the block runs, repeat a failed request for a commit if ``unchanged`` says that it was not made."""
    _commit_again.append(unchanged)
    try:
        yield
    finally:
        _commit_again.pop()


class PatientClient(http.Client):
    """A client that repeats a request after a momentary failure, with one line on stderr for each try.

    Attributes:
        answered: whether any answer has come; before that a refused connection is no momentary failure.
    """

    answered = False

    def send(self, request: Any, **more: Any) -> Any:
        """Send a request.

        Raises:
            Unreachable: there was no answer to any try.
            HfHubHTTPError: every answer was a momentary failure.
            UserError: the Hub asks to wait longer than :data:`LONGEST_WAIT`.
        """
        for pause in (*WAITS, None):
            try:
                response = super().send(request, **more)
            except LOST as error:
                if not _may_repeat(request):
                    _say(request, f"no answer ({type(error).__name__})")
                    raise
                if pause is None or (isinstance(error, http.ConnectError) and not self.answered):
                    raise Unreachable(type(error).__name__) from error
                failure = f"no answer ({type(error).__name__})"
            else:
                self.answered = True
                asked = _asked_to_wait(response)
                if response.status_code not in MOMENTARY:
                    return response
                if not _may_repeat(request):
                    _say(request, f"status {response.status_code}")
                    return response
                if pause is None:
                    response.read()
                    hf_raise_for_status(response)
                    return response
                failure, pause = f"status {response.status_code}", max(pause, asked)
                response.close()
            _say(request, f"{failure}, next try in {pause:.0f} s")
            time.sleep(pause)
        raise AssertionError("the last pause is None")


def _say(request: Any, what: str) -> None:
    """One line on stderr, without the query of the address, which may hold a secret."""
    print(f"{request.method} {request.url.host}{request.url.path[:100]}: {what}", file=sys.stderr)


def again(fetch: Callable[[], Result]) -> Result:
    """The result of a download, which is tried once more where the connection broke or the file was cut.

    The client continues a download itself after some of these failures, not after all.
    """
    try:
        return fetch()
    except (*LOST, OSError) as error:
        if isinstance(error, HfHubHTTPError | Unreachable) or getattr(error, "errno", None):  # an answer, or the disk
            raise
        print(f"a download failed ({type(error).__name__}), next try in {WAITS[0]:.0f} s", file=sys.stderr)
        time.sleep(WAITS[0])
        return fetch()


def _may_repeat(request: Any) -> bool:
    """Whether a request can be sent again: not with the content of a file, which the client itself sends again.

    A commit only if it is known that it was not made, else it would be made twice.
    """
    if request.url.path.startswith("/api/") and "/commit/" in request.url.path:
        return bool(_commit_again) and _commit_again[-1]()
    return request.method in ("GET", "HEAD") or isinstance(request.stream, http.ByteStream)


def _asked_to_wait(response: Any) -> float:
    """Seconds of ``Retry-After``; 0 where it states none.

    Raises:
        UserError: more than :data:`LONGEST_WAIT`.
    """
    text = response.headers.get("Retry-After", "").strip()
    seconds = float(text) if text.isdigit() else 0.0
    if response.status_code in MOMENTARY and seconds > LONGEST_WAIT:
        raise UserError(
            f"{response.request.url.host} answered {response.status_code} and asks to wait {seconds:,.0f} s "
            "(too many requests): run the same command again after that time"
        )
    return seconds


def patient_client() -> PatientClient:
    """A client as the one that it replaces, which waits a bounded time for an answer."""
    timeout = http.Timeout(ANSWER_WITHIN, connect=min(30.0, ANSWER_WITHIN))
    return PatientClient(event_hooks=_hooks, follow_redirects=True, timeout=timeout)


_hooks: dict[str, Any] = {}


def be_patient() -> None:
    """Let ``huggingface_hub`` send its requests with :func:`patient_client` in this process."""
    if not _hooks:
        logging.getLogger("huggingface_hub.utils._http").setLevel(logging.ERROR)  # its lines state the whole address
        _hooks.update(get_session().event_hooks)
        set_client_factory(patient_client)
