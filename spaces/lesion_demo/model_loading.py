"""Which models the page offers, and loading them: from LESION_MODELS, by the Auto classes, once each."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForImageClassification

RETRY_AFTER_S = 30.0  # a model that failed to load is not tried again sooner

# What a folder or repository that is no usable model makes transformers, timm, torch or its own code raise.
_LOADING_FAILS = (
    OSError,
    ValueError,
    ImportError,
    RuntimeError,
    LookupError,
    AttributeError,
    TypeError,
    SyntaxError,
    SafetensorError,
)


class ModelSettingError(ValueError):
    """LESION_MODELS names a model in a way that cannot be understood."""


class ModelUnavailableError(RuntimeError):
    """A model of LESION_MODELS that cannot be loaded; the message is fit for the page."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        location: a folder, or an id ``organisation/name`` on the Hub.
        revision: branch, tag or commit of the Hub repository; None for a folder or the default branch.
    """

    location: str
    revision: str | None = None

    @property
    def title(self) -> str:
        """What the page calls it: the last part of the location, with the revision."""
        name = Path(self.location).resolve().name if Path(self.location).is_dir() else self.location.split("/")[-1]
        return f"{name} @ {self.revision}" if self.revision else name


def parse_models(setting: str) -> list[ModelSource]:
    """``DIR_OR_REPO[@REVISION][,...]`` -> sources, in order and without repeats.

    Raises:
        ModelSettingError: an entry has an empty location or revision.
    """
    sources: list[ModelSource] = []
    for entry in (part.strip() for part in setting.split(",")):
        if not entry:
            continue
        source = ModelSource(entry)
        if "@" in entry and not Path(entry).is_dir():
            location, _, revision = entry.rpartition("@")
            if not location or not revision:
                raise ModelSettingError(f"LESION_MODELS has the entry {entry!r}; write DIR_OR_REPO[@REVISION]")
            source = ModelSource(location, revision)
        if source not in sources:
            sources.append(source)
    return sources


@dataclass(frozen=True)
class Classifier:
    """A loaded model with its image processor, in eval mode."""

    source: ModelSource
    model: Any
    processor: Any

    @property
    def labels(self) -> list[str]:
        """Short class names in the order of the logits."""
        names = {int(index): str(name) for index, name in self.model.config.id2label.items()}
        return [names[index] for index in sorted(names)]

    @property
    def long_names(self) -> dict[str, str]:
        """Short name -> long name; the short one again where the model knows no other."""
        known = getattr(self.model.config, "label_names", None) or {}
        return {label: str(known.get(label, label)) for label in self.labels}

    @property
    def groups(self) -> dict[str, str]:
        """Short name -> benign, premalignant or malignant; empty where the model knows no groups."""
        return dict(getattr(self.model.config, "label_groups", None) or {})

    @property
    def image_size(self) -> int | None:
        """Side of the square the model looks at, in pixels; None when it does not say."""
        return getattr(self.model.config, "image_size", None)


def load(source: ModelSource) -> Classifier:
    """Load a model and its processor. Runs the code that lies beside the weights: only name models you trust.

    Raises:
        ModelUnavailableError: it cannot be found, fetched or built.
    """
    if source.location.startswith(("/", ".", "~")) and not Path(source.location).is_dir():
        raise ModelUnavailableError(
            f"The model {source.title} could not be loaded: there is no folder {source.location}. Check LESION_MODELS."
        )
    options: dict[str, Any] = {"trust_remote_code": True}
    if source.revision:
        options["revision"] = source.revision
    try:
        model = AutoModelForImageClassification.from_pretrained(source.location, **options)
        processor = AutoImageProcessor.from_pretrained(source.location, **options)
    except _LOADING_FAILS as error:
        raise ModelUnavailableError(
            f"The model {source.title} could not be loaded: {_first_sentence(error)} Check that LESION_MODELS names a "
            "model folder or a Hub repository that this machine can reach."
        ) from error
    model.eval()
    return Classifier(source, model.to("cuda" if torch.cuda.is_available() else "cpu"), processor)


def _first_sentence(error: BaseException) -> str:
    """The first line of an error, shortened, without colour codes, with a full stop."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    text = text if len(text) <= 200 else text[:197] + "..."
    return text if text.endswith((".", "!", "?")) else text + "."


class ModelShelf:
    """The models on offer by title, each loaded when it is first asked for and then kept."""

    def __init__(self, sources: list[ModelSource]) -> None:
        self._sources: dict[str, ModelSource] = {}
        for source in sources:
            # Two folders of one name are told apart by their whole location.
            self._sources[source.location if source.title in self._sources else source.title] = source
        self._loaded: dict[str, Classifier] = {}
        self._failed: dict[str, tuple[float, ModelUnavailableError]] = {}
        self._lock = threading.Lock()

    @property
    def titles(self) -> list[str]:
        """What the page lists, in the order of LESION_MODELS."""
        return list(self._sources)

    def get(self, title: str | None) -> Classifier:
        """The classifier of that title, the first one for None.

        Raises:
            ModelUnavailableError: there is no such model, or it cannot be loaded.
        """
        if not self._sources:
            raise ModelUnavailableError(
                "No model is set. Start the page with LESION_MODELS=DIR_OR_REPO[@REVISION] in its environment."
            )
        if title is None:
            title = self.titles[0]
        if title not in self._sources:
            raise ModelUnavailableError(f"There is no model {title!r} here; known models: {', '.join(self.titles)}.")
        with self._lock:
            if title not in self._loaded:
                when, failure = self._failed.get(title, (-RETRY_AFTER_S, None))
                if failure is not None and time.monotonic() - when < RETRY_AFTER_S:
                    raise failure
                try:
                    self._loaded[title] = load(self._sources[title])
                except ModelUnavailableError as error:
                    self._failed[title] = (time.monotonic(), error)
                    raise
            return self._loaded[title]
