"""A visitor's browser contacts no other server and runs no script of a model's card, whatever the card contains."""

from __future__ import annotations

import importlib
from typing import Any

import httpx
import pytest

from tests.spaces.in_browser import choose, opened
from tests.spaces.other_server import ways

pytestmark = pytest.mark.browser

# What scripts can do; the policy holds for them too.
CALLS = """async (W) => {
  const quietly = async (work) => { try { await work() } catch { } };
  await quietly(() => fetch(W + '/fetch', { mode: 'no-cors' }));
  await quietly(() => navigator.sendBeacon(W + '/beacon', 'x'));
  await quietly(() => new EventSource(W + '/events'));
  await quietly(() => new WebSocket(W.replace('http', 'ws') + '/socket'));
  await quietly(() => import(W + '/import-script'));
  await quietly(() => new Worker(W + '/worker'));
  await quietly(() => new FontFace('z', `url(${W}/face)`).load());
  await quietly(() => new Image().src = W + '/image');
  await quietly(() => { const form = document.createElement('form'); form.action = W + '/form'; form.method = 'post';
    document.body.append(form); form.submit(); });
}"""


def test_a_card_names_nothing_to_load(browser: Any, page: Any, other_server: Any) -> None:
    """The card of the fusion on the page is one of these ways after the other."""
    other_server.requests.clear()
    with opened(browser, page.url) as tab:  # leaving checks the requests made
        tab.get_by_role("tab", name="About").click()
        choose(tab, "#about-model", "tiny-fusion")
        tab.wait_for_selector("#manifest[data-verdict=unknown]")
        tab.click("#card-frame button")
        tab.wait_for_selector("#card h2")
        tab.wait_for_timeout(500)
        assert tab.locator("#card :is(script, iframe, style, svg, video, form, [onerror], [ping])").count() == 0
        assert tab.evaluate("window.ran") is None
        assert tab.inner_text("#card h2") == "Its end"
    assert other_server.requests == []


def test_the_policy_alone_lets_nothing_out(browser: Any, page: Any, other_server: Any) -> None:
    """The same put straight into the page, as if no code of ours prediction at it, and what scripts can do."""
    other_server.requests.clear()
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(page.url)
    tab.wait_for_selector("#facts b")
    put = "(ways) => ways.forEach((html) => document.body.insertAdjacentHTML('beforeend', html))"
    tab.evaluate(put, ways(other_server.url))
    tab.wait_for_timeout(800)
    assert tab.evaluate("window.ran") is None
    tab.evaluate(CALLS, other_server.url)
    tab.wait_for_timeout(800)
    context.close()
    assert other_server.requests == []


def test_every_answer_carries_the_policy(page: Any, parts: Any) -> None:
    content_policy = importlib.import_module("content_policy")
    with httpx.Client(base_url=page.url) as client:
        whole = client.get("/")
        answers = [
            whole,
            client.get("/config"),
            client.get("/nothing"),
            client.post("/login", content=b"x" * 2_000_000),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 413]
    for answer in answers:
        rules = dict(rule.split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split("; "))
        assert rules["connect-src"] == "'self' data: blob:"
        assert rules["frame-ancestors"] == "'self' https://huggingface.co https://*.hf.space"
        assert "unsafe-inline" not in rules["script-src"]
        assert not any("http:" in rule or "*" in rule.split() for rule in rules.values())
    scripts = content_policy.inline_scripts(whole.text)
    assert any("gradio_config" in script for script in scripts)
    assert "".join(content_policy.inline_scripts("<script>a<b</script><script src=x></script><p>c")) == "a<b"


def test_only_the_hub_may_frame_the_page(browser: Any, page: Any, other_server: Any) -> None:
    """As huggingface.co frames a Space of *.hf.space; these two hosts exist in this browser alone."""
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(f"{other_server.url}/frame={page.url}")
    tab.wait_for_timeout(800)
    assert not any(frame.query_selector("#masthead, gradio-app") for frame in tab.frames)
    host = "org-lesions.hf.space"
    forwarded = {"x-forwarded-host": host, "x-forwarded-proto": "https"}

    def serve(route: Any) -> None:
        url = route.request.url.replace(f"https://{host}", page.url)
        route.fulfill(response=route.fetch(url=url, headers={**route.request.headers, **forwarded}))

    body = f"<iframe src='https://{host}/' style='width: 1200px; height: 900px'></iframe>"
    context.route(f"https://{host}/**", serve)
    context.route("https://huggingface.co/**", lambda route: route.fulfill(body=body, content_type="text/html"))
    tab.goto("https://huggingface.co/spaces/org/lesions")
    tab.frame_locator("iframe").locator("#facts b").wait_for()
    context.unroute_all(behavior="ignoreErrors")  # the page still asks for some
    context.close()
