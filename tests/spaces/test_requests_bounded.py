"""What visitors may ask of the machine: whose turn it is, how much may come in, and what is logged when it breaks."""

from __future__ import annotations

import asyncio
import importlib
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
from quiet_log import log_no_values
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
threading.Thread(target=dies).start()
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
    for said in (
        "Exception in ASGI application",
        "Exception in callback",
        "A thread failed",
        "A request failed",
        "It f",
    ):
        assert said in done.stderr
    assert done.stderr.count("\nValueError\n") == 5
    shown = [line for line in done.stderr.splitlines() if "SECRET" in line and "raise ValueError" not in line]
    assert shown == [], "the program's own lines are no values"


def test_a_question_waits_for_a_part_of_a_batch_only(parts: Any) -> None:
    queueing, done = importlib.import_module("queueing"), []
    started, asked = threading.Event(), threading.Event()

    @queueing.in_turn
    def batch() -> Any:
        for number in (1, 2):
            started.set()
            asked.wait(60)
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
    asked.set()
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
    """Pictures beyond the pixels of a batch are rows that say so, and are not opened."""
    monkeypatch.setattr(parts.many, "MOST_PIXELS_TOGETHER", 10_000)
    monkeypatch.setattr(parts.many, "classify_many", lambda images, _: [{"predicted": "nv"} for _ in images])
    read: list[str] = []

    def opened(entry: Any) -> Image.Image:
        read.append(entry.name)
        return Image.new("RGB", (100, 60))

    entries = [parts.archives.Entry(name) for name in "abcd"]
    rows = [row for some in parts.many.look_at(entries, SimpleNamespace(), opened) for row in some]
    assert read == ["a", "b"]
    assert [row.error is None for row in rows] == [True, True, False, False]
    assert "the pictures before it have" in rows[2].error


@pytest.fixture
def limited(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ask an application behind the limits, all of which are a thousandth of what they are."""
    module = importlib.import_module("upload_limit")
    monkeypatch.setattr(module, "LARGEST_UPLOAD", 600_000)
    monkeypatch.setattr(module, "LARGEST_QUESTION", 1_000)
    monkeypatch.setattr(parts.temporary_files, "MOST_KEPT", 2_000_000)
    files = parts.temporary_files.TemporaryFiles(str(tmp_path))

    async def application(scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse

        body = await Request(scope, receive).body()
        await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)

    def ask(content: Any, kind: str = "multipart/form-data; boundary=b") -> tuple[int, str]:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(module.UploadLimit(application, files))
            async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
                return await client.post("/upload", content=content, headers={"Content-Type": kind})

        answer = asyncio.run(asked())
        return answer.status_code, answer.text

    yield SimpleNamespace(ask=ask, files=files)
    files.remove()


def test_more_than_is_taken_is_refused_in_words(limited: Any) -> None:
    async def unsaid() -> Any:
        for _ in range(7):
            yield b"x" * 100_000

    assert limited.ask(b"x" * 600_000) == (200, "600000 bytes")
    status, said = limited.ask(b"x" * 600_001)
    assert (status, said.partition(" ")[0]) == (413, "These")
    assert "are taken at a time" in said
    assert limited.ask(unsaid())[0] == 413, "it does not say how long it is"
    assert limited.ask(b"x" * 1_000, "application/json") == (200, "1000 bytes")
    assert limited.ask(b"x" * 1_001, "application/json")[0] == 413


def test_a_full_folder_takes_no_more(limited: Any) -> None:
    (limited.files.folder / "upload").write_bytes(b"x" * 1_900_000)
    assert limited.ask(b"x" * 100_000) == (200, "100000 bytes")
    status, said = limited.ask(b"x" * 100_001)
    assert (status, said) == (
        507,
        "There is no room for more uploads at the moment. Try again in a quarter of an hour.",
    )
    assert limited.ask(b"x", "application/json")[0] == 200, "questions go on"
