"""The tab "Many images": files or a zip archive in, a sortable table and its CSV out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from archives import LARGEST_ARCHIVE, MOST_IMAGES, list_entries
from desk import SAID, Desk, name_of, path_of
from html_answer import message
from html_tables import no_files, table
from image_files import LARGEST_FILE, ImageUnusableError
from many import Row, as_csv, as_table, look_at
from queueing import QUEUED


def build(desk: Desk) -> None:
    """Lay the tab out and wire it up."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=6, min_width=280):
            files = gr.File(
                file_count="multiple",
                label="Pictures, or a zip archive of pictures",
                elem_id="files",
                height=170,
                type="filepath",
                buttons=[],
            )
            untouched: Any = lambda payload: None if payload is None else payload.root  # noqa: E731
            files.preprocess = untouched  # type: ignore[method-assign]
        with gr.Column(scale=5, min_width=280):
            model = gr.Dropdown(
                desk.titles,
                value=desk.titles[0] if desk.titles else None,
                label="Model",
                visible=len(desk.titles) > 1,
                elem_id="many-model",
            )
            gr.HTML(
                f'<p class="small">At most {MOST_IMAGES} pictures of {LARGEST_FILE / 1e6:.0f} MB each, archives of '
                f"{LARGEST_ARCHIVE / 1e6:.0f} MB. Archives are read where they lie, never unpacked. Of a picture that "
                "the model declines, table and CSV name no class.</p>"
            )
    result = gr.HTML(no_files(), elem_id="many")

    def show(uploaded: Any, title: str | None) -> Iterator[str]:
        yield from _look(desk, uploaded, title)

    gr.on([files.change, model.input], show, [files, model], result, **QUEUED, show_progress="hidden")


def _look(desk: Desk, files: Any, model: str | None) -> Iterator[str]:
    """The table, growing."""
    if not files:
        yield no_files()
        return
    rows: list[Row] = []
    try:
        entries = list_entries(*uploads(desk, files))
        classifier = desk.shelf.get(model)
        yield table(rows, classifier, len(entries))
        for some in look_at(entries, classifier, desk.tidy_entry):
            rows.extend(some)
            if len(rows) < len(entries):
                yield table(rows, classifier, len(entries))
    except SAID as error:
        yield message(str(error))
        return
    yield table(rows, classifier, len(entries), as_csv(as_table(rows, classifier.labels)))


def uploads(desk: Desk, files: Any) -> tuple[list[str], list[str]]:
    """Paths and names of what was uploaded.

    Raises:
        ImageUnusableError: a path that was not uploaded here.
    """
    several = files if isinstance(files, (list, tuple)) else [files]
    paths = [path_of(file) for file in several]
    if not all(path is not None and desk.files.holds(path) for path in paths):
        raise ImageUnusableError("These files were not uploaded here, or are no longer kept. Upload them again.")
    return [str(path) for path in paths], [name_of(file) for file in several]
