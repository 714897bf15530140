"""A visitor's browser contacts no other server and runs no script of a model's card, whatever the card contains."""

from __future__ import annotations

import http.server
import importlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from tests.spaces.in_browser import opened

pytestmark = pytest.mark.browser

# {W} is another server, {H} its host and port; each paragraph is one way to name something of it.
WAYS = r"""
![a]({W}/inline)
![a]({W}/title "t")
![a][r]¶¶[r]: {W}/reference
![q]¶¶[q]: {W}/shortcut
![a](<{W}/angle>)
![a]({W}/single 'x y')
![a]({W}/parenthesis (t))
![a [b] c]({W}/bracket)
![a](¶{W}/newline¶)
![a](//{H}/schemeless)
![a](\\{H}/backslashes)
![a](/\{H}/slash)
![a](/gradio_api/file={W}/redirect)
[![a]({W}/inside)](x)
<img src='{W}/img'>
<img¶src='{W}/newline-img'>
<img src='{W}/unclosed'
<img srcset='{W}/srcset 1x'>
<image><source srcset='{W}/source'><img></image>
<video poster='{W}/poster' src='{W}/video' autoplay></video>
<video autoplay><source src='{W}/video-source'><track default src='{W}/track'></video>
<audio src='{W}/audio' autoplay></audio>
<iframe src='{W}/iframe'></iframe>
<iframe srcdoc="<img src='{W}/srcdoc'>"></iframe>
<div style="background:url({W}/css)">x</div>
<div style="list-style:url({W}/list);display:list-item;cursor:url({W}/cursor),auto;border-image:url({W}/border)">x</div>
<div style="mask:url({W}/mask#m); filter:url({W}/filter#f); clip-path:url({W}/clip#c)">x</div>
<div style="content:url({W}/content)">x</div>
<style>body {{ background: url({W}/style) }}</style>
<style>@import url({W}/import);</style>
<style>@font-face {{ font-family: z; src: url({W}/font) }} * {{ font-family: z }}</style>
<svg><image href='{W}/svg'/></svg>
<svg><use href='{W}/use#a'/></svg>
<svg><filter id=f><feImage href='{W}/fe'/></filter><rect width=9 height=9 filter='url(#f)'/></svg>
<svg><rect width=9 height=9 fill='url({W}/fill#a)'/></svg>
<link rel=stylesheet href='{W}/link'>
<link rel=prefetch href='{W}/prefetch'>
<link rel=preload as=image href='{W}/preload'>
<link rel=icon href='{W}/icon'>
<link rel=manifest href='{W}/manifest'>
<link rel=modulepreload href='{W}/module'>
<input type=image src='{W}/input'>
<object data='{W}/object'></object>
<embed src='{W}/embed'>
<body background='{W}/body'>
<table background='{W}/table'><tr><td background='{W}/td'>x</table>
<script src='{W}/script'></script>
<script>window.ran = 1; fetch('{W}/inline-script')</script>
<img src=x onerror="window.ran = 1; fetch('{W}/onerror')">
<svg onload="window.ran = 1; fetch('{W}/onload')"></svg>
<a ping='{W}/ping' href='#'>x</a>
<math><mglyph src='{W}/glyph'/></math>
$$\includegraphics{{{W}/katex}}$$
[x](javascript:window.ran=1)
""".strip().splitlines()
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


@pytest.fixture(scope="module")
def other_server() -> Iterator[SimpleNamespace]:
    """Another server, which records its requests."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            if self.path.startswith("/frame="):
                self.wfile.write(f"<iframe src='{self.path.removeprefix('/frame=')}'></iframe>".encode())

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", requests=requests)
    server.shutdown()


def ways(other_server: Any) -> list[str]:
    host = other_server.url.removeprefix("http://")
    return [way.format(W=other_server.url, H=host).replace("¶", "\n") for way in WAYS]


def test_a_card_names_nothing_to_load(
    browser: Any, start_page: Any, model_folder: Path, other_server: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "tracker"
    shutil.copytree(model_folder, folder)
    (folder / "README.md").write_text(
        "# Card\n\n" + "\n\n".join(ways(other_server)) + "\n\n## Its end\n", encoding="utf-8"
    )
    other_server.requests.clear()
    with start_page(str(folder)) as running, opened(browser, running.url) as tab:  # leaving checks the requests made
        tab.get_by_role("tab", name="About").click()
        tab.wait_for_selector("#manifest")
        tab.click("#card-frame button")
        tab.wait_for_selector("#card h2")
        tab.wait_for_timeout(1000)
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
    put = "(html) => document.body.insertAdjacentHTML('beforeend', html)"
    for way in ways(other_server):
        tab.evaluate(put, way)
    tab.wait_for_timeout(1500)
    assert tab.evaluate("window.ran") is None
    tab.evaluate(CALLS, other_server.url)
    tab.wait_for_timeout(1500)
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
    tab.wait_for_timeout(1000)
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
    context.close()
