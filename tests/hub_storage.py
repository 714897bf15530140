"""What the loopback Hub keeps: repositories with a git-like history, and their files' bytes on disk.

The shas are git's own (blob, tree and commit objects are hashed as git hashes them), so a client that computes one
itself finds the same. A file over ``LFS_OVER`` bytes, of a binary suffix, or with a zero byte in its first 512 is kept
by LFS: its blob is then the pointer file, as on the Hub.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

LFS_OVER = 1_000_000
LFS_SUFFIXES = {".arrow", ".bin", ".gz", ".npz", ".parquet", ".safetensors", ".zip"}
FIRST_FILE = (".gitattributes", b"*.parquet filter=lfs diff=lfs merge=lfs -text\n*.safetensors filter=lfs -text\n")


class HubError(Exception):
    """An answer other than 200: its HTTP status, the Hub's error code and message."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


def git_sha(kind: str, content: bytes) -> str:
    """The sha1 that git gives an object: ``kind`` is ``blob``, ``tree`` or ``commit``."""
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


@dataclass(frozen=True)
class Entry:
    """One file of one commit: the git blob's sha1, the size in bytes, and the sha256 under which its bytes lie."""

    oid: str
    size: int
    sha256: str
    lfs: bool

    def listing(self, path: str) -> dict[str, Any]:
        row: dict[str, Any] = {"type": "file", "path": path, "oid": self.oid, "size": self.size}
        if self.lfs:
            pointer = lfs_pointer(self.sha256, self.size)
            row["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(pointer)}
        return row


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    message: str
    seconds: int
    files: dict[str, Entry]


@dataclass
class Repo:
    """One repository. ``refs`` maps full names (``refs/heads/main``, ``refs/tags/v1``, ``refs/pr/1``) to commits.

    ``variables`` are a Space's: name -> value, description and date, as the API lists them.
    """

    kind: str
    name: str
    private: bool
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    variables: dict[str, dict[str, str]] = field(default_factory=dict)

    def commit(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a full ref or a sha (at least 7 digits of it)."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.commits[self.refs[ref]]
        found = [sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)]
        if len(found) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[found[0]]

    def history(self, revision: str) -> list[Commit]:
        """Commits from the given revision back to the first, newest first."""
        commit: Commit | None = self.commit(revision)
        rows = []
        while commit is not None:
            rows.append(commit)
            commit = self.commits[commit.parent] if commit.parent else None
        return rows

    def add_commit(self, ref: str, files: dict[str, Entry], title: str, message: str = "") -> Commit:
        """Put a commit on top of ``ref`` and move it there."""
        parent, seconds = self.refs.get(ref), int(time.time())
        lines = [f"tree {tree_sha(files)}"] + ([f"parent {parent}"] if parent else [])
        lines += [f"{who} loopback <hub@localhost> {seconds} +0000" for who in ("author", "committer")]
        sha = git_sha("commit", "\n".join([*lines, "", title, "", message]).encode())
        self.commits[sha] = Commit(sha, parent, title, message, seconds, files)
        self.refs[ref] = sha
        return self.commits[sha]

    def open_pull_request(self, parent: Commit) -> tuple[int, str]:
        """Number and ref of a new pull request that starts at ``parent``."""
        number = 1 + sum(ref.startswith("refs/pr/") for ref in self.refs)
        ref = f"refs/pr/{number}"
        self.refs[ref] = parent.sha
        return number, ref


def tree_sha(files: dict[str, Entry]) -> str:
    """The git tree sha of a flat ``path -> entry`` map."""
    below: dict[str, dict[str, Entry]] = {}
    rows: list[tuple[str, bytes]] = []
    for path, entry in files.items():
        head, slash, rest = path.partition("/")
        if slash:
            below.setdefault(head, {})[rest] = entry
        else:
            rows.append((head, f"100644 {head}\0".encode() + bytes.fromhex(entry.oid)))
    for name, inner in below.items():
        rows.append((name + "/", f"40000 {name}\0".encode() + bytes.fromhex(tree_sha(inner))))
    return git_sha("tree", b"".join(row for _, row in sorted(rows)))


def lfs_pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def upload_mode(path: str, sample: bytes, size: int) -> str:
    """``lfs`` or ``regular``, as the server tells the client in the preupload answer."""
    binary = PurePosixPath(path).suffix in LFS_SUFFIXES or b"\0" in sample
    return "lfs" if size and (binary or size > LFS_OVER) else "regular"


def tree_rows(files: dict[str, Entry], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Listing of a folder: its files and folders; with ``recursive`` all below it."""
    prefix = f"{folder}/" if folder else ""
    inside = {path: entry for path, entry in files.items() if path.startswith(prefix)}
    if folder and not inside:
        raise HubError(404, f"{folder} does not exist", "EntryNotFound")
    folders: set[str] = set()
    for path in inside:
        parents = [str(parent) for parent in PurePosixPath(path).parents][:-1]
        folders.update(p for p in parents if p.startswith(prefix) and (recursive or "/" not in p[len(prefix) :]))
    rows = [folder_row(files, name) for name in sorted(folders)]
    rows += [e.listing(p) for p, e in sorted(inside.items()) if recursive or "/" not in p[len(prefix) :]]
    return rows


def folder_row(files: dict[str, Entry], folder: str) -> dict[str, Any]:
    inner = {path[len(folder) + 1 :]: entry for path, entry in files.items() if path.startswith(f"{folder}/")}
    return {"type": "directory", "path": folder, "oid": tree_sha(inner), "size": 0}


class Storage:
    """All repositories, and the bytes of their files under ``folder/<sha256>``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repos: dict[tuple[str, str], Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}

    def create(self, kind: str, name: str, private: bool, sdk: str | None = None) -> Repo:
        """A new repository with the first commit that the Hub makes by itself."""
        if (kind, name) in self.repos:
            raise HubError(409, f"You already created this {kind} repo: {name}")
        repo = self.repos[kind, name] = Repo(kind, name, private, sdk)
        path, content = FIRST_FILE
        first = {path: self.add(content)}
        if kind == "spaces":
            card = {"title": name.split("/")[1], "colorFrom": "red", "colorTo": "pink", "sdk": sdk, "pinned": False}
            first["README.md"] = self.add(f"---\n{yaml.safe_dump(card, sort_keys=False)}---\n".encode())
        repo.add_commit("refs/heads/main", first, "initial commit")
        return repo

    def get(self, kind: str, name: str) -> Repo:
        if (kind, name) not in self.repos:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return self.repos[kind, name]

    def add(self, content: bytes) -> Entry:
        """Keep a regular file's bytes."""
        sha256 = hashlib.sha256(content).hexdigest()
        (self.folder / sha256).write_bytes(content)
        return Entry(git_sha("blob", content), len(content), sha256, lfs=False)

    def lfs_entry(self, sha256: str) -> Entry:
        """The entry of an object that was uploaded before."""
        if not self.has(sha256):
            raise HubError(400, f"LFS pointer pointed to a file that does not exist: {sha256}")
        size = (self.folder / sha256).stat().st_size
        return Entry(git_sha("blob", lfs_pointer(sha256, size)), size, sha256, lfs=True)

    def has(self, sha256: str) -> bool:
        return (self.folder / sha256).is_file()


def change_collections(
    collections: dict[str, dict[str, Any]], method: str, body: dict[str, Any], rest: list[str]
) -> tuple[dict[str, Any], bool]:
    """Make a collection (``rest`` is empty), add an item to it or read it; itself, and whether something is new."""
    if not rest:
        name = re.sub(r"[^a-z0-9]+", "-", body["title"].lower()).strip("-")
        slug = f"{body['namespace']}/{name}-{hashlib.sha256(body['title'].encode()).hexdigest()[:24]}"
        new = slug not in collections
        about = {"title": body["title"], "owner": body["namespace"], "private": bool(body.get("private"))}
        more = {"slug": slug, "items": [], "position": 0, "theme": "green", "upvotes": 0}
        collections.setdefault(slug, {**about, **more, "lastUpdated": "2026-01-02T03:04:05.000Z"})
        return collections[slug], new
    slug = "/".join(rest[:2])
    if slug not in collections:
        raise HubError(404, "Collection not found")
    items = collections[slug]["items"]
    if method == "GET":
        return collections[slug], False
    if any((item["id"], item["type"]) == (body["item"]["id"], body["item"]["type"]) for item in items):
        return collections[slug], False
    items.append({**body["item"], "_id": f"{len(items):024x}", "position": len(items)})
    return collections[slug], True


def change_variables(repo: Repo, method: str, body: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Add, replace or (``DELETE``) remove a Space's variable; all of them, as every one of these calls answers."""
    key = str(body.get("key"))
    if method == "DELETE":
        if repo.variables.pop(key, None) is None:
            raise HubError(404, f"no variable {key}")
    elif method == "POST":
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", key) or not body.get("value"):
            raise HubError(400, f"not a variable: {key}={body.get('value')!r}")
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        about = {"description": str(body["description"])} if body.get("description") else {}
        repo.variables[key] = {"value": str(body["value"]), "updatedAt": date, **about}
    return repo.variables


def space_card_errors(card: dict[str, Any]) -> list[str]:
    """What the Hub refuses in a Space's front matter (huggingface.co/docs/hub/spaces-config-reference)."""
    colors = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
    errors = [
        f'"{key}" must be one of {colors}' for key in ("colorFrom", "colorTo") if card.get(key, "red") not in colors
    ]
    if card.get("sdk", "gradio") not in ("gradio", "streamlit", "docker", "static"):
        errors.append('"sdk" must be one of [gradio, streamlit, docker, static]')
    if len(card.get("short_description", "")) > 60:
        errors.append('"short_description" length must be less than or equal to 60 characters long')
    for key in ("models", "datasets"):
        if not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) for name in card.get(key, [])):
            errors.append(f'"{key}" must be a list of repository ids')
    errors += [
        f'"{key}" must be a string'
        for key in ("sdk_version", "python_version")
        if not isinstance(card.get(key, ""), str)
    ]
    return errors


def preupload(files: dict[str, Entry], requested: list[dict[str, Any]]) -> dict[str, Any]:
    """How each file is to be sent, and the id of the one that already stands under that path."""
    rows = []
    for item in requested:
        mode = upload_mode(item["path"], base64.b64decode(item["sample"]), item["size"])
        row: dict[str, Any] = {"path": item["path"], "uploadMode": mode, "shouldIgnore": False}
        if item["path"] in files:
            known = files[item["path"]]
            row["oid"] = known.sha256 if known.lfs else known.oid
        rows.append(row)
    return {"files": rows}


def paths_info(files: dict[str, Entry], paths: list[str]) -> list[dict[str, Any]]:
    """Rows of those paths that exist, file or folder; the others are left out, as the Hub does."""
    rows = [files[path].listing(path) for path in paths if path in files]
    folders = [path.rstrip("/") for path in paths if any(name.startswith(path.rstrip("/") + "/") for name in files)]
    return rows + [folder_row(files, folder) for folder in folders]


def expanded(commit: Commit, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Listing rows with ``lastCommit``, which here is always the listed commit."""
    last = {"id": commit.sha, "title": commit.title, "date": commit_row(commit)["date"]}
    return [{**row, "lastCommit": last} for row in rows]


def commit_row(commit: Commit) -> dict[str, Any]:
    """A commit as the list of commits shows it."""
    date = datetime.fromtimestamp(commit.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    authors = [{"user": "tester"}]
    return {"id": commit.sha, "title": commit.title, "message": commit.message, "authors": authors, "date": date}


def refs(repo: Repo) -> dict[str, Any]:
    """Branches, tags and pull requests with the commits they point to."""

    def rows(prefix: str) -> list[dict[str, str]]:
        names = sorted(ref for ref in repo.refs if ref.startswith(prefix))
        return [{"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": repo.refs[ref]} for ref in names]

    branches, tags, pulls = rows("refs/heads/"), rows("refs/tags/"), rows("refs/pr/")
    return {"branches": branches, "tags": tags, "converts": [], "pullRequests": pulls}
