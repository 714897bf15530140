"""What lies beside a model's weights: its card, its report's figures, where it comes from, and whether it is unchanged.

The manifest is ``manifest.json``: ``{"schema_version": 1, "files": {path: {"sha256": hex, "size": bytes}}}``.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import huggingface_hub
from classifier import HUB_FAILS, Classifier
from markdown_it import MarkdownIt
from markdown_it.token import Token
from model_files import read_json
from model_loading import ModelUnavailableError

MANIFEST, CARD = "manifest.json", ("README.md", "REPORT.md")
SCHEMA_VERSION = 1
# The Hub writes .gitattributes itself; the folders hold what git, the Hub's client and Python keep for themselves.
NOT_LISTED = {MANIFEST, ".gitattributes"}
NOT_ENTERED = {".git", ".cache", "__pycache__"}
IMAGE_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
LARGEST_FIGURE = 3 * 1024 * 1024  # bytes
LARGEST_CARD = 1_000_000  # characters; what comes after is not shown
MOST_PROBLEMS = 12
SPLITS = ("test", "validation", "calibration")


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
    except HUB_FAILS as error:
        try:
            return Path(huggingface_hub.snapshot_download(source.location, revision=revision, local_files_only=True))
        except HUB_FAILS:
            raise ModelUnavailableError(f"The files of {source.title} cannot be fetched from the Hub.") from error


def check(folder: Path) -> Check:
    """Compare every file of a folder with its manifest."""
    try:
        content = read_json(folder / MANIFEST)
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
    """The card as HTML: no front matter, no anchors, no HTML of its own, its own figures put in; None without a card.

    The full report beside it, where there is one, follows the card. What names anything else to load becomes words: a
    visitor's browser would load it from another server.
    """
    texts = [text for text in (_text(folder / name) for name in CARD) if text is not None]
    if not texts:
        return None
    text = "\n\n".join(texts)
    reader = MarkdownIt("commonmark").enable("table")
    for name, rule in _RULES.items():
        reader.add_render_rule(name, rule)
    return str(reader.render(text, {"folder": folder})).strip()


def _text(path: Path) -> str | None:
    """A file of the card without its front matter; None where it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST_CARD)
    except (OSError, ValueError):
        return None
    if text.startswith("---\n"):
        _, _, rest = text[4:].partition("\n---")
        text = rest.lstrip("-\n") if rest else text
    return text


def _image(_: Any, tokens: Sequence[Token], at: int, __: Any, env: MutableMapping[str, Any]) -> str:
    caption, uri = escape(tokens[at].content), image_uri(env["folder"], unquote(str(tokens[at].attrs["src"])))
    return f'<img src="{uri}" alt="{caption}">' if uri else f"<em>({caption}: image not shown)</em>"


def _link(_: Any, tokens: Sequence[Token], at: int, __: Any, env: MutableMapping[str, Any]) -> str:
    if tokens[at].nesting < 0:
        return str(env["ends"].pop())
    target = str(tokens[at].attrs["href"])
    # A link to another place of the card itself, or to a file beside it: headings have no ids on the page.
    start, end = ("“", "”") if target.startswith(("#", *CARD)) else (_LINK.format(escape(target)), "</a>")
    env.setdefault("ends", []).append(end)
    return start


def _nothing(*_: Any) -> str:
    return ""


_LINK = '<a href="{}" target="_blank" rel="noopener noreferrer">'
_RULES = {
    "image": _image, "link_open": _link, "link_close": _link, "html_block": _nothing, "html_inline": _nothing
}  # fmt: skip


def image_uri(folder: Path, link: str) -> str | None:
    """An image of the folder as a data URI; None where the link leads elsewhere, or to no image of decent size."""
    path = folder / link
    kind = IMAGE_TYPES.get(path.suffix.lower())
    if kind is None or "://" in link or PurePosixPath(link).is_absolute() or ".." in PurePosixPath(link).parts:
        return None
    try:
        if path.stat().st_size > LARGEST_FIGURE:
            return None
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    except (OSError, ValueError):
        return None


def figures(folder: Path) -> list[tuple[str, str]]:
    """Caption and data URI of each figure of the report, those of the test split first."""
    paths = sorted((folder / "figures").glob("*"), key=lambda path: ("_test" not in path.stem, path.stem))
    found = []
    for path in paths:
        uri = image_uri(folder, f"figures/{path.name}")
        if uri:
            name, _, split = path.stem.rpartition("_")
            of_split = name and split in SPLITS
            caption = f"{name}, {split} split" if of_split else path.stem
            found.append((caption.replace("_", " ").capitalize(), uri))
    return found
