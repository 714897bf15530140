"""Similar cases: the nearest neighbours of an image in a gallery of known ones, by the model's own features.

A gallery is ``gallery.json`` (which model, which data, labels) and ``gallery.parquet`` (one row an image: unit
features, label, thumbnail, hash, licence), in a folder or a dataset repository of the Hub.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from answering import prepare
from classifier import HUB_FAILS, Classifier, ModelSource
from model_files import read_json
from PIL import Image

FORMAT_VERSION = 1
SHOWN = 8
NEAR_BITS = 6  # of 64: two difference hashes this close are of the same image, or nearly
COLUMNS = ("image_id", "lesion_id", "group_id", "label", "features", "thumbnail", "dhash", "license", "attribution")


class GalleryError(ValueError):
    """A gallery that cannot be used; the message is fit for the page."""


@dataclass(frozen=True)
class Case:
    """One known image.

    Attributes:
        label: its short class name.
        long_name: its long one.
        distance: 1 - cosine of the features, in [0, 2]; 0 = alike to the model.
        image: thumbnail as a data URI.
        license: under which it may be shown.
        attribution: who is to be named.
    """

    label: str
    long_name: str
    distance: float
    image: str
    license: str
    attribution: str


class Gallery:
    """Known images, held in memory: half-precision features and small thumbnails.

    Args:
        place: a folder, or ``organisation/name[@revision]`` of a dataset repository on the Hub.

    Raises:
        GalleryError: it cannot be found or read, or is of another layout.
    """

    def __init__(self, place: str) -> None:
        folder = _folder(place)
        try:
            self.facts: dict[str, Any] = read_json(folder / "gallery.json", finite=False)
            table = pq.read_table(folder / "gallery.parquet", columns=list(COLUMNS))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise GalleryError(f"LESION_GALLERY is {place!r}, which holds no gallery that can be read.") from error
        if self.facts.get("format_version") != FORMAT_VERSION or self.facts.get("similarity") != "cosine":
            raise GalleryError(f"The gallery {place!r} has another layout than this page reads.")
        self.features = _features(table.column("features"), int(self.facts["dim"]))
        self.rows: dict[str, list[Any]] = {
            name: table.column(name).to_pylist() for name in COLUMNS if name not in ("features", "thumbnail")
        }
        self.thumbnails = table.column("thumbnail")
        self.hashes = np.array([int(str(text), 16) for text in self.rows["dhash"]], dtype=np.uint64)
        if len(self.features) != len(self.rows["label"]):
            raise GalleryError(
                f"The gallery {place!r} has {len(self.features)} features for {len(self.rows['label'])} rows."
            )

    @property
    def model_name(self) -> str:
        """The model whose features it holds."""
        return str((self.facts.get("model") or {}).get("name"))

    @property
    def licence(self) -> str:
        """The licence of its images."""
        return str(self.facts.get("license") or "not stated")

    def title_among(self, sources: list[ModelSource]) -> str | None:
        """The first of these models that the gallery was made with; None where there is none."""
        for source in sources:
            if self.model_name in (Path(source.location).resolve().name, source.location.split("/")[-1]):
                return source.title
        return None

    def fits(self, classifier: Classifier) -> str | None:
        """Why this gallery says nothing about a model; None where it does."""
        name = classifier.source.location.rstrip("/").split("/")[-1]
        if self.model_name not in (name, classifier.title):
            return f"The gallery was made with {self.model_name}; distances of another model's features mean nothing."
        made_at, commit = (self.facts.get("model") or {}).get("commit"), classifier.commit
        if made_at and commit and made_at != commit:
            return f"The gallery was made with another version of {self.model_name} (commit {made_at[:12]})."
        return None

    def nearest(self, image: Image.Image, classifier: Classifier, record: dict[str, Any]) -> list[Case]:
        """The nearest cases, at most one a lesion, never the image itself or one nearly like it.

        Args:
            image: RGB.
            classifier: the gallery's model.
            record: what is known beside the image.
        """
        unit = features_of(image, classifier, record)
        if unit.shape != (self.features.shape[1],):
            raise GalleryError(
                f"The model's features have {unit.shape[0]} numbers, the gallery's {self.features.shape[1]}."
            )
        distance = 1.0 - self.features.astype(np.float32) @ unit
        query = dhash(image)
        near = np.bitwise_count(self.hashes ^ np.uint64(query)) <= NEAR_BITS
        # Another photo of the lesion that was uploaded would show its diagnosis, not a similar case.
        own = {self.rows["group_id"][row] for row in np.flatnonzero(near)}
        cases: list[Case] = []
        lesions: set[str] = set()
        for row in np.argsort(distance, kind="stable"):
            lesion, group = str(self.rows["lesion_id"][row]), self.rows["group_id"][row]
            if lesion in lesions or group in own:
                continue
            lesions.add(lesion)
            if self._is_nearly_the_same(int(row), query):
                own.add(group)
                continue
            cases.append(self._case(int(row), float(distance[row])))
            if len(cases) == SHOWN:
                break
        return cases

    def _is_nearly_the_same(self, row: int, query: int) -> bool:
        """Whether the thumbnail is the query's image, should the stored hash have been made in another way."""
        with Image.open(io.BytesIO(self.thumbnails[row].as_py()), formats=["JPEG"]) as thumbnail:
            return (dhash(thumbnail.convert("RGB")) ^ query).bit_count() <= NEAR_BITS

    def _case(self, row: int, distance: float) -> Case:
        label = str(self.rows["label"][row])
        thumbnail = base64.b64encode(self.thumbnails[row].as_py()).decode("ascii")
        return Case(
            label=label,
            long_name=str((self.facts.get("labels") or {}).get(label, label)),
            distance=max(0.0, distance),
            image=f"data:image/jpeg;base64,{thumbnail}",
            license=str(self.rows["license"][row] or self.licence),
            attribution=str(self.rows["attribution"][row] or ""),
        )


def _folder(place: str) -> Path:
    if Path(place).is_dir():
        return Path(place)
    name, _, revision = place.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(
            name, repo_type="dataset", revision=revision or None, allow_patterns=["gallery.json", "gallery.parquet"]
        ))  # fmt: skip
    except HUB_FAILS as error:
        raise GalleryError(f"LESION_GALLERY is {place!r}; give a folder, or a dataset of the Hub.") from error


def _features(column: pa.ChunkedArray, dim: int) -> np.ndarray:
    """A column of fixed-size lists -> (N, D) float16."""
    flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks] or [np.zeros(0)])
    return flat.astype(np.float16).reshape(-1, dim)


@torch.inference_mode()
def features_of(image: Image.Image, classifier: Classifier, record: dict[str, Any]) -> np.ndarray:
    """What the model makes of an image before it names a class: (D,) float32 of length 1.

    Raises:
        GalleryError: the model does not give its features.
    """
    inputs = prepare([image], classifier, record)
    try:
        features = getattr(classifier.model(**inputs), "features", None)
    except ValueError as error:
        raise GalleryError(f"{classifier.title} gives no numbers for this image.") from error
    if features is None:
        raise GalleryError(f"{classifier.title} does not give the features that cases are compared by.")
    vector = features[0].detach().float().cpu().numpy().ravel()
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def dhash(image: Image.Image) -> int:
    """Difference hash of 64 bits: grey, 9 x 8 by area, a bit where a pixel is brighter than its left neighbour."""
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    return int("".join("1" if bit else "0" for bit in bits), 2)
