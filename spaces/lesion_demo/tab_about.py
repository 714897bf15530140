"""The tab "About the model": what it is, whether it is unchanged, its figures, its card."""

from __future__ import annotations

from typing import Any

import gradio as gr
from html_about import about, report_figures
from html_answer import message
from model_folder import Check, card, check, figures, folder_of
from model_loading import ModelUnavailableError
from service import Service

WAITING = '<section class="panel empty small-empty"><p>The model\'s files are being read and compared…</p></section>'


def build(service: Service, tab: gr.Tab) -> None:
    """Lay the tab out and wire it up; nothing is read before it is opened."""
    model = gr.Dropdown(
        service.choices,
        value=service.titles[0] if service.titles else None,
        label="Model",
        visible=len(service.titles) > 1,
        elem_id="about-model",
    )
    text = gr.HTML(WAITING, elem_id="about")
    with gr.Accordion("Its model card, whole", open=False, elem_id="card-frame", visible=False) as fold:
        whole = gr.HTML("", elem_id="card")
    images = gr.HTML("", elem_id="report-figures")

    def show(title: str | None) -> tuple[str, Any, str, str]:
        try:
            classifier = service.store.get(title)
            folder = folder_of(classifier)
        except ModelUnavailableError as error:
            return message(str(error), "No model"), gr.update(visible=False), "", ""
        written = card(folder)
        return (
            about(classifier, check(folder)),
            gr.update(visible=written is not None),
            written or "",
            report_figures(figures(folder)),
        )

    # No model works here, so it does not wait for those that do.
    gr.on(
        [tab.select, model.input],
        show,
        model,
        [text, fold, whole, images],
        api_visibility="private",
        show_progress="hidden",
    )


def facts(service: Service, title: str | None) -> dict[str, Any]:
    """The same for programs: name, place, commit, and the comparison with the manifest.

    Raises:
        ModelUnavailableError: it cannot be loaded, or its files not fetched.
    """
    classifier = service.store.get(title)
    found: Check = check(folder_of(classifier))
    return {
        "model": classifier.title,
        "revision": classifier.source.revision,
        "commit": classifier.commit,
        "labels": classifier.labels,
        "long_names": classifier.long_names,
        "fields": list(classifier.fields),
        "trust_is_fitted": classifier.trust_is_fitted,
        "manifest": found.verdict,
        "problems": found.problems,
    }
