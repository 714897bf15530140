"""One commit on the Hub from a folder of known files, read back and compared: for models, datasets and Spaces."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.hf_api import CommitInfo, RepoFile
from huggingface_hub.utils.sha import git_hash

from datasets_scripts.command import UserError
from model_cards.hub import HubProblem, one_sentence
from model_cards.manifest import MANIFEST, file_facts, parse_manifest
from model_cards.patience import again, commit_repeated_if

Facts = dict[str, dict[str, Any]]
# What the Hub itself puts into a new repository.
OF_THE_HUB = {".gitattributes"}
COMMIT = re.compile(r"[0-9a-f]{40}")
# Answers to a commit which say that it was not made. 412, another head, is not one: the client may have asked twice.
REFUSED = (400, 401, 403, 404, 413, 422)


@dataclass(frozen=True)
class Plan:
    """What is to be uploaded: the folder, where to, and the facts of each file (the manifest's own included).

    Attributes:
        description: the commit's message below its title.
        rewritten: path -> content of the files that are uploaded otherwise than they lie in the folder.
    """

    folder: Path
    repo_id: str
    repo_type: str
    files: Facts
    description: str = ""
    rewritten: dict[str, bytes] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """The repository in a sentence: ``model org/name``."""
        return f"{self.repo_type} {self.repo_id}"

    def content(self, path: str) -> bytes:
        """What is uploaded as this file."""
        return self.rewritten[path] if path in self.rewritten else (self.folder / path).read_bytes()

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(facts["size"] for facts in self.files.values())


@dataclass(frozen=True)
class RepoState:
    """A repository before the upload: its head, its files, and those that the commit removes."""

    head: str
    remote: dict[str, RepoFile]
    stale: list[str]


@dataclass(frozen=True)
class Published:
    """What was done: the commit that holds the files, its address, and whether it is a new one."""

    commit: str
    url: str
    new: bool


def publish(work: Plan, api: HfApi, *, private: bool = False, create_pr: bool = False) -> Published:
    """Create the repository where it is missing, upload in exactly one commit, read back and compare.

    A repository that already holds exactly these files gets no second commit. Files of an earlier publication that are
    no longer in the folder are removed by the same commit; files that this suite did not put there stop it.

    Args:
        work: from ``plan``.
        api: the Hub's client, with a token that may write.
        private: a new repository is private; an existing public one is refused.
        create_pr: propose the commit as a pull request instead of putting it on ``main``.

    Raises:
        HubProblem: unreachable, refused, or interrupted; says whether anything was committed.
        UserError: the repository holds files that were not published from here, or is public where a private one was
            requested; or the Hub holds something else than was sent.
    """
    sdk = "gradio" if work.repo_type == "space" else None
    with one_sentence(api, work.about):
        api.whoami()  # a wrong token is distinguished from a missing repository here, before anything is made
        api.create_repo(work.repo_id, repo_type=work.repo_type, private=private or None, exist_ok=True, space_sdk=sdk)
        found = repo_state(api, work, private)
        if not differences(api, work, found.head, found.remote):
            return Published(found.head, commit_url(api, work, found.head), new=False)
    done = commit(api, work, found.head, found.stale, create_pr)
    try:
        with one_sentence(api, work.about):
            revision = done.pr_revision or done.oid
            wrong = differences(api, work, revision, remote_files(api, work, revision))
            if wrong:
                print(f"read back it differs ({'; '.join(wrong[:3])}): reading it once more", file=sys.stderr)
                wrong = differences(api, work, revision, remote_files(api, work, revision))
    except HubProblem as error:
        raise HubProblem(
            f"{error}; the commit {done.oid[:12]} is there, but could not be read back: run the same command again, "
            "which compares and makes no second commit",
            error.status,
        ) from error
    if wrong:
        differing = "; ".join(wrong)
        raise UserError(
            f"{work.about} was committed as {done.oid[:12]}, but read back it differs: {differing}; run the same "
            "command again, which compares, and sends what differs"
        )
    return Published(done.oid, done.pr_url or done.commit_url, new=True)


def repo_state(api: HfApi, work: Plan, private: bool) -> RepoState:
    """Look at the repository, and refuse one that must not be published to.

    Raises:
        UserError: it holds files that were not published from here, or is public where private was requested.
    """
    info = api.repo_info(work.repo_id, repo_type=work.repo_type)
    if private and not info.private:
        raise UserError(f"{work.about} exists and is public, but --private was given: change it on the Hub first")
    head = str(info.sha)
    remote = remote_files(api, work, head)
    return RepoState(head, remote, stale_files(api, work, head, remote))


def commit(api: HfApi, work: Plan, head: str, stale: list[str], create_pr: bool) -> CommitInfo:
    """Upload everything and make one commit on top of ``head``.

    Raises:
        HubProblem: says whether the commit was made. Large files that arrived stay, and are not sent again.
    """
    additions = [
        CommitOperationAdd(path, work.rewritten.get(path) or str(work.folder / path)) for path in sorted(work.files)
    ]
    deletions = [CommitOperationDelete(path, is_folder=False) for path in stale]

    def unchanged() -> bool:
        return not create_pr and api.repo_info(work.repo_id, repo_type=work.repo_type).sha == head

    try:
        with one_sentence(api, work.about), one_commit(), commit_repeated_if(unchanged):
            done = api.create_commit(
                work.repo_id,
                [*additions, *deletions],
                commit_message=f"Publish {work.folder.resolve().name}: {len(work.files)} files",
                commit_description=work.description,
                repo_type=work.repo_type,
                create_pr=create_pr,
                parent_commit=head,
            )
            if not COMMIT.fullmatch(str(done.oid)):
                raise ValueError(f"the commit is called {done.oid!r}")
            return done
    except HubProblem as error:
        refused = error.status in REFUSED
        made = "nothing was committed" if refused else committed_after(api, work, head, create_pr)
        advice = "run the same command again: what has arrived is not sent twice"
        raise HubProblem(f"{error}; {made}; {advice}", error.status) from error


def committed_after(api: HfApi, work: Plan, head: str, create_pr: bool) -> str:
    """After a failed upload: whether this folder was committed all the same, as half a sentence.

    A moved head proves nothing, since somebody else may have moved it: the first commit after ``head`` is compared with
    what was sent.
    """
    if create_pr:
        return "if no pull request is there, nothing was committed"
    try:
        with one_sentence(api, work.repo_id):
            commits = [row.commit_id for row in api.list_repo_commits(work.repo_id, repo_type=work.repo_type)]
            if not commits or commits[0] == head:
                return "nothing was committed"
            # A squashed history no longer holds the head: then its newest commit alone can be compared.
            first = commits[commits.index(head) - 1] if head in commits else commits[0]
            ours = not differences(api, work, first, remote_files(api, work, first))
    except HubProblem:
        return "it is not known whether the commit was made"
    if ours:
        return f"the commit {first[:12]} was made, only its answer was lost"
    return f"nothing of this folder was committed (the commit {first[:12]} there is somebody else's)"


@contextmanager
def one_commit() -> Iterator[None]:
    """Upload by LFS: with Xet on, the client may split an upload into several commits.

    Also silences its advice against Parquet files in model repositories: our predictions are meant to be there.
    """
    before, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
            yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


def remote_files(api: HfApi, work: Plan, revision: str) -> dict[str, RepoFile]:
    """What the repository holds at a revision, without the files that are the Hub's own."""
    tree = api.list_repo_tree(work.repo_id, recursive=True, revision=revision, repo_type=work.repo_type)
    return {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and entry.path not in OF_THE_HUB}


def differences(api: HfApi, work: Plan, revision: str, remote: dict[str, RepoFile]) -> list[str]:
    """How a revision on the Hub differs from the plan, one half-sentence a file; empty when it is the same.

    Of a file kept by LFS the Hub states the sha256. Any other one, always small, is downloaded and hashed, but only
    where its size is right.
    """
    wrong = [f"{path} is there but was not sent" for path in remote if path not in work.files]
    wrong += [f"{path} is missing" for path in work.files if path not in remote]
    for path, facts in work.files.items():
        entry = remote.get(path)
        if entry is None:
            continue
        if entry.size != facts["size"]:
            wrong.append(f"{path} has {entry.size} bytes instead of {facts['size']}")
        elif entry.lfs is not None:
            wrong += [f"{path} has another sha256"] if entry.lfs.sha256 != facts["sha256"] else []
        elif not wrong and fetch(api, work, path, revision)["sha256"] != facts["sha256"]:
            wrong.append(f"{path} has another sha256")
    return wrong


def changes(work: Plan, found: RepoState) -> list[str]:
    """What a commit would do, one mark and path a file: ``+`` new, ``~`` changed, ``-`` removed; nothing is fetched."""
    rows = [(path, "-") for path in found.stale]
    for path, facts in work.files.items():
        entry = found.remote.get(path)
        if entry is None:
            rows.append((path, "+"))
        elif entry.lfs is not None:
            rows += [(path, "~")] if entry.lfs.sha256 != facts["sha256"] else []
        elif entry.blob_id != git_hash(work.content(path)):
            rows.append((path, "~"))
    return [f"{mark} {path}" for path, mark in sorted(rows)]


def fetch(api: HfApi, work: Plan, path: str, revision: str) -> dict[str, Any]:
    """sha256 and size of one file as the Hub sends it."""
    with tempfile.TemporaryDirectory(prefix="read-back-") as folder:
        local = again(
            lambda: api.hf_hub_download(
                work.repo_id, path, repo_type=work.repo_type, revision=revision, local_dir=folder, force_download=True
            )
        )
        return file_facts(Path(local))


def stale_files(api: HfApi, work: Plan, head: str, remote: dict[str, RepoFile]) -> list[str]:
    """Files of an earlier publication that the folder no longer has; the commit removes them.

    Raises:
        UserError: the repository holds files that no manifest of ours lists.
    """
    extra = sorted(set(remote) - set(work.files))
    if not extra:
        return []
    ours: Facts = {}
    if MANIFEST in remote:
        with tempfile.TemporaryDirectory(prefix="read-back-") as folder:
            local = api.hf_hub_download(
                work.repo_id, MANIFEST, repo_type=work.repo_type, revision=head, local_dir=folder
            )
            ours = parse_manifest(json.loads(Path(local).read_text("utf-8")), f"{work.repo_id}/{MANIFEST}")
    unknown = [path for path in extra if path not in ours]
    if unknown:
        raise UserError(
            f"{work.about} holds {len(unknown)} file(s) that were not published from here "
            f"({', '.join(unknown[:3])}): publish to a new name, or delete them on the Hub first"
        )
    return extra


def commit_url(api: HfApi, work: Plan, sha: str) -> str:
    """Where a commit can be looked at."""
    prefix = "" if work.repo_type == "model" else f"{work.repo_type}s/"
    return f"{api.endpoint}/{prefix}{work.repo_id}/commit/{sha}"
