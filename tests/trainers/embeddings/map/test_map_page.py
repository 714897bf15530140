"""The page: one file, nothing from the network, everything by mouse and by keyboard."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainers.embeddings.cases import Cases, load_cases
from trainers.embeddings.class_colours import class_looks
from trainers.embeddings.map_figures import Panel
from trainers.embeddings.map_page import PageSplit, in_unit_square, render_page
from trainers.embeddings.thumbnails import jpeg_thumbnail
from trainers.model_folder.data import load_splits

CHROMIUM = Path("/usr/bin/chromium")
SIDE = 24


@pytest.fixture(scope="module")
def cases(phantom_dataset: Path) -> Cases:
    return load_cases(load_splits(str(phantom_dataset), "grouped"), "validation")


def page_of(cases: Cases, numbers: dict[str, Any], thumbnails: bool = True) -> str:
    rng = np.random.default_rng(0)
    panels = [Panel(kind, rng.normal(size=(len(cases), 2)), numbers) for kind in ("pixels", "features")]
    small = [jpeg_thumbnail(image, SIDE) for image in cases.images("look")] if thumbnails else []
    looks = class_looks(cases.labels, np.bincount(cases.label, minlength=8), {"mel": "Melanoma"}, {"mel": "malignant"})
    return render_page({"validation": PageSplit(cases, panels, small)}, looks, "A <map>", "Not a medical device & more")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_holds_the_data_and_nothing_of_the_network(cases: Cases, space_numbers: dict[str, Any]) -> None:
    page = page_of(cases, space_numbers)
    assert "<h1>A &lt;map&gt;</h1>" in page
    assert "Not a medical device &amp; more" in page
    assert "{{" not in page
    code = re.sub(r'(<script id="data".*?>).*?</script>', r"\1</script>", page, flags=re.DOTALL)
    addresses = set(re.findall(r"(?:https?:)?//[\w.]+", code))
    assert addresses <= {"http://www.w3.org"}  # the name of SVG, which nothing is loaded from
    assert "default-src 'none'" in page
    split = data_of(page)["splits"]["validation"]
    assert split["id"] == cases.image_id.tolist()
    assert split["label"] == cases.label.tolist()
    assert len(split["maps"]["pixels"]["points"]) == 2 * len(cases)
    for first, second in split["lines"]:
        assert cases.group_id[first] == cases.group_id[second]
    with Image.open(io.BytesIO(base64.b64decode(split["thumb"][0]))) as small:
        assert small.format == "JPEG"
        assert max(small.size) == SIDE


def test_a_page_of_points_shows_nobody(cases: Cases, space_numbers: dict[str, Any]) -> None:
    page = page_of(cases, space_numbers, thumbnails=False)
    assert data_of(page)["splits"]["validation"]["thumb"] == []
    assert len(page) < 30_000


def test_an_image_id_cannot_end_the_script(cases: Cases, space_numbers: dict[str, Any]) -> None:
    name = "</script><script>alert(1)</script>"
    ood = replace(cases, image_id=np.array([name, *cases.image_id[1:]], dtype=object))
    page = page_of(ood, space_numbers, thumbnails=False)
    assert "alert(1)</script>" not in page
    assert data_of(page)["splits"]["validation"]["id"][0] == name


def test_points_fill_the_unit_square_in_proportion() -> None:
    found = in_unit_square(np.array([[0.0, 10.0], [4.0, 10.0], [2.0, 12.0]]))
    np.testing.assert_allclose(found, [[0, 0.25], [1, 0.25], [0.5, 0.75]])
    np.testing.assert_allclose(in_unit_square(np.ones((2, 2))), 0.5)


def test_thumbnails_are_never_enlarged_and_carry_no_metadata() -> None:
    image = Image.new("RGB", (10, 6), "red")
    image.info["exif"] = b"Exif secret"
    with Image.open(io.BytesIO(jpeg_thumbnail(image, 64))) as small:
        assert small.size == (10, 6)
        assert "exif" not in small.info


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():
        why = f"no Chromium at {CHROMIUM}; install the package chromium"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.mark.browser
def test_by_mouse_and_by_keyboard(browser: Any, cases: Cases, space_numbers: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "map.html"
    file.write_text(page_of(cases, space_numbers), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1100, "height": 760})
    tab.set_default_timeout(120_000)
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("console", lambda message: problems.append(message.text))
    tab.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
    )
    tab.goto(file.as_uri())
    assert tab.locator("#card").inner_text() == "No image is chosen."
    tab.locator("#canvas").focus()
    tab.keyboard.press("ArrowRight")
    first = tab.locator("#card strong").inner_text()
    assert first in cases.image_id.tolist()
    visited = {first}
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"):
        tab.keyboard.press(key)
        visited.add(tab.locator("#card strong").inner_text())
    assert len(visited) > 1
    label = cases.labels[cases.label[cases.image_id.tolist().index(tab.locator("#card strong").inner_text())]]
    tab.locator(f"#classes input[value={label}]").uncheck()
    assert tab.locator("#card").inner_text() == "No image is chosen."  # its class is hidden
    tab.locator("#all").click()
    tab.locator("#kinds input[value=pixels]").check()
    box = tab.locator("#canvas").bounding_box()
    at = data_of(file.read_text(encoding="utf-8"))["splits"]["validation"]["maps"]["pixels"]["points"][:2]
    side = min(box["width"], box["height"]) - 40
    x = box["x"] + box["width"] / 2 + (at[0] - 0.5) * side
    tab.mouse.move(x, box["y"] + box["height"] / 2 + (0.5 - at[1]) * side)
    tab.locator("#tip img").wait_for()
    assert tab.locator("#tip strong").inner_text() == cases.image_id[0]
    tab.locator("#none").click()
    tab.locator("#canvas").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#card").inner_text() == "No image is chosen."
    assert problems == []
    tab.close()
