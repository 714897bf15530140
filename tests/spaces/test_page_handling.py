"""How the page behaves under a visitor's hands: sorting, speaking, pasting, odd files, a phone."""

from __future__ import annotations

import base64
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.spaces.in_browser import choose, clear, opened, upload

# Every text that the live region is given, from now on.
LISTEN = """() => {
  window.heard = [];
  const live = document.querySelector('#live');
  new MutationObserver(() => live.textContent && window.heard.push(live.textContent))
    .observe(live, { childList: true, characterData: true, subtree: true });
}"""
PASTE = """(data) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const clipboard = new DataTransfer();
  clipboard.items.add(new File([bytes], 'image.png', { type: 'image/png' }));
  document.body.dispatchEvent(
    new ClipboardEvent('paste', { clipboardData: clipboard, bubbles: true, cancelable: true }));
}"""


@pytest.mark.browser
def test_every_column_sorts_with_gaps_last(browser: Any, page: Any, trusted: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with opened(browser, page.url) as tab:
        tab.evaluate(LISTEN)
        tab.get_by_role("tab", name="Many").click()
        states = ("ood", "moderate", "high", "low")
        tab.set_input_files("#files input[type=file]", [str(trusted.images[s]) for s in states] + [str(broken)])
        tab.wait_for_selector("#many [data-done=true]")
        tab.wait_for_timeout(500)
        assert tab.evaluate("window.heard") == ["1 answered, 1 uncertain, 2 not answered, 1 not readable."], (
            "announced once"
        )
        heads = tab.locator("#many th button").all_inner_texts()
        assert heads[0] == "Most likely class"
        assert "Malignant or premalignant" in heads
        for number, head in enumerate(heads, start=1):
            for way in ("ascending", "descending"):
                tab.locator("#many th button").nth(number - 1).press("Enter")
                assert tab.locator("#many th").nth(number).get_attribute("aria-sort") == way
                keys = tab.eval_on_selector_all(
                    "#many tbody tr",
                    "(rows, column) => rows.map(r => [...r.cells].flatMap(c => Array(c.colSpan).fill(c))[column])"
                    ".map(c => c.dataset.key ?? c.innerText.trim())",
                    number,
                )
                known = [key for key in keys if key != ""]
                assert keys == known + [""] * (5 - len(known)), f"{head}, {way}: what is missing stands last"
                if head in ("Rating", "Probability of the class", "Malignant or premalignant", "Cannot be ruled out"):
                    numbers = [float(key) for key in known]
                    assert numbers == sorted(numbers, reverse=way == "descending"), head


@pytest.mark.browser
def test_a_change_in_view_is_announced_once(browser: Any, page: Any, trusted: Any) -> None:
    with opened(browser, page.url) as tab:
        tab.evaluate(LISTEN)
        upload(tab, trusted.images["low"], then="[data-state=low]")
        tab.wait_for_selector("#heat")
        assert [text.partition(".")[0] for text in tab.evaluate("window.heard")] == ["Answered"]
        tab.get_by_role("tab", name="Compare").click()
        tab.wait_for_selector(".cards")
        tab.wait_for_timeout(500)
        heard = tab.evaluate("window.heard")
        assert len(heard) == 2
        assert "Answered" not in heard[1]
        tab.get_by_role("tab", name="One image").click()
        clear(tab)
        upload(tab, trusted.images["low"], then="[data-state=low]")
        tab.wait_for_selector("#heat")
        assert tab.evaluate("window.heard").count(heard[0]) == 2, "the same answer again is announced again"


@pytest.mark.browser
def test_pasting_and_odd_files(browser: Any, page: Any, trusted: Any, tmp_path: Path) -> None:
    """Ctrl+V anywhere, a clipboard that may not be read, TIFF that browsers do not show, PDF, no suffix."""
    tiff, pdf, bare = tmp_path / "lesion.tif", tmp_path / "paper.pdf", tmp_path / "lesion"
    with Image.open(trusted.images["low"]) as image:
        image.save(tiff)
    pdf.write_bytes(b"%PDF-1.7 nothing")
    bare.write_bytes(trusted.images["low"].read_bytes())
    with opened(browser, page.url) as tab:
        tab.click("#photo button[aria-label='Paste from clipboard']")
        tab.wait_for_selector("#photo + .image-note p")
        assert "Press Ctrl+V" in tab.inner_text(".image-note")
        data = base64.b64encode(trusted.images["moderate"].read_bytes()).decode()
        tab.evaluate(PASTE, data)
        tab.wait_for_selector("#answer [data-state=moderate]")
        assert tab.locator(".image-note p").count() == 0
        tab.evaluate(PASTE, base64.b64encode(trusted.images["low"].read_bytes()).decode())
        tab.wait_for_selector("#answer [data-state=low]")
        clear(tab)
        upload(tab, pdf, then=".panel.message")
        assert "PDF" in tab.inner_text("#answer")
        assert tab.locator(".toast-body").count() == 0
        clear(tab)
        upload(tab, bare, then="[data-state=low]")
        clear(tab)
        upload(tab, tiff, then="[data-state=low]")
        tab.wait_for_function(
            """() => { const seen = document.querySelector('#photo img');
            return seen && seen.naturalWidth > 0 && seen.style.visibility !== 'hidden'; }"""
        )


@pytest.mark.browser
def test_phone_stays_where_it_is(browser: Any, page: Any, trusted: Any) -> None:
    """Nothing jumps when the prevalence changes or the heat map comes; the notice hides no focus; room for fingers."""
    with opened(browser, page.url, width=390, height=844, has_touch=True) as tab:
        tab.evaluate(
            """() => { window.heights = []; const behind = document.querySelector('#behind');
            new ResizeObserver(() => window.heights.push(behind.offsetHeight)).observe(behind); }"""
        )
        upload(tab, trusted.images["low"], then="[data-state=low]")
        tab.wait_for_selector("#heat")
        tab.wait_for_timeout(500)
        heights = [height for height in tab.evaluate("window.heights") if height > 60]
        assert max(heights) - min(heights) <= 2, heights
        tab.evaluate("document.querySelector('#shift').scrollIntoView({ block: 'center' })")
        tab.tap("#shift input")
        tab.wait_for_selector("#share input[type=range]")
        tab.evaluate("document.querySelector('#share').scrollIntoView({ block: 'center' })")
        tab.locator("#share input[type=range]").focus()
        before = tab.evaluate("scrollY")
        tab.keyboard.press("End")
        tab.wait_for_selector("#answer [data-state=none]")
        tab.wait_for_timeout(500)
        assert abs(tab.evaluate("scrollY") - before) < 5
        small = tab.evaluate(
            """() => [...document.querySelectorAll('#tabs button, #tabs input, #tabs summary, #tabs a[href]')]
            .filter((e) => e.offsetParent && e.type !== 'file' && getComputedStyle(e).visibility !== 'hidden')
            .filter((e) => !e.closest('.tab-container.visually-hidden') && e.role !== 'listbox')
            .map((e) => [e.getAttribute('aria-label') || e.innerText || e.type, e.getBoundingClientRect()])
            .filter(([, box]) => box.width < 24 || box.height < 24).map(([name]) => name)"""
        )
        assert [name for name in small if name not in ("One image", "Many", "Compare", "About", "Model")] == []
        hidden = []
        tab.evaluate("scrollTo(0, 0)")
        tab.locator("#photo button").first.focus()
        for _ in range(14):
            tab.keyboard.press("Tab")
            hidden += tab.evaluate(
                """() => { const at = document.activeElement; const box = at.getBoundingClientRect();
                const top = document.querySelector('#notice').getBoundingClientRect().top;
                return box.height < 400 && box.bottom > top + 2 ? [at.outerHTML.slice(0, 90)] : []; }"""
            )
        assert hidden == []


@pytest.mark.browser
def test_a_model_alone_on_a_card(browser: Any, page: Any, trusted: Any) -> None:
    """A model that cannot be loaded says so in its place, and the page goes on."""
    with opened(browser, page.url) as tab:
        choose(tab, "#model", "gone")
        tab.wait_for_selector("#facts .panel.message")
        assert tab.inner_text("#facts h2") == "No model"
        choose(tab, "#model", trusted.folder.name)
        tab.wait_for_selector("#facts b")
        assert tab.locator(".toast-body").count() == 0


def test_a_model_that_cannot_be_loaded_is_shown_with_its_error(parts: Any) -> None:
    def add(wanted: str) -> str:
        raise parts.model_loading.ModelUnavailableError(f"There is no {wanted}.")

    handlers = importlib.import_module("tab_one")._Handlers(SimpleNamespace(store=SimpleNamespace(add=add)), [])
    chosen, message = handlers.fetch("a/b")
    assert "value" not in chosen, "the model stays as it is"
    assert "There is no a/b." in message
    assert "Not loaded" in message


def test_the_answer_of_another_record_is_cleared(parts: Any) -> None:
    handlers = importlib.import_module("tab_one")._Handlers(SimpleNamespace(), [])
    *panels, record = handlers.clear_other("a.png", None, None, "unknown", "unknown")
    assert all(isinstance(panel, dict) for panel in panels), "the panels stay"
    *panels, record = handlers.clear_other("a.png", record, 45, "unknown", "unknown")
    assert 'data-state="working"' in panels[0]
    assert panels[1] == ""
    assert record == [45, "unknown", "unknown"]
    *panels, record = handlers.clear_other("a.png", record, 45, "unknown", "unknown")
    assert all(isinstance(panel, dict) for panel in panels)
