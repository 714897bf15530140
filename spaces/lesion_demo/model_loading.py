"""The host's settings, and the models: which the page offers, and loading them by the Auto classes, once each."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from classifier import COMMIT, Classifier, ModelSource, kind_of
from huggingface_hub import try_to_load_from_cache
from model_files import ModelFileError, check_files
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForImageClassification

CONFIG = "config.json"
ANY_MODEL = ("", "0", "1", "code")
BACKENDS = ("auto", "torch", "folded", "openvino", "onnx")
RETRY_AFTER_S = 30.0  # a model that failed to load is not tried again sooner
MOST_VISITORS_MODELS = 2  # kept in memory of those that visitors named; the oldest goes first
# A path of the machine, from its root; "and/or" is none, nor a link.
_PATH = re.compile(r"(?<![\w:/.<])(?:/[\w.@+-](?:[\w.@+ -]*[\w.@+-])?)+/?")
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}(@[\w./-]{1,100})?")

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
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
)


class ModelSettingError(ValueError):
    """A setting of the page that cannot be understood."""


class ModelUnavailableError(RuntimeError):
    """A model that cannot be loaded, or is not offered; the message is fit for the page."""


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
class Settings:
    """The host's decisions.

    Attributes:
        models: what the page offers.
        allow_any: ``no``; ``plain``: visitors may name models of the Hub, whose own code is never run; ``code``: theirs
            too, which hands the machine to whoever writes a repository.
        examples: a folder of the host's own example images, or None.
        gallery: a folder or dataset repository of similar cases, or None.
        backend: what runs the networks: ``auto`` takes the graph beside the weights where it can, ``torch`` never.
    """

    models: list[ModelSource]
    allow_any: str = "no"
    examples: Path | None = None
    gallery: str | None = None
    backend: str = "auto"


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from LESION_MODELS, LESION_ALLOW_ANY, LESION_EXAMPLES, LESION_GALLERY and LESION_BACKEND.

    Raises:
        ModelSettingError: one of them cannot be understood; the message names it, its value and what to do.
    """
    models = parse_models(environment.get("LESION_MODELS", ""))
    allow = environment.get("LESION_ALLOW_ANY", "").strip().lower()
    if allow not in ANY_MODEL:
        raise ModelSettingError(f"LESION_ALLOW_ANY is {allow!r}; give 1 (no code of theirs), code (theirs too) or 0")
    examples = environment.get("LESION_EXAMPLES", "").strip()
    if examples and not (Path(examples) / "examples.json").is_file():
        raise ModelSettingError(f"LESION_EXAMPLES is {examples!r}; give a folder that holds examples.json")
    backend = environment.get("LESION_BACKEND", "").strip().lower() or "auto"
    if backend not in BACKENDS:
        raise ModelSettingError(f"LESION_BACKEND is {backend!r}; give one of {', '.join(BACKENDS)}")
    return Settings(
        models=models,
        allow_any={"": "no", "0": "no", "1": "plain", "code": "code"}[allow],
        examples=Path(examples) if examples else None,
        gallery=environment.get("LESION_GALLERY", "").strip() or None,
        backend=backend,
    )


def load(source: ModelSource, backend: str = "auto") -> Classifier:
    """Load a model and its processor. Runs the code that lies beside the weights where the source allows it.

    Args:
        source: where it comes from.
        backend: what runs its network, as in :class:`Settings`; a model without such a choice runs with torch.

    Raises:
        ModelUnavailableError: it cannot be found, fetched or built.
    """
    if source.location.startswith(("/", ".", "~")) and not source.is_folder:
        raise ModelUnavailableError(
            f"The model {source.title} could not be loaded: its folder is not there. Check LESION_MODELS."
        )
    options: dict[str, Any] = {"trust_remote_code": source.runs_code}
    if source.revision:
        options["revision"] = source.revision
    try:
        check_files(source.location, source.revision)
        # Weights of somebody else come as safetensors or not at all: other formats can hold programs.
        weights = {} if source.runs_code else {"use_safetensors": True}
        model = AutoModelForImageClassification.from_pretrained(source.location, **options, **weights)
        processor = AutoImageProcessor.from_pretrained(source.location, **options)
        model.eval()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = model.to(device)
        if callable(getattr(model, "use_backend", None)):
            model.use_backend(backend)
        return Classifier(source, model, processor, _commit_of(source))
    except ModelFileError as error:
        raise ModelUnavailableError(f"The model {source.title} could not be loaded: {error}.") from error
    except _LOADING_FAILS as error:
        raise ModelUnavailableError(
            f"The model {source.title} could not be loaded: {_without_paths(_first_sentence(error))} {source.advice}"
        ) from error


def _commit_of(source: ModelSource) -> str | None:
    """The full commit of what was just loaded from the Hub: the name of its folder in the Hub client's cache."""
    if source.is_folder:
        return None
    config = try_to_load_from_cache(source.location, CONFIG, revision=source.revision)
    commit = Path(config).parent.name if isinstance(config, str) else source.revision or ""
    return commit if COMMIT.fullmatch(commit) else None


def _first_sentence(error: BaseException) -> str:
    """The first line of an error, shortened, without colour codes, with a full stop."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    text = text if len(text) <= 200 else text[:197] + "..."
    return text if text.endswith((".", "!", "?")) else text + "."


def _without_paths(text: str) -> str:
    """An error as visitors may read it: of the machine's paths the last part alone."""
    return _PATH.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], text)


class ModelStore:
    """The models on offer by title, each loaded at its first use and then kept.

    Args:
        sources: what the host offers.
        allow_any: ``no``, ``plain`` or ``code``: whether visitors may name models, and whether their code runs.
        backend: what runs their networks, as in :class:`Settings`.
    """

    def __init__(self, sources: list[ModelSource], allow_any: str = "no", backend: str = "auto") -> None:
        self._sources: dict[str, ModelSource] = {}
        for source in sources:
            title, number = source.title, 2
            while title in self._sources:  # two folders of one name; their paths are nobody's business
                title, number = f"{source.title} ({number})", number + 1
            self._sources[title] = source
        self._allow_any = allow_any
        self._backend = backend
        self._visitors: list[str] = []
        self._loaded: dict[str, Classifier] = {}
        self._failed: dict[str, tuple[float, ModelUnavailableError]] = {}
        self._lock = threading.RLock()

    @property
    def titles(self) -> list[str]:
        """What the page lists: the host's in the order of LESION_MODELS, then what visitors named."""
        return list(self._sources)

    @property
    def choices(self) -> list[tuple[str, str]]:
        """Menu entry and title of each model; the entry starts with what it distinguishes, as far as that is known yet.

        On a phone the end of a long entry is cut off.
        """
        kinds = {title: self._kind(title) for title in self.titles}
        return [(f"{kind}: {title}" if kind else title, title) for title, kind in kinds.items()]

    def _kind(self, title: str) -> str:
        """ "7 diagnoses", from the model or its config.json; "" where neither is here yet."""
        source, loaded = self._sources[title], self._loaded.get(title)
        if loaded is not None:
            return loaded.kind
        path: Any = Path(source.location) / CONFIG if source.is_folder else None
        if path is None and REPO_ID.fullmatch(source.location):
            path = try_to_load_from_cache(source.location, CONFIG, revision=source.revision)
        if not isinstance(path, (str, Path)):
            return ""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            groups = dict(content.get("label_groups") or {})
            return kind_of([str(name) for name in content["id2label"].values()], groups)
        except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
            return ""  # loading it names the error

    @property
    def takes_any(self) -> bool:
        """Whether visitors may name a model of the Hub."""
        return self._allow_any != "no"

    def add(self, text: str) -> str:
        """Take in and load a model that a visitor named; its title.

        Raises:
            ModelUnavailableError: that is not allowed here, the text is no id of the Hub, or it cannot be loaded.
        """
        text = text.strip()
        if not self.takes_any:
            raise ModelUnavailableError("This page shows the models of its host only.")
        # A relative folder of the machine looks like an id, and from_pretrained would prefer it.
        if not REPO_ID.fullmatch(text) or ".." in text or Path(text.split("@")[0]).exists():
            raise ModelUnavailableError(f"{text[:100]!r} is no id of the Hub; write ORGANISATION/NAME[@REVISION].")
        location, _, revision = text.partition("@")
        source = ModelSource(location, revision or None, runs_code=self._runs_code(location), visitors=True)
        with self._lock:
            if text not in self._sources:
                self._loaded[text] = load(source, self._backend)
                self._sources[text] = source
                self._visitors.append(text)
                while len(self._visitors) > MOST_VISITORS_MODELS:
                    oldest = self._visitors.pop(0)
                    self._sources.pop(oldest, None)
                    self._loaded.pop(oldest, None)
        return text

    def _runs_code(self, location: str) -> bool:
        """Code runs where the host allows it, or comes from an organisation whose models the host offers anyway."""
        organisations = {
            source.location.split("/")[0]
            for source in self._sources.values()
            if not source.is_folder and not source.visitors
        }
        return self._allow_any == "code" or location.split("/")[0] in organisations

    def _known_as(self, name: str | None) -> str:
        """The title of a model by its title, or by name or id where that is of one model alone."""
        if name is None or name in self._sources:
            return name or self.titles[0]
        titles = [title for title, source in self._sources.items() if name in (source.name, source.location)]
        return titles[0] if len(titles) == 1 else name

    def get(self, title: str | None) -> Classifier:
        """The classifier of that title (or of that name or id, where there is one of it), the first one for None.

        Raises:
            ModelUnavailableError: there is no such model, or it cannot be loaded.
        """
        if title is not None and not isinstance(title, str):
            raise ModelUnavailableError(f"model is {repr(title)[:100]}; give one name, not {type(title).__name__}.")
        if not self._sources:
            raise ModelUnavailableError(
                "No model is set. Start the page with LESION_MODELS=DIR_OR_REPO[@REVISION] in its environment."
            )
        title = self._known_as(title)
        if title not in self._sources:
            raise ModelUnavailableError(
                f"There is no model {title[:100]!r} here; known models: {', '.join(self.titles)}."
            )
        with self._lock:
            if title not in self._loaded:
                when, failure = self._failed.get(title, (-RETRY_AFTER_S, None))
                if failure is not None and time.monotonic() - when < RETRY_AFTER_S:
                    raise failure
                try:
                    self._loaded[title] = load(self._sources[title], self._backend)
                except ModelUnavailableError as error:
                    self._failed[title] = (time.monotonic(), error)
                    if not self._sources[title].visitors:
                        print(f"{error} It is set as {self._sources[title].location}", file=sys.stderr)
                    raise
            return self._loaded[title]

    def load_one(self) -> str:
        """Load the host's models in order until one can be loaded; the reasons of all where none can, in one line."""
        failures: list[str] = []
        for title, source in self._sources.items():
            try:
                self._loaded[title] = load(source, self._backend)
            except ModelUnavailableError as error:
                self._failed[title] = (time.monotonic(), error)
                failures.append(f"{source.location}: {error}")
                continue
            for failure in failures:
                print(f"warning: not shown: {failure}", file=sys.stderr)
            return ""
        return "; ".join(failures)

    def load_ahead(self) -> None:
        """Load all of the host's models in the background, so that no visitor waits; failures are shown later."""

        def work() -> None:
            for title in self.titles:
                try:
                    self.get(title)
                except ModelUnavailableError:
                    continue

        threading.Thread(target=work, daemon=True, name="load models").start()
