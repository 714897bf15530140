"""A loaded model and what it can do, by its attributes and never by its name: any image classifier works."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
from model_files import read_json

MALIGNANT_GROUPS = ("malignant", "premalignant")
REPORT = "report.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
# What the Hub's client raises where a file cannot be had, or an answer has another form than it expects.
HUB_FAILS = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        location: a folder, or an id ``organisation/name`` on the Hub.
        revision: branch, tag or commit of the Hub repository; None for a folder or the default branch.
        runs_code: whether the Python files beside the weights may run.
        visitors: whether a visitor named it, and not the host.
    """

    location: str
    revision: str | None = None
    runs_code: bool = True
    visitors: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether it lies on this machine; what a visitor named never does."""
        return not self.visitors and Path(self.location).is_dir()

    @property
    def name(self) -> str:
        """The last part of the location."""
        return Path(self.location).resolve().name if self.is_folder else self.location.split("/")[-1]

    @property
    def title(self) -> str:
        """What the page calls it: its name, with the revision; of a full commit the first eight digits."""
        if not self.revision:
            return self.name
        return f"{self.name} @ {self.revision[:8] if COMMIT.fullmatch(self.revision) else self.revision}"

    @property
    def advice(self) -> str:
        """What to do when it cannot be loaded."""
        if self.visitors:
            code = "" if self.runs_code else " Models that bring their own code are not run here."
            return f"Check the id, and that it is an image classifier with safetensors weights.{code}"
        return "Check that LESION_MODELS names a model folder or a Hub repository that this machine can reach."


def kind_of(labels: Sequence[str], groups: Mapping[str, str]) -> str:
    """What a model distinguishes: "benign or malignant" of two such classes, else how many diagnoses.

    Args:
        labels: its classes.
        groups: class -> benign, premalignant or malignant, as far as known.
    """
    if len(labels) == 2 and {groups.get(label) for label in labels} == {"benign", "malignant"}:
        return "benign or malignant"
    return f"{len(labels)} diagnoses" if groups else f"{len(labels)} classes"


@dataclass(frozen=True)
class Classifier:
    """A loaded model with its image processor, in eval mode; ``commit``: of the Hub, None of a folder."""

    source: ModelSource
    model: Any
    processor: Any
    commit: str | None = None

    @cached_property
    def labels(self) -> list[str]:
        """Short class names in the order of the logits."""
        names = {int(index): str(name) for index, name in self.model.config.id2label.items()}
        return [names[index] for index in sorted(names)]

    @cached_property
    def long_names(self) -> dict[str, str]:
        """Short name -> long name; the short one where the model has no other."""
        known = getattr(self.model.config, "label_names", None) or {}
        return {label: str(known.get(label, label)) for label in self.labels}

    @cached_property
    def groups(self) -> dict[str, str]:
        """Short name -> benign, premalignant or malignant; empty where the model knows no groups."""
        return dict(getattr(self.model.config, "label_groups", None) or {})

    @property
    def at_risk_name(self) -> str:
        """What its classes at risk are called together: "malignant or premalignant", or the one group that it knows."""
        known = [group for group in MALIGNANT_GROUPS if group in self.groups.values()]
        return " or ".join(known or MALIGNANT_GROUPS)

    @property
    def kind(self) -> str:
        """What it distinguishes, in words: "7 diagnoses", or "benign or malignant"."""
        return kind_of(self.labels, self.groups)

    @cached_property
    def report(self) -> dict[str, Any]:
        """The report beside its weights; empty where there is none that can be read."""
        place, revision = self.source.location, self.commit or self.source.revision
        try:
            path = (
                f"{place}/{REPORT}"
                if self.source.is_folder
                else huggingface_hub.hf_hub_download(place, REPORT, revision=revision)
            )
            return read_json(Path(path), finite=False)
        except HUB_FAILS:
            return {}

    @property
    def image_size(self) -> int | None:
        """Side of the square input in pixels; None when the config does not name it."""
        size = getattr(self.model.config, "image_size", None)
        return size if isinstance(size, int) else None

    @property
    def title(self) -> str:
        """What the page calls it."""
        return self.source.title

    @property
    def is_lesion_model(self) -> bool:
        """Whether it has ``predict``, as the models of Lesion Suite do."""
        return hasattr(self.model, "predict")

    @property
    def trust(self) -> Mapping[str, Any]:
        """What was fitted about how far it can be trusted; empty where nothing was."""
        return dict(getattr(self.model.config, "trust", None) or {})

    @property
    def trust_is_fitted(self) -> bool:
        """Whether all of trust was fitted, so that it has band, set and gate."""
        check = getattr(self.model, "check_trust_is_fitted", None)
        if check is None:
            return False
        try:
            check()
        except RuntimeError:
            return False
        return True

    @property
    def input_names(self) -> tuple[str, ...]:
        """What its forward pass takes."""
        return tuple(getattr(self.model, "input_names", ("pixel_values",)))

    @property
    def reads_images(self) -> bool:
        """Whether the image plays a part; a metadata-only model's answer would be the same without."""
        return "pixel_values" in self.input_names

    @property
    def fields(self) -> dict[str, dict[str, Any]]:
        """Metadata fields that it takes beside the image, name -> vocabulary; empty where it takes none."""
        known = getattr(self.processor, "metadata_fields", None) or {}
        return dict(known) if "metadata" in self.input_names else {}

    @cached_property
    def heat_method(self) -> str:
        """The method of its heat maps; "" where it has none. Finding it goes through all layers."""
        methods = getattr(self.model, "explanation_methods", None)
        found = methods() if methods is not None else []
        return str(found[0]) if found else ""

    @property
    def can_explain(self) -> bool:
        """Whether it has heat maps."""
        return bool(self.heat_method)

    @cached_property
    def explains_in_passing(self) -> bool:
        """Whether ``predict`` gives the heat map too, from the same forward pass; older models do not."""
        return (
            self.can_explain
            and self.is_lesion_model
            and "explain" in inspect.signature(self.model.predict).parameters
            # An exported graph has no map, and is faster than a second pass.
            and getattr(getattr(self.model, "graph", None), "name", "torch") in ("torch", "folded")
        )

    @property
    def calibrated_share(self) -> float | None:
        """Share of malignant and premalignant lesions where it was calibrated; None where that is not known."""
        prior = (self.trust.get("prior") or {}).get("value")
        if not prior or not self.is_lesion_model:
            return None
        share = sum(
            p for label, p in zip(self.labels, prior, strict=True) if self.groups.get(label) in MALIGNANT_GROUPS
        )
        return share if 0 < share < 1 else None

    def prior_at(self, share: float) -> dict[str, float]:
        """Class frequencies where that share of lesions is malignant or premalignant; within each part as calibrated.

        Args:
            share: in (0, 1).
        """
        was = self.calibrated_share
        if was is None:
            raise ValueError(f"how frequent the classes are is not known of {self.title}")
        prior = {}
        for label, p in zip(self.labels, self.trust["prior"]["value"], strict=True):
            prior[label] = p * (share / was if self.groups.get(label) in MALIGNANT_GROUPS else (1 - share) / (1 - was))
        total = sum(prior.values())
        return {label: p / total for label, p in prior.items()}
