"""The tab "Compare models": one image, several models side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from answering import Options, predict
from html_answer import belonging, message, working
from html_compare import comparison, no_comparison
from image_files import ImageUnusableError
from queueing import AT_ONCE, QUEUED, in_turn
from service import REFUSALS, Service
from tab_one import photo_input

MOST_MODELS = 4


def build(service: Service, tab: gr.Tab, first: gr.Image) -> None:
    """Lay the tab out and wire it up.

    Args:
        service: models and uploads.
        tab: this tab; when it is opened without an image it takes over that of the first one.
        first: the image of the tab "One image".
    """
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=280):
            photo = photo_input("Image of the lesion", "compare-photo", height=260)
            models = gr.CheckboxGroup(
                service.choices,
                value=service.titles[:MOST_MODELS],
                label=f"Models (at most {MOST_MODELS} at once)",
                visible=bool(service.titles),
                elem_id="compare-models",
            )
        with gr.Column(scale=8, min_width=300):
            result = gr.HTML(no_comparison(len(service.titles)), elem_id="comparison")

    def show(upload: str | None, titles: list[str]) -> Iterator[str]:
        yield from _compare(service, upload, titles)

    def clear(upload: str | None, titles: list[str]) -> str:
        return working() if upload is not None and titles else no_comparison(len(service.titles))

    run: dict[str, Any] = {**QUEUED, "show_progress": "minimal", "show_progress_on": result}
    changed = [photo.change, models.input]
    gr.on(changed, clear, [photo, models], result, **AT_ONCE).then(show, [photo, models], result, **run)

    def take_over(mine: str | None, theirs: str | None) -> Any:
        return theirs if mine is None and theirs is not None else gr.skip()

    tab.select(take_over, [photo, first], photo, api_visibility="private", show_progress="hidden")


@in_turn
def _compare(service: Service, photo: str | None, models: list[str]) -> Iterator[str]:
    if photo is None or not models:
        yield belonging(no_comparison(len(service.titles)), photo)
        return
    try:
        with service.opened(photo) as image:
            yield belonging(comparison(answers_of(service, image, models)), photo)
    except ImageUnusableError as error:
        yield belonging(message(str(error)), photo)


def answers_of(service: Service, image: Any, models: list[str]) -> list[tuple[Any, Any, str]]:
    """Model, its answer or why there is none, and its title, for each model named."""
    answers: list[tuple[Any, Any, str]] = []
    for title in models[:MOST_MODELS]:
        try:
            classifier = service.store.get(title)
            answers.append((classifier, predict(image, classifier, Options()).answer, title))
        except REFUSALS as error:
            answers.append((None, str(error), title))
    return answers
