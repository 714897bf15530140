"""The fixture ``hub``; a conftest or a test takes it by ``from hub_fixture import hub``."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import LoopbackHub
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

# One address, and one place of homes, for all Hubs of this process, one after the other: see processes.py.
PORT = 20_000 + os.getpid() % 10_000
HOMES = tempfile.TemporaryDirectory(prefix="loopback-homes-")


def free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A loopback Hub of this test's own; this process may talk to it although the tests run offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    disable_progress_bars()
    with LoopbackHub(PORT if free(PORT) else 0) as server:
        server.homes = Path(HOMES.name)
        yield server
    enable_progress_bars()
