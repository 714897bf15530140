"""A slow model in a real browser: an answer is never seen beside another image, or another model, than its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.spaces.in_browser import choose, opened

pytestmark = pytest.mark.browser

SLOW_S = 1.5
SLOW = f"""
import time
_quick = LesionForImageClassification.predict
def _slow(self, **given):
    time.sleep({SLOW_S})
    return _quick(self, **given)
LesionForImageClassification.predict = _slow
"""
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
# Tab, its input of images, where its answer stands, and what can be seen there of an answered and a declined image.
TABS = {
    "One image": ("#photo", "#answer [data-state]", "low", "declined"),
    "Compare": ("#compare-photo", "#comparison .card:first-child", "low", "declined"),
    "Similar": ("#similar-photo", "#cases [data-state]", "cases", "declined"),
    "Many": ("#files", "#many tbody tr > :last-child", "low.png", "ood.png"),
}


def slowed(folder: Path, where: Path) -> Path:
    """A copy of a model folder that takes its time."""
    copy = where / folder.name
    shutil.copytree(folder, copy)
    (copy / "manifest.json").unlink(missing_ok=True)
    with (copy / "modeling_lesion.py").open("a") as file:
        file.write(SLOW)
    return copy


@pytest.fixture(scope="module")
def slow_page(
    start_page: Callable[..., Any], trusted: Any, model_folder: Path, gallery: Any, tmp_path_factory: Any
) -> Iterator[Any]:
    where = tmp_path_factory.mktemp("slow")
    models = ",".join(str(slowed(folder, where)) for folder in (trusted.folder, model_folder))
    with start_page(models, LESION_GALLERY=str(gallery[0])) as running:
        yield running


@pytest.mark.parametrize("tab_name", TABS)
def test_an_answer_is_seen_beside_its_own_image_only(browser: Any, slow_page: Any, trusted: Any, tab_name: str) -> None:
    """Once changed while the answer is there, once while it is still being made."""
    block, states, answered, declined = TABS[tab_name]
    low, ood = trusted.images["low"], trusted.images["ood"]
    with opened(browser, slow_page.url) as tab:
        tab.get_by_role("tab", name=tab_name).click()
        tab.evaluate(RECORD, [block, states])

        def give(path: Path) -> None:
            remove = tab.locator(f"{block} button[aria-label='Remove Image'], {block} button[aria-label='Clear']")
            if remove.count():
                remove.first.click()
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
        give(low)
        tab.wait_for_timeout(1000 * SLOW_S / 2)
        give(ood)
        wait(ood, declined)
        tab.wait_for_timeout(2000 * SLOW_S)
        seen = set(tab.evaluate("[...window.frames_seen]"))
        own = {f"low.png {answered}", f"ood.png {declined}"}
        without_answer = {one for one in seen if one.split(" ")[-1] not in (answered, declined) or " " not in one}
        assert seen - without_answer <= own, seen
        assert f"ood.png {declined}" in seen


def test_an_answer_is_seen_beside_its_own_model_only(
    browser: Any, slow_page: Any, trusted: Any, model_folder: Path
) -> None:
    """The model changed twice while the first one works: the last one's answer comes, and no other's is seen."""
    first, second = trusted.folder.name, model_folder.name
    with opened(browser, slow_page.url) as tab:
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
        tab.set_input_files("#photo input[type=file]", str(trusted.images["low"]))
        tab.wait_for_selector("#photo img")
        for title in (second, first, second):
            choose(tab, "#model", title)
        tab.wait_for_selector("#answer [data-state=none]")
        tab.wait_for_timeout(1000 * SLOW_S)
        seen = set(tab.evaluate("[...window.frames_seen]"))
        assert f"{second} none" in seen
        assert not seen & {f"{second} low", f"{first} none"}, seen
