"""The tab "One image": an image, what is known beside it, and the answer with everything behind it."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr
from answering import Question
from classifier import Classifier
from example_images import PICK, Example, example_buttons
from html_answer import answer_panel, belonging, empty, glossary, message, model_facts, spoken, working
from html_saved import save_link
from html_views import views, waiting
from model_loading import ModelUnavailableError
from queueing import AT_ONCE, QUEUED, in_turn
from service import SAID, Desk

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


def build(desk: Desk, examples: list[Example], page: gr.Blocks) -> gr.Image:
    """Lay the tab out and wire it up; its image, for other tabs to start from."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            photo = photo_input("Image of the lesion", "photo")
            model = gr.Dropdown(
                desk.choices,
                value=desk.titles[0] if desk.titles else None,
                label="Model",
                visible=len(desk.titles) > 1 or desk.shelf.takes_any,
                elem_id="model",
            )
            with gr.Row(visible=desk.shelf.takes_any, elem_classes="any"):
                wanted = gr.Textbox(label="Or any model of the Hub", placeholder="organisation/name", elem_id="any-id")
                fetch = gr.Button("Load", elem_id="any-load", scale=0, min_width=90)
            fetched = gr.HTML("", visible=desk.shelf.takes_any, elem_id="any-said")
            facts = gr.HTML(LOADING if desk.titles else "", elem_id="facts")
            fields = _fields()
            shift = gr.Checkbox(False, label="Assume another prevalence", visible=False, elem_id="shift")
            share = _share()
            shown_examples = gr.HTML(example_buttons(examples), js_on_load=PICK, elem_id="examples")
        with gr.Column(scale=6, min_width=300):
            panel = gr.HTML(empty(), elem_id="answer")
            behind = gr.HTML("", elem_id="behind")
            gr.HTML(glossary())
    asked = [photo, model, shift, share, *fields]
    handlers = _Handlers(desk, examples)
    look: dict[str, Any] = {**QUEUED, "show_progress": "minimal", "show_progress_on": panel}
    about = [facts, shift, share, *fields]
    shown_examples.click(handlers.pick, None, photo, api_visibility="private", show_progress="hidden")
    # The model that was chosen, or taken in by name: where that fails it stays as it is, and so does all below.
    introduced = model.change(handlers.clear, photo, [panel, behind], **AT_ONCE).then(
        handlers.introduce, model, about, api_visibility="private", show_progress="hidden", trigger_mode="always_last"
    )
    introduced.then(handlers.look, asked, [panel, behind], **look)
    model.input(lambda: "", None, fetched, api_visibility="private", show_progress="hidden")
    progress: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": facts}
    gr.on([fetch.click, wanted.submit], handlers.fetch, wanted, [model, fetched], **QUEUED, **progress)
    shift.input(lambda on: gr.update(visible=on), shift, share, api_visibility="private", show_progress="hidden")
    # Only what a visitor does asks again: a switch of the model sets these too. Of a slider on the move, by mouse, keys
    # or number, the last place counts, and one request at a time.
    again = [shift.input, share.input, fields[0].submit, fields[0].blur, fields[1].input, fields[2].input]
    quiet = {**look, "show_progress": "hidden"}
    gr.on(again, handlers.look_again, asked, [panel, behind], **quiet)
    photo.change(handlers.clear, photo, [panel, behind], **AT_ONCE).then(handlers.look, asked, [panel, behind], **look)
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
    """What happens on the tab's events."""

    def __init__(self, desk: Desk, examples: list[Example]) -> None:
        self._desk = desk
        self._examples = examples

    def pick(self, event: gr.EventData) -> Any:
        """Take an example as if it had been uploaded."""
        number = event._data.get("number") if isinstance(event._data, dict) else None
        if not isinstance(number, int) or not 0 <= number < len(self._examples):
            return gr.skip()
        return self._desk.files.copy(self._examples[number].path)

    def clear(self, photo: str | None) -> tuple[str, str]:
        """What stands there until the answer comes."""
        return (empty() if photo is None else working()), ""

    @in_turn
    def look(
        self, photo: str | None, model: str | None, shift: bool, share: Any, age: Any, sex: Any, site: Any
    ) -> Iterator[tuple[Any, Any]]:
        """The answer first, then what takes longer: the heat map, and what the model was given."""
        if photo is None:
            yield empty(), ""
            return

        def mine(content: str) -> str:
            return belonging(content, photo, model=model)

        assumed = _assumed(share, self._desk.classifier(model)) if shift else None
        question = Question(assumed, {"age": age, "sex": sex, "localization": site})
        try:
            with self._desk.opened(photo) as image:
                looked, classifier = self._desk.look(image, model, question)
                panel = answer_panel(looked.answer, classifier)
                said = f"<p hidden data-spoken>{escape(spoken(looked.answer, classifier))}</p>"
                shown = panel + save_link(image, panel, classifier) + said
                yield mine(shown), mine(waiting(image, looked, classifier))
                yield gr.skip(), mine(views(image, looked, classifier))
        except SAID as error:
            yield mine(message(str(error))), ""

    def look_again(self, *asked: Any) -> Iterator[tuple[Any, Any]]:
        """The same for the same image, without the waiting frame, so that nothing flickers."""
        if asked[0] is None:
            yield gr.skip(), gr.skip()
            return
        panel: Any = gr.skip()
        behind: Any = gr.skip()
        for step in self.look(*asked):
            panel = step[0] if isinstance(step[0], str) else panel
            behind = step[1]
        yield panel, behind

    def fetch(self, wanted: str) -> tuple[Any, str]:
        """Take in a model that the visitor named, and choose it; else say why not, and leave all else as it is."""
        try:
            title = self._desk.shelf.add(wanted or "")
        except ModelUnavailableError as error:
            return gr.skip(), message(str(error), "Not loaded")
        return gr.update(choices=self._desk.choices, value=title), ""

    def introduce(self, model: str | None) -> list[Any]:
        """The line about a model, and the controls that it has."""
        classifier = self._desk.classifier(model)
        if isinstance(classifier, str):
            hidden = [gr.update(visible=False)] * 5
            return [message(classifier, "No model"), *hidden]
        return [model_facts(classifier), *_prevalence(classifier), *_records(classifier)]


def _assumed(share: Any, classifier: Classifier | str) -> float | None:
    """The share that is asked for; None at that of the calibration, where band and set hold."""
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
    # No bounds here: the model's own sentence says what is wrong with an age.
    updates = [gr.update(visible="age" in fields, value=None)]
    for name in ("sex", "localization"):
        values = list((fields.get(name) or {}).get("values", []))
        updates.append(gr.update(visible=bool(values), choices=values or [UNKNOWN], value=UNKNOWN))
    return updates
