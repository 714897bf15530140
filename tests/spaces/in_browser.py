"""The page in a real browser, for the tests: a tab that checks itself, and what a visitor does on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WAIT_MS = 120_000


@contextmanager
def opened(browser: Any, url: str, width: int = 1200, height: int = 860, **options: Any) -> Iterator[Any]:
    """A tab on the page; leaving it checks that no script failed and that no other server got a request."""
    context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
    tab = context.new_page()
    tab.set_default_timeout(WAIT_MS)
    faults: list[str] = []
    outside: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on(
        "request",
        lambda request: None if request.url.startswith((url, "data:", "blob:", "ws:")) else outside.append(request.url),
    )
    tab.goto(url)
    tab.wait_for_selector("#photo input[type=file]", state="attached")
    tab.wait_for_selector("#facts b")
    yield tab
    context.close()
    assert faults == [], faults
    assert outside == []


def upload(tab: Any, path: Path, then: str) -> None:
    tab.set_input_files("#photo input[type=file]", str(path))
    tab.wait_for_selector(f"#answer {then}")


def clear(tab: Any) -> None:
    tab.click("#photo button[aria-label='Remove Image']")
    tab.wait_for_selector("#answer .panel.empty")


def choose(tab: Any, where: str, title: str) -> None:
    tab.click(f"{where} input")
    tab.get_by_role("option", name=re.compile(rf"(^|\s){re.escape(title)}\s*$")).click()


def assert_notice_in_view(tab: Any) -> None:
    notice = tab.locator("#notice")
    assert "Not a medical device" in notice.inner_text()
    box, size = notice.bounding_box(), tab.viewport_size
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= size["height"] + 1
