"""The page in a real browser: started from the repository's root, as a user starts it; one page for all tests."""

from __future__ import annotations

import base64
import csv
import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets_scripts.taxonomy import long_names
from hub_models import EnsembleForLesionClassification, LesionImageProcessor
from tests.spaces.in_browser import assert_notice_in_view, choose, clear, go_to, opened, upload
from tests.spaces.test_answers_shown import loaded, read_aloud

pytestmark = pytest.mark.browser


def assert_shows(tab: Any, expected: dict[str, Any]) -> None:
    """What can be read on the page is what the model says."""
    names = long_names(expected["probabilities"])
    assert tab.inner_text("#predicted") == names[expected["predicted"]]
    rows = tab.eval_on_selector_all(
        "#answer li.bar", "rows => rows.map(r => [r.dataset.label, +r.dataset.probability, r.innerText])"
    )
    assert {label: p for label, p, _ in rows} == pytest.approx(expected["probabilities"], abs=1e-5)
    assert [p for _, p, _ in rows] == sorted((p for _, p, _ in rows), reverse=True)
    for label, p, text in rows:
        assert names[label] in text
        assert f"{100 * p:.0f} %" in text or "under 1 %" in text or "over 99 %" in text
    entropy, most = expected["predictive_entropy"], math.log(len(names))
    assert float(tab.get_attribute("#entropy", "data-entropy")) == pytest.approx(entropy, abs=1e-5)
    assert f"{100 * entropy / most:.0f} % of the maximum of {most:.2f} nats" in tab.text_content("#entropy")
    assert "malignant and premalignant" in tab.inner_text("#answer .risk")


@pytest.fixture(scope="module")
def answer_to(trusted: Any) -> Callable[..., dict[str, Any]]:
    """What the trusted model says in plain Python."""
    model = EnsembleForLesionClassification.from_pretrained(trusted.folder).eval()
    processor = LesionImageProcessor.from_pretrained(trusted.folder)

    def request(state: str) -> dict[str, Any]:
        return model.predict(**processor(images=trusted.images[state], return_tensors="pt"))[0]

    return request


def test_one_image(browser: Any, page: Any, trusted: Any, answer_to: Callable[..., Any]) -> None:
    """Band first, the promise behind it, the class; heat map with its slider; prevalence withdraws the promise."""
    with opened(browser, page.url) as tab:
        assert_notice_in_view(tab)
        upload(tab, trusted.images["low"], then="[data-state=low]")
        assert_shows(tab, answer_to("low"))
        band, headline = tab.locator("#band").bounding_box(), tab.locator("#predicted").bounding_box()
        assert 0 < band["y"] < headline["y"]
        assert band["y"] + band["height"] < 860, "seen without scrolling"
        assert tab.inner_text("#band h2") == "Answered"
        assert not tab.is_visible("#entropy"), "folded away"
        assert "At most 5 %" not in tab.inner_text("#band")
        tab.click("#band summary")
        assert "At most 5 % of such answers are expected to be wrong, with 90 % confidence" in tab.inner_text("#band")
        assert tab.locator("#set li").count() == len(answer_to("low")["prediction_set"])
        assert tab.get_attribute("#gate", "data-ood") == "false"
        tab.wait_for_function("document.querySelector('#live').textContent.startsWith('Answered. How often')")

        tab.wait_for_selector("#heat")
        tab.locator("[data-opacity]").focus()
        tab.keyboard.press("Home")
        assert tab.eval_on_selector("#heat .layer", "layer => layer.style.opacity") == "0"
        assert tab.inner_text("#heat output") == "0 %"
        assert tab.locator("#preprocessing img").count() == 2

        with tab.expect_download() as download:
            tab.click("#save")
        saved = Path(download.value.path()).read_text(encoding="utf-8")
        assert download.value.suggested_filename == "lesion_answer.html"
        assert long_names(answer_to("low")["probabilities"])[answer_to("low")["predicted"]] in saved

        before = assumed(tab)
        tab.click("#shift input")
        tab.wait_for_selector("#share input[type=range]")
        tab.wait_for_timeout(700)
        assert tab.locator("#answer [data-state=low]").count() == 1, "ticked alone, it assumes no other prevalence"
        assert assumed(tab) == before
        tab.locator("#share input[type=range]").focus()
        tab.keyboard.press("End")
        tab.wait_for_selector("#answer [data-state=none]")
        assert "withdrawn" in tab.inner_text("#band")
        assert "the assumed rate of 99.9 in 100" in tab.inner_text("#answer .headline")
        assert tab.locator("#predicted, #answer .chip").count() == 0
        assert tab.locator("#set").count() == 0
        tab.wait_for_function(f"{RISK} > {before + 0.01}")
        tab.fill("#share input[type=number]", "0.5")
        tab.press("#share input[type=number]", "Enter")
        tab.wait_for_function(f"{RISK} < {before}")
        tab.fill("#share input[type=number]", "500")
        tab.wait_for_timeout(500)
        assert tab.locator(".toast-body").count() == 0, "a value that is no number is not sent"
        tab.click("#shift input")
        tab.wait_for_selector("#answer [data-state=low]")
        assert_shows(tab, answer_to("low"))
        tab.mouse.wheel(0, 5000)
        assert_notice_in_view(tab)
        tab.click("#meaning summary")
        assert "not for one image" in tab.inner_text("#meaning")


AT_RISK = ("akiec", "bcc", "mel")
RISK = (
    f"[...document.querySelectorAll('#answer li.bar')].filter(r => {list(AT_RISK)}.includes(r.dataset.label))"
    ".reduce((sum, r) => sum + Number(r.dataset.probability), 0)"
)


def assumed(tab: Any) -> float:
    """The probability of all that is at risk, as the page shows it."""
    return float(tab.evaluate(RISK))


def test_declining_shows_no_class(browser: Any, page: Any, trusted: Any) -> None:
    names = list(long_names(("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")).values())
    with opened(browser, page.url) as tab:
        for state, why in (("ood", "unlike the images"), ("high", "too unsure of this lesion")):
            upload(tab, trusted.images["low"], then="[data-state=low]")
            tab.wait_for_selector("#heat")
            clear(tab)
            upload(tab, trusted.images[state], then="[data-state=declined]")
            assert tab.inner_text("#declined") == "Not answered"
            assert why in tab.inner_text("#band")
            tab.wait_for_selector("#preprocessing")
            seen = tab.inner_text("#answer") + tab.inner_text("#behind") + tab.inner_text("#live")
            assert not any(name in seen for name in names)
            assert tab.locator("#answer .bar, #heat, .layer, #predicted, #set").count() == 0
            # The slider does not talk it round.
            tab.click("#shift input")
            tab.wait_for_timeout(700)
            assert tab.locator("#answer [data-state=declined]").count() == 1
            tab.click("#shift input")
            clear(tab)  # in the same instant: the late answer is nobody's
            tab.wait_for_timeout(700)
            assert tab.locator("#answer [data-state=empty]").count() == 1


def test_errors_are_shown_on_the_page(browser: Any, page: Any, trusted: Any, tmp_path: Path) -> None:
    """Damaged, renamed and huge files; a model that is gone, and back; an age that there is not."""
    broken, html = tmp_path / "broken.png", tmp_path / "page.png"
    broken.write_bytes(trusted.images["low"].read_bytes()[:9000])
    html.write_text("<!doctype html><script>document.title = 'owned'</script>")
    earlier = len(page.log.read_text(errors="replace"))
    with opened(browser, page.url) as tab:
        for path, why in ((broken, "may be damaged"), (html, "it is a web page")):
            upload(tab, path, then=".panel.message")
            assert why in tab.inner_text("#answer")
            tab.wait_for_function("document.querySelector('#live').textContent.startsWith('No answer.')")
            clear(tab)
        upload(tab, trusted.images["low"], then="[data-state=low]")
        choose(tab, "#model", "gone")
        tab.wait_for_selector("#answer .panel.message")
        assert "its folder is not there" in tab.inner_text("#answer")
        assert "/nowhere" not in tab.inner_text("body")
        choose(tab, "#model", "tiny-fusion")
        tab.wait_for_selector("#answer [data-state=none]")
        assert "never measured how often this model is wrong" in tab.inner_text("#band")
        tab.fill("#age input", "900")
        tab.press("#age input", "Enter")
        tab.wait_for_selector("#answer .panel.message")
        assert "age is 900" in tab.inner_text("#answer")
        choose(tab, "#model", trusted.folder.name)
        tab.wait_for_selector("#answer [data-state=low]")
        assert not tab.is_visible("#age")
    log = page.log.read_text(errors="replace")
    assert "Traceback" not in log
    assert "A request failed" not in log[earlier:]
    assert not any(path.name in log for path in (broken, html, *trusted.images.values())), "names are not logged"


def test_many_images(browser: Any, page: Any, trusted: Any, tmp_path: Path) -> None:
    """An archive and loose files, one of them broken: a table that sorts, and the same as CSV."""
    archive, broken = tmp_path / "some.zip", tmp_path / "broken.jpg"
    with zipfile.ZipFile(archive, "w") as zipped:
        for state in ("low", "high", "ood"):
            zipped.write(trusted.images[state], f"folder/{state}.png")
    broken.write_bytes(b"no image")
    with opened(browser, page.url) as tab:
        tab.get_by_role("tab", name="Many").click()
        files = [str(path) for path in (archive, broken, trusted.images["moderate"])]
        tab.set_input_files("#files input[type=file]", files)
        tab.wait_for_selector("#many [data-done=true]")
        assert "1 answered, 1 uncertain, 2 not answered, 1 not readable" in tab.inner_text("#many .summary")

        def column(number: int) -> list[str]:
            return tab.eval_on_selector_all(
                "#many tbody tr", f"rows => rows.map(r => [...r.cells].at({number}).innerText.trim())"
            )

        names = ["folder/high.png", "folder/low.png", "folder/ood.png", "broken.jpg", "moderate.png"]
        assert column(-1) == names
        tab.locator("#many th button", has_text="Rating").press("Enter")
        assert column(2)[:2] == ["answered", "uncertain"]
        assert [text.split(" ")[0] for text in column(1)[2:]] == ["Not"] * 3
        tab.locator("#many th button", has_text="File").press("Enter")
        tab.locator("#many th button", has_text="File").press("Enter")
        assert column(-1) == sorted(names, reverse=True)
        assert tab.locator("#many th[aria-sort=descending]").inner_text().startswith("File")
        assert tab.locator("#many tbody img").count() == 4
        with tab.expect_download() as download:
            tab.click("#csv")
        rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
        assert [row["image"] for row in rows] == names
        assert [row["predicted"] != "" for row in rows] == [False, True, False, False, True]
        assert tab.get_attribute("#csv", "href") == "data:text/csv;base64," + base64.b64encode(
            Path(download.value.path()).read_bytes()
        ).decode("ascii")


def test_models_side_by_side_and_about(browser: Any, page: Any, trusted: Any) -> None:
    """The image of the first tab is taken over; a model that is gone says so among the others."""
    with opened(browser, page.url) as tab:
        upload(tab, trusted.images["low"], then="[data-state=low]")
        tab.get_by_role("tab", name="Compare").click()
        tab.wait_for_selector(".cards")
        states = tab.eval_on_selector_all(".cards .card", "cards => cards.map(c => c.dataset.state)")
        assert states == ["low", "none", "none", "error"]
        assert "1 gave no answer" in tab.inner_text("#agreement")
        assert "At most 5 %" in tab.text_content(".cards")
        tab.get_by_role("tab", name="About").click()
        tab.wait_for_selector("#manifest[data-verdict=matches]")
        assert not tab.is_visible("#card h1"), "folded away"
        tab.locator("#figures button").click()
        tab.wait_for_selector("dialog img")
        tab.keyboard.press("Escape")
        tab.wait_for_selector("dialog", state="detached")
        tab.click("#card-frame button")
        tab.wait_for_selector("#card h1")
        assert "A card of its own" in tab.inner_text("#card")
        assert tab.eval_on_selector("#card img", "image => image.complete && image.naturalWidth") == 200
        assert tab.locator("#figures img").count() == 1
        choose(tab, "#about-model", "tiny-derm-x")
        tab.wait_for_selector("#manifest[data-verdict=unknown]")


def test_phone_dark_keyboard(browser: Any, page: Any) -> None:
    """390 pixels wide, dark: nothing sticks out on any tab, the answer comes into view, all controls have names."""
    with opened(browser, page.url, width=390, height=844, color_scheme="dark") as tab:
        tab.locator("[data-example='0']").focus()
        tab.keyboard.press("Enter")
        tab.wait_for_selector("#answer .panel.answer")
        tab.wait_for_selector("#preprocessing")
        tab.wait_for_function("document.querySelector('#band').getBoundingClientRect().top < 500")
        for name in ("One image", "Many", "Compare", "Similar", "About"):
            go_to(tab, name)
            tab.wait_for_timeout(250)
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, name
            assert_notice_in_view(tab)
            nameless = tab.evaluate(
                """() => [...document.querySelectorAll('button, input, select, textarea, a[href]')]
                .filter(e => e.offsetParent && e.type !== 'file')
                .filter(e => !(e.innerText.trim() || e.getAttribute('aria-label') || e.getAttribute('title')
                    || e.labels?.length || e.getAttribute('aria-labelledby')))
                .map(e => e.outerHTML.slice(0, 120))"""
            )
            assert nameless == [], name
        assert tab.evaluate("document.documentElement.lang") == "en"
        background = tab.evaluate("getComputedStyle(document.querySelector('.panel')).backgroundColor")
        assert background != "rgb(255, 255, 255)"


@pytest.mark.real
def test_released_model_declines_clothing(parts: Any, repo_root: Path, data_dir: Path) -> None:
    """The released model: drawn cloth and a photo of clothing are declined; a drawn lesion is answered."""
    released = loaded(parts, repo_root / "hub_models" / "released" / "derm-x-mobilenetv2-ham7")
    examples = parts.example_images.read_examples(parts.example_images.OWN)
    clothing = sorted((data_dir / "ood" / "clothing").glob("*.jpg"))[1]
    for path, state in ((clothing, "declined"), (examples[5].path, "declined"), (examples[0].path, "low")):
        answer = parts.answering.classify(parts.image_files.read_image(path), released)
        panel = parts.html_answer.answer_panel(answer, released)
        assert f'data-state="{state}"' in panel
        assert ("unlike the images" in panel) == answer["is_ood"] == (state == "declined")
    assert "About 3 in 100 such answers were wrong in testing" in read_aloud(panel)
