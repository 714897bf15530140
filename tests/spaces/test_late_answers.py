"""A slow model in a real browser: an answer is never seen beside another image, or another model, than its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.spaces.in_browser import WAIT_MS, choose, opened

pytestmark = pytest.mark.browser

# Each frame that the browser paints: the names of the files in a block, and the states that can be seen beside it.
RECORD = """([block, states]) => {
  window.frames_seen = new Set();
  const look = () => {
    const files = document.querySelector(block)?.querySelectorAll('.image-frame img, a[href]') ?? [];
    const names = [...files].map((one) => decodeURIComponent(one.src ?? one.href).split('/').pop().split('?')[0]);
    const seen = [...document.querySelectorAll(states)].filter((one) => one.offsetParent);
    window.frames_seen.add(`${names} ${seen.map((one) => one.dataset.state ?? one.innerText.trim())}`.trim());
    requestAnimationFrame(look);
  };
  look();
}"""
REMOVE = "{0} button[aria-label='Remove Image'], {0} button[aria-label='Clear']"
# Tab, its input of images, where its answer stands, and what can be seen there of an answered and a declined image.
TABS = {
    "One image": ("#photo", "#answer [data-state]", "low", "declined"),
    "Compare": ("#compare-photo", "#comparison .card:first-child", "low", "declined"),
    "Similar": ("#similar-photo", "#cases [data-state]", "cases", "declined"),
    "Many": ("#files", "#many tbody tr > :last-child", "low.png", "ood.png"),
}


def wait_until(tab: Any, reached: Callable[[], bool]) -> None:
    """Wait while the browser goes on."""
    deadline = time.monotonic() + WAIT_MS / 1000
    while not reached():
        assert time.monotonic() < deadline, "the page does not come that far"
        tab.wait_for_timeout(50)


@contextmanager
def held(page: Any, tab: Any) -> Iterator[Callable[[], None]]:
    """Hold the answers of the models; the function waits until one has begun."""
    begun = page.answers()[0]
    page.hold.touch()
    try:
        yield lambda: wait_until(tab, lambda: page.answers()[0] > begun)
    finally:
        page.hold.unlink()


def let_all_come(page: Any, tab: Any) -> None:
    """Wait until every answer that has begun has ended and reached the browser."""
    wait_until(tab, lambda: len(set(page.answers())) == 1)
    tab.wait_for_timeout(600)


@pytest.mark.parametrize("tab_name", TABS)
def test_an_answer_is_seen_beside_its_own_image_only(browser: Any, page: Any, trusted: Any, tab_name: str) -> None:
    """Once changed while the answer is there, once while it is still being made."""
    block, states, answered, declined = TABS[tab_name]
    low, ood = trusted.images["low"], trusted.images["ood"]
    with opened(browser, page.url) as tab:
        tab.get_by_role("tab", name=tab_name).click()
        tab.evaluate(RECORD, [block, states])

        def give(path: Path) -> None:
            while tab.locator(f"{block} .image-frame img, {block} a[href]").count():
                tab.locator(REMOVE.format(block)).first.click()
                tab.wait_for_timeout(300)  # Gradio can set once more what has just been uploaded
            tab.set_input_files(f"{block} input[type=file]", str(path))
            name = f"'{path.name}'"
            tab.wait_for_function(f"[...window.frames_seen].some((one) => one.startsWith({name}))")

        def wait(path: Path, state: str) -> None:
            tab.wait_for_function(f"window.frames_seen.has('{path.name} {state}')")

        give(low)
        wait(low, answered)
        give(ood)
        wait(ood, declined)
        tab.evaluate("window.frames_seen.clear()")
        with held(page, tab) as begun:
            give(low)
            begun()
            give(ood)
        wait(ood, declined)
        let_all_come(page, tab)
        seen = set(tab.evaluate("[...window.frames_seen]"))
        own = {f"low.png {answered}", f"ood.png {declined}"}
        without_answer = {one for one in seen if one.split(" ")[-1] not in (answered, declined) or " " not in one}
        assert seen - without_answer <= own, seen
        assert f"ood.png {declined}" in seen


def test_an_answer_is_seen_beside_its_own_model_only(browser: Any, page: Any, trusted: Any, model_folder: Path) -> None:
    """The model changed twice while the first one works: the last one's answer comes, and no other's is seen."""
    first, second = trusted.folder.name, model_folder.name
    with opened(browser, page.url) as tab:
        tab.evaluate("""() => {
          window.frames_seen = new Set();
          const look = () => {
            const model = document.querySelector('#facts b')?.innerText;
            const seen = [...document.querySelectorAll('#answer [data-state]')].filter((one) => one.offsetParent);
            window.frames_seen.add(`${model} ${seen.map((one) => one.dataset.state)}`);
            requestAnimationFrame(look);
          };
          look();
        }""")
        with held(page, tab) as begun:
            tab.set_input_files("#photo input[type=file]", str(trusted.images["low"]))
            tab.wait_for_selector("#photo img")
            begun()
            for title in (second, first, second):
                choose(tab, "#model", title)
        tab.wait_for_selector("#answer [data-state=none]")
        let_all_come(page, tab)
        seen = set(tab.evaluate("[...window.frames_seen]"))
        assert f"{second} none" in seen
        assert not seen & {f"{second} low", f"{first} none"}, seen
