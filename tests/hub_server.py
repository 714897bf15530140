"""A loopback Hub: as much of the Hugging Face Hub's HTTP API as its Python client calls, on 127.0.0.1, for tests.

In a test::

    with LoopbackHub() as hub:                       # or the fixture ``hub``
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        subprocess.run([...], env=hub.client_env(tmp_path))

By hand: ``python tests/hub_server.py --port 8899``, then set the variables it prints.

Models, datasets and spaces; real shas, branches, tags, pull requests; LFS uploads; Range on GET; a token. Not spoken:
Xet, multipart LFS, discussions, gated repositories. All runs in one thread's event loop, so there are no locks.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import uvicorn
import yaml
from hub_storage import (
    Commit,
    Entry,
    HubError,
    Repo,
    Storage,
    change_collections,
    change_variables,
    commit_row,
    expanded,
    paths_info,
    preupload,
    refs,
    space_card_errors,
    tree_rows,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KINDS = ("models", "datasets", "spaces")
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE"]


class LoopbackHub:
    """A Hub in a thread of this process.

    Attributes:
        endpoint: ``http://127.0.0.1:<port>``.
        token: the only token that is accepted.
        namespaces: users and organisations that the token may write to.
        requests: ``"METHOD /path"`` of every request answered so far.
        uploads: sha256 of every LFS object received so far.
        fail_after_uploads: None, or how many more LFS uploads succeed before every further one fails.
        fail_commits: None; ``before`` refuses a commit, ``after`` makes it but loses the answer.
        fail_variables: whether changing a Space's variables fails.
        answers: part of a path -> the text answered there as JSON instead, after the request was carried out.
        failure: how a failure shows: ``500``, ``403``, ``close`` (the connection breaks), ``stall`` (no answer).
    """

    def __init__(self, port: int = 0, namespaces: tuple[str, ...] = ("tester", "org")) -> None:
        self.port = port
        self.token = "hf_loopback_" + "x" * 8
        self.namespaces = namespaces
        self.requests: list[str] = []
        self.uploads: list[str] = []
        self.fail_after_uploads: int | None = None
        self.fail_commits: str | None = None
        self.fail_variables = False
        self.answers: dict[str, bytes] = {}
        self.failure = "500"
        self._folder = tempfile.TemporaryDirectory(prefix="loopback-hub-")
        self.storage = Storage(Path(self._folder.name))
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=METHODS)])
        config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client_env(self, home: Path, **extra: str) -> dict[str, str]:
        """Environment for a client in its own process: this Hub, this token, caches under ``home``."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))}
        own = {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": self.token, "HF_HOME": str(home / "hf")}
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {**inherited, **own, **quiet, **extra}

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError(f"the loopback Hub did not start on port {self.port}: is the port taken?")
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(timeout=10)
        self._folder.cleanup()

    def repo(self, name: str, kind: str = "models") -> Repo:
        """The stored repository, for a test to look into."""
        return self.storage.get(kind, name)

    def content(self, name: str, path: str, kind: str = "models", revision: str = "main") -> bytes:
        """The bytes of one stored file."""
        return (self.storage.folder / self.repo(name, kind).commit(revision).files[path].sha256).read_bytes()

    async def _answer(self, request: Request) -> Response:
        raw = request.scope["raw_path"].decode().split("?")[0]
        self.requests.append(f"{request.method} {raw}")
        parts = [unquote(part) for part in raw.split("/") if part]
        try:
            answer = await self._dispatch(request, parts)
            texts = [text for part, text in self.answers.items() if part in f"{request.method} {raw}"]
            return Response(texts[0], media_type="application/json") if texts else answer
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            return JSONResponse({"error": error.message}, error.status, headers)

    async def _dispatch(self, request: Request, parts: list[str]) -> Response:
        if parts[:1] == ["_lfs"]:
            return await self._receive_lfs(request, parts[1])  # carries no token, as on the Hub: the address is secret
        user = self._user(request)
        if parts[:1] != ["api"]:
            return await self._dispatch_files(request, parts, user)
        route, rest = parts[1], parts[2:]
        if route == "whoami-v2":
            if not user:
                raise HubError(401, "Invalid username or password.")
            orgs = [{"name": name, "roleInOrg": "admin"} for name in self.namespaces[1:]]
            return JSONResponse({"type": "user", "name": user, "orgs": orgs, "auth": {"type": "access_token"}})
        if route == "validate-yaml":
            return validate_yaml(await request.json())
        if route == "collections":
            body = await request.json() if await request.body() else {}
            return self._collections(request.method, body, rest, user)
        if route == "repos":
            return self._create_or_delete(await request.json(), rest[0], user)
        if route in KINDS and len(rest) >= 2:
            repo = self._open(route, f"{rest[0]}/{rest[1]}", user, write=request.method == "DELETE")
            return await self._dispatch_repo(request, repo, rest[2:], user)
        raise HubError(404, f"the loopback Hub has no {request.url.path}")

    async def _dispatch_repo(self, request: Request, repo: Repo, rest: list[str], user: str | None) -> Response:
        action = rest[0] if rest else "revision"
        revision, path = rest[1] if len(rest) > 1 else "main", "/".join(rest[2:])
        if action in ("preupload", "commit", "branch", "tag", "variables"):
            self._open(repo.kind, repo.name, user, write=True)
        if action == "revision":
            return JSONResponse(self._info(repo, repo.commit(revision)))
        if action == "tree":
            commit = repo.commit(revision)
            recursive, expand = (request.query_params.get(key, "").lower() == "true" for key in ("recursive", "expand"))
            rows = tree_rows(commit.files, path, recursive)
            return JSONResponse(expanded(commit, rows) if expand else rows)
        if action == "paths-info":
            form = parse_qs((await request.body()).decode())
            return JSONResponse(paths_info(repo.commit(revision).files, form.get("paths", [])))
        if action == "preupload":
            return JSONResponse(preupload(repo.commit(revision).files, (await request.json())["files"]))
        if action == "commit":
            return await self._commit(request, repo, revision)
        if action == "commits":
            return JSONResponse([commit_row(commit) for commit in repo.history(revision)])
        if action == "refs":
            return JSONResponse(refs(repo))
        if action in ("branch", "tag"):
            body = await request.json() if await request.body() else {}
            return change_ref(repo, action, revision, request.method, body)
        if action == "variables" and repo.kind == "spaces":
            if self.fail_variables and request.method != "GET":
                return await self._fail()
            body = await request.json() if await request.body() else {}
            return JSONResponse(change_variables(repo, request.method, body))
        raise HubError(404, f"the loopback Hub has no {request.url.path}")

    async def _dispatch_files(self, request: Request, parts: list[str], user: str | None) -> Response:
        kind = parts.pop(0) if parts and parts[0] in ("datasets", "spaces") else "models"
        if parts[2:] == ["info", "lfs", "objects", "batch"]:
            self._open(kind, f"{parts[0]}/{parts[1].removesuffix('.git')}", user, write=True)
            return JSONResponse(self._lfs_batch((await request.json())["objects"]))
        if len(parts) >= 5 and parts[2] in ("resolve", "raw"):
            repo = self._open(kind, f"{parts[0]}/{parts[1]}", user)
            return self._file(repo.commit(parts[3]), "/".join(parts[4:]))
        raise HubError(404, f"the loopback Hub has no {request.url.path}", "RepoNotFound")

    def _user(self, request: Request) -> str | None:
        header = request.headers.get("authorization")
        if header is None:
            return None
        if header != f"Bearer {self.token}":
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.namespaces[0]

    def _open(self, kind: str, name: str, user: str | None, write: bool = False) -> Repo:
        repo = self.storage.repos.get((kind, name))
        if user is None and (repo is None or repo.private):
            # The Hub does not say whether it exists, and sends no code; over https the client adds this one itself.
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if repo is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write:
            self._may_write(name, user)
        return repo

    def _may_write(self, name: str, user: str | None) -> None:
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if name.split("/")[0] not in self.namespaces:
            raise HubError(403, f"You don't have the rights to write to {name}")

    def _collections(self, method: str, body: dict[str, Any], rest: list[str], user: str | None) -> Response:
        if method != "GET":
            self._may_write(body.get("namespace") or rest[0], user)
        found, new = change_collections(self.storage.collections, method, body, rest)
        return JSONResponse(found, 200 if new or method == "GET" else 409)

    def _create_or_delete(self, body: dict[str, Any], action: str, user: str | None) -> Response:
        kind = f"{body.get('type') or 'model'}s"
        name = f"{body.get('organization') or self.namespaces[0]}/{body['name']}"
        self._may_write(name, user)
        if action == "delete":
            self.storage.get(kind, name)
            del self.storage.repos[kind, name]
            return JSONResponse({})
        url = f"{self.endpoint}/{'' if kind == 'models' else kind + '/'}{name}"
        try:
            self.storage.create(kind, name, body.get("visibility") == "private", body.get("sdk"))
        except HubError as error:
            return JSONResponse({"error": error.message, "url": url}, error.status)
        return JSONResponse({"url": url, "name": name, "id": name})

    def _info(self, repo: Repo, commit: Commit) -> dict[str, Any]:
        card = commit.files.get("README.md")
        data = front_matter((self.storage.folder / card.sha256).read_text("utf-8")) if card else {}
        date = commit_row(commit)["date"]
        about = {"_id": repo.name, "id": repo.name, "author": repo.name.split("/")[0], "sha": commit.sha}
        flags = {"private": repo.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        dates = {"lastModified": date, "createdAt": date}
        files = [{"rfilename": path} for path in sorted(commit.files)]
        tags = data.get("tags", []) if isinstance(data, dict) else []
        more = {"sdk": repo.sdk} if repo.kind == "spaces" else {"pipeline_tag": (data or {}).get("pipeline_tag")}
        return {**about, **flags, **dates, **more, "tags": tags, "cardData": data, "siblings": files}

    def _lfs_batch(self, objects: list[dict[str, Any]]) -> dict[str, Any]:
        rows = []
        for item in objects:
            row: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if not self.storage.has(item["oid"]):
                row["actions"] = {"upload": {"href": f"{self.endpoint}/_lfs/{item['oid']}", "header": {}}}
            rows.append(row)
        return {"transfer": "basic", "objects": rows}

    async def _receive_lfs(self, request: Request, sha256: str) -> Response:
        if self.fail_after_uploads is not None:
            self.fail_after_uploads -= 1  # before any await: uploads arrive several at a time
            if self.fail_after_uploads < 0:
                return await self._fail()
        partial, digest = self.storage.folder / f"{sha256}.partial", hashlib.sha256()
        with partial.open("wb") as file:
            async for chunk in request.stream():
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != sha256:
            raise HubError(400, f"the uploaded bytes have sha256 {digest.hexdigest()}, not {sha256}")
        partial.replace(self.storage.folder / sha256)
        self.uploads.append(sha256)
        return Response()

    async def _commit(self, request: Request, repo: Repo, revision: str) -> Response:
        if self.fail_commits == "before":
            return await self._fail()
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line]
        header = lines[0]["value"]
        parent = repo.commit(revision)
        if header.get("parentCommit") and not parent.sha.startswith(header["parentCommit"]):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for line in lines[1:]:
            self._apply(files, line["key"], line["value"])
        number, ref = None, f"refs/heads/{revision}" if f"refs/heads/{revision}" in repo.refs else revision
        if request.query_params.get("create_pr"):
            number, ref = repo.open_pull_request(parent)
        if ref not in repo.refs or ref.startswith("refs/tags/"):
            raise HubError(400, f"{revision} is not a branch: a commit needs one to sit on")
        commit = repo.add_commit(ref, files, header["summary"], header.get("description", ""))
        if self.fail_commits == "after":
            return await self._fail()
        url = f"{self.endpoint}/{'' if repo.kind == 'models' else repo.kind + '/'}{repo.name}"
        answer = {"success": True, "commitOid": commit.sha, "commitUrl": f"{url}/commit/{commit.sha}"}
        return JSONResponse(answer | {"pullRequestUrl": f"{url}/discussions/{number}" if number else None})

    def _apply(self, files: dict[str, Entry], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = self.storage.add(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            files[path] = self.storage.lfs_entry(value["oid"])
        elif key in ("deletedFile", "deletedFolder"):
            gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"unknown operation {key}")

    def _file(self, commit: Commit, path: str) -> Response:
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit.files:
            code = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return Response("Entry not found", 404, {**headers, **code})
        entry = commit.files[path]
        etag = entry.sha256 if entry.lfs else entry.oid
        headers |= {"ETag": f'"{etag}"'}
        if entry.lfs:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(entry.size)}
        return FileResponse(self.storage.folder / entry.sha256, headers=headers, media_type="application/octet-stream")

    async def _fail(self) -> Response:
        if self.failure == "stall":
            await asyncio.sleep(600)
        if self.failure == "close":
            return StreamingResponse(broken(), headers={"Content-Length": "1000"})
        raise HubError(int(self.failure), "the loopback Hub is set to fail here")


async def broken() -> AsyncIterator[bytes]:
    """A body that ends before its announced length: the server then drops the connection."""
    yield b"half"


def validate_yaml(body: dict[str, Any]) -> Response:
    """The Hub's check of a card's front matter, reduced to: it is YAML and a mapping; of a Space, a little more."""
    try:
        data = front_matter(body["content"])
    except yaml.YAMLError as error:
        return JSONResponse({"errors": [{"message": str(error)}], "warnings": []}, 400)
    if not isinstance(data, dict):
        return JSONResponse({"errors": [{"message": "the metadata is not a mapping"}], "warnings": []}, 400)
    wrong = space_card_errors(data) if body.get("repoType") == "space" else []
    if wrong:
        return JSONResponse({"errors": [{"message": message} for message in wrong], "warnings": []}, 400)
    warnings = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
    return JSONResponse({"errors": [], "warnings": warnings})


def front_matter(content: str) -> Any:
    parts = content.split("---\n", 2)
    return (yaml.safe_load(parts[1]) or {}) if content.startswith("---\n") and len(parts) == 3 else {}


def change_ref(repo: Repo, action: str, name: str, method: str, body: dict[str, Any]) -> Response:
    """Make or remove a branch (``name`` is the branch) or a tag (on POST, ``name`` is the revision to tag)."""
    prefix = "refs/heads/" if action == "branch" else "refs/tags/"
    ref = prefix + (body["tag"] if action == "tag" and method == "POST" else name)
    if method == "DELETE":
        if repo.refs.pop(ref, None) is None:
            raise HubError(404, f"{ref} does not exist", "RevisionNotFound")
        return JSONResponse({})
    if ref in repo.refs:
        raise HubError(409, f"Reference already exists: {ref}")
    repo.refs[ref] = repo.commit(name if action == "tag" else body.get("startingPoint", "main")).sha
    return JSONResponse({})


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve an empty loopback Hub until interrupted.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: 0, any free one)")
    with LoopbackHub(parser.parse_args().port) as hub:
        print(f"export HF_ENDPOINT={hub.endpoint} HF_TOKEN={hub.token} HF_HUB_DISABLE_XET=1", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
