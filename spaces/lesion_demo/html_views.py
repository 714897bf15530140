"""Where the model looked, and what it was given, as HTML; and a place of the same size while that is being made."""

from __future__ import annotations

from html import escape

import numpy as np
from answering import Looked
from classifier import Classifier
from pictures import as_seen, data_uri, heat_layer, heat_map, prepared, shown
from PIL import Image

SWITCHES = (
    ("do_hair_removal", "hairs removed"),
    ("do_lesion_crop", "cropped to the lesion"),
    ("do_colour_constancy", "colour cast removed"),
)


def waiting(declined: bool) -> str:
    """An empty frame of about the size of what comes, so that nothing jumps."""
    frames = '<div class="frame"></div>' * 2
    heat = "" if declined else '<h3>Where the model looked</h3><div class="frame wide"></div>'
    return (
        f'<section class="panel views waiting" aria-busy="true">{heat}<h3>What the model was given'
        f'</h3><div class="pair">{frames}</div></section>'
    )


def views(image: Image.Image, looked: Looked, classifier: Classifier) -> str:
    """Heat map and preprocessing of an answer; of one that declines the preprocessing alone."""
    declined = bool(looked.answer.get("abstain"))
    heat = "" if declined else _heat(image, looked, classifier)
    return f'<section class="panel views">{heat}{_preprocessing(image, looked, classifier)}</section>'


def _heat(image: Image.Image, looked: Looked, classifier: Classifier) -> str:
    target = str(looked.answer["predicted"])
    field = heat_map(looked.inputs, classifier, target)
    if field is None:
        why = (
            "This model brings no way to show where it looked."
            if classifier.looks_at_pictures
            else "This model looks at age, sex and site alone; there is no picture to show."
        )
        return f'<h3>Where the model looked</h3><p class="small" id="no-heat">{why}</p>'
    base = shown(prepared(image, classifier))
    name = escape(classifier.long_names[target])
    nothing = " <b>Nothing in the picture spoke for it: the map is empty.</b>" if float(np.max(field)) == 0.0 else ""
    return (
        '<h3>Where the model looked</h3><figure class="heat" id="heat">'
        f'<div class="stack" style="aspect-ratio:{base.width}/{base.height}">'
        f'<img src="{data_uri(base)}" alt="The picture">'
        f'<img class="layer" src="{data_uri(heat_layer(field, base.size), "PNG")}" alt="Heat map of where the model '
        f'looked for {name}" style="opacity:.6"></div>'
        '<label class="opacity"><span>Heat map</span><input type="range" min="0" max="100" value="60" '
        'data-opacity aria-label="Opacity of the heat map in percent"><output>60 %</output></label>'
        f"<figcaption>What {name} drew on; brighter means more. It is not the outline of the lesion.{nothing}"
        "</figcaption></figure>"
    )


def _preprocessing(image: Image.Image, looked: Looked, classifier: Classifier) -> str:
    seen = as_seen(looked.inputs, classifier)
    if seen is None:
        return ""
    processor = classifier.processor
    done = [text for name, text in SWITCHES if getattr(processor, name, False)]
    known = any(hasattr(processor, name) for name, _ in SWITCHES)
    steps = ", ".join(done) if done else ("no hair removal, crop or colour correction" if known else "")
    squashed = f"resized to {seen.width} × {seen.height} pixels"
    return (
        '<h3>What the model was given</h3><div class="pair" id="preprocessing">'
        f'<figure><div class="frame"><img src="{data_uri(shown(image, 420))}" alt="The picture as uploaded"></div>'
        f"<figcaption>Uploaded, {image.width} × {image.height} pixels</figcaption></figure>"
        f'<figure><div class="frame"><img src="{data_uri(seen)}" alt="The picture as the model sees it"></div>'
        f"<figcaption>Given to the model: {escape('; '.join(filter(None, [squashed, steps])))}"
        "</figcaption></figure></div>"
    )
