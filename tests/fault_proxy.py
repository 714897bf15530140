"""A reverse proxy on 127.0.0.1 before the loopback Hub: it answers some requests with a fault, for tests.

    with FaultProxy(hub.endpoint) as proxy:
        proxy.faults = [Fault("GET", "/tree/", "503")]     # the next such request; times=9 for more of them

| kind | what happens |
|---|---|
| ``503``, ``429 Retry-After=3`` | that status, with that header; the Hub does not see the request |
| ``cut`` | half of the request is read, then the connection is reset |
| ``lost`` | the Hub carries the request out, then the connection is reset |
| ``stall`` | no answer for ``seconds`` |
| ``truncate`` | half of the answer's body, then the connection is closed |
| ``corrupt`` | one bit of the answer's body is another |
| ``revoked`` | the Hub sees another token |
| ``call`` | ``action()`` runs before the Hub sees the request |
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

OWN = ("host", "connection", "content-length", "transfer-encoding", "accept-encoding", "date", "server")


@dataclass
class Fault:
    """What goes wrong: the next ``times`` requests of this method whose path matches."""

    method: str
    path: str
    kind: str
    times: int = 1
    seconds: float = 2.0
    action: Callable[[], object] = lambda: None
    seen: int = field(default=0, init=False)


class FaultProxy:
    """A proxy in a thread of this process.

    Attributes:
        endpoint: ``http://127.0.0.1:<port>``.
        faults: the first that matches a request is carried out.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream, self.faults, self._lock = upstream, list[Fault](), threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault_of(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.method == method and re.search(fault.path, path) and fault.seen < fault.times:
                    fault.seen += 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *about: Any) -> None:
        """Say nothing: connections break here on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: FaultProxy

    def log_message(self, *about: Any) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        fault = self.proxy.fault_of(self.command, self.path)
        kind = fault.kind if fault else ""
        if kind == "cut":
            return self._reset(int(self.headers.get("Content-Length") or 0) // 2)
        body = self._body()
        if fault and kind[:3].isdigit():
            status, _, header = kind.partition(" ")
            name, _, value = header.partition("=")
            return self._answer(int(status), b'{"error": "injected"}', [(name, value)] if name else [])
        if fault and kind == "stall":
            threading.Event().wait(fault.seconds)  # tests replace time.sleep
            return self._reset(0)
        if fault and kind == "call":
            fault.action()
        status, headers, content = self._forwarded(body, kind == "revoked")
        if kind == "lost":
            return self._reset(0)
        if kind == "corrupt":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        self._answer(status, content, headers, len(content) // 2 if kind == "truncate" else None)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forwarded(self, body: bytes, revoked: bool) -> tuple[int, list[tuple[str, str]], bytes]:
        target = urlsplit(self.proxy.upstream)
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in OWN}
        if revoked:
            headers = {
                **{k: v for k, v in headers.items() if k.lower() != "authorization"},
                "Authorization": "Bearer no",
            }
        connection.request(self.command, self.path, body or (b"" if self.command in ("POST", "PUT") else None), headers)
        answer = connection.getresponse()
        content = answer.read().replace(self.proxy.upstream.encode(), self.proxy.endpoint.encode())
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in OWN]
        if self.command == "HEAD":
            kept.append(("Content-Length", answer.getheader("Content-Length") or "0"))
        connection.close()
        return answer.status, kept, content

    def _answer(self, status: int, content: bytes, headers: list[tuple[str, str]], cut: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name == "Content-Length" for name, _ in headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        if cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def _reset(self, read: int) -> None:
        """Reset the connection, after a part of the request was read."""
        self.rfile.read(read)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
