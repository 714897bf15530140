"""What stands below an answer, as HTML: the heat map, the model's input, and the answer as a file to save.

The file is a page without scripts or links, to keep or to print; the server keeps no copy.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import numpy as np
from answering import Prediction
from classifier import Classifier
from measured import heat_is_worse_than_centre
from page_images import as_seen, data_uri, heat_layer, heat_map, named_class, prepared, seen_size, shown
from PIL import Image
from words import HEAT_IS_WORSE, NOT_A_DEVICE

FILE = "lesion_answer.html"
RESIZED = {
    "squash": "resized to",
    "crop": "cut to its centre and resized to",
    "pad": "framed and resized to",
}
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
SWITCHES = (
    ("do_hair_removal", "hairs removed"),
    ("do_lesion_crop", "cropped to the lesion"),
    ("do_colour_constancy", "colour cast removed"),
)


def waiting(image: Image.Image, prediction: Prediction, classifier: Classifier) -> str:
    """Empty frames of the very size of what comes, with the same words around them, so that nothing jumps."""
    heat = ""
    if not prediction.answer.get("abstain"):
        heat = _no_heat(classifier)
        if classifier.can_explain and classifier.reads_images:
            heat = _heat_frame(seen_size(image, classifier), "", _caption(prediction, classifier), waiting=True)
    side = classifier.image_size
    given = _pair(image, "", "", (side, side), classifier) if side and classifier.reads_images else ""
    return f'<section class="panel views waiting" aria-busy="true">{heat}{given}</section>' if heat or given else ""


def views(image: Image.Image, prediction: Prediction, classifier: Classifier) -> str:
    """Heat map and preprocessing of an answer; of one that declines the preprocessing alone."""
    declined = bool(prediction.answer.get("abstain"))
    heat = "" if declined else _heat(image, prediction, classifier)
    return f'<section class="panel views">{heat}{_preprocessing(image, prediction, classifier)}</section>'


def _heat(image: Image.Image, prediction: Prediction, classifier: Classifier) -> str:
    field = heat_map(prediction, classifier)
    if field is None:
        return _no_heat(classifier)
    base = shown(prepared(image, classifier))
    name = escape(classifier.long_names[named_class(prediction)])
    nothing = " <b>Nothing in the image counted for it: the map is empty.</b>" if float(np.max(field)) == 0.0 else ""
    # The browser stretches the map over the image: its own size is a tenth of the pixels to colour and to send.
    layers = (
        f'<img src="{data_uri(base)}" alt="The image">'
        f'<img class="layer" src="{data_uri(heat_layer(field, field.shape[::-1]), "PNG")}" alt="Heat map for '
        f'{name}" style="opacity:.6">'
    )
    return _heat_frame(base.size, layers, _caption(prediction, classifier) + nothing)


def _caption(prediction: Prediction, classifier: Classifier) -> str:
    """What the map shows, and first, where the report measured it, how little that is worth."""
    name = escape(classifier.long_names[named_class(prediction)])
    worse = f"<b>{HEAT_IS_WORSE}</b> " if heat_is_worse_than_centre(classifier, classifier.heat_method) else ""
    return f"{worse}Brighter parts counted more for {name}. It is not the outline of the lesion."


def _no_heat(classifier: Classifier) -> str:
    why = (
        "This model has no heat map."
        if classifier.reads_images
        else "This model uses age, sex and site alone; there is no image to show."
    )
    return f'<h3>Heat map</h3><p class="small" id="no-heat">{why}</p>'


def _heat_frame(size: tuple[int, int], layers: str, words: str, waiting: bool = False) -> str:
    own_id, off = ("", " disabled") if waiting else (' id="heat"', "")
    return (
        f'<h3>Heat map</h3><figure class="heat"{own_id}><div class="stack" '
        f'style="aspect-ratio:{size[0]}/{size[1]};max-width:calc(460px*{size[0]}/{size[1]})">{layers}</div>'
        f'<label class="opacity"><span>Opacity</span><input type="range" min="0" max="100" value="60"{off} '
        'data-opacity aria-label="Opacity of the heat map in percent"><output>60 %</output></label>'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _preprocessing(image: Image.Image, prediction: Prediction, classifier: Classifier) -> str:
    seen = as_seen(prediction.inputs, classifier)
    if seen is None:
        return ""
    uploaded = f'<img src="{data_uri(shown(image, 420))}" alt="The image as uploaded">'
    given = f'<img src="{data_uri(seen)}" alt="The image as the model sees it">'
    return _pair(image, uploaded, given, seen.size, classifier, ' id="preprocessing"')


def _pair(
    image: Image.Image, uploaded: str, given: str, size: tuple[int, int], classifier: Classifier, own_id: str = ""
) -> str:
    processor = classifier.processor
    done = [text for name, text in SWITCHES if getattr(processor, name, False)]
    known = any(hasattr(processor, name) for name, _ in SWITCHES)
    steps = ", ".join(done) if done else ("no hair removal, crop or colour correction" if known else "")
    squashed = f"{RESIZED.get(getattr(processor, 'resize_mode', 'squash'), 'resized')} {size[0]} × {size[1]} pixels"
    return (
        f'<h3>What the model was given</h3><div class="pair"{own_id}><figure><div class="frame">{uploaded}</div>'
        f"<figcaption>Uploaded, {image.width} × {image.height} pixels</figcaption></figure>"
        f'<figure><div class="frame">{given}</div>'
        f"<figcaption>Given to the model: {escape('; '.join(filter(None, [squashed, steps])))}"
        "</figcaption></figure></div>"
    )


def document(image: Image.Image, panel: str, classifier: Classifier, now: datetime | None = None) -> str:
    """The page: when, which model at which commit, the image, and the answer as the page shows it, all folds open.

    Args:
        image: of the answer; only its pixels are stored.
        panel: of ``html_answer.answer_panel``, in which every value from outside is escaped.
        classifier: the model.
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
