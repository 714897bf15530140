"""The manifest: sha256 and size of every file of a finished folder, so that a changed byte can be named.

``manifest.json`` is ``{"schema_version": 1, "files": {relative posix path: {"sha256": hex, "size": bytes}}}``. Model
folders and dataset folders carry the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from datasets_scripts.command import UserError, read_json
from datasets_scripts.output import whole_file

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
# The Hub writes .gitattributes itself; the folders hold what git, the Hub's client and Python keep for themselves.
NOT_LISTED = {MANIFEST, ".gitattributes"}
NOT_ENTERED = {".git", ".cache", "__pycache__"}


def write_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Hash every file of a folder and write ``manifest.json``; the file appears whole or not at all.

    Returns:
        The ``files`` map that was written.

    Raises:
        UserError: the folder is absent or empty, or a link in it leads out of it.
    """
    folder = Path(folder)
    paths, outside = list_files(folder)
    if outside:
        raise UserError(outside[0])
    if not paths:
        raise UserError(f"{folder} holds no file: give the folder of a finished model or dataset")
    facts = {path: file_facts(folder / path) for path in _progress(paths, folder)}
    write_text(folder / MANIFEST, manifest_text(facts))
    return facts


def manifest_text(facts: dict[str, dict[str, Any]]) -> str:
    """The text of a manifest with this ``files`` map."""
    return json.dumps({"schema_version": SCHEMA_VERSION, "files": facts}, indent=1) + "\n"


def check_manifest(folder: Path) -> list[str]:
    """Compare a folder with its manifest.

    Returns:
        One sentence a problem, each naming its file: a changed byte, a missing or an extra file, a link that leads
        out of the folder. Empty when the folder is exactly what the manifest says.

    Raises:
        UserError: there is no manifest, or it cannot be read.
    """
    folder = Path(folder)
    listed = read_manifest(folder)
    paths, problems = list_files(folder)
    for path in _progress(paths, folder):
        if path not in listed:
            problems.append(f"{path} is not in {MANIFEST}: an extra file; remove it or build the folder again")
            continue
        found, wanted = file_facts(folder / path), listed[path]
        if found != wanted:
            problems.append(
                f"{path} was changed: sha256 {found['sha256'][:12]} and {found['size']} bytes, "
                f"{MANIFEST} says {str(wanted.get('sha256'))[:12]} and {wanted.get('size')} bytes"
            )
    named = {problem.split(" ", 1)[0] for problem in problems}
    problems += [f"{path} is missing: {MANIFEST} lists it" for path in listed if path not in {*paths, *named}]
    return problems


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The ``files`` map of a folder's manifest.

    Raises:
        UserError: absent, not JSON, of a newer layout, or listing a path outside the folder.
    """
    path = Path(folder) / MANIFEST
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no {MANIFEST}: build it with python -m model_cards.build {folder}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}; build the folder again") from error
    return parse_manifest(content, str(path))


def parse_manifest(content: Any, name: str) -> dict[str, dict[str, Any]]:
    """The ``files`` map of a parsed manifest; ``name`` is what an error calls it.

    Raises:
        UserError: of a newer layout, malformed, or listing a path outside the folder.
    """
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(isinstance(facts, dict) for facts in files.values()):
        raise UserError(f"{name} has no map 'files' of path -> sha256 and size: build the folder again")
    version = content.get("schema_version", 0)
    if isinstance(version, bool) or not isinstance(version, int) or version > SCHEMA_VERSION:
        raise UserError(
            f"{name} has layout {version!r}, this version reads up to {SCHEMA_VERSION}: update lesion-suite"
        )
    for path in files:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise UserError(f"{name} lists {path!r}, which is outside its folder: do not trust this folder")
    return files


def list_files(folder: Path) -> tuple[list[str], list[str]]:
    """The files that a manifest lists, and the links that it cannot list.

    Returns:
        (relative posix paths in order, one sentence a link that leads out of the folder or to a folder).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder of a finished model or dataset")
    root = folder.resolve()
    paths, refused = [], []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in NOT_ENTERED)
        for name in sorted([*names, *(name for name in folders if (Path(parent) / name).is_symlink())]):
            path = Path(parent) / name
            relative = path.relative_to(folder).as_posix()
            if relative in NOT_LISTED or (name.startswith(".") and name.endswith(".lock")):
                continue
            if path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(root)):
                refused.append(f"{relative} is a link to {os.readlink(path)}: put the file itself into the folder")
            else:
                paths.append(relative)
    return sorted(paths), refused


def file_facts(path: Path) -> dict[str, Any]:
    """sha256 (hex) and size (bytes) of one file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return {"sha256": digest.hexdigest(), "size": file.tell()}


def bytes_facts(content: bytes) -> dict[str, Any]:
    """sha256 (hex) and size (bytes) of a file's content."""
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def write_text(path: Path, content: str) -> None:
    """Write a file so that it appears whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")


def _progress(paths: list[str], folder: Path) -> tqdm[str]:
    return tqdm(paths, desc=f"hashing {folder.name}", unit="file", delay=3, disable=None, leave=False)
