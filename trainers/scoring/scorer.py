"""Any image classifier as the score command sees it: what it takes, and its answers to a batch of files.

A model of this suite answers with everything that :meth:`predict` says; any other ``AutoModelForImageClassification``
with its probabilities alone, so that it can be measured on the same images.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from hub_models.preprocess_lesion import open_image
from hub_models.trust_lesion import PriorError, check_finite, check_prior, entropy
from model_cards.manifest import file_facts
from trainers.model_folder.source import ModelError, Source, class_names, fetch, load, one_line, printable
from trainers.scoring.answers import NOT_OUR_MODEL, flat
from trainers.scoring.files import ImagesError, Listed, Row

# What Pillow's readers raise on files that are no whole image; a photo that is too large for the memory is one, too.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
NO_TRUST_OF_OURS = "This model is not of this suite: nothing says how far its answer can be trusted."


@dataclass(frozen=True)
class Asked:
    """How the model is asked; the same for every image of a run.

    Attributes:
        inference: a way of ``model.infer``.
        samples: passes of MC dropout.
        seed: of the dropout masks.
        trust: whether band, set, gate and verdict are asked for.
        prior: class -> share that the probabilities are re-weighted to; None = as it was calibrated.
        keep_logits: whether raw logits are kept for a report.
        keep_features: whether features are, too.
    """

    inference: str = "plain"
    samples: int = 30
    seed: int = 0
    trust: bool = True
    prior: Mapping[str, float] | None = None
    keep_logits: bool = False
    keep_features: bool = False


class Scorer:
    """A loaded model with its image processor, ready to be asked about batches of files.

    Args:
        source: the model.
        asked: how it is asked.
        device: where it runs; None = the first GPU, or the processor where there is none.

    Raises:
        ModelError: it cannot be loaded, is none for classes, or cannot be asked like this.
    """

    def __init__(self, source: Source, asked: Asked, device: str | None = None) -> None:
        self.asked = asked
        self.folder, self.commit = fetch(source)
        self.model, self.processor = load(source, self.commit)
        self.title = source.title
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model.to(self.device).eval()
        # Asked of the model, not of its class: code that came with a repo is another class of the same name.
        self.ours = callable(getattr(self.model, "answer_in_words", None))
        self.labels = class_names(self.model.config, self.title)
        self.inputs = list(getattr(self.processor, "model_input_names", None) or ["pixel_values"])
        self.fields = list(getattr(self.processor, "metadata_fields", None) or ()) if "metadata" in self.inputs else []
        # A model that reads no image gets none, whatever the file holds.
        self.looks = not self.ours or "pixel_values" in self.inputs

    def check(self) -> None:
        """Ask about a grey image, so that whatever cannot work fails before the first image.

        Raises:
            ModelError: trust or a prior was asked for and never fitted, or the way of asking is not this model's.
        """
        asked = self.asked
        if not self.ours:
            for option, given in (("--inference", asked.inference != "plain"), ("--prior", asked.prior is not None)):
                if given:
                    raise ModelError(f"--model {self.title} is not of this suite: leave {option} out")
        advice = f"fit it with `python -m trainers.fit_trust {self.title} ...`"
        if self.ours and asked.trust:
            try:
                self.model.check_trust_is_fitted()
            except RuntimeError as error:  # TrustNotFittedError, under whatever module's name it was loaded
                raise ModelError(f"--model {self.title} has no trust ({error}): {advice}, or add --no_trust") from error
        if asked.prior is not None:
            if not self.calibration_prior():
                raise ModelError(f"--prior needs the prior that --model {self.title} was calibrated at: {advice}")
            try:
                check_prior(asked.prior, self.labels)
            except PriorError as error:
                raise ModelError(f"--prior: {error}") from error
        try:
            self.answer([self.prepare(Image.new("RGB", (64, 64), "grey"), {})])
        except (ValueError, ImportError, RuntimeError, TypeError) as error:
            raise ModelError(f"--model {self.title} cannot be asked like this: {one_line(error)}") from error

    def calibration_prior(self) -> list[float] | None:
        """The class shares (C,) that the probabilities hold for; None where they were never fitted."""
        trust = getattr(self.model.config, "trust", None) or {}
        return (trust.get("prior") or {}).get("value") if self.ours else None

    def has_biases(self) -> bool:
        """Whether its calibration has a bias a class, as estimates of a prior need it (Alexandari et al. 2020)."""
        return bool((getattr(self.model.config, "trust", None) or {}).get("temperature", {}).get("bias"))

    def check_rows(self, rows: Mapping[str, Row], where: str) -> None:
        """Check rows of metadata.

        Raises:
            ModelError: the model reads none, or none of these columns, or a value is outside its vocabulary.
        """
        columns = next(iter(rows.values())).keys()
        if not self.fields:
            raise ModelError(f"--model {self.title} looks at images alone: leave {where} out")
        if not set(self.fields) & set(columns):
            raise ModelError(
                f"{where} has none of the columns that the model reads: give image,{','.join(self.fields)}"
            )
        for image, row in rows.items():
            try:
                self.processor.encode([self.record(row)])
            except ValueError as error:
                raise ModelError(f"{where}, image {image!r}: {error}") from error

    def record(self, row: Row | None) -> dict[str, Any]:
        """What the model reads of a row of metadata; what is left out is unknown."""
        return {name: row[name] for name in self.fields if name in row} if row else {}

    def score(self, root: Path, batch: Sequence[Listed]) -> list[dict[str, Any]]:
        """Answer a batch of files: a row of :func:`part_columns` for each, in order.

        A file that cannot be read becomes a row with its error.
        """
        rows: list[dict[str, Any]] = []
        inputs: list[dict[str, torch.Tensor]] = []
        places: list[int] = []
        for listed in batch:
            name, path = printable(listed.image), root / listed.image
            digest = None
            try:
                digest = file_facts(path)["sha256"]
                picture = open_image(path) if self.looks else None
                inputs.append(self.prepare(picture, self.record(listed.metadata)))
                places.append(len(rows))
                rows.append({"image": name, "sha256": digest})
            except UNREADABLE as error:
                why = one_line(error).replace(printable(str(path)), name)
                rows.append({**flat(name, None, self.labels, why), "sha256": digest or "unreadable"})
        for place, (answer, raw, error_text) in zip(places, self.answer_each(inputs), strict=True):
            rows[place] = {**rows[place], **flat(rows[place]["image"], answer, self.labels, error_text), **raw}
        return rows

    def answer_each(
        self, items: Sequence[Mapping[str, torch.Tensor]]
    ) -> list[tuple[dict[str, Any] | None, dict[str, Any], str | None]]:
        """Of each item the answer, what is kept of it, and why there is none: one bad image spoils no batch."""
        if not items:
            return []
        try:
            answers, kept = self.answer(items)
        except ValueError as error:  # NotFiniteError, under whatever module's name it was loaded
            if len(items) == 1:
                return [(None, {}, one_line(error))]
            return [self.answer_each([item])[0] for item in items]
        return [(answer, raw, None) for answer, raw in zip(answers, kept, strict=True)]

    def prepare(self, picture: Image.Image | None, record: dict[str, Any]) -> dict[str, torch.Tensor]:
        """One image and what is known beside it -> the model's inputs, a batch of one."""
        item: Any = {"image": picture, **record} if self.fields else picture
        inputs = dict(self.processor(images=item, return_tensors="pt"))
        # Some processors of other models cut an image into several: these would be the answers of the next images.
        rows = {name: len(value) for name, value in inputs.items() if len(value) != 1}
        if rows:
            raise ValueError(f"its image processor makes {rows} rows of one image; one row is needed")
        return inputs

    @torch.inference_mode()
    def answer(self, items: Sequence[Mapping[str, torch.Tensor]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Answers of a batch, and what is kept of its forward pass."""
        inputs = {name: torch.cat([item[name] for item in items]).to(self.device) for name in items[0]}
        asked = self.asked
        if self.ours:
            output = self.model.infer(inputs, asked.inference, samples=asked.samples, seed=asked.seed)
            prepared_as = self.processor.pixel_settings()
            withdrawn = self.model.why_withdrawn(inputs, asked.inference, asked.prior, prepared_as)
            answers = self.model.answer_in_words(output, trust=asked.trust, prior=asked.prior, withdrawn=withdrawn)
        else:
            output = self.model(**inputs)
            check_finite("the logits", output.logits, "no class can be named; fetch the model again, or give another")
            answers = [self.in_words(row) for row in functional.log_softmax(output.logits.double(), dim=-1).cpu()]
        return answers, self.kept(output) if asked.keep_logits else [{} for _ in answers]

    def in_words(self, log_probs: torch.Tensor) -> dict[str, Any]:
        """What can be said of a model that is not ours: log probabilities (C,) -> its probabilities, and no trust."""
        empty = ("p_malignant", "aleatoric", "epistemic", "band", "prediction_set", "ood_score", "is_ood", "abstain")
        return {
            "predicted": self.labels[int(log_probs.argmax())],
            "probabilities": dict(zip(self.labels, log_probs.exp().tolist(), strict=True)),
            "predictive_entropy": float(entropy(log_probs)),
            **dict.fromkeys(empty),
            "reason": NOT_OUR_MODEL,
            "message": NO_TRUST_OF_OURS,
        }

    def kept(self, output: Any) -> list[dict[str, Any]]:
        """Raw logits (M, C), flattened, and where they are kept features (D,) of each image."""
        raw = output.raw_logits if self.ours else output.logits
        logits = raw.float().cpu().numpy().reshape(len(raw), -1)
        if not (self.ours and self.asked.keep_features):
            return [{"logits": row} for row in logits]
        features = output.features.float().cpu().numpy().astype(np.float16)
        return [{"logits": row, "features": more} for row, more in zip(logits, features, strict=True)]


def read_one(scorer: Scorer, root: Path, listed: Listed) -> dict[str, Any]:
    """The answer about one image, with the keys of ``predict``.

    Raises:
        ImagesError: it cannot be read.
    """
    try:
        picture = open_image(root / listed.image) if scorer.looks else None
        inputs = scorer.prepare(picture, scorer.record(listed.metadata))
    except UNREADABLE as error:
        raise ImagesError(f"--images {one_line(error)}") from error
    try:
        return scorer.answer([inputs])[0][0]
    except ValueError as error:
        raise ImagesError(f"--images {listed.image}: {one_line(error)}") from error
