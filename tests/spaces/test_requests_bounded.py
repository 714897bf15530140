"""Limits for visitors: the queue, the size of uploads, and what is logged after an error."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from PIL import Image

BREAKS = """
import asyncio, logging, sys, threading, traceback
from process import log_no_values
log_no_values()
import uvicorn

def dies(): raise ValueError("SECRET")

async def app(scope, receive, send): raise ValueError("SECRET")

async def main():
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
    await reader.read()
    asyncio.get_running_loop().call_soon(dies)  # its handle, and so its callback's arguments, would be described
    await asyncio.sleep(0.1)
    server.should_exit = True
    await serving

asyncio.run(main())
for _ in range(20): threading.Thread(target=dies).start()
try:
    dies()
except ValueError:
    traceback.print_exc()
    logging.getLogger("any.library").exception("It failed")
"""


def test_no_log_says_what_an_exception_says(repo_root: Path, tmp_path: Path) -> None:
    """Uvicorn's, asyncio's, a thread's, what Gradio prints, any library's: place and kind, no message."""
    script = tmp_path / "breaks.py"
    script.write_text(BREAKS)
    environment = {"PYTHONPATH": str(repo_root / "spaces" / "lesion_demo"), "PATH": ""}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for message in (
        "Exception in ASGI application",
        "Exception in callback",
        "A thread failed",
        "A request failed",
        "It f",
    ):
        assert message in done.stderr
    assert done.stderr.splitlines().count("ValueError") == 24, "each on a line of its own, also from threads at once"
    shown = [line for line in done.stderr.splitlines() if "SECRET" in line and "raise ValueError" not in line]
    assert shown == [], "the program's own lines are no values"


def test_a_question_waits_for_a_part_of_a_batch_only(parts: Any) -> None:
    queueing, done = importlib.import_module("queueing"), []
    started, released = threading.Event(), threading.Event()

    @queueing.in_turn
    def batch() -> Any:
        for number in (1, 2):
            started.set()
            released.wait(60)
            done.append(f"part {number}")
            yield number

    @queueing.in_turn
    def question() -> None:
        done.append("question")

    working = threading.Thread(target=lambda: list(batch()))
    working.start()
    started.wait(60)
    asking = threading.Thread(target=question)
    asking.start()
    while len(queueing.TURNS._line) < 2:
        time.sleep(0.01)
    released.set()
    working.join(60)
    asking.join(60)
    assert done == ["part 1", "question", "part 2"]


def test_a_turn_is_given_back_whatever_happens(parts: Any) -> None:
    queueing, closed = importlib.import_module("queueing"), []

    @queueing.in_turn
    def fails() -> None:
        raise ValueError("it failed")

    @queueing.in_turn
    def left_alone() -> Any:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    with pytest.raises(ValueError, match="it failed"):
        fails()
    steps = left_alone()
    assert next(steps) == 1
    steps.close()
    assert closed == [True], "a visitor who leaves"
    assert not queueing.TURNS._line


def test_a_batch_has_an_end(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images beyond the pixels of a batch are rows that say so, and are not opened."""
    monkeypatch.setattr(parts.many, "MOST_PIXELS_TOGETHER", 10_000)
    monkeypatch.setattr(parts.many, "classify_many", lambda images, _: [{"predicted": "nv"} for _ in images])
    read: list[str] = []

    def opened(entry: Any) -> Image.Image:
        read.append(entry.name)
        return Image.new("RGB", (100, 60))

    entries = [parts.archives.Entry(name) for name in "abcd"]
    rows = [row for some in parts.many.classify_files(entries, SimpleNamespace(), opened) for row in some]
    assert read == ["a", "b"]
    assert [row.error is None for row in rows] == [True, True, False, False]
    assert "the images before it have" in rows[2].error


@pytest.fixture
def limited(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Send requests to an application behind the limits, sizes and times being a fraction of what they are."""
    module = importlib.import_module("upload_limit")
    monkeypatch.setattr(module, "LARGEST_UPLOAD", 600_000)
    monkeypatch.setattr(module, "LARGEST_REQUEST", 1_000)
    monkeypatch.setattr(module, "LONGEST_SILENCE_S", 0.3)
    monkeypatch.setattr(module, "GRACE_S", 0.5)
    monkeypatch.setattr(module, "LEAST_RATE", 100_000)
    monkeypatch.setattr(parts.temporary_files, "MOST_KEPT", 2_000_000)
    files = parts.temporary_files.TemporaryFiles(str(tmp_path))
    handed: list[str] = []  # what the application's reading of the body ended in

    async def application(scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse

        try:
            body = await Request(scope, receive).body()
        except Exception as error:
            handed.append(type(error).__name__)
            raise
        handed.append("whole")
        await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)

    limit = module.UploadLimit(application, files)

    def ask(content: Any, path: str = "/gradio_api/upload", method: str = "POST", **headers: str) -> tuple[int, str]:
        async def sent() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(limit), base_url="http://page") as client:
                return await client.request(method, path, content=content, headers=headers)

        answer = asyncio.run(sent())
        return answer.status_code, answer.text

    yield SimpleNamespace(ask=ask, files=files, handed=handed)
    files.remove()


async def in_pieces(number: int, size: int, wait_s: float = 0.0) -> Any:
    """A body whose length no header claims."""
    for _ in range(number):
        await asyncio.sleep(wait_s)
        yield b"x" * size


MULTIPART = {"Content-Type": "multipart/form-data; boundary=b"}


def test_the_large_limit_is_of_the_upload_route_alone(limited: Any) -> None:
    assert limited.ask(b"x" * 600_000) == (200, "600000 bytes")
    assert limited.ask(b"x" * 600_001)[0] == 413
    assert limited.ask(in_pieces(6, 100_000)) == (200, "600000 bytes"), "counted as it arrives"
    assert limited.ask(in_pieces(7, 100_000))[0] == 413
    elsewhere = ("/gradio_api/upload/", "//gradio_api/upload", "/gradio_api//upload", "/gradio_api/queue/join", "/")
    for path in elsewhere:
        for method in ("POST", "PUT", "GET"):
            assert limited.ask(b"x" * 1_000, path, method, **MULTIPART)[0] == 200
            assert limited.ask(b"x" * 1_001, path, method, **MULTIPART)[0] == 413, (method, path)
            assert limited.ask(in_pieces(2, 600), path, method, **MULTIPART)[0] == 413, (method, path)
    assert limited.ask(b"x" * 1_001, method="PUT")[0] == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 19, "9" * 5_000, "1, 2", ""])
def test_a_length_that_is_no_number_of_bytes_is_refused(limited: Any, length: str) -> None:
    assert limited.ask(b"x", **{"Content-Length": length})[0] == 400
    assert limited.handed == []


def test_a_body_that_does_not_arrive_in_time_is_given_up(limited: Any) -> None:
    """Silence after a part, and a part a moment for ever; neither a claim nor a slow line that is fast enough."""
    assert limited.ask(in_pieces(2, 10, wait_s=0.6))[0] == 408
    assert limited.ask(in_pieces(100, 10, wait_s=0.02))[0] == 408, "10 bytes in 20 ms are less than 100 kB/s"
    assert limited.ask(in_pieces(30, 10_000, wait_s=0.03)) == (200, "300000 bytes"), "slow, but fast enough"
    assert limited.ask(in_pieces(2, 10, wait_s=0.6), "/gradio_api/queue/join")[0] == 408
    # Gradio deletes what it has written of an upload on this exception alone.
    assert limited.handed == ["MultiPartException", "MultiPartException", "whole", "MultiPartException"]


def test_a_full_folder_takes_no_more(limited: Any) -> None:
    (limited.files.folder / "upload").write_bytes(b"x" * 1_900_000)
    assert limited.ask(b"x" * 100_000) == (200, "100000 bytes")
    assert limited.ask(b"x" * 100_001)[0] == 507
    (limited.files.folder / "more").write_bytes(b"x" * 90_000)
    assert limited.ask(in_pieces(2, 10_001))[0] == 507, "no header claims more than there is room for"
    assert limited.ask(b"x", "/gradio_api/queue/join")[0] == 200, "questions go on"


def test_small_files_without_end_fill_the_folder_too(limited: Any, parts: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(parts.temporary_files, "MOST_FILES", 3)
    for name in "ab":
        (limited.files.folder / name).touch()
    assert limited.ask(b"x")[0] == 200
    (limited.files.folder / "c").touch()
    assert limited.ask(b"x")[0] == 507


class Raw:
    """Raw requests to the running page."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])

    def open(self, head: str, *body: bytes) -> socket.socket:
        """A connection over which a head and these parts of a body were sent."""
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=60)
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        for part in body:
            with contextlib.suppress(ConnectionError):  # it was refused before all was sent
                connection.sendall(part)
        return connection

    def status(self, head: str, *body: bytes) -> int:
        with self.open(head, *body) as connection:
            return int(connection.recv(64).split()[1])


FILE = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
FIELD = b'--b\r\nContent-Disposition: form-data; name="files"\r\n\r\n'
END = b"\r\n--b--\r\n"
HEAD = "Host: x\nContent-Type: multipart/form-data; boundary=b"


def in_chunks(*parts: bytes) -> list[bytes]:
    return [*(b"%x\r\n%s\r\n" % (len(part), part) for part in parts), b"0\r\n\r\n"]


def test_the_running_page_holds_its_limits(page: Any) -> None:
    """Raw requests to the real application: other spellings of the route, wrong lengths, chunks, fields for files."""
    raw, body = Raw(page.url), FILE + b"x" * 2_000_000 + END
    length = f"Content-Length: {len(body)}"
    assert raw.status(f"POST /gradio_api/upload HTTP/1.1\n{HEAD}\n{length}", body) == 200
    assert raw.status(f"POST /%67radio_api/upload?upload_id=a HTTP/1.1\n{HEAD}\n{length}", body) == 200
    chunked = f"{HEAD}\nTransfer-Encoding: chunked"
    assert raw.status(f"POST /gradio_api/upload HTTP/1.1\n{chunked}", *in_chunks(body)) == 200
    for path in (
        "//gradio_api/upload", "/gradio_api/upload/", "/gradio_api/upload%2F", "/gradio_api/x/../upload",
        "http://x/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/process_recording",
        "/gradio_api/component_server", "/gradio_api/run/predict", "/gradio_api/call/v2/x", "/login", "/",
    ):  # fmt: skip
        assert raw.status(f"POST {path} HTTP/1.1\n{HEAD}\n{length}", body) == 413, path
    for path in ("/gradio_api/queue/join", "/gradio_api/process_recording"):
        assert raw.status(f"POST {path} HTTP/1.1\n{chunked}", *in_chunks(body[:600_000], body[600_000:])) == 413, path
    for wrong in ("-1", "1e3", "9" * 19, "9" * 5_000, "5\nContent-Length: 6"):
        assert raw.status(f"POST /gradio_api/upload HTTP/1.1\n{HEAD}\nContent-Length: {wrong}", b"hello") == 400
    claimed = "Content-Length: 700000000"
    assert raw.status(f"POST /gradio_api/upload HTTP/1.1\n{HEAD}\n{claimed}\nExpect: 100-continue") == 413
    assert raw.status(f"GET / HTTP/1.1\nHost: x\n{length}", body) == 413
    field = FIELD + b"x" * 2_000_000 + END
    assert raw.status(f"POST /gradio_api/upload HTTP/1.1\n{HEAD}\nContent-Length: {len(field)}", field) == 400


def test_who_claims_much_and_sends_little_blocks_nobody(page: Any) -> None:
    raw, body = Raw(page.url), FILE + b"x" * 3_000_000 + END
    head = f"POST /gradio_api/upload HTTP/1.1\n{HEAD}\nContent-Length: "
    before = {path for path in page.uploads.rglob("*") if path.is_file()}
    held = [raw.open(f"{head}599000000", FILE, b"x" * 10_000) for _ in range(8)]
    try:
        assert raw.status(f"{head}{len(body)}", body) == 200
    finally:
        for connection in held:
            connection.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        left = {path for path in page.uploads.rglob("*") if path.is_file()} - before
        if {path.name for path in left} <= {"a.jpg"}:
            break
        time.sleep(0.1)
    assert {path.name for path in left} == {"a.jpg"}, "what was cut off is deleted at once"
