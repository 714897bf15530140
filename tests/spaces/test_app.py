"""The page in a real browser, and asked by a program: started from the repository's root, as a user starts it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from datasets_scripts.taxonomy import long_names

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        why = f"no Chromium at {CHROMIUM}; install the package chromium"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A tab on the page; leaving it checks that no script failed and that nothing was asked of another server."""
    context = browser.new_context(viewport={"width": 1200, "height": 860}, **options)
    tab = context.new_page()
    faults: list[str] = []
    outside: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    tab.on(
        "request",
        lambda asked: None if asked.url.startswith((url, "data:", "blob:", "ws:")) else outside.append(asked.url),
    )
    tab.goto(url)
    tab.wait_for_selector("#photo input[type=file]", state="attached", timeout=WAIT_MS)
    yield tab
    context.close()
    assert faults == []
    assert outside == []


def upload(tab: Any, path: Path, then: str) -> None:
    tab.set_input_files("#photo input[type=file]", str(path))
    tab.wait_for_selector(then, timeout=WAIT_MS)


def clear(tab: Any) -> None:
    tab.click("#photo button[aria-label='Remove Image']")
    tab.wait_for_selector(".panel.empty", timeout=WAIT_MS)


def assert_notice_in_view(tab: Any) -> None:
    notice = tab.locator("#notice")
    assert "Not a medical device" in notice.inner_text()
    box, size = notice.bounding_box(), tab.viewport_size
    assert box["y"] >= 0
    assert box["y"] + box["height"] <= size["height"] + 1


def assert_shows(tab: Any, expected: dict[str, Any]) -> None:
    names = long_names(expected["probabilities"])
    assert tab.inner_text("#predicted") == names[expected["predicted"]]
    rows = tab.eval_on_selector_all(
        "li.bar", "rows => rows.map(r => [r.dataset.label, +r.dataset.probability, r.innerText])"
    )
    assert {label: p for label, p, _ in rows} == pytest.approx(expected["probabilities"], abs=1e-5)
    assert [p for _, p, _ in rows] == sorted((p for _, p, _ in rows), reverse=True)
    for label, p, text in rows:
        assert names[label] in text
        assert f"{100 * p:.1f} %" in text or "< 0.1 %" in text or "> 99.9 %" in text
    entropy = expected["predictive_entropy"]
    assert float(tab.get_attribute("#entropy", "data-entropy")) == pytest.approx(entropy, abs=1e-5)
    most = math.log(len(names))
    said = f"{entropy:.2f} nats, {100 * entropy / most:.0f} % of the maximum of {most:.2f}"
    assert said in tab.inner_text("#entropy")
    assert "malignant and premalignant" in tab.inner_text(".risk")


@pytest.mark.browser
def test_page_in_a_browser(
    browser: Any,
    start_page: Callable[..., Any],
    model_folder: Path,
    photo: Path,
    expected: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Upload, answer, clear, damaged files, another model that is missing, and back; light, dark, phone."""
    missing = tmp_path / "gone"
    broken, text = tmp_path / "broken.png", tmp_path / "text.png"
    broken.write_bytes(photo.read_bytes()[:9000])
    text.write_text("this is no image")
    with start_page(f"{model_folder},{missing}") as page:
        with opened(browser, page.url) as tab:
            assert_notice_in_view(tab)
            upload(tab, photo, then=".panel.answer")
            assert_shows(tab, expected)
            tab.screenshot(path=str(tmp_path / "answer.png"))
            tab.mouse.wheel(0, 5000)
            assert_notice_in_view(tab)
            clear(tab)
            for damaged in (broken, text):
                upload(tab, damaged, then=".panel.message")
                assert "cannot be read as an image" in tab.inner_text(".panel.message")
                clear(tab)

            upload(tab, photo, then=".panel.answer")
            tab.click("#model input")
            tab.get_by_role("option", name="gone").click()
            tab.wait_for_selector(".panel.message", timeout=WAIT_MS)
            assert f"there is no folder {missing}" in tab.inner_text(".panel.message")
            tab.click("#model input")
            tab.get_by_role("option", name=model_folder.name).click()
            tab.wait_for_selector(".panel.answer", timeout=WAIT_MS)
            assert_shows(tab, expected)
        with opened(browser, page.url, color_scheme="dark") as tab:
            tab.set_viewport_size({"width": 390, "height": 844})
            upload(tab, photo, then=".panel.answer")
            assert_notice_in_view(tab)
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, "nothing sticks out on a phone"
            tab.screenshot(path=str(tmp_path / "phone.png"), full_page=True)
        log = page.log.read_text(errors="replace")
    assert "Traceback" not in log
    assert photo.name not in log, "images are not logged, nor are their names"


def test_page_on_the_hub_asked_by_a_program(
    start_page: Callable[..., Any],
    model_folder: Path,
    photo: Path,
    expected: dict[str, Any],
    repo_root: Path,
    tmp_path: Path,
) -> None:
    """With the Hub's environment, and our own folder `spaces/` on the import path, where Gradio looks for a library."""
    rotated = tmp_path / "rotated.jpg"
    with Image.open(photo) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by a quarter clockwise
        turned.save(rotated, quality=100, subsampling=0, exif=exif)
    with start_page(
        str(model_folder), SYSTEM="spaces", SPACE_ID="someone/lesion-demo", PYTHONPATH=str(repo_root)
    ) as page:
        client = Client(page.url, verbose=False, download_files=str(tmp_path))
        answer = client.predict(handle_file(photo), None, api_name="/predict")
        assert set(answer) == {*expected, "model"}
        assert answer["aleatoric"] is answer["epistemic"] is None  # one member has nothing to disagree with
        assert answer["reason"] == "trust_not_asked"  # this model was never fitted
        assert answer["predicted"] == expected["predicted"]
        assert answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
        assert answer["p_malignant"] == pytest.approx(expected["p_malignant"], abs=1e-5)
        assert answer["predictive_entropy"] == pytest.approx(expected["predictive_entropy"], abs=1e-5)
        assert answer["model"] == model_folder.name
        upright = client.predict(handle_file(rotated), model_folder.name, api_name="/predict")
        assert upright["probabilities"] == pytest.approx(expected["probabilities"], abs=0.05)
        with pytest.raises(AppError, match="other is not in the list of choices"):
            client.predict(handle_file(photo), "other", api_name="/predict")


def test_page_without_a_model_stays_up(start_page: Callable[..., Any], photo: Path, tmp_path: Path) -> None:
    with start_page("") as page:
        client = Client(page.url, verbose=False, download_files=str(tmp_path))
        answer = client.predict(handle_file(photo), None, api_name="/predict")
    assert set(answer) == {"error"}
    assert "No model is set" in answer["error"]
    assert "LESION_MODELS=" in answer["error"]
