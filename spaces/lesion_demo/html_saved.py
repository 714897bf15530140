"""One answer as a file of its own: a page without scripts or links, to keep or to print. Nothing of it stays here."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from classifier import Classifier
from page_images import data_uri, shown
from PIL import Image
from words import NOT_A_DEVICE

FILE = "lesion_answer.html"
SIDE = 480  # longest side of the image in it, pixels
# The colours of style.css, for white paper.
_STYLE = """
:root { --ink: #191c1e; --soft: #55534e; --line: #e0ddd5; --paper: #fff; --track: #ebe8e1; --accent: #375475;
  --rest: #a9b8c9; --premalignant: #855600; --malignant: #9c2f24; --low: #28517f; --low-paper: #e9f0f8;
  --moderate: #8a5a00; --moderate-paper: #fbf3e2; --high: #3a4450; --high-paper: #eceef1; --on-sign: #fff; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 44em; margin: 24px auto; padding: 0 16px; }
p, h2, h3 { margin: 0; } h4 { margin: 18px 0 6px; }
h1 { font-size: 20px; } img { max-width: 100%; border-radius: 6px; margin: 12px 0; }
.notice { border: 2px solid #c08a2d; padding: 8px 12px; border-radius: 6px; } .small, .limits { color: var(--soft); }
.eyebrow { font-size: 12.5px; letter-spacing: 0.08em; text-transform: uppercase; color: var(--soft); }
* { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
"""


def document(image: Image.Image, panel: str, classifier: Classifier, now: datetime | None = None) -> str:
    """The page: when, which model at which commit, the image, and the answer as the page shows it, all folds open.

    Args:
        image: that was asked about; only its pixels go in.
        panel: of ``html_answer.answer_panel``, in which everything from outside is escaped.
        classifier: that answered.
        now: the time to state; None = this moment.
    """
    moment = now or datetime.now(UTC)
    style = _STYLE + (Path(__file__).parent / "style_answer.css").read_text(encoding="utf-8")
    model = classifier.report.get("model")
    version = model.get("version") if isinstance(model, dict) else None
    facts = [classifier.kind, f"version {version}" if version else "", classifier.commit or ""]
    title = f"Answer of {classifier.title}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{style}</style></head><body><p class="notice"><b>{NOT_A_DEVICE[0]}</b> {" ".join(NOT_A_DEVICE[1:])}'
        f'</p><h1>{escape(title)}</h1><p class="small">{moment.day} {moment:%B %Y, %H:%M} UTC. '
        f'{escape("; ".join(filter(None, facts)))}.</p><img src="{data_uri(shown(image, SIDE))}" alt="The image">'
        f"{panel.replace('<details', '<details open')}</body></html>"
    )


def save_link(image: Image.Image, panel: str, classifier: Classifier) -> str:
    """A link that saves the answer as a file; the file is inside the link, so that the server keeps none."""
    data = base64.b64encode(document(image, panel, classifier).encode("utf-8")).decode("ascii")
    return (
        f'<p class="save"><a class="download" id="save" download="{FILE}" href="data:text/html;base64,{data}">'
        'Save this answer</a> <span class="small">as a file to keep or print, with the image in it</span></p>'
    )
