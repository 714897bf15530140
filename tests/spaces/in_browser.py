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
def opened(
    browser: Any, url: str, width: int = 1200, height: int = 860, color_scheme: str = "light", has_touch: bool = False
) -> Iterator[Any]:
    """A tab on the page; leaving it checks that no script failed and that no other server got a request.

    It is the browser's first tab, whose cache holds the page's scripts; one with fingers is a new one.
    """
    context = browser.new_context(has_touch=True) if has_touch else browser.contexts[0]
    tab = context.new_page() if has_touch else context.pages[0]
    tab.set_default_timeout(WAIT_MS)
    tab.set_viewport_size({"width": width, "height": height})
    tab.emulate_media(color_scheme=color_scheme, reduced_motion="reduce")
    faults: list[str] = []
    outside: list[str] = []
    own = (url, "data:", "blob:", "ws:")
    heard = {
        "pageerror": lambda error: faults.append(str(error)),
        "console": lambda message: faults.append(message.text) if message.type == "error" else None,
        "request": lambda request: None if request.url.startswith(own) else outside.append(request.url),
    }
    for event, listener in heard.items():
        tab.on(event, listener)
    tab.goto(url)
    tab.wait_for_selector("#photo input[type=file]", state="attached")
    tab.wait_for_selector("#facts b")
    yield tab
    for event, listener in heard.items():
        tab.remove_listener(event, listener)
    if has_touch:
        context.close()
    else:
        tab.goto("about:blank")
    assert faults == [], faults
    assert outside == []


def go_to(tab: Any, name: str) -> None:
    """Open one of the page's tabs; on a phone the last ones are in a menu."""
    if name not in tab.get_by_role("tab").all_inner_texts():
        tab.click(".overflow-menu > button")
        tab.locator(".overflow-dropdown").get_by_text(name, exact=True).click()
    else:
        tab.get_by_role("tab", name=name).click()


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
