"""The spaces of a dataset's images: plain pixels, a classifier's pooled features, an autoencoder's codes.

Features of thousands of images take minutes on a CPU, so they are kept (``kept.py``) under a name that follows from
weights, code and rows: another model, or a rebuilt dataset, never meets another one's features.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModel
from transformers.utils import logging

import hub_models
from datasets_scripts.command import UserError
from model_cards.card import read_report
from trainers.embeddings.cache import cached, description_of
from trainers.embeddings.cases import Cases
from trainers.model_folder.data import LesionImages, collate
from trainers.model_folder.folder import load
from trainers.model_folder.predict import predict_split
from trainers.model_folder.source import ModelError, check_files, fetch, fingerprint, one_line, parse_source

PIXELS, CODES, FEATURES = "pixels", "codes", "features"
# From what knows nothing of the classes to what was trained on them.
ORDER = (PIXELS, CODES, FEATURES)
METRICS = ("cosine", "euclidean")
PIXEL_SIDE = 32
GIVE_AUTOENCODER = "give the folder of a trained autoencoder"


class RepresentationError(UserError):
    """A model that gives no such representation, or values that are none."""


@dataclass(frozen=True)
class Encoder:
    """What turns images into vectors.

    Attributes:
        kind: ``codes`` or ``features``.
        model: with ``encode(pixel_values)``, in eval mode.
        processor: its image processor.
        report: its ``report.json``; empty where it has none.
        fingerprint: of weights, configs and code.
        commit: of a repository on the Hub; None for a folder.
    """

    kind: str
    model: Any
    processor: Any
    report: dict[str, Any]
    fingerprint: str
    commit: str | None

    @property
    def name(self) -> str:
        """What its report calls it, or its class."""
        return str(self.report.get("model", {}).get("name") or type(self.model).__name__)


def load_classifier(source: str) -> Encoder:
    """A classifier of the suite that looks at images.

    Args:
        source: a folder, or ``ORG/NAME[@REVISION]``.

    Raises:
        UserError: there is none, it is not one of ours, or it looks at no image.
    """
    _quiet()
    model, processor, report = load(source)
    if "pixel_values" not in model.input_names:
        raise RepresentationError(
            f"--model {source!r} looks at no image ({', '.join(model.input_names)} alone): give an image classifier"
        )
    folder, commit = fetch(parse_source(source))
    return Encoder(FEATURES, _on_device(model), processor, report, _identity(folder, model, processor), commit)


def load_autoencoder(source: str) -> Encoder:
    """An autoencoder of the suite: a folder or repository whose model has ``encode(pixel_values) -> (N, D)``.

    Raises:
        UserError: there is none, or it does not encode.
    """
    _quiet()
    try:
        found = parse_source(source)
        # AutoModel below refuses code that is not ours; fetch would refuse ours as well, which is no classifier.
        folder, commit = fetch(replace(found, trust_remote_code=True))
        how = {"revision": found.revision} if found.revision else {}
        check_files(found.location, found.revision)
        kind = AutoConfig.from_pretrained(found.location, **how).model_type
        if kind in {config.model_type for config in hub_models.CLASSIFIERS}:
            raise RepresentationError(f"--autoencoder {source!r} is a classifier ({kind}): {GIVE_AUTOENCODER}")
        model = AutoModel.from_pretrained(found.location, **how)
        processor = AutoImageProcessor.from_pretrained(found.location, **how)
        report = read_report(folder) if (folder / "report.json").is_file() else {}
    except RepresentationError:
        raise
    except ModelError as error:
        raise RepresentationError(str(error).replace("--model", "--autoencoder", 1)) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise RepresentationError(
            f"--autoencoder {source!r} cannot be loaded ({one_line(error)}): {GIVE_AUTOENCODER}"
        ) from error
    if not callable(getattr(model, "encode", None)):
        raise RepresentationError(f"--autoencoder {source!r} is a {type(model).__name__}: {GIVE_AUTOENCODER}")
    return Encoder(CODES, _on_device(model), processor, report, _identity(folder, model, processor), commit)


def encode(encoder: Encoder, cases: Cases, *, batch_size: int = 64, progress: bool = True) -> np.ndarray:
    """Vectors (N, D) float32 of all cases, from the cache where they were made before.

    Raises:
        RepresentationError: a vector is not finite.
        UserError: the dataset lacks a column that the model reads.
    """

    def make() -> dict[str, np.ndarray]:
        if encoder.kind == CODES:
            vectors = _codes(encoder, cases, batch_size, progress)
        else:
            seen = predict_split(
                encoder.model, encoder.processor, cases.splits, cases.split, batch_size=batch_size, progress=progress
            )
            vectors = np.zeros((len(cases), 0)) if seen.features is None else seen.features
        return {"vectors": checked(vectors, cases.image_id, encoder.name)}

    return cached([encoder.kind, encoder.fingerprint, *description_of(cases)], make)["vectors"]


def pixel_vector(image: Image.Image, side: int = PIXEL_SIDE) -> np.ndarray:
    """An RGB image, area-averaged to side x side: (3 * side * side,) float32 in [0, 1]. The aspect is not kept."""
    small = image.resize((side, side), Image.Resampling.BOX)
    return (np.asarray(small, dtype=np.float32) / 255.0).reshape(-1)


def checked(vectors: np.ndarray, names: Sequence[str] | np.ndarray, whose: str) -> np.ndarray:
    """Vectors (N, D) as float32.

    Raises:
        RepresentationError: one is not finite; the image is named.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise RepresentationError(
            f"{whose} gives vectors of shape {vectors.shape}; expected (N, D): give another model"
        )
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        raise RepresentationError(
            f"{whose} gives image {names[wrong[0]]} a vector that is not finite ({len(wrong)} such images): give a "
            "model that was trained"
        )
    return vectors


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, D) scaled to length 1, so that their inner product is the cosine; zeros (a black image) stay so."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


@torch.inference_mode()
def _codes(encoder: Encoder, cases: Cases, batch_size: int, progress: bool) -> np.ndarray:
    """(N, D) codes of an autoencoder."""
    loader = DataLoader(LesionImages(cases.rows, encoder.processor), batch_size=batch_size, collate_fn=collate)
    device = next(encoder.model.parameters()).device
    parts = []
    for batch in tqdm(loader, desc=f"encode {cases.split}", unit="batch", disable=None if progress else True):
        codes = encoder.model.encode(batch["pixel_values"].to(device))
        parts.append(codes.float().flatten(1).cpu().numpy())
    return np.concatenate(parts)


def _quiet() -> None:
    """Keep transformers' bars and notes off the screen; what goes wrong raises."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _on_device(model: Any) -> Any:
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _identity(folder: Path, *parts: Any) -> str:
    """Of a model's own files, and of the code here that runs it: ours wins over what lies beside the weights."""
    digest = hashlib.sha256(fingerprint(folder).encode())
    shared = set(Path(hub_models.__file__).parent.glob("*_lesion.py"))
    bases = [base for part in parts for base in type(part).__mro__ if base.__module__.startswith(hub_models.__name__)]
    for path in sorted(shared | {Path(inspect.getfile(base)) for base in bases}):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
