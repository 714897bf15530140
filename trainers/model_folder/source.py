"""Where a model comes from: a folder or a repository, loaded as plain transformers does; and a hash of its weights."""

from __future__ import annotations

import hashlib
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import cached_file, logging

from datasets_scripts.command import UserError
from hub_models import CLASSIFIERS
from model_cards.manifest import MANIFEST, file_facts
from model_cards.model_files import (
    CONFIG,
    DECIDING,
    PROCESSOR,
    WEIGHTS,
    ModelFileError,
    check_json,
    check_unchanged,
    check_weights,
)

# What a folder or repository that is no usable model makes transformers, timm, torch or its own code raise.
LOADING_FAILS = (
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
LONGEST_ERROR = 300


class ModelError(UserError):
    """A model that cannot be loaded, or cannot be used in this way."""


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        location: a folder, or an id ``organisation/name`` on the Hub.
        revision: branch, tag or commit of the Hub repository; None for a folder or the default branch.
        trust_remote_code: run the code that lies beside its weights, where it is not of this suite.
    """

    location: str
    revision: str | None = None
    trust_remote_code: bool = False

    @property
    def title(self) -> str:
        """The folder's name, or the id; names no path of the machine."""
        return Path(self.location).resolve().name if Path(self.location).is_dir() else self.location


def parse_source(text: str, trust_remote_code: bool = False) -> Source:
    """``DIR_OR_REPO[@REVISION]`` -> where to find it.

    Raises:
        ModelError: neither a folder nor an id.
    """
    if text and Path(text).is_dir():  # the path of an empty text is the working folder
        return Source(text, None, trust_remote_code)
    location, _, revision = text.partition("@")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", location) or ("@" in text and not revision):
        raise ModelError(
            f"--model {text!r} is neither a folder that exists nor ORG/NAME[@REVISION] on the Hub: give one of them"
        )
    return Source(location, revision or None, trust_remote_code)


def fetch(source: Source) -> tuple[Path, str | None]:
    """The folder in which a model's ``config.json`` lies, and the commit of a repository.

    Raises:
        ModelError: there is none.
    """
    if Path(source.location).is_dir() and not (Path(source.location) / "config.json").is_file():
        raise ModelError(
            f"--model {source.location!r} has no config.json: give the folder of a finished model, or "
            "ORG/NAME of one on the Hub"
        )
    try:
        config = cached_file(source.location, "config.json", revision=source.revision)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"--model {source.location!r}: {one_line(error)} Give the folder of a finished model, or a repository on "
            "the Hub that this machine can reach."
        ) from error
    if config is None:
        raise ModelError(f"--model {source.location!r} has no {CONFIG}: give the folder of a finished model")
    try:
        settings = check_json(Path(config))
    except ModelFileError as error:
        raise ModelError(f"--model {source.title}: {error}") from error
    known = {config_class.model_type for config_class in CLASSIFIERS}
    if "auto_map" in settings and settings.get("model_type") not in known and not source.trust_remote_code:
        raise ModelError(
            f"--model {source.title} needs code that lies beside its weights (model type "
            f"{settings.get('model_type')!r}): add --trust_remote_code if you trust whoever wrote it"
        )
    folder = Path(str(config)).parent
    return folder, None if Path(source.location).is_dir() else folder.name


def load(source: Source, commit: str | None) -> tuple[Any, Any]:
    """Model and image processor in float32.

    Raises:
        ModelError: they cannot be loaded, or the weights lack a part, which would answer at random.
    """
    options: dict[str, Any] = {"trust_remote_code": source.trust_remote_code}
    if commit:
        options["revision"] = commit
    try:
        check_files(source.location, commit)
    except UserError as error:
        raise ModelError(f"--model {source.title}: {error}") from error
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what matters of its warnings is checked below
    try:
        model, found = AutoModelForImageClassification.from_pretrained(
            source.location, output_loading_info=True, dtype=torch.float32, **options
        )
        processor = AutoImageProcessor.from_pretrained(source.location, **options)
    except LOADING_FAILS as error:
        raise ModelError(
            f"--model {source.title} cannot be loaded ({one_line(error)}): give an image classifier of transformers"
        ) from error
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"--model {source.title} lacks {len(missing)} of its weights, such as {missing[0]!r}, and would answer at "
            "random: give a model that was trained to classify"
        )
    return model, processor


def check_files(location: str, revision: str | None) -> None:
    """Check a model's files before anything is built from them: their format, their settings, and their manifest.

    Args:
        location: a folder, or a repository whose ``config.json`` can be had.
        revision: of the repository.

    Raises:
        UserError: names the file, and what is wrong with it.
    """

    def fetched(name: str) -> Path | None:
        try:
            path = cached_file(location, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            return None  # transformers names it, where it needs the file
        return None if path is None else Path(path)

    paths = {name: path for name in DECIDING if (path := fetched(name)) is not None}
    if CONFIG not in paths:
        return
    settings = check_json(paths[CONFIG])
    if PROCESSOR in paths:
        check_json(paths[PROCESSOR])
    if settings.get("model_type") in {config_class.model_type for config_class in CLASSIFIERS}:
        # Its own constructor checks more, and its message is better than that of a changed byte.
        try:
            AutoConfig.from_pretrained(location, revision=revision)
        except LOADING_FAILS as error:
            raise ModelError(f"{CONFIG}: {one_line(error)}") from error
        if WEIGHTS not in paths:
            raise ModelError(f"there is no {WEIGHTS} beside {CONFIG}: give a whole model, with its weights")
    if WEIGHTS in paths:
        check_weights(paths[WEIGHTS])
    check_unchanged(paths, fetched(MANIFEST))


def class_names(config: Any, title: str) -> list[str]:
    """The class names in the order of the logits.

    Raises:
        ModelError: fewer than two, one name twice, or classes that do not exclude each other.
    """
    names = {int(index): str(name) for index, name in dict(config.id2label or {}).items()}
    labels = [names[index] for index in sorted(names)]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ModelError(f"--model {title} has the classes {labels}: give one with two or more, of different names")
    if getattr(config, "problem_type", None) == "multi_label_classification":
        raise ModelError(f"--model {title} answers for each class by itself: give one whose classes exclude each other")
    return labels


def fingerprint(folder: Path) -> str:
    """sha256 over the files that decide what a model answers: weights, configs and code."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        decides = path.suffix in (".safetensors", ".bin", ".py") or path.name.endswith("config.json")
        if decides and path.is_file():
            digest.update(f"{file_facts(path)['sha256']}  {path.name}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def one_line(error: BaseException) -> str:
    """The message of an error on one line, shortened."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split()) or type(error).__name__
    text = printable(text)
    return text if len(text) <= LONGEST_ERROR else text[: LONGEST_ERROR - 3] + "..."


def printable(name: str) -> str:
    """A path as UTF-8 can hold it: bytes that are none are written out as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
