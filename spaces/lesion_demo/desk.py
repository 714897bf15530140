"""What the page does when something happens on it: an image comes or goes, another model is chosen."""

from __future__ import annotations

from typing import Any

from answering import ImageUnusableError, classify
from model_loading import ModelShelf, ModelUnavailableError
from rendering import EMPTY, answer_panel, message, model_facts


class Desk:
    """Answers the page's events with the models of a shelf; what goes wrong becomes a message, never a traceback."""

    def __init__(self, shelf: ModelShelf) -> None:
        self._shelf = shelf

    @property
    def titles(self) -> list[str]:
        """The models on offer."""
        return self._shelf.titles

    def predict(self, photo: str | None, model: str | None) -> dict[str, Any]:
        """The answer for an image file: ``{"error": message}`` when there is none, ``{}`` without an image."""
        if photo is None:
            return {}
        try:
            return classify(photo, self._shelf.get(model))
        except (ImageUnusableError, ModelUnavailableError) as error:
            return {"error": str(error)}

    def show(self, answer: dict[str, Any] | None, model: str | None) -> str:
        """An answer as HTML; without one, what to do, or why the model cannot answer."""
        if answer and "error" in answer:
            return message(answer["error"])
        try:
            classifier = self._shelf.get(model)
        except ModelUnavailableError as error:
            return message(str(error))
        return answer_panel(answer, classifier) if answer else EMPTY

    def introduce(self, model: str | None) -> str:
        """The line about a model; nothing for one that cannot be loaded."""
        try:
            return model_facts(self._shelf.get(model))
        except ModelUnavailableError:
            return ""

    def switch(self, photo: str | None, model: str | None) -> tuple[str, dict[str, Any], str]:
        """Another model: its line, its answer for the image that is there, and that answer as HTML."""
        answer = self.predict(photo, model)
        return self.introduce(model), answer, self.show(answer, model)
