"""The tab "Similar cases": known images that the model takes for alike. Only where the host gives a gallery."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr
from answering import Options, predict
from html_about import licence
from html_answer import belonging, message, working
from queueing import AT_ONCE, QUEUED, in_turn
from service import REFUSALS, Service
from similar import Case, Gallery, GalleryError
from tab_one import photo_input
from words import DECLINED, why_declined

EMPTY = (
    '<section class="panel empty small-empty"><p><b>Choose an image.</b></p><p>The known cases nearest to it for the '
    "model appear here, one a lesion, with what they turned out to be.</p></section>"
)


def build(service: Service, gallery: Gallery, title: str, tab: gr.Tab, first: gr.Image) -> None:
    """Lay the tab out and wire it up.

    Args:
        service: models and uploads.
        gallery: the known cases.
        title: the model on offer that it was made with.
        tab: this tab.
        first: the image of the tab "One image", taken over where this one is empty.
    """
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=280):
            photo = photo_input("Image of the lesion", "similar-photo", height=260)
            data = gallery.facts.get("dataset") or {}
            gr.HTML(
                f'<p class="small">{len(gallery.features):,} cases of {escape(str(data.get("name")))}, split '
                f"{escape(str(data.get('split')))}; licence {escape(licence(gallery.licence) or '')}. "
                f"Distances are those of {escape(title)}.</p>"
            )
        with gr.Column(scale=8, min_width=300):
            result = gr.HTML(EMPTY, elem_id="cases")

    @in_turn
    def show(upload: str | None) -> Iterator[str]:
        if upload is None:
            yield EMPTY
            return
        try:
            with service.opened(upload) as image:
                yield belonging(_shown(cases_of(service, gallery, title, image)), upload)
        except (*REFUSALS, GalleryError) as error:
            yield belonging(message(str(error)), upload)

    def clear(upload: str | None) -> str:
        return EMPTY if upload is None else working()

    run: dict[str, Any] = {**QUEUED, "show_progress": "minimal", "show_progress_on": result}
    photo.change(clear, photo, result, **AT_ONCE).then(show, photo, result, **run)

    def take_over(mine: str | None, theirs: str | None) -> Any:
        return theirs if mine is None and theirs is not None else gr.skip()

    tab.select(take_over, [photo, first], photo, api_visibility="private", show_progress="hidden")


def cases_of(service: Service, gallery: Gallery, title: str, image: Any) -> list[Case] | str:
    """The nearest cases, or, where the model declines, why there are none."""
    classifier = service.store.get(title)
    why_not = gallery.fits(classifier)
    if why_not:
        raise GalleryError(why_not)
    answer = predict(image, classifier, Options()).answer
    if answer.get("abstain"):
        return why_declined(answer, classifier.groups)
    return gallery.nearest(image, classifier, {})


def _shown(cases: list[Case] | str) -> str:
    if isinstance(cases, str):
        return (
            f'<section class="panel" data-state="declined"><h3>{DECLINED}</h3><p>{escape(cases)} So '
            "nothing is shown as similar to it.</p></section>"
        )
    sources = [", ".join(text for text in (case.attribution, licence(case.license)) if text) for case in cases]
    alike = len(set(sources)) == 1
    items = ""
    for case, source in zip(cases, sources, strict=True):
        own = "" if alike else f'<br><span class="small">{escape(source)}</span>'
        items += (
            f'<li><img src="{case.image}" alt="A case of {escape(case.long_name)}"><b>{escape(case.long_name)}</b>'
            f"<br>distance {case.distance:.3f}{own}</li>"
        )
    credit = f'<p class="small credit">All images: {escape(sources[0])}.</p>' if alike else ""
    return (
        '<section class="panel" data-state="cases"><h3>Nearest known cases</h3><p class="small">Alike to the model: '
        "distance 0 is the same; the larger, the less alike (at most 2). Images of the same lesion, or nearly the "
        "same image, are left out. That cases look alike does not make the diagnosis the same.</p>"
        f'<ul class="cases">{items}</ul>{credit}</section>'
    )
