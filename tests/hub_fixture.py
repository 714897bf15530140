"""The fixture ``hub``; a conftest or a test takes it by ``from hub_fixture import hub``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hub_server import LoopbackHub
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A loopback Hub of this test's own; this process may talk to it although the tests run offline."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    disable_progress_bars()
    with LoopbackHub() as server:
        yield server
    enable_progress_bars()
