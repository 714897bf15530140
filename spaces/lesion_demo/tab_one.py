"""The tab "One image": an image, age, sex and site, and the whole answer."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr
from answering import Options
from classifier import Classifier
from example_images import PICK, Example, example_buttons
from html_answer import answer_panel, belonging, empty, glossary, message, model_facts, spoken, working
from html_views import save_link, views, waiting
from model_loading import ModelUnavailableError
from queueing import AT_ONCE, QUEUED, in_turn
from service import REFUSALS, Service

LEAST_SHARE, MOST_SHARE, SHARE_STEP = 0.1, 99.9, 0.1  # percent
UNKNOWN = "unknown"
LOADING = '<p class="facts">The model is being loaded…</p>'


def photo_input(label: str, elem_id: str, height: int = 340) -> gr.Image:
    """An image to drop, choose, paste or take; handed on as the file it is.

    Gradio would open it itself otherwise, convert some formats, and answer a damaged file with a bare "Error".
    """
    photo = gr.Image(
        type="filepath",
        format="png",
        image_mode=None,
        sources=["upload", "webcam", "clipboard"],
        webcam_options=gr.WebcamOptions(mirror=False, constraints={"video": {"facingMode": "environment"}}),
        buttons=[],
        label=label,
        placeholder="# Drop an image here\nor click to choose one",
        height=height,
        elem_id=elem_id,
    )
    photo.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return photo


def build(service: Service, examples: list[Example], page: gr.Blocks) -> gr.Image:
    """Lay the tab out and wire it up; its image, for other tabs to start from."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            photo = photo_input("Image of the lesion", "photo")
            model = gr.Dropdown(
                service.choices,
                value=service.titles[0] if service.titles else None,
                label="Model",
                visible=len(service.titles) > 1 or service.store.takes_any,
                elem_id="model",
            )
            with gr.Row(visible=service.store.takes_any, elem_classes="any"):
                wanted = gr.Textbox(label="Or any model of the Hub", placeholder="organisation/name", elem_id="any-id")
                fetch = gr.Button("Load", elem_id="any-load", scale=0, min_width=90)
            fetched = gr.HTML("", visible=service.store.takes_any, elem_id="any-note")
            facts = gr.HTML(LOADING if service.titles else "", elem_id="facts")
            fields = _fields()
            shift = gr.Checkbox(False, label="Assume another prevalence", visible=False, elem_id="shift")
            share = _share()
            shown_examples = gr.HTML(example_buttons(examples), js_on_load=PICK, elem_id="examples")
        with gr.Column(scale=6, min_width=300):
            panel = gr.HTML(empty(), elem_id="answer")
            behind = gr.HTML("", elem_id="behind")
            gr.HTML(glossary())
    controls = [photo, model, shift, share, *fields]
    handlers = _Handlers(service, examples)
    run: dict[str, Any] = {**QUEUED, "show_progress": "minimal", "show_progress_on": panel}
    about = [facts, shift, share, *fields]
    shown_examples.click(handlers.pick, None, photo, api_visibility="private", show_progress="hidden")
    record = gr.State()  # age, sex and site of the answer on the page
    # A model is chosen, or loaded by its id: where that fails it stays as it is, and so does all below.
    introduced = model.change(handlers.clear, photo, [panel, behind], **AT_ONCE).then(
        handlers.introduce, model, about, api_visibility="private", show_progress="hidden", trigger_mode="always_last"
    )
    introduced.then(handlers.answer, controls, [panel, behind], **run)
    introduced.then(lambda: None, None, record, **AT_ONCE)
    model.input(lambda: "", None, fetched, api_visibility="private", show_progress="hidden")
    progress: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": facts}
    gr.on([fetch.click, wanted.submit], handlers.fetch, wanted, [model, fetched], **QUEUED, **progress)
    shift.input(lambda on: gr.update(visible=on), shift, share, api_visibility="private", show_progress="hidden")
    # Only events of the visitor: a change of the model sets these controls too. Of a moving slider, by mouse, keys or
    # number, the last place counts, and one request runs at a time.
    quiet = {**run, "show_progress": "hidden"}
    gr.on([shift.input, share.input], handlers.update, controls, [panel, behind], **quiet)
    described = [fields[0].submit, fields[0].blur, fields[1].input, fields[2].input]
    gr.on(described, handlers.clear_other, [photo, record, *fields], [panel, behind, record], **AT_ONCE).then(
        handlers.update, controls, [panel, behind], **run
    )
    photo.change(handlers.clear, photo, [panel, behind], **AT_ONCE).then(
        handlers.answer, controls, [panel, behind], **run
    )
    page.load(handlers.introduce, model, about, api_visibility="private", show_progress="hidden")
    return photo


def _share() -> gr.Slider:
    return gr.Slider(
        LEAST_SHARE,
        MOST_SHARE,
        value=10,
        step=SHARE_STEP,
        label=_share_label("malignant or premalignant"),
        visible=False,
        elem_id="share",
        buttons=[],
    )


def _share_label(at_risk: str) -> str:
    return f"{at_risk.capitalize()}, in 100 lesions"


def _fields() -> list[Any]:
    with gr.Row(elem_classes="fields"):
        age = gr.Number(label="Age in years", visible=False, precision=0, elem_id="age", min_width=90)
        sex = gr.Dropdown([UNKNOWN], value=UNKNOWN, label="Sex", visible=False, elem_id="sex", min_width=110)
        site = gr.Dropdown([UNKNOWN], value=UNKNOWN, label="Site", visible=False, elem_id="site", min_width=140)
    return [age, sex, site]


class _Handlers:
    """The tab's events."""

    def __init__(self, service: Service, examples: list[Example]) -> None:
        self._service = service
        self._examples = examples

    def pick(self, event: gr.EventData) -> Any:
        """Take an example as if it had been uploaded."""
        number = event._data.get("number") if isinstance(event._data, dict) else None
        if not isinstance(number, int) or not 0 <= number < len(self._examples):
            return gr.skip()
        return self._service.files.copy(self._examples[number].path)

    def clear(self, photo: str | None) -> tuple[str, str]:
        """The panels until the answer comes."""
        return (empty() if photo is None else working()), ""

    def clear_other(self, photo: str | None, record: Any, *fields: Any) -> tuple[Any, Any, list[Any]]:
        """The same where age, sex or site differ from those of the answer on the page; else the panels stay."""
        same = list(fields) == (record or [None, UNKNOWN, UNKNOWN])
        panels = (gr.skip(), gr.skip()) if same else self.clear(photo)
        return (*panels, list(fields))

    @in_turn
    def answer(
        self, photo: str | None, model: str | None, shift: bool, share: Any, age: Any, sex: Any, site: Any
    ) -> Iterator[tuple[Any, Any]]:
        """The answer first, then what takes longer: the heat map and the model's input."""
        if photo is None:
            yield empty(), ""
            return

        def mine(content: str) -> str:
            return belonging(content, photo, model=model)

        assumed = _assumed(share, self._service.classifier(model)) if shift else None
        options = Options(assumed, {"age": age, "sex": sex, "localization": site})
        try:
            with self._service.opened(photo) as image:
                prediction, classifier = self._service.predict(image, model, options)
                panel = answer_panel(prediction.answer, classifier)
                spoken_text = f"<p hidden data-spoken>{escape(spoken(prediction.answer, classifier))}</p>"
                shown = panel + save_link(image, panel, classifier) + spoken_text
                yield mine(shown), mine(waiting(image, prediction, classifier))
                yield gr.skip(), mine(views(image, prediction, classifier))
        except REFUSALS as error:
            yield mine(message(str(error))), ""

    def update(self, *controls: Any) -> Iterator[tuple[Any, Any]]:
        """The same for the same image, without the waiting frame, so that nothing flickers."""
        if controls[0] is None:
            yield gr.skip(), gr.skip()
            return
        panel: Any = gr.skip()
        behind: Any = gr.skip()
        for step in self.answer(*controls):
            panel = step[0] if isinstance(step[0], str) else panel
            behind = step[1]
        yield panel, behind

    def fetch(self, wanted: str) -> tuple[Any, str]:
        """Load a model that the visitor named, and choose it; where that fails, the reason, and all else stays."""
        try:
            title = self._service.store.add(wanted or "")
        except ModelUnavailableError as error:
            return gr.skip(), message(str(error), "Not loaded")
        return gr.update(choices=self._service.choices, value=title), ""

    def introduce(self, model: str | None) -> list[Any]:
        """The line about a model, and the controls that it has."""
        classifier = self._service.classifier(model)
        if isinstance(classifier, str):
            hidden = [gr.update(visible=False)] * 5
            return [message(classifier, "No model"), *hidden]
        return [model_facts(classifier), *_prevalence(classifier), *_records(classifier)]


def _assumed(share: Any, classifier: Classifier | str) -> float | None:
    """The assumed share; None at that of the calibration, where band and set hold."""
    home = None if isinstance(classifier, str) else classifier.calibrated_share
    if home is None or isinstance(share, bool) or not isinstance(share, (int, float)):
        return None
    percent = min(MOST_SHARE, max(LEAST_SHARE, float(share)))
    return None if abs(percent - _start(home)) < SHARE_STEP / 2 else round(percent / 100, 6)


def _start(home: float) -> float:
    """A share in percent, at the nearest step of the slider."""
    return round(min(MOST_SHARE, max(LEAST_SHARE, 100 * home)), 1)


def _prevalence(classifier: Classifier) -> list[Any]:
    """Checkbox and slider, off, at the share of the calibration."""
    home = classifier.calibrated_share
    if home is None:
        return [gr.update(visible=False, value=False), gr.update(visible=False)]
    name, start = classifier.at_risk_name, _start(home)
    label = f"Assume another prevalence (calibrated at {start:g} {name} in 100 lesions)"
    return [
        gr.update(visible=True, value=False, label=label),
        gr.update(visible=False, value=start, label=_share_label(name)),
    ]


def _records(classifier: Classifier) -> list[Any]:
    """Age, sex and site where the model takes them, all unknown."""
    fields = classifier.fields
    # No bounds here: the model's own message names what is wrong with an age.
    updates = [gr.update(visible="age" in fields, value=None)]
    for name in ("sex", "localization"):
        values = list((fields.get(name) or {}).get("values", []))
        updates.append(gr.update(visible=bool(values), choices=values or [UNKNOWN], value=UNKNOWN))
    return updates
