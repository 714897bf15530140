"""Lesion Suite's page: one image in; its most likely class, all probabilities and the predictive entropy out.

Start it with the models to show::

    LESION_MODELS=DIR_OR_REPO[@REVISION][,...] python spaces/lesion_demo/app.py

It imports nothing of Lesion Suite: models bring their own code. Images are never logged.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

# Gradio does `import spaces` for the Hub's library of that name. With the repository's root on the import path it would
# find the repository's own folder, and fail on the Hub. None makes that import fail, which Gradio takes as "not there".
_found = importlib.util.find_spec("spaces")
if _found is not None and _found.origin is None:
    sys.modules["spaces"] = None  # type: ignore[assignment]

import gradio as gr  # noqa: E402
from appearance import THEME  # noqa: E402
from desk import Desk  # noqa: E402
from model_loading import ModelSettingError, ModelShelf, parse_models  # noqa: E402
from rendering import HEADER, NOTICE  # noqa: E402

CLEAN_EVERY_S = 900
KEEP_UPLOADS_S = 1800
LARGEST_UPLOAD = "20mb"


def build_page(desk: Desk) -> gr.Blocks:
    """The page of a desk; a model that cannot be loaded becomes a message on it."""
    titles = desk.titles
    with gr.Blocks(title="Lesion Suite", analytics_enabled=False, delete_cache=(CLEAN_EVERY_S, KEEP_UPLOADS_S)) as page:
        gr.HTML(HEADER)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=300):
                photo = gr.Image(
                    type="filepath",
                    format="png",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    label="Photo of the lesion",
                    height=380,
                    elem_id="photo",
                )
                choice = gr.Dropdown(
                    titles, value=titles[0] if titles else None, label="Model", visible=len(titles) > 1, elem_id="model"
                )
                about = gr.HTML(desk.introduce(None))
            with gr.Column(scale=6, min_width=300):
                panel = gr.HTML(desk.show(None, None), elem_id="answer")
                answer = gr.JSON(visible=False)
        gr.HTML(NOTICE)
        _take_files_untouched(photo)
        waiting: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": panel}
        asked = photo.change(desk.predict, [photo, choice], answer, api_name="predict", **waiting)
        asked.then(desk.show, [answer, choice], panel, show_progress="hidden", api_visibility="private")
        choice.change(desk.switch, [photo, choice], [about, answer, panel], api_visibility="private", **waiting)
    return page


def _take_files_untouched(photo: gr.Image) -> None:
    """Hand the uploaded file on as it is.

    Gradio opens it itself otherwise, converts some formats, and answers a damaged file with a bare "Error".
    """
    photo.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]


def page_from_environment() -> gr.Blocks:
    """The page for the models that LESION_MODELS names; leaves with exit code 2 where it cannot be understood."""
    try:
        return build_page(Desk(ModelShelf(parse_models(os.environ.get("LESION_MODELS", "")))))
    except ModelSettingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    demo = page_from_environment()  # the name that the Hub looks for
    demo.launch(
        server_name=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        theme=THEME,
        css_paths=Path(__file__).with_name("style.css"),
        footer_links=[],
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
    )
