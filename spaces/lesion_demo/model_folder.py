"""What lies beside a model's weights: its card, its report's figures, where it comes from, and whether it is unchanged.

The manifest is ``manifest.json``: ``{"schema_version": 1, "files": {path: {"sha256": hex, "size": bytes}}}``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
from classifier import Classifier
from model_loading import ModelUnavailableError

MANIFEST, CARD = "manifest.json", "README.md"
SCHEMA_VERSION = 1
# The Hub writes .gitattributes itself; the folders hold what git, the Hub's client and Python keep for themselves.
NOT_LISTED = {MANIFEST, ".gitattributes"}
NOT_ENTERED = {".git", ".cache", "__pycache__"}
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
LARGEST_FIGURE = 3 * 1024 * 1024  # bytes
MOST_PROBLEMS = 12
SPLITS = ("test", "validation", "calibration")
_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
# A link to another place of the card itself: headings have no ids on the page.
_ANCHOR = re.compile(r"(?<!!)\[([^\]]+)\]\(#[^)\s]*\)")
_HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)


@dataclass(frozen=True)
class Check:
    """A folder compared with its manifest.

    Attributes:
        verdict: ``matches``, ``differs``, or ``unknown`` where there is no manifest to compare with.
        problems: one sentence a file that differs, is missing or is not listed, or why nothing is known.
        files: how many files the manifest lists.
        size: of them, in bytes.
    """

    verdict: str
    problems: list[str] = field(default_factory=list)
    files: int = 0
    size: int = 0


def folder_of(classifier: Classifier) -> Path:
    """The model's folder; of one on the Hub a whole copy of the very commit that was loaded.

    Raises:
        ModelUnavailableError: it cannot be fetched.
    """
    source = classifier.source
    if source.is_folder:
        return Path(source.location)
    revision = classifier.commit or source.revision
    try:
        return Path(huggingface_hub.snapshot_download(source.location, revision=revision))
    except (OSError, ValueError) as error:
        try:
            return Path(huggingface_hub.snapshot_download(source.location, revision=revision, local_files_only=True))
        except (OSError, ValueError):
            raise ModelUnavailableError(f"The files of {source.title} cannot be fetched from the Hub.") from error


def check(folder: Path) -> Check:
    """Compare every file of a folder with its manifest."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {str(path): dict(facts) for path, facts in content["files"].items()}
        newer = content.get("schema_version", 0) > SCHEMA_VERSION
    except FileNotFoundError:
        return Check("unknown", [f"There is no {MANIFEST} beside the weights."])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Check("unknown", [f"{MANIFEST} cannot be read."])
    if newer:
        return Check("unknown", [f"{MANIFEST} has a newer layout than this page reads."])
    present = _files(folder)
    problems = [f"{path} is not listed" for path in sorted(present - listed.keys())]
    size = 0
    for path, facts in sorted(listed.items()):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            problems.append(f"{path} is outside the folder")
        elif path not in present:
            problems.append(f"{path} is missing")
        elif _facts(folder / path) != {"sha256": facts.get("sha256"), "size": facts.get("size")}:
            problems.append(f"{path} was changed")
        size += int(facts.get("size") or 0)
    return Check("differs" if problems else "matches", problems, len(listed), size)


def _files(folder: Path) -> set[str]:
    found: set[str] = set()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_ENTERED]
        found.update((Path(parent) / name).relative_to(folder).as_posix() for name in names)
    return found - NOT_LISTED


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return {"sha256": digest.hexdigest(), "size": file.tell()}


def card(folder: Path) -> str | None:
    """The card as Markdown: no front matter, no anchors, its own pictures put in; None where it has none."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    if text.startswith("---\n"):
        _, _, rest = text[4:].partition("\n---")
        text = rest.lstrip("-\n") if rest else text

    def put_in(found: re.Match[str]) -> str:
        uri = picture_uri(folder, found[2])
        return f"![{found[1]}]({uri})" if uri else f"*({found[1]}: picture not shown)*"

    # A picture from elsewhere would tell another server who reads this page.
    return _HTML_IMAGE.sub("", _IMAGE.sub(put_in, _ANCHOR.sub(r"“\1”", text))).strip()


def picture_uri(folder: Path, link: str) -> str | None:
    """A picture of the folder as a data URI; None where the link leads elsewhere, or to no picture of decent size."""
    path = folder / link
    kind = PICTURES.get(path.suffix.lower())
    if kind is None or "://" in link or PurePosixPath(link).is_absolute() or ".." in PurePosixPath(link).parts:
        return None
    try:
        if path.stat().st_size > LARGEST_FIGURE:
            return None
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    except OSError:
        return None


def figures(folder: Path) -> list[tuple[str, str]]:
    """Caption and data URI of each figure of the report, those of the test split first."""
    paths = sorted((folder / "figures").glob("*"), key=lambda path: ("_test" not in path.stem, path.stem))
    found = []
    for path in paths:
        uri = picture_uri(folder, f"figures/{path.name}")
        if uri:
            name, _, split = path.stem.rpartition("_")
            of_split = name and split in SPLITS
            caption = f"{name}, {split} split" if of_split else path.stem
            found.append((caption.replace("_", " ").capitalize(), uri))
    return found
