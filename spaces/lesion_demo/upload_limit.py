"""How much may come in and how slowly: bytes are counted as they arrive, whatever a request claims of its length."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from gradio import route_utils
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from temporary_files import TemporaryFiles

UPLOAD_ROUTE = "/gradio_api/upload"  # the only one that takes files
LARGEST_UPLOAD = 600_000_000  # bytes of all files of a request
LARGEST_REQUEST = 1_000_000  # bytes of any other request
LONGEST_SILENCE_S = 20.0  # a body of which nothing arrives for so long is refused
GRACE_S = 30.0  # a body may take so long,
LEAST_RATE = 10_000  # and a second more for each so many bytes that arrived
MEASURED_EVERY = 16_000_000  # bytes of all uploads between two measurements of the folder


class UploadLimit:
    """ASGI middleware that refuses a request that is too large, too slow, or for which there is no room.

    Args:
        app: the application.
        files: the folder of uploads.
    """

    def __init__(self, app: Any, files: TemporaryFiles) -> None:
        self._app = app
        self._files = files
        self._room = 0  # bytes that may arrive before the folder is measured again
        route_utils.GradioMultiPartParser = FilesOnly  # type: ignore[misc]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            await _Request(self, scope, receive, send).serve(self._app)
        elif scope["type"] == "websocket":  # no route uses one, and its messages would not be counted
            await send({"type": "websocket.close"})
        else:
            await self._app(scope, receive, send)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes could arrive; reserves nothing, as a claim is no upload."""
        return self._files.make_room(size, delete=False)

    def take(self, size: int) -> bool:
        """Whether so many bytes that arrived may be kept."""
        if size > self._room:
            wanted = max(size, MEASURED_EVERY)
            self._room = wanted if self._files.make_room(wanted) else size if self._files.make_room(size) else 0
        if size > self._room:
            return False
        self._room -= size
        return True


class _Request:
    """One request: its limit, what has arrived of it, and why it is refused, if it is."""

    def __init__(self, limit: UploadLimit, scope: Any, receive: Any, send: Any) -> None:
        self._limit, self._scope, self._receive, self._send = limit, scope, receive, send
        self._is_upload = scope["method"] == "POST" and _route(scope) == UPLOAD_ROUTE
        self._most = LARGEST_UPLOAD if self._is_upload else LARGEST_REQUEST
        self._arrived = 0
        self._waited_s = 0.0
        self._ended = False
        self._started = False
        self._refusal: PlainTextResponse | None = None

    async def serve(self, app: Any) -> None:
        headers = dict(self._scope["headers"])
        claimed = headers.get(b"content-length", b"0")
        if not claimed.isdigit() or len(claimed) > 18:
            self._refusal = PlainTextResponse("This Content-Length is no number of bytes.", 400)
        elif int(claimed) > self._most:
            self._refusal = self._too_large()
        elif self._is_upload and not self._limit.has_room(int(claimed)):
            self._refusal = _no_room()
        else:
            try:
                await app(self._scope, self._next, self._answer)
            except (MultiPartException, ClientDisconnect):  # what a refused body ends in
                if self._refusal is None:
                    raise
        if self._refusal is not None and not self._started:
            # A client that waits for permission to send has nothing under way.
            await self._refuse(self._refusal, drain=headers.get(b"expect", b"").lower() != b"100-continue")

    async def _next(self) -> Any:
        """The next message for the application.

        Raises:
            MultiPartException: the body is refused, or was cut off; on this exception alone Gradio deletes its files.
        """
        if self._ended:
            return await self._receive()  # only a disconnect can follow
        if self._refusal is None:
            message = await self._arriving()
            if self._refusal is None and message["type"] == "http.request":
                return message
            if self._refusal is None and not self._is_upload:
                return message
        if self._started:
            return {"type": "http.disconnect"}
        raise MultiPartException("The request was not received whole.")

    async def _arriving(self) -> Any:
        """The next part of the body; sets the refusal where there is one."""
        before = time.monotonic()
        left = GRACE_S + self._arrived / LEAST_RATE - self._waited_s
        try:
            message = await asyncio.wait_for(self._receive(), min(LONGEST_SILENCE_S, max(left, 0)))
        except TimeoutError:
            self._refusal = PlainTextResponse("The request did not arrive in time. Send it again.", 408)
            return {"type": "http.disconnect"}
        self._waited_s += time.monotonic() - before
        size = len(message.get("body", b""))
        self._arrived += size
        self._ended = not message.get("more_body", False)
        if self._refusal is None and self._arrived > self._most:
            self._refusal = self._too_large()
        elif self._refusal is None and self._is_upload and not self._limit.take(size):
            self._refusal = _no_room()
        return message

    async def _answer(self, message: Any) -> None:
        """Pass the application's answer on, unless the request is refused."""
        if self._refusal is None or self._started:
            self._started = True
            await self._send(message)

    async def _refuse(self, refusal: PlainTextResponse, drain: bool) -> None:
        """Answer at once, then read on for a while: many clients listen only when they have sent everything."""
        refusal.headers["connection"] = "close"
        start = {"type": "http.response.start", "status": refusal.status_code, "headers": refusal.raw_headers}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": refusal.body, "more_body": True})
        while drain and not self._ended and self._refusal is refusal and refusal.status_code != 408:
            if self._arrived > self._most + LARGEST_UPLOAD:
                break
            await self._arriving()
        await self._send({"type": "http.response.body", "body": b""})

    def _too_large(self) -> PlainTextResponse:
        what = "These files have" if self._is_upload else "This request has"
        return PlainTextResponse(f"{what} more than {self._most / 1e6:,.0f} MB together. Send less at a time.", 413)


class FilesOnly(route_utils.GradioMultiPartParser):
    """Gradio's parser of uploads, which would keep a form field of any length in memory: it takes files only."""

    def on_headers_finished(self) -> None:
        """Refuse a part that is no file."""
        super().on_headers_finished()
        if self._current_part.file is None:
            raise MultiPartException("Only files are taken here.")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Join the pieces of one message, each of which Gradio would write in a thread of its own."""
        super().on_part_data(data, start, end)
        if len(self._file_parts_to_write) > 1:
            (before, first), (part, second) = self._file_parts_to_write[-2:]
            if before is part:
                joined = first if isinstance(first, bytearray) else bytearray(first)
                joined += second
                self._file_parts_to_write[-2:] = [(part, joined)]  # type: ignore[list-item]


def _route(scope: Any) -> str:
    """The path as the router compares it: decoded, without the root path."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _no_room() -> PlainTextResponse:
    return PlainTextResponse("There is no room for more uploads at the moment. Try again in a quarter of an hour.", 507)
