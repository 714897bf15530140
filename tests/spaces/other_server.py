"""Another server than the page's, and all ways to name something of it in a text that a browser shows."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

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


@contextmanager
def recording() -> Iterator[SimpleNamespace]:
    """A server in a thread: its ``url``, and the paths of its ``requests``; ``/frame=URL`` frames that page."""
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


def ways(url: str) -> list[str]:
    """Each way to name something of the server at ``url``."""
    host = url.removeprefix("http://")
    return [way.format(W=url, H=host).replace("¶", "\n") for way in WAYS]
