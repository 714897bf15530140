"""Run Python commands in processes of their own, which need not import torch again.

A server process imports the large libraries once and forks for each command. The first worker of a run that needs it
starts it, all of them use it, and it ends with the last of them. The command has its own environment, working
directory, ``sys.path``, streams, signals and exit code, as if Python had been started for it. What reads ``HF_*`` at
its import (huggingface_hub, transformers, datasets) is imported before only by a second server, which the first forks
for each set of such variables. A Hub and a home are those of one test: that server imports with others in
their place, which the process of a command replaces wherever the libraries have kept them. Nothing of this project is
imported before. A test of what an import costs starts Python itself.

Charts are built but not drawn, here and in those processes, but where a test asks for ``painted``.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import math
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from filelock import FileLock

LIBRARIES = (
    *("torch", "torch._dynamo", "torch.distributed.tensor", "torch.utils.data", "torchvision.transforms.v2"),
    *("scipy.stats", "scipy.optimize", "sklearn.metrics", "sklearn.model_selection", "matplotlib.pyplot"),
    *("pandas", "pyarrow.parquet", "httpx", "requests", "PIL.Image", "cv2", "yaml", "jinja2", "safetensors.torch"),
    *("fastapi", "uvicorn", "pydantic"),
)
# What these read when they are imported: HF_HUB_OFFLINE and others of AT_IMPORT.
HUB_LIBRARIES = ("transformers.trainer", "datasets", "evaluate", "timm")
OF_THE_HUB = ("huggingface_hub", "transformers", "datasets", "evaluate", "timm")
# Of one test, and what stands in their place while the libraries are imported.
REPLACED = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": os.path.join(tempfile.gettempdir(), "hf-home-of-a-test")}
AT_IMPORT = ("HF_", "HUGGING", "TRANSFORMERS_", "DATASETS_", "TIMM_", "XDG_", "HOME", "TMPDIR", "OMP_")
UNPAINTED = "LESION_TEST_UNPAINTED"  # set: charts are written as one pixel
CACHES = "LESION_TEST_CACHES"  # folder of a run: the server's socket, and the compiled templates of cards (0.7 s)
POLL_S = 0.01
STREAMS = ("stdout", "stderr")
# An object, the name of an attribute, and its value at import.
Kept = tuple[Any, str, str | Path]
_link: IO[str] | None = None
_exit_code: int | None = None


class Process:
    """A running command, with the methods of ``subprocess.Popen`` that the tests use."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: dict[str, str] | None = None,
        cwd: Path | str | None = None,
        stdout: str = os.devnull,
        stderr: str = os.devnull,
    ) -> None:
        assert command[0] == sys.executable, f"{command[0]} is not this Python"
        self.args, self.returncode = list(command), None
        given = {"command": command[1:], "env": dict(os.environ if env is None else env)}
        request = {**given, "cwd": str(cwd or os.getcwd()), "stdout": stdout, "stderr": stderr}
        self.pid, self.server = _ask(request)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, minus the number of the signal that ended it.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        while self.returncode is None:
            self.returncode = _ask({"wait": self.pid, "server": self.server})
            if self.returncode is not None or time.monotonic() >= deadline:
                break
            time.sleep(POLL_S)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    command: Sequence[str],
    *,
    env: dict[str, str] | None = None,
    cwd: Path | str | None = None,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run(command, capture_output=True, text=True)``; the first word is ``sys.executable``."""
    with tempfile.TemporaryDirectory() as folder:
        streams = {name: os.path.join(folder, name) for name in ("stdout", "stderr")}
        process = Process(command, env=env, cwd=cwd, **streams)
        try:
            process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        shown = [Path(path).read_text("utf-8", errors="replace") for path in streams.values()]
    return subprocess.CompletedProcess(process.args, process.returncode or 0, *shown)


def piped(command: Sequence[str], *, env: dict[str, str] | None = None, **_: Any) -> Process:
    """As ``subprocess.Popen`` with both streams piped into one, ``stdout``, as text."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = os.path.join(folder, "pipe")
        os.mkfifo(pipe)
        process: Any = Process(command, env=env, stdout=pipe, stderr=pipe)
        process.stdout = os.fdopen(os.open(pipe, os.O_RDONLY), errors="replace")  # both ends wait here for each other
        return process


def run_ranks(command: Sequence[str], count: int, *, env: dict[str, str], timeout: float = 600) -> None:
    """Run a command on ``count`` processes that find each other, as torchrun starts them; each must succeed.

    Raises:
        RuntimeError: one of them failed, with the end of what it wrote to stderr.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0"}
    together |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for rank in range(count):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "ROLE_RANK": str(rank)}
            running.append(Process(command, env={**env, **together, **own}, stderr=f"{folder}/{rank}"))
        try:
            for rank, process in enumerate(running):
                if process.wait(timeout) != 0:
                    raise RuntimeError(f"rank {rank}: {Path(folder, str(rank)).read_text()[-3000:]}")
        finally:
            for process in running:
                process.kill()


def unpaint() -> Callable[..., None]:
    """From now on write each chart of this process as one pixel, not drawn; returns ``savefig`` as it was."""
    from matplotlib.figure import Figure
    from PIL import Image

    def savefig(self: Figure, file: Any, *, format: str = "", **_: Any) -> None:
        jpeg = str(file).endswith((".jpg", ".jpeg"))
        Image.new("RGB", (1, 1)).save(file, format or ("JPEG" if jpeg else "PNG"))

    drawn, Figure.savefig = Figure.savefig, savefig  # type: ignore[method-assign, assignment]
    return drawn


def _ask(request: dict[str, Any]) -> Any:
    """The server's answer."""
    global _link
    if _link is None:
        _link = _connect()
    _link.write(json.dumps(request) + "\n")
    _link.flush()
    return json.loads(_link.readline())


def _connect() -> IO[str]:
    """A connection to the run's server; starts it where there is none."""
    if CACHES not in os.environ:
        os.environ[CACHES] = tempfile.mkdtemp(prefix="lesion-server-")
        atexit.register(shutil.rmtree, os.environ[CACHES], ignore_errors=True)
    path = os.path.join(os.environ[CACHES], "server")
    link = socket.socket(socket.AF_UNIX)
    with FileLock(f"{path}.lock"):
        try:
            link.connect(path)
        except OSError:
            # Isolated: the sys.path of each command is built on the one of Python alone.
            command = [sys.executable, "-I", __file__, path]
            env = {**os.environ, "OMP_NUM_THREADS": "1"}
            started = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            assert started.stdout is not None
            with started.stdout:
                started.stdout.readline()
            link.connect(path)
    return link.makefile("rw")


def _listen(path: str) -> socket.socket:
    """The server's socket, from now on there for clients; one line on stdout tells."""
    listener = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener.bind(path)
    listener.listen()
    print(flush=True)
    return listener


def _serve(listener: socket.socket) -> dict[str, Any]:
    """Answer requests until the last client is gone; in the process of a command, return its request."""
    servers = dict[str, tuple[IO[str], IO[str]]]()
    clients = selectors.PollSelector()  # not epoll, whose registrations a fork would share
    clients.register(listener, selectors.EVENT_READ)
    while True:
        for one, _ in clients.select():
            if one.data is None:
                client, _ = listener.accept()
                clients.register(client, selectors.EVENT_READ, client.makefile("rw"))
                continue
            line = one.data.readline()
            if not line:
                _part(clients, one)
                if len(clients.get_map()) == 1:
                    os._exit(0)
                continue
            request = json.loads(line)
            key = request["server"] if "wait" in request else _read_at_import(request["env"])
            if key not in servers:
                (requests_end, to), (back, answers_end) = os.pipe(), os.pipe()
                if os.fork() == 0:
                    os.close(to)
                    for other in list(clients.get_map().values()):
                        _part(clients, other)
                    return _serve_hub(key, request, os.fdopen(requests_end), os.fdopen(answers_end, "w"))
                os.close(requests_end)
                os.close(answers_end)
                servers[key] = os.fdopen(to, "w"), os.fdopen(back)
            servers[key][0].write(line)
            servers[key][0].flush()
            one.data.write(servers[key][1].readline())
            one.data.flush()


def _part(clients: selectors.BaseSelector, one: selectors.SelectorKey) -> None:
    clients.unregister(one.fileobj)
    for end in (one.data, one.fileobj):
        if end is not None:
            end.close()


def _serve_hub(key: str, first: dict[str, Any], requests: IO[str], answers: IO[str]) -> dict[str, Any]:
    """Import the libraries of the Hub in this environment, then answer and return as :func:`_serve`."""
    os.environ.clear()
    os.environ.update(_in_place(first["env"]))
    _import(HUB_LIBRARIES)
    kept = _kept()
    gc.freeze()  # a collection in a command need not look at them
    while line := requests.readline():
        request = json.loads(line)
        if "wait" in request:
            answer: Any = _ended(request["wait"])
        elif pid := os.fork():
            answer = (pid, key)
        else:
            _replace(kept, request["env"])
            return request
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)


def _in_place(env: dict[str, str]) -> dict[str, str]:
    """The environment with others in place of what is of one test."""
    return {**env, **{name: value for name, value in REPLACED.items() if name in env}}


def _read_at_import(env: dict[str, str]) -> str:
    """The variables that the libraries of the Hub read when they are imported."""
    read = (one for one in _in_place(env).items() if one[0].startswith(AT_IMPORT) and one[0] != "HF_TOKEN")
    return json.dumps(sorted(read))


def _kept() -> list[Kept]:
    """Where the libraries of the Hub keep what stands in place of the values of one test."""
    found: list[Kept] = []
    for one in gc.get_objects():
        where = one.__name__ if isinstance(one, ModuleType) else type(one).__module__
        if str(where).split(".")[0] in OF_THE_HUB and hasattr(one, "__dict__"):
            for name, value in list(vars(one).items()):
                if isinstance(value, (str, Path)) and any(other in str(value) for other in REPLACED.values()):
                    found.append((one, name, value))
    return found


def _replace(kept: list[Kept], env: dict[str, str]) -> None:
    for one, name, value in kept:
        text = str(value)
        for variable, other in REPLACED.items():
            text = text.replace(other, env.get(variable, other))
        setattr(one, name, type(value)(text))


def keep_templates(folder: str) -> None:
    """From now on this process and its forks compile a template of Jinja only where ``folder`` does not hold it."""
    from jinja2 import Environment, FileSystemBytecodeCache

    made = Environment.__init__

    def begin(self: Environment, *args: Any, **options: Any) -> None:
        # Jinja itself gives all options without their names.
        made(self, *args, **(options if args else {"bytecode_cache": FileSystemBytecodeCache(folder), **options}))

    Environment.__init__ = begin  # type: ignore[method-assign]


def _import(names: Sequence[str]) -> None:
    for name in names:
        importlib.import_module(name)


def _ended(pid: int) -> int | None:
    """The exit code of a command; None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _end() -> None:
    """Leave at once: Python would take every library apart, object by object, and so copy the server's memory (2 s)."""
    if _exit_code is not None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):  # the command closed it
                stream.flush()
        os._exit(_exit_code)


def _become(request: dict[str, Any]) -> None:
    """Be the process of a command; what ends it otherwise than by ``SystemExit``, Python deals with."""
    global _exit_code
    try:
        _execute(request)
        _exit_code = 0
    except SystemExit as stopped:
        if stopped.code is None or isinstance(stopped.code, int):
            _exit_code = (stopped.code or 0) & 0xFF
        raise


def _execute(request: dict[str, Any]) -> None:
    """``-m MODULE``, ``-c CODE`` or a script, and its words."""
    import random

    import numpy as np

    for number, (path, flags) in enumerate(
        [(os.devnull, os.O_RDONLY), *((request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in STREAMS)]
    ):
        os.dup2(1 if number == 2 and path == request["stdout"] else os.open(path, flags, 0o644), number)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    random.seed()
    np.random.seed()
    if os.environ.get(UNPAINTED):
        unpaint()
    sys.modules.pop("__mp_main__", None)  # it is this file
    first, *words = request["command"]
    in_folder = first in ("-m", "-c")
    sys.argv = words if in_folder else [first, *words]
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path.insert(0, "" if in_folder else os.path.dirname(os.path.abspath(first)))
    if first == "-m":
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *words[1:]]
        exec(compile(words[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    else:
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    atexit.register(_end)  # before the libraries register theirs: the last to be called is the first registered
    listener = _listen(sys.argv[1])
    _import(LIBRARIES)
    templates = os.path.join(os.path.dirname(sys.argv[1]), "templates")
    os.makedirs(templates, exist_ok=True)
    keep_templates(templates)
    gc.freeze()
    _become(_serve(listener))
