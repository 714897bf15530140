"""The loopback Hub answers as the real one does, where our code and the client library look."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from hub_fixture import hub  # noqa: F401
from hub_server import LoopbackHub
from hub_storage import Entry, git_sha, lfs_pointer, tree_sha
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem
from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError
from huggingface_hub.utils import RepositoryNotFoundError, RevisionNotFoundError, get_session


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:  # noqa: F811
    return HfApi(endpoint=hub.endpoint, token=hub.token)


def add(api: HfApi, name: str, files: dict[str, bytes], **how: str) -> str:
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(name, operations, commit_message="add", **how).oid


def test_shas_are_those_of_git(tmp_path: Path) -> None:
    files = {"b.txt": b"hello\n", "a/c/d.bin": b"\0\1", "a.txt": b"", "a/z": b"zz"}
    entries = {}
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
        entries[path] = Entry(git_sha("blob", content), len(content), "", lfs=False)
    env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=tmp_path, env=env, check=True)
    written = subprocess.run(["git", "write-tree"], cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    assert tree_sha(entries) == written.stdout.strip()


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_every_kind_of_repository_is_made_filled_listed_and_deleted(
    hub: LoopbackHub,  # noqa: F811
    api: HfApi,
    kind: str,
    tmp_path: Path,
) -> None:
    sdk = "gradio" if kind == "space" else None
    url = api.create_repo("org/thing", repo_type=kind, space_sdk=sdk, private=True)
    assert url.repo_id == "org/thing"
    assert api.create_repo("org/thing", repo_type=kind, space_sdk=sdk, exist_ok=True).repo_id == "org/thing"
    add(api, "org/thing", {"README.md": b"---\ntags: [x]\n---\n", "w.bin": b"\0" * 99}, repo_type=kind)
    info = api.repo_info("org/thing", repo_type=kind)
    assert info.private
    assert info.tags == ["x"]
    assert {row.rfilename for row in info.siblings} == {".gitattributes", "README.md", "w.bin"}
    path = api.hf_hub_download("org/thing", "w.bin", repo_type=kind, cache_dir=tmp_path)
    assert Path(path).read_bytes() == b"\0" * 99
    api.delete_repo("org/thing", repo_type=kind)
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("org/thing", repo_type=kind)


def test_history_branches_tags_and_pinned_revisions(api: HfApi, tmp_path: Path) -> None:
    api.create_repo("org/m")
    first = add(api, "org/m", {"x.txt": b"one"})
    api.create_tag("org/m", tag="v1")
    api.create_branch("org/m", branch="dev", revision=first)
    second = add(api, "org/m", {"x.txt": b"two"})
    api.create_commit("org/m", [CommitOperationDelete("x.txt")], commit_message="gone", revision="dev")
    assert [row.commit_id for row in api.list_repo_commits("org/m")][:2] == [second, first]

    def read(revision: str) -> bytes:
        return Path(api.hf_hub_download("org/m", "x.txt", revision=revision, cache_dir=tmp_path)).read_bytes()

    assert [read(revision) for revision in ("main", first, "v1", first[:9])] == [b"two", b"one", b"one", b"one"]
    with pytest.raises(RemoteEntryNotFoundError):
        read("dev")
    refs = api.list_repo_refs("org/m")
    assert {branch.name for branch in refs.branches} == {"main", "dev"}
    assert [(tag.name, tag.target_commit) for tag in refs.tags] == [("v1", first)]
    api.delete_tag("org/m", tag="v1")
    with pytest.raises(RevisionNotFoundError):
        read("v1")


def test_hashes_folders_and_ranges(hub: LoopbackHub, api: HfApi) -> None:  # noqa: F811
    api.create_repo("org/m")
    content = bytes(range(256)) * 8
    add(api, "org/m", {"deep/w.safetensors": content, "deep/er/y.txt": b"y", "x.txt": b"x"})
    files = {entry.path: entry for entry in api.list_repo_tree("org/m", recursive=True, expand=True)}
    weights = files["deep/w.safetensors"]
    assert weights.lfs.size == 2048
    assert weights.blob_id == git_sha("blob", lfs_pointer(weights.lfs.sha256, 2048))
    assert files["x.txt"].blob_id == git_sha("blob", b"x")
    assert {entry.path for entry in api.list_repo_tree("org/m", "deep")} == {"deep/er", "deep/w.safetensors"}
    assert [entry.path for entry in api.get_paths_info("org/m", ["deep", "nope", "x.txt"])] == ["x.txt", "deep"]
    system = HfFileSystem(endpoint=hub.endpoint, token=hub.token, skip_instance_cache=True)
    assert system.glob("org/m/**/*.txt") == ["org/m/deep/er/y.txt", "org/m/x.txt"]
    with system.open("org/m/deep/w.safetensors") as file:
        file.seek(300)
        assert file.read(4) == bytes([44, 45, 46, 47])
    url, headers = f"{hub.endpoint}/org/m/resolve/main/deep/w.safetensors", {"Authorization": f"Bearer {hub.token}"}
    head = get_session().head(url, headers=headers)
    assert head.headers["ETag"] == f'"{weights.lfs.sha256}"'
    assert head.headers["X-Repo-Commit"] == api.repo_info("org/m").sha
    assert get_session().get(url, headers={**headers, "Range": "bytes=4-6"}).content == bytes([4, 5, 6])


def test_refusals_carry_the_codes_that_the_client_turns_into_exceptions(hub: LoopbackHub, api: HfApi) -> None:  # noqa: F811
    api.create_repo("org/secret", private=True)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("org/absent")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("org/secret", revision="nowhere")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download("org/secret", "absent.txt")
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(endpoint=hub.endpoint, token="hf_wrong").model_info("org/secret")
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi(endpoint=hub.endpoint, token=False).model_info("org/secret")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("others/m")
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        add(api, "org/secret", {"README.md": b"---\n: [\n---\n"})
    assert len(api.list_repo_commits("org/secret")) == 1


def test_it_also_runs_as_a_process() -> None:
    line = [sys.executable, str(Path(__file__).with_name("hub_server.py"))]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        try:
            words = process.stdout.readline().split()
            env = dict(word.split("=", 1) for word in words[1:])
            headers = {"Authorization": f"Bearer {env['HF_TOKEN']}"}
            with urlopen(Request(f"{env['HF_ENDPOINT']}/api/whoami-v2", headers=headers), timeout=10) as answer:
                assert json.load(answer)["name"] == "tester"
        finally:
            process.kill()
