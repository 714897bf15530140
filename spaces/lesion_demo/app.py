"""Lesion Suite's page: what a model names in an image of a skin lesion, how often that was wrong, when it declines.

Start it with the models to show::

    LESION_MODELS=DIR_OR_REPO[@REVISION][,...] python spaces/lesion_demo/app.py

It imports nothing of Lesion Suite: models bring their own code. Images are never logged.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from process import give_memory_back, log_no_values
from temporary_files import TemporaryFiles

# Before Gradio is imported, which reads where its temporary files go.
FILES = TemporaryFiles(os.environ.get("GRADIO_TEMP_DIR"))
# Before torch is imported: threads that spin while they wait take the cores from the server, and on a busy machine from
# each other, which made single answers ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if __name__ == "__main__":
    FILES.adopt_process()
    give_memory_back()

# Gradio does `import spaces` for the Hub's library of that name. With the repository's root on the import path it would
# find the repository's own folder, and fail on the Hub. None makes that import fail, which Gradio takes as "not there".
_found = importlib.util.find_spec("spaces")
if _found is not None and _found.origin is None:
    sys.modules["spaces"] = None  # type: ignore[assignment]

import endpoints  # noqa: E402
import gradio as gr  # noqa: E402
import tab_about  # noqa: E402
import tab_compare  # noqa: E402
import tab_many  # noqa: E402
import tab_one  # noqa: E402
import tab_similar  # noqa: E402
from appearance import HEAD, HEADER, THEME, stylesheet  # noqa: E402
from archives import LARGEST_ARCHIVE  # noqa: E402
from content_policy import ContentPolicy  # noqa: E402
from example_images import OWN, read_examples  # noqa: E402
from html_answer import notice  # noqa: E402
from model_loading import ModelSettingError, ModelStore, Settings, read_settings  # noqa: E402
from queueing import MOST_SESSIONS, MOST_WAITING  # noqa: E402
from service import Service  # noqa: E402
from similar import Gallery, GalleryError  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from upload_limit import UploadLimit  # noqa: E402

MENUS = ("model", "many-model", "compare-models", "about-model")
HIDDEN: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# Warnings of Pillow and others name files, and no name of an upload belongs into a log.
warnings.filterwarnings("ignore")
log_no_values()


def build_page(service: Service, settings: Settings) -> gr.Blocks:
    """The page; a model that cannot be loaded becomes a message on it."""
    examples = read_examples(OWN, settings.examples)
    gallery = Gallery(settings.gallery) if settings.gallery else None
    title = gallery.title_among(settings.models) if gallery else None
    with gr.Blocks(title="Lesion Suite", analytics_enabled=False) as page:
        gr.HTML(HEADER)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("One image", id="one"):
                first = tab_one.build(service, examples, page)
            with gr.Tab("Many", id="many"):
                tab_many.build(service)
            with gr.Tab("Compare", id="compare") as tab:
                tab_compare.build(service, tab, first)
            if gallery is not None and title is not None:
                with gr.Tab("Similar", id="similar") as tab:
                    tab_similar.build(service, gallery, title, tab, first)
            with gr.Tab("About", id="about") as tab:
                tab_about.build(service, tab)
        gr.HTML(notice())
        menus = [block for block in page.blocks.values() if block.elem_id in MENUS]
        # What a model distinguishes is known only once its files are here.
        page.load(lambda: [gr.update(choices=service.choices)] * len(menus), None, menus, **HIDDEN)
        endpoints.build(service, gallery if title else None, title)
    return page.queue(max_size=MOST_WAITING, default_concurrency_limit=8)


def page_from_environment() -> gr.Blocks:
    """The page for the environment's settings; leaves with exit code 2 where they cannot be understood.

    On a person's own machine also where no model can be loaded: each that fails is one line, and the others are shown.
    A Space on the Hub (``SPACE_ID``) always starts: its page states what could not be loaded.
    """
    try:
        settings = read_settings()
        store = ModelStore(settings.models, settings.allow_any, settings.backend)
        page = build_page(Service(store, FILES), settings)
    except (ModelSettingError, GalleryError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if "SPACE_ID" not in os.environ and (failures := store.load_one()):
        print(f"error: no model of LESION_MODELS can be loaded ({failures})", file=sys.stderr)
        sys.exit(2)
    store.load_ahead()
    return page


if __name__ == "__main__":
    demo = page_from_environment()  # the name that the Hub looks for
    demo.launch(
        server_name=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        theme=THEME,
        css=stylesheet(),
        head=HEAD,
        footer_links=[],
        max_file_size=LARGEST_ARCHIVE,
        ssr_mode=False,
        state_session_capacity=MOST_SESSIONS,
        favicon_path=str(Path(__file__).with_name("favicon.svg")),
        app_kwargs={"middleware": [Middleware(ContentPolicy), Middleware(UploadLimit, files=FILES)]},
    )
