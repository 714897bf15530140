"""What the host of the page decides, read from the environment once; every setting is described in the README."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model_loading import ModelSettingError, ModelSource, parse_models

ANY_MODEL = ("", "0", "1", "code")


@dataclass(frozen=True)
class Settings:
    """The host's decisions.

    Attributes:
        models: what the page offers.
        allow_any: ``no``; ``plain``: visitors may name models of the Hub, whose own code is never run; ``code``: theirs
            too, which hands the machine to whoever writes a repository.
        examples: a folder of the host's own example images, or None.
        gallery: a folder or dataset repository of similar cases, or None.
    """

    models: list[ModelSource]
    allow_any: str = "no"
    examples: Path | None = None
    gallery: str | None = None


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from LESION_MODELS, LESION_ALLOW_ANY, LESION_EXAMPLES and LESION_GALLERY.

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
    return Settings(
        models=models,
        allow_any={"": "no", "0": "no", "1": "plain", "code": "code"}[allow],
        examples=Path(examples) if examples else None,
        gallery=environment.get("LESION_GALLERY", "").strip() or None,
    )
