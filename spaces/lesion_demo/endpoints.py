"""The API for programs: typed endpoints with stable names, documented in the README."""

from __future__ import annotations

from typing import Any

import gradio as gr
import tab_about
import tab_similar
from answering import OptionError, Options
from classifier import Classifier
from gradio import FileData
from html_band import guarantee, rating_in_words
from many import Row, as_table, classify_files
from model_loading import ModelUnavailableError
from page_images import data_uri, heat_layer, heat_map
from queueing import QUEUED_API, QUEUED_API_BATCH, in_turn
from service import REFUSALS, Service
from similar import Gallery, GalleryError
from tab_compare import MOST_MODELS, answers_of
from words import band_title, state, why_declined, why_no_promise


def build(service: Service, gallery: Gallery | None, gallery_title: str | None) -> None:
    """Add the endpoints to the page that is being built."""
    endpoints = _Endpoints(service, gallery, gallery_title)
    gr.api(endpoints.predict, api_name="predict", **QUEUED_API)
    gr.api(endpoints.explain, api_name="explain", **QUEUED_API)
    gr.api(endpoints.predict_many, api_name="predict_many", **QUEUED_API_BATCH)
    gr.api(endpoints.compare, api_name="compare", **QUEUED_API)
    gr.api(endpoints.models, api_name="models")
    gr.api(endpoints.about, api_name="about")
    if gallery is not None:
        gr.api(endpoints.similar, api_name="similar", **QUEUED_API)


class _Endpoints:
    """The endpoints; what goes wrong becomes ``{"error": message}``, never a traceback."""

    def __init__(self, service: Service, gallery: Gallery | None, gallery_title: str | None) -> None:
        self._service = service
        self._gallery = gallery
        self._gallery_title = gallery_title

    @in_turn
    def predict(
        self,
        photo: FileData | None,
        model: str | None = None,
        prevalence: float | None = None,
        age: float | None = None,
        sex: str | None = None,
        localization: str | None = None,
    ) -> dict[str, Any]:
        """Classify one image: the answer of Lesion Suite's models with its thirteen keys, and `model`.

        `prevalence`: share of malignant and premalignant lesions in 0.001 to 0.999; withdraws band and set.
        Where `abstain` is true, show neither `predicted` nor `probabilities`.
        """
        try:
            with self._service.opened(photo) as image:
                return self._service.predict(image, model, _options(prevalence, age, sex, localization))[0].answer
        except REFUSALS as error:
            return {"error": str(error)}

    @in_turn
    def explain(
        self,
        photo: FileData | None,
        model: str | None = None,
        age: float | None = None,
        sex: str | None = None,
        localization: str | None = None,
    ) -> dict[str, Any]:
        """The answer in words, and a heat map (PNG as a data URI) of what it used; none where it declines."""
        try:
            with self._service.opened(photo) as image:
                prediction, classifier = self._service.predict(image, model, _options(None, age, sex, localization))
        except REFUSALS as error:
            return {"error": str(error)}
        answer = prediction.answer
        declined = bool(answer.get("abstain"))
        field = None if declined else heat_map(prediction, classifier)
        return {
            "model": classifier.title,
            "state": state(answer),
            "title": band_title(answer),
            "words": _in_words(answer, classifier),
            "explained": None if field is None else answer["predicted"],
            "heat_map": None if field is None else data_uri(heat_layer(field, field.shape[::-1]), "PNG"),
        }

    def predict_many(self, files: list[FileData], model: str | None = None) -> dict[str, Any]:
        """Classify files and zip archives: `rows`, one a file, also for what cannot be read. Declined: no class."""
        try:
            with self._service.batch(files) as entries:
                classifier = self._model_of_batch(model, files)
                rows: list[Row] = [
                    row for some in classify_files(entries, classifier, self._service.open_entry) for row in some
                ]
        except REFUSALS as error:
            return {"error": str(error)}
        return {"model": classifier.title, "rows": as_table(rows, classifier.labels)}

    def _model_of_batch(self, model: str | None, files: Any) -> Classifier:
        """The model, or no file is kept: a program sends the files with the next request."""
        try:
            return self._service.store.get(model)
        except ModelUnavailableError:
            self._service.forget(files if isinstance(files, list) else [files])
            raise

    @in_turn
    def compare(self, photo: FileData | None, models: list[str] | None = None) -> dict[str, Any]:
        """Answers of up to four models for an image: title -> answer, or `{"error": ...}`. None = the first four."""
        try:
            with self._service.opened(photo) as image:
                answers = answers_of(self._service, image, _several(models, self._service.titles))
        except REFUSALS as error:
            return {"error": str(error)}
        return {title: {"error": answer} if isinstance(answer, str) else answer for _, answer, title in answers}

    @in_turn
    def similar(self, photo: FileData | None) -> dict[str, Any]:
        """The nearest known cases of the host's gallery; none where the model declines."""
        assert self._gallery is not None
        assert self._gallery_title is not None
        try:
            with self._service.opened(photo) as image:
                cases = tab_similar.cases_of(self._service, self._gallery, self._gallery_title, image)
        except (*REFUSALS, GalleryError) as error:
            return {"error": str(error)}
        if isinstance(cases, str):
            return {"declined": cases, "cases": []}
        keys = ("label", "long_name", "distance", "license", "attribution")
        return {"declined": None, "cases": [{key: getattr(case, key) for key in keys} for case in cases]}

    def models(self) -> list[str]:
        """The models on offer, as the other endpoints name them."""
        return self._service.titles

    def about(self, model: str | None = None) -> dict[str, Any]:
        """A model's labels, commit, metadata fields, and whether its files are what its manifest says."""
        try:
            return tab_about.facts(self._service, model)
        except ModelUnavailableError as error:
            return {"error": str(error)}


def _options(prevalence: float | None, age: Any, sex: Any, localization: Any) -> Options:
    return Options(prevalence, {"age": age, "sex": sex, "localization": localization})


def _in_words(answer: dict[str, Any], classifier: Classifier) -> str:
    """What was measured of the answer's rating, then the limit behind it; why there is none, or why it declines."""
    if answer.get("abstain"):
        return why_declined(answer, classifier.groups)
    if not answer.get("band"):
        return why_no_promise(answer)
    return " ".join([rating_in_words(answer, classifier), *guarantee(answer, classifier)])


def _several(models: Any, offered: list[str]) -> list[str]:
    """The models to compare.

    Raises:
        OptionError: they are no list of names, or too many.
    """
    if models is None or models == []:
        return offered[:MOST_MODELS]
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        raise OptionError(f"models is {repr(models)[:100]}; give a list of names of /models.")
    if len(models) > MOST_MODELS:
        raise OptionError(f"models has {len(models)} names; at most {MOST_MODELS} are compared at a time.")
    return models
