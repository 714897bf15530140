"""How much may come in: bounded by what a request says of its own length, or as it comes where it says nothing."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from temporary_files import TemporaryFiles

LARGEST_UPLOAD = 600_000_000  # bytes of all files of a request
LARGEST_QUESTION = 1_000_000  # bytes of a request that brings no files


class UploadLimit:
    """ASGI middleware that refuses a request that is too large, or for which there is no room, in words.

    Args:
        app: what is asked otherwise.
        files: where uploads lie.
    """

    def __init__(self, app: Any, files: TemporaryFiles) -> None:
        self._app = app
        self._files = files
        self._coming = 0  # bytes that are on their way, and not all on the disk yet

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        size = int(headers.get("content-length", "0"))
        brings_files = headers.get("content-type", "").startswith("multipart/")
        refusal = self._refusal(size, brings_files)
        if refusal is not None:
            # What is said is heard only by who has finished speaking.
            while (await receive()).get("more_body"):
                pass
            await refusal(scope, receive, send)
            return
        most = LARGEST_UPLOAD if brings_files else LARGEST_QUESTION
        come = 0

        async def counted() -> Any:
            nonlocal come
            told = await receive()
            come += len(told.get("body", b""))
            return told if come <= most else {"type": "http.disconnect"}

        self._coming += size
        try:
            await self._app(scope, counted, send)
        except ClientDisconnect:
            if come > most:
                await _too_much(come, brings_files)(scope, receive, send)
        finally:
            self._coming -= size

    def _refusal(self, size: int, brings_files: bool) -> PlainTextResponse | None:
        if size > (LARGEST_UPLOAD if brings_files else LARGEST_QUESTION):
            return _too_much(size, brings_files)
        if brings_files and not self._files.make_room(size + self._coming):
            return PlainTextResponse(
                "There is no room for more uploads at the moment. Try again in a quarter of an hour.", 507
            )
        return None


def _too_much(size: int, brings_files: bool) -> PlainTextResponse:
    what, most = ("These files have", LARGEST_UPLOAD) if brings_files else ("This request has", LARGEST_QUESTION)
    return PlainTextResponse(
        f"{what} {size / 1e6:,.0f} MB together; at most {most / 1e6:,.0f} MB are taken at a time.", 413
    )
