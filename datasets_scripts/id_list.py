"""A dataset without its images: ids, splits, hashes, written with ``--ids_only`` and rebuilt with ``--ids``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from datasets_scripts.command import HUB_ID, UserError, read_json, warn
from datasets_scripts.images import Scan
from datasets_scripts.rows import Row
from datasets_scripts.shards import HASHES, MANIFEST, NOT_PUBLISHED

AUDIT = "audit.json"
SHARD = re.compile(r"(?P<split>[a-z]+)-base(?P<fold>\d\d)(?:-synthetic)?\.parquet")
MOST_NAMED = 10


@dataclass(frozen=True)
class Listed:
    """What a list holds about an image; the label is None where it may not be shared, the split where there is none."""

    label: str | None
    file_sha256: str
    pixels_sha256: str
    fold: int
    split: str | None


@dataclass(frozen=True)
class IdList:
    """A list of ids.

    Attributes:
        name: as the user gave it.
        version: of the content of the dataset that was listed; equal for two datasets of equal rows.
        seed: of its splits.
        configs: names of its configs.
        images: image id -> what is listed of it.
    """

    name: str
    version: str
    seed: int
    configs: tuple[str, ...]
    images: Mapping[str, Listed]

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Those of the rows whose images are listed; a warning counts the others.

        Raises:
            UserError: none is listed.
        """
        kept = [row for row in rows if row.image_id in self.images]
        if not kept:
            raise UserError(
                f"none of the {len(rows)} images is in the list {self.name!r} of {len(self.images)} "
                f"(the first is {next(iter(self.images))!r}): give the list of this archive, and the same options"
            )
        if len(kept) < len(rows):
            warn([f"{len(rows) - len(kept)} images are not in the list {self.name!r} and were left out"])
        return kept

    def folds(self) -> dict[str, int]:
        """Image id -> base fold."""
        return {image_id: listed.fold for image_id, listed in self.images.items()}

    def splits(self, rows: Sequence[Row], config: str) -> list[str | None] | None:
        """The split of each row in config `published` or `given`; None where the list has no such config."""
        return [self.images[row.image_id].split for row in rows] if config in self.configs else None

    def checked(self, rows: Sequence[Row], scans: Sequence[Scan]) -> list[Scan]:
        """The scans, with the listed hash of the pixels of a file that is the listed one byte by byte.

        An image is the listed one if its file or its decoded pixels are: decoders differ, and so do copies of a file.

        Raises:
            UserError: names the images that differ, are missing or have another label.
        """
        found = {row.image_id for row in rows}
        missing = [image_id for image_id in self.images if image_id not in found]
        result, differing, renamed = [], [], []
        for row, scan in zip(rows, scans, strict=True):
            listed = self.images[row.image_id]
            if scan.file_sha256 == listed.file_sha256:
                scan = replace(scan, pixels_sha256=listed.pixels_sha256)
            result.append(scan)
            if scan.pixels_sha256 != listed.pixels_sha256:
                differing.append(row.image_id)
            elif listed.label not in (None, row.label):
                renamed.append(f"{row.image_id}: {row.label}, listed {listed.label}")
        faults = {"differ": differing, "are missing": missing, "have another label": renamed}
        texts = [f"{len(ids)} {what} ({named(ids)})" for what, ids in faults.items() if ids]
        if texts:
            raise UserError(
                f"of the {len(self.images)} images of the list {self.name!r} {'; '.join(texts)}: "
                "download the archive again, in the size that was listed, and give the same options"
            )
        return result


def warn_of_version(listed: IdList | None, version: str) -> None:
    """Warn where the dataset that was built is not in all columns the one that was listed."""
    if listed is not None and version != listed.version:
        warn([f"images, labels and splits are those of {listed.name!r}, but other columns differ from what was listed"])


def named(ids: Sequence[str]) -> str:
    """The first ids, and how many there are beside them."""
    more = len(ids) - MOST_NAMED
    return ", ".join(ids[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def read(where: str | None, other_splits: object = None) -> IdList | None:
    """The list in the folder or the Hub repository that ``--ids_only`` wrote; None for None.

    Raises:
        UserError: it is none, a file differs from its manifest, or there are ``other_splits``, too.
    """
    if where is None:
        return None
    if other_splits is not None:
        raise UserError("--splits_of and --ids both state the splits: give one of them")
    folder = _folder(where)
    files = sorted((folder / "data").glob("*.parquet"))
    try:
        audit, manifest = read_json(folder / AUDIT), read_json(folder / MANIFEST)
        stated = {name: str(facts["sha256"]) for name, facts in manifest["files"].items()}
        version, seed, labels = str(audit["version"]), int(audit["seed"]), list(audit["labels"])
        configs = tuple(audit["leak"])
    except (OSError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"--ids {where!r} is no list of ids ({error}): give what --ids_only wrote") from error
    unlike = [name for name, value in stated.items() if name.startswith("data/") and _sha256(folder / name) != value]
    if unlike or len(files) != sum(name.startswith("data/") for name in stated):
        raise UserError(f"--ids {where!r}: {named(unlike) or 'its files'} differ from {MANIFEST}: fetch the list again")
    images: dict[str, Listed] = {}
    for file in files:
        images |= _images(file, where, labels)
    return IdList(where, version, seed, configs, images)


def _images(file: Path, where: str, labels: Sequence[str]) -> dict[str, Listed]:
    place = SHARD.fullmatch(file.name)
    if place is None or not {"image_id", "label", *HASHES} <= set(pq.read_schema(file).names):
        raise UserError(f"--ids {where!r} holds images or no hashes ({file.name}): give what --ids_only wrote")
    split = None if place["split"] == NOT_PUBLISHED else place["split"]
    table: list[dict[str, Any]] = pq.read_table(file, columns=["image_id", "label", *HASHES]).to_pylist()
    return {
        one["image_id"]: Listed(
            None if one["label"] is None else labels[one["label"]],
            one["file_sha256"],
            one["pixels_sha256"],
            int(place["fold"]),
            split,
        )
        for one in table
    }


def _folder(where: str) -> Path:
    """The folder of a list, fetched where it is ``ORG/NAME[@REVISION]``."""
    if Path(where).is_dir():
        return Path(where)
    if not HUB_ID.fullmatch(where):
        raise UserError(f"--ids {where!r} is neither a folder nor ORG/NAME of a dataset on the Hub: give one of them")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo_id, _, revision = where.partition("@")
    try:
        return Path(
            snapshot_download(
                repo_id,
                repo_type="dataset",
                revision=revision or None,
                allow_patterns=["data/*.parquet", AUDIT, MANIFEST],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--ids {where!r} cannot be read from the Hub ({reason}): check the name and the network"
        ) from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""
