"""What a visitor's browser may load and run on the page: nothing of another server, whatever a model's files hold."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from html.parser import HTMLParser
from typing import Any

from appearance import HEAD
from starlette.datastructures import MutableHeaders

POLICY = {
    "default-src": "'self'",
    "style-src": "'self' 'unsafe-inline'",  # Gradio and the page's own HTML set styles on elements
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "frame-src": "'none'",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'self' https://huggingface.co https://*.hf.space",
}
OTHERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "X-DNS-Prefetch-Control": "off",  # of the hosts that links name
}


class ContentPolicy:
    """ASGI middleware that sends the policy with every answer; of a page it allows the scripts that stand in it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and add the headers to its answer."""
        start: dict[str, Any] = {}
        body = bytearray()

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers.update(OTHERS)
                headers["Content-Security-Policy"] = policy(HEAD)
                if headers.get("content-type", "").startswith("text/html"):
                    start.update(message)  # its scripts have to be known first
                    return
            elif start and message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                headers = MutableHeaders(raw=start["headers"])
                headers["Content-Security-Policy"] = policy(HEAD, body.decode("utf-8", "replace"))
                await send(start)
                message = {**message, "body": bytes(body)}
            await send(message)

        await self._app(scope, receive, with_policy if scope["type"] == "http" else send)


def policy(*pages: str) -> str:
    """The header's value; of inline scripts it allows those that stand in these pages, by their hashes."""
    hashes = dict.fromkeys(_hash(script) for page in pages for script in inline_scripts(page))
    rules = {**POLICY, "script-src": " ".join(["'self'", "'unsafe-eval'", *hashes])}  # gr.HTML compiles its template
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def inline_scripts(page: str) -> list[str]:
    """The text of every script that stands in a page."""
    reader = _Scripts()
    reader.feed(page)
    reader.close()
    return reader.found


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


class _Scripts(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and "src" not in dict(attrs)
        if self._inside:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data
