"""Any image classifier as the score command sees it: what it takes, and its answers to a batch of files.

A model of this suite answers with everything that :meth:`predict` says; any other ``AutoModelForImageClassification``
with its probabilities alone, so that it can be measured on the same images.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from datasets_scripts.command import UserError
from datasets_scripts.images import frames_in
from hub_models.groups_lesion import GROUP
from hub_models.preprocess_lesion import open_image
from hub_models.trust_lesion import PriorError, check_finite, check_prior, entropy
from model_cards.manifest import file_facts
from trainers.model_folder.source import ModelError, Source, class_names, fetch, load, one_line, printable
from trainers.scoring.answers import NOT_OUR_MODEL, flat
from trainers.scoring.files import Listed, Row, Table
from trainers.scoring.labels import subgroup_columns
from trainers.trust.groups import group_values

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
class AnswerSettings:
    """How the model answers; the same for every image of a run.

    Attributes:
        inference: a way of ``model.infer``.
        samples: passes of MC dropout.
        seed: of the dropout masks.
        trust: whether answers have band, set, gate and verdict.
        prior: class -> share that the probabilities are re-weighted to; None = as it was calibrated.
        decision: the rule that names the class; None = the model's own.
        keep_logits: whether raw logits are kept for a report.
        keep_features: whether features are, too.
        backend: what runs the network: ``auto``, ``torch``, ``openvino`` or ``onnx``.
    """

    inference: str = "plain"
    samples: int = 30
    seed: int = 0
    trust: bool = True
    prior: Mapping[str, float] | None = None
    decision: str | None = None
    keep_logits: bool = False
    keep_features: bool = False
    backend: str = "auto"


@dataclass(frozen=True)
class ReadBatch:
    """A batch of files as read.

    Attributes:
        rows: one per file; complete where it could not be read.
        inputs: of the K files that could be read, what the model takes, each a batch of one.
        places: (K,) their rows.
    """

    rows: list[dict[str, Any]]
    inputs: list[dict[str, torch.Tensor]]
    places: list[int]


class Scorer:
    """A loaded model with its image processor, which answers batches of files.

    Args:
        source: the model.
        settings: how it answers.
        device: where it runs; None = the first GPU, or the processor where there is none.

    Raises:
        ModelError: it cannot be loaded, is none for classes, or cannot answer with these settings.
    """

    def __init__(self, source: Source, settings: AnswerSettings, device: str | None = None) -> None:
        self.settings = settings
        self.folder, self.commit = fetch(source)
        self.model, self.processor = load(source, self.commit)
        self.title = source.title
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model.to(self.device).eval()
        # A property of the model, not of its class: code that came with a repo is another class of the same name.
        self.ours = callable(getattr(self.model, "answer_in_words", None))
        self.backend = self.chosen_backend()
        self.labels = class_names(self.model.config, self.title)
        self.inputs = list(getattr(self.processor, "model_input_names", None) or ["pixel_values"])
        self.fields = list(getattr(self.processor, "metadata_fields", None) or ()) if "metadata" in self.inputs else []
        # Sets and bands by group, where they were fitted so.
        self.groups = (getattr(self.model.config, "trust", None) or {}).get("groups") if self.ours else None
        # A model that reads no image gets none, whatever the file holds.
        self.looks = not self.ours or "pixel_values" in self.inputs

    def chosen_backend(self) -> str:
        """What runs the network from here on.

        Raises:
            ModelError: the requested backend is not possible for this model, or not here.
        """
        wanted = self.settings.backend
        if not callable(getattr(self.model, "use_backend", None)):
            if wanted not in ("auto", "torch"):
                raise ModelError(f"--backend {wanted}: --model {self.title} runs with torch alone: leave it out")
            return "torch"
        try:
            return self.model.use_backend(wanted)
        except ValueError as error:  # BackendError, under whatever module's name it was loaded
            raise ModelError(f"--backend {wanted}, --model {self.title}: {one_line(error)}") from error

    def check(self) -> None:
        """Answer a grey image, so that whatever cannot work fails before the first image.

        Raises:
            ModelError: trust or a prior is needed and was never fitted, or the model has no such inference.
        """
        settings = self.settings
        if not self.ours:
            for option, given in (
                ("--inference", settings.inference != "plain"),
                ("--prior", settings.prior is not None),
                ("--decision", settings.decision is not None),
            ):
                if given:
                    raise ModelError(f"--model {self.title} is not of this suite: leave {option} out")
        advice = f"fit it with `python -m trainers.fit_trust {self.title} ...`"
        if self.ours and settings.trust:
            try:
                self.model.check_trust_is_fitted()
            except RuntimeError as error:  # TrustNotFittedError, under whatever module's name it was loaded
                raise ModelError(f"--model {self.title} has no trust ({error}): {advice}, or add --no_trust") from error
        if settings.prior is not None:
            if not self.calibration_prior():
                raise ModelError(f"--prior needs the prior that --model {self.title} was calibrated at: {advice}")
            try:
                check_prior(settings.prior, self.labels)
            except PriorError as error:
                raise ModelError(f"--prior: {error}") from error
        try:
            self.answer([self.prepare(Image.new("RGB", (64, 64), "grey"), {})])
        except (ValueError, ImportError, RuntimeError, TypeError) as error:
            raise ModelError(f"--model {self.title} cannot answer with these settings: {one_line(error)}") from error

    def calibration_prior(self) -> list[float] | None:
        """The class shares (C,) that the probabilities hold for; None where they were never fitted."""
        trust = getattr(self.model.config, "trust", None) or {}
        return (trust.get("prior") or {}).get("value") if self.ours else None

    def has_biases(self) -> bool:
        """Whether its calibration has a bias per class, as estimates of a prior need it (Alexandari et al. 2020)."""
        return bool((getattr(self.model.config, "trust", None) or {}).get("temperature", {}).get("bias"))

    def check_rows(self, rows: Mapping[str, Row], where: str) -> None:
        """Check rows of metadata.

        Raises:
            ModelError: the model reads none, or none of these columns, or a value is outside its vocabulary.
        """
        columns = next(iter(rows.values())).keys()
        read = [*self.fields, *([self.groups["read_from"]] if self.groups else [])]
        if not read:
            raise ModelError(f"--model {self.title} looks at images alone: leave {where} out")
        if not set(read) & set(columns):
            raise ModelError(f"{where} has none of the columns that the model reads: give image,{','.join(read)}")
        for image, row in rows.items():
            try:
                if self.fields:
                    self.processor.encode([self.record(row)])
                else:
                    subgroup_columns([row])
            except (ValueError, UserError) as error:
                raise ModelError(f"{where}, image {image!r}: {error}") from error

    def record(self, row: Row | None) -> dict[str, Any]:
        """What the model reads of a row of metadata; what is left out is unknown."""
        return {name: row[name] for name in self.fields if name in row} if row else {}

    def group(self, listed: Listed) -> int:
        """The index of an image's group among those that sets and bands were fitted for; -1 = not known."""
        if not self.groups:
            return -1
        columns = subgroup_columns([{**(listed.metadata or {}), **(listed.labels or {})}])
        (value,) = group_values(self.groups["column"], columns, 1)
        names = list(self.groups["values"])
        return names.index(value) if value in names else -1

    def read(self, root: Path, batch: Sequence[Listed]) -> ReadBatch:
        """Read and prepare a batch of files; another thread may do so while the model runs.

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
                image = open_image(path) if self.looks else None
                inputs.append(self.prepare(image, self.record(listed.metadata), self.group(listed)))
                places.append(len(rows))
                rows.append({"image": name, "sha256": digest})
            except UNREADABLE as error:
                why = one_line(error).replace(printable(str(path)), name)
                rows.append({**flat(name, None, self.labels, why), "sha256": digest or "unreadable"})
        return ReadBatch(rows, inputs, places)

    def score_read(self, batch: ReadBatch) -> list[dict[str, Any]]:
        """Answer a batch that was read: a row of :func:`part_columns` for each file, in order."""
        rows = list(batch.rows)
        for place, (answer, raw, error_text) in zip(batch.places, self.answer_each(batch.inputs), strict=True):
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

    def prepare(self, image: Image.Image | None, record: dict[str, Any], group: int = -1) -> dict[str, torch.Tensor]:
        """One image and what is known beside it -> the model's inputs, a batch of one."""
        item: Any = {"image": image, **record} if self.fields else image
        inputs = dict(self.processor(images=item, return_tensors="pt"))
        # Some processors of other models cut an image into several: these would be the answers of the next images.
        rows = {name: len(value) for name, value in inputs.items() if len(value) != 1}
        if rows:
            raise ValueError(f"its image processor makes {rows} rows of one image; one row is needed")
        return {**inputs, GROUP: torch.tensor([group])} if self.groups else inputs

    def options(self, group: torch.Tensor | None) -> dict[str, Any]:
        """Decision rule and groups, for a model that knows any: those released before there were such take none."""
        given = {"decision": self.settings.decision, GROUP: group}
        return {name: value for name, value in given.items() if value is not None}

    @torch.inference_mode()
    def answer(self, items: Sequence[Mapping[str, torch.Tensor]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Answers of a batch, and what is kept of its forward pass."""
        inputs = {name: torch.cat([item[name] for item in items]).to(self.device) for name in items[0]}
        group, settings = inputs.pop(GROUP, None), self.settings
        if self.ours:
            output = self.model.infer(inputs, settings.inference, samples=settings.samples, seed=settings.seed)
            prepared_as = self.processor.pixel_settings()
            withdrawn = self.model.why_withdrawn(inputs, settings.inference, settings.prior, prepared_as)
            answers = self.model.answer_in_words(
                output, trust=settings.trust, prior=settings.prior, withdrawn=withdrawn, **self.options(group)
            )
        else:
            output = self.model(**inputs)
            check_finite("the logits", output.logits, "no class can be named; fetch the model again, or give another")
            answers = [
                self.answer_without_trust(row) for row in functional.log_softmax(output.logits.double(), dim=-1).cpu()
            ]
        return answers, self.kept(output) if settings.keep_logits else [{} for _ in answers]

    def answer_without_trust(self, log_probs: torch.Tensor) -> dict[str, Any]:
        """The answer of a model that is not ours: log probabilities (C,) -> its probabilities, and no trust."""
        empty = (
            *("p_malignant", "aleatoric", "epistemic", "decision", "malignancy", "band"),
            *("prediction_set", "ood_score", "is_ood", "abstain"),
        )
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
        if not (self.ours and self.settings.keep_features):
            return [{"logits": row} for row in logits]
        features = output.features.float().cpu().numpy().astype(np.float16)
        return [{"logits": row, "features": more} for row, more in zip(logits, features, strict=True)]


def read_one(scorer: Scorer, root: Path, listed: Listed) -> dict[str, Any]:
    """The answer about one image, with the keys of ``predict``.

    Raises:
        UserError: it cannot be read.
    """
    try:
        image = open_image(root / listed.image) if scorer.looks else None
        inputs = scorer.prepare(image, scorer.record(listed.metadata), scorer.group(listed))
    except UNREADABLE as error:
        raise UserError(f"--images {one_line(error)}") from error
    try:
        return scorer.answer([inputs])[0][0]
    except ValueError as error:
        raise UserError(f"--images {listed.image}: {one_line(error)}") from error


def answer_one(
    source: Source, settings: AnswerSettings, image: Path, metadata: Path | None = None, as_json: bool = False
) -> str:
    """The answer to one image, as text; a note about further frames goes to stderr.

    Args:
        source: the model.
        settings: how it answers.
        image: the file.
        metadata: a table with a row for it, or None.
        as_json: as JSON, not in words.

    Raises:
        UserError: the image or the model cannot be used.
    """
    table = None if metadata is None else Table(metadata, "--metadata")
    row = None if table is None else table.take(image.name)
    scorer = Scorer(source, settings)
    scorer.check()
    if table is not None:
        scorer.check_rows(table.rows, table.where)
    answer = read_one(scorer, image.parent, Listed(image.name, 0, row, None))
    if frames_in(image) > 1:  # not on stdout, which may be read as JSON
        print(f"note: {image.name} holds several images (frames): the first was scored", file=sys.stderr)
    if as_json:
        return json.dumps({"image": image.name, **answer}, indent=1, allow_nan=False)
    return in_words(image.name, answer, getattr(scorer.model.config, "label_names", None) or {})


def in_words(image: str, answer: dict[str, Any], long_names: dict[str, str]) -> str:
    """An answer in plain words, a few lines."""
    lines = [f"{image}: {answer['message']}", ""]
    ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    width = max(len(name) for name, _ in ranked)
    for name, share in ranked:
        long_name = long_names.get(name, "")
        lines.append(f"  {name:<{width}}  {share:.3f}  {long_name}".rstrip())
    lines.append("")
    if answer["p_malignant"] is not None:
        lines.append(f"malignant or premalignant: {answer['p_malignant']:.3f}")
    parts = ""
    if answer["epistemic"] is not None:
        parts = f" (aleatoric {answer['aleatoric']:.3f}, epistemic {answer['epistemic']:.3f})"
    lines.append(f"predictive entropy: {answer['predictive_entropy']:.3f} nats{parts}")
    if answer.get("malignancy") is not None:
        lines.append(f"malignancy: {answer['malignancy']}")
    if answer["band"] is not None:
        lines.append(f"band: {answer['band']}")
    if answer["prediction_set"] is not None:
        lines.append(f"prediction set: {', '.join(answer['prediction_set']) or 'empty'}")
    if answer["ood_score"] is not None:
        kind = "unlike" if answer["is_ood"] else "like"
        lines.append(f"OOD score: {answer['ood_score']:.3f}, {kind} the images of the calibration")
    verdict = {True: "declined", False: "answered", None: "no verdict"}[answer["abstain"]]
    lines += [f"{verdict} (reason: {answer['reason']})", "", "Research software, never a medical device."]
    return "\n".join(lines)
