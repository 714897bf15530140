"""The tab "Many images": files or a zip archive in, a sortable table and its CSV out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import gradio as gr
from archives import LARGEST_ARCHIVE, MOST_IMAGES
from html_answer import belonging, message, working
from html_tables import no_files, table
from image_files import LARGEST_FILE
from many import Row, as_csv, as_table, classify_files
from queueing import AT_ONCE, MOST_SESSIONS, QUEUED_BATCH
from service import REFUSALS, Service, path_of


def build(service: Service) -> None:
    """Lay the tab out and wire it up."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=280):
            files = gr.File(
                file_count="multiple",
                label="Images, or a zip archive of images",
                elem_id="files",
                height=170,
                type="filepath",
                buttons=[],
            )
            untouched: Any = lambda payload: None if payload is None else payload.root  # noqa: E731
            files.preprocess = untouched  # type: ignore[method-assign]
        with gr.Column(scale=5, min_width=280):
            model = gr.Dropdown(
                service.choices,
                value=service.titles[0] if service.titles else None,
                label="Model",
                visible=len(service.titles) > 1,
                elem_id="many-model",
            )
            gr.HTML(
                f'<p class="small">At most {MOST_IMAGES} images of {LARGEST_FILE / 1e6:.0f} MB each, archives of '
                f"{LARGEST_ARCHIVE / 1e6:.0f} MB. Archives are read where they lie, never unpacked. Of an image that "
                "is not answered, table and CSV name no class.</p>"
            )
    result = gr.HTML(no_files(), elem_id="many")

    wanted: OrderedDict[str | None, list[str | None]] = OrderedDict()  # visitor -> the files of the newest batch

    def clear(uploaded: Any, request: gr.Request) -> str:
        wanted[request.session_hash] = [path_of(file) for file in uploaded or []]
        wanted.move_to_end(request.session_hash)
        if len(wanted) > MOST_SESSIONS:
            wanted.popitem(last=False)
        return working() if uploaded else no_files()

    def show(uploaded: Any, title: str | None, request: gr.Request) -> Iterator[str]:
        paths = [path_of(file) for file in uploaded or []]
        for step in _tables(service, uploaded, title):
            if wanted.get(request.session_hash, paths) != paths:
                return  # the next batch waits for this one, which nobody wants any more
            yield belonging(step, *paths)

    changed = [files.change, model.input]
    gr.on(changed, clear, files, result, **AT_ONCE).then(
        show, [files, model], result, **QUEUED_BATCH, show_progress="hidden"
    )


def _tables(service: Service, files: Any, model: str | None) -> Iterator[str]:
    """The table, growing."""
    if not files:
        yield no_files()
        return
    rows: list[Row] = []
    try:
        with service.batch(files) as entries:
            classifier = service.store.get(model)
            yield table(rows, classifier, len(entries))
            for some in classify_files(entries, classifier, service.open_entry):
                rows.extend(some)
                if len(rows) < len(entries):
                    yield table(rows, classifier, len(entries))
    except REFUSALS as error:
        yield message(str(error))
        return
    yield table(rows, classifier, len(entries), as_csv(as_table(rows, classifier.labels)))
