"""How the page looks: a plain grey theme with a dark variant; the style sheets hold the rest."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

HEADER = (
    '<header id="masthead"><p class="eyebrow">Lesion Suite</p><h1>What the model names, and how often it is wrong</h1>'
    "<p>One close-up of a skin lesion in; a class with its measured errors out, or a plain “not answered”.</p></header>"
)
_HERE = Path(__file__).parent
# Run in the browser before anything else; see there. The fixed notice must not hide what has the keyboard's focus.
SCRIPTS = ("page.js", "page_images.js")
HEAD = "<style>html { scroll-padding-bottom: 130px; }</style>" + "".join(
    f"<script>{(_HERE / name).read_text(encoding='utf-8')}</script>" for name in SCRIPTS
)
STYLES = ("style.css", "style_answer.css", "style_tables.css")


def stylesheet() -> str:
    """All style sheets as one text."""
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in STYLES)


_INK = gr.themes.Color(
    c50="#f7f6f3", c100="#efede8", c200="#e0ddd5", c300="#c9c5bb", c400="#9a978f", c500="#6f6d68", c600="#555450",
    c700="#3b3d3e", c800="#26292b", c900="#191c1e", c950="#121416",
)  # fmt: skip
# No green anywhere: beside an answer it would be read as "harmless".
_SLATE = gr.themes.Color(
    c50="#f0f3f7", c100="#dde5ee", c200="#bccbdc", c300="#93abc5", c400="#6886a8", c500="#48688c", c600="#375475",
    c700="#2d4560", c800="#25384d", c900="#1d2c3d", c950="#121d29",
)  # fmt: skip

# Gradio ships these with all of Latin in regular and bold only; its semibold lacks letters, so that words fall apart.
_FONT = gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700))
_MONO = gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700))
THEME = gr.themes.Base(
    primary_hue=_SLATE,
    secondary_hue=_SLATE,
    neutral_hue=_INK,
    radius_size=gr.themes.sizes.radius_sm,
    text_size=gr.themes.sizes.text_md,
    font=(_FONT, "ui-sans-serif", "system-ui", "sans-serif"),
    font_mono=(_MONO, "ui-monospace", "Consolas", "monospace"),
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    block_background_fill="white",
    block_background_fill_dark="*neutral_900",
    block_border_width="1px",
    block_border_color="*neutral_200",
    block_border_color_dark="*neutral_800",
    block_shadow="none",
    block_label_background_fill="white",
    block_label_background_fill_dark="*neutral_900",
    block_label_border_width="0px",
    block_label_text_color="*neutral_600",
    block_label_text_color_dark="*neutral_400",
    link_text_color="*primary_700",
    link_text_color_dark="*primary_300",
    link_text_color_hover="*primary_900",
    link_text_color_hover_dark="*primary_200",
)
